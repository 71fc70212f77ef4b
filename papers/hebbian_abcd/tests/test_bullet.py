"""The paper's quadruped in PyBullet: masses, symmetry, settling, progress, and that members live alone."""

import numpy as np
import pytest

from common.errors import RefigureError
from papers.hebbian_abcd import bullet
from papers.hebbian_abcd.bullet import ANT, FEET, FLOOR, LINKS, BulletHerd, ant
from papers.hebbian_abcd.quadruped import BODIES, STEP

pybullet = pytest.importorskip("pybullet")

MIRROR = (3, 2, 1, 0)
"""Leg that each leg becomes when left and right are exchanged."""


class Fixed:
    """Stands in for a generator: the joints' angles are given."""

    def __init__(self, angles):
        self.angles = angles

    def uniform(self, low, high, shape):
        return self.angles.reshape(shape)


def walk(herd, steps, seed=0, amplitude=1):
    """Random actions; returns the observations and speeds of each step."""
    actions = np.random.default_rng(seed).uniform(-amplitude, amplitude, (steps, len(herd.clients), 8))
    seen = [herd.step(action) for action in actions]
    return np.array([observations.copy() for observations, _ in _copied(seen)]), np.array([speed for _, speed in seen])
