"""The settings of the experiments; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Finetune", "Pretrain"]


def _at_least(config: Any, least: float, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be {least:g} or more, not {getattr(config, name)}")


@dataclass(frozen=True)
class Pretrain:
    """Self-supervised training and its evaluations. Defaults are those of the 300-epoch ablations (section 5, F.1)."""

    images: Literal["imagenet", "cifar10-jpeg"] = "imagenet"
    """What is learned from."""
    encoder: Literal["resnet50", "resnet18", "small"] = "resnet50"
    """f: ResNet v1, or convolutions of stride 2."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of each convolution; only for the small encoder."""
    multiple: int = 1
    """Multiple of the ResNet's channels (table 1b)."""
    side: int = 224
    """Pixels a side of a view."""
    train: int = 0
    """Training images, spread evenly over the split; 0 for all."""
    held_out: int = 10_009
    """Training images on which evaluations choose their settings (appendix C.1); pre-training sees them, too."""
    tested: int = 0
    """Test images, spread evenly over the split; 0 for all."""
    hidden: int = 4096
    """Width of the hidden layers of projector and predictor (section 3.3)."""
    projection: int = 256
    """d, the size of a projection (section 3.3)."""
    projector_depth: int = 2
    """Linear layers of the projector (table 14a)."""
    predictor_depth: int = 2
    """Linear layers of the predictor (table 14a)."""
    predictor: bool = True
    """Whether φ is q_θ(z_θ) or z_θ (table 5b)."""
    target: Literal["average", "stopped", "online"] = "average"
    """ψ: the target network's projection; the online one without its gradient (tau = 0); the online one (table 19)."""
    beta: float = 0.0
    """β, the weight of negatives (Eq. 6)."""
    alpha: float = 0.1
    """α, the temperature of negatives (table 5b)."""
    loss_scale: float = 1.0
    """Factor on the loss; lightly's recipe has one half."""
    tau: float = 0.99
    """τ_base, the target's decay at the first step (section 5)."""
    tau_constant: bool = False
    """Whether the decay stays at τ_base instead of rising to 1."""
    start: Literal["independent", "copy"] = "independent"
    """The target's first parameters: an initialisation of their own (official code), or the online network's."""
    epochs: int = 300
    """Passes over the training images."""
    warm_up: float = 10.0
    """Epochs of linear warm-up of the rate."""
    batch: int = 4096
    """Images of an update (section 3.3)."""
    micro: int = 0
    """Images of a forward pass, whose gradients are averaged over the batch (Fig. 3a); 0 for the whole batch."""
    optimiser: Literal["lars", "sgd"] = "lars"
    """LARS; lightly's recipe has SGD."""
    base_rate: float = 0.3
    """Learning rate for 256 images (section 5)."""
    predictor_rate: float = 1.0
    """λ, multiple of the predictor's learning rate (table 21)."""
    weight_decay: float = 1e-6
    """Weight decay (section 5)."""
    momentum: float = 0.9
    """Momentum of the optimiser."""
    eta: float = 1e-3
    """η of LARS (official code)."""
    clip: bool = False
    """Whether LARS divides its factor by the rate and cuts it at 1; solo-learn's recipe."""
    least_area: float = 0.08
    """Least share of the image in a crop (table 6)."""
    flip: float = 0.5
    """Probability of a flip (table 6)."""
    jitter: float = 0.8
    """Probability of a change of colours (table 6)."""
    grey: float = 0.2
    """Probability of grey (table 6)."""
    blur: tuple[float, float] = (1.0, 0.1)
    """Probability of blur in T and T' (table 6)."""
    radius: int = 11
    """Half-width of the blur's kernel: 23 taps at 224 pixels."""
    solarise: tuple[float, float] = (0.0, 0.2)
    """Probability of solarisation in T and T' (table 6)."""
    linear_epochs: int = 80
    """Epochs of the linear evaluation (appendix C.1)."""
    linear_rates: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1, 0.05)
    """Its learning rates, of which held-out images choose (appendix C.1)."""
    linear_crops: bool = True
    """Whether the linear evaluation crops and flips its training images (appendix C.1)."""
    neighbours: int = 200
    """k of the nearest neighbours (lightly)."""
    temperature: float = 0.1
    """Temperature of the nearest neighbours (lightly's benchmark before its change to 0.07)."""
    strengths: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    """L2 strengths of the logistic regression, of which held-out images choose (transfer has 45 from 1e-6 to 1e5)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU; bf16 computes the networks in it."""

    def __post_init__(self) -> None:
        _at_least(
            self, 1, "multiple", "side", "hidden", "projection", "projector_depth", "predictor_depth", "neighbours"
        )
        _at_least(self, 0, "train", "tested", "epochs", "warm_up", "micro", "base_rate", "predictor_rate", "beta")
        _at_least(self, 0, "weight_decay", "momentum", "eta", "radius", "linear_epochs", "held_out")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau, the target's decay, must be between 0 and 1, not {self.tau:g}")
        if min(self.batch, self.micro or self.batch) < 2:
            raise ValueError("batch and micro must be 2 or more: batch normalisation has no statistics of one image")
        if self.micro and self.batch % self.micro:
            raise ValueError(f"batch must be a multiple of micro: {self.batch} is none of {self.micro}")
        if self.alpha <= 0 or self.temperature <= 0:
            raise ValueError("alpha and temperature must be positive")
        if not self.widths or min(self.widths) < 1 or not self.linear_rates or not self.strengths:
            raise ValueError("widths, linear_rates and strengths need an entry at least, and widths of 1 or more")
        chances = (self.flip, self.jitter, self.grey, *self.blur, *self.solarise)
        if not all(0 <= chance <= 1 for chance in chances) or not 0 < self.least_area <= 1:
            raise ValueError("flip, jitter, grey, blur, solarise and least_area must be between 0 and 1")


@dataclass(frozen=True)
class Finetune:
    """Training with few labels, of all weights, from a pre-trained encoder (section 4, appendix C.1)."""

    shares: tuple[float, ...] = (0.01, 0.1)
    """Shares of the labels, the same number of each class."""
    scratch: bool = False
    """Whether the encoder begins at random instead, trained in the same way."""
    rates: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.005)
    """Learning rates, of which held-out images choose."""
    epochs: tuple[int, ...] = (30, 50)
    """Epochs, of which held-out images choose."""
    batch: int = 1024
    """Images of an update, or all labelled ones if these are fewer."""
    least_steps: int = 0
    """Updates at least, however few images there are."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _at_least(self, 2, "batch")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must be above 0 and at most 1: {self.shares}")
        if not self.rates or not self.epochs or min(*self.rates, *self.epochs) <= 0:
            raise ValueError("rates and epochs must be positive")
