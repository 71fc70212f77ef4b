"""Settings of the comparison of solvers."""

from dataclasses import dataclass
from typing import Literal

from papers.deq.config.solving import positive

__all__ = ["Convergence"]


@dataclass(frozen=True)
class Convergence:
    """Solvers on a trained DEQ; nothing is trained."""

    evaluations: int = 100
    """Evaluations of f that each solver makes."""
    sequences: int = 32
    """Number of sequences on which solvers are compared."""
    tolerance: float = 1e-3
    """Relative residual at which the count of evaluations stops."""
    compared: int = 20
    """Evaluations after which residuals are compared."""
    limits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
    """Evaluations after which the loss is measured (Fig. 3 right)."""
    tolerances: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3)
    """Relative residuals at which the loss is measured (Fig. 3 left)."""
    few: int = 10
    """The one of `limits` at which the loss should not yet have risen."""
    coarse: float = 0.01
    """The one of `tolerances` at which the loss should not yet have risen."""
    power_steps: int = 200
    """Steps of the power iteration for the spectral radius (JR: 150 to 200)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        positive(self, "evaluations", "sequences", "tolerance", "power_steps", "compared")
        if min(self.limits, default=0) < 1 or min(self.tolerances, default=0) <= 0:
            raise ValueError("limits must be at least 1 and tolerances positive")
        if list(self.limits) != sorted(self.limits) or list(self.tolerances) != sorted(self.tolerances):
            raise ValueError("limits and tolerances must rise: their ends are compared with")
        if self.few not in self.limits or self.coarse not in self.tolerances:
            raise ValueError("few must be one of the limits and coarse one of the tolerances")
        if self.compared > self.evaluations:
            raise ValueError(f"compared must be at most evaluations, {self.evaluations}, not {self.compared}")
