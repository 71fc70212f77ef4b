"""The settings of the toy experiment; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Toy"]


@dataclass(frozen=True)
class Toy:
    """Planar densities with and without the absolute-value surjection (figure 4)."""

    density: Literal["checkerboard", "corners", "eight_gaussians", "four_circles"]
    """The density that is learned."""
    model: Literal["flow", "absflow"]
    """`flow`: couplings alone; `absflow`: behind the absolute value (official code, experiments/toy)."""
    hidden: tuple[int, ...] = (200, 100)
    """Widths of the hidden layers (official commands; the code's own default, 50, is not what they use)."""
    train_size: int = 128_000
    """Training points, drawn once per seed (official commands)."""
    test_size: int = 128_000
    """Test points, drawn once per seed (official commands), and samples of the model."""
    batch_size: int = 128
    """Points per gradient step (official commands)."""
    epochs: int = 10
    """Passes over the training points (official commands)."""
    learning_rate: float = 1e-3
    """Learning rate of Adam, constant (official commands)."""
    grid: int = 500
    """Points per side of the drawn density (official code, with the ends of the axes; here midpoints of cells)."""
    quadrature: int = 800
    """Points per side of the grid on which the integral of the density is computed (ours)."""

    def __post_init__(self) -> None:
        for name in ("train_size", "test_size", "batch_size", "epochs", "grid", "quadrature"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.train_size % self.batch_size:
            raise ValueError(f"batch_size {self.batch_size} must divide train_size {self.train_size}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden needs widths of at least 1, not {list(self.hidden)}")
        if self.quadrature < 8:
            raise ValueError(f"quadrature must be at least 8, not {self.quadrature}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")

    @property
    def steps(self) -> int:
        """Number of gradient steps."""
        return self.epochs * (self.train_size // self.batch_size)
