"""How few rules do: synapses of an evolved quadruped share rules, without further evolution (beyond the paper).

A rule is the four products eta A, eta B, eta C and eta D, on which alone it depends: they are averaged and merged.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.cluster.vq import kmeans2

from common.errors import RefigureError
from common.room.config import build
from common.train.loop import parts
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from papers.hebbian_abcd.body import BODIES
from papers.hebbian_abcd.config import Share, Walk
from papers.hebbian_abcd.evolution import products
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
    sizes, genome = sizes_of(evolved), products(evolved.rule, parent.parameters["plastic"])
    evolved = replace(evolved, rule="ABCD")
    if max(config.rules) > genome.shape[1]:
        raise RefigureError(f"rules: there are {genome.shape[1]} synapses, so not {max(config.rules)} rules")
    shared = {"synapse": lambda: genome, "neuron": lambda: per_neuron(genome, sizes)}
    shared |= {"layer": lambda: per_layer(genome, sizes)}
    shared |= {f"{rules}": lambda rules=rules: merged(genome, rules, seed) for rules in config.rules}

    def walk(name: str) -> dict[str, np.ndarray]:
        rules, steps = shared[name](), config.steps or evolved.steps
        members = np.broadcast_to(rules, (config.lifetimes, *rules.shape))
        distances = {
            body: lives_of(evolved, members, body, steps, (seed, "test", body)).progress.sum(0) for body in BODIES
        }
        return distances | {"rules": np.array(len(np.unique(rules, axis=1).T))}

    results = parts({name: lambda name=name: walk(name) for name in shared}, run)
    metrics = {f"{body}_{name}": float(part[body].mean()) for name, part in results.items() for body in BODIES}
    metrics |= {f"kept_{name}": metrics[f"standard_{name}"] / metrics["standard_synapse"] for name in results}
    metrics |= {f"rules_{name}": float(part["rules"]) for name, part in results.items()}
    return Outcome(metrics={name: [value] for name, value in metrics.items()})


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
