"""MAML on the sinusoids, second order: the baseline of the experiment with a meta-learned initial network."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, Int32

from common.train.jax import batch_seeds, batch_step, scan_train
from common.train.recorder import Outcome, Recorder
from papers.mplp import tasks
from papers.mplp.baseline import descend
from papers.mplp.config import Maml
from papers.mplp.lifetime import mean_loss, normalised
from papers.mplp.measurement import Learner, Setting, measure_lifetimes, measurement
from papers.mplp.network import Layer, Spec, init_network

__all__ = ["train"]

CHUNK = 2_000
"""Meta-steps between two lines of the metrics stream."""


class Training(NamedTuple):
    """The state of meta-training; every array has a leading axis of seeds."""

    start: tuple[Layer, ...]
    optimiser: optax.OptState
    key: Array


def train(config: Maml, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Meta-train one initial network for each seed, then test it on new tasks."""
    spec = Spec(config.sizes)
    adam, descent = optax.adam(config.rate, eps=1e-7), optax.sgd(config.inner_rate)

    def init(key: Array) -> Training:
        keys = jax.random.split(key)
        start = init_network(keys[0], spec)
        return Training(start, adam.init(start), keys[1])

    def step(state: Training, index: Int32[Array, ""]) -> tuple[Training, Mapping[str, Array]]:
        keys = jax.random.split(jax.random.fold_in(state.key, index), 3)
        sinusoids = tasks.draw_sinusoids(keys[0], config.networks)
        batches = tasks.draw_points(keys[1], sinusoids, (config.steps, config.networks, config.examples))
        held_out = tasks.draw_points(keys[2], sinusoids, (config.networks, config.held_out))

        def loss(start: tuple[Layer, ...]) -> Array:
            networks = jax.tree.map(lambda array: array.repeat(config.networks, 0), start)
            after = descend(spec, descent, networks, *batches)
            return mean_loss(spec, jax.tree.map(lambda array: array[-1], after), *held_out).mean()

        value, gradient = jax.value_and_grad(loss)(state.start)
        updates, optimiser = adam.update(normalised(gradient), state.optimiser)
        return Training(optax.apply_updates(state.start, updates), optimiser, state.key), {"loss": value}

    state = scan_train(batch_step(step), batch_seeds(init, seeds), steps=config.meta_steps, chunk=CHUNK, recorder=run)

    def learn(start: tuple[Layer, ...], layers: tuple[Layer, ...], x: Array, y: Array) -> tuple[Layer, ...]:
        return descend(spec, descent, layers, x, y)

    starts = [jax.tree.map(lambda array, index=index: array[index], state.start) for index in range(len(seeds))]
    setting = Setting("sinusoid", spec, config.steps, config.examples, config.lifetimes, tested=1)
    return measure_lifetimes(measurement(setting, Learner(lambda start, _: start, learn)), starts, seeds, run)
