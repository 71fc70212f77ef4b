"""Lifetimes of new networks on new tasks under any learner: a protocol, gradient descent, MAML."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key
from papers.mplp import tasks
from papers.mplp.config import TaskName
from papers.mplp.lifetime import mean_loss
from papers.mplp.network import Layer, Spec, predict

__all__ = ["Learner", "Measurement", "Setting", "measure_lifetimes", "measurement", "program", "side_of"]

Measurement = Callable[..., dict[str, np.ndarray]]
"""From a learner's parameters, a seed and a purpose (see `measurement`) to the measures of each lifetime."""

AGENTS = 20_000
"""Agents whose states are computed at once: few enough for a CPU's cache."""


class Setting(NamedTuple):
    """What is measured: task, networks and numbers of steps, examples and lifetimes."""

    task: TaskName
    spec: Spec
    steps: int
    """T, inner steps."""
    examples: int
    """B, examples of an inner step."""
    lifetimes: int
    tested: int
    """Number of test images."""


class Learner(NamedTuple):
    """A learning algorithm: how networks start and how they learn."""

    start: Callable[[Any, Array], tuple[Layer, ...]]
    """From parameters and a key to one initial network."""
    learn: Callable[[Any, tuple[Layer, ...], Array, Array], tuple[Layer, ...]]
    """From parameters, networks, inputs and targets (T, E, B, ...) to the networks after each step."""


def side_of(spec: Spec) -> int:
    """Pixels a side of the images that a network takes."""
    return math.isqrt(spec.sizes[0])


def measure_lifetimes(measure: Measurement, params: Sequence[Any], seeds: Sequence[int], run: Recorder) -> Outcome:
    """Loss or accuracy after 0 to T steps, in all lifetimes of each seed.

    Arguments:
        params: Parameters of the learner for each seed.
    """
    members = []
    for index, seed in enumerate(seeds):
        members.append(measure(params[index], seed))
        run.progress(index + 1, len(seeds))
    curves = {name: np.stack([member[name] for member in members]) for name in members[0]}
    metrics = {}
    for name in ("loss", "seen", "accuracy"):
        for step in range(curves[name].shape[-1] if name in curves else 0):
            metrics[f"{name}_{step + (name == 'seen')}"] = curves[name][..., step].mean(1).tolist()
    return Outcome(metrics=metrics, arrays=curves)


def measurement(setting: Setting, learner: Learner) -> Measurement:
    """What measures lifetimes: compiled once, with images loaded once.

    It gives each measure after each step of each lifetime, (lifetimes, T + 1), and the first network's predictions.
    Tasks and networks depend on seed, purpose and setting alone, so all learners get the same. The purpose is `test`,
    or `trial`: other tasks than those of tests, and accuracy measured on training images.
    """
    measure_all, batch_size = program(setting, learner)

    @cache
    def split(name: str) -> tasks.Images:
        return tasks.load_images(setting.task, name, side_of(setting.spec))

    def measure(params: Any, seed: int, purpose: Literal["test", "trial"] = "test") -> dict[str, np.ndarray]:
        splits = ("train", "test" if purpose == "test" else "train") if setting.task != "sinusoid" else ()
        keys = jax.random.split(jax_key(seed, purpose, setting.task), setting.lifetimes).reshape(-1, batch_size)
        measured = measure_all(params, keys, tuple(split(name) for name in splits))
        return {name: _lifetimes_first(name, value) for name, value in measured.items()}

    return measure


