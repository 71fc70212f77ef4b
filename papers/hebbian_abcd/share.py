"""How few rules do: synapses of an evolved quadruped share rules, without further evolution (beyond the paper)."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.cluster.vq import kmeans2

from common.room.config import build
from common.train.loop import parts
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from papers.hebbian_abcd.config import BODIES, Share, Walk
from papers.hebbian_abcd.walk import lives_of, sizes_of

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["merged", "per_layer", "per_neuron", "train"]

ROUNDS = 20
"""Iterations of k-means."""


def train(config: Share, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Test the centre of an evolution with ever fewer rules."""
    (seed,) = seeds
    evolved: Walk = build(Walk, dict(parent.identity.config), "the evolution")
    plastic, sizes = parent.parameters["plastic"], sizes_of(evolved)
    shared = {"synapse": lambda: plastic, "neuron": lambda: per_neuron(plastic, sizes)}
    shared |= {"layer": lambda: per_layer(plastic, sizes)}
    shared |= {f"{rules}": lambda rules=rules: merged(plastic, rules, seed) for rules in config.rules}

    def walk(name: str) -> dict[str, np.ndarray]:
        genome, steps = shared[name](), config.steps or evolved.steps
        members = np.broadcast_to(genome, (config.lifetimes, *genome.shape))
        return {
            body: lives_of(evolved, members, body, steps, numpy_rng(seed, "test", body)).progress.sum(0)
            for body in BODIES
        }

    results = parts({name: lambda name=name: walk(name) for name in shared}, run)
    distances = {name: {body: float(part[body].mean()) for body in BODIES} for name, part in results.items()}
    metrics = {f"{body}_{name}": [part[body]] for name, part in distances.items() for body in BODIES}
    full = distances["synapse"]["standard"]
    return Outcome(metrics=metrics | {f"kept_{name}": [part["standard"] / full] for name, part in distances.items()})


def per_neuron(plastic: Float[np.ndarray, "K S"], sizes: Sequence[int]) -> Float[np.ndarray, "K S"]:
    """Synapses to the same neuron share the mean of their rules."""
    return _averaged(plastic, sizes, 1)


def per_layer(plastic: Float[np.ndarray, "K S"], sizes: Sequence[int]) -> Float[np.ndarray, "K S"]:
    """Synapses of the same layer share the mean of their rules."""
    return _averaged(plastic, sizes, (1, 2))


def _averaged(plastic: Float[np.ndarray, "K S"], sizes: Sequence[int], axes: int | tuple[int, int]) -> np.ndarray:
    layers, start = [], 0
    for n, m in itertools.pairwise(sizes):
        layer = plastic[:, start : start + n * m].reshape(-1, n, m)
        layers.append(np.broadcast_to(layer.mean(axes, keepdims=True), layer.shape).reshape(len(plastic), -1))
        start += n * m
    return np.concatenate(layers, 1)


def merged(plastic: Float[np.ndarray, "K S"], rules: int, seed: int) -> Float[np.ndarray, "K S"]:
    """Every synapse takes the nearest of R rules, which k-means finds among those of all synapses."""
    points = plastic.T.astype(np.float64)
    first = points[numpy_rng(seed, "merge", rules).choice(len(points), rules, replace=False)]
    centres, nearest = kmeans2(points, first, ROUNDS, minit="matrix", missing="warn")
    return centres[nearest].T.astype(np.float32)
