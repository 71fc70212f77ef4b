"""Tasks, networks, training and experiments end to end; and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from memory_recorder import finished, resumes

from common.errors import RefigureError
from papers.deq import convergence, copy_memory, regression
from papers.deq.config import Convergence, CopyMemory, Memory, Regression
from papers.deq.memory import train as train_memory
from papers.deq.models import HIDDEN, build
from papers.deq.tasks import chance, draw_copies
from papers.deq.training import fit

SMALL = CopyMemory(
    length=5, features=8, heads=2, inner=12, hidden=5, layers=2, warm_up=2, forward_evaluations=8,
    backward_evaluations=8, train=12, test=6, batch=4, steps=5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def log_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line and a checkpoint every other step."""
    monkeypatch.setattr(copy_memory, "CHUNK", 2)
    monkeypatch.setattr(regression, "CHUNK", 2)


def test_copies() -> None:
    x, y = draw_copies(np.random.default_rng(0), 7, 50)
    assert x.shape == y.shape == (50, 27)
    assert torch.equal(x[:, :10], y[:, -10:])
    assert set(x[:, :10].unique().tolist()) == set(range(1, 9))
    assert not y[:, :-10].any()
    assert torch.equal(x[:, 16], torch.full((50,), 9))
    assert not x[:, 10:16].any()
    assert not x[:, 17:].any()


def test_chance_is_the_loss_of_a_model_that_knows_everything_except_the_symbols() -> None:
    _, y = draw_copies(np.random.default_rng(0), 7, 50)
    logits = torch.full((50, 27, 10), -100.0)
    logits[:, :-10, 0] = 100
    logits[:, -10:, 1:9] = 0
    assert float(copy_memory.cross_entropy(logits, y)) == pytest.approx(chance(7), rel=1e-5)
    assert chance(400) == pytest.approx(0.0495, abs=5e-5)


@pytest.mark.parametrize(
    ("model", "thousands"), [("deq", 14), ("unrolled", 14), ("lstm", 14), ("gru", 14), ("tcn", 16)]
)
def test_networks_have_the_published_number_of_parameters(model: str, thousands: int) -> None:
    network = build(CopyMemory(model=model, length=50))
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(1000 * thousands, rel=0.05)
    logits = network(torch.zeros(2, 70, dtype=torch.int64)).logits
    assert logits.shape == (2, 70, 10)


@pytest.mark.parametrize("model", ["deq", *HIDDEN])
def test_networks_look_back_alone(model: str) -> None:
    torch.manual_seed(0)
    network = build(dataclasses.replace(SMALL, model=model, tolerance=1e-6, forward_evaluations=100)).eval()
    x = torch.randint(0, 10, (2, 25))
    later = x.clone()
    later[:, 12:] = 0
    with torch.no_grad():
        logits, changed = network(x).logits, network(later).logits
    torch.testing.assert_close(logits[:, :12], changed[:, :12], rtol=0, atol=1e-4)
    assert not torch.allclose(logits[:, 12:], changed[:, 12:], atol=1e-4)


@pytest.mark.parametrize("model", ["deq", "tcn", "gru"])
def test_stopped_and_resumed_it_ends_the_same(model: str) -> None:
    config = dataclasses.replace(SMALL, model=model, jacobian_weight=0.1 if model == "deq" else 0.0)
    resumes(lambda recorder: copy_memory.train(config, [3], recorder), stop_at=2)


def test_a_deq_begins_as_a_stack(memory: type) -> None:
    run = memory()
    copy_memory.train(SMALL, [0], run)
    first, second, third = (line["evaluations"] for _, line in run.lines)
    assert first == 0
    assert min(second, third) > 1
    assert [step for step, _ in run.lines] == [2, 4, 5]


def test_training_learns_to_copy(memory: type) -> None:
    config = CopyMemory(length=10, train=1000, test=50, batch=16, steps=200, warm_up=160)
    run = memory()
    metrics = copy_memory.train(config, [0], run).metrics
    assert metrics["loss"][0] < 0.5 * chance(10)
    assert metrics["recall"][0] > 0.6
    assert run.lines[-1][1]["loss"] < 0.5 * run.lines[0][1]["loss"]