def program(setting: Setting, learner: Learner) -> tuple[Callable[[Any, Array, Any], dict[str, Array]], int]:
    """The compiled measurement of all lifetimes, and the number of lifetimes that it computes at once.

    The measurement takes parameters, keys (rounds, lifetimes at once), and for images the two splits.
    """
    weights = sum(a * b + b for a, b in zip(setting.spec.sizes[:-1], setting.spec.sizes[1:], strict=True))
    batch_size = _divisor(setting.lifetimes, max(1, AGENTS // (weights * setting.examples)))
    measure = _sinusoids if setting.task == "sinusoid" else _images

    @jax.jit
    def measure_all(params: Any, keys: Array, data: Any) -> dict[str, Array]:
        return jax.lax.map(lambda batch_keys: measure(setting, learner, params, batch_keys, data), keys)

    return measure_all, batch_size


def _divisor(count: int, limit: int) -> int:
    return max(number for number in range(1, min(count, limit) + 1) if count % number == 0)


def _lifetimes_first(name: str, values: Array) -> np.ndarray:
    """From (chunks, steps, E) to (lifetimes, steps); for the `shown` predictions, the first lifetime alone."""
    if name.startswith("shown"):
        return np.asarray(values[0], np.float32)
    return np.asarray(values).swapaxes(1, 2).reshape(-1, values.shape[1])


def _with_start(start: tuple[Layer, ...], after: tuple[Layer, ...]) -> tuple[Layer, ...]:
    return jax.tree.map(lambda first, later: jnp.concatenate([first[None], later]), start, after)


def _sinusoids(setting: Setting, learner: Learner, params: Any, keys: Array, _: Any) -> dict[str, Float[Array, "T E"]]:
    """Loss on a grid after 0 to T steps, on the points so far after 1 to T, and the first network's predictions."""
    task, start, drawing = _split_in_three(keys)
    sinusoids = jax.tree.map(lambda a: a[:, 0], jax.vmap(lambda key: tasks.draw_sinusoids(key, 1))(task))
    layers = _start_networks(partial(learner.start, params), start)
    shape = (setting.steps, 1, setting.examples)
    x, y = jax.vmap(lambda key, wave: tasks.draw_points(key, jax.tree.map(lambda a: a[None], wave), shape), out_axes=1)(
        drawing, sinusoids
    )
    x, y = x[:, :, 0], y[:, :, 0]
    networks = _with_start(layers, learner.learn(params, layers, x, y))
    grid = jnp.broadcast_to(jnp.asarray(tasks.GRID)[None, :, None], (len(keys), len(tasks.GRID), 1))
    results = {"loss": jax.vmap(lambda layers: mean_loss(setting.spec, layers, grid, sinusoids(grid)))(networks)}

    def loss_so_far(layers: tuple[Layer, ...], step: Array) -> Array:
        batch_losses = jax.vmap(lambda x, y: mean_loss(setting.spec, layers, x, y))(x, y)
        counted = jnp.arange(setting.steps)[:, None] <= step
        return (batch_losses * counted).sum(0) / counted.sum()

    after = jax.tree.map(lambda array: array[1:], networks)
    results["seen"] = jax.vmap(loss_so_far)(after, jnp.arange(setting.steps))
    predictions = jax.vmap(lambda layers: predict(setting.spec, layers, grid))(networks)[:, 0, :, 0]
    return results | {"shown": jnp.concatenate([predictions, sinusoids(grid)[:1, :, 0]])}


def _images(setting: Setting, learner: Learner, params: Any, keys: Array, data: Any) -> dict[str, Float[Array, "T E"]]:
    """Accuracy on `tested` images of the second split, after 0 to T steps on images of the first."""
    choosing, start, drawing = _split_in_three(keys)
    train, unseen = data
    layers = _start_networks(partial(learner.start, params), start)
    x, y = jax.vmap(lambda key: tasks.draw_batches(key, train, (setting.steps, setting.examples)), out_axes=1)(drawing)
    chosen = jax.vmap(lambda key: jax.random.choice(key, len(unseen.x), (setting.tested,), replace=False))(choosing)
    networks = _with_start(layers, learner.learn(params, layers, x, y))

    def accuracy(layers: tuple[Layer, ...]) -> Float[Array, " E"]:
        return (predict(setting.spec, layers, unseen.x[chosen]).argmax(-1) == unseen.labels[chosen]).mean(-1)

    return {"accuracy": jax.lax.map(accuracy, networks)}


def _split_in_three(keys: Array) -> tuple[Array, Array, Array]:
    return tuple(jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0))


def _start_networks(start: Callable[[Array], tuple[Layer, ...]], keys: Array) -> tuple[Layer, ...]:
    """One network for each key, along the first axis."""
    return jax.tree.map(lambda array: array[:, 0], jax.vmap(start)(keys))
