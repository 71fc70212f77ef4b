"""The evolution strategy against theory and against evosax's Open_ES where the settings coincide."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.errors import RefigureError
from common.train.evolution import OpenES, Params, State, centred_ranks, raw, standardised_ranks

KEY = jax.random.key(0)
CENTRE = {"w": jnp.array([[0.3, -1.0], [2.0, 0.5]]), "b": jnp.array([0.1])}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def gradient(es: OpenES, state: State, fitness: jax.Array) -> np.ndarray:
    """What the strategy believes the fitness gradient is: its move with plain SGD and lr 1."""
    told = es.tell(state, fitness, Params(sigma=1.0, lr=1.0))
    return flat(told.centre) - flat(state.centre)


def test_members_are_mirrored_and_have_the_asked_spread() -> None:
    es = OpenES(population=2000)
    state = es.init(KEY, CENTRE, Params(sigma=0.2, lr=1.0))
    population = es.ask(state)
    assert population["w"].shape == (2000, 2, 2)
    for name, centre in CENTRE.items():
        offsets = population[name] - centre
        np.testing.assert_allclose(offsets[:1000], -offsets[1000:], atol=1e-6)
        assert np.std(offsets) == pytest.approx(0.2, rel=0.05)
    later = es.ask(es.tell(state, jnp.zeros(2000), Params(sigma=0.2, lr=1.0)))
    correlation = np.corrcoef(np.ravel(later["w"] - CENTRE["w"]), np.ravel(population["w"] - CENTRE["w"]))
    assert abs(correlation[0, 1]) < 0.05  # each generation draws anew


def test_estimate_is_the_gradient_of_a_linear_fitness() -> None:
    """E[1/(N σ) Σ F ε] = ∇F for F = g.θ, whatever σ."""
    slope = jax.tree.map(lambda x: jnp.cos(3 * x), CENTRE)
    for sigma in (0.05, 1.0):
        es = OpenES(population=40_000, shape=raw)
        state = es.init(KEY, CENTRE, Params(sigma=sigma, lr=1.0))
        members = jax.vmap(lambda member: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slope, member))))(es.ask(state))
        np.testing.assert_allclose(gradient(es, state, members), flat(slope), atol=0.05)


@pytest.mark.parametrize("shape", [raw, centred_ranks])
def test_an_even_fitness_moves_nothing(shape: Callable[[jax.Array], jax.Array]) -> None:
    """Mirrored pairs cancel exactly where F(θ + δ) = F(θ - δ)."""
    es = OpenES(population=50, shape=shape)
    state = es.init(KEY, jnp.zeros(4), Params(sigma=0.1, lr=1.0))
    fitness = jnp.sum(es.ask(state) ** 2, axis=1)
    np.testing.assert_array_equal(gradient(es, state, fitness), 0)


def test_ranks() -> None:
    fitness = jnp.array([3.0, jnp.nan, 10.0, -2.0, 3.0])
    np.testing.assert_allclose(centred_ranks(fitness), [0.125, -0.5, 0.5, -0.25, 0.125])
    monotone = jnp.exp(fitness / 5) + 7
    np.testing.assert_array_equal(centred_ranks(fitness), centred_ranks(monotone))
    shaped = standardised_ranks(fitness)
    assert (float(shaped.mean()), float(shaped.std())) == pytest.approx((0, 1), abs=1e-6)
    np.testing.assert_array_equal(standardised_ranks(jnp.ones(4)), 0)
    np.testing.assert_array_equal(raw(fitness), fitness)


def test_sigma_and_learning_rate_shrink_until_below_their_minimum() -> None:
    params = Params(sigma=0.1, lr=0.2, sigma_decay=0.9, sigma_min=0.07, lr_decay=0.5, lr_min=0.1)
    es = OpenES(population=4)
    state = es.init(KEY, jnp.zeros(2), params)
    settings = []
    for _ in range(6):
        settings.append((float(state.sigma), float(state.lr)))
        state = es.tell(state, jnp.arange(4.0), params)
    expected = [[0.1, 0.09, 0.081, 0.0729, 0.06561, 0.06561], [0.2, 0.1, 0.1, 0.1, 0.1, 0.1]]
    np.testing.assert_allclose(np.transpose(settings), expected, rtol=1e-5)
    assert int(state.generation) == 6


@pytest.mark.parametrize(
    ("direction", "reference"),
    [(optax.identity(), optax.sgd(0.3)), (optax.scale_by_adam(), optax.adam(0.3))],
    ids=["sgd", "adam"],
)
def test_equals_evosax(direction: optax.GradientTransformation, reference: optax.GradientTransformation) -> None:
    open_es = pytest.importorskip("evosax.algorithms").Open_ES
    n, params = 24, Params(sigma=0.3, lr=0.3)
    es = OpenES(population=n, optimiser=direction)
    state = es.init(KEY, CENTRE, params)
    evosax_es = open_es(n, CENTRE, optimizer=reference, std_schedule=optax.constant_schedule(0.3))
    evosax_state = evosax_es.init(KEY, CENTRE, evosax_es.default_params)

    def loss(member: Any) -> jax.Array:
        return jnp.sum((member["w"] - 1) ** 2) + jnp.abs(member["b"] + 2).sum()

    for _ in range(20):
        population = es.ask(state)
        losses = jax.vmap(loss)(population)
        state = es.tell(state, -losses, params)  # evosax minimises
        evosax_state, _ = evosax_es.tell(KEY, population, losses, evosax_state, evosax_es.default_params)
        np.testing.assert_allclose(flat(state.centre), np.asarray(evosax_state.mean), rtol=1e-3, atol=1e-4)


def test_climbs_and_equals_itself_under_scan_and_vmap() -> None:
    es = OpenES(population=64, optimiser=optax.scale_by_adam())

    def evolve(key: jax.Array, params: Params) -> jax.Array:
        def generation(state: State, _: None) -> tuple[State, None]:
            fitness = -jnp.sum((es.ask(state) - jnp.array([1.0, -2.0, 3.0])) ** 2, axis=1)
            return es.tell(state, fitness, params), None

        return jax.lax.scan(generation, es.init(key, jnp.zeros(3), params), length=300)[0].centre

    params = Params(sigma=jnp.array([0.05, 0.2]), lr=jnp.array([0.05, 0.02]), lr_decay=0.995)
    axes = Params(sigma=0, lr=0, sigma_decay=None, sigma_min=None, lr_decay=None, lr_min=None)  # type: ignore[arg-type]
    keys = jax.random.split(KEY, 2)
    both = jax.jit(jax.vmap(evolve, in_axes=(0, axes)))(keys, params)
    np.testing.assert_allclose(both, np.tile([1, -2, 3], (2, 1)), atol=0.1)
    alone = jax.jit(evolve)(keys[1], Params(sigma=0.2, lr=0.02, lr_decay=0.995))
    np.testing.assert_allclose(both[1], alone, atol=1e-3)


def test_half_precision_centre_keeps_its_type() -> None:
    es = OpenES(population=4)
    params = Params(sigma=0.1, lr=0.1)
    state = es.init(KEY, jnp.zeros(3, jnp.bfloat16), params)
    assert es.ask(state).dtype == jnp.bfloat16
    told = es.tell(state, jnp.arange(4.0), params)
    assert [leaf.dtype for leaf in jax.tree.leaves(told)] == [leaf.dtype for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("population", [0, 3])
def test_odd_populations_are_refused(population: int) -> None:
    with pytest.raises(RefigureError, match="even number"):
        OpenES(population=population)
