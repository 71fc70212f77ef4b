"""Experiment A: its measures against densities whose values are known, and a small training run end to end."""

import numpy as np
import pytest
from memory_recorder import Memory, resumes

from common.train.recorder import Outcome
from common.train.seeding import numpy_rng
from papers.survae.config import Toy
from papers.survae.densities import DENSITIES
from papers.survae.toy import EXTENT, TAIL, _asymmetry, _quadrature, _share_outside, train


def small(density: str, model: str, **changes) -> Toy:
    settings = {"hidden": (16, 8), "train_size": 64_000, "test_size": 3_000, "epochs": 1, "grid": 40, "quadrature": 200}
    return Toy(density, model, **settings | changes)


@pytest.fixture(scope="module", params=[pytest.param("checkerboard", marks=pytest.mark.slow), "corners"])
def outcomes(request: pytest.FixtureRequest) -> tuple[Outcome, Outcome]:
    """Two seeds of a flow and of an absolute flow for one density."""
    flow, absflow = (train(small(request.param, model), (3, 7), Memory()) for model in ("flow", "absflow"))
    return flow, absflow


def test_losses_fall_and_stay_above_the_entropy(outcomes):
    for outcome in outcomes:
        assert outcome.metrics["test_nll"].shape == (2,)
        assert (outcome.metrics["gap_to_entropy"] > 0).all()
        assert (outcome.metrics["test_nll"] < np.log((2 * EXTENT) ** 2) + 0.3).all()


def test_absflow_is_better_and_keeps_the_symmetry_exactly(outcomes):
    flow, absflow = outcomes
    assert absflow.metrics["test_nll"].max() < flow.metrics["test_nll"].min()
    assert max(absflow.metrics["asymmetry"]) < 1e-6 < 1e-2 < min(flow.metrics["asymmetry"])


def test_densities_integrate_to_one(outcomes):
    for outcome in outcomes:
        assert (outcome.metrics["normalisation_error"] < 0.02).all()


def test_interrupted_run_ends_in_the_same_bits():
    config = small("corners", "absflow")
    resumes(lambda recorder: train(config, (0, 1), recorder), stop_at=250)


@pytest.mark.slow
def test_seeds_differ_and_do_not_depend_on_their_companions():
    config = small("corners", "absflow")
    first, second = (train(config, seeds, Memory()).metrics["test_nll"] for seeds in ((0, 1), (0, 2)))
    assert first[0] == second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize("name", DENSITIES)
def test_true_samples_lie_inside(name):
    density = DENSITIES[name]
    test, fresh = (density.sample(40_000, numpy_rng(0, purpose)) for purpose in ("test", "fresh"))
    share = _share_outside(density, fresh, test)
    assert share == pytest.approx(TAIL if density.has_tails else 0, abs=4 * np.sqrt(TAIL / 40_000))
    assert _share_outside(density, fresh + 100, test) == 1


@pytest.mark.parametrize("name", DENSITIES)
def test_true_density_has_no_asymmetry(name):
    density = DENSITIES[name]
    axis = (np.arange(200) + 0.5) / 200 * 2 * EXTENT - EXTENT
    square = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    drawn = np.exp(density.log_density(square)).reshape(200, 200)
    area = (2 * EXTENT / 200) ** 2
    assert _asymmetry(density, drawn, area) == pytest.approx(0, abs=1e-9)
    shifted = np.roll(drawn, 25, axis=0)
    assert _asymmetry(density, shifted, area) > 0.1


def test_quadrature_integrates_known_densities():
    nodes, weights = _quadrature(400)
    x = nodes.astype(np.float64)
    assert weights.sum() == pytest.approx((2 * (EXTENT + 20)) ** 2, rel=1e-4)
    assert np.exp(-0.5 * (x**2).sum(-1)) @ weights / (2 * np.pi) == pytest.approx(1, abs=1e-3)
    edge = np.abs(x).max(-1) < EXTENT  # an integrable pole at the edge of the square, as a logit makes
    pole = np.where(edge, 1 / np.sqrt(np.clip(EXTENT - np.abs(x[:, 0]), 1e-12, None)), 0) @ weights
    assert pole == pytest.approx(2 * 2 * np.sqrt(EXTENT) * 2 * EXTENT, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 0}, {"batch_size": 127}, {"learning_rate": 0.0}, {"epochs": 0}, {"hidden": (0,)}, {"hidden": ()}],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Toy("corners", "flow", **changes)
