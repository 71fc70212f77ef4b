"""Bytes that differentiation keeps between the forward and the backward pass: exact, the same on every machine."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from common.device import torch_device
from common.recorder import Outcome, Recorder
from papers.deq.cells import ConvCell, TransformerCell
from papers.deq.config import Memory
from papers.deq.implicit import implicit, unrolled
from papers.deq.solvers import Function, broyden
from papers.deq.training import initialised

__all__ = ["saved_bytes", "train"]

REPEATS = 3
"""Of each timing; the least counts."""


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Of all tensors that `run` saves for a backward pass, each storage once, without parameters and inputs.

    Arguments:
        run: Builds a graph and returns its end. Leaves - parameters, inputs - are there anyway and do not count.
    """
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            kept[tensor.untyped_storage().data_ptr()] = tensor.detach()  # held, or its place may be given anew
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        end = run()
    del end
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def train(config: Memory, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Of weight-tied stacks of several depths, and of a DEQ with several numbers of evaluations."""
    (seed,) = seeds
    device = torch_device()
    bind, z0 = _problem(config, seed, device)
    cases: dict[str, Callable[[], Tensor]] = {}
    for depth in config.depths:
        cases[f"layers_{depth}"] = lambda depth=depth: unrolled(bind(), z0, depth).z
    for count in config.evaluations:
        solve = partial(broyden, max_evals=count, tol=0.0, stop="abs")
        cases[f"deq_{count}"] = lambda solve=solve: implicit(bind(), z0, solve, solve).z
    metrics: dict[str, float] = {}
    for index, (name, case) in enumerate(cases.items()):
        metrics[f"bytes_{name}"] = saved_bytes(case)
        metrics[f"seconds_{name}"] = min(_seconds(case) for _ in range(REPEATS))
        run.progress(index + 1, len(cases))
    deq = [metrics[f"bytes_deq_{count}"] for count in config.evaluations]
    metrics["spread"] = max(deq) - min(deq)
    metrics["saved"] = 1 - max(deq) / metrics[f"bytes_layers_{max(config.depths)}"]
    return Outcome({name: [float(value)] for name, value in metrics.items()})


def _problem(config: Memory, seed: int, device: torch.device) -> tuple[Callable[[], Function], Tensor]:
    """Binds the cell to its input, and where the solver begins."""
    generator = torch.Generator().manual_seed(seed)
    size = config.features
    if config.cell == "transformer":
        cell = initialised(lambda: TransformerCell(size, 4, size // 4, 180), seed, device)
        u = torch.randn(config.batch, config.length, 3 * size, generator=generator).to(device)
        return lambda: cell.bind(u), torch.zeros(config.batch, config.length, size, device=device)
    conv = initialised(lambda: ConvCell(size, size), seed, device)
    x = torch.randn(config.batch, size, config.side, config.side, generator=generator).to(device)
    return lambda: conv.bind(x), torch.zeros_like(x)


def _seconds(case: Callable[[], Tensor]) -> float:
    """Of a forward and a backward pass."""
    started = time.perf_counter()
    case().sum().backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
