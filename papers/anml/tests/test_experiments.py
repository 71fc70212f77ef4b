"""Both experiments end to end on made-up drawings, tiny; once on real ones."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import agree
from memory_recorder import Memory, finished, resumes, same

from common.errors import RefigureError
from common.room import spec
from common.room.plan import resolve
from common.train.recorder import Outcome
from common.train.seeding import jax_key
from common.train.trees import flatten_jax, unflatten_jax
from papers.anml import meta_test, meta_train, omniglot
from papers.anml.config import MetaTest, MetaTrain
from papers.anml.meta_learning import Learner, Scheme
from papers.anml.networks import NETWORKS
from papers.anml.omniglot import DRAWINGS, LEARNED
from papers.anml.tests.conftest import LEAST, SHORT, scores

TRAIN = {
    "channels": 4, "nm_channels": 2, "classes": 12, "iterations": 6, "inner_steps": 3, "remember": 9, "outputs": 40,
}  # fmt: skip
HEAD = {"neuromodulation": False, "plastic": "head"}
TEST = {"tasks": (1, 3, 6), "iid_tasks": (1, 6), "pool": 25, "trials": 2, "trajectories": 2, "rates": (3e-2, 1e-4)}
EVALUATION = 30


def made_up(split: str, side: int) -> np.ndarray:
    """Classes are coarse patterns, their drawings noisy copies."""
    rng = np.random.default_rng(split == "evaluation")
    patterns = np.kron(rng.integers(0, 200, (EVALUATION, 1, side // 4, side // 4)), np.ones((4, 4), int))
    return (patterns + rng.integers(0, 55, (EVALUATION, DRAWINGS, side, side))).astype(np.uint8)


@pytest.fixture
def small(monkeypatch) -> None:
    """Made-up drawings and a trunk of one block."""
    monkeypatch.setattr(omniglot, "load", made_up)
    monkeypatch.setitem(NETWORKS, "anml", LEAST)


# --- meta-training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", spec.load("anml").experiments["meta_train"].variants)
def test_the_program_of_every_variant_at_its_published_size_can_be_traced(variant: str) -> None:
    config = resolve("anml", "meta_train", variant, None)
    learner = jax.eval_shape(partial(meta_train.init_learner, config), jax.random.key(0))
    drawings = jax.ShapeDtypeStruct((config.classes, DRAWINGS, config.side, config.side, 1), jnp.float32)
    _, gradient, metrics = jax.eval_shape(partial(meta_train._gradient, config), learner, drawings, jax.random.key(0))
    assert jax.tree.structure(gradient) == jax.tree.structure(learner)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({**HEAD, "hidden": 5}, marks=pytest.mark.slow),
        HEAD,
        {"objective": "none"},
    ],
    ids=["anml", "oml", "linear", "none"],
)
def test_meta_training(changes, small, monkeypatch):
    if not changes:
        monkeypatch.setitem(NETWORKS, "anml", SHORT)
    config, seen = MetaTrain(**TRAIN | changes), Memory()
    outcome = meta_train.train(config, (3, 8), seen)
    start = [meta_train.init_learner(config, jax.random.fold_in(jax_key(seed), 0)) for seed in (3, 8)]
    sizes = sum(leaf.size for leaf in jax.tree.leaves(start[0]))
    assert outcome.metrics == {"parameters": [sizes, sizes]}
    before = flatten_jax(jax.tree.map(lambda *leaves: jnp.stack(leaves), *start))
    assert before.keys() == outcome.parameters.keys()
    changed = {name for name, array in outcome.parameters.items() if (array != before[name]).any()}
    if config.objective == "none":
        assert seen.lines == []
        assert not changed
        return
    [(step, metrics)] = seen.lines
    assert step == config.iterations
    assert all(len(values) == 2 and np.isfinite(values).all() for values in metrics.values())
    undone = {name for name in before if name.endswith("trunk/1/b")}  # biases before a norm
    assert changed == before.keys() - undone


def test_pretraining_learns(small):
    seen = Memory()
    config = MetaTrain(**TRAIN | {"objective": "iid", "iterations": 120, "outer_rate": 3e-3, "remember": 21})
    meta_train.train(config, (0,), seen)
    losses = [metrics["loss"][0] for _, metrics in seen.lines]
    assert [step for step, _ in seen.lines] == [50, 100, 120]
    assert losses[-1] < 0.7 * losses[0]
    assert seen.lines[-1][1]["accuracy"][0] > 0.5


@pytest.fixture(scope="module")
def linear() -> tuple[MetaTrain, Outcome]:
    """Two learners, meta-trained without interruption."""
    config = MetaTrain(**TRAIN | HEAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omniglot, "load", made_up)
        patch.setitem(NETWORKS, "anml", LEAST)
        patch.setattr(meta_train, "CHUNK", 2)
        return config, meta_train.train(config, (0, 1), Memory())


def test_interrupted_meta_training_ends_in_the_same_bits(small, linear, monkeypatch):
    monkeypatch.setattr(meta_train, "CHUNK", 2)
    config, whole = linear
    _, recorder = resumes(lambda recorder: meta_train.train(config, (0, 1), recorder), 3, whole)
    assert recorder.restored == [4]


@pytest.mark.slow
def test_seeds_do_not_know_of_one_another(small, linear):
    config, pair = linear
    alone = meta_train.train(config, (1,), Memory()).parameters
    for name, array in pair.parameters.items():
        np.testing.assert_allclose(array[1], alone[name][0], rtol=0, atol=1e-5)
    assert (pair.parameters["head/0/w"][0] != pair.parameters["head/0/w"][1]).all()


def numbered(classes: int) -> jax.Array:
    """Drawings that tell their number."""
    return jnp.arange(classes * DRAWINGS, dtype=jnp.float32).reshape(classes, DRAWINGS, 1, 1, 1)


def test_meta_batches(monkeypatch):
    """The drawings remembered, then those of one class, whose row is new."""
    config = MetaTrain(**TRAIN)
    learner = meta_train.init_learner(config, jax.random.key(0))
    monkeypatch.setattr(meta_train, "fast_meta_gradient", lambda learner, scheme, x, labels, steps: (x, labels, steps))
    steps, classes, everything = config.inner_steps, set(), set()
    draw = jax.jit(lambda key: meta_train._gradient(config, learner, numbered(12), key))
    for number in range(60):
        reset, x, labels, learned = draw(jax.random.key(number))
        assert learned == steps
        assert len(x) == len(labels) == config.remember + steps
        drawings = np.asarray(x).reshape(-1).astype(int)
        np.testing.assert_array_equal(drawings // DRAWINGS, labels)
        assert len(set(drawings[:-steps].tolist())) == config.remember
        assert len(set(drawings[-steps:].tolist())) == steps
        [label] = set(np.asarray(labels[-steps:]).tolist())
        changed = np.flatnonzero((reset.head[-1].w != learner.head[-1].w).any(1))
        assert changed.tolist() == [label]
        np.testing.assert_array_equal(reset.head[-1].b, learner.head[-1].b)
        agree(reset._replace(head=()), learner._replace(head=()), 0)
        classes.add(label)
        everything |= set(drawings.tolist())
    assert classes == set(range(12))
    assert len(everything) > 200  # of 240


def test_pretraining_batches(monkeypatch):
    config = MetaTrain(**TRAIN, objective="iid")
    monkeypatch.setattr(
        meta_train,
        "mean_gradient",
        lambda scores, learner, x, labels, at_once: ((x, labels), jnp.zeros(1), jnp.zeros(1)),
    )
    _, (x, labels), _ = meta_train._gradient(config, None, numbered(12), jax.random.key(0))
    drawings = np.asarray(x).reshape(-1).astype(int)
    np.testing.assert_array_equal(drawings // DRAWINGS, labels)
    assert len(set(drawings.tolist())) == len(drawings) == config.remember + config.inner_steps


# --- meta-testing --------------------------------------------------------------------------------------------


def untrained(**changes) -> Any:
    """A run of two learners as they begin, of networks as `small` has them."""
    config = MetaTrain(**TRAIN | {"objective": "none"} | changes)
    return finished(config, parameters_at_first(config))


@cache
def parameters_at_first(config: MetaTrain) -> dict[str, np.ndarray]:
    return meta_train.train(config, (0, 1), Memory()).parameters


@pytest.fixture
def parent(small) -> Any:
    return untrained()


def test_meta_testing(parent):
    config, seen = MetaTest(**TEST), Memory()
    outcome = meta_test.train(config, (0, 1), seen, parent)
    metrics, arrays = outcome.metrics, outcome.arrays
    kinds = ("representation", "gate", "gated")
    for kind in kinds:
        for name in ("active", "dead", "knn"):
            assert all(0 <= value <= 1 for value in metrics[f"{name}_{kind}"])
        assert arrays[f"activations_{kind}"].shape == (2, 4, 36)
        assert arrays[f"map_{kind}"].shape == (2, meta_test.SHOWN * LEARNED, 2)
    assert "knn_random_gate" in metrics
    assert all(len(values) == 2 and np.isfinite(values).all() for values in metrics.values())
    assert arrays["train"].shape == arrays["test"].shape == (2, 2, 3)
    assert arrays["iid_train"].shape == arrays["iid_test"].shape == (2, 2, 2)
    assert arrays["trial_train"].shape == (2, 2, 2, 3)
    assert arrays["by_order"].shape == (2, 2, 6)
    np.testing.assert_allclose(arrays["by_order"].mean(-1), arrays["test"][..., -1])
    for index, count in enumerate(config.tasks):
        np.testing.assert_allclose(metrics[f"test_{count}"], arrays["test"][:, :, index].mean(1))
        np.testing.assert_allclose(metrics[f"train_{count}"], arrays["train"][:, :, index].mean(1))
    for index, count in enumerate(config.iid_tasks):
        np.testing.assert_allclose(metrics[f"iid_test_{count}"], arrays["iid_test"][:, :, index].mean(1))
        oracle, sequential = (np.array(metrics[f"{kind}_{count}"]) for kind in ("iid_test", "test"))
        np.testing.assert_allclose(metrics[f"drop_{count}"], (oracle - sequential) / np.maximum(oracle, 1e-9))
    assert metrics["test_1"] == metrics["iid_test_1"]  # with one class there is nothing to shuffle
    assert metrics["train_1"] == metrics["iid_train_1"]
    assert np.mean(metrics["iid_train_6"]) > 0.5  # it learns
    steps, totals = zip(*seen.shown, strict=True)
    assert list(steps) == list(range(1, len(steps) + 1))
    assert set(totals) == {len(steps)}


@pytest.mark.parametrize("stop_at", [pytest.param(1, marks=pytest.mark.slow), 2, 6])
def test_interrupted_meta_testing_gives_the_same_numbers(parent, stop_at, monkeypatch):
    config = MetaTest(**TEST | {"tasks": (1, 2), "iid_tasks": (2,)})
    whole = meta_test.train(config, (0, 1), Memory(), parent)
    broken = Memory(stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        meta_test.train(config, (0, 1), broken, parent)
    broken.stop_at = None
    if stop_at == 6:  # all done
        monkeypatch.setattr(meta_test, "learn", None)
    same(meta_test.train(config, (0, 1), broken, parent), whole)


def test_held_out_drawings_have_no_say_in_the_rates(parent, monkeypatch):
    config = MetaTest(**TEST)
    honest = meta_test.train(config, (0, 1), Memory(), parent).arrays

    def spoilt(split, side):
        drawings = made_up(split, side)
        drawings[:, LEARNED:] = np.random.default_rng(9).integers(0, 256, drawings[:, LEARNED:].shape)
        return drawings

    monkeypatch.setattr(omniglot, "load", spoilt)
    arrays = meta_test.train(config, (0, 1), Memory(), parent).arrays
    for name in ("rates", "iid_rates", "trial_train", "train", "iid_train"):
        np.testing.assert_array_equal(honest[name], arrays[name], err_msg=name)
    assert (honest["test"] != arrays["test"]).any()


def test_members_of_a_meta_test_are_independent(parent):
    config = MetaTest(**TEST | {"tasks": (2,), "iid_tasks": (2,)})
    pair = meta_test.train(config, (0, 1), Memory(), parent)
    parent.parameters = {name: array[:1] for name, array in parent.parameters.items()}
    alone = meta_test.train(config, (0,), Memory(), parent)
    for name, values in alone.metrics.items():
        assert values[0] == pair.metrics[name][0], name


def first_learner(parent: Any) -> tuple[Learner, Scheme]:
    """The first learner of a run, and how it learns."""
    config = MetaTrain(**parent.identity.config)
    like = jax.eval_shape(lambda: meta_train.init_learner(config, jax.random.key(0)))
    like = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape), leaf.dtype), like)
    learners = unflatten_jax(like, parent.parameters)
    return jax.tree.map(lambda array: array[0], learners), meta_train.scheme(config)


@pytest.mark.parametrize("plastic", ["output", "head", "all"])
@pytest.mark.parametrize("changes", [{}, {**HEAD, "hidden": 5}], ids=["anml", "oml"])
def test_what_is_plastic_and_what_is_not(small, plastic, changes):
    """However the learner is cut in two, before learning its scores are the same."""
    learner, rule = first_learner(untrained(**changes))
    x = jnp.asarray(omniglot.scale(made_up("evaluation", 28)[:3], "unit").reshape(-1, 28, 28, 1))
    kinds = meta_test._representations(learner, rule, x)
    kept, fresh = (
        meta_test._course(MetaTest(plastic=plastic, start=start), learner, rule, x, kinds, jax_key(0, "output"))
        for start in ("kept", "fresh")
    )
    agree(jax.vmap(partial(kept.scores, kept.start))(kept.inputs), scores(learner, rule, x), 1e-5)
    np.testing.assert_array_equal(kept.labels, np.arange(60) // DRAWINGS)
    head = {"output": learner.head[-1:], "head": learner.head, "all": (learner.trunk, learner.head)}[plastic]
    agree(kept.start, head, 0)
    dense, its = (start[1] if plastic == "all" else start for start in (fresh.start, kept.start))
    agree(dense[:-1], its[:-1], 0)
    assert (dense[-1].w != its[-1].w).all()
    np.testing.assert_array_equal(dense[-1].b, 0)
    assert float(dense[-1].w.std()) == pytest.approx((2 / dense[-1].w.shape[1]) ** 0.5, rel=0.2)


@pytest.mark.parametrize("plastic", ["head", "all"])
def test_a_vanishing_rate_leaves_the_learner_as_it_was(small, plastic):
    parent = untrained(**HEAD)
    config = MetaTest(
        plastic=plastic, start="kept", optimiser="sgd", rates=(1e-30,), trials=1, trajectories=1, neighbours=1,
        tasks=(EVALUATION,), iid_tasks=(EVALUATION,), pool=EVALUATION,
    )  # fmt: skip
    metrics = meta_test.train(config, (0, 1), Memory(), parent).metrics
    drawings = omniglot.scale(made_up("evaluation", 28), "unit")
    learner, rule = first_learner(parent)
    right = scores(learner, rule, jnp.asarray(drawings.reshape(-1, 28, 28, 1))).argmax(1).reshape(EVALUATION, DRAWINGS)
    right = np.asarray(right) == np.arange(EVALUATION)[:, None]
    for kind, part in (("train", right[:, :LEARNED]), ("test", right[:, LEARNED:])):
        for name in (kind, f"iid_{kind}"):
            assert metrics[f"{name}_{EVALUATION}"][0] == pytest.approx(part.mean(), abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"channels": 5}, {"nm_channels": 3}, HEAD, {"hidden": 6}, {"outputs": 41}],
    ids=lambda changes: next(iter(changes)),
)
def test_the_checkpoint_of_another_network_is_refused(parent, changes):
    other = MetaTrain(**TRAIN | {"objective": "none"} | changes)
    with pytest.raises(RefigureError) as fault:
        meta_test.train(MetaTest(**TEST), (0, 1), Memory(), finished(other, parent.parameters))
    assert "\n" not in str(fault.value)


def test_other_seeds_than_the_parents_are_refused(parent):
    with pytest.raises(RefigureError, match="shape"):
        meta_test.train(MetaTest(**TEST), (0, 1, 2), Memory(), parent)


def test_too_few_outputs_for_the_evaluation_classes_are_refused(small):
    """A label beyond the output layer has no score."""
    with pytest.raises(RefigureError, match="outputs"):
        meta_test.train(MetaTest(**TEST), (0, 1), Memory(), untrained(outputs=TEST["pool"] - 1))


@pytest.mark.slow
@pytest.mark.data("omniglot")
def test_real_drawings_from_end_to_end(monkeypatch):
    monkeypatch.setitem(NETWORKS, "anml", LEAST)
    config = MetaTrain(**TRAIN | HEAD | {"outputs": 1000})
    parent = finished(config, meta_train.train(config, (0,), Memory()).parameters)
    outcome = meta_test.train(MetaTest(**TEST | {"pool": 650, "iid_tasks": (6,)}), (0,), Memory(), parent)
    assert all(np.isfinite(values).all() for values in outcome.metrics.values())
    assert outcome.metrics["knn_representation"][0] > 0.02  # chance: 1 in 659
