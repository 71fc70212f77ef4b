"""Gradients through a fixed point: the implicit function theorem, and cheaper approximations.

All functions take f bound to its parameters and inputs; gradients reach all tensors that f closes over.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from papers.deq.iteration import Function, Info, Solution

__all__ = ["Equilibrium", "implicit", "jacobian_penalty", "phantom", "spectral_radius", "unrolled"]

Solve = Callable[[Function, Tensor], Solution]
"""A solver with its options, such as `functools.partial(broyden, max_evals=30, tol=1e-3)`."""


class Equilibrium(NamedTuple):
    """A fixed point through which gradients flow."""

    z: Tensor
    info: Info | None
    """How the forward solve went; None when nothing was solved."""
    backward: dict[str, Info]
    """How the backward solve went, under "info", once it has run."""


class _Implicit(torch.autograd.Function):
    """The identity on f(z*), whose backward pass solves y = J^T y + dl/dz* (DEQ eq. 11)."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return image.view_as(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.solve(gradients[0]), None


def implicit(f: Function, z0: Tensor, forward: Solve, backward: Solve) -> Equilibrium:
    """z* = f(z*), with gradients by the implicit function theorem.

    Only one evaluation is kept for the backward pass, whatever the solvers do, so memory does not grow with the number
    of evaluations. This evaluation is at the solver's point, and its image is returned, with and without gradients.
    """
    z, _, info = forward(f, z0)
    backward_info: dict[str, Info] = {}
    if not torch.is_grad_enabled():
        return Equilibrium(f(z), info, backward_info)
    point = z.detach().requires_grad_()
    image = f(point)

    def solve(gradient: Tensor) -> Tensor:
        def transposed(y: Tensor) -> Tensor:
            return gradient + torch.autograd.grad(image, point, y, retain_graph=True)[0]

        y, _, backward_info["info"] = backward(transposed, torch.zeros_like(gradient))
        return y

    return Equilibrium(_Implicit.apply(image, solve), info, backward_info)


def phantom(f: Function, z0: Tensor, forward: Solve, steps: int = 1) -> Equilibrium:
    """`steps` steps from z*, with gradients through them alone; one is Jacobian-free back-propagation."""
    z, _, info = forward(f, z0)
    return unrolled(f, z, steps)._replace(info=info)


def unrolled(f: Function, z0: Tensor, steps: int) -> Equilibrium:
    """A weight-tied network: f applied `steps` times, with gradients through all applications."""
    z = z0
    for _ in range(steps):
        z = f(z)
    return Equilibrium(z, None, {})


def jacobian_penalty(f: Function, z: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """An estimate of |df/dz|_F^2 / D, the mean over samples, that can be differentiated (JR eq. 5).

    Arguments:
        z: The point of the Jacobian, (B, ...); no gradient flows through it.
        draws: M, number of random vectors.
    """
    point = z.detach().requires_grad_()
    image = f(point)
    total = z.new_zeros(())
    for _ in range(draws):
        probe = torch.empty_like(image).normal_(generator=generator)
        total = total + torch.autograd.grad(image, point, probe, create_graph=True)[0].square().sum()
    return total / (draws * z.numel())


def spectral_radius(f: Function, z: Tensor, iterations: int = 150, generator: torch.Generator | None = None) -> Tensor:
    """Spectral radius of df/dz at z, (B,), by power iteration with vector-Jacobian products.

    It is the geometric mean of the growth over the later half of the steps. Such a mean converges even where the
    largest eigenvalues are a complex pair, whose growth oscillates.
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
