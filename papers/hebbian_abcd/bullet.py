"""The quadruped in PyBullet: `AntBulletEnv-v0`, the paper's own environment, without gym (scale paper).

Facts are those of `pybullet_envs` 3.2.7. Each member has a simulator of its own (about 28 MB; PyBullet allows 1,024 in
a process), so none disturbs another, and a member walks as it would alone.
"""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from common.errors import RefigureError
from papers.hebbian_abcd.body import BODIES, FOOT, LEGS, STEP, TARGET, TORQUE, check_bodies, check_legs

with contextlib.suppress(ModuleNotFoundError):
    import pybullet_data  # PyBullet itself prints a line when it is imported, so a herd does it

__all__ = ["BulletHerd", "ant"]

SUBSTEPS, ITERATIONS = 4, 5
"""Substeps of a step of the policy, and iterations of the contact solver in each of them."""
FLOOR, ANT = 0, 1
"""Numbers of the two bodies in a simulator, in the order of loading."""
JOINTS = (1, 3, 6, 8, 11, 13, 16, 18)
"""Links whose joints move: hip 1, ankle 1 ... hip 4, ankle 4. The others are welded to their parents."""
FEET = (4, 9, 14, 19)
LINKS = range(20)
PARTS = len(LINKS) + 2
"""Body parts that the environment averages: the links (massless ones too), the torso and, from the first step on, the
floor at the origin. Progress is therefore 21/22 of that of the quadruped's own mean part."""


def ant(feet: Mapping[int, float]) -> str:
    """The shipped MJCF with some feet of another length (0.4 as shipped, times the root of 2, in metres), by leg.

    Raises:
        RefigureError: No such leg.
    """
    check_legs(feet)
    xml = Path(pybullet_data.getDataPath(), "mjcf", "ant.xml").read_text()
    for leg, length in feet.items():
        x, y = LEGS[leg - 1][:2]
        xml = xml.replace(f'"0.0 0.0 0.0 {FOOT * x} {FOOT * y} 0.0"', f'"0.0 0.0 0.0 {length * x} {length * y} 0.0"')
    return xml


