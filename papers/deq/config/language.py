"""Settings of Penn Treebank."""

from dataclasses import dataclass
from typing import Literal

from papers.deq.config.solving import Solving, even_heads, positive

__all__ = ["Language"]


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
        positive(
            self, "layers", "features", "heads", "inner", "length", "memory", "deviation", "batch", "steps", "rate",
            "clip",
        )  # fmt: skip
        if self.warm_up < 0 or not 0 <= self.dropout < 1:
            raise ValueError("warm_up must be 0 or positive, dropout a share below 1")
        if self.tested != 0 and self.tested < 32:
            raise ValueError(f"tested must be at least 32 words, 2 in each of 16 streams, or 0, not {self.tested}")
        even_heads(self.features, self.heads)
        if self.depth == "deq" and self.warm_up >= self.steps:
            raise ValueError(f"warm_up must leave steps for the fixed point: {self.warm_up} of {self.steps} steps")
        if self.memory > self.length:
            raise ValueError(f"memory must be at most length, {self.length}, not {self.memory}")
        if self.cell == "trellis" and self.depth == "untied":
            raise ValueError("a TrellisNet is weight-tied: its depth must be deq or tied")
