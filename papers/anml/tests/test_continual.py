"""Sequences of drawings, and learning from them one at a time."""

import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import agree

from papers.anml.config import MetaTest
from papers.anml.continual import Course, _advance, draw, learn
from papers.anml.meta_learning import Dense, cross_entropy, logits
from papers.anml.meta_test import Subject, _choose_and_learn
from papers.anml.omniglot import DRAWINGS, LEARNED

CLASSES, WIDTH = 12, 5


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(number) for number in range(count)]


def scores(head: tuple[Dense, ...], h: jax.Array) -> jax.Array:
    return logits(head, h[None])[0]


def course(optimiser: Callable = optax.adam, hidden: bool = False) -> Course:
    """Noisy clusters, one for each class."""
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((CLASSES, 1, WIDTH))
    inputs = (centres + 0.5 * rng.standard_normal((CLASSES, DRAWINGS, WIDTH))).reshape(-1, WIDTH)
    sizes = [WIDTH, 8, CLASSES] if hidden else [WIDTH, CLASSES]
    head = tuple(
        Dense(jnp.asarray(0.3 * rng.standard_normal((b, a))), jnp.zeros(b)) for a, b in itertools.pairwise(sizes)
    )
    labels = jnp.repeat(jnp.arange(CLASSES), DRAWINGS)
    return Course(scores, head, jnp.asarray(inputs), labels, optimiser)


# --- what is shown -------------------------------------------------------------------------------------------


def test_sequences_show_every_learned_drawing_once_class_after_class():
    sequences = draw(rngs(4), pool=9, tasks=6, learned=LEARNED)
    assert sequences.classes.shape == (4, 6)
    shown = sequences.sequential(DRAWINGS).reshape(4, 6, LEARNED)
    for classes, blocks in zip(sequences.classes, shown, strict=True):
        assert len(set(classes.tolist())) == 6
        assert set(classes.tolist()) <= set(range(9))
        for number, block in zip(classes, blocks, strict=True):
            assert (block // DRAWINGS == number).all()
            assert sorted(block % DRAWINGS) == list(range(LEARNED))  # so none that is held out
    assert len({tuple(block % DRAWINGS) for blocks in shown for block in blocks}) == 24


@pytest.mark.parametrize("tasks", [1, 3])
def test_every_epoch_shuffles_the_same_drawings_anew(tasks):
    sequences = draw(rngs(2), pool=9, tasks=3, learned=LEARNED, epochs=4)
    assert sequences.times.shape == (2, 4, 3, LEARNED)
    shuffled = sequences.shuffled(tasks, DRAWINGS).reshape(2, 4, -1)
    expected = (sequences.classes[:, :tasks, None] * DRAWINGS + np.arange(LEARNED)).reshape(2, 1, -1)
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(expected.repeat(4, 1)))
    assert len({tuple(epoch) for member in shuffled for epoch in member}) == 8
    if tasks == 1:  # the sequence is the first epoch
        np.testing.assert_array_equal(shuffled[:, 0], sequences.sequential(DRAWINGS)[:, :LEARNED])


@pytest.mark.parametrize("tasks", [1, 2, 6])
def test_shuffled_sequences_show_the_same_drawings(tasks):
    sequences = draw(rngs(3), pool=9, tasks=6, learned=LEARNED)
    shuffled, sequential = sequences.shuffled(tasks, DRAWINGS), sequences.sequential(DRAWINGS)[:, : tasks * LEARNED]
    assert shuffled.shape == sequential.shape
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(sequential))
    assert (shuffled % DRAWINGS < LEARNED).all()
    if tasks == 1:
        np.testing.assert_array_equal(shuffled, sequential)
    else:
        assert (shuffled != sequential).any(axis=1).all()
        classes = shuffled // DRAWINGS
        assert (np.diff(classes) != 0).sum(1).min() > tasks  # mixed


