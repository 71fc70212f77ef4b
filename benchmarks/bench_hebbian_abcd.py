"""Speed of Hebbian ABCD: steps of agents that see, act and learn, and the parts of a step.

python benchmarks/bench_hebbian_abcd.py [--repeats N] [--json FILE]
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from measure import Row, cpu_seconds, main, per

from papers.hebbian_abcd.config import Drive, Walk
from papers.hebbian_abcd.drive import sizes_of as sizes_of_driver
from papers.hebbian_abcd.evolution import birth
from papers.hebbian_abcd.fast_plasticity import live_step
from papers.hebbian_abcd.lifetime import SETTLING, herd_of, live
from papers.hebbian_abcd.racing import race
from papers.hebbian_abcd.walk import sizes_of as sizes_of_walker

MEMBERS, STEPS = 100, 960
SYNAPSE = 9
"""Operations of a synapse in a step: w x summed, and (A x + C) y + (B x + D) added."""


def synapses(sizes: tuple[int, ...]) -> int:
    """Weights of a network."""
    return sum(math.prod(pair) for pair in pairwise(sizes))


def population(config: Walk | Drive, members: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Weights at birth, and what changes them, of random members."""
    rng = np.random.default_rng(0)
    shape = (members, 5, synapses(sizes)) if config.learner == "hebbian" else (members, synapses(sizes))
    return birth(config, rng.standard_normal(shape, np.float32), rng)


def lives(name: str, config: Walk, members: int, repeats: int, reference: str) -> Row:
    """Lives of a population with what stands around them: making the bodies, reset, settling, observation."""
    sizes = sizes_of_walker(config)
    weights, changes = population(config, members, sizes)

    def all_lives() -> None:
        herd = herd_of(config.engine, ["standard"] * members)
        live(herd, weights.copy(), changes, sizes, STEPS, np.random.default_rng(0), stops=False)

    all_lives()
    count = members * (STEPS + SETTLING)  # as the official code counts them
    return Row(name, "agent-step", per(cpu_seconds(all_lives, repeats), count), None, reference)


def physics(config: Walk, members: int, repeats: int, reference: str) -> Row:
    """The body alone, under random actions."""
    herd, rng = herd_of(config.engine, ["standard"] * members), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (STEPS, members, 8)).astype(np.float32)
    herd.reset(rng)

    def all_steps() -> None:
        for action in actions:
            herd.step(action)

    name = f"body and senses alone, {'MuJoCo' if config.engine == 'mujoco' else 'PyBullet'}"
    return Row(name, "agent-step", per(cpu_seconds(all_steps, repeats), members * STEPS), None, reference)


def plasticity(
    name: str, config: Walk | Drive, sizes: tuple[int, ...], members: int, repeats: int, reference: str
) -> Row:
    """The network alone: forward, and every synapse changed."""
    weights, changes = population(config, members, sizes)
    x = np.random.default_rng(0).standard_normal((members, sizes[0]), np.float32)
    scales, actions = np.ones((members, len(sizes) - 1), np.float32), np.empty((members, sizes[-1]), np.float32)
    layers = np.array(sizes)

    def steps() -> None:
        for _ in range(20):
            live_step(weights, scales, changes, x, layers, False, config.normalise, actions)

    steps()
    return Row(name, "agent-step", per(cpu_seconds(steps, repeats), 20 * members), SYNAPSE * synapses(sizes), reference)


def races(config: Drive, members: int, repeats: int) -> Row:
    """Races from birth to a frame limit."""
    sizes = sizes_of_driver(config)
    weights, changes = population(config, members, sizes)
    kernels = np.random.default_rng(1).standard_normal((members, 1362), np.float32)

    def all_races() -> None:
        race(kernels, weights.copy(), changes, sizes, range(members), 100, patience=100)

    all_races()
    return Row(
        "CarRacing: picture, encoder, network, rule",
        "frame",
        per(cpu_seconds(all_races, repeats), 100 * members),
        None,
        "",
    )


def rows(repeats: int) -> Iterator[Row]:
    """Whole steps in both simulators, their parts, and frames of the car."""
    hebbian = Walk(engine="mujoco")
    yield lives("quadruped in MuJoCo, Hebbian", hebbian, MEMBERS, repeats, "life")
    yield lives("quadruped in MuJoCo, static weights", Walk(engine="mujoco", learner="static"), MEMBERS, repeats, "")
    yield lives("quadruped in PyBullet, Hebbian", Walk(), 20, repeats, "life")
    yield physics(hebbian, MEMBERS, repeats, "body")
    yield physics(Walk(), 20, repeats, "body")
    yield plasticity(
        "network and rule alone, 12,288 synapses", hebbian, sizes_of_walker(hebbian), MEMBERS, repeats, "rule"
    )
    yield plasticity("network and rule alone, 91,328 synapses", Drive(), sizes_of_driver(Drive()), 1, repeats, "")
    yield races(Drive(), 4, repeats)


if __name__ == "__main__":
    main("hebbian_abcd", lambda repeats: list(rows(repeats)))
