"""Meta-training, evaluation and baselines end to end; and what is refused."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_recorder import Memory, finished, resumes

from common.errors import RefigureError
from common.room import spec
from common.room.plan import resolve
from common.train.jax import batch_seeds
from common.train.recorder import Outcome
from common.train.trees import flatten_jax
from papers.mplp import baseline, evaluate, maml, meta_train, released, tasks
from papers.mplp.config import Baseline, Evaluate, Maml, MetaTrain, Released
from papers.mplp.lifetime import normalised
from papers.mplp.measurement import Learner, Setting, measurement
from papers.mplp.network import Spec, init_network
from papers.mplp.tasks import Images

SMALL = {"sizes": (1, 4, 1), "message": 2, "widths": (4, 3), "networks": 2, "pool": 3, "examples": 3, "held_out": 4}
KINDS = {
    "learned network": {"hidden": 0, "steps": 2, "pool": 0, "hint": 0.0, "train_messages": False},
    "lengths drawn": {"hidden": 0, "steps": 2, "longest": 3},
    "images": {
        "task": "mnist", "sizes": (9, 4, 10), "activation": "sigmoid", "hidden": 2, "shared": True, "steps": 2,
        "rounds": 2, "blend": 0.5,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Ten noisy patterns instead of images; counts what is loaded."""
    loaded: dict[str, int] = {}

    def load(name: str, split: str, side: int) -> Images:
        loaded[split] = loaded.get(split, 0) + 1
        rng = np.random.default_rng(0)
        patterns, labels = 3 * rng.standard_normal((10, side**2)), rng.integers(0, 10, 300)
        return Images(jnp.asarray(patterns[labels], jnp.float32), jnp.asarray(labels))

    monkeypatch.setattr(tasks, "load_images", load)
    monkeypatch.setattr(meta_train, "CHUNKS", {"sinusoid": 2, "mnist": 2})
    return loaded


@pytest.mark.parametrize("variant", spec.load("mplp").experiments["meta_train"].variants)
def test_the_program_of_every_variant_at_its_published_size_can_be_traced(variant: str) -> None:
    config = resolve("mplp", "meta_train", variant, None)
    side = meta_train.side_of(meta_train.spec_of(config))
    images = None if config.task == "sinusoid" else Images(jnp.zeros((300, side**2)), jnp.zeros(300, int))

    def first_step(key: jax.Array) -> jax.Array:
        return meta_train.meta_step(config, images, meta_train.begin(config, images, key), jnp.int32(0))[1]["loss"]

    assert jax.eval_shape(first_step, jax.random.key(0)).shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_it_ends_the_same(kind: str, memory: type) -> None:
    config = MetaTrain(**{**SMALL, **KINDS[kind]}, meta_steps=6)
    outcome, _ = resumes(lambda recorder: meta_train.train(config, [0, 1], recorder), stop_at=4)
    small = Evaluate(lifetimes=4, tested=20)
    metrics = evaluate.train(small, [0, 1], memory(), finished(config, outcome.parameters)).metrics
    assert f"{'accuracy' if kind == 'images' else 'loss'}_2" in metrics


@pytest.fixture(scope="module")
def one_sinusoid() -> Iterator[None]:
    """All tasks are the same; the best constant has a loss of 0.03."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tasks, "draw_sinusoids", lambda _, count: tasks.Sinusoids(jnp.full(count, 0.35), jnp.full(count, 1.0))
        )
        yield


LEARNED = MetaTrain(**{**SMALL, **KINDS["learned network"], "sizes": (1, 8, 1)}, meta_steps=200, rate=0.01)


@pytest.fixture(scope="module")
def start(one_sinusoid: None) -> Iterator[meta_train.Learned]:
    """The untrained protocol, made by the compiled program with which a training begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta_train, "begin", jax.jit(meta_train.begin, static_argnums=(0, 1)))
        yield batch_seeds(lambda key: meta_train.begin(LEARNED, None, key), [0]).learned


