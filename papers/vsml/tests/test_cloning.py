"""Cloning: its targets are true slopes, its grids are networks, and a clone by hand is gradient descent."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import agree
from memory_recorder import resumes

from papers.vsml import cloning, train_clones
from papers.vsml.cloning import (
    Rule,
    clone_network,
    cloning_loss,
    descend,
    draw_signals,
    draw_weights,
    forward_phase,
    fresh,
    logits,
    network_loss,
    targets,
)
from papers.vsml.config import Clone, CloneOnPolicy
from papers.vsml.layers import Dense
from papers.vsml.network import begin, learn_example
from papers.vsml.sub_rnn import State, SubRNN, init_sub_rnn

RULE = Rule(0.1, 0.03)


def some_network(sizes: tuple[int, ...], episodes: int = 2, length: int = 4) -> tuple:
    rng = np.random.default_rng(0)
    shapes = [(episodes, b, a) for a, b in itertools.pairwise(sizes)]
    layers = tuple((rng.standard_normal(shape) / shape[-1] ** 0.5, rng.standard_normal(shape) / 50) for shape in shapes)
    x = jnp.asarray(rng.standard_normal((length, episodes, sizes[0])))
    labels = jnp.asarray(rng.integers(0, sizes[-1], (length, episodes)))
    return jax.tree.map(jnp.asarray, layers), x, labels


@pytest.mark.parametrize(
    "sizes",
    [pytest.param((3, 4), marks=pytest.mark.slow), pytest.param((3, 5, 4), marks=pytest.mark.slow), (3, 5, 2, 4)],
)
def test_targets_are_the_slopes_of_a_network(x64: None, sizes: tuple) -> None:
    """One example: descent by the targets equals descent by automatic differentiation (card, invariant 5)."""
    layers, x, labels = some_network(sizes, episodes=1, length=2)

    def loss(layers: tuple) -> jax.Array:
        heard = x[0]
        for w, b in layers:
            heard = (jnp.tanh(heard)[:, None] * w + b).sum(-1)
        return optax.softmax_cross_entropy_with_integer_labels(heard, labels[0]).sum()

    slopes = jax.grad(loss)(layers)
    stepped = [(w - RULE.rate * dw, b - RULE.bias_rate * db) for (w, b), (dw, db) in zip(layers, slopes, strict=True)]
    heard = x[1]
    for w, b in stepped:
        heard = (jnp.tanh(heard)[:, None] * w + b).sum(-1)
    stepped, _ = descend(RULE, tuple(layers), x[0], jax.nn.one_hot(labels[0], sizes[-1]))
    np.testing.assert_allclose(logits(stepped, x[1]), heard, atol=1e-12)


def unroll(params: SubRNN, layers: tuple, x: jax.Array, labels: jax.Array, sizes: tuple, ticks: int) -> tuple:
    """Logits and final memory of networks of clones that begin with these weights and biases."""
    network = clone_network(sizes, params.units, ticks)
    cells = tuple(fresh(*layer, params.units).c for layer in layers)
    memory, logits = begin(params, network, cells, sizes[-1], x.dtype), []
    for one, label in zip(x, jax.nn.one_hot(labels, sizes[-1]), strict=True):
        memory, z = learn_example(params, network, memory, one, label)
        logits.append(z)
    return jnp.stack(logits), memory


@pytest.mark.parametrize("sizes", [pytest.param((3, 4), marks=pytest.mark.slow), (3, 5, 4)])
def test_synapses_that_do_as_told_are_gradient_descent(
    x64: None, sizes: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sub-RNNs replaced by ones that do exactly what they should, a network of them is the reference.

    All channels of messages but the first are noise, which nobody may hear.
    """

    def tick(
        layer: Dense, params: SubRNN, offsets: object, state: State, up: jax.Array, down: jax.Array, ticks: int
    ) -> tuple:
        assert len(up) == 1
        aim = targets(RULE, state.c[0], state.c[1], up[0][:, None], (down[0] if len(down) else up[0, :, :1])[..., None])
        if len(down):
            np.testing.assert_array_equal(down[1], 1)
            state = state._replace(c=state.c.at[0].add(aim.dw).at[1].add(aim.db))
        return state, *(jnp.stack([m, jnp.full_like(m, 7)]) for m in (aim.forward.sum(-1), aim.backward.sum(-2)))

    monkeypatch.setattr(Dense, "tick", tick)
    layers, x, labels = some_network(sizes)
    z, memory = unroll(init_sub_rnn(jax.random.key(0), 4, 2), layers, x, labels, sizes, 2)
    for one, label, logits_of_clones in zip(x, jax.nn.one_hot(labels, sizes[-1]), z, strict=True):
        layers, reference = descend(RULE, layers, one, label)
        agree(logits_of_clones, reference, 1e-12)
    agree(tuple((state.c[0], state.c[1]) for state in memory.states), layers, 1e-12)


