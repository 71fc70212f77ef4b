"""The layers and the network by what theory says of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from papers.vsml.fast_lstm import gate_matrix, lstm
from papers.vsml.layers import Conv, Dense
from papers.vsml.meta_train import meta_loss
from papers.vsml.network import Network, initial_cells
from papers.vsml.sub_rnn import GateOffsets, State, SubRNN, init_sub_rnn, lstm_tick
from papers.vsml.tests.conftest import dense, learn, some_episode, some_params


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_tanh_of_single_precision_is_good_to_its_last_digits() -> None:
    """With a matrix that passes one number on, h' shows the cell's tanh: at c = x, f = 1, o = 1."""
    x = jnp.linspace(-12, 12, 20001)
    matrix = jnp.zeros((4, 2)).at[2, 1].set(40).at[3, 1].set(40)  # f and o open, i g = 0
    h, c = lstm(matrix, jnp.stack([jnp.zeros_like(x), jnp.ones_like(x)]), x[None])
    np.testing.assert_allclose(c[0], x, rtol=1e-6)
    np.testing.assert_allclose(h[0], np.tanh(np.asarray(x, np.float64)), rtol=0, atol=8e-7)


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 2e-6)])
def test_the_fast_lstm_is_the_plain_one(request: pytest.FixtureRequest, wide: bool, tolerance: float) -> None:
    """States and slopes of many sub-RNNs at once against one after the other, with and without double precision."""
    if wide:
        request.getfixturevalue("x64")
    params, offsets, (n, m, count) = some_params(5, 3), GateOffsets(-1.0, 2.0), (5, 3, 7)
    keys = jax.random.split(jax.random.key(3), 4)
    up, down = (jax.random.normal(key, (m, count)) for key in keys[:2])
    h, c = (jax.random.normal(key, (n, count)) for key in keys[2:])

    def plain(params: SubRNN, *arrays: jax.Array) -> tuple:
        return jax.vmap(lambda *one: lstm_tick(params, offsets, *one), 1, 1)(*arrays)

    def fast(params: SubRNN, up: jax.Array, down: jax.Array, h: jax.Array, c: jax.Array) -> tuple:
        columns = jnp.concatenate([h, up, down, jnp.ones((1, count), h.dtype)])
        return lstm(gate_matrix(params, offsets, m, m), columns, c)

    def slopes(tick: Callable[..., tuple]) -> tuple:
        def total(*args: object) -> jax.Array:
            h, c = tick(*args)
            return (h * jnp.sin(jnp.arange(count))).sum() + (c**2).sum()

        return jax.grad(total, argnums=(0, 1, 2, 3, 4))(params, up, down, h, c)

    arrays = (params, up, down, h, c)
    for a, b in ((fast(*arrays), plain(*arrays)), (slopes(fast), slopes(plain))):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * (1 + abs(y).max())), a, b)


def test_slopes_are_finite_far_outside() -> None:
    matrix = jnp.full((4, 2), 1e3)
    slopes = jax.grad(lambda m, x, c: sum(part.sum() for part in lstm(m, x, c)), argnums=(0, 1, 2))(
        matrix, jnp.full((2, 3), 1e3), jnp.full((1, 3), 1e3)
    )
    assert all(bool(jnp.isfinite(slope).all()) for slope in slopes)


@pytest.mark.parametrize(("sizes", "options"), [
    ((3, 2), {}),
    ((3, 2), {"backward_pass": True, "feed_label": True}),
    ((3, 4, 2), {"backward_pass": True, "feed_label": True}),
    ((3, 4, 2), {"micro_ticks": 1}),
])  # fmt: skip
@pytest.mark.parametrize("normed", [False, True])
def test_scan_equals_plain_loops(x64: None, sizes: tuple, options: dict, normed: bool) -> None:
    """One sub-RNN after the other, concatenated inputs, whole messages."""
    network, params = dense(*sizes, **options), some_params(normed=normed)
    cells, xs, labels = some_episode(network, length=3, episodes=1)
    p = jax.tree.map(np.asarray, params)
    n, m = 4, 3

    def tick(h: np.ndarray, c: np.ndarray, up: np.ndarray, down: np.ndarray) -> tuple:
        z = np.concatenate([up, down, h]) @ p.w + p.b
        i, g, f, o = np.split(z, 4)
        c = sigmoid(f + 5) * c + sigmoid(i - 5) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def send(h: np.ndarray, w: np.ndarray, b: np.ndarray, norm: object) -> np.ndarray:
        message = h @ w + b
        if norm is None:
            return message
        return (message - message.mean()) / np.sqrt(message.var() + 1e-5) * norm.scale + norm.offset

    states = [[[(np.zeros(n), np.asarray(cell)[:, 0, b, a]) for b in range(layer.outputs)] for a in range(layer.inputs)]
              for cell, layer in zip(cells, network.layers, strict=True)]  # fmt: skip
    downs = [np.zeros((layer.outputs, m)) for layer in network.layers]

    def layer_tick(k: int, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        layer = network.layers[k]
        for _ in range(network.micro_ticks):
            states[k] = [[tick(*states[k][a][b], up[a], downs[k][b]) for b in range(layer.outputs)]
                         for a in range(layer.inputs)]  # fmt: skip
        forward = [[send(states[k][a][b][0], p.forward_w, p.forward_b, p.forward_norm) for b in range(layer.outputs)]
                   for a in range(layer.inputs)]  # fmt: skip
        back = [[send(states[k][a][b][0], p.backward_w, p.backward_b, p.backward_norm) for b in range(layer.outputs)]
                for a in range(layer.inputs)]  # fmt: skip
        return np.mean(forward, 0), np.mean(back, 1)

    expected = []
    for x, label in zip(np.asarray(xs)[:, 0], np.asarray(labels)[:, 0], strict=True):
        ups = [np.concatenate([x[:, None], np.zeros((len(x), m - 1))], 1)]
        for k in range(len(network.layers)):
            up, back = layer_tick(k, ups[-1])
            ups.append(up)
            if k:
                downs[k - 1] = back
        logits = 100 * np.tanh(ups[-1][:, 1] / 100)
        expected.append(logits)
        error = np.exp(logits) / np.exp(logits).sum() - label
        downs[-1] = np.zeros((len(error), m))
        downs[-1][:, 0] = error
        if network.feed_label:
            downs[-1][:, 1] = label
        if network.backward_pass:
            for k in reversed(range(len(network.layers))):
                _, back = layer_tick(k, ups[k])
                if k:
                    downs[k - 1] = back
            downs[-1] = np.zeros_like(downs[-1])
    ours = learn(params, network, cells, xs, labels)[:, 0]
    np.testing.assert_allclose(ours, np.array(expected), rtol=0, atol=1e-10)


def compiled(layer: Dense | Conv) -> Callable[..., tuple]:
    return jax.jit(layer.tick, static_argnums=5)


def test_a_convolution_of_one_pixel_is_a_dense_layer(x64: None) -> None:
    """Of an image of one pixel only the kernel's centre sees anything; the others hear zeros."""
    params, rng = some_params(), np.random.default_rng(0)
    conv = Conv(1, 2, 3)
    state = State(*(jnp.asarray(rng.standard_normal((4, 1, 3, 3, 3, 2))) for _ in range(2)))
    up, down = (jnp.asarray(rng.standard_normal((3, 1, 1, 1, count))) for count in (2, 3))
    after_conv, forward, back = compiled(conv)(params, GateOffsets(), state, up, down, 1)
    seen = jnp.zeros((3, 1, 9, 2)).at[:, :, 4].set(up[:, :, 0, 0])
    parts = [
        compiled(Dense(2, 3))(
            params, GateOffsets(), State(*(s.reshape(4, 1, 9, 3, 2)[:, :, k] for s in state)), seen[:, :, k],
            down[:, :, 0, 0], 1,
        )
        for k in range(9)
    ]  # fmt: skip
    for k, (after, _, _) in enumerate(parts):
        np.testing.assert_allclose(after_conv.h.reshape(4, 1, 9, 3, 2)[:, :, k], after.h, atol=1e-12)
    np.testing.assert_allclose(forward[:, :, 0, 0], sum(part[1] for part in parts) / 9, atol=1e-12)
    np.testing.assert_allclose(back[:, :, 0, 0], parts[4][2] / 9, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_messages_back_come_from_the_places_that_see_a_pixel(x64: None, stride: int) -> None:
    params, rng = some_params(), np.random.default_rng(0)
    conv = Conv(5, 1, 2, stride)
    state = State(*(jnp.asarray(rng.standard_normal((4, 1, 3, 3, 2, 1))) for _ in range(2)))
    up = jnp.asarray(rng.standard_normal((3, 1, 5, 5, 1)))
    down = jnp.asarray(rng.standard_normal((3, 1, *conv.nodes[1])))
    _, _, back = compiled(conv)(params, GateOffsets(), state, up, down, 1)
    tick = compiled(Dense(1, 2))
    expected = np.zeros((3, 5, 5))
    padded = jnp.pad(up, ((0, 0), (0, 0), (1, 2), (1, 2), (0, 0)))
    for row in range(conv.out_side):
        for column in range(conv.out_side):
            for i in range(3):
                for j in range(3):
                    y, x = row * stride + i - 1, column * stride + j - 1
                    if not (0 <= y < 5 and 0 <= x < 5):
                        continue
                    one = State(*(s[:, :, i, j] for s in state))
                    _, _, sent = tick(
                        params, GateOffsets(), one, padded[:, :, y + 1, x + 1], down[:, :, row, column], 1
                    )
                    expected[:, y, x] += np.asarray(sent)[:, 0, 0] / 9
    np.testing.assert_allclose(back[:, 0, ..., 0], expected, atol=1e-12)


@pytest.mark.parametrize("backward_pass", [False, True])
def test_convolutions_hear_what_dense_layers_send_back(x64: None, backward_pass: bool) -> None:
    """What a label changes later depends on the backward messages, which none but the convolution receives."""
    network = Network((Conv(4, 1, 2, stride=2), Dense(8, 3)), micro_ticks=1, backward_pass=backward_pass)
    cells, x, labels = some_episode(network, length=4, episodes=1)
    params = some_params()

    def last(labels: jax.Array, scale: float) -> jax.Array:
        sent = params._replace(backward_w=scale * params.backward_w, backward_b=scale * params.backward_b)
        return learn(sent, network, cells, x, labels)[-1].sum()

    slopes = [jax.grad(last)(labels, scale)[0] for scale in (0.0, 1.0)]
    assert bool(jnp.isfinite(slopes[1]).all())
    assert float(jnp.abs(slopes[1] - slopes[0]).max()) > 1e-6


def test_pixels_and_labels_have_no_order(x64: None) -> None:
    """Permuting inputs with their initial states changes nothing; permuting labels permutes logits (claim C9)."""
    network, params, rng = dense(6, 4), some_params(), np.random.default_rng(1)
    cells, x, labels = some_episode(network)
    logits = learn(params, network, cells, x, labels)
    inputs, outputs = rng.permutation(6), rng.permutation(4)
    moved = learn(params, network, (cells[0][..., inputs],), x[..., inputs], labels)
    np.testing.assert_allclose(moved, logits, atol=1e-12)
    moved = learn(params, network, (cells[0][:, :, outputs],), x, labels[..., outputs])
    np.testing.assert_allclose(moved, logits[..., outputs], atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"backward_pass": True, "feed_label": True}])
