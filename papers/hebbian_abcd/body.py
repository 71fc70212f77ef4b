"""The quadruped's measures and names, for both engines."""

from collections.abc import Mapping

from common.errors import RefigureError

__all__ = ["BODIES", "FOOT", "LEGS", "STEP", "TARGET", "TORQUE", "check_bodies", "check_legs"]

STEP = 0.0165
"""Seconds of a step of the policy (PyBullet)."""
TORQUE = 250.0
"""Newton metres of an action of 1."""
LEGS = ((1, 1, -1, 1), (-1, 1, 1, -1), (-1, -1, -1, -1), (1, -1, 1, 1))
"""Signs of each leg: of x and y, of x in the ankle's axis (-1 or 1, 1, 0), of the ankle's range. The quadruped walks
towards +x: leg 1 is its left front, 2 its left rear, 3 its right rear, 4 its right front."""
FOOT = 0.4
"""Length of a foot along x and along y, in metres; that of the hip is half of it."""
BODIES: dict[str, dict[int, float]] = {"standard": {}, "right": {4: 0.1}, "left": {1: 0.1}}
"""Feet of another length, by leg: none, and the paper's seen and unseen damage in front."""
TARGET = 1000.0
"""Where the quadruped walks to on the x-axis, in metres."""


def check_legs(feet: Mapping[int, float]) -> None:
    """Raise RefigureError where a leg is none of the four."""
    if unknown := sorted(set(feet) - {1, 2, 3, 4}):
        raise RefigureError(f"a quadruped has legs 1 to 4, not {unknown[0]}")


def check_bodies(names: tuple[str, ...] | list[str]) -> None:
    """Raise RefigureError where a name is none of `BODIES`."""
    if unknown := [name for name in names if name not in BODIES]:
        raise RefigureError(f"no body {unknown[0]!r}; there are {', '.join(BODIES)}")
