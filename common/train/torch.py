"""The training loop for PyTorch: one eager step after the other, with checkpoint, resume and guard against NaN.

model = initialised(lambda: Model(config), seed, torch_device())
optimiser = torch.optim.Adam(model.parameters(), lr=config.rate)

def step(index):  # counted from 0; batches and draws must depend on the index alone
    loss = model.loss(batch(index))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return {"loss": loss.item()}

train(step, model, optimiser, steps=config.steps, chunk=100, recorder=run, seed=seed)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from common.train.loop import State, drive
from common.train.recorder import Recorder
from common.train.seeding import torch_generator
from common.train.trees import flatten, unflatten

__all__ = ["initialised", "torch_device", "train"]


def torch_device() -> torch.device:
    """The first GPU that PyTorch sees, else the CPU; `REFIGURE_DEVICE` has decided before what it sees."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def initialised(make: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    """`make()` on a device, its global generator seeded by (seed, "init"); the generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_generator(seed, "init").initial_seed())
        return make().to(device)


def train(
    step: Callable[[int], Mapping[str, float]],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    steps: int,
    chunk: int,
    recorder: Recorder,
    seed: int,
) -> None:
    """Train a model in place.

    Arguments:
        step: Makes one step, counted from 0, and returns what is logged of it. PyTorch's global generators are then
            those of (seed, "step", index), on every device.
        chunk: Steps between two lines of the metrics stream, which hold means.

    Raises:
        RefigureError: A metric is not finite; the last good checkpoint stays.
    """

    def state() -> dict[str, Any]:
        moments = {name: dict(optimiser.state.get(value, {})) for name, value in model.named_parameters()}
        return {"model": model.state_dict(), "optimiser": moments}

    def advance(_stage: int, done: int, length: int) -> dict[str, np.ndarray]:
        rows: list[Mapping[str, float]] = []
        for index in range(done, done + length):
            torch.manual_seed(torch_generator(seed, "step", index).initial_seed())
            rows.append(step(index))
            if not all(map(math.isfinite, rows[-1].values())):
                break
        names = [name for name in rows[-1] if all(name in row for row in rows)]
        return {name: np.array([row[name] for row in rows]) for name in names}

    def restore(flat: State) -> None:
        """Put back a checkpoint. An optimiser has no moments before its first step: one of no effect makes them."""
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for value in model.parameters():
            value.grad = torch.zeros_like(value)
        optimiser.step()
        held = {name.split("/")[1] for name in flat if name.startswith("optimiser/")}
        for name, value in model.named_parameters():
            value.grad = None
            if name not in held:  # no step has given it a gradient yet
                optimiser.state.pop(value, None)
        model.load_state_dict(before)
        tree = unflatten(state(), flat)
        model.load_state_dict(tree["model"])
        for name, value in model.named_parameters():
            optimiser.state[value] = tree["optimiser"][name]

    model.train()
    drive(advance, lambda: flatten(state()), restore, stages=[steps], chunk=chunk, recorder=recorder)
