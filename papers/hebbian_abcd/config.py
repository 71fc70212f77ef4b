"""The settings of the experiments; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["BODIES", "Evolve"]

BODIES = ("standard", "right", "left")
"""The quadruped, and the quadruped with a short foot in front, right (seen in evolution) or left (never seen)."""


@dataclass(frozen=True)
class Evolve:
    """Evolution of plasticity coefficients, or of static weights, for walking (sections 3 and 4)."""

    learner: Literal["hebbian", "static"] = "hebbian"
    """What is evolved: five coefficients of every synapse, or its weight."""
    rule: str = "ABCD_lr"
    """The plasticity rule, one of `plasticity.RULES` (paper: ABCD with an evolved learning rate)."""
    engine: Literal["pybullet", "mujoco"] = "pybullet"
    """What simulates the quadruped (paper: PyBullet)."""
    bodies: tuple[str, ...] = ("standard", "right")
    """Bodies that a member must walk with; its fitness is the mean over them."""
    hidden: tuple[int, ...] = (128, 64)
    """Neurons of the hidden layers (paper)."""
    population: int = 500
    """N, members of a generation, in mirrored pairs (a co-author's code; from memory also the paper's)."""
    generations: int = 300
    """Generations (official code)."""
    steps: int = 960
    """Steps of a life after the settling phase (official code: 1,000 with it)."""
    rate: float = 0.2
    """Initial learning rate; times 0.995 a generation while above 0.001 (official code)."""
    sigma: float = 0.1
    """Initial deviation of the search; times 0.999 a generation while above 0.01 (official code)."""
    spread: float = 1.0
    """Standard deviation of the initial coefficients (official code); static weights begin as PyTorch's do."""
    birth: float = 0.1
    """Birth weights are drawn from U(-birth, birth), anew for every life (official code)."""
    penalty: float = 0.01
    """Weight of the mean square of what is evolved, subtracted from the fitness (official code)."""
    normalise: bool = False
    """Whether every layer is divided by its largest weight after each step (official code: not for the quadruped)."""

    def __post_init__(self) -> None:
        for name in ("population", "generations", "steps", "rate", "sigma", "spread", "birth"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.population % 2:
            raise ValueError(f"population must be even, for members come in mirrored pairs, not {self.population}")
        if unknown := [name for name in self.bodies if name not in BODIES]:
            raise ValueError(f"bodies: no {unknown[0]!r}; there are {', '.join(BODIES)}")
        if not self.bodies or any(width < 1 for width in self.hidden):
            raise ValueError("bodies must name at least one body, hidden must be widths")
        if self.penalty < 0:
            raise ValueError(f"penalty must be 0 or positive, not {self.penalty}")
