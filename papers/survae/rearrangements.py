"""Bijections that only move entries: volumes stay the same, so their likelihood contribution is zero."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from papers.survae.transforms import Context, Inferred, Key, Transform, constant

__all__ = ["Permute", "Reverse", "Shuffle", "Squeeze2d", "Unsqueeze2d"]


class _Rearrange(Transform):
    """Base of all layers that only move entries, with $\\mathcal V = 0$."""

    def rearrange(self, x: Array) -> Array:
        raise NotImplementedError

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        return self.rearrange(x), constant(x, 0.0)


class Reverse(_Rearrange):
    """Flips the order along an axis.

    Arguments:
        dim: The axis.
    """

    dim: int = eqx.field(static=True, default=1)

    def rearrange(self, x: Array) -> Array:
        return jnp.flip(x, self.dim)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return jnp.flip(z, self.dim)


class Shuffle(_Rearrange):
    """A fixed random permutation along an axis.

    Arguments:
        size: The size of the axis.
        dim: The axis.
        key: Draws the permutation, which is kept as integers and so is never trained.
    """

    permutation: Int[Array, " size"]
    dim: int = eqx.field(static=True)

    def __init__(self, size: int, dim: int = 1, *, key: PRNGKeyArray) -> None:
        self.permutation = jax.random.permutation(key, size)
        self.dim = dim

    def rearrange(self, x: Array) -> Array:
        return jnp.take(x, self.permutation, axis=self.dim)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return jnp.take(z, jnp.argsort(self.permutation), axis=self.dim)


class Permute(_Rearrange):
    """Reorders axes: ``Permute(2, 1)`` takes (B, L, C) to (B, C, L).

    Arguments:
        dims: The input's axis for every axis of the result, without the batch axis.
    """

    dims: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, *dims: int) -> None:
        self.dims = (0, *dims)

    def rearrange(self, x: Array) -> Array:
        return jnp.transpose(x, self.dims)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return jnp.transpose(z, np.argsort(self.dims))


class Squeeze2d(_Rearrange):
    """Space to depth: (B, C, H, W) to (B, 4 C, H / 2, W / 2), every 2 x 2 window's entries side by side."""

    def rearrange(self, x: Array) -> Array:
        return space_to_depth(x)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return depth_to_space(z)


class Unsqueeze2d(_Rearrange):
    """Depth to space, `Squeeze2d` the other way round."""

    def rearrange(self, x: Array) -> Array:
        return depth_to_space(x)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return space_to_depth(z)


def space_to_depth(x: Float[Array, "B C H W"]) -> Float[Array, "B 4C H/2 W/2"]:
    """The entries of every 2 x 2 window, side by side in channels."""
    b, c, h, w = x.shape
    windows = x.reshape(b, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4)
    return windows.reshape(b, 4 * c, h // 2, w // 2)


def depth_to_space(z: Float[Array, "B 4C H W"]) -> Float[Array, "B C 2H 2W"]:
    """The inverse of `space_to_depth`."""
    b, c, h, w = z.shape
    windows = z.reshape(b, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3)
    return windows.reshape(b, c // 4, 2 * h, 2 * w)
