"""3x3 convolution by Winograd's minimal filtering F(2x2, 3x3): 16 products for four outputs instead of 36.

The image is cut into 4x4 tiles d that overlap by two pixels. Each tile gives 2x2 outputs,

    A^T [(G w G^T) * (B^T d B)] A

           1  0 -1  0           1    0    0
    B^T =  0  1  1  0     G =  1/2  1/2  1/2     A^T =  1  1  1  0
           0 -1  1  0          1/2 -1/2  1/2            0  1 -1 -1
           0  1  0 -1           0    0    1

(Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, section 4.1). The product * is of
entries; summed over input channels it is sixteen matrix products, of all tiles with the kernels. The transforms are
linear, so derivatives of every order are again such products, between transposed transforms.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["winograd"]

B = np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])
Shape = tuple[int, ...]


def winograd(x: Float[Array, "N H W cin"], w: Float[Array, "3 3 cin cout"]) -> Float[Array, "N H-2 W-2 cout"]:
    """3x3 convolution (cross-correlation) of stride 1 without padding; differentiable in reverse mode, repeatedly."""
    n, height, width, cout = x.shape[0], x.shape[1] - 2, x.shape[2] - 2, w.shape[-1]
    tiles = _linear(_tiles, partial(_tiles_transposed, shape=x.shape))
    kernels = _linear(_kernels, _kernels_transposed)
    outputs = _linear(partial(_outputs, shape=(n, height, width, cout)), _outputs_transposed)
    return outputs(tiles(x) @ kernels(w))


def _linear(function: Callable[[Array], Array], transpose: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A linear function that has its transpose for derivative, as the transpose has the function.

    The compiler's own transpose of overlapping tiles is slower.
    """
    f, t = jax.custom_vjp(function), jax.custom_vjp(transpose)
    f.defvjp(lambda x: (f(x), None), lambda _, slope: (t(slope),))
    t.defvjp(lambda x: (t(x), None), lambda _, slope: (f(slope),))
    return f


def _combine(matrix: np.ndarray, parts: Sequence[Array] | Array) -> list[Array]:
    """A small matrix times a vector of arrays."""
    return [reduce(jnp.add, [float(row[i]) * parts[i] for i in np.flatnonzero(row)]) for row in matrix]


def _tiles(x: Float[Array, "N H W c"]) -> Float[Array, "16 N*h*w c"]:
    """B^T d B of all h by w tiles of each image; odd sides are padded."""
    _, height, width, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))

    def cut(x: Array, axis: int) -> list[Array]:
        """Pixels 0 to 3 of all tiles along an axis."""
        last = x.shape[axis] - 3
        return [jax.lax.slice_in_dim(x, i, i + last, 2, axis) for i in range(4)]

    rows = _combine(B.T, cut(x, 1))
    return jnp.stack([part for row in rows for part in _combine(B.T, cut(row, 2))]).reshape(16, -1, c)


def _tiles_transposed(v: Float[Array, "16 N*h*w c"], shape: Shape) -> Float[Array, "N H W c"]:
    n, height, width, c = shape
    v = v.reshape(4, 4, n, (height - 1) // 2, (width - 1) // 2, c)

    def overlap(parts: list[Array], axis: int) -> Array:
        """The sum of tiles at their places along an axis."""

        def pad(part: Array, before: int) -> Array:
            return jnp.pad(part, [(before, 1 - before) if i == axis else (0, 0) for i in range(part.ndim)])

        pairs = jnp.stack([pad(parts[i], 0) + pad(parts[i + 2], 1) for i in range(2)], axis + 1)
        return pairs.reshape(*pairs.shape[:axis], -1, *pairs.shape[axis + 2 :])

    rows = [overlap(_combine(B, v[i]), 2) for i in range(4)]
    return overlap(_combine(B, rows), 1)[:, :height, :width]


def _kernels(w: Float[Array, "3 3 cin cout"]) -> Float[Array, "16 cin cout"]:
    """G w G^T."""
    return jnp.stack([part for row in _combine(G, w) for part in _combine(G, row)])


def _kernels_transposed(u: Float[Array, "16 cin cout"]) -> Float[Array, "3 3 cin cout"]:
    rows = _combine(G.T, u.reshape(4, 4, *u.shape[1:]))
    return jnp.stack([jnp.stack(_combine(G.T, row)) for row in rows])


def _outputs(m: Float[Array, "16 N*h*w c"], shape: Shape) -> Float[Array, "N H W c"]:
    """A^T m A of all tiles, put together; what the padding of odd sides added is dropped."""
    n, height, width, c = shape
    h, w = (height + 1) // 2, (width + 1) // 2
    rows = _combine(A.T, m.reshape(4, 4, n, h, w, c))
    squares = jnp.stack([jnp.stack(_combine(A.T, row), 3) for row in rows], 2)
    return squares.reshape(n, 2 * h, 2 * w, c)[:, :height, :width]


def _outputs_transposed(y: Float[Array, "N H W c"]) -> Float[Array, "16 N*h*w c"]:
    n, height, width, c = y.shape
    h, w = (height + 1) // 2, (width + 1) // 2
    y = jnp.pad(y, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))).reshape(n, h, 2, w, 2, c)
    rows = [jnp.stack(_combine(A, [y[:, :, i, :, j] for j in range(2)])) for i in range(2)]
    return jnp.stack(_combine(A, rows)).reshape(16, -1, c)
