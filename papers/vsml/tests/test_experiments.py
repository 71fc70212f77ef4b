"""Meta-training and meta-testing end to end, on made-up data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_recorder import Memory, finished, resumes

from common.errors import RefigureError
from common.room import spec
from common.room.plan import resolve
from common.train.evolution import OpenES, Params, raw
from common.train.recorder import Outcome
from papers.vsml import meta_test, meta_train, run_descent, tasks, unroll
from papers.vsml.config import VSML, Clone, CloneOnPolicy, Descent, Hebbian, MetaRNN, MetaTest, Unroll
from papers.vsml.learners import make_learner
from papers.vsml.tasks import Episodes
from papers.vsml.train_clones import init_clone

STAGES = {"sides": (2, 3), "lengths": (6, 8), "iterations": (25, 50), "rates": (0.01, 0.003)}
SMALL = {"episodes": 4, "units": 4, "message": 2, "projections": 3}


def load(name: str, split: str, side: int) -> Episodes:
    """Ten noisy patterns instead of images."""
    rng = np.random.default_rng(len(name))
    patterns, labels = rng.standard_normal((10, side**2)), rng.integers(0, 10, 300)
    images = patterns[labels] + 0.1 * rng.standard_normal((300, side**2))
    return Episodes("mnist", side, jnp.asarray(images, jnp.float32), jnp.asarray(labels), split == "train")


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns instead of images."""
    monkeypatch.setattr(tasks, "load", load)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "stop"), [
    ({"optimiser": "backprop", "clip": 1.0, "backward_pass": True, **STAGES}, 50),
    ({"optimiser": "es", **STAGES}, 25),
])  # fmt: skip
def test_stopped_in_any_stage_it_ends_the_same(settings: dict, stop: int) -> None:
    config = VSML(**SMALL | settings)
    _, recorder = resumes(lambda recorder: meta_train.train(config, [0, 1], recorder), stop)
    assert recorder.shown[-1] == (75, 75)


TRAINED = VSML(**SMALL, optimiser="backprop", sides=(2,), lengths=(6,), iterations=(10,), rates=(0.01,))


@pytest.fixture(scope="module")
def trained() -> Outcome:
    """Two seeds, trained without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "load", load)
        patch.setattr(meta_train, "CHUNK", 5)
        return meta_train.train(TRAINED, [0, 1], Memory())


def test_stopped_and_resumed_it_ends_the_same(trained: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_train, "CHUNK", 5)
    _, recorder = resumes(lambda recorder: meta_train.train(TRAINED, [0, 1], recorder), 5, trained)
    assert recorder.restored == [5]


@pytest.mark.slow
def test_seeds_do_not_influence_one_another(trained: Outcome) -> None:
    alone = meta_train.train(TRAINED, [1], Memory())
    for name, array in alone.parameters.items():
        np.testing.assert_allclose(trained.parameters[name][1:], array, rtol=1e-4, atol=1e-5)


def test_meta_training_learns_to_learn(memory: type) -> None:
    """On ten patterns the loss falls below that of guessing."""
    config = MetaRNN(
        optimiser="backprop", units=16, sides=(3,), lengths=(20,), iterations=(150,), rates=(0.01,),
        episodes=16, projected=0.0,
    )  # fmt: skip
    assert meta_train.train(config, [0], memory()).metrics["loss"][0] < 1.5


def test_evolution_estimates_the_slope(x64: None) -> None:
    """Averaged over many pairs it points along the slope of backpropagation (card, invariant 3)."""
    config = VSML(optimiser="es", units=2, message=2, sides=(2,), lengths=(4,), iterations=(1,), rates=(1.0,))
    learner = make_learner(config, 4)
    params = jax.tree.map(lambda array: array.astype(float), learner.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    x, labels = jnp.asarray(rng.standard_normal((4, 2, 4))), jnp.asarray(rng.integers(0, 10, (4, 2)))

    def loss(params: object) -> jax.Array:
        logits = learner.learn(params, jax.random.split(jax.random.key(1)), x, jax.nn.one_hot(labels, 10))
        return meta_train.meta_loss(logits, labels)

    strategy, settings = OpenES(4_000, shape=raw), Params(sigma=0.01, lr=1.0)
    state = strategy.init(jax.random.key(2), params, settings)
    fitness = -jax.jit(lambda members: jax.lax.map(loss, members, batch_size=1000))(strategy.ask(state))
    moved = strategy.tell(state, fitness, settings).centre
    estimate, slope = (
        np.concatenate([np.ravel(array) for array in jax.tree.leaves(tree)])
        for tree in (jax.tree.map(jnp.subtract, params, moved), jax.grad(loss)(params))
    )
    assert estimate @ slope / np.linalg.norm(estimate) / np.linalg.norm(slope) > 0.98


@pytest.mark.slow
def test_both_members_of_a_pair_live_the_same_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a vanishing search their losses are equal: they share data and initial states."""
    config = VSML(
        **SMALL, optimiser="es", sigma=1e-7, sides=(2,), lengths=(6,), iterations=(1,), rates=(0.1,)
    )  # fmt: skip
    told = []

    def tell(self: OpenES, state: object, fitness: jax.Array, params: Params) -> object:
        jax.debug.callback(lambda values: told.append(np.asarray(values)), fitness)
        return state

    monkeypatch.setattr(OpenES, "tell", tell)
    learner = make_learner(config, 4)
    state = meta_train._begin_es(config, learner, [0])
    meta_train._es_step(config, learner, 6, 0.1)((tasks.load("mnist", "train", 2),), state, jnp.int32(0))
    jax.effects_barrier()
    (fitness,) = told
    np.testing.assert_allclose(fitness[:4], fitness[4:], atol=1e-5)
    assert np.ptp(fitness[:4]) > 1e-3


