"""Copy memory, after DEQ appendix F: ten symbols, T - 1 blanks, a sign, then they must be repeated."""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["RECALLED", "SYMBOLS", "chance", "draw_copies"]

RECALLED = 10
"""Number of symbols to be recalled."""
SYMBOLS = 10
"""Number of different inputs: the blank 0, eight symbols, and 9, the sign to repeat."""


def draw_copies(rng: np.random.Generator, length: int, count: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both whole numbers (count, T + 20).

    Arguments:
        length: T, the delay; the sign is at position T + 10, counted from 1.
    """
    symbols = torch.from_numpy(rng.integers(1, 9, (count, RECALLED)))
    x, y = torch.zeros(2, count, length + 2 * RECALLED, dtype=torch.int64)
    x[:, :RECALLED] = symbols
    x[:, length + RECALLED - 1] = 9
    y[:, -RECALLED:] = symbols
    return x, y


def chance(length: int) -> float:
    """Mean loss in nats of a model that knows everything except the symbols: 10 ln 8 / (T + 20)."""
    return RECALLED * math.log(8) / (length + 2 * RECALLED)
