"""Bytes that differentiation keeps between the forward and the backward pass; exact, and equal on every CPU."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from common.train.recorder import Outcome, Recorder
from common.train.torch import initialised, torch_device
from papers.deq.cells import ConvCell, TransformerCell
from papers.deq.config import Memory
from papers.deq.implicit import implicit, unrolled
from papers.deq.solvers import broyden, history_bytes

__all__ = ["saved_bytes", "train"]

REPEATS = 3
"""Repetitions of each timing; the shortest counts."""


def saved_bytes(run: Callable[[], Tensor], excluded: Iterable[Tensor] = ()) -> int:
    """Bytes of all tensors that `run` saves for a backward pass; each storage counts once.

    Arguments:
        run: Builds a graph and returns its last tensor.
        excluded: Tensors that exist anyway (parameters, inputs) and do not count.
    """
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.detach()  # held, or its address may be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        end = run()
    del end
    for tensor in excluded:
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def train(config: Memory, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Measure weight-tied stacks of several depths, and a DEQ with several numbers of evaluations.

    Seconds depend on the machine and differ from run to run; bytes do not.
    """
    (seed,) = seeds
    device = torch_device()
    cell, x, z0 = _problem(config, seed, device)
    excluded = [*cell.parameters(), x, z0]
    cases: dict[str, Callable[[], Tensor]] = {}
    for depth in config.depths:
        cases[f"layers_{depth}"] = lambda depth=depth: unrolled(cell.bind(x), z0, depth).z
    for count in config.evaluations:
        solve = partial(broyden, max_evals=count, tol=0.0)
        cases[f"deq_{count}"] = lambda solve=solve: implicit(cell.bind(x), z0, solve, solve).z
    metrics: dict[str, float] = {}
    seconds: dict[str, float] = {}
    inference: dict[str, float] = {}
    for index, (name, case) in enumerate(cases.items()):
        metrics[f"bytes_{name}"] = saved_bytes(case, excluded)
        seconds[name] = min(_seconds(case) for _ in range(REPEATS))
        inference[name] = min(_seconds(case, train=False) for _ in range(REPEATS))
        run.progress(index + 1, len(cases))
    for count in config.evaluations:
        metrics[f"bytes_solver_{count}"] = history_bytes(z0, count)
    deq = [metrics[f"bytes_deq_{count}"] for count in config.evaluations]
    stack = f"layers_{config.compared}"
    metrics["spread"] = max(deq) - min(deq)
    metrics["share"] = max(deq) / metrics[f"bytes_{stack}"]
    metrics["share_with_solver"] = (max(deq) + metrics[f"bytes_solver_{config.budget}"]) / metrics[f"bytes_{stack}"]
    metrics["ratio_of_seconds"] = seconds[f"deq_{config.budget}"] / seconds[stack]
    metrics["ratio_of_inference"] = inference[f"deq_{config.budget}"] / inference[stack]
    arrays = {f"seconds_{name}": np.array([value]) for name, value in seconds.items()}
    return Outcome({name: [float(value)] for name, value in metrics.items()}, arrays)


def _problem(config: Memory, seed: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """A cell, its input, and the initial point of the solver."""
    generator = torch.Generator().manual_seed(seed)
    size = config.features
    if config.cell == "transformer":
        cell: nn.Module = initialised(lambda: TransformerCell(size, 4, size // 4, 180), seed, device)
        u = torch.randn(config.batch, config.length, 3 * size, generator=generator).to(device)
        return cell, u, torch.zeros(config.batch, config.length, size, device=device)
    cell = initialised(lambda: ConvCell(size, size), seed, device)
    x = torch.randn(config.batch, size, config.side, config.side, generator=generator).to(device)
    return cell, x, torch.zeros_like(x)


def _seconds(case: Callable[[], Tensor], train: bool = True) -> float:
    """Seconds of a forward and a backward pass, or of a forward pass alone."""
    started = time.perf_counter()
    with torch.set_grad_enabled(train):
        end = case().sum()
    if train:
        end.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