def test_what_was_meta_trained_is_tested_at_any_size(trained: Outcome, memory: type) -> None:
    parent = finished(TRAINED, trained.parameters)
    config = MetaTest(
        tasks=("mnist",), conditions=("five classes", "shuffled"), side=5, length=20, runs=2, counts=(5, 20), again=10
    )
    outcome = meta_test.train(config, [0, 1], memory(), parent)
    assert {"mnist_5", "mnist_20", "mnist_end", "shuffled_20", "five_classes_20", "second_time"} <= set(outcome.metrics)
    assert outcome.arrays["curve_mnist"].shape == (2, 20)
    assert outcome.arrays["mnist"].shape == (2, 2, 3)  # seeds, runs, counts and end
    means = [outcome.metrics[f"mnist_{after}"] for after in (5, 20, "end")]
    np.testing.assert_allclose(outcome.arrays["mnist"].mean(1).T, means, rtol=1e-6)
    assert "unseen" not in outcome.metrics


@pytest.mark.slow
def test_what_was_meta_trained_is_tested_on_other_tasks_and_deeper(trained: Outcome, memory: type) -> None:
    parent = finished(TRAINED, trained.parameters)
    several = MetaTest(tasks=("mnist", "random", "omniglot", "sum-sign"), side=2, length=20, runs=2, counts=(20,))
    metrics = meta_test.train(several, [0, 1], memory(), parent).metrics
    np.testing.assert_allclose(metrics["unseen"], np.add(metrics["random_end"], metrics["omniglot_end"]) / 2)
    deep = MetaTest(tasks=("mnist",), hidden=3, side=4, length=20, runs=2, counts=(5,))
    assert len(meta_test.train(deep, [0, 1], memory(), parent).metrics["mnist_5"]) == 2


@pytest.mark.parametrize("variant", spec.load("vsml").experiments["meta_train"].variants)
def test_the_program_of_every_variant_at_its_published_size_can_be_traced(variant: str) -> None:
    config = resolve("vsml", "meta_train", variant, None)
    learner = make_learner(config, config.sides[-1] ** 2)
    keys, x, labels = jax.random.split(jax.random.key(0)), jnp.zeros((2, 2, 784)), jnp.zeros((2, 2, 10))
    logits = jax.eval_shape(learner.learn, jax.eval_shape(learner.init, keys[0]), keys, x, labels)
    assert logits.shape == labels.shape


def test_a_learner_of_one_size_is_not_tested_at_another(memory: type) -> None:
    trained = Hebbian(sides=(3,), lengths=(6,), iterations=(2,), rates=(0.01,))
    with pytest.raises(RefigureError, match="meta-trained for 3 x 3 pixels"):
        meta_test.train(MetaTest(), [0], memory(), finished(trained, {}))


def test_descent_learns_and_tunes_its_rate(memory: type) -> None:
    settings = {"tasks": ("mnist",), "side": 3, "length": 200, "runs": 2, "counts": (50, 200), "width": 0}
    poor = run_descent.train(Descent(**settings, rate=1e-5), [0, 1], memory()).metrics["mnist_200"]
    tuned = run_descent.train(Descent(**settings, rates=(1e-5, 0.03)), [0, 1], memory()).metrics["mnist_200"]
    assert min(tuned) > 0.7 > max(poor)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Clone, CloneOnPolicy])
def test_clones_are_unrolled_beside_the_truth(memory: type, kind: type) -> None:
    trained = kind(units=4)
    clones = jax.vmap(lambda key: init_clone(trained, key))(jax.random.split(jax.random.key(0)))
    parent = finished(trained, meta_train.flatten_jax(clones))
    config = Unroll(tasks=("mnist", "fashion-mnist"), side=3, hidden=(4,), length=40, window=20, tested=10)
    whole = memory()
    outcome = unroll.train(config, [0, 1], whole, parent)
    for name in config.tasks:
        accuracy = outcome.arrays[f"{name}_true_accuracy"]
        assert accuracy.shape == (2, 2)
        logged = np.stack([line[f"{name}_true_accuracy"] for _, line in whole.lines], 1)
        np.testing.assert_allclose(accuracy, logged, rtol=1e-6)
        tested = [outcome.metrics[f"{name}_{kind}_test_accuracy"] for kind in ("true", "clone")]
        np.testing.assert_allclose(outcome.metrics[f"{name}_behind"], np.subtract(*tested))
    resumes(lambda recorder: unroll.train(config, [0, 1], recorder, parent), 20, outcome)