@pytest.fixture(scope="module")
def resumed(start: meta_train.Learned) -> tuple[Outcome, Memory]:
    """A meta-training that was stopped half-way and ended as one that was not, and its recorder."""
    return resumes(lambda recorder: meta_train.train(LEARNED, [0], recorder), stop_at=100)


def test_meta_training_learns(resumed: tuple[Outcome, Memory], memory: type) -> None:
    """What it logs becomes small, and so does the loss of further lifetimes after two steps."""
    outcome, recorder = resumed
    assert recorder.restored == [100]
    assert np.max(recorder.lines[-1][1]["loss"]) < 0.025
    parent = finished(LEARNED, outcome.parameters)
    metrics = evaluate.train(Evaluate(lifetimes=4, tested=20), [0], memory(), parent).metrics
    assert max(metrics["loss_2"]) < 0.025


def test_frozen_messages_stay_and_count_nothing(start: meta_train.Learned, resumed: tuple[Outcome, Memory]) -> None:
    outcome, _ = resumed
    before = flatten_jax(start)
    names = [name for name in outcome.parameters if "message" in name]
    assert names
    for name in names:
        np.testing.assert_array_equal(outcome.parameters[name], before[name])
    assert any((outcome.parameters[name] != before[name]).any() for name in outcome.parameters if "update" in name)
    part = meta_train.trained_part(LEARNED, jax.tree.map(lambda array: array[0], start))
    trained = sum(array.size for array in jax.tree.leaves(part))
    assert outcome.metrics["parameters"] == [trained]


def test_published_numbers_of_trained_parameters() -> None:
    """24,972 of agents without trained messages and 481 of the initial network (card)."""
    config = released.TRAINED["maml"]
    learned = jax.eval_shape(lambda: meta_train.begin(config, None, jax.random.key(0))).learned
    protocol, start = meta_train.trained_part(config, learned)
    assert sum(array.size for array in jax.tree.leaves(protocol)) == 24_972
    assert sum(array.size for array in jax.tree.leaves(start)) == 481


@pytest.mark.usefixtures("one_sinusoid")
def test_maml_learns_an_initial_network(memory: type) -> None:
    config = Maml(sizes=(1, 8, 1), meta_steps=600, rate=0.01, lifetimes=40, networks=4)
    assert max(maml.train(config, [0, 1], memory()).metrics["loss_2"]) < 0.02


def test_each_tensor_is_divided_by_its_norm() -> None:
    slope = normalised({"a": jnp.array([3.0, 4.0]), "b": jnp.array(-0.5), "c": jnp.zeros(2)})
    np.testing.assert_allclose(slope["a"], [0.6, 0.8], rtol=1e-6)
    assert float(slope["b"]) == pytest.approx(-1)
    assert not slope["c"].any()


def test_all_learners_meet_the_same_lifetimes() -> None:
    """Two learners that never learn see the same tasks and networks; trials have different ones."""
    setting = Setting("sinusoid", Spec((1, 4, 1)), 2, 3, 6, 1)

    def still(scale: float) -> Learner:
        return Learner(
            lambda _, key: init_network(key, setting.spec),
            lambda _, layers, x, y: jax.tree.map(
                lambda array: jnp.stack([array] * len(x)) + 0 * scale * x.sum() * y.sum(), layers
            ),
        )

    measure = measurement(setting, still(1.0))
    measures, again = measure(None, 3), measurement(setting, still(2.0))(None, 3)
    np.testing.assert_array_equal(measures["loss"], again["loss"])
    assert measures["loss"].shape == (6, 3)
    assert measures["seen"].shape == (6, 2)
    assert (measures["loss"] != measure(None, 3, "trial")["loss"]).all()
    error = 0.5 * ((measures["shown"][0] - measures["shown"][-1]) ** 2).mean()
    np.testing.assert_allclose(measures["loss"][0, 0], error, rtol=1e-5)


