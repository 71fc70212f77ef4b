"""The four planar densities of figure 4: samplers, exact log-densities and entropies.

The distributions are those of the official data code (survae/data/datasets/toy/plane.py and
experiments/toy/datasets.py), but points are independent draws from an explicit seed, not sorted by component.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

__all__ = ["DENSITIES", "Density", "checkerboard", "corners", "eight_gaussians", "four_circles"]

_GAUSSIANS_UNIT = 1.414  # the official divisor, not the square root of two
_GAUSSIANS_RADIUS = 4 / _GAUSSIANS_UNIT
_GAUSSIANS_STD = 0.5 / _GAUSSIANS_UNIT
_CIRCLES_RADIUS = 2.0
_CIRCLES_STD = 0.1


@dataclass(frozen=True)
class Density:
    """A known density on the plane."""

    name: str
    """Its key in `DENSITIES`."""
    sample: Callable[[int, int | Generator], Tensor]
    """From a count and a seed (or a generator on the CPU) to independent points, (n, 2), float32."""
    log_density: Callable[[Tensor], Tensor]
    """From points (..., 2) to the exact log-density (...,) in nats, computed in float64."""
    entropy: float
    """In nats: no model has a smaller expected negative log-likelihood."""
    support: float
    """The density is zero where a coordinate exceeds this in absolute value; may be infinite."""
    mirror_axes: tuple[int, ...]
    """Coordinates whose sign may be flipped alone; all four densities are symmetric about the origin."""


def _generator(seed: int | Generator) -> Generator:
    return seed if isinstance(seed, Generator) else torch.Generator().manual_seed(seed)


def checkerboard(n: int, seed: int | Generator) -> Tensor:
    r"""Uniform on the 8 dark squares, of side 2, of a board on $[-4, 4]^2$."""
    g = _generator(seed)
    u = torch.rand(n, 2, generator=g)
    x1 = 4 * u[:, 0] - 2
    x2 = u[:, 1] - 2 * torch.randint(2, (n,), generator=g) + x1.floor() % 2
    return 2 * torch.stack((x1, x2), 1)


def corners(n: int, seed: int | Generator) -> Tensor:
    r"""Four L-shapes, one per quadrant, each the mixture of two equally likely uniform arms.

    The horizontal arm is $|x_1| \in [1, 4], |x_2| \in [1, 2]$, the vertical one its mirror image; they
    overlap.
    """
    g = _generator(seed)
    long = (torch.arange(2) == torch.randint(2, (n, 1), generator=g)).to(torch.float32)
    magnitude = 1 + torch.rand(n, 2, generator=g) * (1 + 2 * long)
    return magnitude * (1 - 2 * torch.randint(2, (n, 2), generator=g))


def eight_gaussians(n: int, seed: int | Generator) -> Tensor:
    r"""Equal Gaussians of standard deviation 0.354 at radius 2.83 and angles $(k + 1/2) \pi / 4$."""
    g = _generator(seed)
    angle = (torch.randint(8, (n,), generator=g) + 0.5) * (math.pi / 4)
    centre = _GAUSSIANS_RADIUS * torch.stack((angle.cos(), angle.sin()), 1)
    return centre + _GAUSSIANS_STD * torch.randn(n, 2, generator=g)


def four_circles(n: int, seed: int | Generator) -> Tensor:
    r"""Equal circles of radius 2 about $(\pm 1, \pm 1)$ with Gaussian noise of standard deviation 0.1."""
    g = _generator(seed)
    centre = 1 - 2 * torch.randint(2, (n, 2), generator=g)
    angle = 2 * math.pi * torch.rand(n, generator=g)
    circle = _CIRCLES_RADIUS * torch.stack((angle.cos(), angle.sin()), 1)
    return centre + circle + _CIRCLES_STD * torch.randn(n, 2, generator=g)


def _log_checkerboard(x: Tensor) -> Tensor:
    half = x.double() / 2
    x1, x2 = half.unbind(-1)
    dark = ((x2 - x1.floor() % 2) % 2 <= 1) & (half.abs() <= 2).all(-1)
    return torch.full_like(x1, -math.log(32)).masked_fill(~dark, -math.inf)


def _log_corners(x: Tensor) -> Tensor:
    folded = x.double().abs()
    arm = (folded >= 1).all(-1) & (folded <= 4).all(-1)  # an L is the square [1, 4]^2 ...
    low = (folded <= 2).sum(-1)  # ... less the part where neither coordinate is below 2
    # Each arm has probability 1/2 over area 3 in each of 4 quadrants; where both are low, both arms lie.
    return (low.double() / 24).log().masked_fill(~arm, -math.inf)


def _log_eight_gaussians(x: Tensor) -> Tensor:
    angle = (torch.arange(8, dtype=torch.float64, device=x.device) + 0.5) * (math.pi / 4)
    centres = _GAUSSIANS_RADIUS * torch.stack((angle.cos(), angle.sin()), 1)
    squared = (x.double().unsqueeze(-2) - centres).square().sum(-1)
    variance = _GAUSSIANS_STD**2
    return (-squared / (2 * variance)).logsumexp(-1) - math.log(8 * 2 * math.pi * variance)


def _log_four_circles(x: Tensor) -> Tensor:
    r"""Noise about a circle of radius $R$ has the density of a Rice radius and a uniform angle,

    $$ p(r) = \frac{1}{2 \pi s^2} e^{-(r^2 + R^2) / 2 s^2} I_0(r R / s^2)
            = \frac{1}{2 \pi s^2} e^{-(r - R)^2 / 2 s^2} \tilde I_0(r R / s^2) $$

    with $\tilde I_0(t) = e^{-t} I_0(t)$, the exponentially scaled Bessel function.
    """
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=x.device)
    r = (x.double().unsqueeze(-2) - torch.cartesian_prod(ends, ends)).norm(dim=-1)
    variance = _CIRCLES_STD**2
    ring = torch.special.i0e(r * _CIRCLES_RADIUS / variance).log()
    return (ring - (r - _CIRCLES_RADIUS).square() / (2 * variance)).logsumexp(-1) - math.log(
        4 * 2 * math.pi * variance
    )


# These entropies come from the midpoint rule on the exact densities over [-6.5, 6.5]^2 and
# [-5, 5]^2; grids of 1000^2 to 8000^2 points agree to 1e-14 (the integrands are smooth and vanish at the
# edges).
_H_GAUSSIANS = 2.8318804061376655
_H_CIRCLES = 2.870819017582124

DENSITIES: dict[str, Density] = {
    d.name: d
    for d in (
        Density("checkerboard", checkerboard, _log_checkerboard, math.log(32), 4.0, ()),
        Density("corners", corners, _log_corners, math.log(24) - math.log(2) / 3, 4.0, (0, 1)),
        Density("eight_gaussians", eight_gaussians, _log_eight_gaussians, _H_GAUSSIANS, math.inf, (0, 1)),
        Density("four_circles", four_circles, _log_four_circles, _H_CIRCLES, math.inf, (0, 1)),
    )
}
"""In the order of figure 4."""
