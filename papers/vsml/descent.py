"""Online SGD and Adam on the streams that meta-learned algorithms are tested on."""

from collections.abc import Sequence

import jax
import optax
from jaxtyping import Array

from common.recorder import Outcome, Recorder
from papers.vsml.baselines import init_perceptron, online_descent
from papers.vsml.config import Descent
from papers.vsml.evaluation import Learn, Stream
from papers.vsml.meta_test import collect, measure_streams

__all__ = ["train"]


def train(config: Descent, seeds: Sequence[int], run: Recorder) -> Outcome:
    """One test a seed: seeds differ in streams and initial weights."""
    optimiser = optax.sgd(config.rate) if config.optimiser == "sgd" else optax.adam(config.rate)

    def learner(stream: Stream) -> Learn:
        sizes = [size for size in (stream.source.inputs, config.width, stream.outputs) if size]

        def learn(key: Array, x: Array, labels: Array) -> Array:
            layers = init_perceptron(key, sizes)
            return jax.vmap(
                lambda x, labels: online_descent(layers, optimiser, x, labels), in_axes=1, out_axes=1
            )(x, labels)  # fmt: skip

        return learn

    members = []
    for index, seed in enumerate(seeds):
        members.append(measure_streams(config, learner, seed))
        run.progress(index + 1, len(seeds))
    return collect(members)
