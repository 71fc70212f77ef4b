"""The networks: layers against their definitions, images apart from one another, the published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import agree

from papers.anml.config import MetaTrain
from papers.anml.meta_train import init_learner
from papers.anml.networks import (
    EPSILON,
    NETWORKS,
    Block,
    Conv,
    convolve,
    gate,
    init_dense,
    init_trunk,
    instance_norm,
    max_pool,
    normed_convolution,
    patches,
    trunk,
)
from papers.anml.tests.conftest import some_learner

pytestmark = pytest.mark.usefixtures("x64")
SIDES = {"anml": 28, "oml": 28, "oml84": 84}


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape))


# --- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 7, 10, 1), (3, 8, 5, 4), (1, 3, 3, 2)])
def test_convolution(shape, stride, backend, monkeypatch):
    x, w = normal(*shape), normal(3, 3, shape[-1], 5)
    layout = jax.lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "HWIO", "NHWC"))
    expected = jax.lax.conv_general_dilated(x, w, (stride, stride), "VALID", dimension_numbers=layout)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    agree(convolve(x, w, stride), expected, 1e-12)


def test_convolution_by_hand():
    x, w = np.asarray(normal(2, 6, 7, 2)), np.asarray(normal(3, 3, 2, 4))
    actual = np.asarray(convolve(jnp.asarray(x), jnp.asarray(w), 2))
    assert actual.shape == (2, 2, 3, 4)
    for i, j in np.ndindex(2, 3):
        expected = np.einsum("nabc,abco->no", x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], w)
        np.testing.assert_allclose(actual[:, i, j], expected, rtol=0, atol=1e-12)


def test_patches_are_the_neighbourhoods():
    x = jnp.arange(5 * 6 * 2.0).reshape(1, 5, 6, 2)
    np.testing.assert_array_equal(patches(x)[0, 1, 2], x[0, 1:4, 2:5].reshape(-1))


def test_instance_norm():
    x, scale, shift = 3 + 2 * normal(3, 5, 4, 2), jnp.array([0.5, 2.0]), jnp.array([-1.0, 0.3])
    actual = instance_norm(x, scale, shift)
    agree(actual.mean((1, 2)), jnp.broadcast_to(shift, (3, 2)), 1e-12)
    variance = x.var((1, 2))
    agree(actual.var((1, 2)), scale**2 * variance / (variance + EPSILON), 1e-12)
    agree(instance_norm(x + 10 * normal(3, 1, 1, 2), scale, shift), actual, 1e-12)  # a bias before it


@pytest.mark.parametrize("cin", [1, 3])
def test_normed_convolution_is_the_norm_of_the_convolution(cin):
    x = normal(4, 9, 8, cin)
    conv = Conv(normal(3, 3, cin, 5), normal(5), normal(6)[:5], normal(7)[:5])

    def slow(conv, x):
        return instance_norm(convolve(x, conv.w) + conv.b, conv.scale, conv.shift)

    def both(f):
        slope = jax.grad(lambda conv, x: jnp.sin(f(conv, x)).sum(), argnums=(0, 1))
        return jax.jit(lambda conv, x: (f(conv, x), slope(conv, x)))(conv, x)

    agree(both(normed_convolution), both(slow), 1e-11)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 5, 7, 2), (1, 11, 11, 1)])
def test_max_pool(shape):
    x = normal(*shape)
    agree(max_pool(x), jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"), 0)


@pytest.mark.parametrize("quick", [True, False])
def test_slope_through_max_pool_survives_every_way_to_compile(quick, monkeypatch):
    """Compilers compute the input again, with other rounding, where it meets the output in the reverse pass."""
    monkeypatch.setitem(jax.config.values, "jax_disable_most_optimizations", quick)
    x, scale, shift = normal(1, 26, 26, 4), normal(4), normal(5)[:4]

    @jax.jit
    def slope(scale, shift):
        return jax.grad(lambda scale: max_pool(x * scale + shift).sum())(scale)

    squares = np.asarray(x * scale + shift).reshape(13, 2, 13, 2, 4).transpose(0, 2, 4, 1, 3).reshape(13, 13, 4, 4)
    chosen = np.take_along_axis(
        np.asarray(x).reshape(13, 2, 13, 2, 4).transpose(0, 2, 4, 1, 3).reshape(13, 13, 4, 4),
        squares.argmax(-1)[..., None],
        -1,
    )
    np.testing.assert_allclose(slope(scale, shift), chosen.sum((0, 1, 3)), rtol=0, atol=1e-10)


# --- whole trunks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=() if name == "anml" else pytest.mark.slow) for name in NETWORKS]
)
def test_nine_positions_and_each_image_by_itself(network):
    blocks, side = NETWORKS[network], SIDES[network]
    learner = some_learner(blocks, channels=3, nm=2)
    x = jnp.asarray(np.random.default_rng(0).random((5, side, side, 1)))

    @jax.jit
    def run(x):
        h = trunk(learner.trunk, blocks, x)
        return h, gate(learner.nm_trunk, learner.nm_out, blocks, x)

    h, g = run(x)
    assert h.shape == g.shape == (5, 9 * 3)
    assert float(g.min()) > 0
    assert float(g.max()) < 1
    one_by_one = [run(image[None]) for image in x]
    agree(h, jnp.concatenate([h for h, _ in one_by_one]), 1e-12)
    agree(g, jnp.concatenate([g for _, g in one_by_one]), 1e-12)


def test_channel_is_the_fastest_index():
    blocks = (Block(norm=False),)
    x, conv = normal(2, 6, 5, 1), Conv(normal(3, 3, 1, 3), normal(3), None, None)
    expected = jax.nn.relu(convolve(x, conv.w) + conv.b)
    np.testing.assert_array_equal(trunk((conv,), blocks, x).reshape(2, 4, 3, 3), expected)


def test_first_normed_block_heeds_its_stride():
    """As every other block does."""
    blocks = (Block(2),)
    conv = some_learner(blocks, channels=3, nm=0).trunk[0]
    x = normal(2, 9, 9, 1)
    expected = jax.nn.relu(instance_norm(convolve(x, conv.w, 2), conv.scale, conv.shift))
    agree(trunk((conv,), blocks, x), expected.reshape(2, -1), 1e-12)


def test_bias_before_a_norm_has_no_effect():
    blocks = NETWORKS["anml"]
    learner, x = some_learner(blocks), jnp.asarray(np.random.default_rng(0).random((2, 28, 28, 1)))
    other = tuple(conv._replace(b=conv.b + 1) for conv in learner.trunk)
    agree(trunk(other, blocks, x), trunk(learner.trunk, blocks, x), 1e-12)


def test_three_equal_channels_are_one_with_the_sum_of_the_kernels():
    blocks = NETWORKS["anml"]
    three = some_learner(blocks, cin=3).trunk
    one = (three[0]._replace(w=three[0].w.sum(2, keepdims=True)), *three[1:])
    x = jnp.asarray(np.random.default_rng(0).random((2, 28, 28, 1)))
    agree(trunk(one, blocks, x), trunk(three, blocks, jnp.repeat(x, 3, axis=-1)), 1e-10)
    agree(trunk(three, blocks, x), trunk(one, blocks, x), 1e-10)


# --- initial parameters and their number ---------------------------------------------------------------------


def test_initial_parameters():
    convs = init_trunk(jax.random.key(0), NETWORKS["anml"], 64)
    for conv, fan in zip(convs, (9, 9 * 64, 9 * 64), strict=True):
        assert float(conv.w.std()) == pytest.approx((2 / fan) ** 0.5, rel=5 / (2 * conv.w.size) ** 0.5)
        assert abs(float(conv.w.mean())) < 5 * (2 / fan / conv.w.size) ** 0.5
        np.testing.assert_array_equal(conv.b, 0)
        np.testing.assert_array_equal(conv.scale, 1)
        np.testing.assert_array_equal(conv.shift, 0)
    assert all(conv.scale is None and conv.shift is None for conv in init_trunk(jax.random.key(0), NETWORKS["oml"], 2))
    layer = init_dense(jax.random.key(1), 300, 200)
    assert layer.w.shape == (200, 300)
    assert float(layer.w.std()) == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    np.testing.assert_array_equal(layer.b, 0)


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(**settings):
    """A learner of shapes alone: nothing is allocated."""
    return jax.eval_shape(lambda: init_learner(MetaTrain(**settings), jax.random.key(0)))


def test_published_numbers_of_parameters_anml():
    ours = shapes(pixels="published")
    assert count((ours.nm_trunk, ours.nm_out)) == 2_554_560
    assert count((ours.trunk, ours.head)) == 3_493_864
    assert count(ours) == 6_048_424
    assert count(ours.head) == 2_305_000


def test_published_numbers_of_parameters_oml():
    ours = shapes(pixels="published", network="oml", neuromodulation=False, plastic="head", hidden=1024)
    assert ours.nm_trunk is None
    assert count(ours.trunk) == 2_957_568
    assert count(ours.head) == 3_385_320
    assert count(ours) == 2_957_568 + 3_385_320


@pytest.mark.parametrize("network", NETWORKS)
def test_heads_fit_the_trunks(network):
    config = {"network": network, "side": SIDES[network], "channels": 2, "neuromodulation": False, "plastic": "head"}
    learner = shapes(**config)
    x = jax.ShapeDtypeStruct((1, SIDES[network], SIDES[network], 1), jnp.float64)
    h = jax.eval_shape(lambda convs, x: trunk(convs, NETWORKS[network], x), learner.trunk, x)
    assert h.shape[1] == learner.head[0].w.shape[1]
