"""The loop that all solvers of z = f(z) share: it evaluates f, measures residuals, keeps the best points, and stops.

A rule proposes where to evaluate f next. Points are (B, ...); all axes but the first form one vector of D numbers.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from common.errors import RefigureError

__all__ = ["DivergedError", "Function", "Info", "Rule", "Solution", "Stop", "iterate", "warn_above"]

Function = Callable[[Tensor], Tensor]
Stop = Literal["rel", "abs"]
GROWTH = 1e6
"""Factor by which the absolute residual may exceed the first one before a solver gives up (after the official code)."""
CHECK_EVERY = {"cpu": 1, "cuda": 8}
"""Evaluations between two checks of the residuals, by device: each check makes the host wait for a GPU."""
_warned: set[str] = set()


class DivergedError(RefigureError):
    """The residual is not finite or has grown beyond all bounds."""


class Info(NamedTuple):
    """How a solve went, for each sample."""

    evaluations: Tensor
    """Evaluations of f until the sample converged, (B,)."""
    residual: Tensor
    """Residual of the returned point, in the requested measure, (B,)."""
    converged: Tensor
    """Whether the residual is below the tolerance, (B,)."""


class Solution(NamedTuple):
    """The best point, residuals, and how the solve went."""

    z: Tensor
    """The first evaluated point whose residual is below the tolerance, or else the point with the lowest residual,
    (B, ...)."""
    trace: Tensor
    """The residual at each evaluation of f, the first at z0: (evaluations, B); NaN after a sample was dropped."""
    info: Info


class Rule(Protocol):
    """How a solver proposes its next point."""

    def propose(self, z: Tensor, fz: Tensor, g: Tensor, out: Tensor) -> Tensor:
        """The next point, from the last evaluated point, its image, and g = f(z) - z, all (B, D).

        The result may be written to `out`. g is overwritten at the next evaluation.
        """
        ...

    def select(self, keep: Tensor) -> None:
        """Go on with the samples of these indices alone."""
        ...


@torch.no_grad()
def iterate(
    rule: Rule, f: Function, z0: Tensor, max_evals: int, tol: float, stop: Stop, per_sample: bool,
    narrow: Callable[[Tensor], Function] | None, patience: int | None = None,
) -> Solution:  # fmt: skip
    """Evaluate f where the rule proposes until all samples have converged, or with `patience` one stalls."""
    if max_evals < 1 or not tol >= 0 or stop not in ("rel", "abs"):
        raise RefigureError(f"a solver needs max_evals >= 1, tol >= 0, stop rel or abs: {max_evals}, {tol}, {stop!r}")
    name, floor = str(z0.dtype).removeprefix("torch."), 4 * torch.finfo(z0.dtype).eps
    if stop == "rel" and 0 < tol < floor:
        below = f"tol={tol:g} is below what {name} can reach, about {floor:.0e}: samples will use all evaluations"
        _warn_once(name, below)
    batch, check_every = len(z0), CHECK_EVERY.get(z0.device.type, 1)
    z = z0.detach()
    best, lowest = _Best(z), torch.full((batch,), torch.inf, dtype=z.dtype, device=z.device)
    evaluations = torch.full((batch,), max_evals, device=z.device)
    traces: list[Tensor] = []
    lows: list[Tensor] = []  # the lowest residuals after each evaluation, where it is asked whether they still fall
    rows: Tensor | None = None  # indices of the samples that are still solved; None for all
    first_residuals: Tensor | None = None
    buffers, g = _Buffers(), torch.empty_like(z)
    for done in range(1, max_evals + 1):
        fz = f(z)
        if fz.shape != z.shape:
            raise RefigureError(f"f takes {tuple(z.shape)} and gives {tuple(fz.shape)}: they must be the same")
        torch.sub(fz, z, out=g)
        absolute, residual = _residuals(fz, g, stop, per_sample)
        first_residuals = absolute if first_residuals is None else first_residuals
        traces.append(residual if rows is None else _scatter(residual, rows, batch, torch.nan))
        previous_lowest = lowest if rows is None else lowest[rows]
        better = (residual < previous_lowest) & ~(previous_lowest < tol)  # converged samples keep their point
        current_lowest = torch.where(better, residual, previous_lowest)
        converged = current_lowest < tol
        reached = torch.where(converged, done, max_evals)
        best.update(z, better, rows)
        if rows is None:
            lowest, evaluations = current_lowest, torch.minimum(evaluations, reached)
        else:
            lowest = lowest.index_copy(0, rows, current_lowest)
            evaluations = evaluations.index_copy(0, rows, torch.minimum(evaluations[rows], reached))
        checking = done % check_every == 0 or done == max_evals
        if patience:
            lows.append(lowest)
        if checking:
            _check_growth(absolute, first_residuals, ~converged, batch, done, max_evals)
            if bool(converged.all()):
                break
            if patience and done > patience and bool(((lowest >= tol) & (2 * lowest > lows[-1 - patience])).any()):
                break
        if done == max_evals:
            break
        buffer = buffers.unused(z, best.z)
        proposed = rule.propose(z.flatten(1), fz.flatten(1), g.flatten(1), buffer.flatten(1)).view_as(z)
        if narrow is not None and per_sample and checking and 2 * int(converged.sum()) >= len(converged):
            remaining = (~converged).nonzero()[:, 0]
            rows = remaining if rows is None else rows[remaining]
            rule.select(remaining)
            f, proposed, first_residuals = narrow(rows), proposed[remaining], first_residuals[remaining]
            buffers, g = _Buffers(), torch.empty_like(proposed)
        z = proposed
    return Solution(best.z, torch.stack(traces), Info(evaluations, lowest, lowest < tol))


@dataclass
class _Best:
    """The point with the lowest residual of each sample. When all samples improve at once, nothing is copied."""

    z: Tensor
    owned: bool = False

    def update(self, z: Tensor, better: Tensor, rows: Tensor | None) -> None:
        """Take over the points that are better.

        Arguments:
            rows: Indices of the samples in z; None if z holds all samples.
        """
        if rows is None and z.device.type != "cpu":
            self.z = torch.where(better.view(-1, *[1] * (z.ndim - 1)), z, self.z)
            return
        count = int(better.sum())
        if count == len(z) and rows is None:
            self.z, self.owned = z, False
        elif count:
            if not self.owned:
                self.z, self.owned = self.z.clone(), True
            indices = better.nonzero()[:, 0]
            self.z[indices if rows is None else rows[indices]] = z[indices]


class _Buffers:
    """Tensors for points that are used again: allocating memory at each step costs more than filling it."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def unused(self, *taken: Tensor) -> Tensor:
        """A tensor for a point that shares no memory with the given tensors."""
        used = {point.data_ptr() for point in taken}
        for point in self.tensors:
            if point.data_ptr() not in used:
                return point
        self.tensors.append(torch.empty_like(taken[0]))
        return self.tensors[-1]


