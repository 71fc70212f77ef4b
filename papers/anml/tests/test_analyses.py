"""Measures of representations against their definitions."""

import numpy as np
import pytest

from papers.anml.analyses import (
    ACTIVE,
    active_fraction,
    dead_fraction,
    knn_accuracy,
    principal_components,
    relative_drop,
)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def test_active_and_dead_units():
    h = np.array([[0.0, 0.5, 0.01, -3.0], [0.0, 0.02, 0.01, 0.011]])
    assert ACTIVE == 0.01
    assert active_fraction(h) == 3 / 8  # at the threshold is not active
    assert dead_fraction(h) == 2 / 4
    assert active_fraction(np.ones((3, 2))) == 1
    assert dead_fraction(np.ones((3, 2))) == 0
    assert (active_fraction(np.zeros((3, 2))), dead_fraction(np.zeros((3, 2)))) == (0, 1)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_neighbours_by_brute_force(k):
    rng = np.random.default_rng(k)
    labels, truth = rng.integers(0, 6, 90), rng.integers(0, 6, 600)  # more queries than are done at once
    centres = 1.5 * rng.standard_normal((6, 4))
    known, queries = (centres[its] + rng.standard_normal((len(its), 4)) for its in (labels, truth))
    right = 0
    for query, label in zip(queries, truth, strict=True):
        nearest = labels[np.argsort(((known - query) ** 2).sum(1))[:k]].tolist()
        right += max(nearest, key=lambda one: (nearest.count(one), -nearest.index(one))) == label
    assert knn_accuracy(known, labels, queries, truth, k) == right / 600


def test_a_tie_of_votes_goes_to_the_nearest():
    known, labels = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([7, 8, 8, 7])
    assert knn_accuracy(known, labels, np.array([[0.1]]), np.array([7]), 2) == 1
    assert knn_accuracy(known, labels, np.array([[0.9]]), np.array([8]), 2) == 1
    assert knn_accuracy(known, labels, np.array([[0.4]]), np.array([8]), 3) == 1
    assert knn_accuracy(known, labels, np.array([[3.9]]), np.array([7]), 4) == 1


def test_neighbours_of_points_far_from_zero():
    """Representations are single precision, and the squares of their lengths are large."""
    known = (50 + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).astype(np.float32)
    queries = known + np.float32(0.1)
    assert knn_accuracy(known, np.arange(3), queries, np.arange(3), 1) == 1


def test_principal_components():
    h = normal(40, 6) * np.array([1, 5, 0.1, 2, 0.3, 0.2]) + 10
    points = principal_components(h)
    assert points.shape == (40, 2)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-10)
    values, vectors = np.linalg.eigh(np.cov(h.T, bias=True))
    np.testing.assert_allclose(np.cov(points.T, bias=True), np.diag(values[::-1][:2]), atol=1e-10)
    expected = (h - h.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-10)
    assert (points.max(0) >= -points.min(0)).all()
    np.testing.assert_allclose(principal_components(-h), -points * np.sign(-points.max(0) - points.min(0)), atol=1e-9)


def test_relative_drop():
    assert relative_drop(np.float64(0.71), np.float64(0.639)) == pytest.approx(0.1)
    np.testing.assert_allclose(relative_drop(np.array([0.5, 0.5, 0.4]), np.array([0.5, 0.0, 0.5])), [0, 1, -0.25])
    assert np.isfinite(relative_drop(np.float64(0), np.float64(0)))
