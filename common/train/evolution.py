"""Evolution strategies in the style of OpenAI-ES: mirrored Gaussian search around a moving centre.

Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning, arXiv 1703.03864.
The centre θ is a pytree of arrays. Generation t draws ε_1 ... ε_{N/2} ~ N(0, I) and tries θ + σ ε_i and
θ - σ ε_i; with shaped fitness u (higher is better) the estimated gradient of the expected fitness is

    g = 1 / (N σ) Σ_i u_i ε_i        over all N members, ε_{i + N/2} = -ε_i

    es = OpenES(population=200, optimiser=optax.identity())
    params = Params(sigma=0.1, lr=0.2, sigma_decay=0.999, sigma_min=0.01, lr_decay=0.995, lr_min=0.001)
    state = es.init(key, centre, params)

    def step(state, index):  # for common.train.jax.scan_train
        population = es.ask(state)
        fitness = jax.vmap(evaluate)(population)
        return es.tell(state, fitness, params), {"fitness": fitness.mean()}

Everything is pure and may be jitted, scanned, and mapped over seeds (`init` over keys) or over settings
(`Params`). Where the two members of a pair should meet the same task, index tasks by `i % (N // 2)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from common.errors import RefigureError

__all__ = ["OpenES", "Params", "State", "centred_ranks", "raw", "standardised_ranks"]


def raw(fitness: jax.Array) -> jax.Array:
    """The fitness itself, (N,) -> (N,): g is then the plain estimate (VSML, which passes minus the loss)."""
    return fitness


def centred_ranks(fitness: jax.Array) -> jax.Array:
    """Ranks scaled to [-0.5, 0.5], (N,) -> (N,); equals share their mean rank, NaN counts as the worst."""
    ranks = jax.scipy.stats.rankdata(jnp.where(jnp.isnan(fitness), -jnp.inf, fitness)) - 1
    return ranks / (fitness.shape[0] - 1) - 0.5


def standardised_ranks(fitness: jax.Array) -> jax.Array:
    """Centred ranks over their standard deviation, (N,) -> (N,) (Hebbian ABCD); zeros where all are equal."""
    ranks = centred_ranks(fitness)
    deviation = ranks.std()
    return jnp.where(deviation > 0, ranks / jnp.where(deviation > 0, deviation, 1), 0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Params:
    """Settings that may differ between members of a `vmap`. σ and lr shrink while above their minimum."""

    sigma: jax.Array | float
    """Standard deviation σ of the search at the start, in units of the centre."""
    lr: jax.Array | float
    """Learning rate at the start, multiplying what the optimiser proposes."""
    sigma_decay: jax.Array | float = 1.0
    """Factor on σ after each generation."""
    sigma_min: jax.Array | float = 0.0
    """σ is multiplied no more once it is at or below this."""
    lr_decay: jax.Array | float = 1.0
    """Factor on the learning rate after each generation."""
    lr_min: jax.Array | float = 0.0
    """The learning rate is multiplied no more once it is at or below this."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """What one generation leaves to the next."""

    centre: Any
    """θ, the pytree of arrays that is evolved."""
    opt_state: optax.OptState
    sigma: jax.Array
    lr: jax.Array
    generation: jax.Array
    """Generations told so far, int32."""
    key: jax.Array
    """The search's own key; a generation's noise is this key folded with its number."""


@dataclass(frozen=True)
class OpenES:
    """The strategy's fixed part. Raises RefigureError for an odd or too small population."""

    population: int
    """N, the number of members: N/2 mirrored pairs."""
    optimiser: optax.GradientTransformation = field(default_factory=optax.identity)
    """What the estimated gradient passes through, without a learning rate: `optax.identity()` is plain SGD,
    `optax.scale_by_adam()` Adam."""
    shape: Callable[[jax.Array], jax.Array] = centred_ranks
    """Fitness shaping, (N,) -> (N,)."""

    def __post_init__(self) -> None:
        if self.population < 2 or self.population % 2:
            raise RefigureError(f"a mirrored population is an even number from 2 up, not {self.population}")

    def init(self, key: jax.Array, centre: Any, params: Params) -> State:
        """The state before the first generation."""
        sigma, lr = jnp.asarray(params.sigma, jnp.float32), jnp.asarray(params.lr, jnp.float32)
        return State(centre, self.optimiser.init(centre), sigma, lr, jnp.int32(0), key)

    def ask(self, state: State) -> Any:
        """The population: the centre's pytree, each array with a leading axis N; member i + N/2 mirrors i."""

        def mirror(centre: jax.Array, noise: jax.Array) -> jax.Array:
            offset = (state.sigma * noise).astype(centre.dtype)
            return jnp.concatenate([centre + offset, centre - offset])

        return jax.tree.map(mirror, state.centre, self.noise(state))

    def tell(self, state: State, fitness: jax.Array, params: Params) -> State:
        """The state after this generation's `fitness`, (N,) in the order of `ask`, higher is better.

        The move uses the σ and the learning rate of this generation; both shrink afterwards.
        """
        shaped = self.shape(fitness)
        half = self.population // 2
        weights = (shaped[:half] - shaped[half:]) / (self.population * state.sigma)
        ascent = jax.tree.map(
            lambda centre, noise: jnp.tensordot(weights, noise, axes=1).astype(centre.dtype),
            state.centre,
            self.noise(state),
        )
        descent = jax.tree.map(jnp.negative, ascent)  # optax minimises
        proposal, opt_state = self.optimiser.update(descent, state.opt_state, state.centre)
        updates = jax.tree.map(lambda update: (-state.lr * update).astype(update.dtype), proposal)
        return replace(
            state,
            centre=optax.apply_updates(state.centre, updates),
            opt_state=opt_state,
            sigma=jnp.where(state.sigma > params.sigma_min, state.sigma * params.sigma_decay, state.sigma),
            lr=jnp.where(state.lr > params.lr_min, state.lr * params.lr_decay, state.lr),
            generation=state.generation + 1,
        )

    def noise(self, state: State) -> Any:
        """This generation's ε of the first half: the centre's pytree with a leading axis N/2, float32.

        Drawn anew by `ask` and `tell` from the key instead of being kept between them.
        """
        key = jax.random.fold_in(state.key, state.generation)
        leaves, structure = jax.tree.flatten(state.centre)
        drawn = [
            jax.random.normal(jax.random.fold_in(key, i), (self.population // 2, *leaf.shape))
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, drawn)
