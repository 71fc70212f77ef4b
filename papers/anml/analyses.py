"""Measures of a representation: its sparsity, its dead units, and what nearest neighbours tell (section 4.2)."""

import numpy as np
from jaxtyping import Float, Int

__all__ = ["active_fraction", "dead_fraction", "knn_accuracy", "principal_components", "relative_drop"]

ACTIVE = 0.01
"""Activation above which a unit counts as active (section 4.2)."""


def active_fraction(h: Float[np.ndarray, "N d"]) -> float:
    """Mean share of units that are active on an image."""
    return float((h > ACTIVE).mean())


def dead_fraction(h: Float[np.ndarray, "N d"]) -> float:
    """Share of units that are active on no image."""
    return float((~(h > ACTIVE).any(0)).mean())


def knn_accuracy(
    known: Float[np.ndarray, "N d"],
    labels: Int[np.ndarray, " N"],
    queries: Float[np.ndarray, "M d"],
    truth: Int[np.ndarray, " M"],
    k: int,
) -> float:
    """Share of queries whose class is that of most of their k nearest known points (Euclidean distance).

    A tie between classes goes to the class whose nearest point is nearest.
    """
    squares = (known**2).sum(1)
    correct = 0
    for part in range(0, len(queries), 512):
        distances = squares - 2 * queries[part : part + 512] @ known.T
        nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(distances, nearest, 1).argsort(1, kind="stable")
        votes = labels[np.take_along_axis(nearest, order, 1)]
        counts = (votes[:, :, None] == votes[:, None]).sum(2)
        predicted = np.take_along_axis(votes, counts.argmax(1)[:, None], 1)[:, 0]
        correct += int((predicted == truth[part : part + 512]).sum())
    return correct / len(queries)


def principal_components(h: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N 2"]:
    """Coordinates on the two directions of largest variance, each signed so that its extreme value is positive."""
    centred = h - h.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = left[:, :2] * sizes[:2]
    return points * np.where(np.abs(points.max(0)) >= np.abs(points.min(0)), 1, -1)


def relative_drop(oracle: Float[np.ndarray, "..."], sequential: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """(oracle - sequential) / oracle: the share of the accuracy of shuffled learning that sequential learning loses."""
    return (oracle - sequential) / np.maximum(oracle, 1e-9)
