"""Solvers of z = f(z), all with one signature: `solver(f, z0, *, max_evals, tol, stop, per_sample) -> Solution`.

From the points so far and their images each solver's rule proposes where to evaluate f next; `iteration.iterate` does
the rest. `plain_solvers.py` states the rules as the papers do.

    z, trace, info = anderson(f, torch.zeros(32, 64), max_evals=30, tol=1e-3)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import RefigureError
from papers.deq.iteration import DivergedError, Function, Info, Solution, Stop, iterate, warn_above

__all__ = ["Solver", "anderson", "broyden", "fixed_point", "history_bytes"]

PATIENCE = 30
"""Evaluations in which Anderson acceleration must halve a sample's lowest residual; else Broyden's method goes on."""
BROYDEN_STEPS = 300
"""Evaluations of Broyden's method, after Anderson acceleration, until it begins anew: this bounds its memory."""


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
    solution = iterate(_Plain(), f, z0, max_evals, tol, stop, per_sample, narrow)
    return warn_above("fixed_point", solution, tol, max_evals)


def anderson(
    f: Function, z0: Tensor, *, max_evals: int = 30, tol: float = 1e-3, stop: Stop = "rel", per_sample: bool = True,
    narrow: Callable[[Tensor], Function] | None = None, window: int = 6, ridge: float = 1e-5, absolute: bool = False,
) -> Solution:  # fmt: skip
    """Anderson acceleration, the combination of the last m points whose combined residual is smallest; then Broyden's
    method, where that stalls.

    Arguments:
        window: m, points that are combined.
        ridge: lambda, added to the diagonal of the residuals' Gram matrix as a share of each diagonal element: it
            scales with the residuals, and bounds the weights where residuals are nearly dependent.
        absolute: Whether lambda itself is added (official code, 1e-4), which dominates once residuals are small.

    Where plain iteration runs in a cycle the combination may stall, with a small window as with a large one. So when a
    sample that has not converged stalls (`PATIENCE`), Broyden's method goes on from the best points of all, anew after
    every `BROYDEN_STEPS` evaluations. With tol = 0, or as the official code has it (`absolute`), it never does.

    For the other arguments and the errors see `fixed_point`.
    """
    patience = PATIENCE if tol > 0 and not absolute else None
    rule = _Anderson(z0, window, ridge, absolute)
    z, trace, info = iterate(rule, f, z0, max_evals, tol, stop, per_sample, narrow, patience)
    while patience and len(trace) < max_evals and not bool(info.converged.all()):
        steps = min(max_evals - len(trace), BROYDEN_STEPS)
        try:
            rest = iterate(_Broyden(z0, steps), f, z, steps, tol, stop, per_sample, narrow)
        except DivergedError:
            break  # the best points so far are kept
        better = ~info.converged & (rest.info.residual < info.residual)
        z = torch.where(better.view(-1, *[1] * (z.ndim - 1)), rest.z, z)
        trace = torch.cat([trace, rest.trace.masked_fill(info.converged, torch.nan)])
        info = Info(
            torch.where(info.converged, info.evaluations, len(trace) - len(rest.trace) + rest.info.evaluations),
            torch.where(better, rest.info.residual, info.residual),
            info.converged | rest.info.converged,
        )
    return warn_above("anderson", Solution(z, trace, info), tol, max_evals)


def broyden(
    f: Function, z0: Tensor, *, max_evals: int = 30, tol: float = 1e-3, stop: Stop = "rel", per_sample: bool = True,
    narrow: Callable[[Tensor], Function] | None = None,
) -> Solution:  # fmt: skip
    """Broyden's good method from B = -I with full steps (DEQ eq. 10). For arguments and errors see `fixed_point`."""
    solution = iterate(_Broyden(z0, max_evals), f, z0, max_evals, tol, stop, per_sample, narrow)
    return warn_above("broyden", solution, tol, max_evals)


def history_bytes(z0: Tensor, max_evals: int) -> int:
    """Bytes that Broyden's method holds while it solves."""
    rule = _Broyden(z0.to("meta"), max_evals)
    return rule.steps.nbytes + rule.inner.nbytes


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
        return torch.bmm(weights, self.images[:, :count], out=out[:, None])[:, 0]

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
