"""Networks for copy memory: a DEQ-Transformer, its weight-tied stack, recurrent and convolutional baselines."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from papers.deq import solvers
from papers.deq.cells import TransformerCell
from papers.deq.config import CopyMemory, Solving
from papers.deq.implicit import Equilibrium, implicit, phantom, unrolled
from papers.deq.iteration import Function, Info
from papers.deq.tasks import SYMBOLS

__all__ = ["CopyTransformer", "Output", "Recurrent", "TemporalConv", "build", "settle", "solver_effort"]

HIDDEN = {"lstm": 52, "gru": 62, "tcn": 13}
"""Units with which a baseline has the paper's number of parameters: 14 K, 14 K, 16 K."""


class Output(NamedTuple):
    """The result of a network."""

    logits: Tensor
    """Logits of the symbols, (B, T, symbols)."""
    equilibrium: Equilibrium | None = None
    """The equilibrium of a transformer; None for other networks."""
    f: Function | None = None
    """The function whose equilibrium it is."""


def settle(
    config: Solving, f: Function, z0: Tensor, layers: int | None, narrow: Callable[[Tensor], Function] | None = None,
    gradient: str = "implicit",
) -> Equilibrium:  # fmt: skip
    """The fixed point of f, solved as a configuration says, or the result of `layers` applications of f.

    Arguments:
        narrow: From indices of samples to f of these samples alone, so that converged samples are no longer evaluated.
        gradient: `implicit`, or `phantom` for that of one step from the fixed point.
    """
    if layers is not None:
        return unrolled(f, z0, layers)
    forward, backward = (
        partial(getattr(solvers, name), max_evals=max_evals, tol=config.tolerance)
        for name, max_evals in (
            (config.forward_solver, config.forward_evaluations),
            (config.backward_solver, config.backward_evaluations),
        )
    )
    forward = partial(forward, narrow=narrow)
    if gradient == "phantom":
        return phantom(f, z0, forward)
    return implicit(f, z0, forward, backward)


def solver_effort(info: Info | None, prefix: str = "") -> dict[str, float]:
    """Mean number of evaluations of f over the samples of a solve, and their median final residual; zeros for None."""
    if info is None:
        return {f"{prefix}evaluations": 0.0, f"{prefix}residual": 0.0}
    return {
        f"{prefix}evaluations": float(info.evaluations.float().mean()),
        f"{prefix}residual": float(info.residual.median()),
    }


class CopyTransformer(nn.Module):
    """Embedding, one transformer layer at its fixed point or applied several times, and a linear read-out."""

    def __init__(self, config: CopyMemory) -> None:
        super().__init__()
        self.config = config
        size = config.features
        self.embedding = nn.Embedding(SYMBOLS, size)
        self.injection = nn.Linear(size, 3 * size, bias=False)
        self.cell = TransformerCell(size, config.heads, size // config.heads, config.inner, deviation=config.deviation)
        self.out = nn.Linear(size, SYMBOLS)

    def bind(self, x: Tensor) -> Function:
        """f of states (B, T, d) for sequences of symbols (B, T)."""
        return self.cell.bind(self.injection(self.embedding(x)))

    def forward(self, x: Tensor, layers: int | None = None) -> Output:
        """The read-out at the fixed point, or after `layers` applications of the layer."""
        f = self.bind(x)
        z0 = torch.zeros(*x.shape, self.config.features, device=x.device)
        equilibrium = settle(self.config, f, z0, layers, lambda rows: self.bind(x[rows]), self.config.gradient)
        return Output(self.out(equilibrium.z), equilibrium, f)


class Recurrent(nn.Module):
    """LSTM or GRU on one-hot symbols."""

    def __init__(self, kind: Any, hidden: int) -> None:
        super().__init__()
        self.cells = kind(SYMBOLS, hidden, batch_first=True)
        self.out = nn.Linear(hidden, SYMBOLS)

    def forward(self, x: Tensor) -> Output:
        """The output for sequences of symbols (B, T)."""
        return Output(self.out(self.cells(F.one_hot(x, SYMBOLS).float())[0]))


class TemporalConv(nn.Module):
    """A temporal convolutional network: residual blocks of two causal convolutions, dilated by 1, 2, 4, ...

    Arguments:
        channels: Channels of each block.
        blocks: Number of blocks, of 8 taps each: six reach 883 steps back.
    """

    def __init__(self, channels: int, blocks: int = 6) -> None:
        super().__init__()
        taps = 8
        self.reach = [(taps - 1) * 2**index for index in range(blocks)]
        make = partial(nn.Conv1d, kernel_size=taps)
        self.first = nn.ModuleList(
            weight_norm(make(channels if index else SYMBOLS, channels, dilation=2**index)) for index in range(blocks)
        )
        self.second = nn.ModuleList(weight_norm(make(channels, channels, dilation=2**index)) for index in range(blocks))
        self.widen = nn.Conv1d(SYMBOLS, channels, 1)
        self.out = nn.Linear(channels, SYMBOLS)

    def forward(self, x: Tensor) -> Output:
        """The output for sequences of symbols (B, T)."""
        h = F.one_hot(x, SYMBOLS).float().mT
        for index, (first, second, reach) in enumerate(zip(self.first, self.second, self.reach, strict=True)):
            y = F.relu(first(F.pad(h, (reach, 0))))
            y = F.relu(second(F.pad(y, (reach, 0))))
            h = F.relu(y + (h if index else self.widen(h)))
        return Output(self.out(h.mT))


def build(config: CopyMemory) -> nn.Module:
    """The network of a configuration, initialised with PyTorch's global generator."""
    if config.model in ("deq", "unrolled"):
        return CopyTransformer(config)
    hidden = config.hidden or HIDDEN[config.model]
    if config.model == "tcn":
        return TemporalConv(hidden)
    return Recurrent({"lstm": nn.LSTM, "gru": nn.GRU}[config.model], hidden)
