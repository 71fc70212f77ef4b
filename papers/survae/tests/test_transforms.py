"""Every layer against theory: inverses, Jacobians, and what its contribution must integrate to."""

import itertools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from common.errors import RefigureError
from papers.survae.bijections import (
    SCALE_FNS,
    ActNorm,
    Affine,
    AffineCoupling,
    Conv1x1,
    Logit,
    Sigmoid,
    Softplus,
    SoftplusInverse,
)
from papers.survae.distributions import (
    Bernoulli,
    Categorical,
    ConditionalNormal,
    HalfNormal,
    StandardNormal,
    StandardUniform,
)
from papers.survae.flow import Flow, InverseFlow, iwbo
from papers.survae.nets import MLP, DenseNet, DenseTransformer
from papers.survae.rearrangements import Permute, Reverse, Shuffle, Squeeze2d, Unsqueeze2d
from papers.survae.rounding import UniformDequantization, VariationalDequantization
from papers.survae.stochastic import VAE, StochasticPermutation
from papers.survae.surjections import (
    Abs,
    Augment,
    Max,
    MaxPool2d,
    SignedAbs,
    Slice,
    Sort,
)
from papers.survae.tests.conftest import filled
from papers.survae.transforms import Compose, Stack, Transform

KEY = jax.random.key(3)
B = 5


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(2).standard_normal(shape), float)


x64 = pytest.mark.usefixtures("x64")


def coupling(scale_fn: str) -> Callable[[], Transform]:
    return lambda: AffineCoupling(MLP(2, (7, 5), 4, key=KEY), scale_fn)


# From a name to a layer and the shape of one sample.
BIJECTIONS: dict[str, tuple[Callable[[], Transform], tuple[int, ...]]] = {
    **{f"coupling_{name}": (coupling(name), (4,)) for name in SCALE_FNS},
    "coupling_odd": (lambda: AffineCoupling(MLP(3, (7,), 4, key=KEY), "softplus"), (5,)),
    "coupling_points": (
        lambda: AffineCoupling(DenseTransformer(1, 2, 8, 2, 1, 16, key=KEY), "softplus"),
        (2, 6),
    ),
    "coupling_length": (
        lambda: AffineCoupling(DenseTransformer(2, 4, 8, 2, 1, 16, length=3, key=KEY), "softplus", dim=2),
        (2, 6),
    ),
    "coupling_image": (
        lambda: AffineCoupling(DenseNet(2, 4, 3, 1, 1, 2, key=KEY), "tanh_exp", order="sequential"),
        (4, 2, 3),
    ),
    "coupling_conditional": (
        lambda: AffineCoupling(MLP(4, (7,), 4, key=KEY), "softplus", conditional=True),
        (4,),
    ),
    "affine": (lambda: Affine((0.5, -2.0, 3.0), (1, 0, -1)), (3,)),
    "affine_scalar": (lambda: Affine(1 / 28, -0.5), (2, 3)),
    "actnorm": (lambda: ActNorm(3), (3,)),
    "actnorm_points": (lambda: ActNorm(2), (2, 4)),
    "actnorm_image": (lambda: ActNorm(2), (2, 3, 2)),
    "conv1x1": (lambda: Conv1x1(3, key=KEY), (3, 2, 2)),
    "conv1x1_points": (lambda: Conv1x1(3, key=KEY), (3, 4)),
    "logit": (Logit, (3,)),
    "sigmoid": (Sigmoid, (3,)),
    "softplus": (Softplus, (3,)),
    "softplus_inverse": (SoftplusInverse, (2, 2)),
    "reverse": (Reverse, (3,)),
    "reverse_length": (lambda: Reverse(dim=2), (2, 3)),
    "shuffle": (lambda: Shuffle(6, dim=2, key=KEY), (2, 6)),
    "permute": (lambda: Permute(3, 1, 2), (2, 3, 4)),
    "squeeze2d": (Squeeze2d, (2, 4, 2)),
    "unsqueeze2d": (Unsqueeze2d, (4, 2, 1)),
    "stack": (lambda: Stack(lambda key: Compose([coupling("softplus")(), Reverse()]), 3, key=KEY), (4,)),
    "stack_shuffle": (lambda: Stack(lambda key: Shuffle(6, dim=2, key=key), 2, key=KEY), (2, 6)),
    "compose": (lambda: Compose([Sigmoid(), Affine(0.9, 0.05), Logit(), Reverse(), ActNorm(3)]), (3,)),
}
DOMAIN = {"logit": jax.nn.sigmoid, "softplus_inverse": jax.nn.softplus}


