"""A lifetime, in which a network learns T batches by its protocol, and the loss that meta-training minimises."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from papers.mplp.network import Layer, Spec, elementwise_loss, predict
from papers.mplp.protocol import Protocol, State, Statistics, init_state, init_statistics, inner_update

__all__ = ["collect_statistics", "live", "mean_loss", "meta_loss", "normalised"]


def live(
    protocol: Protocol,
    statistics: Statistics,
    spec: Spec,
    layers: tuple[Layer, ...],
    x: Float[Array, "T E B A"],
    y: Float[Array, "T E B O"],
) -> tuple[Layer, ...]:
    """The networks after each of T updates, stacked along a new first axis."""

    def step(state, batch):
        state, _ = inner_update(protocol, statistics, spec, state, *batch)
        return state, state.layers

    return jax.lax.scan(step, init_state(spec, layers, x.shape[2]), (x, y))[1]


def mean_loss(spec: Spec, layers: tuple[Layer, ...], x: Array, y: Array) -> Float[Array, " E"]:
    """Loss of each network, averaged over examples and outputs."""
    return elementwise_loss(spec, predict(spec, layers, x), y).mean((-2, -1))


def meta_loss(
    spec: Spec,
    after: tuple[Layer, ...],
    batches: tuple[Array, Array],
    held_out: tuple[Array, Array],
    hint: float,
    length: Int[Array, ""] | None = None,
) -> Float[Array, ""]:
    """hint * (mean loss on each batch just after its step) + (1 - hint) * (final loss on held-out examples).

    Arguments:
        after: Networks after each step.
        batches: Inputs and targets of each step, (T, E, B, ...).
        held_out: Inputs and targets of held-out examples, (E, n, ...).
        hint: rho.
        length: Number of steps that count; all when left out.
    """
    last = -1 if length is None else length - 1
    end = mean_loss(spec, jax.tree.map(lambda array: array[last], after), *held_out).mean()
    if not hint:
        return end
    losses = jax.vmap(lambda *args: mean_loss(spec, *args).mean())(after, *batches)
    counted = jnp.arange(len(losses)) < (len(losses) if length is None else length)
    return hint * (losses * counted).sum() / counted.sum() + (1 - hint) * end


def normalised(gradient: Any) -> Any:
    """The meta-gradient with each tensor divided by its norm; single numbers become signs (official code)."""
    return jax.tree.map(lambda g: g / (jnp.sqrt((g * g).sum()) + 1e-8), gradient)


def collect_statistics(
    protocol: Protocol,
    spec: Spec,
    layers: tuple[Layer, ...],
    x: Float[Array, "R T 1 B A"],
    y: Float[Array, "R T 1 B O"],
    rate: float,
) -> Statistics:
    """Statistics by which agents standardise: means over lifetimes in which each step uses its own statistics.

    Arguments:
        layers: One network a lifetime, (R, 1, ...).
        rate: Weight with which each of the R lifetimes is blended into the statistics; these begin with shifts 0 and
            norms 1.
    """

    def lifetime(statistics: Statistics, example: tuple[tuple[Layer, ...], Array, Array]) -> tuple[Statistics, None]:
        layers, x, y = example

        def step(state: State, batch: tuple[Array, Array]) -> tuple[State, Statistics]:
            return inner_update(protocol, statistics, spec, state, *batch, collect=True)

        step_statistics = jax.lax.scan(step, init_state(spec, layers, x.shape[2]), (x, y))[1]
        return jax.tree.map(lambda old, new: (1 - rate) * old + rate * new.mean(0), statistics, step_statistics), None

    start = jax.tree.map(lambda array: array.astype(x.dtype), init_statistics(spec))
    return jax.lax.scan(lifetime, start, (layers, x, y))[0]