def test_predictions_do_not_know_their_labels(options: dict) -> None:
    network, params = dense(5, 3, **options), some_params()
    cells, x, labels = some_episode(network)
    logits = learn(params, network, cells, x, labels)
    other = learn(params, network, cells, x, labels.at[2:].set(jnp.roll(labels[2:], 1, -1)))
    np.testing.assert_array_equal(logits[:3], other[:3])
    assert not np.allclose(logits[3:], other[3:])


def test_episodes_do_not_mix_unless_they_are_a_batch() -> None:
    network, params = dense(5, 3), some_params()
    cells, x, labels = some_episode(network)
    both = learn(params, network, cells, x, labels)
    alone = learn(params, network, (cells[0][:, 1:],), x[:, 1:], labels[:, 1:])
    np.testing.assert_allclose(both[:, 1:], alone, atol=1e-6)
    batch = learn(params, network._replace(averaged=True), cells, x, labels)
    assert not np.allclose(batch[1:], both[1:], atol=1e-3)


def test_shut_gates_keep_the_cell_and_learn_nothing(x64: None) -> None:
    """With f = 1 and i = 0 cells stay as they are; only h, which hears the last error, differs."""
    params, layer = some_params(), Dense(5, 3)
    (cell,), x, labels = some_episode(dense(5, 3))
    shut = GateOffsets(-1e4, 1e4)
    state, tick = State(jnp.zeros_like(cell), cell), compiled(layer)
    for example, label in zip(x, labels, strict=True):
        state, _, _ = tick(params, shut, state, example[None], label[None], 2)
    np.testing.assert_array_equal(state.c, cell)


