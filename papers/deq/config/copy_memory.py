"""Settings of copy memory."""

from dataclasses import dataclass
from typing import Literal

from papers.deq.config.solving import Solving, even_heads, positive

__all__ = ["CopyMemory"]


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
        positive(
            self, "length", "features", "heads", "inner", "deviation", "layers", "train", "test", "batch", "steps",
            "rate", "clip",
        )  # fmt: skip
        if min(self.hidden, self.warm_up, self.jacobian_weight) < 0:
            raise ValueError("hidden, warm_up and jacobian_weight must be 0 or positive")
        even_heads(self.features, self.heads)
        if self.model == "deq" and self.warm_up >= self.steps:
            raise ValueError(f"warm_up must leave steps for the fixed point: {self.warm_up} of {self.steps} steps")
        if self.batch > self.train:
            raise ValueError(f"batch must be at most the {self.train} training sequences, not {self.batch}")
