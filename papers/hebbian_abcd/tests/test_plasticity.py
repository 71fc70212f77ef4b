"""The rule and the plastic network, from theory, and the fast step against the plain one."""

import itertools

import numpy as np
import pytest

from papers.hebbian_abcd.config import Walk
from papers.hebbian_abcd.evolution import birth
from papers.hebbian_abcd.fast_plasticity import live_step, still_step
from papers.hebbian_abcd.network import PlasticMLP
from papers.hebbian_abcd.plasticity import RULES, Coefficients, hebbian_update, normalised, of_columns

SIZES = (5, 7, 4, 3)


def drawn(rule: str = "ABCD_lr", members: int = 3) -> tuple[tuple, np.ndarray, np.ndarray]:
    """Weights by layer, rules as they are evolved (N, K, S), and observations of twenty steps."""
    rng = np.random.default_rng(0)
    weights = tuple(rng.uniform(-0.1, 0.1, (members, m, n)).astype(np.float32) for n, m in itertools.pairwise(SIZES))
    synapses = sum(layer[0].size for layer in weights)
    plastic = (0.3 * rng.standard_normal((members, len(RULES[rule]), synapses))).astype(np.float32)
    return weights, plastic, rng.standard_normal((20, members, SIZES[0])).astype(np.float32)


def packed(layers: tuple) -> np.ndarray:
    """Layers of each member one after the other, each (pre, post)."""
    return np.concatenate([layer.swapaxes(1, 2).reshape(len(layer), -1) for layer in layers], 1)


def columns_of(rule: str, plastic: np.ndarray) -> tuple[Coefficients, ...]:
    """The coefficients of each layer."""
    layers, start = [], 0
    for n, m in itertools.pairwise(SIZES):
        part = plastic[..., start : start + n * m].reshape(*plastic.shape[:2], n, m)
        layers.append(of_columns(rule, part.transpose(1, 0, 3, 2)))
        start += n * m
    return tuple(layers)


@pytest.mark.parametrize(("raw", "normalise"), [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("rule", RULES)
def test_the_fast_step_is_the_plain_one(rule: str, raw: bool, normalise: bool) -> None:
    weights, plastic, observations = drawn(rule)
    network, columns = PlasticMLP(SIZES, "raw" if raw else "tanh", normalise), columns_of(rule, plastic)
    fast, scales = packed(weights), np.ones((3, 3), np.float32)
    changes = birth(Walk(rule=rule), plastic, np.random.default_rng(0))[1]
    actions = np.empty((3, SIZES[-1]), np.float32)
    for x in observations:
        weights, expected = network.step(weights, columns, x)
        live_step(fast, scales, changes, x, np.array(SIZES), raw, normalise, actions)
        np.testing.assert_allclose(actions, expected, rtol=2e-3, atol=2e-4)


def test_without_a_learning_rate_it_is_the_static_network_to_the_last_bit() -> None:
    weights, plastic, observations = drawn()
    plastic[:, RULES["ABCD_lr"].index("eta")] = 0
    plastic_weights, static_weights = packed(weights), packed(weights)
    changes = birth(Walk(), plastic, np.random.default_rng(0))[1]
    actions, expected, scales = *np.empty((2, 3, SIZES[-1]), np.float32), np.ones((3, 3), np.float32)
    for x in observations:
        live_step(plastic_weights, scales, changes, x, np.array(SIZES), False, False, actions)
        still_step(static_weights, scales, x, np.array(SIZES), False, expected)
        assert (actions == expected).all()
    assert (plastic_weights == packed(weights)).all()


def test_correlation_alone_is_an_outer_product_and_the_constant_alone_a_drift() -> None:
    rng = np.random.default_rng(0)
    w, pre, post = rng.standard_normal((4, 5)), rng.standard_normal(5), rng.standard_normal(4)
    np.testing.assert_allclose(
        hebbian_update(w, Coefficients(a=1.0, eta=0.5), pre, post), w + 0.5 * np.outer(post, pre)
    )
    drift = w
    for _ in range(10):
        drift = hebbian_update(drift, Coefficients(d=0.2, eta=0.5), pre, post)
    np.testing.assert_allclose(drift, w + 10 * 0.5 * 0.2)


def test_hidden_neurons_have_no_order() -> None:
    """Exchanging them together with their rules leaves what is done as it was."""
    weights, plastic, observations = drawn()
    columns, order = columns_of("ABCD_lr", plastic), np.random.default_rng(1).permutation(SIZES[1])
    network = PlasticMLP(SIZES)

    def exchanged(layers: tuple, axes: tuple) -> tuple:
        return tuple(np.take(layer, order, axis) if axis else layer for layer, axis in zip(layers, axes, strict=True))

    other_weights = exchanged(weights, (-2, -1, None))
    parts = [
        exchanged(layers, (-2, -1, None))
        for layers in zip(*[[k.a, k.b, k.c, k.d, k.eta] for k in columns], strict=True)
    ]
    other_columns = tuple(Coefficients(a=a, b=b, c=c, d=d, eta=eta) for a, b, c, d, eta in zip(*parts, strict=True))
    for x in observations:
        weights, actions = network.step(weights, columns, x)
        other_weights, other_actions = network.step(other_weights, other_columns, x)
        np.testing.assert_allclose(actions, other_actions, rtol=1e-4, atol=1e-5)


def test_a_normalised_layer_has_a_largest_weight_of_one_whatever_its_scale() -> None:
    w = np.random.default_rng(0).standard_normal((2, 4, 5))
    assert (np.abs(normalised(w)).max((-2, -1)) == 1).all()
    np.testing.assert_allclose(normalised(3 * w), normalised(w))


def test_actions_for_the_same_observation_change() -> None:
    """A copy in place of the weights would turn plasticity off without a word."""
    weights, plastic, observations = drawn()
    fast, scales, changes = (
        packed(weights),
        np.ones((3, 3), np.float32),
        birth(Walk(), plastic, np.random.default_rng(0))[1],
    )
    first, second = np.empty((2, 3, SIZES[-1]), np.float32)
    live_step(fast, scales, changes, observations[0], np.array(SIZES), False, False, first)
    live_step(fast, scales, changes, observations[0], np.array(SIZES), False, False, second)
    assert (np.abs(first - second).max(1) > 1e-3).all()
