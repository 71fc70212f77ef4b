"""The settings of the experiments; `paper.yaml` says which variant and scale sets what."""

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CONDITIONS",
    "LEARNERS",
    "VSML",
    "Clone",
    "CloneOnPolicy",
    "Descent",
    "FastWeightMemory",
    "Hebbian",
    "MetaRNN",
    "MetaTest",
    "MetaTrain",
    "TaskName",
    "Unroll",
]

TaskName = Literal["mnist", "fashion-mnist", "cifar10-grey", "spoken-digits", "omniglot", "random", "sum-sign"]
CONDITIONS = ("five classes", "21 pixels", "48 pixels", "projected", "shuffled")
"""Conditions of the test of invariances (official code)."""


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not all(number > 0 for number in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} must be positive, not {value}")


@dataclass(frozen=True)
class MetaTrain:
    """Meta-training of a learning algorithm on episodes of online learning (sections 3 and 4.2)."""

    learner: Literal["vsml", "meta_rnn", "hebbian", "fast_weight_memory"]
    """What is meta-trained; each has its class of settings below."""
    optimiser: Literal["es", "backprop"] = "es"
    """Evolution strategies, or backpropagation through the episode (official code has both)."""
    tasks: tuple[TaskName, ...] = ("mnist",)
    """Data sets of the episodes; episodes take them in turn."""
    sides: tuple[int, ...] = (28,)
    """Pixels a side, one value a stage; VSML's parameters serve any size."""
    lengths: tuple[int, ...] = (500,)
    """Examples an episode, one value a stage (official code)."""
    iterations: tuple[int, ...] = (10_001,)
    """Meta-iterations, one value a stage (official code)."""
    rates: tuple[float, ...] = (0.025,)
    """Adam's learning rate, one value a stage (official code; 0.001 for backpropagation)."""
    episodes: int = 1024
    """Episodes a meta-iteration; with evolution strategies an antithetic pair shares each (official code)."""
    sigma: float = 0.05
    """Standard deviation of the evolution strategy's search (official code)."""
    clip: float = 0.0
    """Largest norm of the meta-gradient; 0 for no limit (official code: 25 for backpropagation)."""
    projected: float = 0.5
    """Share of the episodes that are seen through a random matrix (official code)."""
    projections: int = 64
    """Number of random matrices (official code: one for every second of its 128 workers)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _positive(self, "sides", "lengths", "iterations", "rates", "episodes", "sigma", "projections")
        if len({len(self.sides), len(self.lengths), len(self.iterations), len(self.rates)}) != 1:
            raise ValueError("sides, lengths, iterations and rates must have one value a stage each")
        if not self.sides:
            raise ValueError("sides, lengths, iterations and rates must have at least one stage")
        if self.optimiser == "es" and self.clip:
            raise ValueError("clip is for backprop and means nothing to evolution strategies")
        if not self.tasks:
            raise ValueError("tasks must name at least one data set")
        if self.learner != "vsml" and len(set(self.sides)) > 1:
            raise ValueError(f"{self.learner} has weights for one size of image: sides must be equal, not {self.sides}")
        if "omniglot" in self.tasks and max(self.lengths) > 200:
            raise ValueError(f"lengths must be at most 200 with omniglot, ten characters, not {self.lengths}")
        if not 0 <= self.projected <= 1:
            raise ValueError(f"projected must be a share from 0 to 1, not {self.projected}")
        if self.clip < 0:
            raise ValueError(f"clip must be 0 or positive, not {self.clip}")


@dataclass(frozen=True)
class VSML(MetaTrain):
    """A network of sub-RNNs."""

    learner: Literal["vsml"] = "vsml"
    """Its name."""
    units: int = 16
    """N, units of a sub-RNN (official code)."""
    message: int = 8
    """M, numbers in a message (official code)."""
    hidden: int = 0
    """Nodes of a hidden layer; 0 for none."""
    convolutions: int = 0
    """Convolutional layers of stride 2 and 8 channels before the dense ones."""
    normed: bool = False
    """Whether messages are layer-normalised."""
    micro_ticks: int = 2
    """Ticks of a layer an example with the same messages (official code)."""
    feed_label: bool = False
    """Whether outputs receive the label beside the error."""
    backward_pass: bool = False
    """Whether the layers run again, in reverse, with the new error; otherwise it enters with the next example."""
    input_offset: float = -5.0
    """Added to the input gates (official code)."""
    forget_offset: float = 5.0
    """Added to the forget gates (official code)."""
    read_out: float = 1.0
    """Factor on the message maps' initial weights."""
    states: Literal["fp32", "bf16"] = "fp32"
    """Type in which states are kept between examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "units", "message", "micro_ticks", "read_out")
        if self.message < 2:
            raise ValueError(f"message must be at least 2, for the output is its second number, not {self.message}")
        if min(self.hidden, self.convolutions) < 0:
            raise ValueError("hidden and convolutions must be 0 or positive")


@dataclass(frozen=True)
class MetaRNN(MetaTrain):
    """An LSTM that sees the example, the error and the label."""

    learner: Literal["meta_rnn"] = "meta_rnn"
    """Its name."""
    units: int = 128
    """Units of the LSTM (official code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "units")


@dataclass(frozen=True)
class Hebbian(MetaTrain):
    """A layer with Hebbian fast weights."""

    learner: Literal["hebbian"] = "hebbian"
    """Its name."""


