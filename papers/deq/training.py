"""Training of networks whose solvers decide step by step how long they run: one seed at a time, eager."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from common.train import torch as torch_loop
from common.train.recorder import Recorder
from common.train.trees import flatten
from papers.deq.implicit import Equilibrium
from papers.deq.models import solver_effort

__all__ = ["fit", "parameters_of"]


def parameters_of(model: nn.Module) -> dict[str, np.ndarray]:
    """All weights by name."""
    return flatten(model.state_dict())


def fit(
    model: nn.Module,
    loss: Callable[[int], tuple[Tensor, Mapping[str, float], Equilibrium | None]],
    *,
    seed: int,
    steps: int,
    rate: float,
    clip: float,
    chunk: int,
    recorder: Recorder,
    floor: float = 0.0,
    decay: float = 0.0,
) -> None:
    """Train a model in place with Adam, its rate falling as a cosine.

    Arguments:
        loss: Gives of a step, counted from 0, what is minimised, further numbers to log, and the equilibrium whose
            solves are logged with them. PyTorch's global generators are those of the step.
        clip: Norm at which the gradient is cut; 0 for none.
        chunk: Steps between two lines of the metrics stream, which hold means.
        floor: Where the rate falls to.
        decay: Share of the weights that is added to their gradient.

    Raises:
        RefigureError: The loss is not finite; the last checkpoint stays.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)

    def step(index: int) -> dict[str, float]:
        for group in optimiser.param_groups:
            group["lr"] = floor + (rate - floor) * 0.5 * (1 + math.cos(math.pi * index / steps))
        value, further, equilibrium = loss(index)
        if not bool(torch.isfinite(value)):
            return {"loss": value.item()}  # at which training stops
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
        optimiser.step()
        solves = (None, None) if equilibrium is None else (equilibrium.info, equilibrium.backward.get("info"))
        effort = {**solver_effort(solves[0]), **solver_effort(solves[1], "backward_")}
        return {"loss": float(value.detach()), "gradient": float(norm), **further, **effort}

    torch_loop.train(step, model, optimiser, steps=steps, chunk=chunk, recorder=recorder, seed=seed)
