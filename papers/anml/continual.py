"""Learning many classes one image at a time, in sequence or shuffled (section 3.3).

What learns, often the output layer alone, is a course's `start`; what is fixed has been applied to its `inputs` before.
A member is one run from this start, with a sequence of drawings and a learning rate of its own. On a CPU members run
one after the other, so that the weights of each stay in the cache while it learns; on other devices as many learn at
once as the course says.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from papers.anml.meta_learning import cross_entropy

__all__ = ["Course", "Sequences", "dense", "draw", "learn"]

Scores = Callable[[Any, Array], Array]
"""(plastic parameters, one input) -> class scores (K,). It must be the same object for every learner, or a pytree of
arrays such as `eqx.Partial`; otherwise each learner compiles the program anew."""


@jax.custom_vjp
def dense(w: Float[Array, "out in"], h: Float[Array, " in"]) -> Float[Array, " out"]:
    """The product w h. Its gradient in w is fused into the optimiser's update instead of being written to memory.

    A step on one image is limited by the moving of weights and moments, so the fusion makes it 1.6 times as fast.
    """
    return w @ h


def _dense_forward(w: Array, h: Array) -> tuple[Array, tuple[Array, Array]]:
    return w @ h, (w, h)


def _dense_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    w, h = saved
    return gradient[:, None] * h[None, :], gradient @ w


dense.defvjp(_dense_forward, _dense_backward)


class Sequences(NamedTuple):
    """The drawings that learners see: M trajectories, each of T classes with L drawings a class, in E epochs."""

    classes: Int[np.ndarray, "M T"]
    """Classes in order of presentation."""
    times: Float[np.ndarray, "M E T L"]
    """A random time for each drawing in each epoch. The shuffled oracle sees all drawings in the order of these times;
    the sequential learner sees those of a class in the order of the first epoch. With a single class, and one epoch,
    both see the same."""

    def sequential(self, drawings: int) -> Int[np.ndarray, "M T*L"]:
        """Indices of drawings (class * `drawings` + number within the class), class after class."""
        order = self.classes[..., None] * drawings + self.times[:, 0].argsort(-1)
        return order.reshape(len(order), -1)

    def shuffled(self, tasks: int, drawings: int) -> Int[np.ndarray, "M E*tasks*L"]:
        """Indices of the drawings of the first `tasks` classes in random order, epoch after epoch."""
        count, epochs, _, learned = self.times.shape
        indices = (self.classes[:, :tasks, None] * drawings + np.arange(learned)).reshape(count, 1, -1)
        order = self.times[:, :, :tasks].reshape(count, epochs, -1).argsort(-1)
        return np.take_along_axis(indices, order, axis=2).reshape(count, -1)


def draw(rngs: Sequence[np.random.Generator], pool: int, tasks: int, learned: int, epochs: int = 1) -> Sequences:
    """One trajectory a generator: classes out of the first `pool` without replacement, and times of their drawings."""
    drawn = [(rng.permutation(pool)[:tasks], rng.random((epochs, tasks, learned))) for rng in rngs]
    return Sequences(np.stack([classes for classes, _ in drawn]), np.stack([times for _, times in drawn]))


class Course(NamedTuple):
    """What a learner learns from."""

    scores: Scores
    """Class scores of plastic parameters and one input."""
    start: Any
    """The plastic parameters at the start."""
    inputs: Array
    """Output of the fixed part for every drawing, (C * drawings, ...)."""
    labels: Int[Array, " n"]
    """The class of every drawing."""
    optimiser: Callable[[Any], optax.GradientTransformation]
    """From a learning rate to an optimiser."""
    batch_size: int | None = None
    """How many members learn at once on devices other than a CPU; all if None."""


def learn(
    course: Course,
    sequences: Int[np.ndarray, "M n"],
    rates: Float[np.ndarray, " M"],
    measured: Int[np.ndarray, "M q"],
    after: Sequence[int],
) -> Bool[np.ndarray, "M len(after) q"]:
    """Whether members classify the drawings `measured` correctly after learning a sequence, one step a drawing.

    Arguments:
        after: Numbers of steps after which to measure, rising; every member makes as many steps as the last number.
    """
    unit = int(np.gcd.reduce(after))
    start = jax.vmap(lambda _: (course.start, course.optimiser(0.0).init(course.start)))(jnp.arange(len(rates)))
    measured, rates = jnp.asarray(measured), jnp.asarray(rates, course.inputs.dtype)
    state, results = start, []
    for done in range(0, after[-1], unit):
        state = _advance((course, rates), state, jnp.asarray(sequences[:, done : done + unit]))
        if done + unit in after:
            results.append(np.asarray(_measure(course, state[0], measured)))
    return np.stack(results, axis=1)


@partial(eqx.filter_jit, donate="all-except-first")
def _advance(fixed: tuple[Course, Float[Array, " M"]], state: Any, indices: Int[Array, "M unit"]) -> Any:
    course, rates = fixed

    def member(inputs: tuple[Any, Array, Array]) -> Any:
        state, indices, rate = inputs
        optimiser = course.optimiser(rate)

        def step(state: Any, index: Array) -> tuple[Any, None]:
            parameters, optimiser_state = state
            gradient = jax.grad(
                lambda parameters: cross_entropy(
                    course.scores(parameters, course.inputs[index])[None], course.labels[index][None]
                )[0]
            )(parameters)
            updates, optimiser_state = optimiser.update(gradient, optimiser_state)
            return (optax.apply_updates(parameters, updates), optimiser_state), None

        return jax.lax.scan(step, state, indices)[0]

    return _map_members(member, (state, indices, rates), course.batch_size)


@eqx.filter_jit
def _measure(course: Course, parameters: Any, measured: Int[Array, "M q"]) -> Bool[Array, "M q"]:
    def member(inputs: tuple[Any, Array]) -> Array:
        parameters, measured = inputs
        scores = jax.lax.map(
            lambda index: course.scores(parameters, course.inputs[index]).argmax(), measured, batch_size=500
        )
        return scores == course.labels[measured]

    return _map_members(member, (parameters, measured), course.batch_size)


def _map_members(member: Callable[[Any], Any], members: Any, batch_size: int | None) -> Any:
    if jax.default_backend() != "cpu" and batch_size is None:
        return jax.vmap(member)(members)
    return jax.lax.map(member, members, batch_size=None if jax.default_backend() == "cpu" else batch_size)
