"""Solvers of z = f(z), all with one signature: `solver(f, z0, *, max_evals, tol, stop, per_sample) -> Solution`.

From the points so far and their images, each solver proposes where to evaluate f next; the common loop measures the
residual, keeps the best point, and stops. Points are (B, ...); all axes but the first form one vector of D numbers.

    z, trace, info = anderson(f, torch.zeros(32, 64), max_evals=30, tol=1e-3)
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from common.errors import RefigureError

__all__ = [
    "DivergedError",
    "Function",
    "Info",
    "Solution",
    "Solver",
    "anderson",
    "broyden",
    "fixed_point",
    "history_bytes",
    "newton",
]

Function = Callable[[Tensor], Tensor]
Stop = Literal["rel", "abs"]
GROWTH = 1e6
"""Factor by which the absolute residual may exceed the first one before a solver gives up (after the official code)."""
CHECK_EVERY = {"cpu": 1, "cuda": 8}
"""Evaluations between two checks of the residuals, by device: each check makes the host wait for a GPU."""
PATIENCE = 30
"""Evaluations in which Anderson acceleration must halve a sample's lowest residual; else Broyden's method goes on."""
BROYDEN_STEPS = 300
"""Evaluations of Broyden's method, after Anderson acceleration, until it begins anew: this bounds its memory."""
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


class Solver(Protocol):
    """The signature of all solvers."""

    def __call__(
        self,
        f: Function,
        z0: Tensor,
        *,
        max_evals: int = ...,
        tol: float = ...,
        stop: Stop = ...,
        per_sample: bool = ...,
        narrow: Callable[[Tensor], Function] | None = ...,
    ) -> Solution: ...


class _Rule(Protocol):
    """How a solver proposes its next point."""

    def propose(self, z: Tensor, fz: Tensor, g: Tensor, out: Tensor) -> Tensor:
        """The next point, from the last evaluated point, its image, and g = f(z) - z, all (B, D).

        The result may be written to `out`. g is overwritten at the next evaluation.
        """
        ...

    def select(self, keep: Tensor) -> None:
        """Go on with the samples of these indices alone."""
        ...


def fixed_point(
    f: Function, z0: Tensor, *, max_evals: int = 30, tol: float = 1e-3, stop: Stop = "rel", per_sample: bool = True,
    narrow: Callable[[Tensor], Function] | None = None,
) -> Solution:  # fmt: skip
    """Plain iteration, z <- f(z).

    Arguments:
        f: From (B, ...) to the same shape; it is called without differentiation.
        z0: The initial point.
        max_evals: Largest number of evaluations of f.
        tol: Residual at which a sample has converged.
        stop: Which residual counts: |f(z) - z| (`abs`), or |f(z) - z| / |f(z)| (`rel`).
        per_sample: Whether the norm is each sample's own or that of the whole batch (official code).
        narrow: From indices of samples to f of these samples alone; converged samples are then no longer evaluated.

    Raises:
        DivergedError: For most samples the residual is not finite or has grown a millionfold. If only a few samples
            diverge, they end at their best point, not converged.
        RefigureError: f returns another shape than it is given.
    """
    return _solve(_Plain(), f, z0, max_evals, tol, stop, per_sample, narrow)


def anderson(
    f: Function, z0: Tensor, *, max_evals: int = 30, tol: float = 1e-3, stop: Stop = "rel", per_sample: bool = True,
    narrow: Callable[[Tensor], Function] | None = None, window: int = 6, ridge: float = 1e-5, mixing: float = 1.0,
    absolute: bool = False,
) -> Solution:  # fmt: skip
    """Anderson acceleration, the combination of the last m points whose combined residual is smallest; then Broyden's
    method, where that stalls.

    Arguments:
        window: m, points that are combined.
        ridge: lambda, added to the diagonal of the residuals' Gram matrix as a share of each diagonal element: it
            scales with the residuals, and bounds the weights where residuals are nearly dependent.
        mixing: beta, weight of the images against the points.
        absolute: Whether lambda itself is added (official code, 1e-4), which dominates once residuals are small.

    Where plain iteration runs in a cycle the combination may stall, with a small window as with a large one. So when a
    sample that has not converged stalls (`PATIENCE`), Broyden's method goes on from the best points of all, anew after
    every `BROYDEN_STEPS` evaluations. With tol = 0, or as the official code has it (`absolute`), it never does.

    For the other arguments and the errors see `fixed_point`.
    """
    patience = PATIENCE if tol > 0 and not absolute else None
    rule = _Anderson(z0, window, ridge, mixing, absolute)
    z, trace, info = _solve(rule, f, z0, max_evals, tol, stop, per_sample, narrow, patience)
    while patience and len(trace) < max_evals and not bool(info.converged.all()):
        steps = min(max_evals - len(trace), BROYDEN_STEPS)
        rest = _solve(_Broyden(z0, steps), f, z, steps, tol, stop, per_sample, narrow)
        better = ~info.converged & (rest.info.residual < info.residual)
        z = torch.where(better.view(-1, *[1] * (z.ndim - 1)), rest.z, z)
        trace = torch.cat([trace, rest.trace.masked_fill(info.converged, torch.nan)])
        info = Info(
            torch.where(info.converged, info.evaluations, len(trace) - len(rest.trace) + rest.info.evaluations),
            torch.where(better, rest.info.residual, info.residual),
            info.converged | rest.info.converged,
        )
    return Solution(z, trace, info)