def test_shuffled_order_is_fair():
    """Each class is as often in the first half as in the second."""
    sequences = draw(rngs(400), pool=2, tasks=2, learned=LEARNED)
    first = (sequences.shuffled(2, DRAWINGS)[:, :LEARNED] // DRAWINGS == 0).mean()
    assert first == pytest.approx(0.5, abs=0.02)
    assert sequences.classes[:, 0].mean() == pytest.approx(0.5, abs=0.1)


def test_trajectories_depend_on_their_generators_alone():
    three, one = draw(rngs(3), 9, 6, LEARNED), draw(rngs(1), 9, 6, LEARNED)
    for part in ("classes", "times"):
        np.testing.assert_array_equal(getattr(three, part)[:1], getattr(one, part))


# --- learning ------------------------------------------------------------------------------------------------


def plan(members: int, tasks: int = 3):
    sequences = draw(rngs(members), CLASSES, tasks, LEARNED)
    measured = (sequences.classes[..., None] * DRAWINGS + np.arange(DRAWINGS)).reshape(members, -1)
    return sequences.sequential(DRAWINGS), np.geomspace(1e-3, 3e-2, members), measured


def plainly(course: Course, shown: np.ndarray, rate: float):
    """The parameters after every drawing shown, by the book."""
    optimiser = course.optimiser(rate)
    parameters = course.start
    state = optimiser.init(parameters)

    @jax.jit
    def step(parameters, state, x, label):
        slope = jax.grad(lambda p: cross_entropy(course.scores(p, x)[None], label[None]).mean())(parameters)
        updates, state = optimiser.update(slope, state, parameters)
        return optax.apply_updates(parameters, updates), state

    for index in shown:
        parameters, state = step(parameters, state, course.inputs[index], course.labels[index])
    return parameters


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("optimiser", "hidden"),
    [
        pytest.param(optax.adam, False, marks=pytest.mark.slow),
        (optax.adam, True),
        pytest.param(optax.sgd, True, marks=pytest.mark.slow),
    ],
)
def test_learning_is_the_plain_loop(optimiser, hidden):
    its = course(optimiser, hidden)
    shown, rates, measured = plan(2)
    right = learn(its, shown, rates, measured, [15, 45])
    assert right.shape == (2, 2, measured.shape[1])
    state = jax.vmap(lambda _: (its.start, its.optimiser(0.0).init(its.start)))(jnp.arange(2))
    final, _ = _advance((its, jnp.asarray(rates)), state, jnp.asarray(shown))
    for member, rate in enumerate(rates):
        for number, steps in enumerate((15, 45)):
            parameters = plainly(its, shown[member, :steps], rate)
            actual = jax.vmap(partial(its.scores, parameters))(its.inputs[measured[member]]).argmax(1)
            np.testing.assert_array_equal(right[member, number], actual == its.labels[measured[member]])
        agree(jax.tree.map(lambda array, member=member: array[member], final), parameters, 1e-10)


def test_measuring_on_the_way_changes_nothing():
    its, (shown, rates, measured) = course(), plan(2)
    both = learn(its, shown, rates, measured, [15, 30])
    np.testing.assert_array_equal(both[:, :1], learn(its, shown, rates, measured, [15]))
    np.testing.assert_array_equal(both[:, :1], learn(its, shown[:, :15], rates, measured, [15]))
    np.testing.assert_array_equal(both[:, 1:], learn(its, shown, rates, measured, [30]))
    np.testing.assert_array_equal(both, learn(its, shown, rates, measured, [10, 15, 30])[:, 1:])


def test_what_is_shown_after_the_last_measurement_is_not_learned():
    its, (shown, rates, measured) = course(), plan(2)
    other = shown.copy()
    other[:, 30:] = 0
    a, b = (learn(its, order, rates, measured, [30]) for order in (shown, other))
    np.testing.assert_array_equal(a, b)


