"""Evolution on fitness that theory knows; disturbances; shared rules; settings that are refused."""

from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import RefigureError
from common.room.config import to_dict
from common.train.evolution import Params
from common.train.recorder import Recorder
from papers.hebbian_abcd import evaluate, evolution, walk
from papers.hebbian_abcd.config import Evaluate, Walk
from papers.hebbian_abcd.evaluate import CONDITIONS, CONTROLS, disturbance, learning, recovery
from papers.hebbian_abcd.evolution import birth, evolve, first_genome, products
from papers.hebbian_abcd.share import merged, per_layer, per_neuron

SIZES = (3, 4, 2)


def moved(fitness_of) -> np.ndarray:
    """Where one generation moves a centre of 400 numbers."""
    search, params = evolution.strategy(200), Params(0.1, 0.2)
    state = search.init(jnp.zeros(2, jnp.uint32), {"plastic": jnp.zeros(400)}, params)
    population = search.ask(state)["plastic"]
    return np.asarray(search.tell(state, fitness_of(population), params).centre["plastic"])


def test_a_linear_fitness_moves_the_centre_along_its_gradient_and_an_even_one_not_at_all() -> None:
    gradient = np.random.default_rng(0).standard_normal(400)
    move = moved(lambda population: population @ gradient)
    # of 100 independent directions in 400: the cosine is about the root of 100 / 500
    assert move @ gradient / np.linalg.norm(move) / np.linalg.norm(gradient) > 0.35
    assert np.abs(moved(lambda population: (population**2).sum(1))).max() < 1e-6


def test_only_the_order_of_fitness_counts() -> None:
    gradient = np.random.default_rng(0).standard_normal(400)
    move = moved(lambda population: population @ gradient)
    assert (moved(lambda population: jnp.exp(population @ gradient)) == move).all()


def test_evolution_finds_what_is_asked_for() -> None:
    config = Walk(population=40, generations=60, hidden=(4,), penalty=0.0)
    target = 5 * np.random.default_rng(0).standard_normal(5)

    def fitness_of(population, generation):
        return -np.square(population["plastic"][:, :, 0] - target).sum(1), {}

    first = {"plastic": np.zeros((5, 1), np.float32)}
    centre = evolve(config, first, fitness_of, 0, Recorder())["plastic"][:, 0]
    assert np.linalg.norm(centre - target) < 0.2 * np.linalg.norm(target)


class Kept(Recorder):
    """Keeps every checkpoint, and stops a training at a step as a killed process does."""

    def __init__(self, stop: int) -> None:
        self.kept, self.stop = None, stop

    def due(self) -> bool:
        return True

    def save(self, step: int, state) -> None:
        self.kept = step, {name: array.copy() for name, array in state.items()}

    def restore(self):
        return self.kept

    def progress(self, step: int, total: int) -> None:
        if step == self.stop:
            raise InterruptedError


def test_an_evolution_that_was_killed_ends_in_the_same_bits() -> None:
    config = Walk(engine="mujoco", population=4, generations=12, steps=5, hidden=(4,))
    whole = walk.train(config, [0], Recorder()).parameters["plastic"]
    run = Kept(stop=5)
    with pytest.raises(InterruptedError):
        walk.train(config, [0], run)
    run.stop = -1
    assert (walk.train(config, [0], run).parameters["plastic"] == whole).all()


def test_static_weights_begin_as_pytorch_draws_them_and_birth_weights_are_drawn_anew() -> None:
    static = np.asarray(first_genome(Walk(learner="static"), (100, 50, 2), 0)["plastic"])
    assert 0.09 < np.abs(static[:5000]).max() <= 0.1
    assert 0.12 < np.abs(static[5000:]).max() <= 50**-0.5
    genome = np.asarray(first_genome(Walk(), SIZES, 0)["plastic"])[None].repeat(2, 0)
    weights, changes = birth(Walk(), genome, np.random.default_rng(0))
    assert (weights[0] != weights[1]).all()
    assert np.abs(weights).max() <= 0.1
    np.testing.assert_allclose(changes[0], genome[0, [0, 1, 2, 4]] * genome[0, 3], rtol=1e-6)