@x64
@pytest.mark.parametrize("name", BIJECTIONS)
def test_bijection(name: str) -> None:
    """The way back, and V = log |det J| by automatic differentiation."""
    make, shape = BIJECTIONS[name]
    layer = filled(make)
    x = DOMAIN.get(name, jnp.asarray)(2 * normal(B, *shape))
    context = normal(B, 2)

    @jax.jit
    def check(x):
        z, ladj = layer.forward(x, context=context)
        one = lambda x, c: layer.forward(x[None], context=c[None])[0].ravel()  # noqa: E731
        jacobian = jax.vmap(jax.jacobian(one))(x, context).reshape(B, x[0].size, x[0].size)
        return ladj, jnp.linalg.slogdet(jacobian)[1], layer.inverse(z, context=context)

    ladj, expected, x_back = check(x)
    assert ladj.shape == (B,)
    np.testing.assert_allclose(x_back, x, atol=1e-9)
    np.testing.assert_allclose(ladj, expected, atol=1e-9)
    assert layer.exact


def test_softplus_scale_outlives_its_underflow() -> None:
    """In single precision the scale itself is zero below -104; log-scale and slopes must not notice."""
    s = np.array([-300.0, -110.0, -41.0, -39.0, -20.0, -1.0, 0.0, 3.0, 200.0])
    reference = np.where(s < -30, s, np.log(np.logaddexp(s, 0)))
    log_scale, slope = jax.vmap(jax.value_and_grad(lambda s: SCALE_FNS["softplus"](s)[1]))(jnp.float32(s))
    np.testing.assert_allclose(log_scale, reference, rtol=1e-5)
    np.testing.assert_allclose(slope, 1 / (1 + np.exp(-s)) / np.exp(reference), rtol=1e-5, atol=1e-6)


def classifier(inputs: int, outputs: int) -> MLP:
    return filled(MLP, inputs, (5,), outputs, key=KEY)


def index_net(z):
    return jnp.stack([0.3 * z, -z, 0 * z, z**2], -1)


real = lambda z: z  # noqa: E731
# Surjections that are deterministic in inference: a layer, the shape of z, and from normal draws to valid z.
INFERENCE: dict[str, tuple[Callable[[], Transform], tuple[int, ...], Callable]] = {
    "abs": (Abs, (3,), jnp.abs),
    "signed_abs": (lambda: SignedAbs(classifier(3, 2), (0, 2)), (3,), jnp.abs),
    "sort": (Sort, (5,), jnp.sort),
    "sort_points": (
        lambda: Sort(element=1),
        (2, 5),
        lambda z: jnp.stack((z[:, 0], jnp.sort(z[:, 1])), 1),
    ),
    "max": (lambda: Max(4), (3, 2), real),
    "max_single": (lambda: Max(2), (), real),
    "maxpool2d": (MaxPool2d, (2, 2, 3), real),
    "maxpool2d_index": (lambda: MaxPool2d(HalfNormal((6, 2, 2)), Categorical(index_net)), (2, 2, 2), real),
    "slice": (lambda: Slice(StandardNormal((4, 2)), 2), (2, 2), real),
    "slice_conditional": (lambda: Slice(ConditionalNormal(classifier(2, 6)), 2), (2,), real),
}


@pytest.mark.parametrize("name", INFERENCE)
def test_inference_surjection_undoes_every_draw(name: str) -> None:
    make, shape, valid = INFERENCE[name]
    layer = make()
    assert layer.exact
    z = valid(normal(B, *shape))

    @jax.jit
    def draw(z):
        x = layer.inverse(z, key=KEY)
        return x, *layer.forward(x)

    z = jnp.repeat(z[None], 40, 0).reshape(-1, *shape)
    x, back, ladj = draw(z)
    np.testing.assert_array_equal(back, z)
    assert ladj.shape == (40 * B,)
    assert np.isfinite(ladj).all()
    x = np.asarray(x).reshape(40, B, *x.shape[1:])
    assert (x != x[0]).any(), "generation must be random"