def test_members_are_independent():
    its, (shown, rates, measured) = course(), plan(3)
    together = learn(its, shown, rates, measured, [15, 45])
    for member in range(3):
        one = slice(member, member + 1)
        np.testing.assert_array_equal(together[one], learn(its, shown[one], rates[one], measured[one], [15, 45]))
    order = [2, 0, 1]
    np.testing.assert_array_equal(together[order], learn(its, shown[order], rates[order], measured[order], [15, 45]))


def test_all_at_once_is_one_after_the_other(monkeypatch):
    """As on a GPU."""
    its, (shown, rates, measured) = course(), plan(3)
    expected = learn(its, shown, rates, measured, [45])
    other = course()._replace(scores=lambda head, h: scores(head, h))  # another function: compiled anew
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(learn(other, shown, rates, measured, [45]), expected)


def test_a_course_can_be_taken_again():
    """Nothing of it is used up."""
    its, (shown, rates, measured) = course(), plan(2)
    a, b = (learn(its, shown, rates, measured, [15, 30]) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert np.isfinite(np.asarray(its.start[0].w)).all()


# --- choosing rates ------------------------------------------------------------------------------------------


def test_one_class_in_sequence_is_one_class_shuffled():
    config = MetaTest(tasks=(1, 3), iid_tasks=(1, 3), pool=CLASSES, rates=(1e-2, 1e-3))
    trials, final = (draw([np.random.default_rng(s + i) for i in range(3)], CLASSES, 3, LEARNED) for s in (0, 50))
    subject = Subject({}, course(), trials, final)
    sequential = _choose_and_learn(config, lambda _: subject, 0, None)
    shuffled = _choose_and_learn(config, lambda _: subject, 0, 1)
    for name in ("train", "test"):
        np.testing.assert_array_equal(sequential[name][:, :1], shuffled[name])
    np.testing.assert_array_equal(sequential["trial_train"][..., :1], shuffled["trial_train"])
    assert sequential["rates"][0] == shuffled["rates"][0]


def test_the_rate_of_the_best_mean_training_accuracy_is_used():
    config = MetaTest(tasks=(1, 3), iid_tasks=(3,), pool=CLASSES, rates=(1e-7, 3e-2, 1e-3))
    trials, final = (draw([np.random.default_rng(s + i) for i in range(3)], CLASSES, 3, LEARNED) for s in (0, 50))
    actual = _choose_and_learn(config, lambda _: Subject({}, course(), trials, final), 0, None)
    assert actual["trial_train"].shape == (3, 3, 2)
    best = actual["trial_train"].mean(0).argmax(0)
    np.testing.assert_array_equal(actual["rates"], np.asarray(config.rates)[best])
    for index, (count, rate) in enumerate(zip(config.tasks, actual["rates"], strict=True)):
        drawings = final.classes[:, :count, None] * DRAWINGS + np.arange(DRAWINGS)
        right = learn(
            course(), final.sequential(DRAWINGS), np.full(3, rate), drawings.reshape(3, -1), [LEARNED * count]
        )
        right = right.reshape(3, count, DRAWINGS)
        np.testing.assert_allclose(actual["train"][:, index], right[..., :LEARNED].mean((1, 2)))
        np.testing.assert_allclose(actual["test"][:, index], right[..., LEARNED:].mean((1, 2)))
    np.testing.assert_allclose(actual["by_order"], right[..., LEARNED:].mean(2))


def test_the_oracle_learns_in_all_its_epochs():
    """Of rates far too small for one pass, the accuracies on the drawings learned rise with the passes."""
    actual = []
    for epochs in (1, 6):
        config = MetaTest(tasks=(3,), iid_tasks=(3,), pool=CLASSES, rates=(3e-3,), iid_epochs=epochs)
        trials, final = (
            draw([np.random.default_rng(s + i) for i in range(2)], CLASSES, 3, LEARNED, epochs) for s in (0, 50)
        )
        subject = Subject({}, course(), trials, final)
        actual.append(_choose_and_learn(config, lambda _, subject=subject: subject, 0, 3)["train"].mean())
    assert actual[1] > actual[0] + 0.1
