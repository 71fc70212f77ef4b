"""3x3 convolutions of small maps, which are products of matrices tap by tap.

With a padding of one pixel most taps of a small map lie on zeros: 20 of 36 on a map of 2 x 2, 8 of 9 on one pixel. Only
those that do not are computed, each tap as one product over examples and positions.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KERNEL", "PADDING", "convolve", "correlate"]

KERNEL, PADDING = 3, 1
SMALL, SMALL_GRADIENT, WIDE = 2, 4, 2**16
"""Sides up to which a map, and the gradient of its weights, are faster tap by tap where a tap has that many weights;
maps of one pixel always are (measured on a CPU)."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution (N, c, h, w) of maps (N, C, h, w), of which autograd knows the derivatives."""
    return _Convolution.apply(x, weight, bias)


def correlate(post: Tensor, pre: Tensor) -> Tensor:
    """Sums of post (N, c, h, w) x pre (N, C, h, w) over examples and positions, for every tap, (c, C, 3, 3).

    Of the gradient of a convolution's output that is the gradient of its weights.
    """
    if not _by_taps(pre, post.shape[1], SMALL_GRADIENT):
        return _gradients(post, pre, None, [False, True, False])[1]
    change = pre.new_zeros(KERNEL, KERNEL, post.shape[1], pre.shape[1])
    for tap, out, into in _taps(pre):
        change[tap] = _rows(post[out]).T @ _rows(pre[into])
    return change.permute(2, 3, 0, 1).contiguous()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if not _by_taps(x, len(weight), SMALL):
            return F.conv2d(x, weight, bias, padding=PADDING)
        y = _spread(x, weight.permute(2, 3, 1, 0).contiguous())
        return y if bias is None else y + bias[:, None, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        below = None
        if ctx.needs_input_grad[0]:
            if not _by_taps(x, len(weight), SMALL):
                below = _gradients(gradient, x, weight, [True, False, False])[0]
            else:
                below = _spread(gradient, weight.flip(2, 3).permute(2, 3, 0, 1).contiguous())
        return below, correlate(gradient, x), gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def _by_taps(x: Tensor, width: int, limit: int) -> bool:
    side = max(x.shape[2:])
    return side == 1 or (side <= limit and x.shape[1] * width >= WIDE)


def _spread(x: Tensor, taps: Tensor) -> Tensor:
    """Sum over taps (3, 3, C, c) of shifted maps (N, C, h, w) times the tap's matrix, (N, c, h, w)."""
    y = x.new_zeros(x.shape[0], *x.shape[2:], taps.shape[3]).permute(0, 3, 1, 2)
    for tap, out, into in _taps(x):
        part = y[out]
        part += (_rows(x[into]) @ taps[tap]).view(*_last(part).shape).permute(0, 3, 1, 2)
    return y


def _taps(x: Tensor) -> Iterator[tuple[tuple[int, int], tuple, tuple]]:
    """Taps that see anything of a map, and the windows of outputs and of inputs that each connects."""
    height, width = x.shape[2:]
    for down in range(KERNEL):
        for across in range(KERNEL):
            dy, dx = down - PADDING, across - PADDING
            if abs(dy) < height and abs(dx) < width:
                out = (slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
                into = (slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx)))
                yield (down, across), (..., *out), (..., *into)


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _rows(x: Tensor) -> Tensor:
    """Examples and positions as rows, (N h w, c)."""
    return _last(x).reshape(-1, x.shape[1])


def _gradients(gradient: Tensor, x: Tensor, weight: Tensor | None, wanted: list[bool]) -> tuple[Tensor, ...]:
    """Of input, weights and biases, those that are wanted."""
    if weight is None:  # its values do not matter to its own gradient
        weight = x.new_empty(gradient.shape[1], x.shape[1], KERNEL, KERNEL)
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [PADDING, PADDING], [1, 1], False, [0, 0], 1, wanted
    )