def test_what_is_trained_is_what_networks_do(x64: None) -> None:
    """The phases of the cloning loss, with sums in between, are an example of a network of clones."""
    sizes, params = (3, 5, 4), init_sub_rnn(jax.random.key(3), 6, 2)
    params = params._replace(forward_b=jnp.array([0.3, 9.0]), backward_b=jnp.array([-0.2, 9.0]))
    layers, x, labels = some_network(sizes, length=2)
    label = jax.nn.one_hot(labels, 4)
    states = tuple(fresh(*layer, 6) for layer in layers)
    z, memory = unroll(params, layers, x, labels, sizes, 2)
    _, (ticked, _) = network_loss(params, RULE, states, x, label, 2)
    agree(ticked, memory.states, 1e-12)
    heard = x[0]
    for state in states:
        heard = forward_phase(params, state, heard, 2)[1].sum(-1)
    agree(z[0], heard, 1e-12)


def test_losses_are_zero_for_backpropagation(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(params: object, state: State, x: jax.Array, ticks: int) -> tuple[State, jax.Array]:
        aim = targets(RULE, state.c[0], state.c[1], x[:, None], 0 * state.c[0])
        return state, aim.forward

    def backward(params: object, state: State, x: jax.Array, e: jax.Array, ticks: int) -> tuple[State, jax.Array]:
        aim = targets(RULE, state.c[0], state.c[1], x[:, None], e[..., None])
        return state._replace(c=state.c.at[0].add(aim.dw).at[1].add(aim.db)), aim.backward

    monkeypatch.setattr(cloning, "forward_phase", forward)
    monkeypatch.setattr(cloning, "backward_phase", backward)
    params = init_sub_rnn(jax.random.key(0), 4, 2)
    grids = fresh(*draw_weights(jax.random.key(1), (3, 2, 4)), 4)
    xs, es = draw_signals(jax.random.key(2), "random", jnp.zeros((1, 1)), (5, 3, 2, 4))
    loss, _ = cloning_loss(params, RULE, grids, xs, es, 2)
    assert float(loss) < 1e-20
    layers, x, labels = some_network((3, 5, 4))
    states = tuple(fresh(*layer, 4) for layer in layers)
    loss, (states, _) = network_loss(params, RULE, states, x, jax.nn.one_hot(labels, 4), 2)
    assert float(loss) < 1e-20
    for one, label in zip(x, jax.nn.one_hot(labels, 4), strict=True):
        layers, _ = descend(RULE, layers, one, label)
    agree(tuple((state.c[0], state.c[1]) for state in states), layers, 1e-12)


def test_loss_counts_what_nodes_hear(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same error in every synapse counts more than errors that cancel, by the number of synapses."""
    shape, params = (1, 1, 8), init_sub_rnn(jax.random.key(0), 4, 2)

    def with_errors(errors: np.ndarray) -> dict:
        def forward(params: object, state: State, x: jax.Array, ticks: int) -> tuple[State, jax.Array]:
            return state, jnp.tanh(x)[:, None] * state.c[0] + state.c[1] + errors

        monkeypatch.setattr(cloning, "forward_phase", forward)
        xs, es = draw_signals(jax.random.key(2), "random", jnp.zeros((1, 1)), (1, *shape))
        return cloning_loss(params, RULE, fresh(*draw_weights(jax.random.key(1), shape), 4), xs, es, 2)[1][1]

    alike, cancelling = with_errors(np.full(8, 0.1)), with_errors(0.1 * (-1) ** np.arange(8))
    assert float(alike["forward"]) == pytest.approx(0.01) == float(cancelling["forward"])
    assert float(alike["sum_forward"]) == pytest.approx(0.08)
    assert float(cancelling["sum_forward"]) == pytest.approx(0, abs=1e-12)


def test_signals_of_images_are_pixels_and_errors_of_a_softmax() -> None:
    images = jnp.arange(12.0).reshape(3, 4) + 100
    xs, es = draw_signals(jax.random.key(0), "mnist", images, (5, 6, 7, 8))
    assert xs.shape == (5, 6, 8)
    assert es.shape == (5, 6, 7)
    assert set(np.unique(xs)) <= set(np.asarray(images).ravel().tolist())
    np.testing.assert_allclose(es.sum(-1), 0, atol=1e-5)
    assert bool(((es < 0).sum(-1) == 1).all())


def test_random_signals_have_alike_inputs_and_bounded_errors() -> None:
    xs, es = draw_signals(jax.random.key(0), "random", jnp.zeros((1, 1)), (50, 6, 7, 8))
    assert bool((xs[..., :4] == xs[..., :1]).all())
    assert bool((xs[..., 4:] != xs[..., :1]).all())
    assert float(jnp.abs(es).max()) <= 1


def test_cloned_rates_begin_high_and_end_as_asked(memory: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty times the rates for a tenth of the steps, then an exponential fall until six tenths."""

    def told(params: SubRNN, rule: Rule, grids: State, xs: jax.Array, es: jax.Array, ticks: int) -> tuple:
        rates = {"weight": jnp.float32(rule.rate), "bias": jnp.float32(rule.bias_rate)}
        return sum(array.sum() for array in jax.tree.leaves(params)), (grids, rates)

    monkeypatch.setattr(train_clones, "cloning_loss", told)
    monkeypatch.setattr(train_clones, "CHUNK", 1)
    recorder = memory()
    config = Clone(units=4, iterations=20, grids=1, inputs=2, outputs=2, rate=0.01, bias_rate=0.001, eased=30.0)
    train_clones.train(config, [0], recorder)
    weight, bias = (np.ravel([line[name] for _, line in recorder.lines]) for name in ("weight", "bias"))
    np.testing.assert_allclose(weight[:3], 0.3, rtol=1e-5)
    assert weight[7] == pytest.approx(0.01 * 30**0.5, rel=1e-5)
    assert (np.diff(weight[2:13]) < 0).all()
    np.testing.assert_allclose(weight[12:], 0.01, rtol=1e-5)
    np.testing.assert_allclose(bias, weight / 10, rtol=1e-5)


def test_weight_and_bias_are_kept_and_other_cells_forget(x64: None) -> None:
    """With zero parameters a tick writes nothing: two cells stay as they are, the others are halved."""
    params = jax.tree.map(jnp.zeros_like, init_sub_rnn(jax.random.key(0), 5, 2))
    state = State(jnp.zeros((5, 1, 2, 3)), jnp.ones((5, 1, 2, 3)))
    c = cloning.forward_phase(params, state, jnp.ones((1, 3)), 1)[0].c
    np.testing.assert_allclose(c[:2], 1, atol=1e-6)
    np.testing.assert_allclose(c[2:], 0.5, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("eased", [1.0, 30.0])
def test_cloning_learns_and_resumes_bit_by_bit(memory: type, eased: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short training lowers the loss; stopped and started again it ends with the same parameters."""
    monkeypatch.setattr(train_clones, "CHUNK", 100)
    config = Clone(units=6, iterations=200, eased=eased, grids=2, inputs=3, outputs=3, outer_rate=0.01)
    whole = memory()
    outcome = train_clones.train(config, [0, 1], whole)
    losses = np.array([line["loss"] for _, line in whole.lines])
    assert losses.shape == (2, 2)
    assert (losses[-1] < losses[0]).all()
    resumes(lambda recorder: train_clones.train(config, [0, 1], recorder), 100, outcome)


def test_what_diverges_begins_anew() -> None:
    old, new = (State(jnp.full((4, 3, 2, 2), value), jnp.full((4, 3, 2, 2), value)) for value in (1.0, 2.0))
    wild = old._replace(c=old.c.at[2, 1, 0, 1].set(-1e3))
    renewed = train_clones._diverged([old, wild])
    assert renewed.tolist() == [False, True, False]
    first, second = train_clones._renew_all(renewed, (new, new), (old, wild))
    np.testing.assert_array_equal(first.h[0, :, 0, 0], [1, 2, 1])
    np.testing.assert_array_equal(second.c[2, :, 0, 1], [1, 2, 1])


@pytest.mark.slow
def test_cloning_on_policy_learns(memory: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_clones, "CHUNK", 50)
    settings = {"units": 6, "ticks": 1, "examples": 2, "iterations": 100, "grids": 2, "inputs": 3, "outputs": 3}
    recorder = memory()
    train_clones.train(CloneOnPolicy(**settings, networks=2, side=2, hidden=(3,), life=40), [0, 1], recorder)
    losses = np.array([line["network_sum_forward"] for _, line in recorder.lines])
    assert (losses[-1] < losses[0]).all()
