"""The quadruped: PyBullet's ant in MuJoCo, a population at once (the stand-in of scale cpu).

Masses, limbs, torques, observation and progress are those of `AntBulletEnv-v0`. Contacts are MuJoCo's, and joints have
a small armature for its sake, so metres do not compare with the paper's.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache

import numba
import numpy as np
from jaxtyping import Bool, Float

from common.errors import RefigureError
from papers.hebbian_abcd.body import BODIES, FOOT, LEGS, STEP, TARGET, TORQUE, check_bodies, check_legs

with contextlib.suppress(ModuleNotFoundError):
    import mujoco
    import mujoco.rollout

__all__ = ["Herd", "body"]

SUBSTEPS = 2
STATE, SENSORS = 1 + 15 + 14, 4 + 3


def body(feet: Mapping[int, float]) -> str:
    """The MJCF of a body with some feet of another length.

    Raises:
        RefigureError: No such leg.
    """
    check_legs(feet)
    legs = ""
    for number, (x, y, axis, sign) in enumerate(LEGS, 1):
        foot, limits = feet.get(number, FOOT), "30 100" if sign > 0 else "-100 -30"
        legs += f"""
      <geom type="capsule" fromto="0 0 0 {0.2 * x} {0.2 * y} 0"/>
      <body name="hip{number}" pos="{0.2 * x} {0.2 * y} 0">
        <joint name="hip{number}" axis="0 0 1" range="-40 40"/>
        <geom type="capsule" fromto="0 0 0 {0.2 * x} {0.2 * y} 0"/>
        <body name="foot{number}" pos="{0.2 * x} {0.2 * y} 0">
          <joint name="ankle{number}" axis="{axis} 1 0" range="{limits}"/>
          <geom type="capsule" fromto="0 0 0 {foot * x} {foot * y} 0"/>
          <site name="foot{number}" type="capsule" size="0.1" fromto="0 0 0 {foot * x} {foot * y} 0"/>
        </body>
      </body>"""
    joints = [f"{kind}{number}" for number in range(1, 5) for kind in ("hip", "ankle")]
    motors = "".join(f'<motor joint="{name}" gear="{TORQUE}"/>' for name in joints)
    touches = "".join(f'<touch site="foot{number}"/>' for number in range(1, 5))
    return f"""
<mujoco>
  <compiler angle="degree"/>
  <option timestep="{STEP / SUBSTEPS}" integrator="implicitfast"><flag autoreset="disable"/></option>
  <default>
    <geom density="1000" size="0.08" friction="1.2 0.005 0.0001" contype="1" conaffinity="0" condim="3"/>
    <joint armature="0.01" limited="true"/>
    <motor ctrlrange="-1 1" ctrllimited="true"/>
  </default>
  <worldbody>
    <geom type="plane" size="0 0 1" contype="0" conaffinity="1"/>
    <body name="torso" pos="0 0 0.75">
      <freejoint/>
      <geom type="sphere" size="0.25"/>{legs}
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
  <sensor>{touches}<subtreecom body="torso"/></sensor>
</mujoco>"""


@cache
def _model(name: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(body(BODIES[name]))


class Herd:
    """Quadrupeds that live at once, each with a body.

    Arguments:
        bodies: Names of `BODIES`, one for each.
    """

    def __init__(self, bodies: Sequence[str]) -> None:
        if "mujoco" not in sys.modules:
            raise RefigureError("engine mujoco is not installed: pip install mujoco==4.0.0")
        check_bodies([*bodies])
        self.models = [_model(name) for name in bodies]
        self.data = mujoco.MjData(self.models[0])
        self.limits = self.models[0].jnt_range[1:].copy()
        self.state = np.zeros((len(bodies), 1, STATE))
        self.sensors = np.zeros((len(bodies), 1, SENSORS))
        self.observations = np.zeros((len(bodies), 28), np.float32)
        self.rollout = mujoco.rollout.Rollout(nthread=0)

    def reset(self, rng: np.random.Generator) -> Float[np.ndarray, "N 28"]:
        """Stand all of them in the air, joints drawn anew from U(-0.1, 0.1); returns the first observation."""
        self.state[:] = 0
        self.state[:, 0, 3:8] = (0.75, 1, 0, 0, 0)
        self.state[:, 0, 8:16] = rng.uniform(-0.1, 0.1, (len(self.state), 8))
        self.sensors[:] = 0
        _observe(self.state[:, -1], self.sensors[:, -1], self.limits, self.observations)
        return self.observations

    def step(self, actions: Float[np.ndarray, "N 8"]) -> tuple[Float[np.ndarray, "N 28"], Float[np.ndarray, " N"]]:
        """Act for one step; returns observations and progress, in metres a second."""
        before = self.sensors[:, -1, 4].copy()
        controls = np.repeat(actions[:, None].astype(np.float64), SUBSTEPS, 1)
        self.state, self.sensors = self.rollout.rollout(self.models, self.data, self.state[:, -1].copy(), controls)
        _observe(self.state[:, -1], self.sensors[:, -1], self.limits, self.observations)
        return self.observations, (self.sensors[:, -1, 4] - before) / STEP

    @property
    def heights(self) -> Float[np.ndarray, " N"]:
        """Heights of the torsos in metres."""
        return self.state[:, -1, 3]

    def posture(self) -> Float[np.ndarray, " 15"]:
        """Position, quaternion (w, x, y, z) and joint angles of the first quadruped, in metres and radians."""
        return self.state[0, -1, 1:16]

    def select(self, keep: Bool[np.ndarray, " N"]) -> None:
        """Go on with the kept ones alone."""
        self.models = [model for model, kept in zip(self.models, keep, strict=True) if kept]
        self.state, self.sensors, self.observations = self.state[keep], self.sensors[keep], self.observations[keep]

    def close(self) -> None:
        """End all lives."""
        self.rollout.close()


@numba.njit(fastmath=True)
def _observe(state: np.ndarray, sensors: np.ndarray, limits: np.ndarray, out: np.ndarray) -> None:
    """What each quadruped senses (28 numbers, PyBullet's), cut at 5."""
    for n in range(len(state)):
        x, y, z, qw, qx, qy, qz = state[n, 1:8]
        velocity = state[n, 16:30]
        yaw = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
        roll = np.arctan2(2 * (qw * qx + qy * qz), 1 - 2 * (qx * qx + qy * qy))
        pitch = np.arcsin(min(1.0, max(-1.0, 2 * (qw * qy - qz * qx))))
        angle = np.arctan2(-y, TARGET - x) - yaw
        out[n, 0] = z - 0.75
        out[n, 1], out[n, 2] = np.sin(angle), np.cos(angle)
        out[n, 3] = 0.3 * (np.cos(yaw) * velocity[0] + np.sin(yaw) * velocity[1])
        out[n, 4] = 0.3 * (np.cos(yaw) * velocity[1] - np.sin(yaw) * velocity[0])
        out[n, 5] = 0.3 * velocity[2]
        out[n, 6], out[n, 7] = roll, pitch
        for joint in range(8):
            low, high = limits[joint]
            out[n, 8 + 2 * joint] = (2 * state[n, 8 + joint] - low - high) / (high - low)
            out[n, 9 + 2 * joint] = 0.1 * velocity[6 + joint]
        for foot in range(4):
            out[n, 24 + foot] = 1.0 if sensors[n, foot] > 0 else 0.0
        for i in range(28):
            out[n, i] = min(5.0, max(-5.0, out[n, i]))
