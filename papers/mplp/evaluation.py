"""Lifetimes of new networks on new tasks, whatever it is that learns: a protocol, gradient descent, MAML."""

import math
from collections.abc import Callable, Sequence
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

__all__ = ["Learner", "Setting", "measure_lifetimes", "side_of"]

AGENTS = 20_000
"""Agents whose states are computed at once: few enough for a CPU's cache."""


class Setting(NamedTuple):
    """What is measured."""

    task: TaskName
    spec: Spec
    steps: int
    """T."""
    examples: int
    """B."""
    lifetimes: int
    tested: int
    """Test images."""


class Learner(NamedTuple):
    """What learns."""

    start: Callable[[Any, Array, int], tuple[Layer, ...]]
    """Parameters, key and number to networks."""
    learn: Callable[[Any, tuple[Layer, ...], Array, Array], tuple[Layer, ...]]
    """Parameters, networks, inputs and targets (T, E, B, ...) to the networks after each step."""


def side_of(spec: Spec) -> int:
    """Pixels a side of the images that a network takes."""
    return math.isqrt(spec.sizes[0])


def measure_lifetimes(
    setting: Setting, learner: Learner, params: Sequence[Any], seeds: Sequence[int], run: Recorder
) -> Outcome:
    """Loss or accuracy after 0 to T steps, of so many lifetimes a seed.

    Arguments:
        params: One for each seed.
    """
    members = []
    for index, seed in enumerate(seeds):
        members.append(lifetimes(setting, learner, params[index], seed))
        run.progress(index + 1, len(seeds))
    curves = {name: np.stack([member[name] for member in members]) for name in members[0]}
    metrics = {}
    for name in ("loss", "seen", "accuracy"):
        for step in range(curves[name].shape[-1] if name in curves else 0):
            metrics[f"{name}_{step + (name == 'seen')}"] = curves[name][..., step].mean(1).tolist()
    return Outcome(metrics=metrics, arrays=curves)


def lifetimes(
    setting: Setting, learner: Learner, params: Any, seed: int, purpose: Literal["test", "trial"] = "test"
) -> dict[str, np.ndarray]:
    """Each measure after each step of each lifetime, (lifetimes, T + 1); and what the first network predicted.

    Tasks and networks depend on seed, purpose and setting alone: all learners meet the same.

    Arguments:
        purpose: Trials are other tasks; images are then measured on training images.
    """
    data = ()
    if setting.task != "sinusoid":
        splits = ("train", "test" if purpose == "test" else "train")
        data = tuple(tasks.load_images(setting.task, split, side_of(setting.spec)) for split in splits)
    every, together = program(setting, learner)
    keys = jax.random.split(jax_key(seed, purpose, setting.task), setting.lifetimes).reshape(-1, together)
    return {name: _lifetimes_first(name, value) for name, value in every(params, keys, data).items()}


def program(setting: Setting, learner: Learner) -> tuple[Callable[[Any, Array, Any], dict[str, Array]], int]:
    """The compiled measurement of all lifetimes, and how many are computed at once.

    It takes parameters, keys (rounds, at once), and of images the two splits.
    """
    weights = sum(a * b + b for a, b in zip(setting.spec.sizes[:-1], setting.spec.sizes[1:], strict=True))
    together = _divisor(setting.lifetimes, max(1, AGENTS // (weights * setting.examples)))
    measure = _sinusoids if setting.task == "sinusoid" else _images

    @jax.jit
    def every(params: Any, keys: Array, data: Any) -> dict[str, Array]:
        return jax.lax.map(lambda some: measure(setting, learner, params, some, data), keys)

    return every, together


def _divisor(count: int, most: int) -> int:
    return max(number for number in range(1, min(count, most) + 1) if count % number == 0)


def _lifetimes_first(name: str, found: Array) -> np.ndarray:
    """(chunks, T, E) to (lifetimes, T); of the shown predictions the first lifetime alone."""
    if name.startswith("shown"):
        return np.asarray(found[0], np.float32)
    return np.asarray(found).swapaxes(1, 2).reshape(-1, found.shape[1])


def _with_start(start: tuple[Layer, ...], after: tuple[Layer, ...]) -> tuple[Layer, ...]:
    return jax.tree.map(lambda first, others: jnp.concatenate([first[None], others]), start, after)


def _sinusoids(setting: Setting, learner: Learner, params: Any, keys: Array, _: Any) -> dict[str, Float[Array, "T E"]]:
    """Loss on a grid after 0 to T steps; on the points seen so far after 1 to T; the first network's predictions."""
    task, start, drawing = _three(keys)
    sinusoids = jax.tree.map(lambda a: a[:, 0], jax.vmap(lambda key: tasks.draw_sinusoids(key, 1))(task))
    layers = _every(lambda key: learner.start(params, key, 1), start)
    one = (setting.steps, 1, setting.examples)
    x, y = jax.vmap(lambda key, wave: tasks.draw_points(key, jax.tree.map(lambda a: a[None], wave), one), out_axes=1)(
        drawing, sinusoids
    )
    x, y = x[:, :, 0], y[:, :, 0]
    networks = _with_start(layers, learner.learn(params, layers, x, y))
    grid = jnp.broadcast_to(jnp.asarray(tasks.GRID)[None, :, None], (len(keys), len(tasks.GRID), 1))
    found = {"loss": jax.vmap(lambda layers: mean_loss(setting.spec, layers, grid, sinusoids(grid)))(networks)}

    def so_far(layers: tuple[Layer, ...], step: Array) -> Array:
        each = jax.vmap(lambda x, y: mean_loss(setting.spec, layers, x, y))(x, y)
        old = jnp.arange(setting.steps)[:, None] <= step
        return (each * old).sum(0) / old.sum()

    after = jax.tree.map(lambda array: array[1:], networks)
    found["seen"] = jax.vmap(so_far)(after, jnp.arange(setting.steps))
    predictions = jax.vmap(lambda layers: predict(setting.spec, layers, grid))(networks)[:, 0, :, 0]
    return found | {"shown": jnp.concatenate([predictions, sinusoids(grid)[:1, :, 0]])}


def _images(setting: Setting, learner: Learner, params: Any, keys: Array, data: Any) -> dict[str, Float[Array, "T E"]]:
    """Accuracy on some images of the second split after 0 to T steps on images of the first."""
    choosing, start, drawing = _three(keys)
    train, unseen = data
    layers = _every(lambda key: learner.start(params, key, 1), start)
    x, y = jax.vmap(lambda key: tasks.draw_batches(key, train, (setting.steps, setting.examples)), out_axes=1)(drawing)
    chosen = jax.vmap(lambda key: jax.random.choice(key, len(unseen.x), (setting.tested,), replace=False))(choosing)
    networks = _with_start(layers, learner.learn(params, layers, x, y))

    def accuracy(layers: tuple[Layer, ...]) -> Float[Array, " E"]:
        return (predict(setting.spec, layers, unseen.x[chosen]).argmax(-1) == unseen.labels[chosen]).mean(-1)

    return {"accuracy": jax.lax.map(accuracy, networks)}


def _three(keys: Array) -> tuple[Array, Array, Array]:
    return tuple(jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0))


def _every(start: Callable[[Array], tuple[Layer, ...]], keys: Array) -> tuple[Layer, ...]:
    """One network a key, along the first axis."""
    return jax.tree.map(lambda array: array[:, 0], jax.vmap(start)(keys))
