"""The networks of ANML and OML as pure functions of their parameters (section 2.2 of the ANML paper).

Images are (N, H, W, 1), representations (N, d) with the channel as the fastest index. The paper writes "batch norm";
the official code normalises each image by itself, in training and in testing: instance norm, as here. So all functions
treat each image by itself, and images may be batched freely.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from papers.anml.winograd import winograd

__all__ = [
    "ANML",
    "NETWORKS",
    "OML",
    "OML84",
    "Block",
    "Conv",
    "Dense",
    "convolve",
    "gate",
    "init_dense",
    "init_trunk",
    "trunk",
]

EPSILON = 1e-5
"""Added to the variance of the instance norm (official code)."""
KAIMING = 2.0
"""Variance of Kaiming's initial weights times fan-in, for ReLU."""
WIDE, LARGE = 32, 10
"""Channels, and pixels a side, from which on Winograd's form is the faster, its gradients included."""


class Block(NamedTuple):
    """The shape of one block of a trunk: convolution 3x3 without padding, norm, max-pool 2x2, ReLU.

    The paper has ReLU before the pool, which gives the same values.
    """

    stride: int = 1
    norm: bool = True
    pool: bool = False


ANML = (Block(pool=True), Block(pool=True), Block())
"""Both trunks of ANML: 28 -> 13 -> 5 -> 3 pixels a side."""
OML = tuple(Block(stride, norm=False) for stride in (1, 1, 1, 2, 1, 2))
"""OML's trunk as ANML's authors ran it: 28 -> 26 -> 24 -> 22 -> 10 -> 8 -> 3."""
OML84 = tuple(Block(stride, norm=False) for stride in (2, 1, 2, 1, 2, 2))
"""The trunk of OML's own repository: 84 -> 41 -> 39 -> 19 -> 17 -> 8 -> 3."""
NETWORKS = {"anml": ANML, "oml": OML, "oml84": OML84}


class Conv(NamedTuple):
    """Parameters of a block; scale and shift are None without a norm."""

    w: Float[Array, "3 3 cin cout"]
    b: Float[Array, " cout"]
    scale: Float[Array, " cout"] | None
    shift: Float[Array, " cout"] | None


class Dense(NamedTuple):
    """Parameters of a dense layer."""

    w: Float[Array, "out in"]
    b: Float[Array, " out"]


def init_trunk(key: Array, blocks: tuple[Block, ...], channels: int, inputs: int = 1) -> tuple[Conv, ...]:
    """Kaiming-normal kernels (fan-in), zero biases, norms with scale 1 and shift 0."""
    convs, fan = [], inputs
    for block, block_key in zip(blocks, jax.random.split(key, len(blocks)), strict=True):
        w = jax.random.normal(block_key, (3, 3, fan, channels)) * (KAIMING / (9 * fan)) ** 0.5
        zeros, ones = jnp.zeros(channels), jnp.ones(channels)
        convs.append(Conv(w, zeros, ones if block.norm else None, zeros if block.norm else None))
        fan = channels
    return tuple(convs)


def init_dense(key: Array, fan_in: int, fan_out: int) -> Dense:
    """Kaiming-normal weights (fan-in), zero biases."""
    return Dense(jax.random.normal(key, (fan_out, fan_in)) * (KAIMING / fan_in) ** 0.5, jnp.zeros(fan_out))


def trunk(convs: tuple[Conv, ...], blocks: tuple[Block, ...], x: Float[Array, "N H W c"]) -> Float[Array, "N d"]:
    """The representation h(x), flattened.

    Where the first kernels read three channels and the image has one, they read it three times (official code): the
    sum of the three kernels acts on the image, and each kernel gets a gradient of its own, so that at the same rate a
    step moves the sum three times as far.
    """
    if convs[0].w.shape[2] != x.shape[-1]:
        convs = (convs[0]._replace(w=convs[0].w.sum(2, keepdims=True)), *convs[1:])
    for index, (conv, block) in enumerate(zip(convs, blocks, strict=True)):
        if not block.norm:
            x = convolve(x, conv.w, block.stride) + conv.b
        elif index == 0:
            x = normed_convolution(conv, x, block.stride)
        else:
            x = instance_norm(convolve(x, conv.w, block.stride), conv.scale, conv.shift)
        x = jax.nn.relu(max_pool(x) if block.pool else x)
    return x.reshape(len(x), -1)


