"""What the settings of several experiments share."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["SolverName", "Solving", "even_heads", "positive"]

SolverName = Literal["fixed_point", "anderson", "broyden"]


def positive(config: object, *names: str) -> None:
    """Refuse settings that are not above zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(config, name)}")


def even_heads(features: int, heads: int) -> None:
    """Refuse features that do not fit heads and pairs of sine and cosine."""
    if features % heads or features % 2:
        raise ValueError(f"features must be even and a multiple of heads, not {features} with {heads}")


@dataclass(frozen=True)
class Solving:
    """How a fixed point is found and differentiated."""

    forward_solver: SolverName = "anderson"
    """Solver of the fixed point."""
    backward_solver: SolverName = "anderson"
    """Solver of the gradient."""
    forward_evaluations: int = 30
    """Largest number of evaluations of the forward solve."""
    backward_evaluations: int = 30
    """Largest number of evaluations of the backward solve."""
    tolerance: float = 1e-3
    """Relative residual at which a sample has converged, in both solves (official code)."""

    def __post_init__(self) -> None:
        positive(self, "forward_evaluations", "backward_evaluations", "tolerance")
