"""The toy densities: samples against exact formulas, entropies against quadrature, symmetry and support."""

import math

import pytest
import torch

from papers.survae.densities import DENSITIES, Density

N = 200_000


@pytest.fixture(params=DENSITIES.values(), ids=DENSITIES)
def density(request: pytest.FixtureRequest) -> Density:
    return request.param


def grid(half_width: float, n: int) -> tuple[torch.Tensor, float]:
    """Midpoints of n x n cells of the square, (n, n, 2), and a cell's area."""
    step = 2 * half_width / n
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) * step - half_width
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1), step**2


def test_order_of_the_figure() -> None:
    assert list(DENSITIES) == ["checkerboard", "corners", "eight_gaussians", "four_circles"]


def test_integrates_to_one_with_the_stated_entropy(density: Density) -> None:
    # Cells of 0.01: the edges of the uniform densities, at integers, fall between midpoints.
    x, area = grid(6.5, 1300)
    log_p = density.log_density(x)
    p = log_p.exp()
    assert float(p.sum() * area) == pytest.approx(1, abs=1e-9)
    assert float(-torch.special.xlogy(p, p).sum() * area) == pytest.approx(density.entropy, abs=1e-9)


def test_samples_have_the_entropy(density: Density) -> None:
    log_p = density.log_density(density.sample(N, 0))
    error = float(log_p.std()) / math.sqrt(N)
    assert float(-log_p.mean()) == pytest.approx(density.entropy, abs=4 * error + 1e-12)


def test_samples_fill_cells_as_the_density_says(density: Density) -> None:
    """Pearson's statistic over a 52 x 52 histogram, against its standard deviation under the exact law."""
    cells, fine, half = 52, 25, 6.5
    x, area = grid(half, cells * fine)
    mass = density.log_density(x).exp().mul(area).view(cells, fine, cells, fine).sum((1, 3))
    index = ((density.sample(N, 1).double() + half) / (2 * half) * cells).floor().long()
    count = torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2).view(cells, cells)
    common = mass * N > 5
    # Cells too empty for the statistic's law are pooled.
    expected = torch.cat((mass[common], mass[~common].sum()[None])) * N
    observed = torch.cat((count[common], count[~common].sum()[None]))
    expected, observed = expected[expected > 5], observed[expected > 5]
    statistic = float(((observed - expected).square() / expected).sum())
    freedom = len(expected) - 1
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


def test_symmetries(density: Density) -> None:
    # Off the grid's own symmetry and off the squares' edges.
    x = grid(4.7, 157)[0] + torch.tensor([0.0123, 0.0051])
    log_p = density.log_density(x)
    torch.testing.assert_close(density.log_density(-x), log_p, atol=1e-12, rtol=1e-12)
    for axis in range(2):
        sign = torch.ones(2)
        sign[axis] = -1
        mirrored = torch.allclose(density.log_density(x * sign), log_p)
        assert mirrored == (axis in density.mirror_axes)


def test_support(density: Density) -> None:
    x = density.sample(N, 2)
    assert x.abs().max() <= density.support
    assert density.log_density(x).isfinite().all()
    if math.isfinite(density.support):
        assert x.abs().max() > density.support - 1e-3  # and no smaller
        beyond = torch.tensor([[density.support + 1e-6, 1.5], [1.5, -density.support - 1e-6]])
        assert (density.log_density(beyond.double()) == -math.inf).all()


def test_checkerboard_is_dark_where_it_should_be() -> None:
    corners_of_cells = torch.tensor([[1.0, 1.0], [3.0, 3.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    log_p = DENSITIES["checkerboard"].log_density(corners_of_cells)
    expected = [-math.log(32), -math.log(32), -math.log(32), -math.inf, -math.inf]
    assert log_p.tolist() == pytest.approx(expected)


def test_seeds(density: Density) -> None:
    x = density.sample(100, 3)
    assert x.shape == (100, 2)
    assert x.dtype == torch.float32
    assert torch.equal(x, density.sample(100, 3))
    assert torch.equal(x, density.sample(100, torch.Generator().manual_seed(3)))
    assert not torch.equal(x, density.sample(100, 4))
    state = torch.get_rng_state()
    density.sample(10, 0)
    assert torch.equal(state, torch.get_rng_state())
