"""Settings of CIFAR-10."""

from dataclasses import dataclass
from typing import Literal

from papers.deq.config.solving import SolverName, Solving, positive

__all__ = ["Images"]


@dataclass(frozen=True)
class Images(Solving):
    """CIFAR-10. Defaults without a source are those of the official code's file for MDEQ-small ("TINY")."""

    model: Literal["multiscale", "single"] = "multiscale"
    """MDEQ, or the tutorial's network of one resolution."""
    depth: Literal["deq", "tied"] = "deq"
    """A fixed point or a weight-tied stack."""
    forward_solver: SolverName = "broyden"
    """Solver of the fixed point."""
    backward_solver: SolverName = "broyden"
    """Solver of the gradient."""
    forward_evaluations: int = 19
    """Largest number of evaluations of the forward solve: 18 iterations after f(0)."""
    backward_evaluations: int = 21
    """Largest number of evaluations of the backward solve: 20 iterations."""
    channels: tuple[int, ...] = (24, 24)
    """Channels of each resolution, the finest first."""
    heads: tuple[int, ...] = (8, 16)
    """A quarter of each resolution's channels in the head; only for MDEQ."""
    final: int = 200
    """Channels that are averaged for the read-out; only for MDEQ."""
    expansion: int = 5
    """Factor on the channels within residual blocks; only for MDEQ."""
    inner: int = 64
    """Channels between the cell's convolutions; only for the tutorial's network."""
    groups: int = 8
    """Groups of group normalisation."""
    dropout: float = 0.25
    """Rate at which channels within residual blocks are dropped; only for MDEQ."""
    layers: int = 10
    """Layers of the weight-tied stack; a DEQ is first trained as one."""
    warm_up: int = 3_000
    """Steps for which a DEQ is trained as a stack."""
    side: int = 32
    """Pixels a side; sides below 32 are means over squares of pixels."""
    normalised: bool = True
    """Whether colours are shifted and scaled."""
    varied: bool = False
    """Whether training images are moved by up to four pixels and mirrored."""
    train: int = 0
    """Training images, spread evenly over the split; 0 for all."""
    tested: int = 0
    """Test images, spread evenly over the split; 0 for all."""
    batch: int = 128
    """Images of a step (two GPUs of 64)."""
    steps: int = 19_550
    """Steps of the optimiser: 50 epochs."""
    rate: float = 1e-3
    """Adam's learning rate; it falls to `floor` as a cosine."""
    floor: float = 1e-6
    """Final learning rate."""
    decay: float = 2.5e-6
    """Weight decay, added to the gradient."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 for no limit."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(
            self, "final", "expansion", "inner", "groups", "layers", "side", "batch", "steps", "rate",
        )  # fmt: skip
        if self.train > 50_000 or self.tested > 10_000:
            raise ValueError("there are 50000 training and 10000 test images")
        if min(self.warm_up, self.train, self.tested, self.floor, self.decay, self.clip) < 0:
            raise ValueError("warm_up, train, tested, floor, decay and clip must be 0 or positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a share below 1, not {self.dropout}")
        if self.groups % 2 or any(size < 1 or size % self.groups for size in (*self.channels, self.inner)):
            raise ValueError(f"groups must be even, channels and inner multiples of it: {self.groups}, {self.channels}")
        count = 1 if self.model == "single" else len(self.heads)
        if len(self.channels) != count or not count:
            raise ValueError(f"there must be channels for {count} resolutions, not {len(self.channels)}")
        if 32 % self.side or self.side % 2 ** (len(self.channels) - 1) or self.side < 4:
            raise ValueError(f"side must be 4, 8, 16 or 32 and be halved for each resolution, not {self.side}")
        if self.depth == "deq" and self.warm_up >= self.steps:
            raise ValueError(f"warm_up must leave steps for the fixed point: {self.warm_up} of {self.steps} steps")
