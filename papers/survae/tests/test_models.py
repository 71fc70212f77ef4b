"""Whole models and their nets: densities that integrate to one, symmetries, edges, bounds, compilation."""

import itertools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import RefigureError
from papers.survae.bijections import ActNorm, Affine, AffineCoupling
from papers.survae.densities import DENSITIES
from papers.survae.distributions import ConditionalNormal, StandardNormal
from papers.survae.flow import Flow, bits_per_dim, iwbo, ppll
from papers.survae.models import toy_absflow, toy_flow
from papers.survae.nets import MLP, DenseTransformer
from papers.survae.rearrangements import Permute, Reverse, Shuffle
from papers.survae.stochastic import VAE, StochasticPermutation
from papers.survae.surjections import Abs, Sort
from papers.survae.tests.conftest import filled

KEY = jax.random.key(5)
HIDDEN = (16, 8)

x64 = pytest.mark.usefixtures("x64")
every = pytest.mark.parametrize("density", DENSITIES)
# One of each kind: the other densities have the same models.
kinds = pytest.mark.parametrize(
    ("make", "density"),
    [
        pytest.param(toy_flow, "checkerboard", marks=pytest.mark.slow),
        pytest.param(toy_flow, "corners", marks=pytest.mark.slow),
        (toy_absflow, "checkerboard"),
        (toy_absflow, "corners"),
        pytest.param(toy_absflow, "eight_gaussians", marks=pytest.mark.slow),
    ],
)
bounded = pytest.mark.parametrize("density", ["checkerboard", "corners", "four_circles"])

log_prob = eqx.filter_jit(lambda flow, x: flow.log_prob(x))
apply = eqx.filter_jit(lambda net, x, key=None: net(x, key=key))


def points(density: str, n: int = 200) -> np.ndarray:
    return DENSITIES[density].sample(n, np.random.default_rng(1))


