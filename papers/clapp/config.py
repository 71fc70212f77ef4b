"""The settings of the experiments; `paper.yaml` says which variant and scale sets what.

Defaults are those of the released scripts (`scripts/vision_traineval_*.sh` and the argument parsers of the official
code) for CLAPP, unless a field names another source.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Equality", "Images", "Learner", "Motion", "Speech", "Structure"]


def _check(config: object, *names: str, zero: bool = False) -> None:
    for name in names:
        value = getattr(config, name)
        if not all(
            number > 0 or (zero and number == 0) for number in (value if isinstance(value, tuple) else (value,))
        ):
            raise ValueError(f"{name} must be {'0 or ' if zero else ''}positive, not {value}")


@dataclass(frozen=True)
class Learner:
    """The network, its loss or rule, its training and its probes."""

    objective: Literal["hinge", "contrastive", "classes", "none"] = "hinge"
    """CLAPP's hinge; the softmax of CPC and Greedy InfoMax; supervised; or initial weights, without training."""
    trainer: Literal["rule", "loss"] = "rule"
    """The local rule, or automatic differentiation of the loss."""
    modules: tuple[int, ...] = (1, 1, 1, 1, 1, 1)
    """Layers between two stops of the gradient: six times one is layer-wise, once six end to end."""
    heads: Literal["separate", "shared"] = "separate"
    """Separate weights for prediction and retrodiction, or one matrix and its transpose."""
    asynchronous: bool = True
    """Whether a sample is either a fixation or a saccade (CLAPP), or both at every step (CLAPP-s)."""
    negatives: int = 1
    """Negatives of a pair."""
    anywhere: bool = False
    """Whether negatives come from all places of all images, or from the same place of one other image."""
    broadcast: bool = False
    """Whether y and the other image are the same for the whole network (paper), or drawn for every module and head."""
    third: Literal["full", "unsigned", "none"] = "full"
    """The modulator gamma = y H; without y; or 1 (ablations)."""
    fourth: bool = True
    """Whether the dendritic prediction is a factor of the rule (ablation)."""
    frozen: bool = False
    """Whether prediction matrices keep their initial values (ablation)."""
    bias: bool = True
    """Whether neurons have biases; the rule is written without."""
    widths: tuple[int, ...] = (128, 256, 256, 512, 1024, 1024)
    """Neurons (channels) of each layer."""
    pools: tuple[int, ...] = (2, 4, 5, 6)
    """Layers that end with max-pooling, counted from 1."""
    patch: tuple[int, int] = (16, 16)
    """Rows and columns of a patch, in pixels."""
    stride: tuple[int, int] = (8, 8)
    """Pixels from a patch to the next."""
    offsets: int = 5
    """K, prediction offsets."""
    skip: int = 1
    """Rows of patches that are skipped before offset 1, so that patches do not overlap."""
    epochs: int = 600
    """Passes through the training examples (scripts; the paper's text says 300)."""
    batch: int = 32
    """Examples of a step."""
    rate: float = 2e-4
    """Adam's learning rate."""
    probed: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Layers that are probed, counted from 1."""
    probe_epochs: int = 300
    """Passes of the raw-feature probe through the labelled examples."""
    probe_batch: int = 32
    """Examples of a step of that probe."""
    probe_rate: float = 1e-3
    """Its Adam's learning rate."""
    probe_draws: int = 0
    """Random crops and mirror images of the labelled examples that it sees, one an epoch in turn; 0: always new."""
    l2: float = 1e-3
    """Weight decay of the converged probe of standardised features (ours)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _check(self, "modules", "negatives", "widths", "patch", "stride", "offsets", "batch", "rate", "probed")
        _check(self, "probe_epochs", "probe_batch", "probe_rate")
        _check(self, "skip", "epochs", "probe_draws", "l2", zero=True)
        if sum(self.modules) != len(self.widths):
            raise ValueError(f"modules must add up to the {len(self.widths)} layers of widths, not to {self.modules}")
        if self.objective in ("hinge", "contrastive") and self.batch < 2:
            raise ValueError("batch must be 2 or more: a negative needs another image")
        if lacking := [layer for layer in self.probed if layer > len(self.widths)]:
            raise ValueError(f"probed asks for layer {lacking[0]}, and the network has layers 1 to {len(self.widths)}")
        if self.trainer == "rule" and (self.objective in ("contrastive", "classes") or max(self.modules) > 1):
            raise ValueError("the rule is that of the hinge loss at every layer: set trainer to loss")
        if self.objective == "contrastive" and (self.heads == "separate" or self.asynchronous):
            raise ValueError("objective contrastive has shared heads and is synchronous")
        if self.negatives > 1 and not self.anywhere:
            raise ValueError("negatives of the same place are one: set anywhere for more")
        if self.objective != "hinge" and (self.third != "full" or not self.fourth or self.frozen):
            raise ValueError("third, fourth and frozen are ablations of objective hinge")
        if self.frozen and self.trainer == "loss":
            raise ValueError("frozen predictions are trained by the rule: set trainer to rule")


@dataclass(frozen=True)
class Images(Learner):
    """Still images."""

    stimulus: Literal["patches", "views"] = "patches"
    """Grey patches whose time runs down the rows; or two augmented views of a whole image (follow-ups)."""
    images: str = "stl10"
    """The data set, as declared."""
    pool: str = "unlabeled"
    """Its split that the encoder is trained on, without labels."""
    tested_on: str = "test"
    """Its split that probes are tested on."""
    crop: int = 64
    """Pixels a side of what is cut out of an image; of views, that a view is scaled to."""
    least: float = 0.2
    """Smallest share of an image's area that a view shows (ours)."""
    jitter: float = 0.4
    """Largest change of a view's brightness, contrast and saturation, relative (ours)."""
    train: int = 0
    """Images for the encoder, spread evenly over the split; 0 for all."""
    labelled: int = 0
    """Images for the probes, and for supervised learning, spread evenly over `train`; 0 for all."""
    tested: int = 0
    """Images that probes are tested on, spread evenly over the split; 0 for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "train", "labelled", "tested", zero=True)
        _check(self, "crop")
        if not 0 < self.least <= 1 or not 0 <= self.jitter < 1:
            raise ValueError(f"least must be a share above 0, jitter one below 1, not {self.least} and {self.jitter}")


@dataclass(frozen=True)
class Speech(Learner):
    """Spoken digits: log-mel frames, patches of which time runs along."""

    frames: int = 64
    """Frames of a recording, 10 ms each; shorter ones are followed by silence."""
    bands: int = 32
    """Mel bands."""
    pools: tuple[int, ...] = (2, 4, 5)
    patch: tuple[int, int] = (8, 32)
    stride: tuple[int, int] = (8, 32)
    offsets: int = 3
    skip: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "frames", "bands")


@dataclass(frozen=True)
class Motion(Learner):
    """Digits of MNIST that move and bounce, drawn while training; a saccade goes to another sequence."""

    frames: int = 5
    """Frames of a sequence."""
    side: int = 24
    """Pixels a side of a frame; digits are means over squares of two pixels, 14 x 14."""
    speed: float = 2.0
    """Pixels a frame, in both directions at most."""
    train: int = 0
    """Digits for the encoder; 0 for all."""
    labelled: int = 5000
    """Digits for the probes."""
    tested: int = 0
    """Test digits; 0 for all."""
    pools: tuple[int, ...] = (2, 4, 5)
    patch: tuple[int, int] = (24, 24)
    stride: tuple[int, int] = (24, 24)
    offsets: int = 3
    skip: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "train", "labelled", "tested", "speed", zero=True)
        if self.side < 14:
            raise ValueError(f"side must hold a digit of 14 pixels, not {self.side}")


@dataclass(frozen=True)
class Equality(Images):
    """Rule against gradient while a network is trained, in double precision."""

    every: int = 20
    """Steps from a comparison to the next."""
    steps: int = 400
    """Steps of training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "every", "steps")


@dataclass(frozen=True)
class Structure:
    """What neurons respond to, after training; other settings are those of the run that it begins from."""

    shown: int = 6
    """Neurons of each layer whose best patches are kept."""
    best: int = 8
    """Patches of each."""
    embedded: int = 1000
    """Test images whose encodings are projected to two components."""
    examples: int = 2000
    """Test images that activities are measured on."""

    def __post_init__(self) -> None:
        _check(self, "shown", "best", "embedded", "examples")
