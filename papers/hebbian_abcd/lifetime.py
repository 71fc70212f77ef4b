"""Lifetimes of quadrupeds: fresh weights, a policy that changes itself, progress step by step (section 3.3).

When a tenth of the lives have ended, the others are packed together, and those are not simulated further.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from papers.hebbian_abcd.bullet import BulletHerd
from papers.hebbian_abcd.fast_plasticity import live_step, still_step
from papers.hebbian_abcd.quadruped import Herd

__all__ = ["Disturbance", "Lifetimes", "herd_of", "live"]

SETTLING = 40
"""Steps without action, in which the quadruped falls to the floor and sees nothing (official code)."""
SHELTERED = 201
"""First steps of a life in which nothing stops it, not even a fall (official code)."""
LOW = 0.26
"""Height of the torso, in metres, at or below which a quadruped has fallen (PyBullet)."""
BACKWARDS = 30
"""Steps in a row with negative progress that do not end a life; those of its shelter do not count (official code)."""
ENDED = 0.1
"""Share of ended lives at which they are no longer simulated."""


Disturbance = Callable[[int, Float[np.ndarray, "N S"]], bool]
"""Called before each step with its number and the weights, to damage them; says whether they learn in it."""


class Lifetimes(NamedTuple):
    """How lives went."""

    progress: Float[np.ndarray, "T N"]
    """Metres a second in each step; zero after the end of a life."""
    lengths: Int[np.ndarray, " N"]
    """Steps lived."""


def herd_of(engine: Literal["pybullet", "mujoco"], bodies: Sequence[str]) -> Herd | BulletHerd:
    """Quadrupeds with these bodies."""
    return BulletHerd(bodies) if engine == "pybullet" else Herd(bodies)


def live(
    herd: Herd | BulletHerd,
    weights: Float[np.ndarray, "N S"],
    coefficients: Float[np.ndarray, "N 4 S"] | None,
    sizes: Sequence[int],
    steps: int,
    rng: np.random.Generator,
    *,
    normalise: bool = False,
    stops: bool = True,
    disturb: Disturbance = lambda step, weights: True,
) -> Lifetimes:
    """Lives of N quadrupeds from given birth weights, which are overwritten.

    Arguments:
        coefficients: eta A, eta B, eta C, eta D; None for static weights.
        normalise: Whether every layer is divided by its largest weight after each step.
        stops: Whether a life ends early after a fall or a walk backwards.
    """
    count, layers = len(weights), np.array(sizes)
    scales, actions = np.ones((count, len(sizes) - 1), np.float32), np.zeros((count, sizes[-1]), np.float32)
    observations = herd.reset(rng).copy()  # the first step sees what was there before the settling (official code)
    for _ in range(SETTLING):
        herd.step(actions)
    members, lives = np.arange(count), np.full(count, True)
    progress, lengths, backwards = np.zeros((steps, count), np.float32), np.full(count, steps), np.zeros(count, int)
    for step in range(steps):
        if disturb(step, weights) and coefficients is not None:
            live_step(weights, scales, coefficients, observations, layers, False, normalise, actions)
        else:
            still_step(weights, scales, observations, layers, False, actions)
        observations, speed = herd.step(actions)
        progress[step, members[lives]] = speed[lives]
        if not stops or step < SHELTERED:
            continue
        backwards = np.where(speed < 0, backwards + 1, 0)
        ended = lives & ((herd.heights <= LOW) | (backwards > BACKWARDS))
        lengths[members[ended]] = step + 1
        lives &= ~ended
        if not lives.any():
            break
        if lives.mean() < 1 - ENDED:
            members, backwards, weights, scales, actions = (
                array[lives] for array in (members, backwards, weights, scales, actions)
            )
            coefficients = None if coefficients is None else coefficients[lives]
            herd.select(lives)
            observations, lives = herd.observations, lives[lives]
    herd.close()
    return Lifetimes(progress, lengths)