def grid(edge: float, cells: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints and areas over [-edge, edge]^2, or over the plane, denser at the axes."""
    if edge == np.inf:
        y = -16 + 41 * (np.arange(cells // 2) + 0.5) / (cells // 2)
        line, length = np.log1p(np.exp(y)), 41 / (cells // 2) / (1 + np.exp(-y))
        line, length = np.concatenate((-line[::-1], line)), np.concatenate((length[::-1], length))
    else:
        line, length = edge * ((np.arange(cells) + 0.5) * 2 / cells - 1), np.full(cells, 2 * edge / cells)
    x = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return x, np.outer(length, length).ravel()


# --- the toy models ----------------------------------------------------------------------------------------


@x64
@pytest.mark.parametrize(
    ("make", "density", "edge"),
    [
        (toy_flow, "checkerboard", 12),
        (toy_flow, "corners", 30),
        (toy_absflow, "checkerboard", 4),
        (toy_absflow, "corners", 4),
        (toy_absflow, "eight_gaussians", np.inf),
    ],
)
def test_density_integrates_to_one_and_samples_follow_it(make: Callable, density: str, edge: float) -> None:
    flow = filled(make, density, KEY, HIDDEN, std=0.25)
    assert flow.exact
    assert not flow.lower_bound
    x, area = grid(edge)
    log_p = np.asarray(log_prob(flow, jnp.asarray(x)))
    mass = np.exp(log_p) * area
    assert mass.sum() == pytest.approx(1, abs=2e-3)
    entropy = -(mass[mass > 0] * log_p[mass > 0]).sum()
    surprise = -log_prob(flow, eqx.filter_jit(flow.sample)(KEY, 10_000))
    assert abs(surprise.mean() - entropy) < 4 * surprise.std() / math.sqrt(10_000) + 0.01


@every
def test_absflow_is_symmetric_to_the_last_bit(density: str) -> None:
    double = density == "corners"
    with jax.enable_x64(double):
        flow = filled(toy_absflow, density, KEY, HIDDEN, std=0.25)
        x = jnp.asarray(points(density), float)
        assert log_prob(flow, x).dtype == x.dtype == (jnp.float64 if double else jnp.float32)
        for axis in DENSITIES[density].mirror_axes:
            flipped = x * np.where(np.arange(2) == axis, -1, 1)
            np.testing.assert_array_equal(log_prob(flow, flipped), log_prob(flow, x))


def test_checkerboard_absflow_is_a_classifier_on_a_uniform() -> None:
    flow = filled(toy_absflow, "checkerboard", KEY)
    x = points("checkerboard")
    both = log_prob(flow, x), log_prob(flow, x * np.array([-1, 1], np.float32))
    np.testing.assert_allclose(np.exp(both[0]) + np.exp(both[1]), 1 / 32, rtol=1e-5)


@bounded
def test_density_vanishes_outside(density: str) -> None:
    flow = filled(toy_absflow, density, KEY, HIDDEN, std=0.25)
    x = jnp.array([[4.001, 1.0], [1.0, -4.001], [-9.0, 30.0], [0.5, 0.5]])
    assert np.isneginf(log_prob(flow, x)).tolist() == [True, True, True, False]


@kinds
def test_edges_and_outliers_have_finite_gradients(make: Callable, density: str) -> None:
    flow = filled(make, density, KEY, HIDDEN, std=0.25)
    edge = [0.0, -0.0, 1e-38, 1e-9, 4.0, -4.0, 3.9999998, 4.1, -5.0, 1.0]
    x = jnp.array([[a, b] for a in edge for b in edge])
    values = log_prob(flow, x)
    inside = (jnp.abs(x) <= 4).all(1)
    assert np.isfinite(values[inside]).all()
    assert not np.isnan(values).any()
    loss = lambda flow, x: flow.log_prob(x).sum()  # noqa: E731
    gradient = eqx.filter_jit(lambda flow, x: jax.grad(loss, argnums=(0, 1))(flow, x))(flow, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@kinds
def test_arrays_are_the_parameters(make: Callable, density: str) -> None:
    flow = filled(make, density, KEY)
    arrays = jax.tree.leaves(flow)
    assert all(eqx.is_inexact_array(leaf) for leaf in arrays)
    classifier = make is toy_absflow and density == "checkerboard"
    net = lambda d, e: 200 * d + 200 + 200 * 100 + 100 + 100 * e + e  # noqa: E731
    assert sum(leaf.size for leaf in arrays) == (net(2, 1) if classifier else 4 * net(1, 2))


def test_layers_are_the_papers() -> None:
    names = lambda flow: [type(layer).__name__ for layer in flow.transforms]  # noqa: E731
    couplings = ["AffineCoupling", "Reverse"] * 3 + ["AffineCoupling"]
    build = lambda make, density: filled(make, density, KEY, (3,))  # noqa: E731
    assert names(build(toy_flow, "corners")) == couplings
    assert names(build(toy_absflow, "corners")) == ["Abs", "Affine", "Logit", *couplings]
    assert names(build(toy_absflow, "eight_gaussians")) == ["Abs", "SoftplusInverse", *couplings]
    assert names(build(toy_absflow, "checkerboard")) == ["SignedAbs", "Affine"]
    for density in DENSITIES:
        expected = "exp" if density == "checkerboard" else "softplus"
        assert build(toy_flow, density).transforms[0].scale_fn == expected
    with pytest.raises(RefigureError, match="corners"):
        toy_flow("corner", KEY)


@kinds
def test_stacked_models_compute_what_single_ones_do(make: Callable, density: str) -> None:
    x = points(density)
    stacked = eqx.filter_jit(eqx.filter_vmap(lambda key: make(density, key, HIDDEN)))(jax.random.split(KEY, 3))
    together = eqx.filter_jit(eqx.filter_vmap(lambda flow: flow.log_prob(x)))(stacked)
    assert (together[0] != together[1]).any()
    for i, ours in enumerate(together):
        alone = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], stacked)
        np.testing.assert_allclose(ours, log_prob(alone, x), rtol=2e-5, atol=2e-5)


def test_training_runs_under_vmap_and_scan() -> None:
    x = jnp.asarray(points("corners", 256))

    @jax.jit
    @jax.vmap
    def train(key):
        parameters, static = eqx.partition(toy_absflow("corners", key, HIDDEN), eqx.is_inexact_array)

        def step(parameters, _):
            loss = lambda p: -eqx.combine(p, static).log_prob(x).mean()  # noqa: E731
            value, gradient = jax.value_and_grad(loss)(parameters)
            return jax.tree.map(lambda p, g: p - 0.03 * g, parameters, gradient), value

        return jax.lax.scan(step, parameters, length=150)[1]

    losses = train(jax.random.split(KEY, 2))
    assert losses.shape == (2, 150)
    assert (losses[:, -1] < losses[:, 0] - 0.3).all()


# --- bounds and units --------------------------------------------------------------------------------------


def test_bounds_tighten_with_k() -> None:
    """A linear VAE with a poor encoder: E[IWBO_k] rises with k towards the known log p(x), N(0, 2)."""
    normal = lambda slope, log_std: lambda c: jnp.concatenate((slope * c, 0 * c + log_std), 1)  # noqa: E731
    vae = VAE(ConditionalNormal(normal(0.3, 0.0)), ConditionalNormal(normal(1.0, 0.0)))
    flow = Flow(StandardNormal((2,)), [vae])
    assert flow.lower_bound
    x = jax.random.normal(KEY, (5000, 2))
    exact = -0.25 * np.square(x).sum(1) - math.log(4 * math.pi)
    [one] = jax.random.split(KEY, 1)
    np.testing.assert_allclose(iwbo(flow, x, 1, KEY), flow.log_prob(x, one), rtol=1e-5)
    mean = [iwbo(flow, x, k, KEY).mean() for k in (1, 4, 16)]
    assert all(low + 0.005 < high for low, high in itertools.pairwise([*mean, exact.mean()]))


def test_exact_models_have_no_bounds() -> None:
    flow = Flow(StandardNormal((2,)), [Abs(), Affine(2.0)])
    x = jnp.asarray(points("corners", 20))
    for k in (1, 7, 33):
        np.testing.assert_allclose(iwbo(flow, x, k, KEY), flow.log_prob(x), rtol=1e-5)


def test_units() -> None:
    uniform = jnp.full(3, -48 * math.log(256))
    np.testing.assert_allclose(bits_per_dim(uniform, 48), 8, rtol=1e-6)
    np.testing.assert_allclose(ppll(uniform, 48), -math.log(256), rtol=1e-6)


# --- sets --------------------------------------------------------------------------------------------------


def set_flow(shuffled: bool, length: int = 6) -> Flow:
    """One block of the paper's flows on sets, reduced."""
    net = lambda inputs, outputs, n, key: DenseTransformer(  # noqa: E731
        inputs, outputs, 8, 2, 1, 16, length=n, key=key
    )
    order = StochasticPermutation() if shuffled else Sort(element=0)
    layers = [
        AffineCoupling(net(1, 2, None, KEY), "softplus"),
        Reverse(),
        AffineCoupling(net(2, 4, None if shuffled else length // 2, KEY), "softplus", dim=2),
        StochasticPermutation() if shuffled else Shuffle(length, dim=2, key=KEY),
        ActNorm(2),
    ]
    return Flow(StandardNormal((2, length)), [Permute(2, 1), Affine(1 / 28, -0.5), order, *layers])


@x64
def test_sortflow_does_not_see_the_order() -> None:
    flow = filled(set_flow, shuffled=False)
    assert flow.exact
    x = 28 * jax.random.uniform(KEY, (4, 6, 2))
    expected = log_prob(flow, x)
    for seed in range(3):
        permuted = x[:, np.random.default_rng(seed).permutation(6)]
        np.testing.assert_array_equal(log_prob(flow, permuted), expected)
    assert eqx.filter_jit(flow.sample)(KEY, 3).shape == (3, 6, 2)


@x64
def test_permuteflow_does_not_see_the_order_on_average() -> None:
    flow = filled(set_flow, shuffled=True)
    assert flow.lower_bound
    x = 28 * jax.random.uniform(KEY, (1, 6, 2))
    draw = jax.jit(jax.vmap(flow.log_prob, (None, 0)))
    keys = jax.random.split(KEY, 4000)
    first, second = draw(x, keys[::2])[:, 0], draw(x[:, ::-1], keys[1::2])[:, 0]
    error = math.sqrt(first.var() / 2000 + second.var() / 2000)
    assert first.std() > 1e-3
    assert abs(first.mean() - second.mean()) < 4 * error


@x64
def test_a_transformer_without_positions_is_equivariant() -> None:
    x, order = jax.random.normal(KEY, (3, 2, 7)), np.random.default_rng(0).permutation(7)
    for length, equivariant in ((None, True), (7, False)):
        net = filled(DenseTransformer, 2, 3, 8, 2, 2, 16, length=length, key=KEY)
        same = np.allclose(apply(net, x[..., order]), apply(net, x)[..., order], atol=1e-12)
        assert same is equivariant


def test_dropout() -> None:
    net = filled(DenseTransformer, 2, 3, 8, 2, 2, 16, dropout=0.5, key=KEY)
    x = jax.random.normal(KEY, (3, 2, 7))
    first, second = (apply(net, x, key) for key in jax.random.split(KEY))
    assert (first != second).any()
    np.testing.assert_array_equal(apply(net, x, KEY), apply(net, x, KEY))
    calm = eqx.nn.inference_mode(net)
    np.testing.assert_array_equal(apply(calm, x), apply(calm, x, KEY))
    with pytest.raises(RefigureError, match=r"DenseTransformer.*key"):
        net(x)
    coupling = AffineCoupling(filled(DenseTransformer, 1, 2, 8, 2, 1, 16, dropout=0.1, key=KEY))
    with pytest.raises(RefigureError, match="key"):
        coupling.forward(x)
    assert jax.eval_shape(lambda: coupling.forward(x, key=KEY)[0]).shape == x.shape


def test_initialisation_of_the_transformer() -> None:
    """Sparse-Transformer standard deviations and, for one block of each flow, the official sizes (card 9)."""
    net = eqx.filter_jit(DenseTransformer)(2, 4, length=25, key=KEY)
    block = net.blocks[1]
    for weight, std in (
        (net.positions, 0.125 / 8),
        (block.in_proj.weight, 0.125 / 8),
        (block.out_proj.weight, 0.125 / 8 / 2),
        (block.linear1.weight, 0.125 / 8),
        (block.linear2.weight, 0.125 / 16 / 2),
    ):
        assert float(weight.std()) == pytest.approx(std, rel=0.1)
    assert not net.out_linear.weight.any()
    assert not block.in_proj.bias.any()
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf))  # noqa: E731
    others = size(filled(DenseTransformer, 1, 2, key=KEY)) + size(ActNorm(2))
    assert size(net) + others == 202_506
    assert size(filled(DenseTransformer, 2, 4, key=KEY)) + others == 200_906


def test_initialisation_of_the_mlp() -> None:
    net = eqx.filter_jit(MLP)(100, (300,), 5, key=KEY)
    for layer, fan_in in zip(net.layers, (100, 300), strict=True):
        for leaf in (layer.weight, layer.bias):
            assert jnp.abs(leaf).max() <= 1 / math.sqrt(fan_in)
        assert float(layer.weight.std()) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.05)
    assert (net.layers[0].bias != net.layers[0].weight[:, 0]).all()
