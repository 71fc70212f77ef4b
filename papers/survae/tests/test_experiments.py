"""Experiments B and C: their data, parts of their models against theory, and small trainings end to end."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from memory_recorder import resumes

from common.train.recorder import Outcome
from common.train.trees import flatten_jax
from papers.survae.bijections import AffineCoupling
from papers.survae.config import Images, Points
from papers.survae.distributions import DiagonalNormal, StandardNormal
from papers.survae.flow import Flow, bits_per_dim, iwbo
from papers.survae.images import augmented, image_flow
from papers.survae.images import learning_rate as image_rate
from papers.survae.nets import MLP, Dropout
from papers.survae.rearrangements import Reverse
from papers.survae.spatial import learning_rate, point_flow, point_sets
from papers.survae.stochastic import StochasticPermutation
from papers.survae.surjections import Sort
from papers.survae.tests.conftest import filled
from papers.survae.training import epoch_order, fit
from papers.survae.transforms import Compose, Stack

KEY = jax.random.key(11)
x64 = pytest.mark.usefixtures("x64")


def points(model: str, **changes) -> Points:
    small = {"points": 4, "blocks": 2, "width": 4, "heads": 2, "depth": 1, "feed_forward": 8, "dropout": 0.0}
    return Points(model, **small | {"train_sets": 40, "batch": 8, "steps": 6} | changes)


def images(model: str, **changes) -> Images:
    small = {"layers": 1, "mid": 4, "depth": 1, "growth": 2, "noise_layers": 1, "context": 2}
    return Images(model, "mnist", **small | {"train_images": 40, "batch": 8, "steps": 6} | changes)


def test_points_lie_in_the_ink_in_proportion_to_it() -> None:
    picture = np.zeros((1, 28, 28), np.uint8)
    picture[0, 3, 5], picture[0, 20, 7] = 50, 150
    [sets] = point_sets(picture, 4000, np.random.default_rng(0))
    cells = np.stack((np.floor(sets[:, 0]), np.floor(28 - sets[:, 1])), 1).astype(int)
    assert {*map(tuple, cells.tolist())} == {(5, 3), (7, 20)}
    assert (cells[:, 0] == 7).mean() == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 4000))
    assert (sets % 1).mean(0) == pytest.approx([0.5, 0.5], abs=4 / math.sqrt(12 * 4000))


def test_a_stack_is_its_layers_one_after_the_other() -> None:
    def make(key):
        return Compose([AffineCoupling(MLP(1, (3,), 2, key=key), "softplus"), Reverse()])

    stack = Stack(make, 3, key=KEY)
    plain = Compose([make(key) for key in jax.random.split(KEY, 3)])
    x = jax.random.normal(KEY, (5, 2))
    for ours, expected in zip(stack.forward(x), plain.forward(x), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_allclose(stack.inverse(x), plain.inverse(x), atol=1e-5)


def test_dropout_keeps_means() -> None:
    x = jnp.ones((301, 333))
    dropped = Dropout(0.2)(x, KEY)
    assert float((dropped == 0).mean()) == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / x.size))
    assert float(dropped.max()) == pytest.approx(1.25, rel=1e-4)
    np.testing.assert_array_equal(Dropout(0.0)(x, None), x)


@x64
def test_sorting_by_enumeration() -> None:
    """-log L!: the L! orders of a set share the density of the sorted one."""
    base = StandardNormal((2, 3))
    flow = Flow(base, [Sort(element=0)])
    x = jax.random.normal(KEY, (1, 2, 3))
    orders = jnp.stack([x[0][:, list(order)] for order in itertools.permutations(range(3))])
    total = jnp.exp(jax.jit(flow.log_prob)(orders)).sum()
    in_order = orders[np.argmin([*map(float, (jnp.diff(o[0]).min() < 0 for o in orders))])]
    np.testing.assert_allclose(total, jnp.exp(base.log_prob(in_order[None]))[0], rtol=1e-12)


@x64
def test_stochastic_permutation_by_enumeration() -> None:
    """A bound of many draws nears the mean density of all L! orders, which is what the layer makes of a base."""

    class Ordered(StandardNormal):
        def log_density(self, x):
            return super().log_density(x - jnp.arange(3.0))

    base = Ordered((3,))
    x = jnp.array([[0.3, -0.5, 1.9]])
    orders = jnp.stack([x[0, list(order)] for order in itertools.permutations(range(3))])
    exact = jax.nn.logsumexp(base.log_prob(orders)) - math.log(6)
    flow = Flow(base, [StochasticPermutation()])
    np.testing.assert_allclose(iwbo(flow, x, 4000, KEY, 500)[0], exact, atol=0.05)


def test_a_diagonal_normal_is_a_normal_for_each_channel() -> None:
    base = filled(DiagonalNormal, (2, 3, 1))
    x = jax.random.normal(KEY, (4, 2, 3, 1))
    scale = jnp.exp(base.log_scale)
    expected = jax.scipy.stats.norm.logpdf(x, base.mean, scale).sum((1, 2, 3))
    np.testing.assert_allclose(base.log_prob(x), expected, rtol=1e-5)
    draws = base.sample(KEY, 4000)
    np.testing.assert_allclose(draws.mean((0, 2, 3)), base.mean[:, 0, 0], atol=0.1)


@pytest.mark.parametrize("model", ["sort", "permute", "control"])
def test_point_flows_train_resume_and_sample(model: str) -> None:
    config = points(model)
    sets = point_sets(np.full((40, 28, 28), 9, np.uint8), config.points, np.random.default_rng(0))

    def train(recorder):
        flows = fit(
            lambda key: point_flow(config, key), sets, optax.adam(learning_rate(config)), (3,),
            steps=6, batch=8, chunk=2, recorder=recorder,
        )  # fmt: skip
        recorder.flows = flows
        return flat(flows)

    _, recorder = resumes(train, stop_at=2)
    flow = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, recorder.flows)
    assert flow.exact is (model != "permute")
    x, key = jnp.asarray(sets[:3]), KEY if model == "permute" else None
    log_p = eqx.filter_jit(lambda flow, x: flow.log_prob(x, key))
    if model != "permute":
        same = (log_p(flow, x) == log_p(flow, x[:, ::-1])).all()
        assert bool(same) is (model == "sort")
    assert flow.sample(KEY, 5).shape == (5, config.points, 2)


def flat(flows):
    """The parameters as an outcome, to be compared."""
    return Outcome({}, parameters=flatten_jax(flows))


@pytest.mark.parametrize(("model", "noise"), [("maxpool", "uniform"), ("slice", "variational")])
def test_image_flows_have_finite_bounds_and_sample_bytes(model: str, noise: str) -> None:
    config = images(model, dequantization=noise)
    flow = eqx.filter_jit(lambda key: image_flow(config, 1, key))(KEY)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32)), jnp.uint8)
    value = eqx.filter_jit(lambda flow, x: flow.log_prob(x, KEY))(flow, x)
    assert flow.lower_bound
    assert (bits_per_dim(value, 32 * 32) > 8).all()
    assert np.isfinite(value).all()
    samples = eqx.filter_jit(lambda flow: flow.sample(KEY, 3))(flow)
    assert samples.shape == (3, 1, 32, 32)
    assert 0 <= samples.min() <= samples.max() <= 255


def test_both_image_flows_have_as_many_parameters() -> None:
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(eqx.filter_eval_shape(image_flow, images(model), 3, KEY)))
        for model in ("maxpool", "slice")
    ]
    assert sizes[0] == sizes[1]


def test_augmentation_shifts_by_a_pixel_and_mirrors() -> None:
    x = jnp.arange(16.0).reshape(1, 1, 4, 4)
    many = np.asarray(augmented(jnp.repeat(x, 400, 0), KEY))
    centres = {tuple(image[0, 1:3, 1:3].ravel().tolist()) for image in many}
    assert len(centres) == 18
    assert many.shape == (400, 1, 4, 4)
    assert set(np.unique(many)) <= set(range(16))


def test_every_example_once_an_epoch() -> None:
    order = epoch_order(100, 7, 16)
    assert sorted(order[:7]) == sorted(order[7:14]) == [*range(7)]
    assert (order[:7] != order[7:14]).any()


def test_learning_rates() -> None:
    rate = learning_rate(points("sort", warm_up=2, decay=0.5))
    np.testing.assert_allclose([rate(step) for step in (0, 1, 4, 5)], [5e-4, 1e-3, 1e-3, 5e-4])
    rate = image_rate(images("slice", warm_up=0, decay=0.5, steps=10, extra_steps=2, extra_rate=3e-5))
    np.testing.assert_allclose([rate(step) for step in (0, 5, 10)], [1e-3, 5e-4, 3e-5], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "changes", "named"),
    [
        (points, {"points": 3}, "points must be even"),
        (points, {"heads": 3}, "heads 3 must divide width 4"),
        (points, {"dropout": 1.0}, "dropout"),
        (points, {"batch": 41}, "batch 41"),
        (points, {"steps": 0}, "steps"),
        (images, {"scales": 5}, "scales"),
        (images, {"rate": 0.0}, "rate"),
        (images, {"decay": 0.0}, "decay"),
        (images, {"extra_steps": -1}, "extra_steps"),
        (images, {"k": 0}, "k must be"),
    ],
)
def test_impossible_settings_are_refused(make, changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make("maxpool" if make is images else "sort", **changes)
