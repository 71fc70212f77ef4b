"""The four planar densities of figure 4: samplers, exact log-densities and entropies. NumPy only.

The distributions are those of the official data code (survae/data/datasets/toy/plane.py and
experiments/toy/datasets.py), but points are independent draws from an explicit generator, neither sorted by
component nor drawn in equal numbers from each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from numpy import ndarray
from numpy.random import Generator

__all__ = ["DENSITIES", "Density"]

_GAUSSIANS_UNIT = 1.414  # the official divisor, not the square root of two
_GAUSSIANS_RADIUS = 4 / _GAUSSIANS_UNIT
_GAUSSIANS_STD = 0.5 / _GAUSSIANS_UNIT
_CIRCLES_RADIUS = 2.0
_CIRCLES_STD = 0.1

Points = Float[ndarray, "n 2"]


@dataclass(frozen=True)
class Density:
    """A known density on the plane."""

    name: str
    """Its key in `DENSITIES`."""
    sample: Callable[[int, Generator], Float32[ndarray, "n 2"]]
    """From a count and a generator to independent points, (n, 2), float32."""
    log_density: Callable[[Points], Float64[ndarray, " n"]]
    """From points (n, 2) to the exact log-density (n,) in nats, computed in float64."""
    entropy: float
    """Entropy in nats; no model has a smaller expected negative log-likelihood."""
    mirror_axes: tuple[int, ...] = ()
    """Coordinates whose sign may be flipped alone without changing the density."""
    has_tails: bool = False
    """Whether the density is positive everywhere, with Gaussian tails."""

    def support(self, x: Points) -> Bool[ndarray, " n"]:
        """Whether the density is positive at points (n, 2); everywhere, for the two with Gaussian tails."""
        return self.log_density(x) > -np.inf


def _midpoints(rng: Generator, shape: tuple[int, ...]) -> Float64[ndarray, "..."]:
    """Uniform draws from the midpoints of $2^{22}$ cells of (0, 1), which never round to an edge in float32."""
    return (rng.integers(1 << 22, size=shape) + 0.5) / (1 << 22)


def _checkerboard(n: int, rng: Generator) -> Float32[ndarray, "n 2"]:
    u = _midpoints(rng, (n, 2))
    x1 = 4 * u[:, 0] - 2
    x2 = u[:, 1] - 2 * rng.integers(2, size=n) + np.floor(x1) % 2
    return np.float32(2 * np.stack((x1, x2), 1))


def _log_checkerboard(x: Points) -> Float64[ndarray, " n"]:
    r"""Uniform on the 8 dark squares, of side 2, of a board on $[-4, 4]^2$."""
    half = np.asarray(x, np.float64) / 2
    dark = (np.floor(half).sum(-1) % 2 == 0) & (np.abs(half) <= 2).all(-1)
    return np.where(dark, -math.log(32), -np.inf)


def _corners(n: int, rng: Generator) -> Float32[ndarray, "n 2"]:
    long = np.arange(2) == rng.integers(2, size=(n, 1))
    magnitude = 1 + _midpoints(rng, (n, 2)) * (1 + 2 * long)
    return np.float32(magnitude * (1 - 2 * rng.integers(2, size=(n, 2))))


def _log_corners(x: Points) -> Float64[ndarray, " n"]:
    r"""Four L-shapes, one per quadrant, each the mixture of two equally likely uniform arms.

    The horizontal arm is $|x_1| \in [1, 4], |x_2| \in [1, 2]$, the vertical one its mirror image; they
    overlap.
    """
    folded = np.abs(np.asarray(x, np.float64))
    inside = ((folded >= 1) & (folded <= 4)).all(-1)  # an L is the square [1, 4]^2 ...
    arms = inside * (folded <= 2).sum(-1)  # ... less the part where neither coordinate is below 2
    # Each arm has probability 1/2 over area 3 in each of 4 quadrants; where both are low, both arms lie.
    return np.log(arms / 24, where=arms > 0, out=np.full(arms.shape, -np.inf))


def _gaussian_centres() -> Float64[ndarray, "8 2"]:
    angle = (np.arange(8) + 0.5) * (math.pi / 4)
    return _GAUSSIANS_RADIUS * np.stack((np.cos(angle), np.sin(angle)), 1)


def _eight_gaussians(n: int, rng: Generator) -> Float32[ndarray, "n 2"]:
    centres = _gaussian_centres()[rng.integers(8, size=n)]
    return np.float32(centres + _GAUSSIANS_STD * rng.standard_normal((n, 2)))


def _log_eight_gaussians(x: Points) -> Float64[ndarray, " n"]:
    r"""Equal Gaussians of standard deviation 0.354 at radius 2.83 and angles $(k + 1/2) \pi / 4$."""
    squared = np.square(np.asarray(x, np.float64)[:, None] - _gaussian_centres()).sum(-1)
    variance = _GAUSSIANS_STD**2
    return np.logaddexp.reduce(-squared / (2 * variance), -1) - math.log(8 * 2 * math.pi * variance)


def _four_circles(n: int, rng: Generator) -> Float32[ndarray, "n 2"]:
    angle = 2 * math.pi * rng.random(n)
    circle = _CIRCLES_RADIUS * np.stack((np.cos(angle), np.sin(angle)), 1)
    centre = 1 - 2 * rng.integers(2, size=(n, 2))
    return np.float32(centre + circle + _CIRCLES_STD * rng.standard_normal((n, 2)))


def _log_four_circles(x: Points) -> Float64[ndarray, " n"]:
    r"""Equal circles of radius $R = 2$ about $(\pm 1, \pm 1)$ with Gaussian noise of $s = 0.1$ in the plane.

    Noise about a circle gives a Rice-distributed radius and a uniform angle,

    $$ p(r) = \frac{1}{2 \pi s^2} e^{-(r^2 + R^2) / 2 s^2} I_0(r R / s^2)
            = \frac{1}{2 \pi s^2} e^{-(r - R)^2 / 2 s^2} \tilde I_0(r R / s^2) $$

    with $\tilde I_0(t) = e^{-t} I_0(t)$, the exponentially scaled Bessel function.
    """
    from scipy.special import i0e  # imported here, because the models alone need no SciPy

    centres = np.array([(a, b) for a in (-1, 1) for b in (-1, 1)])
    r = np.linalg.norm(np.asarray(x, np.float64)[:, None] - centres, axis=-1)
    variance = _CIRCLES_STD**2
    ring = np.log(i0e(r * _CIRCLES_RADIUS / variance)) - np.square(r - _CIRCLES_RADIUS) / (2 * variance)
    return np.logaddexp.reduce(ring, -1) - math.log(4 * 2 * math.pi * variance)


# The entropies without closed form come from the midpoint rule on the exact densities over [-6.5, 6.5]^2 and
# [-5, 5]^2, which converges exponentially for integrands that are smooth and vanish at the edges.
_H_GAUSSIANS = 2.8318804061376655
_H_CIRCLES = 2.870819017582124

DENSITIES: dict[str, Density] = {
    d.name: d
    for d in (
        Density("checkerboard", _checkerboard, _log_checkerboard, math.log(32)),
        Density("corners", _corners, _log_corners, math.log(24) - math.log(2) / 3, mirror_axes=(0, 1)),
        Density(
            "eight_gaussians", _eight_gaussians, _log_eight_gaussians, _H_GAUSSIANS, mirror_axes=(0, 1), has_tails=True
        ),
        Density("four_circles", _four_circles, _log_four_circles, _H_CIRCLES, mirror_axes=(0, 1), has_tails=True),
    )
}
"""The densities by name, in the order of figure 4."""
