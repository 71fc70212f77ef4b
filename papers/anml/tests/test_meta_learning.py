"""The meta-gradient against theory: finite differences, its limits, symmetries, closed gates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import agree

from papers.anml.meta_learning import (
    Dense,
    Learner,
    Scheme,
    cross_entropy,
    gates,
    inner_loop,
    meta_gradient,
    meta_loss,
    modulated,
    reset_row,
)
from papers.anml.networks import trunk
from papers.anml.tests.conftest import NORMED, PLAIN, scores, some_batch, some_learner

pytestmark = pytest.mark.usefixtures("x64")

STEPS, RATE = 3, 0.1
KINDS = {
    "anml": (Scheme(NORMED, "all"), {"blocks": NORMED}),
    "oml": (Scheme(PLAIN, "head"), {"blocks": PLAIN, "nm": 0, "hidden": (6,)}),
    "linear": (Scheme(PLAIN, "head"), {"blocks": PLAIN, "nm": 0}),
    "whole": (Scheme(PLAIN, "all"), {"blocks": PLAIN, "nm": 0, "hidden": (6,)}),
}
"""ANML; OML with two dense layers and with one; everything plastic, two dense layers, no gate."""


BY_KIND = pytest.mark.parametrize(
    "kind", ["anml", "oml", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("linear", "whole"))]
)


def setting(kind: str) -> tuple[Scheme, Learner, jax.Array, jax.Array]:
    scheme, shape = KINDS[kind]
    return scheme, some_learner(**shape), *some_batch(8 if scheme.blocks is NORMED else 12, steps=STEPS)


@partial(jax.jit, static_argnums=(0, 1))
def _meta(scheme, steps, learner, x, labels, rate):
    return meta_gradient(learner, scheme._replace(rate=rate), x, labels, steps)


def meta(scheme, learner, x, labels, rate=RATE, *, gradient="second", steps=STEPS):
    """Compiled once for each kind of scheme; the rate may vary."""
    return _meta(scheme._replace(gradient=gradient, rate=0.0), steps, learner, x, labels, rate)


@partial(jax.jit, static_argnums=0)
def _inner(scheme, learner, x, label, rate):
    return inner_loop(learner, scheme._replace(rate=rate), x, label)


def inner(scheme, learner, x, label, rate=RATE):
    """The learner after the inner loop. Compiled once for each kind of scheme and number of images."""
    return _inner(scheme._replace(rate=0.0), learner, x, label, rate)


@partial(jax.jit, static_argnums=0)
def ordinary_gradient(scheme, learner, x, labels):
    return jax.grad(lambda learner: cross_entropy(scores(learner, scheme, x), labels).mean())(learner)


def size(tree) -> float:
    return float(jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree))))


def difference(a, b):
    return jax.tree.map(jnp.subtract, a, b)


# --- without learning ----------------------------------------------------------------------------------------


@BY_KIND
def test_rate_zero_changes_nothing(kind):
    scheme, learner, x, labels = setting(kind)
    agree(inner(scheme, learner, x[-STEPS:], labels[-1], 0.0), learner, 0)


@BY_KIND
def test_only_what_is_plastic_learns(kind):
    scheme, learner, x, labels = setting(kind)
    learned = inner(scheme, learner, x[-STEPS:], labels[-1])
    agree((learned.nm_trunk, learned.nm_out), (learner.nm_trunk, learner.nm_out), 0)
    assert size(difference(learned.head, learner.head)) > 0
    assert (size(difference(learned.trunk, learner.trunk)) > 0) == (scheme.plastic == "all")


@BY_KIND
@pytest.mark.parametrize("gradient", ["second", "first"])
def test_rate_zero_gives_the_ordinary_gradient(kind, gradient):
    """So both orders agree there."""
    scheme, learner, x, labels = setting(kind)
    expected = ordinary_gradient(scheme, learner, x, labels)
    actual, _ = meta(scheme, learner, x, labels, 0.0, gradient=gradient)
    agree(actual, expected, 1e-12)


# --- with it -------------------------------------------------------------------------------------------------


@BY_KIND
def test_second_order_gradient_equals_finite_differences(kind):
    scheme, learner, x, labels = setting(kind)
    gradient, metrics = meta(scheme, learner, x, labels)
    first, _ = meta(scheme, learner, x, labels, gradient="first")
    rng = np.random.default_rng(3)
    parts = [name for name in Learner._fields if getattr(learner, name) is not None]
    directions = []
    for chosen in (parts, *([part] for part in parts)):
        random = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), learner)
        still = jax.tree.map(jnp.zeros_like, learner)
        directions.append(still._replace(**{name: getattr(random, name) for name in chosen}))
    width = 1e-6
    moved = [
        jax.tree.map(lambda a, b, sign=sign: a + sign * width * b, learner, direction)
        for direction in directions
        for sign in (0, 1, -1)
    ]

    @jax.jit
    def losses(learners):
        return jax.vmap(lambda learner: meta_loss(learner, scheme._replace(rate=RATE), x, labels, STEPS)[0])(learners)

    actual = losses(jax.tree.map(lambda *leaves: jnp.stack(leaves), *moved)).reshape(-1, 3)
    agree(actual[:, 0], jnp.full(len(actual), metrics["loss"]), 1e-12)
    slopes = (actual[:, 1] - actual[:, 2]) / (2 * width)

    def along(gradient):
        products = [jax.tree.map(lambda a, b: (a * b).sum(), gradient, direction) for direction in directions]
        return np.array([float(sum(jax.tree.leaves(product))) for product in products])

    np.testing.assert_allclose(along(gradient), slopes, rtol=1e-6, atol=1e-8)
    assert (np.abs(along(first) / slopes - 1) > 1e-3).all()


@BY_KIND
def test_first_order_gradient_differs_by_a_multiple_of_a_small_rate(kind):
    scheme, learner, x, labels = setting(kind)
    apart, sizes = [], []
    for rate in (1e-4, 2e-4, RATE):
        both = [meta(scheme, learner, x, labels, rate, gradient=order)[0] for order in ("second", "first")]
        apart.append(size(difference(*both)))
        sizes.append(size(both[0]))
    assert apart[1] / apart[0] == pytest.approx(2, rel=0.02)
    assert apart[0] < 0.01 * sizes[0]
    assert apart[2] > 0.01 * sizes[2]


def test_metrics_are_of_the_two_parts_of_the_batch():
    scheme, learner, x, labels = setting("anml")
    _, metrics = meta(scheme, learner, x, labels)
    actual = scores(inner(scheme, learner, x[-STEPS:], labels[-1]), scheme, x)
    losses, right = cross_entropy(actual, labels), (actual.argmax(1) == labels).astype(actual.dtype)
    expected = {
        "loss": losses.mean(),
        "remember_loss": losses[:-STEPS].mean(),
        "learned_loss": losses[-STEPS:].mean(),
        "remember_accuracy": right[:-STEPS].mean(),
        "learned_accuracy": right[-STEPS:].mean(),
    }
    agree(metrics, expected, 1e-10)


def test_a_step_of_the_last_layer_by_hand():
    """One image: the output weights move by the outer product of softmax minus target with the gated input."""
    scheme, learner, x, labels = setting("anml")
    head = inner(scheme, learner, x[-1:], labels[-1]).head
    g, h = jax.jit(lambda x: (gates(learner, scheme, x), trunk(learner.trunk, scheme.blocks, x)))(x[-1:])
    error = jax.nn.softmax(scores(learner, scheme, x[-1:]))[0] - jnp.eye(7)[labels[-1]]
    agree(head[0].w, learner.head[0].w - RATE * jnp.outer(error, (g * h)[0]), 1e-12)
    agree(head[0].b, learner.head[0].b - RATE * error, 1e-12)


# --- gates ---------------------------------------------------------------------------------------------------


def set_gates(learner: Learner, logit: np.ndarray) -> Learner:
    """A neuromodulatory network that ignores its input."""
    out = learner.nm_out
    return learner._replace(nm_out=Dense(jnp.zeros_like(out.w), jnp.asarray(logit)))


def test_gates_of_one_are_the_plain_network():
    scheme, learner, x, labels = setting("anml")
    open_ = set_gates(learner, np.full(36, 50.0))
    np.testing.assert_array_equal(jax.jit(lambda x: gates(open_, scheme, x))(x), 1)
    plain = learner._replace(nm_trunk=None, nm_out=None)
    agree(scores(open_, scheme, x), scores(plain, scheme, x), 0)
    actual, metrics = meta(scheme, open_, x, labels)
    expected, plain_metrics = meta(scheme, plain, x, labels)
    agree((actual.trunk, actual.head), (expected.trunk, expected.head), 1e-12)
    agree(metrics, plain_metrics, 1e-12)


def test_a_closed_gate_stops_learning_on_both_sides():
    """Its unit's output weights stay, and what only that unit hears gets no gradient."""
    scheme, learner, x, labels = setting("anml")
    channel = 1  # all units of one channel of the last convolution, and one more unit
    shut = np.arange(36) % 4 == channel
    shut[2] = True
    closed = set_gates(learner, np.where(shut, -800.0, np.linspace(-1, 1, 36)))
    np.testing.assert_array_equal(jax.jit(lambda x: gates(closed, scheme, x))(x)[:, shut], 0)
    learned = inner(scheme, closed, x[-STEPS:], labels[-1])
    np.testing.assert_array_equal(learned.head[0].w[:, shut], closed.head[0].w[:, shut])
    moved = np.abs(np.asarray(learned.head[0].w - closed.head[0].w)).max(0)
    assert (moved > 0).sum() > 10
    for old, new in zip(closed.trunk[-1], learned.trunk[-1], strict=True):
        np.testing.assert_array_equal(new[..., channel], old[..., channel])
    assert size(difference(learned.trunk[-1].w[..., 0], closed.trunk[-1].w[..., 0])) > 0
    gradient, _ = meta(scheme, closed, x, labels)
    for slope in gradient.trunk[-1]:
        np.testing.assert_array_equal(slope[..., channel], 0)
    np.testing.assert_array_equal(gradient.head[0].w[:, shut], 0)
    np.testing.assert_array_equal(gradient.nm_out.w[shut], 0)


