"""The protocol by what theory says of it, and by tests from both ends of its plumbing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from papers.mplp import network
from papers.mplp.agents import init_gru, init_stateless
from papers.mplp.lifetime import collect_statistics, live, mean_loss, meta_loss
from papers.mplp.network import (
    Layer,
    Protocol,
    Spec,
    elementwise_loss,
    init_network,
    init_protocol,
    init_state,
    init_statistics,
    inner_update,
    predict,
)

SPECS = {
    "stateful": Spec((3, 5, 2), "relu", "l2", 3, 2),
    "stateless": Spec((3, 5, 2), "relu", "l2", 3, 0),
    "classes": Spec((4, 5, 3), "sigmoid", "ce", 2, 3, shared=True),
}


def some_lifetime(spec: Spec, steps: int = 3, networks: int = 2, batch: int = 4) -> tuple:
    """A protocol with statistics, networks, batches."""
    keys = jax.random.split(jax.random.key(0), 4)
    protocol = init_protocol(keys[0], spec)
    protocol = protocol._replace(
        layers=tuple(dense._replace(scale_w=0.5 * dense.scale_w + 0.3) for dense in protocol.layers)
    )
    x = jax.random.normal(keys[1], (steps, networks, batch, spec.sizes[0]))
    y = jax.random.normal(keys[2], (steps, networks, batch, spec.sizes[-1]))
    if spec.loss == "ce":
        y = jax.nn.one_hot(y.argmax(-1), spec.sizes[-1], dtype=x.dtype)
    layers = init_network(keys[3], spec, networks)
    first = jax.tree.map(lambda a: a[None, :1], layers)
    statistics = collect_statistics(protocol, spec, first, x[None, :, :1], y[None, :, :1], 1.0)
    return protocol, statistics, layers, x, y


def close(one: object, other: object, **tolerances: float) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


def test_gradient_descent_is_a_protocol(monkeypatch: pytest.MonkeyPatch, x64: None) -> None:
    """With agents written by hand - pass on what the chain rule says - the plumbing is backpropagation."""
    spec, rate = SPECS["stateful"], 0.1
    _, _, layers, x, y = some_lifetime(spec, steps=1)
    batch, outputs = x.shape[2], spec.sizes[-1]

    def speak(agent: str, _s: object, blocks: list, _c: object, _m: int, _collect: bool) -> tuple:
        if agent == "loss":  # of elementwise (t - p)^2 / 2 the message is t - p
            return None, blocks[3], None, None
        if agent == "relu":
            return None, blocks[0] * (blocks[1] > 0), None, None
        if agent == "bias":
            return (blocks[0])[0], blocks[0], None, None
        message, w, seen = blocks  # weights: the layer above takes the mean over outputs for the sum
        return (message * seen)[0], message * w * w.shape[-1], None, None

    monkeypatch.setattr(network, "_speak", speak)
    dense = network.Agents("weight", "bias", jnp.float64(rate), jnp.float64(rate), "relu")
    protocol = Protocol((dense, dense._replace(operation=None)), "loss")
    state, _ = inner_update(protocol, init_statistics(spec), spec, init_state(spec, layers, batch), x[0], y[0])

    def loss(layers: tuple[Layer, ...]) -> jax.Array:
        return elementwise_loss(spec, predict(spec, layers, x[0]), y[0]).sum() / batch

    assert outputs == 2
    close(state.layers, jax.tree.map(lambda p, g: p - rate * g, layers, jax.grad(loss)(layers)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_hidden_units_have_no_order(name: str, x64: None) -> None:
    spec = SPECS[name]
    protocol, statistics, layers, x, y = some_lifetime(spec)
    order = np.array([3, 1, 4, 0, 2])

    def permuted(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        first, second = layers
        return Layer(first.w[..., order], first.b[..., order]), Layer(second.w[..., order, :], second.b)

    ours = live(protocol, statistics, spec, permuted(layers), x, y)
    close(ours, permuted(live(protocol, statistics, spec, layers, x, y)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_neither_examples_nor_networks_have_an_order(name: str, x64: None) -> None:
    spec = SPECS[name]
    protocol, statistics, layers, x, y = some_lifetime(spec)
    whole = live(protocol, statistics, spec, layers, x, y)
    order = np.array([2, 0, 3, 1])
    close(live(protocol, statistics, spec, layers, x[:, :, order], y[:, :, order]), whole, rtol=1e-9, atol=1e-12)
    alone = live(protocol, statistics, spec, jax.tree.map(lambda a: a[1:], layers), x[:, 1:], y[:, 1:])
    close(alone, jax.tree.map(lambda a: a[:, 1:], whole), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_with_factors_of_zero_nothing_changes(name: str) -> None:
    spec = SPECS[name]
    protocol, statistics, layers, x, y = some_lifetime(spec)
    still = protocol._replace(
        layers=tuple(dense._replace(scale_w=jnp.zeros(()), scale_b=jnp.zeros(())) for dense in protocol.layers)
    )
    for array, start in zip(
        jax.tree.leaves(live(still, statistics, spec, layers, x, y)), jax.tree.leaves(layers), strict=True
    ):
        np.testing.assert_array_equal(array, jnp.broadcast_to(start, array.shape))


def test_agents_that_keep_everything_do_not_move(x64: None) -> None:
    """With keep gates open wide the states stay at zero; states are always inside of (-1, 1)."""
    spec = SPECS["stateful"]
    protocol, statistics, layers, x, y = some_lifetime(spec)
    state = init_state(spec, layers, x.shape[2])
    kept = jax.tree.map(
        lambda node: node._replace(keep_b=node.keep_b + 1e4) if isinstance(node, network.GRU) else node,
        protocol,
        is_leaf=lambda node: isinstance(node, network.GRU),
    )
    after, _ = inner_update(kept, statistics, spec, state, x[0], y[0])
    close(after.carries, state.carries, atol=1e-12)
    for _ in range(3):
        state, _ = inner_update(protocol, statistics, spec, state, 100 * x[0], 100 * y[0])
    assert all(float(jnp.abs(carry).max()) < 1 for carry in jax.tree.leaves(state.carries))


@pytest.mark.parametrize("name", SPECS)
def test_the_meta_gradient_equals_differences(name: str, x64: None) -> None:
    spec = dataclasses.replace(SPECS[name], sizes=(2, 3, SPECS[name].sizes[-1]), activation="sigmoid")
    protocol, statistics, layers, x, y = some_lifetime(spec)

    def objective(protocol: Protocol) -> jax.Array:
        after = live(protocol, statistics, spec, layers, x, y)
        return meta_loss(spec, after, (x, y), (x[0], y[0]), 0.7)

    slope = jax.grad(objective)(protocol)
    rng, step = np.random.default_rng(1), 1e-8  # so short that hardly a rectified unit changes sides
    way = jax.tree.map(lambda array: rng.standard_normal(array.shape), protocol)
    ahead, behind = (
        objective(jax.tree.map(lambda p, w, sign=sign: p + sign * step * w, protocol, way)) for sign in (1, -1)
    )
    along = sum(jax.tree.leaves(jax.tree.map(lambda s, w: (s * w).sum(), slope, way)))
    np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_blocks_change_nothing(name: str, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS[name]
    protocol, statistics, layers, x, y = some_lifetime(spec)

    def loss(protocol: Protocol) -> jax.Array:
        after = live(protocol, statistics, spec, layers, x, y)
        return mean_loss(spec, jax.tree.map(lambda a: a[-1], after), x[0], y[0]).mean()

    whole = jax.value_and_grad(loss)(protocol)
    monkeypatch.setattr("papers.mplp.agents.BLOCK", 7)
    close(jax.value_and_grad(loss)(protocol), whole, rtol=1e-9, atol=1e-12)


def test_lengths_that_count() -> None:
    """Of a longer lifetime the first steps alone are a shorter one."""
    spec = SPECS["stateless"]
    protocol, statistics, layers, x, y = some_lifetime(spec)
    after, seen, unseen = live(protocol, statistics, spec, layers, x, y), (x, y), (x[0], y[0])
    short = meta_loss(spec, jax.tree.map(lambda a: a[:2], after), (x[:2], y[:2]), unseen, 0.7)
    np.testing.assert_allclose(meta_loss(spec, after, seen, unseen, 0.7, jnp.int32(2)), short, rtol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_one_protocol_serves_any_width(name: str) -> None:
    spec = SPECS[name]
    protocol, statistics, _, x, y = some_lifetime(spec)
    wide = dataclasses.replace(spec, sizes=(spec.sizes[0], 9, spec.sizes[-1]))
    after = live(protocol, statistics, wide, init_network(jax.random.key(1), wide, 2), x, y)
    assert after[0].w.shape == (3, 2, spec.sizes[0], 9)


def test_published_numbers_of_parameters() -> None:
    """Of the sinusoids' agents 115,023 trained numbers, of the MNIST protocol 46,779 (card)."""

    def count(spec: Spec) -> int:
        return sum(array.size for array in jax.tree.leaves(init_protocol(jax.random.key(0), spec)))

    assert count(Spec((1, 20, 20, 1))) == 115_023
    assert count(Spec((144, 50, 10), "sigmoid", "ce", 4, 7, shared=True)) == 46_779
    assert count(Spec((1, 20, 20, 1), hidden=0)) == 64_364


def test_agents_start_as_published() -> None:
    agent = init_gru(jax.random.key(0), 10, 24)
    assert float(agent.keep_b.max()) == float(agent.reset_b.max()) == -1
    assert agent.new_x.b2 is None
    assert init_stateless(jax.random.key(0), 9, 8, owner=False).update is None
