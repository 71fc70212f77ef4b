"""Episodes and baselines' evaluation: what streams hold, and how accuracy is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from papers.vsml import tasks
from papers.vsml.config import VSML, Descent, Hebbian, MetaTest, Unroll
from papers.vsml.meta_train import draw_episodes
from papers.vsml.streams import Stream, condition, correct_predictions, cumulative, seen_again, summarise
from papers.vsml.tasks import Episodes


def some_images(side: int = 4, count: int = 40, repeats: bool = False) -> Episodes:
    """Images whose every pixel is their number."""
    images = jnp.broadcast_to(jnp.arange(float(count))[:, None], (count, side**2))
    return Episodes("mnist", side, images, jnp.arange(count) % 10, repeats)


def test_test_episodes_have_no_image_twice() -> None:
    x, labels = some_images().draw(jax.random.key(0), 40)
    assert sorted(np.asarray(x[:, 0]).tolist()) == list(range(40))
    np.testing.assert_array_equal(labels, x[:, 0].astype(int) % 10)


def test_random_has_twenty_images_again_and_again() -> None:
    x, labels = Episodes("random", 5).draw(jax.random.key(0), 300)
    images = {image.tobytes(): set() for image in np.asarray(x)}
    for image, label in zip(np.asarray(x), np.asarray(labels), strict=True):
        images[image.tobytes()].add(int(label))
    assert len(images) == 20
    assert all(len(actual) == 1 for actual in images.values())


def test_sum_sign_is_the_sign_of_the_sum() -> None:
    x, labels = Episodes("sum-sign", 5).draw(jax.random.key(0), 200)
    np.testing.assert_array_equal(labels, np.asarray(x).sum(1) >= 0)
    assert 0.3 < float(labels.mean()) < 0.7


def test_omniglot_has_ten_characters_of_twenty_drawings() -> None:
    source = Episodes("omniglot", 3, jnp.broadcast_to(jnp.arange(60 * 20.0)[:, None], (1200, 9)), jnp.zeros(1200, int))
    x, labels = source.draw(jax.random.key(0), 200)
    drawing = np.asarray(x[:, 0]).astype(int)
    assert len(set(drawing)) == 200
    characters = {label: set(drawing[np.asarray(labels) == label] // 20) for label in range(10)}
    assert all(len(actual) == 1 for actual in characters.values())
    assert len(set.union(*characters.values())) == 10


def test_blocks_are_averaged_and_other_sizes_interpolated() -> None:
    images = np.random.default_rng(0).random((2, 28, 28)).astype("f")
    small = tasks.resize(images, 7)
    np.testing.assert_allclose(small[1, 2, 3], images[1, 8:12, 12:16].mean(), rtol=1e-6)
    assert tasks.resize(images, 48).shape == (2, 48, 48)
    np.testing.assert_allclose(tasks.resize(np.ones((1, 28, 28), "f"), 21), 1, rtol=1e-6)


def test_projections_are_linear_and_keep_the_variance() -> None:
    """U(+-l) with l^2 = 3 / A has the variance 1 / A: inputs of variance 1 keep it."""
    x = jax.random.normal(jax.random.key(0), (200, 400))
    projected = tasks.project(jax.random.key(1), x)
    assert abs(float(projected.var()) - 1) < 0.05
    np.testing.assert_allclose(
        tasks.project(jax.random.key(1), x[:3] + x[3:6]), projected[:3] + projected[3:6], atol=1e-4
    )


def test_episodes_take_turns_and_half_are_projected() -> None:
    sources = (some_images(), Episodes("random", 4))
    config = VSML(tasks=("mnist", "random"), sides=(4,), lengths=(6,), iterations=(1,), rates=(0.1,))
    x, labels = draw_episodes(config, sources, jax.random.key(0), 8, 6)
    assert x.shape == (6, 8, 16)
    assert labels.shape == (6, 8)
    plain = [bool((x[:, e] == x[:, e, :1]).all()) for e in range(4)]
    assert plain == [False, False, True, True]
    again, _ = draw_episodes(config, sources, jax.random.key(0), 8, 6)
    np.testing.assert_array_equal(x, again)


def test_accuracy_is_of_all_predictions_so_far() -> None:
    right = np.array([[[1, 0, 1, 1], [0, 0, 0, 1]]])
    curves = cumulative(right)
    np.testing.assert_allclose(curves[0], [[1, 1 / 2, 2 / 3, 3 / 4], [0, 0, 0, 1 / 4]])
    actual = summarise(curves.mean(1), (2, 4, 9))
    assert {name: values.tolist() for name, values in actual.items()} == {"2": [0.25], "4": [0.5], "end": [0.5]}


def test_runs_are_of_their_seed_and_together_or_not() -> None:
    """A learner that knows the last label: right where labels repeat."""

    def last(params: jax.Array, key: jax.Array, x: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.zeros_like(labels[:1]), labels[:-1]]) * params

    stream, params = Stream(some_images(), 10), jnp.array([1.0, 1.0])
    both = correct_predictions(last, params, stream, [3, 5], 4, 30, batch_size=2)
    assert both.shape == (2, 4, 30)
    np.testing.assert_array_equal(both[1:], correct_predictions(last, params[1:], stream, [5], 4, 30, batch_size=2))
    assert 0 < both.mean() < 0.3
    np.testing.assert_array_equal(both, correct_predictions(last, params, stream, [3, 5], 4, 30))
    assert not np.array_equal(both, correct_predictions(last, params, stream, [3, 5], 4, 30, "trial"))


def test_a_second_look_comes_after_nine_other_images() -> None:
    """A learner that remembers one image's label ten examples later knows every second look and no first one."""

    def ten_ago(params: jax.Array, keys: jax.Array, x: jax.Array, labels: jax.Array) -> jax.Array:
        return 20 * jnp.concatenate([jnp.zeros_like(labels[:10]), labels[:-10]])

    def last(params: jax.Array, keys: jax.Array, x: jax.Array, labels: jax.Array) -> jax.Array:
        return 20 * jnp.concatenate([jnp.zeros_like(labels[:1]), labels[:-1]])

    stream = Stream(some_images(), 10)
    again, p, labels = seen_again(ten_ago, jnp.zeros(2), stream, [3, 5], 3, 20)
    assert again.shape == (2, 3, 20, 2)
    assert (again[..., 1] > 0.99).all()
    assert again[..., 0].mean() < 0.4
    assert p.shape == (2, 40, 10)
    np.testing.assert_array_equal(labels[:, :10], labels[:, 10:20])
    assert seen_again(last, jnp.zeros(2), stream, [3, 5], 3, 20)[0][..., 1].mean() < 0.4