def test_no_gates_without_a_neuromodulatory_network():
    scheme, learner, x, _ = setting("linear")
    assert gates(learner, scheme, x) is None
    h = jnp.ones((2, 3))
    assert modulated(h, None) is h


# --- symmetries ----------------------------------------------------------------------------------------------


def permuted(head: tuple[Dense, ...], order: np.ndarray) -> tuple[Dense, ...]:
    return (*head[:-1], Dense(head[-1].w[order], head[-1].b[order]))


@pytest.mark.parametrize("kind", ["anml", "oml"])
@pytest.mark.parametrize("gradient", ["second", "first"])
def test_permuting_classes_permutes_outputs(kind, gradient):
    scheme, learner, x, labels = setting(kind)
    order = np.random.default_rng(4).permutation(7)
    renamed = jnp.asarray(order.argsort())[labels]  # class order[i] is now called i
    other = learner._replace(head=permuted(learner.head, order))
    agree(scores(other, scheme, x), scores(learner, scheme, x)[:, order], 1e-12)
    actual, renamed_metrics = meta(scheme, other, x, renamed, gradient=gradient)
    expected, metrics = meta(scheme, learner, x, labels, gradient=gradient)
    agree(actual, expected._replace(head=permuted(expected.head, order)), 1e-12)
    agree(renamed_metrics, metrics, 1e-12)
    head = inner(scheme, other, x[-STEPS:], renamed[-1]).head
    agree(head, permuted(inner(scheme, learner, x[-STEPS:], labels[-1]).head, order), 1e-12)