def gate(
    convs: tuple[Conv, ...], out: Dense, blocks: tuple[Block, ...], x: Float[Array, "N H W c"]
) -> Float[Array, "N d"]:
    """The neuromodulatory network's gate g(x), each entry in (0, 1)."""
    return jax.nn.sigmoid(trunk(convs, blocks, x) @ out.w.T + out.b)


def convolve(
    x: Float[Array, "N H W cin"], w: Float[Array, "3 3 cin cout"], stride: int = 1
) -> Float[Array, "N h w cout"]:
    """3x3 convolution (cross-correlation) without padding.

    On a CPU wide layers of large maps take Winograd's form, the others one matrix product with the nine shifted copies
    of the image. Gradients included, the product is twice as fast as XLA's convolution, and Winograd's form up to 1.9
    times as fast as the product.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(x, w, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    if stride == 1 and min(w.shape[2:]) >= WIDE and min(x.shape[1:3]) >= LARGE:
        return winograd(x, w)
    return patches(x, stride) @ w.reshape(-1, w.shape[-1])


def patches(x: Float[Array, "N H W c"], stride: int = 1) -> Float[Array, "N h w 9*c"]:
    """The 3x3 neighbourhood of every output position, row by row."""
    h, w = ((side - 3) // stride + 1 for side in x.shape[1:3])
    shifted = [
        x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(shifted, axis=-1)


def instance_norm(
    x: Float[Array, "N H W c"], scale: Float[Array, " c"], shift: Float[Array, " c"]
) -> Float[Array, "N H W c"]:
    """Standardise each channel of each image over its positions (biased variance), then scale and shift it.

    A bias before the norm has no effect, so the convolutions leave their biases out.
    """
    mean = x.mean((1, 2), keepdims=True)
    factor = scale * jax.lax.rsqrt(((x - mean) ** 2).mean((1, 2), keepdims=True) + EPSILON)
    return x * factor + (shift - mean * factor)


def normed_convolution(conv: Conv, x: Float[Array, "N H W cin"], stride: int = 1) -> Float[Array, "N h w cout"]:
    """`instance_norm` of a convolution, fast for few input channels.

    The variance of each output channel is a quadratic form of its kernel with the 9 cin by 9 cin covariance of the
    image's patches. So every image gets kernels that are already normed, and the large maps are written only once.
    """
    neighbourhoods = patches(x, stride)
    n, h, w, d = neighbourhoods.shape
    centred = (neighbourhoods - neighbourhoods.mean((1, 2), keepdims=True)).reshape(n, h * w, d)
    covariance = jnp.einsum("npi,npj->nij", centred, centred) / (h * w)
    kernel = conv.w.reshape(d, -1)
    variance = jnp.einsum("nij,ic,jc->nc", covariance, kernel, kernel)
    kernels = kernel * (conv.scale * jax.lax.rsqrt(variance + EPSILON))[:, None]
    return (centred @ kernels).reshape(n, h, w, -1) + conv.shift


def max_pool(x: Float[Array, "N H W c"]) -> Float[Array, "N H//2 W//2 c"]:
    """The largest value of each 2x2 square, the first of equal ones; an odd last row or column is dropped.

    It is made of selections, so that the reverse pass takes exactly one value of each square. The reverse pass of `max`
    looks for its own result among its inputs, and finds nothing where the compiler rounded the two differently.
    """
    n, h, w, c = x.shape
    squares = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2 * c)
    columns = _larger(squares[:, :, 0], squares[:, :, 1])
    return _larger(columns[..., :c], columns[..., c:])


def _larger(first: Array, second: Array) -> Array:
    return jnp.where(first >= second, first, second)
