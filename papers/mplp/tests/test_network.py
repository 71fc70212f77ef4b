"""The protocol by what theory says of it, and by tests from both ends of its plumbing."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from papers.mplp import protocol as messages
from papers.mplp.agents import GRU, Standardiser, gru, init_gru, init_mlp, init_stateless, stateless
from papers.mplp.lifetime import live, meta_loss
from papers.mplp.network import Layer, Spec, elementwise_loss, init_network, predict
from papers.mplp.protocol import (
    Protocol,
    Statistics,
    init_protocol,
    init_state,
    init_statistics,
    inner_update,
)

SPECS = {
    "stateful": Spec((3, 5, 2), "relu", "l2", 3, 2, widths=(5, 4)),
    "stateless": Spec((3, 5, 2), "relu", "l2", 3, 0, widths=(5, 4)),
    "classes": Spec((4, 5, 3), "sigmoid", "ce", 2, 3, shared=True, widths=(5, 4)),
}
BY_KIND = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "classes" else pytest.mark.slow) for name in SPECS]
)
"""The quick one has most parts: states, shared agents, agents of activation, softmax and loss."""
HINT = 0.7


class Lifetime(NamedTuple):
    """A protocol with statistics, two networks, and three batches of four examples for each."""

    protocol: Protocol
    statistics: Statistics
    layers: tuple[Layer, ...]
    x: jax.Array
    y: jax.Array


def arbitrary(rng: np.random.Generator, make: Callable[[], Any], deviation: float = 0.5) -> Any:
    """A tree as `make` would return it, of arbitrary numbers."""
    return jax.tree.map(lambda a: jnp.asarray(deviation * rng.standard_normal(a.shape)), jax.eval_shape(make))


def lifetime(spec: Spec, steps: int = 3, networks: int = 2, batch: int = 4) -> Lifetime:
    rng = np.random.default_rng(0)
    protocol = arbitrary(rng, lambda: init_protocol(jax.random.key(0), spec))
    statistics = arbitrary(rng, lambda: init_statistics(spec))
    layers = arbitrary(rng, lambda: init_network(jax.random.key(0), spec, networks))
    x, y = (rng.standard_normal((steps, networks, batch, size)) for size in (spec.sizes[0], spec.sizes[-1]))
    if spec.loss == "ce":
        y = np.eye(spec.sizes[-1])[y.argmax(-1)]
    return Lifetime(protocol, statistics, layers, jnp.asarray(x), jnp.asarray(y))


@partial(jax.jit, static_argnames="spec")
def live_and_slope(spec: Spec, lifetime: Lifetime) -> tuple[tuple[jax.Array, tuple[Layer, ...]], Protocol]:
    """Meta-loss, networks after each step, and the meta-gradient: the one program that most of these tests run."""

    def objective(protocol: Protocol) -> tuple[jax.Array, tuple[Layer, ...]]:
        _, statistics, layers, x, y = lifetime
        after = live(protocol, statistics, spec, layers, x, y)
        return meta_loss(spec, after, (x, y), (x[0], y[0]), HINT), after

    return jax.value_and_grad(objective, has_aux=True)(lifetime.protocol)


def networks_after(spec: Spec, lifetime: Lifetime) -> tuple[Layer, ...]:
    return live_and_slope(spec, lifetime)[0][1]


def close(tree: object, expected: object, **tolerances: float) -> None:
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


def test_gradient_descent_is_a_protocol(monkeypatch: pytest.MonkeyPatch, x64: None) -> None:
    """With agents written by hand - pass on what the chain rule says - the plumbing is backpropagation."""
    spec, rate = SPECS["stateful"], 0.1
    _, _, layers, x, y = lifetime(spec)
    batch, outputs = x.shape[2], spec.sizes[-1]

    def agent_step(agent: str, _s: object, blocks: list, _c: object, _m: int, _collect: bool) -> tuple:
        if agent == "loss":  # of elementwise (t - p)^2 / 2 the message is t - p
            return None, blocks[3], None, None
        if agent == "relu":
            return None, blocks[0] * (blocks[1] > 0), None, None
        if agent == "bias":
            return (blocks[0])[0], blocks[0], None, None
        message, w, seen = blocks  # weights: the layer above takes the mean over outputs for the sum
        return (message * seen)[0], message * w * w.shape[-1], None, None

    monkeypatch.setattr(messages, "_agent_step", agent_step)
    dense = messages.Agents("weight", "bias", jnp.float64(rate), jnp.float64(rate), "relu")
    protocol = Protocol((dense, dense._replace(operation=None)), "loss")

    @jax.jit
    def step(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return inner_update(protocol, init_statistics(spec), spec, init_state(spec, layers, batch), x[0], y[0])[
            0
        ].layers

    @jax.jit
    def descent(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        def loss(layers: tuple[Layer, ...]) -> jax.Array:
            return elementwise_loss(spec, predict(spec, layers, x[0]), y[0]).sum() / batch

        return jax.tree.map(lambda p, g: p - rate * g, layers, jax.grad(loss)(layers))

    assert outputs == 2
    close(step(layers), descent(layers), rtol=1e-9, atol=1e-12)


@BY_KIND
def test_hidden_units_have_no_order(name: str, x64: None) -> None:
    start = lifetime(SPECS[name])
    order = np.array([3, 1, 4, 0, 2])

    def permuted(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        first, second = layers
        return Layer(first.w[..., order], first.b[..., order]), Layer(second.w[..., order, :], second.b)

    of_permuted = networks_after(SPECS[name], start._replace(layers=permuted(start.layers)))
    close(of_permuted, permuted(networks_after(SPECS[name], start)), rtol=1e-9, atol=1e-12)


@BY_KIND
def test_examples_have_no_order_and_networks_do_not_know_of_one_another(name: str, x64: None) -> None:
    start = lifetime(SPECS[name])
    whole = networks_after(SPECS[name], start)
    order = np.array([2, 0, 3, 1])
    reordered = start._replace(x=start.x[:, :, order], y=start.y[:, :, order])
    close(networks_after(SPECS[name], reordered), whole, rtol=1e-9, atol=1e-12)
    beside_another = start._replace(
        layers=jax.tree.map(lambda a: a.at[0].mul(-2), start.layers),
        x=start.x.at[:, 0].add(1),
        y=start.y[:, :, ::-1].at[:, 1].set(start.y[:, 1]),
    )
    after = networks_after(SPECS[name], beside_another)
    close(jax.tree.map(lambda a: a[:, 1], after), jax.tree.map(lambda a: a[:, 1], whole), rtol=1e-9, atol=1e-12)
    assert not np.allclose(after[0].w[:, 0], whole[0].w[:, 0])


@BY_KIND
def test_with_factors_of_zero_nothing_changes(name: str, x64: None) -> None:
    start = lifetime(SPECS[name])
    zero = jnp.zeros((), start.x.dtype)
    layers = tuple(dense._replace(scale_w=zero, scale_b=zero) for dense in start.protocol.layers)
    after = networks_after(SPECS[name], start._replace(protocol=start.protocol._replace(layers=layers)))
    for array, first in zip(jax.tree.leaves(after), jax.tree.leaves(start.layers), strict=True):
        np.testing.assert_array_equal(array, jnp.broadcast_to(first, array.shape))


def test_agents_that_keep_everything_do_not_move(x64: None) -> None:
    """With keep gates open wide the states stay at zero; states are always inside of (-1, 1)."""
    spec = SPECS["stateful"]
    protocol, statistics, layers, x, y = lifetime(spec)
    update = jax.jit(inner_update, static_argnums=2)
    state = init_state(spec, layers, x.shape[2])
    kept = jax.tree.map(
        lambda node: node._replace(keep_b=node.keep_b + 1e4) if isinstance(node, GRU) else node,
        protocol,
        is_leaf=lambda node: isinstance(node, GRU),
    )
    after, _ = update(kept, statistics, spec, state, x[0], y[0])
    close(after.carries, state.carries, atol=1e-12)
    for _ in range(3):
        state, _ = update(protocol, statistics, spec, state, 100 * x[0], 100 * y[0])
    assert all(0 < np.abs(carry).max() < 1 for carry in jax.tree.leaves(state.carries))


@BY_KIND
def test_the_meta_gradient_equals_differences(name: str, x64: None) -> None:
    start = lifetime(SPECS[name])
    _, slope = live_and_slope(SPECS[name], start)
    rng, step = np.random.default_rng(1), 1e-8  # so short that hardly a rectified unit changes sides
    way = jax.tree.map(lambda array: rng.standard_normal(array.shape), start.protocol)
    ahead, behind = (
        live_and_slope(
            SPECS[name],
            start._replace(protocol=jax.tree.map(lambda p, w, sign=sign: p + sign * step * w, start.protocol, way)),
        )[0][0]
        for sign in (1, -1)
    )
    along = sum(jax.tree.leaves(jax.tree.map(lambda s, w: (s * w).sum(), slope, way)))
    np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=1e-5)


@pytest.mark.parametrize("kind", ["stateful", "stateless"])
def test_blocks_of_columns_change_nothing(kind: str, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty agents in blocks of at most seven columns, and all at once: the same values and slopes."""
    rng = np.random.default_rng(0)
    blocks = [jnp.asarray(rng.standard_normal((features, 4, 5))) for features in (3, 1)]
    carry = jnp.asarray(np.tanh(rng.standard_normal((6, 4, 5))))
    standardiser = arbitrary(rng, lambda: Standardiser(jnp.ones(2), jnp.zeros(2)))
    make = partial(init_gru, carry=6) if kind == "stateful" else partial(init_mlp, outputs=6)
    agent = arbitrary(rng, lambda: make(jax.random.key(0), 4, widths=(5, 4)))

    def value_and_slope(agent: Any) -> tuple:
        def value(agent: Any, blocks: list) -> jax.Array:
            if kind == "stateful":
                return (gru(agent, standardiser, blocks, carry) ** 2).sum()
            return (stateless(agent, standardiser, blocks, (4, 5)) ** 2).sum()

        return jax.jit(jax.value_and_grad(value, (0, 1)))(agent, blocks)

    whole = value_and_slope(agent)
    monkeypatch.setattr("papers.mplp.agents.BLOCK", 7)
    close(value_and_slope(agent), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_blocks_of_columns_change_no_lifetime(name: str, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    start = lifetime(SPECS[name])
    whole = live_and_slope(SPECS[name], start)
    monkeypatch.setattr("papers.mplp.agents.BLOCK", 7)
    in_blocks = jax.jit(lambda start: live_and_slope.__wrapped__(SPECS[name], start))(start)
    close(in_blocks, whole, rtol=1e-9, atol=1e-12)


def test_lengths_that_count(x64: None) -> None:
    """Of a longer lifetime the first steps alone are a shorter one."""
    spec = SPECS["classes"]
    start = lifetime(spec)
    after, x, y = networks_after(spec, start), start.x, start.y
    loss = jax.jit(meta_loss, static_argnames=("spec", "hint"))
    two_steps = jax.tree.map(lambda a: a[:2], after)
    short = loss(spec, two_steps, (x[:2], y[:2]), (x[0], y[0]), hint=HINT)
    counted = loss(spec, after, (x, y), (x[0], y[0]), hint=HINT, length=jnp.int32(2))
    np.testing.assert_allclose(counted, short, rtol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_one_protocol_serves_any_width(name: str) -> None:
    spec = SPECS[name]
    protocol, statistics, _, x, y = lifetime(spec)
    wide = dataclasses.replace(spec, sizes=(spec.sizes[0], 9, spec.sizes[-1]))
    after = jax.eval_shape(
        lambda: live(protocol, statistics, wide, init_network(jax.random.key(1), wide, 2), x, y)
    )  # fmt: skip
    assert after[0].w.shape == (3, 2, spec.sizes[0], 9)


def test_published_numbers_of_parameters() -> None:
    """Of the sinusoids' agents 115,023 trained numbers, of the MNIST protocol 46,779 (card)."""

    def count(spec: Spec) -> int:
        protocol = jax.eval_shape(lambda: init_protocol(jax.random.key(0), spec))
        return sum(array.size for array in jax.tree.leaves(protocol))

    assert count(Spec((1, 20, 20, 1))) == 115_023
    assert count(Spec((144, 50, 10), "sigmoid", "ce", 4, 7, shared=True)) == 46_779
    assert count(Spec((1, 20, 20, 1), hidden=0)) == 64_364


def test_agents_start_as_published() -> None:
    agent = jax.jit(lambda key: init_gru(key, 10, 24))(jax.random.key(0))
    assert float(agent.keep_b.max()) == float(agent.reset_b.max()) == -1
    assert agent.new_x.b2 is None
    assert jax.eval_shape(lambda: init_stateless(jax.random.key(0), 9, 8, owner=False)).update is None