GENERATIVE: dict[str, tuple[Callable[[], Transform], Callable]] = {
    "uniform": (lambda: UniformDequantization(7), lambda k: jax.random.randint(k, (B, 3, 2), 0, 7)),
    "variational": (lambda: variational(7), lambda k: jax.random.randint(k, (B, 2), 0, 7)),
    "augment": (
        lambda: Augment(ConditionalNormal(classifier(2, 6)), 2),
        lambda k: jax.random.normal(k, (B, 2)),
    ),
}


def variational(levels: int) -> VariationalDequantization:
    layers = [AffineCoupling(MLP(3, (5,), 2, key=KEY), "softplus", conditional=True), Reverse(), Sigmoid()]
    encoder = InverseFlow(StandardNormal((2,)), layers, context_net=MLP(2, (4,), 2, key=KEY))
    return VariationalDequantization(encoder, levels)


@pytest.mark.parametrize("name", GENERATIVE)
def test_generative_surjection_undoes_every_draw(name: str) -> None:
    make, data = GENERATIVE[name]
    layer, x = make(), data(KEY)
    assert not layer.exact

    @jax.jit
    def draw(x):
        z, ladj = layer.forward(x, key=KEY)
        return z, ladj, layer.inverse(z, key=KEY)

    x = jnp.repeat(x[None], 40, 0).reshape(-1, *x.shape[1:])
    z, ladj, back = draw(x)
    np.testing.assert_array_equal(back, x)
    assert ladj.shape == (40 * B,)
    assert np.isfinite(ladj).all()
    z = np.asarray(z).reshape(40, B, *z.shape[1:])
    assert (z != z[0]).any(), "inference must be random"


def random_directions() -> list:
    cases = [(make, "inverse", shape) for make, shape, _ in INFERENCE.values()]
    cases += [(make, "forward", (2,)) for make, _ in GENERATIVE.values()]
    cases += [(StochasticPermutation, way, (3,)) for way in ("forward", "inverse")]
    net = ConditionalNormal(lambda c: jnp.concatenate((c, c), 1))
    return [*cases, (lambda: VAE(net, net), "forward", (3,)), (lambda: VAE(net, net), "inverse", (3,))]