def broyden(
    f: Function, z0: Tensor, *, max_evals: int = 30, tol: float = 1e-3, stop: Stop = "rel", per_sample: bool = True,
    narrow: Callable[[Tensor], Function] | None = None,
) -> Solution:  # fmt: skip
    """Broyden's good method from B = -I with full steps (DEQ eq. 10). For arguments and errors see `fixed_point`."""
    return _solve(_Broyden(z0, max_evals), f, z0, max_evals, tol, stop, per_sample, narrow)


def newton(
    f: Function, z0: Tensor, *, max_evals: int = 30, tol: float = 1e-10, stop: Stop = "rel", per_sample: bool = True,
    narrow: Callable[[Tensor], Function] | None = None,
) -> Solution:  # fmt: skip
    """Newton's method with the exact Jacobian, for tests; the D further evaluations a step are not counted."""
    return _solve(_Newton(f, z0), f, z0, max_evals, tol, stop, per_sample, narrow)


def history_bytes(z0: Tensor, max_evals: int) -> int:
    """Bytes that Broyden's method holds while it solves."""
    rule = _Broyden(z0.to("meta"), max_evals)
    return rule.steps.nbytes + rule.inner.nbytes


# --- the loop ------------------------------------------------------------------------------------------------


@torch.no_grad()
def _solve(
    rule: _Rule, f: Function, z0: Tensor, max_evals: int, tol: float, stop: Stop, per_sample: bool,
    narrow: Callable[[Tensor], Function] | None, patience: int | None = None,
) -> Solution:  # fmt: skip
    """Evaluate f where the rule proposes until all samples have converged, or with `patience` one stalls."""
    if max_evals < 1 or not tol >= 0 or stop not in ("rel", "abs"):
        raise RefigureError(f"a solver needs max_evals >= 1, tol >= 0, stop rel or abs: {max_evals}, {tol}, {stop!r}")
    name, floor = str(z0.dtype).removeprefix("torch."), 4 * torch.finfo(z0.dtype).eps
    below = f"tol={tol:g} is below what {name} can reach, about {floor:.0e}: samples will use all evaluations"
    _warn_once(name, below if stop == "rel" and 0 < tol < floor else "")
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
        better = (residual < previous_lowest) & ~(previous_lowest < tol)  # converged samples remaining their point
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
            _check_growth(absolute, first_residuals, converged, done, max_evals)
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
    name, ended_above = type(rule).__name__, tol > 0 and len(traces) == max_evals and bool((lowest >= tol).any())
    above = f"{name.strip('_')}: {int((lowest >= tol).sum())} of {batch} samples end above tol={tol:g}"
    _warn_once(
        name,
        f"{above} after all evaluations, the worst at {float(lowest.max()):.2g}: see info.converged"
        if ended_above
        else "",
    )
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


def _check_growth(absolute: Tensor, first_residuals: Tensor, converged: Tensor, done: int, limit: int) -> None:
    diverged = ~(absolute <= GROWTH * first_residuals.clamp(min=1e-30))  # true for NaN, too
    diverged &= ~converged  # these keep their point, wherever the rule goes on to
    if not bool(2 * diverged.sum() > len(diverged)):
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


def _warn_once(about: str, message: str) -> None:
    """Say something, unless it is nothing or something was said about the same."""
    if message and about not in _warned:
        _warned.add(about)
        warnings.warn(message, stacklevel=4)


# --- the rules -----------------------------------------------------------------------------------------------


class _Plain:
    def propose(self, z: Tensor, fz: Tensor, g: Tensor, out: Tensor) -> Tensor:
        return fz

    def select(self, keep: Tensor) -> None:
        pass


