"""Adam and gradient descent on the tasks and networks that protocols learn."""

import math
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from common.train.recorder import Outcome, Recorder
from papers.mplp.config import Baseline
from papers.mplp.measurement import Learner, Measurement, Setting, measure_lifetimes, measurement
from papers.mplp.network import Layer, Spec, elementwise_loss, init_network, predict

__all__ = ["descend", "train"]


def train(config: Baseline, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Measure lifetimes under gradient descent; nothing is meta-learned."""
    spec = Spec(config.sizes, config.activation, "l2" if config.task == "sinusoid" else "ce")

    def learn(rate: Array, layers: tuple[Layer, ...], x: Array, y: Array) -> tuple[Layer, ...]:
        optimiser = optax.adam(rate, eps=1e-7) if config.optimiser == "adam" else optax.sgd(rate)
        return descend(spec, optimiser, layers, x, y)

    def start(_: Array, key: Array) -> tuple[Layer, ...]:
        return init_network(key, spec)

    setting = Setting(config.task, spec, config.steps, config.examples, config.lifetimes, config.tested)
    measure = measurement(setting, Learner(start, learn))
    rates = [_best_rate(config, measure, seed) if config.rates else config.rate for seed in seeds]
    outcome = measure_lifetimes(measure, [jnp.float32(rate) for rate in rates], seeds, run)
    return replace(outcome, metrics={**outcome.metrics, "rate": rates})


def _best_rate(config: Baseline, measure: Measurement, seed: int) -> float:
    """The learning rate with the best final result on trial lifetimes, which are measured on training images."""

    def score(rate: float) -> float:
        results = measure(jnp.float32(rate), seed, "trial")
        final = results["accuracy"][:, -1].mean() if "accuracy" in results else -results["loss"][:, -1].mean()
        return float(final) if np.isfinite(final) else -math.inf

    return max(config.rates, key=score)


def descend(
    spec: Spec, optimiser: optax.GradientTransformation, layers: tuple[Layer, ...], x: Array, y: Array
) -> tuple[Layer, ...]:
    """Networks after each descent step, stacked along a new first axis.

    The loss is summed over outputs and averaged over a batch.
    """

    def loss(layers: tuple[Layer, ...], x: Array, y: Array) -> Array:
        return elementwise_loss(spec, predict(spec, layers, x), y).sum(-1).mean(-1).sum()  # networks are independent

    def step(carry: tuple, batch: tuple[Array, Array]) -> tuple[tuple, tuple[Layer, ...]]:
        layers, state = carry
        updates, state = optimiser.update(jax.grad(loss)(layers, *batch), state, layers)
        layers = optax.apply_updates(layers, updates)
        return (layers, state), layers

    return jax.lax.scan(step, (layers, optimiser.init(layers)), (x, y))[1]