@pytest.mark.parametrize(("make", "way", "shape"), random_directions())
def test_a_missing_key_is_named(make: Callable, way: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(RefigureError, match=rf"^{type(make()).__name__} .*key="):
        getattr(make(), way)(jnp.ones((B, *shape)))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(RefigureError, match="softplus"):
        AffineCoupling(classifier(1, 2), "softpuls")
    with pytest.raises(RefigureError, match="interleaved"):
        AffineCoupling(classifier(1, 2), order="rows")
    bound = Flow(StandardNormal((3,)), [Augment(StandardNormal((1,)), 2)])
    for make in (lambda d: Slice(d, 1), lambda d: Max(3, d)):
        with pytest.raises(RefigureError, match="bound"):
            make(bound)


# --- what contributions must come to -----------------------------------------------------------------------


@x64
def test_half_normal_under_abs_is_normal() -> None:
    x = normal(20, 3)
    np.testing.assert_allclose(
        Flow(HalfNormal((3,)), [Abs()]).log_prob(x), StandardNormal((3,)).log_prob(x), atol=1e-12
    )


@x64
@given(arrays.arrays(np.float64, (1, 3), elements=st.floats(-9, 9, allow_subnormal=False).filter(lambda v: v != 0)))
@settings(max_examples=30)
def test_signs_share_all_probability(x: np.ndarray) -> None:
    layer = SignedAbs(classifier(3, 2), (0, 2))
    signs = np.array([(a, 1, c) for a, c in itertools.product((-1, 1), repeat=2)])
    z, ladj = layer.forward(jnp.asarray(x * signs))
    np.testing.assert_allclose(np.exp(ladj).sum(), 1, atol=1e-12)
    np.testing.assert_array_equal(z, np.tile(np.abs(x) * [1, 0, 1] + x * [0, 1, 0], (4, 1)))


@x64
def test_drawn_signs_follow_the_classifier() -> None:
    layer = SignedAbs(classifier(2, 1), (0,))
    z = jnp.array([[0.4, -3.0], [2.0, 5.0]])
    p = jax.nn.sigmoid(layer.classifier(z))[:, 0]
    draws = jax.vmap(lambda k: layer.inverse(z, key=k))(jax.random.split(KEY, 20_000))
    np.testing.assert_array_equal(draws[..., 1], jnp.broadcast_to(z[:, 1], (20_000, 2)))
    np.testing.assert_allclose((draws[..., 0] > 0).mean(0), p, atol=4 * 0.5 / math.sqrt(20_000))


@x64
@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_sorting_iid_values_gives_order_statistics(shape: tuple[int, ...]) -> None:
    """A base with the density L! prod p(z_i) of order statistics gives back prod p(x_i), for vectors too."""
    x = normal(20, *shape)
    z, ladj = Sort().forward(x)
    keys = z.reshape(20, -1, 4)[:, 0]
    assert (jnp.diff(keys) > 0).all()
    base = StandardNormal(shape)
    np.testing.assert_allclose(math.lgamma(5) + base.log_prob(z) + ladj, base.log_prob(x), atol=1e-12)
    columns = lambda a: sorted(map(tuple, np.asarray(a).reshape(-1, 4).T.tolist()))  # noqa: E731
    assert [columns(a) for a in x] == [columns(a) for a in z]


@pytest.mark.parametrize("layer", [Sort(), StochasticPermutation()], ids=["sort", "stochastic"])
def test_drawn_orders_are_uniform(layer: Transform) -> None:
    z = jnp.broadcast_to(jnp.arange(3.0), (6000, 3))
    x = np.asarray(layer.inverse(z, key=KEY))
    _, counts = np.unique(x, axis=0, return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-4


@x64
@pytest.mark.parametrize("index", [None, Categorical(index_net)], ids=["uniform", "learned"])
def test_maxpool_integrates_to_one(index: Categorical | None) -> None:
    """One 2 x 2 window under N(0, 1): quasi Monte Carlo over R^4 with a wide Gaussian proposal."""
    flow = Flow(StandardNormal((1, 1, 1)), [MaxPool2d(index=index)])
    u = stats.qmc.Sobol(4, seed=0).random_base2(16)
    proposal = stats.norm(-0.5, 1.8)
    x = proposal.ppf(u)
    log_w = jax.jit(flow.log_prob)(jnp.asarray(x.reshape(-1, 1, 2, 2))) - proposal.logpdf(x).sum(1)
    assert np.exp(log_w).mean() == pytest.approx(1, abs=0.01)


@x64
def test_max_against_its_formula() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3))
    z, ladj = Max(3).forward(jnp.asarray(x))
    np.testing.assert_array_equal(z, x.max(1))
    d = x.max(1, keepdims=True) - x
    expected = stats.halfnorm.logpdf(d).sum(1) - stats.halfnorm.logpdf(0) - math.log(3)
    np.testing.assert_allclose(ladj, expected, atol=1e-12)


def test_of_equal_values_the_first_is_the_maximum() -> None:
    x = jnp.array([[[[2.0, 2.0], [2.0, 1.0]]]])
    z, d, k = MaxPool2d().split(x)
    assert (z.item(), k.item(), d.ravel().tolist()) == (2, 0, [0, 0, 1])
    np.testing.assert_array_equal(MaxPool2d().merge(z, d, k), x)
    slope = jax.grad(lambda x: MaxPool2d().split(x)[0].sum())(x)
    assert slope.ravel().tolist() == [1, 0, 0, 0]


