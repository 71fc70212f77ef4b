"""The settings of the experiments; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Images", "Points", "Toy"]


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


@dataclass(frozen=True)
class Points:
    """Digits as sets of points, SpatialMNIST (section 4)."""

    model: Literal["sort", "permute", "control"]
    """SortFlow, PermuteFlow, or the same flow without either symmetry (ours)."""
    points: int = 50
    """Points a set (SpatialMNIST)."""
    blocks: int = 32
    """Blocks of two couplings (official code)."""
    width: int = 64
    """Width of the transformers (official code)."""
    heads: int = 8
    """Attention heads (official code)."""
    depth: int = 2
    """Attention layers of each net (official code)."""
    feed_forward: int = 256
    """Width of the feed-forward part (official code)."""
    dropout: float = 0.2
    """Dropout rate; 0.2 for SortFlow and 0.1 for PermuteFlow, chosen on validation sets (official code)."""
    train_sets: int = 50_000
    """Training sets (SpatialMNIST)."""
    test_sets: int = 10_000
    """Test sets (SpatialMNIST)."""
    batch: int = 128
    """Sets per gradient step (official code)."""
    steps: int = 195_312
    """Gradient steps: 500 epochs (official code)."""
    rate: float = 1e-3
    """Learning rate of Adam (official code)."""
    warm_up: int = 2_000
    """Steps of linear warm-up (official code)."""
    decay: float = 0.995
    """Factor of the learning rate after each epoch (official code)."""
    k: int = 10
    """Draws of the importance-weighted bound that tests PermuteFlow (official code); the others are exact."""

    def __post_init__(self) -> None:
        check_positive(self, "points blocks width heads depth feed_forward train_sets test_sets batch steps k")
        if self.points % 2:
            raise ValueError(f"points must be even, as a coupling halves the sets, not {self.points}")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.batch > self.train_sets:
            raise ValueError(f"batch {self.batch} must not be larger than train_sets {self.train_sets}")
        check_rates(self)


@dataclass(frozen=True)
class Images:
    """Max-pooling against slicing between the scales of an image flow (table 4)."""

    model: Literal["maxpool", "slice"]
    """MaxPoolFlow, or the baseline that slices (official code, experiments/image)."""
    data: Literal["cifar10", "mnist", "fashion-mnist"] = "cifar10"
    """The images; those of 28 x 28 get a border of zeros, to 32 x 32."""
    scales: int = 2
    """Scales of the flow (official code, CIFAR-10)."""
    layers: int = 12
    """1x1 convolutions with couplings in each scale (official code, CIFAR-10)."""
    mid: int = 64
    """Channels of the coupling nets (official code)."""
    depth: int = 10
    """Densely connected layers of the coupling nets (official code)."""
    growth: int = 64
    """Channels that each of these layers adds (official code)."""
    dequantization: Literal["variational", "uniform"] = "variational"
    """Noise that makes pixels continuous (official code: variational)."""
    noise_layers: int = 4
    """Couplings of variational noise (official code)."""
    context: int = 32
    """Channels that tell these couplings of the image (official code)."""
    augment: bool = True
    """Whether images are mirrored and shifted by a pixel at random (official code, CIFAR-10)."""
    train_images: int = 50_000
    """Training images, the first of the set (CIFAR-10: all)."""
    test_images: int = 10_000
    """Test images, spread evenly over the set."""
    batch: int = 32
    """Images per gradient step (official code)."""
    steps: int = 781_250
    """Gradient steps with a falling learning rate: 500 epochs (official code, CIFAR-10)."""
    extra_steps: int = 78_125
    """Gradient steps after these at a constant rate: 50 epochs (official code, CIFAR-10)."""
    rate: float = 1e-3
    """Learning rate of Adamax (official code)."""
    extra_rate: float = 2e-5
    """Learning rate of the extra steps (official code, CIFAR-10)."""
    warm_up: int = 5_000
    """Steps of linear warm-up (official code)."""
    decay: float = 0.995
    """Factor of the learning rate after each epoch (official code, CIFAR-10)."""
    k: int = 1_000
    """Draws of the importance-weighted bound on test images (official code, CIFAR-10)."""

    def __post_init__(self) -> None:
        counts = "scales layers mid depth growth noise_layers context train_images test_images batch steps k"
        check_positive(self, counts)
        if self.scales > 4:
            raise ValueError(f"scales must be at most 4, as often as 16 can be halved and end at 2, not {self.scales}")
        if self.extra_steps < 0:
            raise ValueError(f"extra_steps must be at least 0, not {self.extra_steps}")
        if not self.extra_rate > 0:
            raise ValueError(f"extra_rate must be positive, not {self.extra_rate}")
        if self.batch > self.train_images:
            raise ValueError(f"batch {self.batch} must not be larger than train_images {self.train_images}")
        check_rates(self)


def check_positive(config: Points | Images, names: str) -> None:
    """Raise ValueError for a count below 1; names are parted by spaces."""
    for name in names.split():
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")


def check_rates(config: Points | Images) -> None:
    """Raise ValueError for a learning rate, warm-up, decay or dropout rate out of range."""
    if not config.rate > 0:
        raise ValueError(f"rate must be positive, not {config.rate}")
    if config.warm_up < 0:
        raise ValueError(f"warm_up must be at least 0, not {config.warm_up}")
    if not 0 < config.decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1, not {config.decay}")
    if not 0 <= getattr(config, "dropout", 0) < 1:
        raise ValueError(f"dropout must be from 0 to less than 1, not {config.dropout}")