def test_gradient_descent_learns_and_tunes_its_rate_on_training_images(memory: type, made_up: dict[str, int]) -> None:
    config = {
        "task": "mnist", "sizes": (9, 10), "steps": 20, "examples": 8, "lifetimes": 4, "tested": 100,
        "optimiser": "sgd",
    }  # fmt: skip
    poor = baseline.train(Baseline(**config, rate=1e-6), [0, 1], memory()).metrics
    assert made_up == {"train": 1, "test": 1}
    tuned = baseline.train(Baseline(**config, rates=(1e-6, 0.1)), [0, 1], memory()).metrics
    assert made_up == {"train": 2, "test": 2}, "images are loaded once a training, for all seeds and trial rates"
    assert tuned["rate"] == [0.1, 0.1]
    assert min(tuned["accuracy_20"]) > 0.7 > 0.4 > max(poor["accuracy_20"])


def test_a_rate_that_diverges_is_never_the_best() -> None:
    losses = {0.1: np.nan, 0.2: 3.0, 0.3: 2.0, 0.4: np.inf}
    measure = lambda rate, seed, purpose: {"loss": np.full((2, 3), losses[round(float(rate), 1)])}  # noqa: E731
    assert baseline._best_rate(Baseline(rates=tuple(losses)), measure, 0) == 0.3


def test_a_protocol_of_one_layer_stays_as_it_is() -> None:
    learned = jax.tree.map(lambda array: array[0], meta_train.untrained(MetaTrain(sizes=(1, 1)), [0]))
    assert jax.tree.structure(evaluate.deepen(learned, 1)) == jax.tree.structure(learned)


@pytest.mark.parametrize(("settings", "told"), [
    ({"sizes": (1,)}, "at least inputs and outputs"),
    ({"sizes": (1, 0, 1)}, "none below 1"),
    ({"sizes": (2, 4, 1)}, "begin and end with 1"),
    ({"task": "mnist", "sizes": (10, 4, 10)}, "square of at most 784"),
    ({"pool": 2}, "pool must be 0 or at least networks"),
    ({"hidden": 0, "shared": True}, "shared is for agents with a state"),
    ({"train_messages": False}, "train_messages is for agents without state"),
    ({"longest": 3}, "longest must be 0 or at least steps"),
    ({"hint": 1.5}, "shares up to 1"),
    ({"rate": 0.0}, "rate must be positive"),
])  # fmt: skip
def test_settings_that_make_no_sense(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MetaTrain(**settings)


@pytest.mark.parametrize(("settings", "told"), [
    ({"task": "mnist", "sizes": (9, 4, 10)}, "another loss than that of mnist"),
    ({"sizes": (1, 1)}, "with 2 layers"),
    ({"sizes": (1, 5, 1)}, "set random_start"),
])  # fmt: skip
def test_networks_that_a_protocol_cannot_teach(settings: dict, told: str, memory: type) -> None:
    config = MetaTrain(**{**SMALL, **KINDS["learned network"]}, meta_steps=2)
    like = jax.eval_shape(lambda: meta_train.untrained(config, [0]))
    parent = finished(config, flatten_jax(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)))
    with pytest.raises(RefigureError, match=told):
        evaluate.train(Evaluate(**settings, lifetimes=2), [0], memory(), parent)


@pytest.mark.slow
def test_protocols_teach_deeper_networks(memory: type) -> None:
    config = MetaTrain(**{**SMALL, **KINDS["images"]}, meta_steps=2)
    parent = finished(config, flatten_jax(meta_train.untrained(config, [0])))
    deeper = Evaluate(sizes=(9, 4, 5, 10), lifetimes=2, tested=20)
    assert "accuracy_2" in evaluate.train(deeper, [0], memory(), parent).metrics


def test_a_layer_more_has_the_agents_of_the_hidden_one() -> None:
    config = MetaTrain(**{**SMALL, **KINDS["images"]}, meta_steps=2)
    learned = jax.eval_shape(lambda: meta_train.untrained(config, [0]))
    protocol, statistics, _ = evaluate.deepen(learned, 4)
    first, second, third, last = protocol.layers
    assert first is second is third is learned.protocol.layers[0]
    assert last is learned.protocol.layers[1]
    assert len(statistics.layers) == 4
    assert evaluate.deepen(learned, 2).protocol == learned.protocol


def test_too_many_test_images() -> None:
    with pytest.raises(ValueError, match="at most the 10,000"):
        Released(tested=20_000)
