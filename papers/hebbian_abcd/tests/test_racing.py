"""Pictures, encoder and races: against plain forms, a library, hand-made rewards."""

import sys

import numpy as np
import pytest
import torch

from common.errors import RefigureError
from papers.hebbian_abcd import racing
from papers.hebbian_abcd.fast_encoder import encode_all, resize
from papers.hebbian_abcd.network import encode
from papers.hebbian_abcd.racing import controls, race, streak_after

SIZES = (648, 16, 8, 3)
SYNAPSES = 648 * 16 + 16 * 8 + 8 * 3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def drivers(rng: np.random.Generator) -> list[np.ndarray]:
    """Kernels, birth weights and coefficients of three members."""
    pick = [rng.normal(size=(3, 1362)), rng.uniform(-0.1, 0.1, (3, SYNAPSES)), rng.normal(size=(3, 4, SYNAPSES))]
    return [array.astype(np.float32) for array in pick]


@pytest.fixture
def envpool() -> None:
    pytest.importorskip("envpool", reason=f"no envpool: pip install envpool=={racing.ENVPOOL}")


def test_encodes_as_the_plain_form_with_kernels_of_its_own(rng: np.random.Generator) -> None:
    params = rng.normal(size=(3, 1362)).astype(np.float32)
    images = rng.integers(0, 256, (3, 84, 84, 3), dtype=np.uint8)
    plain = [encode(own, image) for own, image in zip(params.astype(float), images, strict=True)]
    features = encode_all(params, images)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, plain, rtol=0, atol=1e-5)


def test_resizes_bilinearly(rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    exact = torch.nn.functional.interpolate(
        torch.tensor(frames).permute(0, 3, 1, 2).double(), (84, 84), mode="bilinear"
    )
    small = resize(frames)
    assert small.dtype == np.uint8
    np.testing.assert_allclose(small, exact.permute(0, 2, 3, 1), rtol=0, atol=0.5 + 1e-9)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_resizing_keeps_what_is_constant(level: int) -> None:
    assert (resize(np.full((1, 96, 96, 3), level, np.uint8)) == level).all()


def test_resizing_keeps_a_ramp_linear() -> None:
    ramp = np.broadcast_to(2 * np.arange(96, dtype=np.uint8)[:, None, None], (1, 96, 96, 3)).copy()
    expected = 2 * ((np.arange(84) + 0.5) * 96 / 84 - 0.5)
    for frames, axis in ((ramp, 0), (ramp.swapaxes(1, 2).copy(), 1)):
        lines = np.moveaxis(resize(frames)[0], axis, 0).reshape(84, -1)
        assert np.abs(lines - expected[:, None]).max() <= 0.5 + 1e-9


def test_controls_stay_in_their_ranges_and_begin_in_the_middle() -> None:
    np.testing.assert_allclose(controls(np.zeros((1, 3), np.float32)), [[0, 0.5, 0.5]])
    np.testing.assert_allclose(controls(np.full((1, 3), 1e4, np.float32)), [[1, 1, 1]])
    np.testing.assert_allclose(controls(np.full((1, 3), -1e4, np.float32)), [[-1, 0, 0]])


class Scripted:
    """A car that pays given rewards and shows black; the last of them ends the race."""

    def __init__(self, rewards: list[float]) -> None:
        self.rewards = list(rewards)
        self.frame = np.zeros((1, 96, 96, 3), np.uint8)

    def reset(self) -> tuple:
        return self.frame, {}

    def step(self, action: np.ndarray) -> tuple:
        reward = self.rewards.pop(0)
        return self.frame, np.array([reward]), np.array([not self.rewards]), np.array([False]), {}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("rewards", "length"),
    [
        ([-0.1] * 20 + [3.0] + [-0.1] * 30, 42),
        ([-0.1] * 20 + [0.0] + [-0.1] * 20 + [3.0], 42),
        ([3.0] * 5, 5),
        ([-0.1] * 50, 21),
    ],
    ids=["after the second streak", "at the end of the lap", "without a streak", "after the first streak"],
)
def test_a_race_ends_after_more_than_20_frames_without_a_tile(
    rewards: list[float], length: int, drivers: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "_car", lambda seed, steps: Scripted(rewards))
    races = race(*(array[:1] for array in drivers), SIZES, [0], 100)
    assert races.lengths.tolist() == [length]
    assert races.returns[0] == pytest.approx(sum(rewards[:length]))


def test_a_streak_ends_with_a_reward_that_is_not_negative() -> None:
    streaks, streak = [], 0
    for reward in (-0.1, -0.1, 0.0, -100.0, 6.9, 7.0, -0.1):
        streaks.append(streak := streak_after(streak, reward))
    assert streaks == [1, 2, 0, 1, 0, 0, 1]


@pytest.mark.usefixtures("envpool")
def test_a_race_follows_from_its_seed_alone(drivers: list[np.ndarray]) -> None:
    kernels, weights, coefficients = drivers
    races, again, alone = (weights.copy() for _ in range(3))
    first = race(kernels, races, coefficients, SIZES, [5, 6, 7], 40)
    second = race(kernels, again, coefficients, SIZES, [5, 6, 7], 40)
    one = race(kernels[1:2], alone[1:2], coefficients[1:2], SIZES, [6], 40)
    np.testing.assert_array_equal(first.rewards, second.rewards)
    np.testing.assert_array_equal(races, again)
    np.testing.assert_array_equal(first.rewards[:, 1:2], one.rewards)
    np.testing.assert_array_equal(races[1:2], alone[1:2])
    assert (races != weights).any(1).all()
    assert len(set(first.rewards[0])) == 3  # tracks differ in length, and with it the reward of a tile


@pytest.mark.usefixtures("envpool")
def test_a_parked_car_ends_early_and_with_patience_at_the_last_frame(drivers: list[np.ndarray]) -> None:
    """With gas and brake at a half a car creeps: it has a new tile now and then, but not every 20 frames."""
    kernels, weights, _ = drivers
    parked = np.zeros_like(weights)
    assert race(kernels, parked, None, SIZES, [5, 6, 7], 40).lengths.max() < 40
    assert race(kernels, parked, None, SIZES, [5, 6, 7], 40, patience=40).lengths.tolist() == [40] * 3


@pytest.mark.usefixtures("envpool")
def test_coefficients_of_zero_leave_weights_as_they_are(drivers: list[np.ndarray]) -> None:
    kernels, weights, coefficients = drivers
    after = weights.copy()
    still = race(kernels, weights, None, SIZES, [5, 6, 7], 40)
    plastic = race(kernels, after, np.zeros_like(coefficients), SIZES, [5, 6, 7], 40, normalise=False)
    np.testing.assert_array_equal(after, weights)
    np.testing.assert_array_equal(plastic.rewards, still.rewards)


def test_says_how_to_install_the_simulator(drivers: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(RefigureError, match="pip install envpool=="):
        race(*drivers, SIZES, [5, 6, 7], 40)