def test_states_kept_in_bfloat16_are_nearly_the_same() -> None:
    params = some_params()
    cells, x, labels = (jax.tree.map(jnp.float32, part) for part in some_episode(dense(4, 3)))
    exact, coarse = (
        learn(params, dense(4, 3, backward_pass=True, state_type=state_type), cells, x, labels)
        for state_type in (None, "bfloat16")
    )
    assert coarse.dtype == exact.dtype
    np.testing.assert_allclose(coarse, exact, atol=0.02)
    assert float(jnp.abs(coarse - exact).max()) > 1e-6


def test_an_untrained_learner_guesses() -> None:
    """Meta loss ln(classes) to a hundredth (card, section 8)."""
    network = Network((Dense(49, 10),))
    params = init_sub_rnn(jax.random.key(0), 16, 8)
    cells = initial_cells(jax.random.split(jax.random.key(1), 8), network, 16)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, (6, 8))
    logits = learn(params, network, cells, rng.standard_normal((6, 8, 49)).astype("f"), jax.nn.one_hot(labels, 10))
    assert abs(float(meta_loss(logits, labels)) - np.log(10)) < 0.01


def test_the_published_size_has_2384_parameters() -> None:
    params = init_sub_rnn(jax.random.key(0), 16, 8)
    assert sum(array.size for array in jax.tree.leaves(params)) == 2384
    assert 0.8 < float(params.w.std() * 32**0.5) < 0.95  # truncated at two deviations and not rescaled


