"""Races of a population in CarRacing: random birth weights, pictures, a policy that changes itself (section 3).

A member drives alone, from start to end, before the next: its coefficients and its picture stay in the cache, and
nobody waits for those who have stopped. The simulator is envpool's port of gymnasium's; the paper's is CarRacing-v0 of
gym.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from common.errors import RefigureError
from papers.hebbian_abcd.fast_encoder import encode_all, resize
from papers.hebbian_abcd.fast_plasticity import live_step, still_step

__all__ = ["PATIENCE", "Races", "controls", "race", "streak_after"]

ENVPOOL = "1.2.5"
LAP = 1.0
"""Share of the tiles that ends a race when exceeded. In v0 all tiles must be visited; later versions have 0.95."""
PATIENCE = 20
"""Frames in a row with negative reward, which is without a new tile, that do not end a race (official code)."""


class Races(NamedTuple):
    """How races went."""

    rewards: Float[np.ndarray, "T N"]
    """Reward of each frame: -0.1, and 1,000 shared among the tiles; -100 off the field. Zero after a race's end."""
    lengths: Int[np.ndarray, " N"]
    """Frames driven."""

    @property
    def returns(self) -> Float[np.ndarray, " N"]:
        """Reward of a whole race."""
        return self.rewards.sum(0, dtype=np.float64)


def controls(outputs: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    """Steering in [-1, 1], gas and brake in [0, 1]: tanh, sigmoid and sigmoid of the last neurons' sums."""
    halves = np.array([1, 0.5, 0.5], np.float32)
    return np.tanh(outputs * halves) * halves + np.array([0, 0.5, 0.5], np.float32)


def streak_after(streak: int, reward: float) -> int:
    """Frames in a row with negative reward, from those before a frame and the reward of it."""
    return streak + 1 if reward < 0 else 0


def race(
    kernels: Float[np.ndarray, "N 1362"],
    weights: Float[np.ndarray, "N S"],
    coefficients: Float[np.ndarray, "N 4 S"] | None,
    sizes: Sequence[int],
    seeds: Sequence[int],
    steps: int = 1000,
    *,
    normalise: bool = True,
    patience: int = PATIENCE,
) -> Races:
    """Races of N members from given birth weights, which change in place; independent of who else races.

    Arguments:
        kernels: Parameters of each member's encoder.
        coefficients: eta A, eta B, eta C, eta D; None for static weights.
        sizes: Neurons of each layer, 648 inputs first.
        seeds: Of each member, what its track follows from.
        steps: Longest race, in frames (50 a second).
        normalise: Whether every layer is divided by its largest weight after each step, if weights change.
        patience: Frames in a row with negative reward that do not end a race; `steps` for no early end.

    Raises:
        RefigureError: envpool is not installed.
    """
    layers, count = np.array(sizes), len(weights)
    rewards, lengths = np.zeros((steps, count), np.float32), np.zeros(count, int)
    for member, seed in enumerate(seeds):
        own = slice(member, member + 1)
        scales, outputs = np.ones((1, len(layers) - 1), np.float32), np.empty((1, layers[-1]), np.float32)
        car, streak, ended = _car(seed, steps), 0, False
        frame, _ = car.reset()
        while not ended and streak <= patience:
            features = encode_all(kernels[own], resize(frame))
            if coefficients is None:
                still_step(weights[own], scales, features, layers, True, outputs)
            else:
                live_step(weights[own], scales, coefficients[own], features, layers, True, normalise, outputs)
            frame, reward, terminated, truncated, _ = car.step(controls(outputs))
            rewards[lengths[member], member], ended = reward[0], terminated[0] or truncated[0]
            lengths[member] += 1
            streak = streak_after(streak, reward[0])
        car.close()
    return Races(rewards, lengths)


def _car(seed: int, steps: int) -> Any:
    """One car on a track of its own; frames are (1, 96, 96, 3) uint8."""
    try:
        import envpool
    except ImportError as error:
        raise RefigureError(f"CarRacing needs envpool: pip install envpool=={ENVPOOL}") from error
    return envpool.make_gymnasium(
        "CarRacing-v3", num_envs=1, num_threads=1, seed=[int(seed)], max_episode_steps=steps, lap_complete_percent=LAP
    )
