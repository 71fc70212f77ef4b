"""Evolution of plastic or static networks that walk, by mirrored search around a centre (section 3.3)."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from common.train.evolution import OpenES, Params, State, standardised_ranks
from common.train.loop import drive
from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key, numpy_rng
from common.train.trees import flatten_jax, unflatten_jax
from papers.hebbian_abcd.config import Evolve
from papers.hebbian_abcd.lifetime import live
from papers.hebbian_abcd.plasticity import RULES

__all__ = ["birth", "sizes_of", "train"]

INPUTS, OUTPUTS = 28, 8
CHUNK = 5
"""Generations between two lines of the metrics stream."""


def sizes_of(config: Evolve) -> tuple[int, ...]:
    """Neurons of each layer, inputs first."""
    return (INPUTS, *config.hidden, OUTPUTS)


def train(config: Evolve, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Evolve one centre; seeds are runs of their own."""
    (seed,) = seeds
    strategy = OpenES(config.population, shape=standardised_ranks)
    settings = Params(config.rate, config.sigma, 0, 0)
    settings = Params(
        sigma=config.sigma, lr=config.rate, sigma_decay=0.999, sigma_min=0.01, lr_decay=0.995, lr_min=0.001
    )
    state = strategy.init(jax_key(seed, "search"), _first(config, seed), settings)
    ask = jax.jit(strategy.ask)
    tell = jax.jit(lambda state, fitness: strategy.tell(state, fitness, settings))

    def advance(_: int, done: int, generations: int) -> Mapping[str, np.ndarray]:
        nonlocal state
        lines = []
        for generation in range(done, done + generations):
            fitness, metrics = _evaluate(config, np.asarray(ask(state)), seed, generation)
            state = tell(state, jnp.asarray(fitness))
            lines.append(metrics)
        return {name: np.array([line[name] for line in lines]) for name in lines[0]}

    def restore(flat: Mapping[str, np.ndarray]) -> None:
        nonlocal state
        state = unflatten_jax(state, flat)

    drive(
        advance, lambda: flatten_jax(state), restore, stages=[config.generations], chunk=CHUNK, recorder=run
    )  # fmt: skip
    return Outcome(metrics={"parameters": [state.centre.size]}, parameters={"centre": np.asarray(state.centre)})


def _first(config: Evolve, seed: int) -> jax.Array:
    """The first centre: normal coefficients, or weights as PyTorch draws them."""
    key, sizes = jax_key(seed, "centre"), sizes_of(config)
    count = sum(math.prod(pair) for pair in zip(sizes[:-1], sizes[1:], strict=True))
    if config.learner == "hebbian":
        return config.spread * jax.random.normal(key, (len(RULES[config.rule]), count))
    widths = np.concatenate([np.full(n * m, n**-0.5) for n, m in zip(sizes[:-1], sizes[1:], strict=True)])
    return jax.random.uniform(key, (count,), minval=-1, maxval=1) * jnp.asarray(widths, jnp.float32)


def birth(
    config: Evolve, evolved: Float[np.ndarray, "N ..."], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "N S"], Float[np.ndarray, "N 4 S"]]:
    """Weights at birth and what changes them: eta A, eta B, eta C, and all that is added whatever happens."""
    if config.learner == "static":
        return evolved.copy(), np.zeros((len(evolved), 4, evolved.shape[-1]), np.float32)
    k = dict(zip(RULES[config.rule], evolved.swapaxes(0, 1), strict=True))
    eta = k.get("eta", np.float32(1))
    zero = np.zeros_like(k["a"])
    changes = [eta * k.get(name, zero) for name in "abcd"]
    changes[3] = changes[3] + k.get("outside", np.float32(0))
    weights = rng.uniform(-config.birth, config.birth, (len(evolved), evolved.shape[-1])).astype(np.float32)
    return weights, np.stack(changes, 1)


def _evaluate(
    config: Evolve, population: np.ndarray, seed: int, generation: int
) -> tuple[Float[np.ndarray, " N"], dict[str, float]]:
    """Fitness of each member, the mean over bodies, each with a life of its own; and what is logged."""
    walked, lived = [], 0
    for body in config.bodies:
        rng = numpy_rng(seed, "life", generation, body)
        weights, changes = birth(config, population, rng)
        lives = live([body] * len(population), weights, changes, sizes_of(config), config.steps, rng)
        walked.append(lives.progress.sum(0))
        lived += int(lives.lengths.sum())
    distance = np.mean(walked, 0)
    size = (population.reshape(len(population), -1) ** 2).mean(1)
    metrics = {"distance": float(distance.mean()), "best": float(distance.max()), "steps": float(lived)}
    return distance - config.penalty * size, metrics