class BulletHerd:
    """Quadrupeds that live at once, each with a body; the methods of `quadruped.Herd`.

    Arguments:
        bodies: Names of `BODIES`, one for each.

    Raises:
        RefigureError: PyBullet is not installed, or no such body.
    """

    idle: ClassVar[list[int]] = []
    """Simulators of herds that are gone: starting one takes as long as fifty steps."""

    def __init__(self, bodies: Sequence[str]) -> None:
        try:
            import pybullet
        except ModuleNotFoundError:
            raise RefigureError("engine pybullet is not installed: pip install pybullet==3.2.7") from None
        check_bodies([*bodies])
        self.engine = pybullet
        self.models = [ant(BODIES[name]) for name in bodies]
        self.clients = [self.idle.pop() if self.idle else pybullet.connect(pybullet.DIRECT) for _ in bodies]
        self.torsos = np.zeros((len(bodies), 3, 3))  # position, roll pitch yaw, velocity
        self.joints = np.zeros((len(bodies), 8, 2))  # angle, angular velocity
        self.links = np.zeros((len(bodies), len(LINKS), 3))  # centres of mass
        self.contacts = np.zeros((len(bodies), 4))
        self.distances = np.zeros(len(bodies))
        self.observations = np.zeros((len(bodies), 28), np.float32)

    def reset(self, rng: np.random.Generator) -> Float[np.ndarray, "N 28"]:
        """Stand all of them in the air, joints drawn anew from U(-0.1, 0.1); returns the first observation."""
        angles = rng.uniform(-0.1, 0.1, (len(self.clients), 8))
        self.contacts[:] = 0
        for member, (client, model) in enumerate(zip(self.clients, self.models, strict=True)):
            limits = _build(self.engine, client, model, angles[member])
            self._sense(member, client)
        self.middle, self.half = limits.mean(1), (limits[:, 1] - limits[:, 0]) / 2
        self._observe(PARTS - 1)
        return self.observations

    def step(self, actions: Float[np.ndarray, "N 8"]) -> tuple[Float[np.ndarray, "N 28"], Float[np.ndarray, " N"]]:
        """Act for one step; returns observations, whose contacts are of the step before, and progress in m/s."""
        torques, contacts = (TORQUE * np.clip(actions, -1, 1).astype(float)).tolist(), np.zeros_like(self.contacts)
        for member, (client, forces) in enumerate(zip(self.clients, torques, strict=True)):
            self.engine.setJointMotorControlArray(
                ANT, JOINTS, self.engine.TORQUE_CONTROL, forces=forces, physicsClientId=client
            )
            self.engine.stepSimulation(physicsClientId=client)
            self._sense(member, client)
            for contact in self.engine.getContactPoints(ANT, FLOOR, physicsClientId=client):
                if contact[3] in FEET:
                    contacts[member, FEET.index(contact[3])] = 1
        before = self.distances
        self._observe(PARTS)
        self.contacts = contacts
        return self.observations, (before - self.distances) / STEP

    @property
    def heights(self) -> Float[np.ndarray, " N"]:
        """Heights of the torsos in metres."""
        return self.torsos[:, 0, 2]

    def select(self, keep: Bool[np.ndarray, " N"]) -> None:
        """Go on with the kept ones alone."""
        self.idle.extend(client for client, kept in zip(self.clients, keep, strict=True) if not kept)
        self.clients[:] = [client for client, kept in zip(self.clients, keep, strict=True) if kept]
        self.models = [model for model, kept in zip(self.models, keep, strict=True) if kept]
        for name in ("torsos", "joints", "links", "contacts", "distances", "observations"):
            setattr(self, name, getattr(self, name)[keep])

    def posture(self) -> Float[np.ndarray, " 15"]:
        """Position, quaternion (w, x, y, z) and joint angles of the first quadruped, in metres and radians."""
        position, (x, y, z, w) = self.engine.getBasePositionAndOrientation(ANT, physicsClientId=self.clients[0])
        return np.array([*position, w, x, y, z, *self.joints[0, :, 0]])

    def close(self) -> None:
        """End all lives; their simulators serve other herds."""
        self.idle.extend(self.clients)
        self.clients = []

    def _sense(self, member: int, client: int) -> None:
        """Read a member's state from its simulator."""
        position, orientation = self.engine.getBasePositionAndOrientation(ANT, physicsClientId=client)
        velocity, _ = self.engine.getBaseVelocity(ANT, physicsClientId=client)
        self.torsos[member] = position, self.engine.getEulerFromQuaternion(orientation), velocity
        self.links[member] = [link[0] for link in self.engine.getLinkStates(ANT, LINKS, physicsClientId=client)]
        self.joints[member] = [joint[:2] for joint in self.engine.getJointStates(ANT, JOINTS, physicsClientId=client)]

    def _observe(self, parts: int) -> None:
        """What each quadruped senses (28 numbers), cut at 5, and its distance from the target in metres."""
        (vx, vy, vz), (roll, pitch, yaw) = self.torsos[:, 2].T, self.torsos[:, 1].T
        x, y = (self.torsos[:, 0, :2] + self.links[:, :, :2].sum(1)).T / parts
        self.distances, angle = np.hypot(TARGET - x, y), np.arctan2(-y, TARGET - x) - yaw
        forward, left = np.cos(yaw) * vx + np.sin(yaw) * vy, np.cos(yaw) * vy - np.sin(yaw) * vx
        self.observations[:, :8] = np.stack(
            [self.heights - 0.75, np.sin(angle), np.cos(angle), 0.3 * forward, 0.3 * left, 0.3 * vz, roll, pitch], 1
        )
        self.observations[:, 8:24:2] = (self.joints[..., 0] - self.middle) / self.half
        self.observations[:, 9:24:2] = 0.1 * self.joints[..., 1]
        self.observations[:, 24:] = self.contacts
        np.clip(self.observations, -5, 5, out=self.observations)


def _build(pybullet: ModuleType, client: int, model: str, angles: Float[np.ndarray, " 8"]) -> Float[np.ndarray, "8 2"]:
    """Lay the floor and stand a quadruped on nothing, with free joints at some angles; returns the joints' limits."""
    simulator = {"physicsClientId": client}
    pybullet.resetSimulation(**simulator)
    pybullet.setPhysicsEngineParameter(
        fixedTimeStep=STEP,
        numSubSteps=SUBSTEPS,
        numSolverIterations=ITERATIONS,
        deterministicOverlappingPairs=1,
        **simulator,
    )
    pybullet.setGravity(0, 0, -9.8, **simulator)
    pybullet.setDefaultContactERP(0.9, **simulator)
    pybullet.loadSDF(str(Path(pybullet_data.getDataPath(), "plane_stadium.sdf")), **simulator)
    pybullet.changeDynamics(FLOOR, -1, lateralFriction=0.8, restitution=0.5, **simulator)
    flags = pybullet.URDF_USE_SELF_COLLISION | pybullet.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(model)
        file.flush()
        pybullet.loadMJCF(file.name, flags=flags, **simulator)
    for joint, angle in zip(JOINTS, angles, strict=True):
        pybullet.resetJointState(ANT, joint, angle, **simulator)
    pybullet.setJointMotorControlArray(ANT, JOINTS, pybullet.POSITION_CONTROL, forces=[0] * 8, **simulator)
    return np.array([pybullet.getJointInfo(ANT, joint, **simulator)[8:10] for joint in JOINTS])
