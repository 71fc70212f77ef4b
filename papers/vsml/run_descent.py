"""Online SGD and Adam on the same streams that meta-learned algorithms are tested on."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from common.train.recorder import Outcome, Recorder
from papers.vsml import tasks
from papers.vsml.baselines import init_perceptron, online_descent
from papers.vsml.config import Descent
from papers.vsml.learners import Learn
from papers.vsml.meta_test import measure_streams
from papers.vsml.streams import Stream, correct_predictions

__all__ = ["train"]


TRIAL = 500
"""Examples of the trial streams on which a learning rate is chosen."""


def train(config: Descent, seeds: Sequence[int], run: Recorder) -> Outcome:
    """One test per seed; seeds differ in streams and initial weights."""
    return measure_streams(config, partial(_learner, config), partial(_rates, config, seeds), seeds, run)


def _rates(config: Descent, seeds: Sequence[int], stream: Stream) -> Float[Array, " S"]:
    """Learning rate of each seed: the configured one, or the best of several on training images of the same task."""
    if not config.rates:
        return jnp.full(len(seeds), config.rate)
    source = tasks.load(stream.source.name, "train", stream.source.side)
    trial = Stream(source, stream.outputs)
    rates = jnp.asarray(config.rates)
    all_rates, all_seeds = jnp.repeat(rates, len(seeds)), list(seeds) * len(rates)
    correct = correct_predictions(_learner(config, trial), all_rates, trial, all_seeds, config.runs, TRIAL, "trial")
    return rates[correct.reshape(len(rates), len(seeds), -1).mean(-1).argmax(0)]


def _learner(config: Descent, stream: Stream) -> Learn:
    """Gradient descent as a learner whose only parameter is the learning rate."""
    make = {"sgd": optax.sgd, "adam": optax.adam}[config.optimiser]
    sizes = [size for size in (stream.source.inputs, config.width, stream.outputs) if size]

    def learn(rate: Array, keys: Array, x: Array, labels: Array) -> Array:
        def episode(key: Array, x: Array, labels: Array) -> Array:
            return online_descent(init_perceptron(key, sizes), make(rate), x, labels)

        return jax.vmap(episode, in_axes=(0, 1, 1), out_axes=1)(keys, x, labels)

    return learn
