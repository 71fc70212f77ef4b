"""A curve learned by a DEQ of 200 parameters: what a penalty on the Jacobian does to f(z; x) (JR, Fig. 5)."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from common.train.torch import initialised, torch_device
from papers.deq.config import Regression
from papers.deq.implicit import Equilibrium, implicit, jacobian_penalty, spectral_radius
from papers.deq.iteration import DivergedError, Function
from papers.deq.solvers import anderson, fixed_point
from papers.deq.training import fit, parameters_of

__all__ = ["Curve", "curve", "train"]

CHUNK = 100
"""Steps between two lines of the metrics stream."""
REACH = 2.0
"""x goes from -2 to 2 (ours)."""

PATIENCE = 200
"""Largest number of evaluations of plain iteration; samples that do not converge count with this number."""


def curve(x: np.ndarray) -> np.ndarray:
    """y = 1.5 x^3 + x^2 - 5 x + 2 sin x - 3 (JR)."""
    return 1.5 * x**3 + x**2 - 5 * x + 2 * np.sin(x) - 3


class Curve(nn.Module):
    """f(z; x) = w2' relu(w1 z + u x + b1) + b2 for numbers z and x: one hidden layer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(2, hidden)
        self.outer = nn.Linear(hidden, 1)

    def bind(self, x: Tensor) -> Function:
        """f of z (B, 1) for x (B, 1)."""
        return lambda z: self.outer(F.relu(self.inner(torch.cat([z, x], 1))))


def train(config: Regression, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Fit the curve, then measure the surface f(z; x)."""
    (seed,) = seeds
    device = torch_device()
    model = initialised(lambda: Curve(config.hidden), seed, device)
    x, y = _points(seed, "train", config.train, config.noise, device)
    solve = partial(anderson, max_evals=config.evaluations, tol=config.tolerance)

    def loss(step: int) -> tuple[Tensor, Mapping[str, float], Equilibrium]:
        rows = torch.from_numpy(numpy_rng(seed, "rows", step).integers(0, config.train, config.batch)).to(device)
        f = model.bind(x[rows])
        equilibrium = implicit(f, torch.zeros(config.batch, 1, device=device), solve, solve)
        value = F.mse_loss(equilibrium.z, y[rows])
        metrics = {"error": float(value.detach())}
        if config.jacobian_weight:
            value = value + config.jacobian_weight * jacobian_penalty(f, equilibrium.z)
        return value, metrics, equilibrium

    fit(model, loss, seed=seed, steps=config.steps, rate=config.rate, clip=1.0, chunk=CHUNK, recorder=run)
    metrics, arrays = _measure(model, config, seed, device)
    metrics["parameters"] = sum(value.numel() for value in model.parameters())
    return Outcome({name: [value] for name, value in metrics.items()}, arrays, parameters_of(model))


def _points(seed: int, purpose: str, count: int, noise: float, device: torch.device) -> tuple[Tensor, Tensor]:
    rng = numpy_rng(seed, purpose)
    x = rng.uniform(-REACH, REACH, (count, 1))
    y = curve(x) + noise * rng.standard_normal((count, 1))
    return torch.tensor(x, dtype=torch.float32, device=device), torch.tensor(y, dtype=torch.float32, device=device)


@torch.no_grad()
def _measure(
    model: Curve, config: Regression, seed: int, device: torch.device
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Test error, evaluations of plain iteration, and slope at the equilibria; surface and equilibria on a grid."""
    x, y = _points(seed, "test", config.test, 0.0, device)
    f = model.bind(x)
    z, _, _ = anderson(f, torch.zeros_like(x), max_evals=200, tol=1e-6)
    try:
        plain = fixed_point(f, torch.zeros_like(x), max_evals=PATIENCE, tol=1e-3).info
        evaluations, converged = float(plain.evaluations.float().mean()), float(plain.converged.float().mean())
    except DivergedError:
        evaluations, converged = float(PATIENCE), 0.0
    slopes = spectral_radius(f, z, 2)
    metrics = {
        "error": float(F.mse_loss(z, y)),
        "evaluations": evaluations,
        "converged": converged,
        "slope": float(slopes.mean()),
    }
    axis = torch.linspace(-REACH, REACH, 61, device=device)
    heights = torch.linspace(float(y.min()) - 1, float(y.max()) + 1, 61, device=device)
    grid_x, grid_z = (part.reshape(-1, 1) for part in torch.meshgrid(axis, heights, indexing="ij"))
    surface = model.bind(grid_x)(grid_z).view(61, 61)
    line = anderson(model.bind(axis[:, None]), torch.zeros(61, 1, device=device), max_evals=200, tol=1e-6).z[:, 0]
    arrays = {"x": axis, "z": heights, "surface": surface, "equilibria": line}
    return metrics, {name: value.cpu().numpy()[None] for name, value in arrays.items()}