@dataclass
class _Anderson:
    """Anderson's rule, with images, residuals and their Gram matrix, of which each step renews one row and column."""

    z0: Tensor
    window: int
    ridge: float
    mixing: float
    absolute: bool

    def __post_init__(self) -> None:
        if self.window < 1:
            raise RefigureError(f"Anderson's window must be at least 1, not {self.window}")
        flat = self.z0.flatten(1)
        batch, size = flat.shape
        self.images = flat.new_empty(batch, self.window, size)
        self.residuals = flat.new_empty(batch, self.window, size)
        self.gram = flat.new_zeros(batch, self.window, self.window)
        self.done = 0

    def propose(self, z: Tensor, fz: Tensor, g: Tensor, out: Tensor) -> Tensor:
        slot, count = self.done % self.window, min(self.done + 1, self.window)
        self.images[:, slot] = fz
        self.residuals[:, slot] = g
        row = torch.bmm(g[:, None], self.residuals[:, :count].mT)[:, 0]
        self.gram[:, slot, :count] = row
        self.gram[:, :count, slot] = row
        self.done += 1
        weights = self._weights(count, slot)
        torch.bmm(weights, self.images[:, :count], out=out[:, None])
        if self.mixing != 1:
            out -= (1 - self.mixing) * torch.bmm(weights, self.residuals[:, :count])[:, 0]
        return out

    def _weights(self, count: int, slot: int) -> Tensor:
        """alpha, (B, 1, count): weights with sum 1, proportional to (G G^T + lambda I)^-1 1."""
        gram = self.gram[:, :count, :count]
        diagonal = gram.diagonal(dim1=1, dim2=2)
        ridge = torch.full_like(diagonal, self.ridge) if self.absolute else self.ridge * diagonal
        system = gram + torch.diag_embed(ridge)
        weights = torch.linalg.solve_ex(system, torch.ones_like(diagonal)[:, :, None])[0].mT
        weights = weights / weights.sum(2, keepdim=True)
        # all residuals zero, or equal: the newest point alone
        newest = (torch.arange(count, device=gram.device) == slot).to(weights)
        return torch.where(weights.isfinite().all(2, keepdim=True), weights, newest)

    def select(self, keep: Tensor) -> None:
        self.images, self.residuals, self.gram = self.images[keep], self.residuals[keep], self.gram[keep]


@dataclass
class _Broyden:
    """Full steps of Broyden's good method, computed from the preceding steps alone.

    From B = -I the approximate inverse Jacobian B is a product over the steps s_j (Kelley, Iterative Methods for Linear
    and Nonlinear Equations, 1995, section 7.3), so that w = -B g obeys
        w <- g;  w <- w + s_(j+1) c_j with c_j = (s_j . w) / |s_j|^2 for each j before the last;
        next step = w / (1 - c_last).
    The c_j solve a triangular system in the inner products of the steps. An iteration then makes two passes over the
    steps, where the usual form with two vectors a step makes six.
    """

    z0: Tensor
    max_steps: int

    def __post_init__(self) -> None:
        batch, size = self.z0.flatten(1).shape
        self.steps = self.z0.new_empty(batch, self.max_steps, size)
        self.inner = self.z0.new_zeros(batch, self.max_steps, self.max_steps)
        self.done = 0

    def propose(self, z: Tensor, fz: Tensor, g: Tensor, out: Tensor) -> Tensor:
        n, step = self.done, self.steps[:, self.done]
        if n == 0:
            step.copy_(g)
        else:
            old = self.steps[:, :n]
            products = torch.bmm(torch.stack([g, old[:, -1]], 1), old.mT)  # s_j . g and s_j . s_last
            self.inner[:, n - 1, :n] = products[:, 1]
            self.inner[:, :n, n - 1] = products[:, 1]
            inner = self.inner[:, :n, :n]
            # c_j |s_j|^2 - sum over i < j of (s_j . s_(i+1)) c_i = s_j . g
            system = torch.diag_embed(inner.diagonal(dim1=1, dim2=2))
            system[:, :, :-1] -= inner[:, :, 1:].tril(-1)
            c = torch.linalg.solve_triangular(system, products[:, 0, :, None], upper=False)
            # w / (1 - c_last); where that is not a number the sample stays where it is
            share = (1 / (1 - c[:, -1:])).nan_to_num(0.0, 0.0, 0.0)
            shares = (c[:, :-1] * share).nan_to_num(0.0, 0.0, 0.0).mT
            torch.mul(g, share[:, 0], out=step)
            step += torch.bmm(shares, old[:, 1:], out=out[:, None])[:, 0] if n > 1 else 0
        self.done += 1
        return torch.add(z, step, out=out)

    def select(self, keep: Tensor) -> None:
        self.steps, self.inner = self.steps[keep], self.inner[keep]


@dataclass
class _Newton:
    f: Function
    z0: Tensor

    def propose(self, z: Tensor, fz: Tensor, g: Tensor, out: Tensor) -> Tensor:
        def flat(point: Tensor) -> Tensor:
            return self.f(point.view(len(z), *self.z0.shape[1:])).flatten(1).sum(0)

        jacobian = torch.func.jacrev(flat)(z).movedim(1, 0)  # samples are independent
        return z + torch.linalg.solve(torch.eye(z.shape[1], dtype=z.dtype, device=z.device) - jacobian, g)

    def select(self, keep: Tensor) -> None:
        raise RefigureError("Newton's method is for tests: it cannot go on with a part of the samples")