def test_half_of_the_cells_features_are_random_at_first() -> None:
    (cell,) = initial_cells(jax.random.split(jax.random.key(0), 3), dense(100, 10), 16)
    assert cell.shape == (16, 3, 10, 100)
    assert not cell[8:].any()
    assert abs(float(cell[:8].std()) - 0.088) < 0.002


def test_hand_made_states_compute_a_dense_layer_exactly(x64: None) -> None:
    """With states that hold the weights, a forward message is x w + b, and nothing is forgotten.

    The cell's first channel holds w, small enough for tanh; o = sigmoid(z_o) with z_o linear in x makes
    h = w (1 / 2 + x / 4) to first order; a second sub-RNN per synapse with -x removes the constant.
    """
    rng = np.random.default_rng(0)
    inputs, outputs, scale = 5, 3, 1e-5
    params = jax.tree.map(jnp.zeros_like, some_params(units=2, message=3))
    params = params._replace(
        w=params.w.at[0, 6].set(scale),  # z_o of channel 0 hears x
        forward_w=params.forward_w.at[0, 1].set(1 / scale**2),
    )
    w = rng.standard_normal((outputs, inputs))
    cell = np.zeros((2, 1, outputs, 2 * inputs))
    cell[0, 0, :, :inputs], cell[0, 0, :, inputs:] = scale * w, -scale * w
    x = rng.standard_normal((1, inputs))
    state = State(jnp.zeros(cell.shape), jnp.asarray(cell))
    both = jnp.concatenate([jnp.asarray(x), -jnp.asarray(x)], -1)
    state, forward, _ = Dense(2 * inputs, outputs).tick(
        params, GateOffsets(-1e4, 1e4), state, both[None], jnp.zeros((1, 1, outputs)), 1
    )
    # mean over 2 A sub-RNNs of scale^2 w x / 4 each
    np.testing.assert_allclose(4 * 2 * inputs / 2 * forward[1], x @ w.T, atol=1e-5)
    np.testing.assert_array_equal(state.c, cell)


def test_backpropagation_through_the_episode_equals_differences(x64: None) -> None:
    network, params = dense(4, 3, backward_pass=True, feed_label=True), some_params(units=4, normed=True)
    cells, x, labels = some_episode(network)

    @jax.jit
    @jax.value_and_grad
    def loss_and_slope(params: object) -> jax.Array:
        return meta_loss(learn(params, network, cells, x, labels), labels.argmax(-1))

    _, slope = loss_and_slope(params)
    rng, step = np.random.default_rng(2), 1e-6
    for _ in range(3):
        way = jax.tree.map(lambda array: rng.standard_normal(array.shape), params)
        ahead, behind = (
            loss_and_slope(jax.tree.map(lambda p, w, sign=sign: p + sign * step * w, params, way))[0]
            for sign in (1, -1)
        )
        along = sum(jax.tree.leaves(jax.tree.map(lambda s, w: (s * w).sum(), slope, way)))
        np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=1e-6)


def test_slopes_of_single_precision_are_those_of_double(x64: None) -> None:
    """The quotient of polynomials has the slope of tanh."""
    network, params = dense(4, 3, backward_pass=True), some_params()
    cells, x, labels = some_episode(network)

    def slope(dtype: object) -> list:
        p, c, xs, ls = jax.tree.map(lambda array: jnp.asarray(array, dtype), (params, cells, x, labels))
        loss = lambda p: meta_loss(learn(p, network, c, xs, ls), ls.argmax(-1))  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.grad(loss))(p))

    for single, double in zip(slope(jnp.float32), slope(jnp.float64), strict=True):
        np.testing.assert_allclose(single, double, rtol=0, atol=2e-5 * float(jnp.abs(double).max()) + 1e-7)


def test_only_the_given_channels_are_in_the_gates_matrix() -> None:
    params = some_params()
    matrix = gate_matrix(params, GateOffsets(0.0, 0.0), 1, 2)
    assert matrix.shape == (16, 4 + 1 + 2 + 1)
    whole = gate_matrix(params, GateOffsets(0.0, 0.0), 3, 3)
    np.testing.assert_array_equal(matrix[:, 4], whole[:, 4])
    np.testing.assert_array_equal(matrix[:, 5:7], whole[:, 7:9])
