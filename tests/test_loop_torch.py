"""The eager PyTorch loop under the loop driver: a plain loop's numbers, an exact resume, draws of the step alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from memory_recorder import Memory
from torch import nn

from common.errors import RefigureError
from common.train.loop import digest
from common.train.seeding import numpy_rng, torch_generator
from common.train.torch import initialised, train
from common.train.trees import flatten

INPUTS = torch.from_numpy(numpy_rng(0, "inputs").normal(size=(32, 3)).astype(np.float32))
OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, 0.05),
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.05),
    "momentum and decay": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=0.1),
}


class Net(nn.Module):
    """Has buffers, random draws, and parameters that get no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return y


def fresh(name: str, seed: int = 0) -> tuple[Net, torch.optim.Optimizer, Callable[[int], Mapping[str, float]]]:
    """A model, its optimiser and its step."""
    model = initialised(Net, seed, torch.device("cpu"))
    optimiser = OPTIMISERS[name](model.parameters())

    def step(index: int) -> Mapping[str, float]:
        rows = torch.randperm(32, generator=torch_generator(seed, "batch", index))[:8]
        loss = (model(INPUTS[rows]) - 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss.item()}

    return model, optimiser, step


def trained(name: str, recorder: Memory, steps: int = 10) -> str:
    """Digest of the model after a training in chunks of 4."""
    model, optimiser, step = fresh(name)
    train(step, model, optimiser, steps=steps, chunk=4, recorder=recorder, seed=0)
    return digest(flatten(model.state_dict()))


def test_trains_as_a_plain_loop_does() -> None:
    model, _, step = fresh("Adam")
    losses = []
    for index in range(10):
        torch.manual_seed(torch_generator(0, "step", index).initial_seed())
        losses.append(step(index)["loss"])
    recorder = Memory()
    assert trained("Adam", recorder) == digest(flatten(model.state_dict()))
    means = [np.mean(losses[:4]), np.mean(losses[4:8]), np.mean(losses[8:])]
    assert recorder.lines == [(step, {"loss": mean}) for step, mean in zip((4, 8, 10), means, strict=True)]


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("at", [4, 8, 10])
def test_interrupted_and_resumed_is_bit_identical(name: str, at: int) -> None:
    whole, recorder = Memory(), Memory(stop_at=at)
    expected = trained(name, whole)
    with pytest.raises(KeyboardInterrupt):
        trained(name, recorder)
    recorder.stop_at = None
    torch.manual_seed(1234)  # draws do not depend on what was drawn before
    assert trained(name, recorder) == expected
    assert (recorder.lines, recorder.states) == (whole.lines, whole.states)
    assert digest(recorder.kept[1]) == digest(whole.kept[1])  # the optimiser's moments too


def test_a_loss_that_is_not_finite_ends_it_at_that_step() -> None:
    model, optimiser, step = fresh("Adam")
    made: list[int] = []

    def break_at_six(index: int) -> Mapping[str, float]:
        made.append(index)
        return step(index) if index < 6 else {"loss": float("nan"), "norm": 1.0}

    recorder = Memory()
    with pytest.raises(RefigureError, match="'loss' is nan at step 7 of 20"):
        train(break_at_six, model, optimiser, steps=20, chunk=4, recorder=recorder, seed=0)
    assert made == list(range(7))
    assert recorder.kept is not None
    assert recorder.kept[0] == 4


def test_a_model_is_initialised_by_its_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = fresh("SGD", seed=3)[0].state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert digest(flatten(fresh("SGD", seed=3)[0].state_dict())) == digest(flatten(first))
    assert digest(flatten(fresh("SGD", seed=4)[0].state_dict())) != digest(flatten(first))


def test_the_checkpoint_of_another_model_is_refused() -> None:
    recorder = Memory()
    trained("Adam", recorder, steps=4)
    model = nn.Linear(3, 1)
    with pytest.raises(RefigureError, match="the checkpoint"):
        train(
            lambda index: {}, model, torch.optim.Adam(model.parameters()), steps=8, chunk=4, recorder=recorder, seed=0
        )