@x64
def test_windows_are_where_they_were() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6))
    z = MaxPool2d().forward(jnp.asarray(x))[0]
    for c, i, j in itertools.product(range(3), range(2), range(3)):
        window = x[:, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(z[:, c, i, j], window.max((1, 2)))
        squeezed = Squeeze2d().forward(jnp.asarray(x))[0]
        np.testing.assert_array_equal(squeezed[:, 4 * c : 4 * c + 4, i, j], window.reshape(2, 4))


@x64
def test_slicing_and_joining_normals_is_a_normal() -> None:
    x = normal(20, 5, 2)
    flow = Flow(StandardNormal((2, 2)), [Slice(StandardNormal((3, 2)), 2)])
    np.testing.assert_allclose(flow.log_prob(x), StandardNormal((5, 2)).log_prob(x), atol=1e-12)


class Edges(StandardUniform):
    """Noise from the edges of the unit interval, where single precision leaves the cell first."""

    def draw(self, key, shape):
        return jax.random.choice(key, np.float32([0, 1e-30, 2**-24, 1 - 2**-23, 1 - 2**-24, 1]), shape)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("levels", [1, 2, 7, 49, 256])
def test_noise_at_the_edges_stays_in_its_cell(levels: int, dtype: type) -> None:
    x = jnp.tile(jnp.arange(levels), 200)[:, None].astype(dtype)
    layer = VariationalDequantization(Edges((1,)), levels)
    z = layer.forward(x, key=KEY)[0]
    assert 0 <= z.min() <= z.max() < 1
    np.testing.assert_array_equal(jnp.floor(levels * z), x)
    np.testing.assert_array_equal(layer.inverse(z), x)


def test_bright_pixels_keep_their_value_in_single_precision() -> None:
    """Of 4 million sums 255 + u, about 30 would round up to 256."""
    x = jnp.full((4_000, 1_000), 255)
    z = jax.jit(UniformDequantization().forward)(x, key=KEY)[0]
    assert z.max() < 1
    assert jnp.floor(256 * z).min() == 255


def test_bytes_are_context_like_any_integers() -> None:
    """Twice a bright pixel does not fit into a byte."""
    x = np.array([[0, 127], [128, 255]])
    bytes_z, integer_z = (variational(256).forward(jnp.asarray(x, dtype), key=KEY) for dtype in (np.uint8, np.int32))
    np.testing.assert_array_equal(bytes_z[0], integer_z[0])
    np.testing.assert_array_equal(bytes_z[1], integer_z[1])


@x64
def test_discrete_probabilities_sum_to_one_and_bound_uniform_dequantization() -> None:
    """D = 1: sum over 256 values of the exact probability; the bound lies below each."""
    continuous = [Logit(), Affine(0.7, 0.2)]
    flow = Flow(StandardNormal((1,)), [UniformDequantization(256), *continuous])
    inner = Flow(StandardNormal((1,)), continuous)
    u = (np.arange(200) + 0.5) / 200
    z = (np.arange(256)[:, None] + u) / 256
    log_p = np.asarray(jax.jit(inner.log_prob)(jnp.asarray(z.reshape(-1, 1)))).reshape(256, 200)
    exact = np.exp(log_p).mean(1) / 256
    assert exact.sum() == pytest.approx(1, abs=1e-5)
    x = jnp.arange(256)[:, None]
    bound = jax.jit(jax.vmap(lambda k: flow.log_prob(x, k)))(jax.random.split(KEY, 400))
    assert flow.lower_bound
    assert (bound.mean(0) <= np.log(exact) + 4 * bound.std(0) / 20).all()
    z_score = (bound.mean(0) - log_p.mean(1) + math.log(256)) / bound.std(0) * 20
    assert np.abs(z_score).max() < 5
    tight = jax.jit(lambda x: iwbo(flow, x, 1000, KEY, chunk=200))(x)
    np.testing.assert_allclose(tight, np.log(exact), atol=5e-2)


@x64
def test_variational_noise_has_the_density_it_claims() -> None:
    encoder = filled(variational, 7).encoder
    context = normal(B, 2)
    u, log_q = eqx.filter_jit(encoder.sample_with_log_prob)(KEY, B, context)
    assert ((u > 0) & (u < 1)).all()
    density = jax.jit(lambda u, c: encoder.log_prob(u, context=c))
    np.testing.assert_allclose(density(u, context), log_q, atol=1e-8)
    one = jnp.asarray(np.stack(np.meshgrid(*2 * [(np.arange(400) + 0.5) / 400]), -1).reshape(-1, 2))
    same = jnp.broadcast_to(context[0], one.shape)
    assert np.exp(density(one, same)).mean() == pytest.approx(1, abs=1e-3)


@x64
def test_vae_with_the_true_posterior_is_exact() -> None:
    """x = z + N(0, 1) noise: with q the posterior N(x/2, 1/2), every draw of the bound is log N(x; 0, 2)."""
    constant = lambda mean, var: lambda c: jnp.concatenate((mean * c, 0 * c + 0.5 * math.log(var)), 1)  # noqa: E731
    flow = Flow(
        StandardNormal((2,)),
        [VAE(ConditionalNormal(constant(0.5, 0.5)), ConditionalNormal(constant(1.0, 1.0)))],
    )
    x = 2 * normal(B, 2)
    expected = stats.norm(0, math.sqrt(2)).logpdf(x).sum(1)
    np.testing.assert_allclose(flow.log_prob(x, KEY), expected, atol=1e-12)
    assert abs(float(flow.sample(KEY, 20_000).var()) - 2) < 0.08


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 5)])
def test_actnorm_standardises(shape: tuple[int, ...]) -> None:
    x = 5 + 3 * normal(50, *shape) * jnp.arange(1.0, 4).reshape(3, *(1,) * (len(shape) - 1))
    flow = Flow(StandardNormal(shape), [Affine(2.0), ActNorm(3), Reverse(), ActNorm(3)])
    flow = flow.initialise(x)
    z, _ = flow.transforms.forward(x)
    axes = (0, *range(2, x.ndim))
    np.testing.assert_allclose(z.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axes, ddof=1), 1, atol=1e-5)
    np.testing.assert_allclose(flow.transforms[1].shift, 2 * x.mean(axes), rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (3,), (4, 2), (1, 3, 1), (5, 2, 3)])