def test_what_each_condition_does_to_weights() -> None:
    config, weights = Evaluate(damage=5, window=3, frozen=4), np.ones((2, 30), np.float32)
    for condition in (*CONDITIONS, *CONTROLS):
        disturb = disturbance(condition, config, 30, 0)
        learns, zeros = [], []
        for step in range(10):
            damaged = weights.copy()
            learns.append(disturb(step, damaged))
            zeros.append(int((damaged == 0).sum() / 2))
        assert zeros == {
            "zeroed": [0] * 5 + [30] + [0] * 4,
            "third_zeroed": [0] * 5 + [10] + [0] * 4,
            "window": [0] * 5 + [30] * 3 + [0] * 2,
        }.get(condition, [0] * 10)
        assert learns == {
            "window": [True] * 5 + [False] * 3 + [True] * 2,
            "frozen": [True] * 4 + [False] * 6,
            "unlearning": [False] * 10,
        }.get(condition, [True] * 10)


def test_measures_of_learning_and_recovery() -> None:
    undisturbed, damaged = np.full(400, 0.4), np.full(400, 0.4)
    undisturbed[:60] = 0
    damaged[200:] = 0.1
    speeds = {"undisturbed": undisturbed, "unlearning": np.zeros(400)}
    assert learning(speeds) == pytest.approx({
        "early_undisturbed": 0.32, "early_unlearning": 0, "early_share": 0.8,
    })  # fmt: skip
    measures = recovery({"undisturbed": undisturbed, "zeroed": damaged}, Evaluate(damage=200))
    assert measures == pytest.approx({"after_zeroed": 0.1, "undisturbed_zeroed": 0.4, "margin_zeroed": -0.1})


@pytest.mark.parametrize("engine", ["mujoco", "pybullet"])
@pytest.mark.parametrize("learner", ["hebbian", "static"])
def test_an_evaluation_in_either_engine(engine: str, learner: str) -> None:
    pytest.importorskip(engine)
    evolved = Walk(learner=learner, engine=engine, hidden=(6,), population=2, generations=1, steps=180)
    genome = {name: np.asarray(part) for name, part in first_genome(evolved, walk.sizes_of(evolved), 0).items()}
    parent = SimpleNamespace(identity=SimpleNamespace(config=to_dict(evolved)), parameters=genome)
    config = Evaluate(lifetimes=1, damage=20, window=20, frozen=30)
    outcome = evaluate.train(config, [0], Recorder(), parent)
    assert all(np.isfinite(values).all() for values in outcome.metrics.values())
    assert ("after_frozen" in outcome.metrics) == ("path" in outcome.arrays) == (learner == "hebbian")
    with pytest.raises(RefigureError, match="give 190 at least"):
        evaluate.train(replace(config, frozen=90), [0], Recorder(), parent)


def test_what_a_rule_does_depends_on_products_alone() -> None:
    plastic = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    flipped = -plastic  # eta A is (-eta) (-A)
    np.testing.assert_allclose(products("ABCD_lr", plastic), products("ABCD_lr", flipped))
    np.testing.assert_allclose(products("ABCD", products("ABCD_lr", plastic)), products("ABCD_lr", plastic))


def test_one_failed_simulation_is_the_worst_and_no_end() -> None:
    config = Walk(population=4, generations=2, hidden=(4,))

    def fitness_of(population, generation):
        return np.array([np.nan, 1.0, 2.0, 3.0]), {}

    assert np.isfinite(
        evolve(config, {"plastic": np.zeros((5, 1), np.float32)}, fitness_of, 0, Recorder())["plastic"]
    ).all()


def test_shared_rules() -> None:
    plastic = np.random.default_rng(0).standard_normal((5, 3 * 4 + 4 * 2)).astype(np.float32)
    assert len(np.unique(per_layer(plastic, SIZES), axis=1).T) == 2
    np.testing.assert_allclose(per_layer(plastic, SIZES)[:, 0], plastic[:, :12].mean(1), rtol=1e-5)
    assert len(np.unique(per_neuron(plastic, SIZES), axis=1).T) == 6
    np.testing.assert_allclose(per_neuron(plastic, SIZES)[:, 1], plastic[:, 1:12:4].mean(1), rtol=1e-5)
    assert len(np.unique(merged(plastic, 4, 0), axis=1).T) <= 4
    np.testing.assert_allclose(merged(plastic, 20, 0), plastic, rtol=1e-6)
    np.testing.assert_allclose(merged(plastic, 1, 0)[:, 0], plastic.mean(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"population": 7}, "population must be even"),
        ({"bodies": ("standard", "hind")}, "no 'hind'; there are standard, right, left"),
        ({"bodies": ()}, "at least one body"),
        ({"hidden": (0,)}, "hidden must be positive"),
        ({"penalty": -1.0}, "penalty must be 0 or positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Walk(**settings)
