"""The quadruped in MuJoCo: masses, symmetry, progress; lives end as the official code ends them."""

import numpy as np
import pytest

from common.errors import RefigureError
from papers.hebbian_abcd import lifetime
from papers.hebbian_abcd.body import BODIES, STEP
from papers.hebbian_abcd.figures import capsules
from papers.hebbian_abcd.lifetime import SHELTERED, live
from papers.hebbian_abcd.quadruped import Herd, body

mujoco = pytest.importorskip("mujoco")
FLIPPED = {1: -1, 4: -1, 6: -1}
"""Signs of an observation in a mirror: of the angle's sine, of the sideways speed and of roll."""


def walked(bodies: list[str], joints: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observations and speeds from given joint angles under given actions (T, N, 8)."""
    herd = Herd(bodies)
    herd.reset(np.random.default_rng(0))
    herd.state[:, 0, 8:16] = joints
    steps = [[array.copy() for array in herd.step(action)] for action in actions]
    return tuple(np.array(arrays) for arrays in zip(*steps, strict=True))


def mirrored(joints: np.ndarray) -> np.ndarray:
    """Legs 1 and 4, 2 and 3 exchanged, and which way hips turn."""
    return (joints.reshape(-1, 4, 2)[:, ::-1] * (-1, 1)).reshape(joints.shape)


def test_masses_are_those_of_the_package() -> None:
    model = mujoco.MjModel.from_xml_string(body({}))
    assert model.body_mass.sum() == pytest.approx(182.2, abs=0.05)
    damaged = mujoco.MjModel.from_xml_string(body(BODIES["right"]))
    lost = 1000 * np.pi * 0.08**2 * 0.3 * 2**0.5  # density 1,000; a cylinder of radius 0.08 m, shorter by 0.3 root 2
    assert model.body_mass.sum() - damaged.body_mass.sum() == pytest.approx(lost)


def test_left_and_right_are_mirror_images() -> None:
    rng = np.random.default_rng(1)
    joints, actions = rng.uniform(-0.1, 0.1, (1, 8)), rng.uniform(-1, 1, (40, 1, 8))
    right, speed = walked(["right"], joints, actions)
    left, same = walked(["left"], mirrored(joints), mirrored(actions))
    expected = right.copy()
    for place, sign in FLIPPED.items():
        expected[..., place] *= sign
    legs = expected[..., 8:24].reshape(-1, 4, 2, 2)[:, ::-1].copy()
    legs[:, :, 0] *= -1  # hips
    expected[..., 8:24] = legs.reshape(-1, 1, 16)
    expected[..., 24:] = expected[..., :23:-1]
    np.testing.assert_allclose(left, expected, rtol=0, atol=2e-3)
    np.testing.assert_allclose(same, speed, rtol=0, atol=2e-2)


def test_progress_adds_up_to_the_way_of_the_centre_of_mass() -> None:
    herd = Herd(["standard"])
    herd.reset(np.random.default_rng(0))
    rng, total = np.random.default_rng(1), 0.0
    herd.step(np.zeros((1, 8), np.float32))
    start = herd.sensors[0, -1, 4]
    for _ in range(30):
        total += herd.step(rng.uniform(-1, 1, (1, 8)).astype(np.float32))[1][0]
    assert total * STEP == pytest.approx(herd.sensors[0, -1, 4] - start, abs=1e-9)


def test_a_member_lives_as_it_would_alone() -> None:
    rng = np.random.default_rng(2)
    joints, actions = rng.uniform(-0.1, 0.1, (3, 8)), rng.uniform(-1, 1, (30, 3, 8))
    together = walked(["standard", "right", "left"], joints, actions)[0]
    for member, name in enumerate(["standard", "right", "left"]):
        alone = walked([name], joints[member : member + 1], actions[:, member : member + 1])[0]
        assert (alone[:, 0] == together[:, member]).all()


def test_a_picture_has_the_limbs_of_the_simulator() -> None:
    herd = Herd(["standard"])
    herd.reset(np.random.default_rng(0))
    for action in np.random.default_rng(1).uniform(-1, 1, (30, 1, 8)):
        herd.step(action)
    posture = herd.posture()
    model, data = herd.models[0], mujoco.MjData(herd.models[0])
    data.qpos[:] = posture
    mujoco.mj_kinematics(model, data)
    limbs = model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE
    middles = (capsules(posture).mean(1) + posture[:3]).reshape(4, 3, 3)  # of stub, hip and foot of each leg
    middles = np.concatenate([middles[:, 0], middles[:, 1:].reshape(8, 3)])  # the simulator has all stubs first
    np.testing.assert_allclose(middles, data.geom_xpos[limbs], rtol=0, atol=1e-6)


class Path:
    """Stands in for a herd: torsos of given heights, given speeds of each step."""

    def __init__(self, heights: list[float], speeds: np.ndarray) -> None:
        self.heights, self.speeds, self.steps = np.array(heights), speeds, -lifetime.SETTLING
        self.observations = np.zeros((len(heights), 28), np.float32)

    def reset(self, rng: np.random.Generator) -> np.ndarray:
        return self.observations

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        speeds = self.speeds[max(self.steps, 0)]
        self.steps += 1
        return self.observations, speeds

    def select(self, keep: np.ndarray) -> None:
        self.heights, self.speeds, self.observations = self.heights[keep], self.speeds[:, keep], self.observations[keep]

    def close(self) -> None:
        pass


def test_lives_end_after_a_fall_or_a_walk_backwards_but_not_in_the_first_201_steps() -> None:
    speeds = np.ones((260, 4), np.float32)
    speeds[210:, 1] = -1
    speeds[225, 1] = 1  # not in a row
    speeds[:, 2] = -1  # steps of the shelter do not count
    heights = [0.2, 0.7, 0.7, 0.7]
    weights = np.zeros((4, 28 * 8), np.float32)
    lives = live(Path(heights, speeds), weights, None, (28, 8), 260, np.random.default_rng(0))
    allowed = lifetime.BACKWARDS + 1
    assert lives.lengths.tolist() == [SHELTERED + 1, 226 + allowed, SHELTERED + allowed, 260]
    for member, length in enumerate(lives.lengths):
        assert (lives.progress[:length, member] == speeds[:length, member]).all()
        assert (lives.progress[length:, member] == 0).all()
    whole = live(Path(heights, speeds), weights, None, (28, 8), 260, np.random.default_rng(0), stops=False)
    assert (whole.lengths == 260).all()


def test_an_unknown_leg_or_body_is_refused() -> None:
    with pytest.raises(RefigureError, match="legs 1 to 4, not 5"):
        body({5: 0.1})
    with pytest.raises(RefigureError, match="no body 'hind'"):
        Herd(["hind"])
