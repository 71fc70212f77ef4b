"""Winograd's form against the product with nine shifted copies: values, first and second derivatives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import agree

from papers.anml import networks
from papers.anml.networks import convolve, patches
from papers.anml.winograd import A, B, G, winograd

SHAPES = [(2, 13, 13, 3, 4), (1, 5, 6, 2, 3), (3, 6, 5, 1, 2), (1, 3, 3, 2, 2), (2, 4, 4, 3, 1), (1, 3, 9, 4, 4)]
"""Images, rows, columns, channels in and out: sides that tiles fill, and all ways to miss by one."""


def direct(x: jax.Array, w: jax.Array) -> jax.Array:
    return patches(x) @ w.reshape(-1, w.shape[-1])


def arrays(n: int, height: int, width: int, cin: int, cout: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(n + height + width)
    return jnp.asarray(rng.standard_normal((n, height, width, cin))), jnp.asarray(
        rng.standard_normal((3, 3, cin, cout))
    )


def to_second_order(function: Callable) -> Callable:
    """Values, the gradient of a function of them, and that of a function of the gradient."""

    def slope(x: jax.Array, w: jax.Array) -> tuple:
        return jax.grad(lambda x, w: jnp.sin(function(x, w)).sum(), argnums=(0, 1))(x, w)

    def bend(x: jax.Array, w: jax.Array) -> tuple:
        return jax.grad(lambda x, w: sum(jnp.cos(part).sum() for part in slope(x, w)), argnums=(0, 1))(x, w)

    return jax.jit(lambda x, w: (function(x, w), slope(x, w), bend(x, w)))


def relative(actual: tuple, expected: tuple) -> list[float]:
    """The largest error of each array, relative to its largest entry."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return [float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs]


def test_transforms_give_the_filter_of_one_row():
    """F(2, 3) by hand: two outputs of four pixels and a kernel of three."""
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(4), rng.standard_normal(3)
    np.testing.assert_allclose(A.T @ ((G @ g) * (B.T @ d)), [d[:3] @ g, d[1:] @ g], rtol=0, atol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_derivatives(shape):
    x, w = arrays(*shape)
    actual, expected = (to_second_order(function)(x, w) for function in (winograd, direct))
    assert actual[0].shape == expected[0].shape
    assert max(relative(actual, expected)) < 1e-12


@pytest.mark.parametrize("shape", [(2, 13, 13, 64, 64), (1, 10, 11, 32, 48)])
def test_single_precision(shape):
    """Near the error of the direct product, both against double precision."""
    x, w = (array.astype(jnp.float32) for array in arrays(*shape))
    w /= 9 * shape[3]
    actual = to_second_order(winograd)(x, w)
    assert all(array.dtype == jnp.float32 for array in jax.tree.leaves(actual))
    with jax.enable_x64(True):
        expected = to_second_order(direct)(x.astype(jnp.float64), w.astype(jnp.float64))
        assert max(relative(actual, expected)) < 5e-6


@pytest.mark.usefixtures("x64")
def test_batches_of_kernels():
    """As a batch of seeds has them."""
    x, w = arrays(3, 7, 6, 2, 4)
    x, w = jnp.stack([x, 2 * x]), jnp.stack([w, w[::-1]])
    agree(jax.vmap(winograd)(x, w), jnp.stack([direct(*pair) for pair in zip(x, w, strict=True)]), 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("stride", "side", "channels", "is_used"),
    [(1, 13, 32, True), (1, 10, 40, True), (1, 9, 32, False), (1, 13, 31, False), (2, 13, 32, False)],
)
def test_wide_layers_of_large_maps_take_it(stride, side, channels, is_used, monkeypatch):
    used = []
    monkeypatch.setattr(networks, "winograd", lambda x, w: used.append(1) or winograd(x, w))
    x, w = arrays(1, side, side, channels, 32)
    layout = jax.lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "HWIO", "NHWC"))
    expected = jax.lax.conv_general_dilated(x, w, (stride, stride), "VALID", dimension_numbers=layout)
    agree(convolve(x, w, stride), expected, 1e-11)
    assert bool(used) == is_used
