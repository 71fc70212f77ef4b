"""Gradients through a fixed point: the implicit function theorem, and what is cheaper.

All take f bound to its parameters and inputs; gradients reach whatever f closed over.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from papers.deq.solvers import Function, Info, Solution

__all__ = ["Equilibrium", "implicit", "jacobian_penalty", "phantom", "spectral_radius", "unrolled"]

Solve = Callable[[Function, Tensor], Solution]
"""A solver with its options, such as `functools.partial(broyden, max_evals=30, tol=1e-3)`."""


class Equilibrium(NamedTuple):
    """A fixed point that gradients go through."""

    z: Tensor
    info: Info | None
    """Of the forward solve; None when nothing was solved."""
    backward: dict[str, Info]
    """Of the backward solve, under "info", once it has run."""


class _Implicit(torch.autograd.Function):
    """The identity on f(z*), whose backward pass solves y = J^T y + dl/dz* (DEQ eq. 11)."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return image.view_as(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return ctx.solve(slopes[0]), None


def implicit(f: Function, z0: Tensor, forward: Solve, backward: Solve) -> Equilibrium:
    """z* = f(z*), with gradients by the implicit function theorem.

    Of all evaluations one is kept for the backward pass, whatever the solvers do: memory does not grow with them. That
    one is at the point found, and its image is what is returned, with and without gradients.
    """
    z, _, info = forward(f, z0)
    found: dict[str, Info] = {}
    if not torch.is_grad_enabled():
        return Equilibrium(f(z), info, found)
    point = z.detach().requires_grad_()
    image = f(point)

    def solve(slope: Tensor) -> Tensor:
        def transposed(y: Tensor) -> Tensor:
            return slope + torch.autograd.grad(image, point, y, retain_graph=True)[0]

        y, _, found["info"] = backward(transposed, torch.zeros_like(slope))
        return y

    return Equilibrium(_Implicit.apply(image, solve), info, found)


def phantom(f: Function, z0: Tensor, forward: Solve, steps: int = 1, damping: float = 1.0) -> Equilibrium:
    """So many damped steps on from z*, with gradients through them; one full step is Jacobian-free back-propagation.

    Arguments:
        damping: tau; z <- (1 - tau) z + tau f(z).
    """
    z, _, info = forward(f, z0)
    for _ in range(steps):
        z = torch.lerp(z, f(z), damping)
    return Equilibrium(z, info, {})


def unrolled(f: Function, z0: Tensor, steps: int) -> Equilibrium:
    """A weight-tied network: f applied so many times, with gradients through all of them."""
    z = z0
    for _ in range(steps):
        z = f(z)
    return Equilibrium(z, None, {})


def jacobian_penalty(f: Function, z: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """An estimate of |df/dz|_F^2 / D, the mean over samples, that can be differentiated (JR eq. 5).

    Arguments:
        z: Where, (B, ...); no gradient goes on through it.
        draws: M, of random vectors.
    """
    point = z.detach().requires_grad_()
    image = f(point)
    total = z.new_zeros(())
    for _ in range(draws):
        probe = torch.empty_like(image).normal_(generator=generator)
        total = total + torch.autograd.grad(image, point, probe, create_graph=True)[0].square().sum()
    return total / (draws * z.numel())


def spectral_radius(f: Function, z: Tensor, iterations: int = 150, generator: torch.Generator | None = None) -> Tensor:
    """Of df/dz at z, by power iteration with vector-Jacobian products, (B,): the mean growth of its later half.

    The mean over steps settles where the largest eigenvalues are a complex pair, whose growth swings.
    """
    point = z.detach().requires_grad_()
    with torch.enable_grad():
        image = f(point)
    vector = torch.empty_like(z).normal_(generator=generator)
    growth = []
    for _ in range(iterations):
        vector = torch.autograd.grad(image, point, vector, retain_graph=True)[0]
        size = torch.linalg.vector_norm(vector, dim=tuple(range(1, z.ndim)), keepdim=True)
        growth.append(size.flatten())
        vector = vector / size.clamp(min=torch.finfo(z.dtype).tiny)
    late = torch.stack(growth[len(growth) // 2 :])
    return late.log().mean(0).exp()