def _residuals(fz: Tensor, g: Tensor, stop: Stop, per_sample: bool) -> tuple[Tensor, Tensor]:
    """The absolute and the requested residual, (B,)."""
    dims = tuple(range(1, g.ndim)) if per_sample else None
    absolute = torch.linalg.vector_norm(g, dim=dims).expand(len(g))
    if stop == "abs":
        return absolute, absolute
    return absolute, absolute / torch.linalg.vector_norm(fz, dim=dims).clamp(min=torch.finfo(g.dtype).tiny)


def _scatter(values: Tensor, rows: Tensor, batch: int, fill: float) -> Tensor:
    return torch.full((batch,), fill, dtype=values.dtype, device=values.device).index_copy(0, rows, values)


def _check_growth(
    absolute: Tensor, first_residuals: Tensor, unsolved: Tensor, batch: int, done: int, limit: int
) -> None:
    """Refuse to go on where most samples of the batch, those that have left it included, diverge.

    Samples that have converged keep their point, wherever the rule goes on to.
    """
    diverged = unsolved & ~(absolute <= GROWTH * first_residuals.clamp(min=1e-30))  # true for NaN, too
    if not bool(2 * diverged.sum() > batch):
        return
    worst = float(absolute[diverged].max())
    growth = (
        "is not finite"
        if not worst < torch.inf
        else f"has grown from {float(first_residuals.max()):.3g} to {worst:.3g}"
    )
    raise DivergedError(
        f"the residual |f(z) - z| {growth} at evaluation {done} of {limit}: f has no fixed point that this solver can "
        "reach; begin with smaller weights, normalise after the residual sum, or penalise the Jacobian"
    )


def warn_above(solver: str, solution: Solution, tol: float, max_evals: int) -> Solution:
    """The solution; once for each solver it is said that samples end above the tolerance."""
    above = solution.info.residual[~solution.info.converged]
    if tol > 0 and len(solution.trace) == max_evals and len(above):
        counted = f"{len(above)} of {len(solution.z)} samples end above tol={tol:g} after all evaluations"
        _warn_once(solver, f"{solver}: {counted}, the worst at {float(above.max()):.2g}: see info.converged")
    return solution


def _warn_once(about: str, message: str) -> None:
    if about not in _warned:
        _warned.add(about)
        warnings.warn(message, stacklevel=4)
