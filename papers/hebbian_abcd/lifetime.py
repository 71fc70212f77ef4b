"""Lifetimes of a population on a body: fresh weights, a policy that changes itself, progress step by step (section 3.3).

Who has stopped early is not simulated further: the others are packed together.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from papers.hebbian_abcd.fast_plasticity import live_step
from papers.hebbian_abcd.quadruped import Herd

__all__ = ["Lifetimes", "live"]

SETTLING = 40
"""Steps without action, in which the quadruped falls to the floor; their observations are thrown away (official code)."""
SHELTERED = 201
"""First steps of a life in which nothing stops it, not even a fall (official code)."""
LOW = 0.26
"""Height of the torso, in metres, at or below which a quadruped has fallen (PyBullet)."""
BACKWARDS = 30
"""Steps in a row with negative progress after which a life ends (official code)."""


class Lifetimes(NamedTuple):
    """How lives went."""

    progress: Float[np.ndarray, "T N"]
    """Metres a second in each step; zero after the end of a life."""
    lengths: Float[np.ndarray, " N"]
    """Steps lived."""


def live(
    bodies: Sequence[str],
    weights: Float[np.ndarray, "N S"],
    coefficients: Float[np.ndarray, "N 4 S"],
    sizes: Sequence[int],
    steps: int,
    rng: np.random.Generator,
    perturb: Callable[[int, Float[np.ndarray, "N S"]], None] | None = None,
) -> Lifetimes:
    """Lives of N quadrupeds from given birth weights, which change in place.

    Arguments:
        coefficients: eta A, eta B, eta C, eta D; zeros for static weights.
        perturb: Called before each step with its number and the weights, to damage them.
    """
    herd = Herd(bodies)
    count, layers = len(bodies), np.array(sizes)
    scales, actions = np.ones((count, len(sizes) - 1), np.float32), np.zeros((count, sizes[-1]), np.float32)
    observations = herd.reset(rng).copy()  # the first step sees what was there before the settling (official code)
    for _ in range(SETTLING):
        herd.step(actions)
    alive = np.arange(count)
    progress, lengths, backwards = np.zeros((steps, count), np.float32), np.full(count, steps), np.zeros(count, int)
    for step in range(steps):
        if perturb is not None:
            perturb(step, weights)
        live_step(weights, scales, coefficients, observations, layers, False, False, actions)
        observations, moved = herd.step(actions)
        progress[step, alive] = moved
        backwards = np.where(moved < 0, backwards + 1, 0)
        if step >= SHELTERED:
            ended = (herd.state[:, -1, 3] <= LOW) | (backwards > BACKWARDS)
            if ended.any():
                lengths[alive[ended]] = step + 1
                keep = ~ended
                alive, backwards = alive[keep], backwards[keep]
                weights, coefficients, scales, actions = (
                    array[keep] for array in (weights, coefficients, scales, actions)
                )
                herd.select(keep)
                observations = herd.observations
                if not len(alive):
                    break
    return Lifetimes(progress, lengths)
