"""The planar densities: samples, densities, entropies and symmetries must tell the same story."""

import numpy as np
import pytest
from scipy import stats

from papers.survae.densities import DENSITIES, Density

EDGE = {"checkerboard": 4.0, "corners": 4.0, "eight_gaussians": 6.5, "four_circles": 5.0}
N = 200_000

every = pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
mirrored = pytest.mark.parametrize("density", [d for d in DENSITIES.values() if d.mirror_axes], ids=lambda d: d.name)


def midpoints(density: Density, cells: int) -> tuple[np.ndarray, float]:
    """The midpoints of squares over the support (or nearly all of the mass), and the area of one.

    Where a density is piecewise constant, its edges are edges of the squares (``cells`` a multiple of 8).
    """
    edge = EDGE[density.name]
    line = edge * ((np.arange(cells) + 0.5) * 2 / cells - 1)
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2), (2 * edge / cells) ** 2


def sample(density: Density, n: int = N) -> np.ndarray:
    return density.sample(n, np.random.default_rng(7))


def test_order_is_the_figures() -> None:
    assert list(DENSITIES) == ["checkerboard", "corners", "eight_gaussians", "four_circles"]
    assert all(density.name == name for name, density in DENSITIES.items())


@every
def test_integral_and_entropy(density: Density) -> None:
    x, area = midpoints(density, 1000)
    log_p = density.log_density(x)
    p = np.exp(log_p)
    assert p.sum() * area == pytest.approx(1, abs=1e-10)
    assert -(p * np.where(p > 0, log_p, 0)).sum() * area == pytest.approx(density.entropy, abs=1e-10)


@every
def test_samples_are_reproducible_single_precision(density: Density) -> None:
    x = sample(density, 100)
    assert (x.shape, x.dtype) == ((100, 2), np.float32)
    np.testing.assert_array_equal(x, sample(density, 100))
    assert len(np.unique(x, axis=0)) == 100
    assert density.log_density(x).dtype == np.float64


@every
def test_samples_have_the_entropy(density: Density) -> None:
    surprise = -density.log_density(sample(density))
    if surprise.std() < 1e-12:  # one constant value: no error to allow for
        np.testing.assert_allclose(surprise, density.entropy)
    else:
        assert abs(surprise.mean() - density.entropy) < 4 * surprise.std() / np.sqrt(N)


@every
def test_histogram_of_samples_fits(density: Density) -> None:
    x, area = midpoints(density, 320)
    mass = (np.exp(density.log_density(x)) * area).reshape(16, 20, 16, 20).sum((1, 3)).ravel()
    edges = np.linspace(-EDGE[density.name], EDGE[density.name], 17)
    counts = np.histogram2d(*sample(density).T, bins=(edges, edges))[0].ravel()
    assert counts.sum() == N
    assert counts[mass == 0].sum() == 0
    seen = mass * N > 5
    observed = np.append(counts[seen], counts[~seen].sum())
    expected = np.append(mass[seen], 1 - mass[seen].sum()) * N
    if expected[-1] < 5:
        assert observed[-1] < 20
        observed, expected = observed[:-1], expected[:-1] / expected[:-1].sum() * observed[:-1].sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@every
def test_samples_lie_in_the_support(density: Density) -> None:
    assert density.support(sample(density)).all()
    bounded = density.name in ("checkerboard", "corners")
    assert density.support(np.array([[6.0, 6.0], [-0.5, 4.5], [7.0, 0.5]])).tolist() == [not bounded] * 3


@mirrored
def test_mirror_symmetry(density: Density) -> None:
    x = sample(density, 1000)
    for axis in density.mirror_axes:
        flipped = x * np.where(np.arange(2) == axis, -1, 1)
        np.testing.assert_allclose(density.log_density(flipped), density.log_density(x), rtol=0, atol=1e-12)


def test_checkerboard_turns_into_its_complement() -> None:
    density = DENSITIES["checkerboard"]
    x, _ = midpoints(density, 80)
    assert density.mirror_axes == ()
    assert density.support(x).mean() == 0.5
    for axis in (0, 1):
        flipped = x * np.where(np.arange(2) == axis, -1, 1)
        np.testing.assert_array_equal(density.support(flipped), ~density.support(x))


@pytest.mark.parametrize(
    ("name", "point", "expected"),
    [
        ("checkerboard", (0.5, 0.5), 1 / 32),
        ("checkerboard", (0.5, 2.5), 0),
        ("checkerboard", (4.5, 0.5), 0),
        ("corners", (1.5, -1.5), 1 / 12),
        ("corners", (-3.0, 1.5), 1 / 24),
        ("corners", (3.0, 3.0), 0),
        ("corners", (0.5, 1.5), 0),
        ("corners", (1.5, 4.5), 0),
    ],
)
def test_piecewise_constant_values(name: str, point: tuple[float, float], expected: float) -> None:
    x = np.array([point])
    assert np.exp(DENSITIES[name].log_density(x)) == pytest.approx(expected)
    assert DENSITIES[name].support(x) == (expected > 0)


def test_blurred_circle_by_direct_integration() -> None:
    """The Bessel form against the integral over the circle that it stands for."""
    x = sample(DENSITIES["four_circles"], 50)
    angle = 2 * np.pi * np.arange(4000) / 4000
    circle = 2 * np.stack((np.cos(angle), np.sin(angle)), 1)
    centres = np.array([(a, b) for a in (-1, 1) for b in (-1, 1)])
    offset = x[:, None, None] - centres[:, None] - circle
    p = np.exp(-np.square(offset).sum(-1) / 0.02).mean((1, 2)) / (2 * np.pi * 0.01)
    np.testing.assert_allclose(DENSITIES["four_circles"].log_density(x), np.log(p), atol=1e-9)
