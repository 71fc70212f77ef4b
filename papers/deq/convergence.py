"""How solvers converge on a network before and after its training, and how exact a fixed point must be."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.room.config import build as build_config
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng, torch_generator
from common.train.torch import initialised, torch_device
from papers.deq import solvers
from papers.deq.config import Convergence, CopyMemory
from papers.deq.copy_memory import cross_entropy
from papers.deq.implicit import spectral_radius
from papers.deq.models import CopyTransformer
from papers.deq.tasks import draw_copies

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["train"]

SOLVERS = ("fixed_point", "anderson", "broyden")


def train(config: Convergence, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Apply solvers to a DEQ or a weight-tied stack that a run of copy memory has trained; nothing is trained here."""
    (seed,) = seeds
    trained: CopyMemory = build_config(CopyMemory, dict(parent.identity.config), "the run of copy memory")
    device = torch_device()
    model = initialised(lambda: CopyTransformer(trained), seed, device).eval()
    x, y = (part.to(device) for part in draw_copies(numpy_rng(seed, "measured"), trained.length, config.sequences))
    metrics: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    for phase in ("start", "end"):
        if phase == "end":
            model.load_state_dict({name: torch.from_numpy(value) for name, value in parent.parameters.items()})
        _trace(model, x, phase, config, seed, metrics, arrays)
        run.progress(1 if phase == "start" else 2, 4)
    losses = [_loss(model, x, y, partial(_solver(trained), max_evals=limit, tol=0.0)) for limit in config.limits]
    run.progress(3, 4)
    solve = partial(_solver(trained), max_evals=config.evaluations)
    coarse_losses = [_loss(model, x, y, partial(solve, tol=tolerance)) for tolerance in config.tolerances]
    run.progress(4, 4)
    for kind, values, kind_losses in (
        ("limit", config.limits, losses),
        ("tolerance", config.tolerances, coarse_losses),
    ):
        arrays[kind] = np.array(values)
        arrays[f"{kind}_loss"] = np.array([kind_losses])
        metrics.update({f"loss_{kind}_{value:g}": loss for value, loss in zip(values, kind_losses, strict=True)})
    # the loss with few evaluations, and with a coarse tolerance, in units of that where both are ample
    metrics["cost_of_few"] = losses[config.limits.index(config.few)] / losses[-1]
    metrics["cost_of_coarse"] = coarse_losses[config.tolerances.index(config.coarse)] / coarse_losses[0]
    return Outcome({name: [value] for name, value in metrics.items()}, arrays)


def _solver(trained: CopyMemory) -> solvers.Solver:
    return getattr(solvers, trained.forward_solver)


@torch.no_grad()
def _trace(
    model: CopyTransformer, x: Tensor, phase: str, config: Convergence, seed: int, metrics: dict[str, float],
    arrays: dict[str, np.ndarray],
) -> None:  # fmt: skip
    """Record the residuals of each sample at each evaluation, the last one, the lowest within the compared number of
    evaluations, the evaluations until the tolerance is reached (all if it never is), and the Jacobian's radius."""
    f, z0 = model.bind(x), torch.zeros(*x.shape, model.config.features, device=x.device)
    for name in SOLVERS:
        solution = getattr(solvers, name)(f, z0, max_evals=config.evaluations, tol=0.0)
        trace = solution.trace.double().cpu().numpy()
        arrays[f"{name}_{phase}"] = trace[None]
        metrics[f"{name}_{phase}_last"] = float(np.median(trace[-1]))
        metrics[f"{name}_{phase}_residual"] = float(np.median(np.fmin.accumulate(trace)[config.compared - 1]))
        below = trace < config.tolerance
        first = np.where(below.any(0), below.argmax(0) + 1, config.evaluations)
        metrics[f"{name}_{phase}_evaluations"] = float(first.mean())
        if name == "anderson":
            generator = torch_generator(seed, "radius", device=x.device)
            radius = spectral_radius(f, solution.z, config.power_steps, generator)
            metrics[f"radius_{phase}"] = float(radius.median())


@torch.no_grad()
def _loss(model: CopyTransformer, x: Tensor, y: Tensor, solve: partial) -> float:
    z0 = torch.zeros(*x.shape, model.config.features, device=x.device)
    f = model.bind(x)
    return float(cross_entropy(model.out(f(solve(f, z0).z)), y))
