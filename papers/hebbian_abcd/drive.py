"""Evolution of a driver that sees: the kernels of its encoder, and rules or weights behind it (sections 3 and 4)."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key, numpy_rng
from papers.hebbian_abcd.config import Drive
from papers.hebbian_abcd.evolution import Genome, birth, evolve, first_genome
from papers.hebbian_abcd.network import CONVOLUTIONS
from papers.hebbian_abcd.racing import Races, race

__all__ = ["first_kernels", "sizes_of", "train"]

FEATURES, OUTPUTS = 648, 3
TOGETHER = 20
"""Members whose weights are held in memory at once."""


def sizes_of(config: Drive) -> tuple[int, ...]:
    """Neurons of each layer behind the encoder."""
    return (FEATURES, *config.hidden, OUTPUTS)


def train(config: Drive, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Evolve one centre and test it on new tracks."""
    (seed,) = seeds

    def fitness_of(population: Genome, generation: int) -> tuple[Float[np.ndarray, " N"], Mapping[str, float]]:
        """The return of one race, each member on a track of its own."""
        races = _races(config, population, numpy_rng(seed, "race", generation))
        return races.returns, {"steps": float(races.lengths.sum())}

    first = first_genome(config, sizes_of(config), seed) | {"kernels": first_kernels(config, seed)}
    centre = evolve(config, first, fitness_of, seed, run)
    tested = {name: np.broadcast_to(part, (config.tracks, *part.shape)) for name, part in centre.items()}
    races = _races(config, tested, numpy_rng(seed, "test"))
    return Outcome(
        metrics={"return": [float(races.returns.mean())], "coefficients": [centre["plastic"].size]},
        arrays={"return": races.returns[None], "frames": races.lengths[None]},
        parameters=centre,
    )


def first_kernels(config: Drive, seed: int) -> Float[jax.Array, "1362"]:
    """Normal kernels, or with static weights kernels as PyTorch draws them (official code)."""
    key = jax_key(seed, "kernels")
    sizes, fans = zip(*((out * into * side**2, into * side**2) for out, into, side, _ in CONVOLUTIONS), strict=True)
    if config.learner == "hebbian":
        return jax.random.normal(key, (sum(sizes),))
    bounds = np.concatenate([np.full(size, 1 / math.sqrt(fan)) for size, fan in zip(sizes, fans, strict=True)])
    return jax.random.uniform(key, (sum(sizes),), minval=-1, maxval=1) * jnp.float32(bounds)


def _races(config: Drive, population: Genome, rng: np.random.Generator) -> Races:
    """One race of every member, on tracks and from birth weights that the stream gives."""
    count = len(population["kernels"])
    tracks = rng.integers(2**31 - 1, size=count)
    parts = []
    for start in range(0, count, TOGETHER):
        chunk = slice(start, start + TOGETHER)
        weights, changes = birth(config, population["plastic"][chunk], rng)
        kernels = np.ascontiguousarray(population["kernels"][chunk])
        parts.append(
            race(kernels, weights, changes, sizes_of(config), tracks[chunk], config.steps, normalise=config.normalise)
        )
    return Races(np.concatenate([part.rewards for part in parts], 1), np.concatenate([part.lengths for part in parts]))