def test_five_classes_are_numbered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "load", lambda name, split, side: some_images(side))
    stream = condition("five classes", "mnist")
    assert stream.outputs == 5
    old = np.asarray(stream.source.images[:, 0]).astype(int) % 10
    assert [int(np.asarray(stream.source.labels)[old == digit][0]) for digit in (5, 8, 1, 4, 2)] == [0, 1, 2, 3, 4]
    assert condition("48 pixels", "mnist").source.inputs == 48**2
    x = jnp.arange(12.0).reshape(2, 6)
    shuffled = condition("shuffled", "mnist").change(jax.random.key(0), x)
    np.testing.assert_array_equal(np.sort(shuffled, 1), x)
    np.testing.assert_array_equal(shuffled[1] - shuffled[0], 6)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: VSML(sides=(4, 7)), "one value a stage"),
    (lambda: Hebbian(sides=(4, 7), lengths=(1, 1), iterations=(1, 1), rates=(1.0, 1.0)), "one size"),
    (lambda: VSML(message=1), "second number"),
    (lambda: VSML(tasks=("omniglot",)), "at most 200"),
    (lambda: VSML(projected=1.5), "share"),
    (lambda: VSML(episodes=0), "episodes must be positive"),
    (lambda: MetaTest(conditions=("upside down",)), "no 'upside down'"),
    (lambda: MetaTest(tasks=()), "at least one data set"),
    (lambda: MetaTest(again=7), "multiple of 10"),
    (lambda: VSML(sides=(), lengths=(), iterations=(), rates=()), "at least one stage"),
    (lambda: VSML(clip=1.0), "means nothing to evolution"),
    (lambda: Descent(rates=(0.1, -1.0)), "rates must be positive"),
    (lambda: Descent(width=-1), "width"),
    (lambda: Descent(conditions=("shuffled",)), "meta-learned"),
    (lambda: Unroll(length=700), "multiple of window"),
    (lambda: Unroll(hidden=(0,)), "widths"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
