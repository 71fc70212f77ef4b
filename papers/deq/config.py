"""The settings of the experiments; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Convergence", "CopyMemory", "Images", "Language", "Memory", "Regression", "SolverName", "Solving"]

SolverName = Literal["fixed_point", "anderson", "broyden"]


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(config, name)}")


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
        _positive(self, "forward_evaluations", "backward_evaluations", "tolerance")


def _even_heads(features: int, heads: int) -> None:
    if features % heads or features % 2:
        raise ValueError(f"features must be even and a multiple of heads, not {features} with {heads}")


@dataclass(frozen=True)
class CopyMemory(Solving):
    """Ten symbols to be repeated after a delay (DEQ section 5.1, appendix F; settings that are not there are ours)."""

    model: Literal["deq", "unrolled", "lstm", "gru", "tcn"] = "deq"
    """A DEQ-Transformer, its weight-tied stack, or a baseline with as many parameters."""
    gradient: Literal["implicit", "phantom"] = "implicit"
    """The implicit function theorem, or the gradient of one step from the fixed point, without a backward solve."""
    jacobian_weight: float = 0.0
    """gamma, weight of the Jacobian penalty; 0 for none."""
    length: int = 400
    """T, the delay: T - 1 blanks stand between the symbols and the sign to repeat them."""
    features: int = 24
    """d, features of the transformer."""
    heads: int = 4
    """Attention heads of d / heads features."""
    inner: int = 180
    """Hidden units of the transformer's feed-forward network: 14 K parameters (paper) in all."""
    hidden: int = 0
    """Units of LSTM or GRU, channels of the TCN; 0 for the number that gives 14 K (TCN 16 K) parameters (paper)."""
    deviation: float = 0.05
    """Standard deviation of the transformer layer's initial weights (paper); others are PyTorch's."""
    layers: int = 4
    """Layers of the weight-tied stack; a DEQ is first trained as one."""
    warm_up: int = 500
    """Steps for which a DEQ is trained as a stack."""
    train: int = 20_000
    """Training sequences (paper)."""
    test: int = 2_000
    """Test sequences (paper)."""
    batch: int = 8
    """Sequences of a step."""
    steps: int = 10_000
    """Steps of the optimiser."""
    rate: float = 5e-3
    """Adam's learning rate; it falls to 0 as a cosine."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(
            self, "length", "features", "heads", "inner", "deviation", "layers", "train", "test", "batch", "steps",
            "rate", "clip",
        )  # fmt: skip
        if min(self.hidden, self.warm_up, self.jacobian_weight) < 0:
            raise ValueError("hidden, warm_up and jacobian_weight must be 0 or positive")
        _even_heads(self.features, self.heads)
        if self.model == "deq" and self.warm_up >= self.steps:
            raise ValueError(f"warm_up must leave steps for the fixed point: {self.warm_up} of {self.steps} steps")
        if self.batch > self.train:
            raise ValueError(f"batch must be at most the {self.train} training sequences, not {self.batch}")


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
        _positive(self, "evaluations", "sequences", "tolerance", "power_steps", "compared")
        if min(self.limits, default=0) < 1 or min(self.tolerances, default=0) <= 0:
            raise ValueError("limits must be at least 1 and tolerances positive")
        if list(self.limits) != sorted(self.limits) or list(self.tolerances) != sorted(self.tolerances):
            raise ValueError("limits and tolerances must rise: their ends are compared with")
        if self.few not in self.limits or self.coarse not in self.tolerances:
            raise ValueError("few must be one of the limits and coarse one of the tolerances")
        if self.compared > self.evaluations:
            raise ValueError(f"compared must be at most evaluations, {self.evaluations}, not {self.compared}")


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
        _positive(self, "length", "batch", "features", "side")
        if min((*self.depths, *self.evaluations), default=0) < 1 or self.features % 8:
            raise ValueError("depths and evaluations must be at least 1, features a multiple of 8")
        if self.compared not in self.depths or self.budget not in self.evaluations:
            raise ValueError("compared must be one of the depths and budget one of the evaluations")


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
        _positive(self, "hidden", "train", "test", "batch", "steps", "rate", "evaluations", "tolerance")
        if min(self.jacobian_weight, self.noise) < 0:
            raise ValueError("jacobian_weight and noise must be 0 or positive")


@dataclass(frozen=True)
class Language(Solving):
    """Penn Treebank, word by word (DEQ section 5.2). The paper's settings there are not known: size and training are
    ours, the cell's are of its WikiText-103 models."""

    cell: Literal["transformer", "trellis"] = "transformer"
    """The cell that is solved for its fixed point or stacked."""
    depth: Literal["deq", "tied", "untied"] = "deq"
    """A fixed point, a weight-tied stack, or a stack of different layers."""
    layers: int = 2
    """Layers of the stacks; a DEQ is first trained as one (official code: 2)."""
    features: int = 128
    """d, features of embedding and state; for TrellisNet the features of h."""
    heads: int = 4
    """Attention heads of d / heads features."""
    inner: int = 2048
    """Hidden units of the transformer's feed-forward network."""
    length: int = 64
    """Words that are predicted in a segment."""
    memory: int = 64
    """Words before the segment that a transformer attends to."""
    dropout: float = 0.1
    """Rate at which features of embedding, cell and output are dropped."""
    deviation: float = 0.02
    """Standard deviation of initial weights."""
    batch: int = 16
    """Streams that are read side by side."""
    steps: int = 20_000
    """Steps of the optimiser."""
    warm_up: int = 2_000
    """Steps for which a DEQ is trained as a stack (official code: 10 to 20 % of all)."""
    rate: float = 1e-3
    """Adam's learning rate; it falls to 0 as a cosine."""
    clip: float = 0.25
    """Largest norm of the gradient (official code's transformer; its TrellisNet 0.07)."""
    tested: int = 0
    """Largest number of words of the validation and test sets that are read; 0 for all."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(
            self, "layers", "features", "heads", "inner", "length", "memory", "deviation", "batch", "steps", "rate",
            "clip",
        )  # fmt: skip
        if self.warm_up < 0 or not 0 <= self.dropout < 1:
            raise ValueError("warm_up must be 0 or positive, dropout a share below 1")
        if self.tested != 0 and self.tested < 32:
            raise ValueError(f"tested must be at least 32 words, 2 in each of 16 streams, or 0, not {self.tested}")
        _even_heads(self.features, self.heads)
        if self.depth == "deq" and self.warm_up >= self.steps:
            raise ValueError(f"warm_up must leave steps for the fixed point: {self.warm_up} of {self.steps} steps")
        if self.memory > self.length:
            raise ValueError(f"memory must be at most length, {self.length}, not {self.memory}")
        if self.cell == "trellis" and self.depth == "untied":
            raise ValueError("a TrellisNet is weight-tied: its depth must be deq or tied")


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
        _positive(
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