@dataclass(frozen=True)
class FastWeightMemory(MetaTrain):
    """An LSTM that writes to and reads from a fast-weight memory."""

    learner: Literal["fast_weight_memory"] = "fast_weight_memory"
    """Its name."""
    units: int = 32
    """Units of the LSTM (official code)."""
    memory: int = 16
    """Rows of the memory (official code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "units", "memory")


LEARNERS: dict[str, type[MetaTrain]] = {
    "vsml": VSML, "meta_rnn": MetaRNN, "hebbian": Hebbian, "fast_weight_memory": FastWeightMemory,
}  # fmt: skip
"""The settings of each learner."""


@dataclass(frozen=True)
class MetaTest:
    """Online learning of unseen streams (sections 4.2 to 4.4 and 5)."""

    tasks: tuple[TaskName, ...] = ("mnist", "fashion-mnist")
    """Data sets, test split."""
    conditions: tuple[str, ...] = ()
    """Variations of MNIST, by the names of `CONDITIONS`."""
    side: int = 28
    """Pixels a side."""
    hidden: int = 0
    """Nodes of a hidden layer that meta-training did not have; 0 for the network as it was meta-trained."""
    length: int = 2000
    """Examples a run; all examples where a data set has fewer (official code)."""
    runs: int = 32
    """Runs a data set (official code)."""
    counts: tuple[int, ...] = (100, 500, 2000)
    """Numbers of examples after which the accuracy so far is reported."""
    again: int = 0
    """Images that are shown twice, in blocks of ten, to record their probabilities (section 5); 0 for none."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _positive(self, "side", "length", "runs", "counts")
        if not self.tasks:
            raise ValueError("tasks must name at least one data set")
        unknown = [name for name in self.conditions if name not in CONDITIONS]
        if unknown:
            raise ValueError(f"conditions: no {unknown[0]!r}; there are {', '.join(CONDITIONS)}")
        if min(self.hidden, self.again) < 0 or self.again % 10 or self.again > 1000:
            raise ValueError("hidden must be 0 or positive, again a multiple of 10 up to 1000")


@dataclass(frozen=True)
class Descent(MetaTest):
    """Online gradient descent, without meta-learning (section 4.2)."""

    optimiser: Literal["sgd", "adam"] = "adam"
    """Plain gradient descent or Adam."""
    rate: float = 0.001
    """Learning rate (official code: 0.001 for Adam, 0.01 for SGD)."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from by accuracy on streams of 500 training images; empty to use `rate`."""
    width: int = 160
    """Nodes of the hidden layer (official code); 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "rate", "rates")
        if self.width < 0:
            raise ValueError(f"width must be 0 or positive, not {self.width}")
        if self.conditions or self.hidden:
            raise ValueError("conditions and hidden are for meta-learned networks")


@dataclass(frozen=True)
class Clone:
    """Learning algorithm cloning: sub-RNNs are trained to do what gradient descent does (section 4.1)."""

    signals: Literal["random", "mnist"] = "random"
    """Inputs and errors of training: normal numbers, or pixels of MNIST with errors of a softmax."""
    rate: float = 0.01
    """Final learning rate of the gradient descent that is cloned (ours; the paper's is not known)."""
    bias_rate: float = 0.000625
    """Learning rate of biases, a sixteenth: every synapse has one, so that of a node is its inputs times this."""
    units: int = 32
    """N, units of a sub-RNN (ours; 16 learned the product of input and error too slowly when no rate was eased)."""
    ticks: int = 2
    """Ticks with the input, and as many with input and error."""
    iterations: int = 10_000
    """Optimiser steps."""
    eased: float = 30.0
    """Initial factor on both cloned rates: in larger changes the product of input and error stands out from
    disturbances (ours)."""
    outer_rate: float = 0.01
    """Initial learning rate of Adam; it falls to zero as a cosine."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    examples: int = 4
    """Examples a step, through which gradients flow."""
    grids: int = 16
    """Grids of synapses a step."""
    inputs: int = 8
    """Inputs of a grid."""
    outputs: int = 8
    """Outputs of a grid."""
    renewed: float = 0.0625
    """Share of grids that are drawn anew at each step; the other grids keep their states."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _positive(
            self, "rate", "bias_rate", "ticks", "iterations", "eased", "outer_rate", "clip", "examples", "grids",
            "inputs", "outputs",
        )  # fmt: skip
        if self.units < 2:
            raise ValueError(f"units must be at least 2, for a weight and a bias, not {self.units}")
        if not 0 < self.renewed <= 1:
            raise ValueError(f"renewed must be a share above 0, not {self.renewed}")


@dataclass(frozen=True)
class CloneOnPolicy(Clone):
    """Cloning of single synapses and of those in networks of clones, on what they hear as the networks learn MNIST."""

    signals: Literal["random", "mnist"] = "mnist"
    """Inputs and errors of single synapses."""
    networks: int = 1
    """Networks that learn at once."""
    side: int = 14
    """Pixels a side of their images."""
    hidden: tuple[int, ...] = (32,)
    """Nodes of their hidden layers."""
    life: int = 3000
    """Mean number of examples after which a network begins anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "networks", "side", "hidden", "life")


@dataclass(frozen=True)
class Unroll:
    """Online learning by networks of clones, beside the algorithm that was cloned."""

    tasks: tuple[Literal["mnist", "fashion-mnist"], ...] = ("mnist", "fashion-mnist")
    """Data sets, of which training images are learned."""
    side: int = 28
    """Pixels a side."""
    hidden: tuple[int, ...] = ()
    """Nodes of hidden layers."""
    length: int = 60_000
    """Examples, one after the other."""
    window: int = 500
    """Examples over which a point of the curves is the mean."""
    tested: int = 10_000
    """Test images on which the network is measured at the end."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products on a GPU."""

    def __post_init__(self) -> None:
        _positive(self, "side", "length", "window", "tested")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must be widths, not {self.hidden}")
        if self.length % self.window:
            raise ValueError(f"length must be a multiple of window, not {self.length} of {self.window}")
