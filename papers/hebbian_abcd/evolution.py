"""Evolution of plastic or static networks by mirrored search around a centre (section 3.3), for any task."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from common.train.evolution import OpenES, Params, standardised_ranks
from common.train.loop import drive
from common.train.recorder import Recorder
from common.train.seeding import jax_key
from common.train.trees import flatten_jax, unflatten_jax
from papers.hebbian_abcd.config import Evolution
from papers.hebbian_abcd.plasticity import RULES

__all__ = ["DECAYS", "Genome", "birth", "evolve", "first_genome", "mean_square", "products", "strategy"]

Genome = Mapping[str, Float[np.ndarray, "..."]]
"""What is evolved: `plastic`, the coefficients (K, S) or static weights (S,) of S synapses; drivers have `kernels`."""
DECAYS = {"lr_decay": 0.995, "lr_min": 0.001, "sigma_decay": 0.999, "sigma_min": 0.01}
"""How learning rate and deviation shrink (official code)."""


def strategy(population: int) -> OpenES:
    """The evolution strategy: standardised ranks, plain gradient ascent.

    The official code moves the kernels after learning rate and sigma have shrunk, the coefficients before.
    """
    late = optax.masked(
        optax.scale(DECAYS["lr_decay"] / DECAYS["sigma_decay"]), lambda tree: {k: k == "kernels" for k in tree}
    )
    return OpenES(population, late, standardised_ranks)


def evolve(
    config: Evolution,
    first: Genome,
    fitness_of: Callable[[Genome, int], tuple[Float[np.ndarray, " N"], Mapping[str, float]]],
    seed: int,
    run: Recorder,
    chunk: int = 1,
) -> dict[str, np.ndarray]:
    """The centre after all generations.

    Arguments:
        first: The first centre.
        fitness_of: From a population, arrays with a leading axis N, and the generation's number to the members' fitness
            before the penalty, not finite where a simulator failed, and to what is logged.
        chunk: Generations between two lines of the metrics stream.
    """
    search, params = strategy(config.population), Params(config.sigma, config.rate, **DECAYS)
    state = search.init(jax_key(seed, "search"), {name: jnp.asarray(part) for name, part in first.items()}, params)
    ask, tell = jax.jit(search.ask), jax.jit(lambda state, fitness: search.tell(state, fitness, params))

    def advance(_stage: int, done: int, generations: int) -> Mapping[str, np.ndarray]:
        nonlocal state
        lines = []
        for generation in range(done, done + generations):
            population = {name: np.asarray(part) for name, part in ask(state).items()}
            fitness, metrics = fitness_of(population, generation)
            finite = np.isfinite(fitness)
            fitness = np.where(finite, fitness, -np.inf)  # the worst
            state = tell(state, jnp.asarray(fitness - config.penalty * mean_square(population["plastic"])))
            lines.append({"fitness": float(fitness[finite].mean()), "best": float(fitness.max()), **metrics})
        return {name: np.array([line[name] for line in lines]) for name in lines[0]}

    def restore(flat: Mapping[str, np.ndarray]) -> None:
        nonlocal state
        state = unflatten_jax(state, flat)

    drive(advance, lambda: flatten_jax(state), restore, stages=[config.generations], chunk=chunk, recorder=run)
    return {name: np.asarray(part) for name, part in state.centre.items()}


def mean_square(plastic: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, " N"]:
    """What members are fined for: the mean square of all that is plastic."""
    return np.square(plastic.reshape(len(plastic), -1)).mean(1)


def first_genome(config: Evolution, sizes: Sequence[int], seed: int) -> dict[str, jax.Array]:
    """Normal coefficients, or weights as PyTorch draws them: U(-1, 1) over the root of the number of inputs."""
    key = jax_key(seed, "centre")
    fans = np.concatenate([np.full(n * m, n) for n, m in itertools.pairwise(sizes)])
    if config.learner == "hebbian":
        return {"plastic": config.spread * jax.random.normal(key, (len(RULES[config.rule]), len(fans)))}
    return {"plastic": jax.random.uniform(key, (len(fans),), minval=-1, maxval=1) / jnp.sqrt(jnp.float32(fans))}


def products(rule: str, plastic: Float[np.ndarray, "... K S"]) -> Float[np.ndarray, "... 4 S"]:
    """eta A, eta B, eta C, and all that is added in any case: what a rule does depends on these alone."""
    k = dict(zip(RULES[rule], np.moveaxis(plastic, -2, 0), strict=True))
    eta, zero = k.get("eta", np.float32(1)), np.zeros_like(k["a"])
    changes = [eta * k.get(name, zero) for name in "abcd"]
    changes[3] = changes[3] + k.get("outside", np.float32(0))
    return np.stack(changes, -2)


def birth(
    config: Evolution, plastic: Float[np.ndarray, "N ..."], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "N S"], Float[np.ndarray, "N 4 S"] | None]:
    """Weights at birth, and the products that change them; None where weights are static."""
    if config.learner == "static":
        return plastic.copy(), None
    weights = rng.uniform(-config.birth, config.birth, (len(plastic), plastic.shape[-1])).astype(np.float32)
    return weights, products(config.rule, plastic)