def test_actnorm_refuses_what_has_no_spread(shape: tuple[int, ...]) -> None:
    with pytest.raises(RefigureError, match=r"^ActNorm needs \(B, 3, \.\.\.\), at least two values a channel, not"):
        Flow(StandardNormal((3,)), [ActNorm(3)]).initialise(jnp.ones(shape))


def test_actnorm_stays_finite_on_a_constant_channel() -> None:
    layer = ActNorm(2).initialise(jnp.array([[3.0, 1.0], [3.0, 2.0]]))
    np.testing.assert_allclose(layer.log_scale, [math.log(1e-6), 0.5 * math.log(0.5)], rtol=1e-5)


@x64
def test_permutation_leaves_nothing_out() -> None:
    first, second = (Shuffle(50, key=jax.random.key(seed)).permutation for seed in (4, 5))
    assert sorted(first.tolist()) == list(range(50))
    assert (first != second).any()
    x = normal(B, 2, 6)
    z, ladj = StochasticPermutation().forward(x, key=KEY)
    np.testing.assert_array_equal(ladj, 0)
    np.testing.assert_array_equal(jnp.sort(z[:, 0]), jnp.sort(x[:, 0]))
    pairs = lambda a: sorted(map(tuple, np.asarray(a).T.tolist()))  # noqa: E731
    assert [pairs(a) for a in x] == [pairs(a) for a in z]


@x64
def test_discrete_distributions_sum_to_one() -> None:
    bits = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    context = jnp.broadcast_to(jnp.array([0.3, -1.0]), (8, 2))
    bernoulli = Bernoulli(classifier(2, 3))
    assert np.exp(bernoulli.log_prob(bits, context=context)).sum() == pytest.approx(1)
    categorical = Categorical(index_net)
    indices = np.array(list(itertools.product(range(4), repeat=2)))
    p = np.exp(categorical.log_prob(indices, context=jnp.broadcast_to(context[0], (16, 2))))
    assert p.sum() == pytest.approx(1)
    draws = jax.jit(lambda context: categorical.sample(KEY, 20_000, context))(jnp.broadcast_to(context[0], (20_000, 2)))
    counts = np.bincount(draws[:, 0] * 4 + draws[:, 1], minlength=16)
    assert stats.chisquare(counts, p / p.sum() * 20_000).pvalue > 1e-4
