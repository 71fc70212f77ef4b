"""Measure lifetimes under a protocol that was meta-trained here or released by the authors."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
from jaxtyping import Array

from common.errors import RefigureError
from common.room.config import build
from common.train.recorder import Outcome, Recorder
from common.train.trees import unflatten_jax
from papers.mplp.config import Evaluate, MetaTrain, check_sizes
from papers.mplp.lifetime import live
from papers.mplp.measurement import Learner, Setting, measure_lifetimes, measurement
from papers.mplp.meta_train import Learned, spec_of, untrained
from papers.mplp.network import Layer, init_network

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["deepen", "measure", "train"]


def train(config: Evaluate, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Test the protocols of a meta-training run."""
    trained: MetaTrain = build(MetaTrain, dict(parent.identity.config), "the meta-training run")
    all_learned = unflatten_jax(untrained(trained, seeds), parent.parameters)
    learned = [jax.tree.map(lambda array, index=index: array[index], all_learned) for index in range(len(seeds))]
    return measure(config, trained, learned, seeds, run)


def measure(
    config: Evaluate, trained: MetaTrain, learned: Sequence[Learned], seeds: Sequence[int], run: Recorder
) -> Outcome:
    """Test protocols, one for each seed.

    Raises:
        RefigureError: The protocol cannot teach the requested networks or task.
    """
    spec = spec_of(trained)
    task = config.task or trained.task
    spec = dataclasses.replace(spec, sizes=config.sizes or spec.sizes, activation=config.activation or spec.activation)
    if (task == "sinusoid") != (trained.task == "sinusoid"):
        raise RefigureError(f"meta-trained on {trained.task}, its agents hear another loss than that of {task}")
    if config.random_start and trained.pool:
        raise RefigureError("random_start: networks are random already, no initial one was meta-learned")
    try:
        check_sizes(task, spec.sizes)
    except ValueError as error:
        raise RefigureError(f"meta-trained on {trained.task}, to be tested on {task}: {error}") from None
    depth = len(trained.sizes) - 1
    if spec.depth < depth or (spec.depth > depth and depth < 2):
        raise RefigureError(
            f"meta-trained with {depth} layers: sizes {spec.sizes} have {spec.depth}; "
            "give as many, or more if it had a hidden one"
        )
    learned = [deepen(member, spec.depth) for member in learned]
    setting = Setting(task, spec, config.steps or trained.steps, trained.examples, config.lifetimes, config.tested)
    fixed = not config.random_start and not trained.pool
    if fixed and tuple(spec.sizes) != tuple(trained.sizes):
        raise RefigureError(f"the initial network was meta-learned with sizes {trained.sizes}: set random_start")

    def start(learned: Learned, key: Array) -> tuple[Layer, ...]:
        return learned.start if fixed else init_network(key, spec)

    def learn(learned: Learned, layers: tuple[Layer, ...], x: Array, y: Array) -> tuple[Layer, ...]:
        return live(learned.protocol, learned.statistics, spec, layers, x, y)

    return measure_lifetimes(measurement(setting, Learner(start, learn)), learned, seeds, run)


def deepen(learned: Learned, depth: int) -> Learned:
    """A protocol for deeper networks: each added layer has the agents, factors and statistics of the last hidden one.

    Arguments:
        depth: Number of dense layers, at least as many as the protocol has.
    """

    def deepened(layers: tuple) -> tuple:
        return (*layers[:-1], *layers[-2:-1] * (depth - len(layers)), layers[-1])

    protocol, statistics = learned.protocol, learned.statistics
    return learned._replace(
        protocol=protocol._replace(layers=deepened(protocol.layers)),
        statistics=statistics._replace(layers=deepened(statistics.layers)),
    )
