"""The fast meta-gradient against the plain one, and its parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import agree

from papers.anml.fast_meta_learning import (
    fast_inner_loop,
    fast_meta_gradient,
    images_at_once,
    mean_gradient,
    probes,
)
from papers.anml.meta_learning import Dense, cross_entropy, gates, inner_loop, meta_gradient
from papers.anml.networks import trunk
from papers.anml.tests.test_meta_learning import BY_KIND, KINDS, RATE, STEPS, setting

pytestmark = pytest.mark.usefixtures("x64")


@BY_KIND
@pytest.mark.parametrize("gradient", ["second", "first"])
def test_fast_meta_gradient_is_the_plain_one(kind, gradient):
    scheme, learner, x, labels = setting(kind)
    scheme = scheme._replace(gradient=gradient, rate=RATE)

    @partial(jax.jit, static_argnums=0)
    def run(function, learner):
        return function(learner, scheme, x, labels, STEPS)

    agree(run(fast_meta_gradient, learner), run(meta_gradient, learner), 1e-11)


@BY_KIND
def test_traces_stand_for_the_dense_layers(kind):
    """Multiplied out, they are the layers after the inner loop."""
    scheme, learner, x, labels = setting(kind)
    x, label = x[-STEPS:], labels[-1]

    @jax.jit
    def both(learner):
        source = x if scheme.plastic == "all" else trunk(learner.trunk, scheme.blocks, x)
        zeros = probes(learner.head, STEPS)
        fast = fast_inner_loop(learner, scheme, source, gates(learner, scheme, x), label, zeros)
        return fast, inner_loop(learner, scheme, x, label)

    (convs, traces), learned = both(learner)
    head = tuple(
        Dense(layer.w - scheme.rate * trace.errors.T @ trace.inputs, layer.b - scheme.rate * trace.errors.sum(0))
        for layer, trace in zip(learner.head, traces, strict=True)
    )
    agree(head, learned.head, 1e-12)
    if scheme.plastic == "all":
        agree(convs, learned.trunk, 1e-12)
    else:
        assert convs is None


# --- parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "at_once"),
    [
        pytest.param(1, 1, marks=pytest.mark.slow),
        pytest.param(12, 12, marks=pytest.mark.slow),
        (12, 4),
        (13, 1),
        pytest.param(30, 10, marks=pytest.mark.slow),
    ],
)
def test_mean_gradient_in_parts_is_that_of_the_whole(n, at_once):
    rng = np.random.default_rng(n)
    layer = Dense(jnp.asarray(rng.standard_normal((4, 6))), jnp.asarray(rng.standard_normal(4)))
    x, labels = jnp.asarray(rng.standard_normal((n, 2, 3))), jnp.asarray(rng.integers(0, 4, n))

    def class_scores(layer, x):
        return jnp.tanh(x.reshape(len(x), -1)) @ layer.w.T + layer.b

    expected = jax.jit(jax.grad(lambda layer: cross_entropy(class_scores(layer, x), labels).mean()))(layer)
    in_parts = jax.jit(lambda layer: mean_gradient(class_scores, layer, x, labels, at_once))
    gradient, losses, correct = in_parts(layer)
    agree(gradient, expected, 1e-12)
    agree(losses, cross_entropy(class_scores(layer, x), labels), 1e-12)
    np.testing.assert_array_equal(correct, class_scores(layer, x).argmax(1) == labels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 13, 84, 85])
def test_parts_are_of_the_same_size(kind, count, monkeypatch):
    scheme = KINDS[kind][0]
    assert count % images_at_once(scheme, count) == 0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert images_at_once(scheme, count) == count
