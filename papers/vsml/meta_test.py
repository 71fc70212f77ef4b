"""Learning online from scratch with what was meta-trained: on its own data sets, on others, in disguise."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from common.config import build
from common.errors import RefigureError
from common.recorder import Outcome, Recorder
from common.trees import unflatten_jax
from papers.vsml import tasks
from papers.vsml.config import MetaTest, MetaTrain
from papers.vsml.evaluation import Learn, Stream, condition, cumulative, seen_again, summarise, watch
from papers.vsml.learners import make_learner, vsml_learner
from papers.vsml.meta_train import untrained

if TYPE_CHECKING:
    from common.runs import FinishedRun

__all__ = ["Results", "collect", "measure_streams", "train"]

Results = dict[str, np.ndarray]


def train(config: MetaTest, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Test the learners of a meta-training run, one after the other.

    Raises:
        RefigureError: The learner cannot be tested as asked.
    """
    trained: MetaTrain = build(MetaTrain, dict(parent.identity.config), "the meta-training run")
    side = trained.sides[-1]
    if trained.learner != "vsml" and (side != config.side or config.conditions or config.hidden):
        raise RefigureError(
            f"{trained.learner} was meta-trained for {side} x {side} pixels and ten classes: test it with side={side}, "
            "no conditions and hidden=0"
        )
    params = unflatten_jax(untrained(trained, seeds), parent.parameters)
    members = []
    for index, seed in enumerate(seeds):
        mine = jax.tree.map(lambda array, index=index: array[index], params)
        members.append(measure_streams(config, lambda stream, mine=mine: _learn(config, trained, mine, stream), seed))
        run.progress(index + 1, len(seeds))
    return collect(members)


def measure_streams(config: MetaTest, learner: Any, seed: int) -> Results:
    """Everything that is measured on one learner; `learner(stream)` gives what learns a stream."""
    found: Results = {}

    def measure(name: str, stream: Stream) -> None:
        right = watch(learner(stream), stream, seed, config.runs, config.length)
        curve = cumulative(right)
        found[f"curve_{name}"] = curve.mean(0).astype(np.float32)
        found[f"spread_{name}"] = curve.std(0).astype(np.float32)
        found.update({f"{name}_{k}": np.float64(v) for k, v in summarise(right, config.counts).items()})

    for name in config.tasks:
        measure(name, Stream(tasks.load(name, "test", config.side)))
    for name in config.conditions:
        measure(name.replace(" ", "_"), condition(name, "mnist"))
    if config.again:
        stream = Stream(tasks.load("mnist", "test", config.side))
        both, p, labels = seen_again(learner(stream), stream.source, seed, config.runs, config.again)
        found |= {"first_time": both[..., 0].mean(), "second_time": both[..., 1].mean()}
        found |= {"again_probability": both.mean(0), "shown_probability": p, "shown_label": labels}
    return found


def collect(members: Sequence[Results]) -> Outcome:
    """Numbers as metrics, the rest as arrays; one entry a seed."""
    scalars = {name for name in members[0] if members[0][name].ndim == 0}
    return Outcome(
        metrics={name: [float(member[name]) for member in members] for name in sorted(scalars)},
        arrays={name: np.stack([member[name] for member in members]) for name in members[0] if name not in scalars},
    )


def _learn(config: MetaTest, trained: MetaTrain, params: Any, stream: Stream) -> Learn:
    inputs = stream.source.inputs
    if trained.learner == "vsml":
        learner = vsml_learner(trained, inputs, stream.outputs, config.hidden or trained.hidden)
    else:
        learner = make_learner(trained, inputs)
    return partial(learner.learn, params)
