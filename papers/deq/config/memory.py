"""Settings of the measurement of memory and time."""

from dataclasses import dataclass
from typing import Literal

from papers.deq.config.solving import positive

__all__ = ["Memory"]


@dataclass(frozen=True)
class Memory:
    """Memory of a backward pass in bytes, and seconds of a step, against depth."""

    cell: Literal["transformer", "conv"] = "transformer"
    """The transformer of copy memory, or the tutorial's convolutional cell."""
    depths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Layers of the weight-tied stacks."""
    compared: int = 16
    """The one of `depths` that the DEQ is compared with (paper, table 3: 16 and 18 layers)."""
    budget: int = 30
    """The one of `evaluations` for which the solver's own memory and the time are compared (official code)."""
    evaluations: tuple[int, ...] = (5, 10, 30, 100)
    """Evaluations of the DEQ's solver; the memory must be the same for all."""
    length: int = 150
    """Steps of the transformer's sequences (paper, section 5)."""
    batch: int = 15
    """Samples (paper, section 5)."""
    features: int = 24
    """d of the transformer, channels of the convolutional cell."""
    side: int = 16
    """Pixels a side of the convolutional cell's maps."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        positive(self, "length", "batch", "features", "side")
        if min((*self.depths, *self.evaluations), default=0) < 1 or self.features % 8:
            raise ValueError("depths and evaluations must be at least 1, features a multiple of 8")
        if self.compared not in self.depths or self.budget not in self.evaluations:
            raise ValueError("compared must be one of the depths and budget one of the evaluations")