def test_convergence_of_a_trained_network(memory: type) -> None:
    parent = finished(SMALL, copy_memory.train(SMALL, [0], memory()).parameters)
    config = Convergence(
        evaluations=12, compared=6, sequences=3, limits=(1, 2, 12), few=2, tolerances=(1e-3, 1e3), coarse=1e3,
        power_steps=10,
    )  # fmt: skip
    outcome = convergence.train(config, [0], memory(), parent)
    metrics = outcome.metrics
    assert outcome.arrays["broyden_end"].shape == (1, 12, 3)
    assert metrics["loss_limit_1"] == metrics["loss_tolerance_1000"], "f(0) either way"
    expected = metrics["loss_tolerance_1000"][0] / metrics["loss_tolerance_0.001"][0]
    assert metrics["cost_of_coarse"][0] == pytest.approx(expected)
    assert math.isfinite(metrics["radius_end"][0])
    start, end = (outcome.arrays[f"anderson_{phase}"] for phase in ("start", "end"))
    assert not np.array_equal(start, end)


@pytest.mark.parametrize("cell", ["transformer", "conv"])
def test_memory_grows_with_layers_and_not_with_evaluations(cell: str, memory: type) -> None:
    config = Memory(
        cell=cell, depths=(2, 4, 8), compared=8, evaluations=(3, 9), budget=9, length=6, batch=2, features=16, side=4
    )
    measured = {name: value[0] for name, value in train_memory(config, [0], memory()).metrics.items()}
    two, four, eight = (measured[f"bytes_layers_{depth}"] for depth in config.depths)
    assert measured["spread"] == 0
    assert eight - four == 2 * (four - two)
    assert measured["share"] == pytest.approx(measured["bytes_deq_3"] / eight)
    assert measured["share"] < 0.5
    assert measured["share_with_solver"] > measured["share"]
    assert measured["bytes_solver_9"] > 2.9 * measured["bytes_solver_3"]


def test_the_curve_is_fitted_and_the_penalty_flattens(memory: type) -> None:
    config = Regression(train=512, test=100, steps=150, batch=64, rate=0.03)
    plain, flat = (
        regression.train(dataclasses.replace(config, jacobian_weight=weight), [0], memory()) for weight in (0.0, 4.0)
    )
    spread = float(np.var(regression.curve(np.linspace(-2, 2, 100))))
    assert plain.metrics["error"][0] < 0.6 * spread
    assert flat.metrics["slope"][0] < plain.metrics["slope"][0]
    assert 190 <= plain.metrics["parameters"][0] <= 210
    assert plain.arrays["surface"].shape == (1, 61, 61)
    model = regression.Curve(config.hidden)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in flat.parameters.items()})
    x, z = (torch.tensor([[flat.arrays[name][0, index]]]) for name, index in (("x", 7), ("z", 30)))
    assert model.bind(x)(z).item() == pytest.approx(float(flat.arrays["surface"][0, 7, 30]), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_and_says_so(memory: type) -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(
        RefigureError, match=r"metric 'loss' is nan at step 3 of 9; .* the last good checkpoint was kept"
    ):
        fit(
            model, lambda step: (model.weight.sum() * (float("nan") if step == 2 else 1.0), {}, None), seed=0, steps=9,
            rate=0.1, clip=1.0, chunk=1, recorder=memory(),
        )  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "told"), [
    (CopyMemory, {"length": 0}, "length must be positive"),
    (CopyMemory, {"features": 10, "heads": 4}, "multiple of heads"),
    (Memory, {"depths": (), "evaluations": ()}, "at least 1"),
    (Convergence, {"limits": ()}, "at least 1"),
    (CopyMemory, {"batch": 30_000}, "at most the 20000 training sequences"),
    (CopyMemory, {"warm_up": -1}, "0 or positive"),
    (CopyMemory, {"warm_up": 100, "steps": 100}, "must leave steps for the fixed point"),
    (Convergence, {"few": 7}, "few must be one of the limits"),
    (Convergence, {"limits": (30, 10)}, "must rise"),
    (Convergence, {"compared": 101}, "compared must be at most evaluations"),
    (Memory, {"compared": 5}, "compared must be one of the depths"),
    (Convergence, {"limits": (0, 3)}, "limits must be at least 1"),
    (Memory, {"features": 12}, "multiple of 8"),
    (Memory, {"depths": (0,)}, "at least 1"),
    (Regression, {"noise": -1.0}, "0 or positive"),
])  # fmt: skip
def test_settings_that_make_no_sense(kind: type, settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind(**settings)
