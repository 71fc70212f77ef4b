"""Online learning from scratch by meta-trained learners: on their own, on other, and on transformed data sets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import RefigureError
from common.room.config import build
from common.train.recorder import Outcome, Recorder
from common.train.trees import unflatten_jax
from papers.vsml import tasks
from papers.vsml.config import LEARNERS, VSML, MetaTest, MetaTrain, TaskName
from papers.vsml.learners import OUTPUTS, Learn, make_learner
from papers.vsml.meta_train import untrained
from papers.vsml.streams import Stream, condition, correct_predictions, cumulative, seen_again, summarise

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["measure_streams", "train"]

BATCH_SIZE = 2
"""Runs of VSML that are computed at once: few enough for a CPU's cache."""


def train(config: MetaTest, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Test the learners of a meta-training run.

    Raises:
        RefigureError: The learner cannot be tested as asked.
    """
    settings = dict(parent.identity.config)
    trained: MetaTrain = build(LEARNERS[settings["learner"]], settings, "the meta-training run")
    side = trained.sides[-1]
    if trained.learner != "vsml" and (side != config.side or config.conditions or config.hidden):
        raise RefigureError(
            f"{trained.learner} was meta-trained for {side} x {side} pixels and ten classes: test it with side={side}, "
            "no conditions and hidden=0"
        )
    params = unflatten_jax(untrained(trained, seeds), parent.parameters)
    if isinstance(trained, VSML):
        learner = partial(_learn, replace(trained, hidden=config.hidden or trained.hidden))
        outcome = measure_streams(config, learner, params, seeds, run, math.gcd(config.runs, BATCH_SIZE))
    else:
        outcome = measure_streams(config, partial(_learn, trained), params, seeds, run, outputs=OUTPUTS)
    # Sum Sign is left out: it has two classes, as VSML can tell from its outputs and learners of fixed size cannot
    unseen_tasks = [name for name in config.tasks if name not in (*trained.tasks, "sum-sign")]
    accuracies = [outcome.metrics[f"{name}_end"] for name in unseen_tasks]
    return (
        replace(outcome, metrics={**outcome.metrics, "unseen": np.mean(accuracies, 0).tolist()})
        if accuracies
        else outcome
    )


def measure_streams(
    config: MetaTest,
    learner: Callable[[Stream], Learn],
    params: Any,
    seeds: Sequence[int],
    run: Recorder,
    batch_size: int = 0,
    outputs: int = 0,
) -> Outcome:
    """All measurements of learners; `learner(stream)` gives the function that learns a stream.

    Arguments:
        params: Parameters with a leading axis of seeds; or a function from a stream to such parameters.
        batch_size: Runs that are computed at once; 0 for all.
        outputs: Number of outputs for all streams; 0 for as many as a data set has classes.
    """
    metrics: dict[str, list[float]] = {}
    arrays: dict[str, np.ndarray] = {}
    total = len(config.tasks) + len(config.conditions)

    def stream_of(name: TaskName) -> Stream:
        source = tasks.load(name, "test", config.side)
        return Stream(source, outputs or source.classes)

    def measure(name: str, stream: Stream) -> None:
        stream_params = params(stream) if callable(params) else params
        correct = correct_predictions(
            learner(stream), stream_params, stream, seeds, config.runs, config.length, batch_size=batch_size
        )
        accuracies = cumulative(correct)
        arrays[f"curve_{name}"] = accuracies.mean(1).astype(np.float32)
        ends = np.minimum([*config.counts, config.length], accuracies.shape[-1])
        arrays[name] = accuracies[..., ends - 1].astype(np.float32)  # of each run, after each count and at its end
        for key, values in summarise(accuracies.mean(1), config.counts).items():
            metrics[f"{name}_{key}"] = values.tolist()
        run.progress(len(arrays), total)

    for name in config.tasks:
        measure(name, stream_of(name))
    for name in config.conditions:
        key = name.replace(" ", "_")
        measure(key, condition(name, "mnist"))
        if "mnist" in config.tasks and config.side == tasks.SIDE:
            metrics[f"{key}_behind"] = (arrays["curve_mnist"][:, -1] - arrays[f"curve_{key}"][:, -1]).tolist()
    if config.again:
        stream = stream_of("mnist")
        stream_params = params(stream) if callable(params) else params
        pair_probabilities, p, labels = seen_again(
            learner(stream), stream_params, stream, seeds, config.runs, config.again
        )
        metrics |= {
            "first_time": pair_probabilities[..., 0].mean((1, 2)).tolist(),
            "second_time": pair_probabilities[..., 1].mean((1, 2)).tolist(),
        }
        arrays |= {"shown_probability": p, "shown_label": labels}
    return Outcome(metrics=metrics, arrays=arrays)


def _learn(trained: MetaTrain, stream: Stream) -> Learn:
    return make_learner(trained, stream.source.inputs, stream.outputs).learn
