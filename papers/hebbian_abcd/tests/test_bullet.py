"""The paper's quadruped in PyBullet: masses, symmetry, settling, progress, and that each member lives alone."""

import sys

import numpy as np
import pytest

from common.errors import RefigureError
from papers.hebbian_abcd import bullet
from papers.hebbian_abcd.body import STEP
from papers.hebbian_abcd.bullet import ANT, JOINTS, LINKS, BulletHerd, ant

pybullet = pytest.importorskip("pybullet")


class Given:
    """Stands in for a generator that draws these angles."""

    def __init__(self, angles):
        self.angles = angles

    def uniform(self, low, high, shape):
        return self.angles.reshape(shape)


def stood(bodies, seed=0):
    herd = BulletHerd(bodies)
    herd.reset(np.random.default_rng(seed))
    return herd


def walk(herd, actions):
    """Observations and speeds of each step."""
    steps = [[array.copy() for array in herd.step(action)] for action in actions]
    return tuple(np.array(arrays) for arrays in zip(*steps, strict=True))


def mirrored(joints):
    """What is left and right exchanged: legs 1 and 4, 2 and 3, and which way hips turn."""
    return (joints.reshape(-1, 4, 2)[:, ::-1] * (-1, 1)).reshape(joints.shape)


def actions_of(members, steps, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, members, 8)).astype(np.float32)


def masses(client):
    return np.array([pybullet.getDynamicsInfo(ANT, link, physicsClientId=client)[0] for link in (-1, *LINKS)])


def test_masses_are_the_packages_and_a_damaged_foot_is_a_shorter_capsule():
    herd = stood(["standard", "right", "left"])
    whole, right, left = (masses(client) for client in herd.clients)
    assert whole.sum() == pytest.approx(182.2, abs=0.05)
    assert sorted(set(np.round(whole, 2))) == [0, 7.83, 13.52, 65.45]
    # density 1,000: a cylinder of radius 0.08 m, shorter by (0.4 - 0.1) times the root of 2
    lost = 1000 * np.pi * 0.08**2 * 0.3 * 2**0.5
    assert (whole - right)[1 + bullet.FEET[3]] == pytest.approx(lost, rel=1e-5)
    assert (whole - left)[1 + bullet.FEET[0]] == pytest.approx(lost, rel=1e-5)
    assert (whole != right).sum() == (whole != left).sum() == 1


def test_the_damaged_bodies_are_mirror_images():
    # within the joints' limits, in the air: limits and contacts are solved one after another, which is not symmetric
    angles = np.array([0, 1, 0, -1, 0, -1, 0, 1]) + np.random.default_rng(0).uniform(-0.1, 0.1, 8)
    herd = BulletHerd(["right", "left"])
    herd.reset(Given(np.stack([angles, mirrored(angles)])))
    actions = 0.2 * actions_of(1, 10)[:, 0]
    observations, speeds = walk(herd, np.stack([actions, mirrored(actions)], 1))
    assert not observations[..., 24:].any()
    right, left = observations[:, 0].copy(), observations[:, 1]
    right[:, [1, 4, 6]] *= -1
    right[:, 8:24:2], right[:, 9:24:2] = mirrored(right[:, 8:24:2]), mirrored(right[:, 9:24:2])
    np.testing.assert_allclose(right, left, atol=1e-6)
    np.testing.assert_allclose(speeds[:, 0], speeds[:, 1], atol=1e-6)
    assert np.abs(left[:, 9:24:2]).max() > 0.1


def test_it_falls_freely_and_settles_on_its_belly():
    herd = stood(["standard", "right", "left"])
    heights = []
    for _ in range(40):
        herd.step(np.zeros((3, 8)))
        heights.append(herd.heights.copy())
    tick = STEP / bullet.SUBSTEPS
    assert heights[0] == pytest.approx(0.75 - 9.8 * tick**2 * 10, abs=3e-4)  # 10 = 1 + 2 + 3 + 4: semi-implicit Euler
    assert heights[-1] == pytest.approx(0.25, abs=0.06)  # the torso's radius
    assert herd.observations[0, 24:].any()


def test_progress_is_the_decrease_of_the_mean_parts_distance_from_the_target():
    herd = stood(["standard"])
    (client,) = herd.clients

    def distance():
        parts = [pybullet.getLinkState(ANT, link, physicsClientId=client)[0] for link in LINKS]
        parts += [pybullet.getBasePositionAndOrientation(ANT, physicsClientId=client)[0], (0, 0, 0)]
        return np.linalg.norm(np.mean(parts, 0)[:2] - (1000, 0))

    herd.step(np.zeros((1, 8)))  # the floor counts as a part from here on
    before = distance()
    for action in actions_of(1, 30):
        _, speed = herd.step(action)
        after = distance()
        assert speed[0] == pytest.approx((before - after) / STEP, abs=1e-8)
        before = after
    assert abs(speed[0]) > 1e-3


def test_observations_hold_the_joints_between_their_limits():
    herd = stood(["standard"])
    observation = herd.observations[0].copy()
    joints = [pybullet.getJointInfo(ANT, joint, physicsClientId=herd.clients[0]) for joint in JOINTS]
    assert [joint[1] for joint in joints] == [
        b"%b_%d" % (kind, leg) for leg in range(1, 5) for kind in (b"hip", b"ankle")
    ]
    angles = np.random.default_rng(0).uniform(-0.1, 0.1, 8)
    scaled = [np.interp(angle, *[(j[8], j[9]), (-1, 1)]) for angle, j in zip(angles, joints, strict=True)]
    np.testing.assert_allclose(observation[8:24:4], scaled[::2], atol=1e-6)
    assert (np.abs(observation[10:24:4]) > 1).all()  # ankles start outside their limits
    np.testing.assert_allclose(observation[:8], [0, 0, 1, 0, 0, 0, 0, 0], atol=1e-5)


def test_the_same_generator_gives_the_same_lives_in_a_used_simulator_too():
    actions = actions_of(2, 60)
    herd = stood(["standard", "right"])
    first = walk(herd, actions)
    herd.reset(np.random.default_rng(0))
    again = walk(herd, actions)
    del herd
    for lives in (again, walk(stood(["standard", "right"]), actions)):
        for expected, got in zip(first, lives, strict=True):
            np.testing.assert_array_equal(expected, got)


def test_the_others_go_on_as_they_would_have():
    bodies, keep = ["standard", "right", "left", "standard"], np.array([True, False, True, True])
    actions = actions_of(4, 70)
    observations, speeds = walk(stood(bodies), actions)
    herd = stood(bodies)
    walk(herd, actions[:50])
    herd.select(keep)
    np.testing.assert_array_equal(herd.observations, observations[49, keep])
    bystander = stood(["left"])  # takes over the simulator that became free
    bystander.step(actions[0, :1])
    later, later_speeds = walk(herd, actions[50:, keep])
    np.testing.assert_array_equal(later, observations[50:, keep])
    np.testing.assert_array_equal(later_speeds, speeds[50:, keep])
    assert len(herd.heights) == 3


def test_faults_are_one_line(monkeypatch):
    with pytest.raises(RefigureError, match="no body 'centaur'; there are standard, right, left"):
        BulletHerd(["centaur"])
    with pytest.raises(RefigureError, match="legs 1 to 4, not 5"):
        ant({5: 0.1})
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(RefigureError, match="pip install pybullet"):
        BulletHerd(["standard"])