def test_order_of_the_remembered_images_is_nothing():
    scheme, learner, x, labels = setting("anml")
    order = np.array([3, 0, 4, 2, 1, 5, 6, 7])
    agree(meta(scheme, learner, x[order], labels[order])[0], meta(scheme, learner, x, labels)[0], 1e-12)


# --- pieces --------------------------------------------------------------------------------------------------


def test_cross_entropy():
    actual = jnp.array([[1.0, 2.0, 3.0], [1e4, 0.0, -1e4]])
    expected = [np.log(np.exp([1, 2, 3]).sum()) - 2, 1e4]
    agree(cross_entropy(actual, jnp.array([1, 1])), jnp.array(expected), 1e-12)
    agree(cross_entropy(jnp.zeros((1, 7)), jnp.array([3])), jnp.log(jnp.array([7.0])), 1e-12)


def test_reset_row():
    learner = some_learner(channels=300, nm=0, hidden=(2000,))
    actual = reset_row(learner.head, jax.random.key(0), jnp.asarray(3))
    agree(actual[0], learner.head[0], 0)
    np.testing.assert_array_equal(actual[1].b, learner.head[1].b)
    others = np.arange(7) != 3
    np.testing.assert_array_equal(actual[1].w[others], learner.head[1].w[others])
    row = np.asarray(actual[1].w[3])
    assert row.std() == pytest.approx((2 / 2000) ** 0.5, rel=0.08)
    assert abs(row.mean()) < 5 * (2 / 2000 / 2000) ** 0.5
    assert (row != np.asarray(learner.head[1].w[3])).all()
    again = reset_row(learner.head, jax.random.key(1), jnp.asarray(3))
    assert (np.asarray(again[1].w[3]) != row).all()
