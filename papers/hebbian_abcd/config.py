"""The settings of the experiments; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Literal

from papers.hebbian_abcd.body import BODIES

__all__ = ["Drive", "Evaluate", "Evolution", "Share", "Walk"]

Rule = Literal[
    "A", "AD", "AD_lr", "ABC", "ABC_lr", "ABCD", "ABCD_lr", "ABCD_lr_D_out", "ABCD_lr_D_in_and_out"
]  # fmt: skip


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not all(number > 0 for number in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} must be positive, not {value}")


@dataclass(frozen=True)
class Evolution:
    """Evolution of plasticity coefficients, or of static weights (section 3.3)."""

    learner: Literal["hebbian", "static"] = "hebbian"
    """What is evolved: the coefficients of every synapse, or its weight."""
    rule: Rule = "ABCD_lr"
    """The plasticity rule (paper: ABCD with an evolved learning rate); static weights have none."""
    hidden: tuple[int, ...] = (128, 64)
    """Neurons of the hidden layers (paper)."""
    population: int = 500
    """N, members of a generation, in mirrored pairs (a co-author's code; from memory also the paper's)."""
    generations: int = 300
    """Generations (official code)."""
    steps: int = 960
    """Longest life in steps of the policy (official code: 1,000 steps, of a quadruped 40 to settle)."""
    rate: float = 0.2
    """Initial learning rate; times 0.995 a generation while above 0.001 (official code)."""
    sigma: float = 0.1
    """Initial deviation of the search; times 0.999 a generation while above 0.01 (official code)."""
    spread: float = 1.0
    """Standard deviation of the initial coefficients (official code); static weights begin as PyTorch's do."""
    birth: float = 0.1
    """Birth weights are drawn from U(-birth, birth), anew for every life (official code); static weights are not."""
    penalty: float = 0.01
    """Weight of the mean square of what is evolved, subtracted from the fitness (official code)."""
    normalise: bool = False
    """Whether every layer is divided by its largest weight after each step (official code: not for the quadruped),
    if weights change."""

    def __post_init__(self) -> None:
        _positive(self, "hidden", "population", "generations", "steps", "rate", "sigma", "spread", "birth")
        if self.population % 2:
            raise ValueError(f"population must be even, for members come in mirrored pairs, not {self.population}")
        if self.penalty < 0:
            raise ValueError(f"penalty must be 0 or positive, not {self.penalty}")


@dataclass(frozen=True)
class Walk(Evolution):
    """Evolution of a quadruped that walks (section 3.5)."""

    engine: Literal["pybullet", "mujoco"] = "pybullet"
    """What simulates the quadruped (paper: PyBullet)."""
    bodies: tuple[str, ...] = ("standard", "right")
    """Bodies that a member must walk with; its fitness is the mean over them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.bodies if name not in BODIES]:
            raise ValueError(f"bodies: no {unknown[0]!r}; there are {', '.join(BODIES)}")
        if not self.bodies:
            raise ValueError("bodies must name at least one body")


@dataclass(frozen=True)
class Drive(Evolution):
    """Evolution of a driver that sees pictures (section 3.5)."""

    population: int = 200
    """N, members of a generation (official code)."""
    steps: int = 1000
    """Longest drive in frames (official code)."""
    normalise: bool = True
    """Whether every layer is divided by its largest weight after each step (official code), if weights change."""
    tracks: int = 100
    """Tracks on which the evolved driver is tested (paper: 100, from memory)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "tracks")


@dataclass(frozen=True)
class Evaluate:
    """What an evolved quadruped does on each body, and what becomes of it when its weights are destroyed."""

    lifetimes: int = 100
    """Lives on each body and under each condition, each with birth weights of its own."""
    steps: int = 0
    """Steps of a life; 0 for as many as in evolution."""
    damage: int = 200
    """Step before which weights are destroyed."""
    window: int = 50
    """Steps for which all weights are held at zero, under the condition of that name."""
    frozen: int = 100
    """Step from which weights stay as they are, under the condition of that name."""

    def __post_init__(self) -> None:
        _positive(self, "lifetimes", "damage", "window", "frozen")
        if self.steps < 0:
            raise ValueError(f"steps must be 0 or positive, not {self.steps}")


@dataclass(frozen=True)
class Share:
    """How far an evolved quadruped walks when its synapses share fewer and fewer rules, without further evolution."""

    rules: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096)
    """Numbers R of rules into which those of all synapses are merged by k-means."""
    lifetimes: int = 64
    """Lives on each body."""
    steps: int = 0
    """Steps of a life; 0 for as many as in evolution."""

    def __post_init__(self) -> None:
        _positive(self, "rules", "lifetimes")
        if self.steps < 0:
            raise ValueError(f"steps must be 0 or positive, not {self.steps}")
