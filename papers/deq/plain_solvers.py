"""Root finders of z = f(z) as the papers state them, four rules under one signature.

A rule gives the next point from all points so far and their images, oldest first, each (B, D): B problems of D numbers
that do not influence one another. DEQ states Broyden's method, its second official version Anderson's, whose ridge is
absolute there. `solvers.py` has the forms that run: without D x D matrices, and with a residual, a best point and an
end. Tests hold both equal point by point, with the relative ridge that runs have.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from papers.deq.iteration import Function

__all__ = ["anderson", "broyden", "fixed_point", "newton", "solve"]

Rule = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def fixed_point(points: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
    """z <- f(z)."""
    return images[-1]


def anderson(points: Sequence[Tensor], images: Sequence[Tensor], window: int = 6, ridge: float = 1e-5) -> Tensor:
    """z <- sum_i alpha_i f(z_i) over the last m points.

    alpha, of sum 1, makes |sum_i alpha_i g_i|^2 smallest for g_i = f(z_i) - z_i, with a ridge on each element of the
    Gram matrix's diagonal as a share of it.
    """
    f = torch.stack(tuple(images[-window:]), 1)
    g = f - torch.stack(tuple(points[-window:]), 1)
    gram = g @ g.mT
    gram = gram + ridge * torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
    alpha = torch.linalg.solve(gram, gram.new_ones(gram.shape[:2]))
    alpha = alpha / alpha.sum(1, keepdim=True)
    return torch.einsum("bi,bid->bd", alpha, f)


def broyden(points: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
    """z <- z - B g (DEQ eq. 10).

    B, from -I, approximates the inverse Jacobian of g: B <- B + (dz - B dg) dz^T B / (dz^T B dg) after every step dz.
    """
    g = [image - point for point, image in zip(points, images, strict=True)]
    batch, size = g[0].shape
    b = -torch.eye(size, dtype=g[0].dtype).expand(batch, size, size)
    for k in range(1, len(points)):
        dz, dg = points[k] - points[k - 1], g[k] - g[k - 1]
        b_dg, dz_b = torch.einsum("bij,bj->bi", b, dg), torch.einsum("bi,bij->bj", dz, b)
        b = b + torch.einsum("bi,bj->bij", (dz - b_dg) / (dz_b * dg).sum(1, keepdim=True), dz_b)
    return points[-1] - torch.einsum("bij,bj->bi", b, g[-1])


def newton(points: Sequence[Tensor], images: Sequence[Tensor], f: Function) -> Tensor:
    """z <- z + (I - J)^-1 g, with the Jacobian J of f at z."""
    z = points[-1]
    jacobian = torch.func.jacrev(lambda z: f(z).sum(0))(z).movedim(1, 0)
    return z + torch.linalg.solve(torch.eye(z.shape[1], dtype=z.dtype) - jacobian, images[-1] - z)


def solve(f: Function, z0: Tensor, rule: Rule, steps: int) -> list[Tensor]:
    """The initial point and those that a rule steps to."""
    points, images = [z0], []
    for _ in range(steps):
        images.append(f(points[-1]))
        points.append(rule(points, images))
    return points
