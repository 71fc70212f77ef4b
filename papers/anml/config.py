"""The settings of the experiments; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["MetaTest", "MetaTrain"]


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(config, name)}")


@dataclass(frozen=True)
class MetaTrain:
    """Meta-training on Omniglot's background characters, or what it is compared with."""

    objective: Literal["meta", "iid", "none"] = "meta"
    """`meta`: learn a class, then tell all apart (section 2.1); `iid`: ordinary classification (pre-training);
    `none`: the initial parameters (scratch)."""
    network: Literal["anml", "oml", "oml84"] = "anml"
    """Trunk: ANML's three normed blocks; OML's six convolutions as ANML's authors ran them; those of OML's own code."""
    channels: int = 256
    """Channels of the prediction network's convolutions (official code)."""
    neuromodulation: bool = True
    """Whether a second trunk gates the representation."""
    nm_channels: int = 112
    """Channels of the neuromodulatory network's convolutions (official code)."""
    hidden: int = 0
    """Width of a dense layer between trunk and output; 0 for none. OML as ANML's authors ran it: 1024."""
    outputs: int = 1000
    """Width of the output layer, of which meta-training uses 963 (official code)."""
    plastic: Literal["all", "head"] = "all"
    """What the inner loop changes: the whole prediction network (ANML), or its dense layers (OML)."""
    gradient: Literal["second", "first"] = "second"
    """Whether the meta-gradient goes through the inner steps (`second`, the papers' text) or not (`first`, ANML's
    published code)."""
    side: int = 28
    """Pixels a side."""
    pixels: Literal["unit", "published"] = "unit"
    """Grey levels in [0, 1], one channel (the authors' later code); or as the published code scales them, in three
    equal channels."""
    classes: int = 963
    """Background characters in use (official code)."""
    iterations: int = 20_000
    """Meta-iterations (section 3.2); pre-training makes as many steps on as many images."""
    inner_steps: int = 20
    """Images of the trajectory's class, one step each (section 3.2)."""
    inner_rate: float = 0.1
    """Learning rate of the inner loop's gradient descent (official command; ANML)."""
    remember: int = 64
    """Images of all classes in the meta-batch, besides the trajectory's (section 3.2)."""
    outer_rate: float = 1e-3
    """Learning rate of Adam in the outer loop (official command; ANML)."""
    precision: Literal["fp32", "tf32"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _positive(
            self, "channels", "outputs", "classes", "iterations", "inner_steps", "remember", "inner_rate", "outer_rate"
        )
        if not 2 <= self.classes <= 964:
            raise ValueError(f"classes must lie in 2 to 964, the background characters, not {self.classes}")
        if self.classes > self.outputs:
            raise ValueError(f"{self.classes} classes need as many outputs, not {self.outputs}")
        if self.inner_steps > 20:
            raise ValueError(f"inner_steps must be at most 20, the drawings of a class, not {self.inner_steps}")
        available = 20 * self.classes - (self.inner_steps if self.objective == "iid" else 0)
        if self.remember > available:
            raise ValueError(
                f"remember must be at most {available}, as many drawings as there are, not {self.remember}"
            )
        if self.neuromodulation and self.nm_channels < 1:
            raise ValueError(f"nm_channels must be positive, not {self.nm_channels}")
        if self.hidden < 0:
            raise ValueError(f"hidden must be 0 or a width, not {self.hidden}")
        if self.plastic == "head" and self.neuromodulation:
            raise ValueError("plastic: a neuromodulated network is plastic as a whole; use all")
        expected_side = 84 if self.network == "oml84" else 28
        if self.side != expected_side:
            raise ValueError(f"side must be {expected_side} for network {self.network}, not {self.side}")


@dataclass(frozen=True)
class MetaTest:
    """Meta-testing: evaluation characters are learned one after the other."""

    plastic: Literal["output", "head", "all"] = "output"
    """What learns: the output layer (ANML, OML-OLFT), all dense layers (OML, pre-training), everything (scratch)."""
    start: Literal["fresh", "kept"] = "fresh"
    """Whether the output layer is drawn anew (official code) or kept from meta-training (the paper's text)."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Adam (official code) or plain gradient descent (the paper's text)."""
    tasks: tuple[int, ...] = (10, 50, 75, 100, 150, 200, 300, 400, 500, 600)
    """Numbers of classes after which accuracy is measured (section 3.3)."""
    iid_tasks: tuple[int, ...] = (10, 50, 75, 100, 150, 200, 300, 400, 500, 600)
    """Numbers of classes that the oracle learns in shuffled order."""
    pool: int = 650
    """The first evaluation characters, from which classes are drawn (official code)."""
    iid_epochs: int = 1
    """Passes of the oracle over its drawings, each in another order (section 3.3 has 1, figure S7 has 20)."""
    trajectories: int = 10
    """Sequences of classes that are measured (section 4.1)."""
    trials: int = 10
    """Other sequences, on which the rate is chosen (official code)."""
    rates: tuple[float, ...] = (3e-3, 1e-3, 6e-4, 4e-4, 3e-4, 2e-4, 1e-4, 6e-5, 3e-5, 1e-5)
    """Rates to choose from (after the official code's list)."""
    neighbours: int = 5
    """Neighbours that the nearest-neighbour classifiers ask (section 4.2)."""
    precision: Literal["fp32", "tf32"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _positive(self, "trajectories", "trials", "neighbours", "pool", "iid_epochs")
        if self.pool > 659:
            raise ValueError(f"pool must be at most 659, the evaluation characters, not {self.pool}")
        for name in ("tasks", "iid_tasks"):
            counts = getattr(self, name)
            if list(counts) != sorted(set(counts)) or not counts or counts[0] < 1:
                raise ValueError(f"{name} must rise from at least 1, not {list(counts)}")
            if counts[-1] > self.pool:
                raise ValueError(f"{name}: {counts[-1]} classes, but there are {self.pool} to draw from (pool)")
        if not set(self.iid_tasks) <= set(self.tasks):
            raise ValueError("iid_tasks must be among tasks")
        if self.neighbours > 659 * 15:
            raise ValueError(f"neighbours must be at most {659 * 15}, all drawings learned, not {self.neighbours}")
        if not self.rates or not all(0 < rate < float("inf") for rate in self.rates):
            raise ValueError(f"rates must be positive and finite, not {list(self.rates)}")
