"""Evolution of a quadruped that walks on two bodies (sections 3 and 4)."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from papers.hebbian_abcd.config import Walk
from papers.hebbian_abcd.evolution import Genome, birth, evolve, first_genome
from papers.hebbian_abcd.lifetime import Disturbance, Lifetimes, herd_of, live

__all__ = ["lives_of", "sizes_of", "train"]

INPUTS, OUTPUTS = 28, 8
TOGETHER = 100
"""Members that live at once, each of whom takes 28 MB in PyBullet."""


def sizes_of(config: Walk) -> tuple[int, ...]:
    """Neurons of each layer, inputs first."""
    return (INPUTS, *config.hidden, OUTPUTS)


def train(config: Walk, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Evolve one centre."""
    (seed,) = seeds

    def fitness_of(population: Genome, generation: int) -> tuple[Float[np.ndarray, " N"], Mapping[str, float]]:
        """The mean distance over bodies, each with a life of its own."""
        distances, lived = [], 0
        for body in config.bodies:
            lives = lives_of(config, population["plastic"], body, config.steps, (seed, "life", generation, body))
            distances.append(lives.progress.sum(0))
            lived += int(lives.lengths.sum())
        return np.mean(distances, 0), {"steps": float(lived)}

    chunk = 5 if config.engine == "mujoco" else 1  # a generation takes seconds or minutes
    centre = evolve(config, first_genome(config, sizes_of(config), seed), fitness_of, seed, run, chunk)
    return Outcome(
        metrics={"parameters": [centre["plastic"].size]},
        arrays={"histogram": _histogram(config, centre["plastic"])},
        parameters=centre,
    )


def lives_of(
    config: Walk,
    plastic: Float[np.ndarray, "N ..."],
    body: str,
    steps: int,
    stream: tuple[int, *tuple[str | int, ...]],
    *,
    stops: bool = True,
    disturb: Disturbance = lambda step, weights: True,
) -> Lifetimes:
    """A life of every member with a body.

    Arguments:
        stream: Seed and purpose of the streams of birth weights and of poses; poses are the same for all learners.
    """
    births, poses = numpy_rng(*stream, "birth"), numpy_rng(*stream, "pose")
    groups = []
    for start in range(0, len(plastic), TOGETHER):
        group = plastic[start : start + TOGETHER]
        weights, changes = birth(config, group, births)
        herd = herd_of(config.engine, [body] * len(group))
        options = {"normalise": config.normalise, "stops": stops, "disturb": disturb}
        groups.append(live(herd, weights, changes, sizes_of(config), steps, poses, **options))
    return Lifetimes(*(np.concatenate(arrays, -1) for arrays in zip(*groups, strict=True)))


def _histogram(config: Walk, plastic: Float[np.ndarray, "..."]) -> Float[np.ndarray, "1 K 80"]:
    """How many synapses have a coefficient in each of 80 bins from -4 to 4."""
    rows = plastic.reshape(-1, plastic.shape[-1])
    return np.stack([np.histogram(row, 80, (-4, 4))[0] for row in rows])[None]
