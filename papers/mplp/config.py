"""The settings of the experiments; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Baseline", "Evaluate", "Maml", "MetaTrain", "Released", "TaskName"]

TaskName = Literal["sinusoid", "mnist", "fashion-mnist"]


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not all(number > 0 for number in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} must be positive, not {value}")


def check_sizes(task: TaskName, sizes: tuple[int, ...]) -> None:
    """Raise ValueError where a network's inputs and outputs are not those of a task."""
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least inputs and outputs, none below 1, not {sizes}")
    if task == "sinusoid" and (sizes[0], sizes[-1]) != (1, 1):
        raise ValueError(f"sizes must begin and end with 1 for sinusoids, not {sizes}")
    if task != "sinusoid" and (sizes[-1] != 10 or round(sizes[0] ** 0.5) ** 2 != sizes[0] or sizes[0] > 784):
        raise ValueError(f"sizes must begin with a square of at most 784 and end with 10 for images, not {sizes}")


@dataclass(frozen=True)
class MetaTrain:
    """Meta-training of a protocol on lifetimes of T steps (notebooks)."""

    task: TaskName = "sinusoid"
    """The task that networks learn."""
    sizes: tuple[int, ...] = (1, 20, 20, 1)
    """Units of each layer of the networks, inputs first."""
    activation: Literal["relu", "sigmoid"] = "relu"
    """Activation of hidden layers."""
    message: int = 8
    """m, numbers of a message."""
    hidden: int = 15
    """h, numbers of an agent's state besides its message and, of a weight or a bias, its proposed change; 0 for
    agents without state."""
    shared: bool = False
    """Whether all weights share one GRU, and all biases another."""
    widths: tuple[int, int] = (80, 40)
    """Widths of the hidden layers of the agents' networks (official code)."""
    steps: int = 5
    """T, inner steps of a lifetime."""
    longest: int = 0
    """Largest number of steps, when the length of lifetimes is drawn from T to it; 0 for always T."""
    examples: int = 10
    """B, examples of an inner step."""
    networks: int = 4
    """Lifetimes, and so tasks, in a meta-step."""
    pool: int = 128
    """Number of initial networks, drawn once; 0 for a single one that is meta-learned."""
    hint: float = 0.7
    """rho, weight of the loss on the batches just learned; 1 - rho is that of the loss on held-out examples."""
    held_out: int = 50
    """Held-out examples."""
    rounds: int = 1
    """Lifetimes, each of a new task, from which statistics are collected before meta-training."""
    blend: float = 1.0
    """Weight of each such lifetime against the preceding ones."""
    train_messages: bool = True
    """Whether the message networks of agents without state are trained; a typing error in the official code leaves them
    untrained."""
    rate: float = 1e-4
    """Adam's learning rate."""
    last_rate: float = 1e-4
    """Adam's final learning rate; it falls geometrically."""
    meta_steps: int = 35_869
    """Meta-steps (as for the released parameters)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        check_sizes(self.task, self.sizes)
        _positive(
            self, "message", "widths", "steps", "examples", "networks", "held_out", "rounds", "blend", "rate",
            "last_rate", "meta_steps",
        )  # fmt: skip
        if min(self.hidden, self.pool) < 0:
            raise ValueError("hidden and pool must be 0 or positive")
        if not 0 <= self.hint <= 1 or self.blend > 1:
            raise ValueError("hint and blend must be shares up to 1")
        if self.longest and self.longest < self.steps:
            raise ValueError(f"longest must be 0 or at least steps, not {self.longest} with {self.steps} steps")
        if self.pool and self.pool < self.networks:
            raise ValueError(f"pool must be 0 or at least networks, {self.networks}, not {self.pool}")
        if self.shared and not self.hidden:
            raise ValueError("shared is for agents with a state: hidden must be positive")
        if self.hidden and not self.train_messages:
            raise ValueError("train_messages is for agents without state: hidden must be 0")


@dataclass(frozen=True)
class Evaluate:
    """Lifetimes of new networks on new tasks under a protocol that was meta-trained."""

    task: TaskName | None = None
    """The task that networks learn; None for the task of meta-training."""
    sizes: tuple[int, ...] = ()
    """Units of each layer; empty for those of meta-training."""
    activation: Literal["relu", "sigmoid", "step"] | None = None
    """Activation of hidden layers; None for the one in meta-training."""
    random_start: bool = False
    """Whether networks start random although an initial one was meta-learned."""
    steps: int = 0
    """Inner steps; 0 for as many as in meta-training."""
    lifetimes: int = 2000
    """Lifetimes for each seed."""
    tested: int = 1000
    """Test images on which a network is measured after each step."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _positive(self, "lifetimes", "tested")
        if self.tested > 10_000:
            raise ValueError(f"tested must be at most the 10,000 test images, not {self.tested}")
        if self.steps < 0:
            raise ValueError(f"steps must be 0 or positive, not {self.steps}")
        if self.task is not None and self.sizes:
            check_sizes(self.task, self.sizes)


@dataclass(frozen=True)
class Released(Evaluate):
    """Lifetimes under the parameters that the authors released."""

    protocol: Literal["sinusoid", "maml", "mnist"] = "sinusoid"
    """Which of the three released protocols."""


@dataclass(frozen=True)
class Baseline:
    """Adam and gradient descent on the same tasks and networks (notebooks)."""

    task: TaskName = "sinusoid"
    """The task that networks learn."""
    sizes: tuple[int, ...] = (1, 20, 20, 1)
    """Units of each layer."""
    activation: Literal["relu", "sigmoid"] = "relu"
    """Activation of hidden layers."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Optimiser of the weights."""
    rate: float = 0.01
    """Learning rate (official code: Adam 0.01, SGD 0.1)."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from by trial lifetimes on training images; empty to use `rate`."""
    steps: int = 5
    """Inner steps."""
    examples: int = 10
    """Examples of an inner step."""
    lifetimes: int = 2000
    """Lifetimes for each seed."""
    tested: int = 1000
    """Test images on which a network is measured after each step."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        check_sizes(self.task, self.sizes)
        _positive(self, "rate", "rates", "steps", "examples", "lifetimes", "tested")
        if self.tested > 10_000:
            raise ValueError(f"tested must be at most the 10,000 test images, not {self.tested}")


@dataclass(frozen=True)
class Maml:
    """MAML: an initial network from which gradient descent learns a sinusoid in few steps (notebook)."""

    sizes: tuple[int, ...] = (1, 20, 20, 1)
    """Units of each layer."""
    inner_rate: float = 0.05
    """Learning rate of the inner steps."""
    steps: int = 2
    """Inner steps."""
    examples: int = 10
    """Examples of an inner step."""
    networks: int = 4
    """Tasks in a meta-step."""
    held_out: int = 20
    """Held-out examples."""
    rate: float = 1e-4
    """Adam's learning rate."""
    meta_steps: int = 200_000
    """Meta-steps."""
    lifetimes: int = 2000
    """Number of tasks on which the initial network is tested."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        check_sizes("sinusoid", self.sizes)
        _positive(self, "inner_rate", "steps", "examples", "networks", "held_out", "rate", "meta_steps", "lifetimes")
