"""The training loop of networks whose solvers decide step by step how long they run: one seed at a time, eager.

A run that was killed and resumes ends bit-identical to one that was not: batches and draws depend on the step alone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import RefigureError
from common.train.recorder import Recorder
from common.train.seeding import torch_generator
from common.train.trees import flatten, unflatten
from papers.deq.implicit import Equilibrium
from papers.deq.models import spent

__all__ = ["fit", "initialised", "parameters_of"]


def initialised(make: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    """`make()` under the stream "init" of a seed; the global generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_generator(seed, "init").initial_seed())
        return make().to(device)


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
        loss: Of a step, counted from 0: what is minimised, further numbers to log, and the equilibrium whose solves are
            logged with them. PyTorch's global generators are those of the step.
        clip: Norm at which the gradient is cut; 0 for none.
        chunk: Steps between two lines of the metrics stream, which hold means.
        floor: Where the rate falls to.
        decay: Share of the weights that is added to their gradient.

    Raises:
        RefigureError: The loss is not finite; the last checkpoint stays.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)
    names = [name for name, _ in model.named_parameters()]

    def state() -> dict[str, Any]:
        moments = {
            name: dict(optimiser.state.get(value, {}))
            for name, value in zip(names, model.parameters(), strict=True)
        }  # fmt: skip
        return {"model": model.state_dict(), "optimiser": moments}

    done = 0
    if (kept := recorder.restore()) is not None:
        done, flat = kept
        _restore(model, optimiser, state, flat)
    rows: list[dict[str, float]] = []
    model.train()
    while done < steps:
        for group in optimiser.param_groups:
            group["lr"] = floor + (rate - floor) * 0.5 * (1 + math.cos(math.pi * done / steps))
        torch.manual_seed(torch_generator(seed, "step", done).initial_seed())  # of every device
        value, further, found = loss(done)
        if not bool(torch.isfinite(value)):
            raise RefigureError(
                f"the loss is {value.item()} at step {done + 1} of {steps}; the last good checkpoint was kept; lower "
                "the learning rate"
            )
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
        optimiser.step()
        done += 1
        solves = (None, None) if found is None else (found.info, found.backward.get("info"))
        effort = {**spent(solves[0]), **spent(solves[1], "backward_")}
        rows.append({"loss": float(value.detach()), "gradient": float(norm), **further, **effort})
        if done % chunk == 0 or done == steps:
            recorder.log(done, {name: float(np.mean([row[name] for row in rows])) for name in rows[-1]})
            rows.clear()
            if recorder.due() or done == steps:
                recorder.save(done, flatten(state()))
            recorder.progress(done, steps)


def _restore(
    model: nn.Module, optimiser: torch.optim.Adam, state: Callable[[], dict[str, Any]], flat: Mapping[str, np.ndarray]
) -> None:
    """Weights and moments of a checkpoint. Adam has no moments before its first step: one of no effect makes them."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimiser.step()
    model.load_state_dict(before)
    found = unflatten(state(), flat)
    model.load_state_dict(found["model"])
    for name, value in model.named_parameters():
        optimiser.state[value] = found["optimiser"][name]
