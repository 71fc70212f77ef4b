"""`network.encode` of a whole population, and faster; and the pictures that it sees.

A 5x5 convolution of stride 2 is a 3x3 one over the four pictures of every second row and column. The largest of four is
taken before tanh, which is monotone. Rows that no feature depends on are left out.
"""

import numba
import numpy as np
from jaxtyping import Float, UInt8

from papers.hebbian_abcd.network import CONVOLUTIONS

__all__ = ["encode_all", "resize"]

FIRST, CHANNELS = CONVOLUTIONS[0][:2]
SECOND, SIDE = CONVOLUTIONS[1][::2]
SPLIT = FIRST * CHANNELS * 9
"""Parameters of the first convolution."""


def encode_all(
    params: Float[np.ndarray, "N 1362"], images: UInt8[np.ndarray, "N 84 84 3"]
) -> Float[np.ndarray, "N 648"]:
    """The features of N pictures, each by kernels of its own."""
    hidden = np.empty((len(params), FIRST, 2, 2, 20, 20), np.float32)
    features = np.empty((len(params), SECOND, 9, 9), np.float32)
    _first(np.ascontiguousarray(params, np.float32), images, hidden)
    np.tanh(hidden, out=hidden)
    _second(np.ascontiguousarray(params, np.float32), hidden.reshape(len(params), -1, 20, 20), features)
    return np.tanh(features.swapaxes(2, 3).reshape(len(params), -1))


@numba.njit(fastmath=True, cache=False)
def _pooled_row(planes: np.ndarray, kernel: np.ndarray, y: int, sums: np.ndarray, row: np.ndarray) -> None:
    """Row y of a 3x3 convolution of planes (C, H, W) by a kernel (C, 3, 3), pooled 2x2; sums: 2 W - 2 numbers."""
    channels, _, width = planes.shape
    sums[:] = 0
    for c in range(channels):
        flat, k = planes[c, 2 * y : 2 * y + 4].reshape(-1), kernel[c]
        top, middle, bottom = flat, flat[width:], flat[2 * width :]
        k00, k01, k02, k10, k11, k12 = k[0, 0], k[0, 1], k[0, 2], k[1, 0], k[1, 1], k[1, 2]
        k20, k21, k22 = k[2, 0], k[2, 1], k[2, 2]
        for t in range(2 * width - 2):
            sums[t] += (
                k00 * top[t] + k01 * top[t + 1] + k02 * top[t + 2]
                + k10 * middle[t] + k11 * middle[t + 1] + k12 * middle[t + 2]
                + k20 * bottom[t] + k21 * bottom[t + 1] + k22 * bottom[t + 2]
            )  # fmt: skip
    for x in range(len(row)):
        left, right = max(sums[2 * x], sums[width + 2 * x]), max(sums[2 * x + 1], sums[width + 2 * x + 1])
        row[x] = max(left, right)


@numba.njit(fastmath=True, cache=False)
def _first(params: np.ndarray, images: np.ndarray, hidden: np.ndarray) -> None:
    """The first convolution, pooled and before tanh; pixel (y, x) of a channel at [y % 2, x % 2, y // 2, x // 2]."""
    planes = np.empty((CHANNELS, 84, 84), np.float32)
    sums, row = np.empty(2 * 84 - 2, np.float32), np.empty(40, np.float32)
    for member in range(len(params)):
        # the network sees pictures with their axes reversed; here it is the kernels that are transposed
        kernel = params[member, :SPLIT].reshape(FIRST, CHANNELS, 3, 3) / np.float32(255)
        for y in range(84):
            for x in range(84):
                for c in range(CHANNELS):
                    planes[c, y, x] = images[member, y, x, c]
        for out in range(FIRST):
            turned = np.ascontiguousarray(kernel[out].transpose(0, 2, 1))
            for y in range(40):
                _pooled_row(planes, turned, y, sums, row)
                for x in range(40):
                    hidden[member, out, y % 2, x % 2, y // 2, x // 2] = row[x]


@numba.njit(fastmath=True, cache=False)
def _second(params: np.ndarray, hidden: np.ndarray, features: np.ndarray) -> None:
    """The second convolution, pooled and before tanh, as [channel, y, x]."""
    sums, kernel = np.empty(2 * 20 - 2, np.float32), np.zeros((FIRST * 4, 3, 3), np.float32)
    for member in range(len(params)):
        kernels = params[member, SPLIT:].reshape(SECOND, FIRST, SIDE, SIDE)
        for out in range(SECOND):
            for c in range(FIRST):
                for x in range(SIDE):
                    for y in range(SIDE):
                        kernel[4 * c + 2 * (y % 2) + x % 2, y // 2, x // 2] = kernels[out, c, x, y]
            for y in range(9):
                _pooled_row(hidden[member], kernel, y, sums, features[member, out, y])


@numba.njit(cache=False)
def resize(frames: UInt8[np.ndarray, "N 96 96 3"]) -> UInt8[np.ndarray, "N 84 84 3"]:
    """Pictures of 84 x 84 pixels by bilinear interpolation.

    Pixels have their centres at halves: pixel d of 84 lies at (d + 1/2) 96/84 - 1/2 of 96, between two pixels, of which
    the second weighs (2 (d mod 7) + 1)/14. Halves are rounded up.
    """
    small, row = np.empty((len(frames), 84, 84, 3), np.uint8), np.empty(96 * 3, np.uint16)
    for member in range(len(frames)):
        for y in range(84):
            above = frames[member, y + y // 7].reshape(-1)
            below = frames[member, y + y // 7 + 1].reshape(-1)
            weight = np.uint16(2 * (y % 7) + 1)
            for t in range(96 * 3):
                row[t] = np.uint16(14 - weight) * above[t] + weight * below[t]
            for block in range(12):
                for d in range(7):
                    for c in range(3):
                        left, share = 3 * (8 * block + d) + c, 2 * d + 1
                        total = (14 - share) * np.uint32(row[left]) + share * np.uint32(row[left + 3])
                        small[member, y, 7 * block + d, c] = (total + 98) // 196
    return small
