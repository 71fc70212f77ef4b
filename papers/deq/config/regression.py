"""Settings of the curve of JR."""

from dataclasses import dataclass
from typing import Literal

from papers.deq.config.solving import positive

__all__ = ["Regression"]


@dataclass(frozen=True)
class Regression:
    """A curve learned by a small DEQ, with and without a penalty on its Jacobian (JR, Fig. 5)."""

    jacobian_weight: float = 0.0
    """gamma (JR: 0, 2, 4)."""
    hidden: int = 50
    """Rectified units (JR)."""
    train: int = 4096
    """Training points (JR)."""
    test: int = 1000
    """Test points (JR)."""
    noise: float = 0.05
    """Standard deviation of the noise (JR gives N(0, 0.05))."""
    batch: int = 256
    """Points of a step (ours; JR does not say)."""
    steps: int = 3_000
    """Steps (ours)."""
    rate: float = 5e-3
    """Adam's learning rate, falling to 0 as a cosine (ours)."""
    evaluations: int = 30
    """Largest number of evaluations of a solve (ours)."""
    tolerance: float = 1e-4
    """Relative residual at which a sample has converged (ours)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        positive(self, "hidden", "train", "test", "batch", "steps", "rate", "evaluations", "tolerance")
        if min(self.jacobian_weight, self.noise) < 0:
            raise ValueError("jacobian_weight and noise must be 0 or positive")
