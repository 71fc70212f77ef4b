"""Layers against theory: round-trips, Jacobians by autodiff, normalisation and known special cases."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, jacrev, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from papers.survae.bijections import (
    SCALE_FNS,
    ActNorm,
    Affine,
    AffineCoupling,
    Conv1x1,
    Logit,
    Permute,
    Reverse,
    Shuffle,
    Sigmoid,
    Softplus,
    SoftplusInverse,
    Squeeze2d,
)
from papers.survae.densities import DENSITIES
from papers.survae.distributions import (
    Bernoulli,
    Categorical,
    ConditionalNormal,
    DiagonalNormal,
    Distribution,
    HalfNormal,
    StandardNormal,
    StandardUniform,
)
from papers.survae.flow import Flow, InverseFlow, bits_per_dim, importance_bound, ppll
from papers.survae.models import couplings, toy_absflow, toy_flow
from papers.survae.nets import MLP, DenseNet, DenseTransformer, PositionalDenseTransformer
from papers.survae.stochastic import VAE, StochasticPermutation
from papers.survae.surjections import (
    Abs,
    Augment,
    GenerativeReLU,
    Max,
    MaxPool2d,
    ReLU,
    Rounding,
    SignedAbs,
    Slice,
    Sort,
    UniformDequantization,
    VariationalDequantization,
)
from papers.survae.transforms import Compose, Transform


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def shaken(module: nn.Module) -> nn.Module:
    """The module with noise on its parameters: zero-initialised layers would hide mistakes."""
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn_like(p)
    return module


class Unit(nn.Module):
    """Logits that grow with the context: (B, ...) to (B, ..., K)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.randn(k))

    def forward(self, context: Tensor) -> Tensor:
        return context.unsqueeze(-1) * self.slope


def small_transformer(d: int, e: int) -> nn.Module:
    return shaken(DenseTransformer(d, e, width=8, heads=2, feed_forward=12, layers=1))


def positional(length: int, d: int, e: int) -> nn.Module:
    return shaken(PositionalDenseTransformer(length, d, e, width=8, heads=4, feed_forward=12, layers=1))


def small_densenet(c: int, e: int) -> nn.Module:
    return shaken(DenseNet(c, e, width=4, depth=2, growth=3))


def free_coupling() -> Transform:
    return AffineCoupling(MLP(2, (5,), 4), "softplus")


# The layer, the shape of its input, and a map from normal draws into its domain.
BIJECTIONS: dict[str, tuple[Callable[[], Transform], tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    **{
        f"coupling_{name}": (lambda name=name: AffineCoupling(MLP(1, (5, 4), 2), name), (2,), torch.clone)
        for name in SCALE_FNS
    },
    "coupling_interleaved": (lambda: AffineCoupling(MLP(3, (5,), 6), "softplus"), (6,), torch.clone),
    "coupling_sequential": (
        lambda: AffineCoupling(MLP(3, (5,), 6), "softplus", order="sequential"),
        (6,),
        torch.clone,
    ),
    "coupling_odd": (lambda: AffineCoupling(MLP(3, (5,), 4), "exp"), (5,), torch.clone),
    "coupling_dimensions": (lambda: AffineCoupling(small_transformer(1, 2), "softplus"), (2, 4), torch.clone),
    "coupling_points": (lambda: AffineCoupling(positional(3, 2, 4), "exp", dim=2), (2, 6), torch.clone),
    "coupling_image": (
        lambda: AffineCoupling(small_densenet(2, 4), "tanh_exp", order="sequential"),
        (4, 2, 3),
        torch.clone,
    ),
    "affine": (lambda: Affine((0.5, -2.0, 3.0), 1.5), (3,), torch.clone),
    "affine_scalar": (lambda: Affine(1 / 28, -0.5), (2, 4), torch.clone),
    "actnorm": (lambda: shaken(ActNorm(3)), (3,), torch.clone),
    "actnorm_points": (lambda: shaken(ActNorm(2)), (2, 5), torch.clone),
    "actnorm_image": (lambda: shaken(ActNorm(2)), (2, 3, 2), torch.clone),
    "conv1x1_points": (lambda: shaken(Conv1x1(3)), (3, 4), torch.clone),
    "conv1x1_image": (lambda: shaken(Conv1x1(4)), (4, 2, 2), torch.clone),
    "logit": (Logit, (3,), torch.sigmoid),
    "sigmoid": (Sigmoid, (3,), torch.clone),
    "softplus": (Softplus, (3,), torch.clone),
    "softplus_inverse": (SoftplusInverse, (3,), torch.exp),
    "reverse": (lambda: Reverse(2), (2, 3), torch.clone),
    "shuffle": (lambda: Shuffle(5), (5,), torch.clone),
    "permute": (lambda: Permute(3, 1, 2), (2, 3, 4), torch.clone),
    "squeeze": (Squeeze2d, (2, 4, 2), torch.clone),
    "compose": (lambda: Compose([free_coupling(), Affine(2.0), Reverse()]), (4,), torch.clone),
}


@pytest.mark.parametrize("name", BIJECTIONS)
def test_bijection(name: str) -> None:
    """The inverse undoes the layer, and ladj is the log-determinant of the Jacobian by autodiff."""
    make, shape, domain = BIJECTIONS[name]
    layer = make()
    x = domain(torch.randn(6, *shape))
    kept = x.clone()
    z, ladj = layer(x)
    assert ladj.shape == (6,)
    assert layer.exact
    assert torch.equal(x, kept)
    kept_z = z.clone()
    torch.testing.assert_close(layer.inverse(z), x, atol=1e-9, rtol=1e-9)
    assert torch.equal(z, kept_z)
    for i in range(6):
        jacobian = jacrev(lambda v: layer(v[None])[0][0].flatten())(x[i]).reshape(z[i].numel(), -1)
        expected = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(ladj[i], expected, atol=1e-9, rtol=1e-9)


def test_coupling_conditions_on_its_first_half() -> None:
    layer = AffineCoupling(MLP(3, (5,), 4), "exp")  # five elements: three and two
    x = torch.randn(4, 5)
    z, _ = layer(x)
    assert torch.equal(z[:, :3], x[:, :3])
    assert not torch.isclose(z[:, 3:], x[:, 3:]).any()


def test_parameter_orders_differ_by_a_permutation_of_the_nets_outputs() -> None:
    net = MLP(3, (5,), 6)
    x = torch.randn(4, 6)
    z, ladj = AffineCoupling(net, "softplus")(x)
    sequential = nn.Sequential(net, Select([0, 3, 1, 4, 2, 5]))
    other, other_ladj = AffineCoupling(sequential, "softplus", order="sequential")(x)
    torch.testing.assert_close(other, z)
    torch.testing.assert_close(other_ladj, ladj)
    with pytest.raises(ValueError, match="sequential"):
        AffineCoupling(net, order="row-major")


class Select(nn.Module):
    def __init__(self, index: list[int]) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index]


@pytest.mark.parametrize("shape", [(64, 3), (8, 3, 5), (4, 3, 2, 5)])
def test_actnorm_standardises_the_batch(shape: tuple[int, ...]) -> None:
    layer = ActNorm(3)
    x = 3 * torch.randn(shape) + 2
    before = layer(x)[0]
    assert torch.equal(before, x)  # no state is set by a forward pass
    z = layer.initialise(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(3), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.std(1), torch.ones(3), atol=1e-5, rtol=0)


def test_flow_initialises_its_layers_in_turn() -> None:
    flow = Flow(StandardNormal((2,)), [ActNorm(2), AffineCoupling(MLP(1, (4,), 2), "softplus"), ActNorm(2)])
    x = 5 * torch.randn(200, 2) - 3
    flow.initialise(x)
    z, _ = flow.transforms(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-10, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=1e-5, rtol=0)


def test_conv1x1_starts_as_a_rotation() -> None:
    weight = Conv1x1(5).weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(5))


# --- surjections: the deterministic direction undoes every draw of the random one ---------------------------

INFERENCE_SURJECTIONS: dict[str, tuple[Callable[[], Transform], Callable[[int], Tensor]]] = {
    "abs": (Abs, lambda n: torch.rand(n, 3)),
    "signed_abs": (
        lambda: SignedAbs(MLP(4, (5,), 2), [0, 2]),
        lambda n: torch.randn(n, 4).index_copy(1, torch.tensor([0, 2]), torch.rand(n, 2)),
    ),
    "slice": (lambda: Slice(StandardNormal((3, 2)), 2), lambda n: torch.randn(n, 2, 2)),
    "slice_conditional": (lambda: Slice(ConditionalNormal(MLP(2, (4,), 6)), 2), lambda n: torch.randn(n, 2)),
    "max": (lambda: Max(HalfNormal((4,))), lambda n: torch.randn(n)),
    "max_indexed": (lambda: Max(HalfNormal((2, 3)), Categorical(Unit(4))), lambda n: torch.randn(n, 2)),
    "maxpool": (MaxPool2d, lambda n: torch.randn(n, 2, 3, 2)),
    "sort": (Sort, lambda n: torch.randn(n, 5).sort(1).values),
    "sort_points": (lambda: Sort(1), lambda n: Sort(1)(torch.randn(n, 2, 5))[0]),
    "relu": (lambda: ReLU(HalfNormal((6,))), lambda n: torch.randn(n, 6).relu()),
    "rounding": (lambda: Rounding(StandardUniform((3,))), lambda n: torch.randint(-5, 5, (n, 3)).double()),
}


@pytest.mark.parametrize("name", INFERENCE_SURJECTIONS)
def test_inference_surjection(name: str) -> None:
    make, draw = INFERENCE_SURJECTIONS[name]
    layer = make()
    z = draw(500)
    kept = z.clone()
    x = layer.inverse(z)
    assert torch.equal(z, kept)
    kept_x = x.clone()
    back, ladj = layer(x)
    assert torch.equal(x, kept_x)
    torch.testing.assert_close(back, z, atol=1e-12, rtol=1e-12)
    assert ladj.shape == (500,)
    assert ladj.isfinite().all()
    assert layer.exact
    assert not torch.equal(layer.inverse(z), x)  # generation is random


GENERATIVE_SURJECTIONS: dict[str, tuple[Callable[[], Transform], Callable[[int], Tensor]]] = {
    "augment": (lambda: Augment(StandardNormal((3,)), 2), lambda n: torch.randn(n, 2)),
    "augment_conditional": (
        lambda: Augment(ConditionalNormal(MLP(2, (4,), 6)), 2),
        lambda n: torch.randn(n, 2),
    ),
    "generative_relu": (lambda: GenerativeReLU(HalfNormal((5,))), lambda n: torch.randn(n, 5).relu()),
    "dequantization": (lambda: UniformDequantization((2, 3), 8), lambda n: torch.randint(8, (n, 2, 3))),
    "variational_dequantization": (
        lambda: VariationalDequantization(
            InverseFlow(StandardNormal((2,)), [conditional_coupling(), Reverse(), Sigmoid()]), 8
        ),
        lambda n: torch.randint(8, (n, 2)),
    ),
}


def conditional_coupling() -> AffineCoupling:
    return AffineCoupling(MLP(3, (5,), 2), "softplus", conditional=True)


@pytest.mark.parametrize("name", GENERATIVE_SURJECTIONS)
def test_generative_surjection(name: str) -> None:
    make, draw = GENERATIVE_SURJECTIONS[name]
    layer = make()
    x = draw(500)
    kept = x.clone()
    z, ladj = layer(x)
    assert torch.equal(x, kept)
    assert torch.equal(layer.inverse(z), x)
    assert ladj.shape == (500,)
    assert ladj.isfinite().all()
    assert not layer.exact
    assert not torch.equal(layer(x)[0], z)  # inference is random


@pytest.mark.parametrize(
    "layer", [Abs(), SignedAbs(MLP(3, (4,), 1).double(), [1])], ids=["abs", "signed_abs"]
)
def test_signs_are_drawn_with_the_probabilities_of_ladj(layer: Transform) -> None:
    z = torch.tensor([[0.3, 0.7, 1.2]]).expand(40_000, 3)
    x = layer.inverse(z)
    signs, inverse, count = x.sign().unique(dim=0, return_inverse=True, return_counts=True)
    first = torch.stack([x[inverse == i][0] for i in range(len(signs))])
    p = layer(first)[1].detach().exp()
    assert float(p.sum()) == pytest.approx(1)
    error = (p * (1 - p) / 40_000).sqrt()
    assert ((count / 40_000 - p).abs() < 5 * error).all()


def test_max_index_is_drawn_with_the_probabilities_of_ladj() -> None:
    layer = Max(HalfNormal((3,)), Categorical(Unit(4)))
    z = torch.full((40_000,), 0.8)
    p = (0.8 * layer.index.net.slope).softmax(0).detach()
    k = layer.inverse(z).argmax(1)
    error = (p * (1 - p) / 40_000).sqrt()
    assert ((torch.bincount(k, minlength=4) / 40_000 - p).abs() < 5 * error).all()


def test_maxima_tie_to_the_first() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]])
    z, k, d = Max.split(x)
    assert (z.item(), k.item(), d.tolist()) == (3.0, 1, [[2.0, 0.0, 1.0, 0.0]])
    assert torch.equal(Max.join(z, k, d), x)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 10**6))
def test_pooling_loses_nothing_that_it_does_not_record(b: int, c: int, h: int, w: int, seed: int) -> None:
    # Small integers make ties frequent.
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (b, c, 2 * h, 2 * w), generator=g).double()
    z, k, d = MaxPool2d.split(x)
    assert torch.equal(z, nn.functional.max_pool2d(x, 2))
    assert d.shape == (b, 3 * c, h, w)
    assert (d >= 0).all()
    assert torch.equal(MaxPool2d.join(z, k, d), x)


# --- normalisation ------------------------------------------------------------------------------------------


def plane(half: float, n: int) -> tuple[Tensor, float]:
    step = 2 * half / n
    axis = (torch.arange(n) + 0.5) * step - half
    return torch.cartesian_prod(axis, axis), step**2


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("make", [toy_flow, toy_absflow])
def test_toy_models_integrate_to_one(make: Callable[..., Flow], name: str) -> None:
    flow = make(name, hidden=(16, 8))
    slope: Tensor | float = 1.0
    if make is toy_flow:
        x, area = plane(12, 800)
    elif name == "eight_gaussians":
        # Fine near the axes, where the logarithmic coordinate of the quadrant puts long tails, and four-fold.
        t, area = plane(25, 800)
        x, slope = nn.functional.softplus(t), 4 * torch.sigmoid(t).prod(1)
    else:
        x, area = plane(4, 800)
    with torch.no_grad():
        total = float((flow.log_prob(x).exp() * slope).sum() * area)
    assert total == pytest.approx(1, abs=5e-3)
    assert not flow.lower_bound


@torch.no_grad()
def exact_log_prob_of_dequantized(flow: Flow, levels: int) -> Tensor:
    """log P(x) of every integer by integrating the density over its cell."""
    fine = 400
    u = ((torch.arange(levels * fine) + 0.5) / (levels * fine)).unsqueeze(1)
    return flow.log_prob(u).view(levels, fine).logsumexp(1) - math.log(levels * fine)


def test_dequantization_bounds_a_normalised_probability() -> None:
    levels = 256
    density = Flow(DiagonalNormal((1,)), [Logit(), Affine(1.3, 0.4)])
    exact = exact_log_prob_of_dequantized(density, levels)
    assert float(exact.logsumexp(0)) == pytest.approx(0, abs=1e-4)
    flow = Flow(density, [UniformDequantization((1,), levels)])
    assert flow.lower_bound
    x = torch.arange(levels).unsqueeze(1)
    bound = torch.stack([flow.elbo(x) for _ in range(400)])
    error = bound.std(0) / math.sqrt(400)
    assert (bound.mean(0) <= exact + 4 * error + 1e-4).all()
    # There is a gap, at the ends, and many draws close it.
    assert (exact - bound.mean(0)).max() > 1
    assert ((flow.iwbo(x, 4000, chunk=1000) - exact).abs() < 0.2).all()


def test_variational_dequantization_weights_average_to_the_exact_probability() -> None:
    levels = 8
    density = Flow(DiagonalNormal((2,)), [Logit(), Affine(1.3, 0.4)])
    # Wider than the cell asks for: draws too near its middle would have weights of infinite variance.
    encoder = InverseFlow(StandardNormal((2,)), [Affine(3.0), conditional_coupling(), Reverse(), Sigmoid()])
    flow = Flow(density, [VariationalDequantization(encoder, levels)])
    one_d = exact_log_prob_of_dequantized(Flow(DiagonalNormal((1,)), [Logit(), Affine(1.3, 0.4)]), levels)
    x = torch.tensor([[1, 6], [3, 3], [5, 4]])
    with torch.no_grad():
        torch.testing.assert_close(flow.iwbo(x, 40_000, chunk=10_000), one_d[x].sum(1), atol=0.03, rtol=0)


def test_inverse_flow_knows_the_density_of_its_draws() -> None:
    layers = [conditional_coupling(), Reverse(), conditional_coupling(), Sigmoid()]
    encoder = InverseFlow(StandardNormal((2,)), layers)
    context = torch.randn(7, 2)
    u, log_q = encoder.sample_with_log_prob(7, context)
    torch.testing.assert_close(encoder.log_prob(u, context), log_q)
    # On a grid of the square, the density integrates to one.
    grid = (plane(0.5, 500)[0] + 0.5).clamp(1e-6, 1 - 1e-6)
    with torch.no_grad():
        p = encoder.log_prob(grid, context[:1].expand(len(grid), 2)).exp()
    assert float(p.mean()) == pytest.approx(1, abs=5e-3)


def test_maxpool_integrates_to_one_over_a_window() -> None:
    flow = Flow(StandardNormal((1, 1, 1)), [MaxPool2d()])
    u = torch.quasirandom.SobolEngine(4, scramble=True, seed=0).draw(2**16, dtype=torch.float64)
    scale = 2.5  # a wider normal than the density, so that the ratio is bounded
    x = scale * torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))
    log_q = (-0.5 * (x / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)).sum(1)
    total = (flow.log_prob(x.view(-1, 1, 2, 2)) - log_q).exp().mean()
    assert float(total) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("index", [None, 3], ids=["uniform", "learned"])
def test_max_integrates_to_one(index: int | None) -> None:
    layer = Max(HalfNormal((2,)), index and Categorical(Unit(index)))
    axis = (torch.arange(120) + 0.5) / 120 * 16 - 10
    x = torch.cartesian_prod(axis, axis, axis)
    z, ladj = layer(x)
    log_p = ladj - 0.5 * z.square() - 0.5 * math.log(2 * math.pi)
    assert float(log_p.exp().sum() * (16 / 120) ** 3) == pytest.approx(1, abs=1e-2)


# --- special cases with a known answer ----------------------------------------------------------------------


def test_half_normal_behind_abs_is_normal() -> None:
    x = torch.randn(50, 3)
    flow = Flow(HalfNormal((3,)), [Abs()])
    torch.testing.assert_close(flow.log_prob(x), StandardNormal((3,)).log_prob(x), atol=1e-13, rtol=0)


class OrderStatistics(Distribution):
    """Of L standard normals: L! times their density on the sorted cone."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        inside = (x.diff(dim=1) >= 0).all(1)
        log_p = StandardNormal(x.shape[1:]).log_prob(x) + math.lgamma(x.shape[1] + 1)
        return log_p.masked_fill(~inside, -math.inf)


def test_order_statistics_behind_sort_are_independent() -> None:
    x = torch.randn(50, 6)
    torch.testing.assert_close(
        Flow(OrderStatistics(), [Sort()]).log_prob(x), StandardNormal((6,)).log_prob(x), atol=1e-12, rtol=0
    )


def test_relu_in_inference_gives_back_the_normal() -> None:
    """z has density N on the positive axis and an atom of one half at 0, which half-normals fill."""

    class Rectified(Distribution):
        def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            normal = -0.5 * x.square() - 0.5 * math.log(2 * math.pi)
            return torch.where(x > 0, normal, -math.log(2)).sum(1)

    x = torch.cat((torch.randn(50, 4), torch.zeros(1, 4)))
    flow = Flow(Rectified(), [ReLU(HalfNormal((4,)))])
    torch.testing.assert_close(flow.log_prob(x), StandardNormal((4,)).log_prob(x), atol=1e-13, rtol=0)


def test_generative_relu_bounds_the_rectified_normal_tightly() -> None:
    """The posterior of a normal z given max(0, z) = 0 is the mirrored half-normal: no gap."""
    x = torch.randn(50, 4).relu()
    flow = Flow(StandardNormal((4,)), [GenerativeReLU(HalfNormal((4,)))])
    expected = torch.where(x > 0, -0.5 * x.square() - 0.5 * math.log(2 * math.pi), -math.log(2)).sum(1)
    torch.testing.assert_close(flow.log_prob(x), expected, atol=1e-12, rtol=0)


def test_rounding_in_inference_is_a_histogram() -> None:
    class Geometric(Distribution):
        def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return ((x + 1) * math.log(0.5)).masked_fill(x < 0, -math.inf).sum(1)

    flow = Flow(Geometric(), [Rounding(StandardUniform((1,)))])
    x = torch.tensor([[-0.6], [-0.5], [0.49], [0.5], [1.6]])
    assert flow.log_prob(x).exp().tolist() == pytest.approx([0, 0.5, 0.5, 0.25, 0.125])


class Linear(nn.Module):
    """Normal parameters of a linear model: of x = z + noise given z, or of its posterior given x."""

    def __init__(self, slope: float, variance: float) -> None:
        super().__init__()
        self.slope, self.log_std = slope, 0.5 * math.log(variance)

    def forward(self, context: Tensor) -> Tensor:
        return torch.cat((self.slope * context, torch.full_like(context, self.log_std)), 1)


def test_vae_with_the_true_posterior_has_no_gap() -> None:
    vae = VAE(ConditionalNormal(Linear(0.5, 0.5)), ConditionalNormal(Linear(1.0, 1.0)))
    flow = Flow(StandardNormal((1,)), [vae])
    x = torch.randn(50, 1) * 2
    expected = -0.25 * x.square().sum(1) - 0.5 * math.log(4 * math.pi)
    torch.testing.assert_close(flow.log_prob(x), expected, atol=1e-12, rtol=0)
    assert flow.lower_bound
    assert float(flow.sample(20_000).var()) == pytest.approx(2, abs=0.1)


def test_augmentation_by_independent_noise_has_no_gap() -> None:
    flow = Flow(StandardNormal((5,)), [Augment(StandardNormal((3,)), 2)])
    x = torch.randn(20, 2)
    torch.testing.assert_close(flow.log_prob(x), StandardNormal((2,)).log_prob(x))


def test_importance_bound() -> None:
    """IWBO_1 is the ELBO, IWBO_k rises with k towards the truth, and an exact model has one value."""
    vae = VAE(ConditionalNormal(Linear(0.3, 1.0)), ConditionalNormal(Linear(1.0, 1.0)))
    flow = Flow(StandardNormal((1,)), [vae])
    x = torch.full((4000, 1), 1.7)
    truth = -0.25 * 1.7**2 - 0.5 * math.log(4 * math.pi)
    torch.manual_seed(1)
    elbo = flow.elbo(x)
    torch.manual_seed(1)
    torch.testing.assert_close(flow.iwbo(x, 1), elbo)
    means = [float(flow.iwbo(x, k, chunk=3).mean()) for k in (1, 2, 8, 64)]
    assert means == sorted(means)
    assert means[0] < truth - 0.05
    assert means[-1] == pytest.approx(truth, abs=5e-3)
    exact = toy_flow("corners", hidden=(4,))
    torch.testing.assert_close(exact.iwbo(x.expand(-1, 2), 5), exact.log_prob(x.expand(-1, 2)))
    torch.testing.assert_close(importance_bound(torch.full((7, 3), -900.0)), torch.full((3,), -900.0))


def test_units() -> None:
    # A uniform byte costs eight bits.
    assert float(bits_per_dim(torch.tensor(-12 * math.log(256)), 12)) == pytest.approx(8)
    assert float(ppll(torch.tensor(-265.0), 50)) == pytest.approx(-5.3)


def test_distributions() -> None:
    """Each against torch.distributions, and samples against the density."""
    d = torch.distributions
    x = torch.randn(9, 3, 2)
    torch.testing.assert_close(StandardNormal((3, 2)).log_prob(x), d.Normal(0, 1).log_prob(x).sum((1, 2)))
    torch.testing.assert_close(
        HalfNormal((3, 2)).log_prob(x.abs()), d.HalfNormal(1).log_prob(x.abs()).sum((1, 2))
    )
    assert (HalfNormal((3, 2)).log_prob(-x.abs()) == -math.inf).all()
    diagonal = shaken(DiagonalNormal((3, 2)))
    assert diagonal.mean.shape == (3, 1)
    reference = d.Normal(diagonal.mean, diagonal.log_scale.exp())
    torch.testing.assert_close(diagonal.log_prob(x), reference.log_prob(x).sum((1, 2)))
    draws = diagonal.sample(20_000)
    torch.testing.assert_close(draws.mean(0), diagonal.mean.expand(3, 2), atol=0.05, rtol=0)
    uniform = StandardUniform((2,))
    assert uniform.log_prob(torch.tensor([[0.0, 1.0], [0.5, 1.1], [-0.1, 0.5]])).tolist() == [
        0,
        -math.inf,
        -math.inf,
    ]
    net = MLP(3, (4,), 6)
    context = x[:, :, 0]
    mean, log_scale = net(context).chunk(2, 1)
    y = x[:, :, 1]
    expected = d.Normal(mean, log_scale.exp()).log_prob(y).sum(1)
    torch.testing.assert_close(ConditionalNormal(net).log_prob(y, context), expected)
    draw, log_prob = ConditionalNormal(net).sample_with_log_prob(9, context)
    torch.testing.assert_close(ConditionalNormal(net).log_prob(draw, context), log_prob)
    bits = (torch.randn(9, 6) > 0).double()
    expected = d.Bernoulli(logits=net(context)).log_prob(bits).sum(1)
    torch.testing.assert_close(Bernoulli(net).log_prob(bits, context), expected)
    assert set(Bernoulli(net).sample(9, context).unique().tolist()) <= {0.0, 1.0}


# --- symmetry, domains, gradients, tracing ------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, d in DENSITIES.items() if d.mirror_axes == (0, 1)])
def test_absflow_is_symmetric_to_the_last_bit(name: str) -> None:
    flow = toy_absflow(name, hidden=(16, 8))
    x = DENSITIES[name].sample(100, 0).double()
    for sign in ([-1, 1], [1, -1], [-1, -1]):
        assert torch.equal(flow.log_prob(x * torch.tensor(sign)), flow.log_prob(x))


def test_checkerboard_absflow_with_a_perfect_classifier_is_the_density() -> None:
    flow = toy_absflow("checkerboard")

    class Perfect(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            dark = ((z / 2).floor().sum(1, keepdim=True) % 2) == 0
            return torch.where(dark, 60.0, -60.0)

    flow.transforms[0].classifier = Perfect()
    x, _ = plane(4.5, 90)  # no midpoint on an edge
    expected = DENSITIES["checkerboard"].log_density(x).exp()
    torch.testing.assert_close(flow.log_prob(x).exp(), expected, atol=1e-12, rtol=0)
    assert DENSITIES["checkerboard"].log_density(flow.sample(2000)).isfinite().all()


def test_sortflow_is_invariant_and_permuteflow_a_bound() -> None:
    layers = [
        AffineCoupling(small_transformer(1, 2), "softplus"),
        Reverse(),
        AffineCoupling(positional(4, 2, 4), "softplus", dim=2),
        Shuffle(8, dim=2),
        shaken(ActNorm(2)),
    ]
    base = StandardNormal((2, 8))
    points = [Permute(2, 1), Affine(1 / 28, -0.5)]
    flow = Flow(base, [*points, Sort(0), *layers])
    x = 28 * torch.rand(5, 8, 2)
    torch.testing.assert_close(flow.log_prob(x[:, torch.randperm(8)]), flow.log_prob(x), atol=1e-12, rtol=0)
    assert not flow.lower_bound
    assert flow.sample(3).shape == (3, 8, 2)
    assert Flow(base, [*points, StochasticPermutation(), *layers]).lower_bound


def test_transformers_start_at_zero_and_respect_permutations() -> None:
    fresh = DenseTransformer(2, 4, width=64, heads=8, feed_forward=256, layers=2)
    x = torch.randn(3, 2, 7)
    assert (fresh(x) == 0).all()
    assert float(fresh.layers[0].linear1.weight.std()) == pytest.approx(0.125 / 8, rel=0.05)
    assert float(fresh.layers[0].linear2.weight.std()) == pytest.approx(0.125 / 16 / 2, rel=0.05)
    assert float(fresh.layers[1].self_attn.out_proj.weight.std()) == pytest.approx(0.125 / 8 / 2, rel=0.05)
    order = torch.randperm(7)
    net = small_transformer(2, 4)
    torch.testing.assert_close(net(x[:, :, order]), net(x)[:, :, order])
    other = positional(7, 2, 4)
    assert not torch.allclose(other(x[:, :, order]), other(x)[:, :, order])


def test_transformer_matches_pytorchs_encoder_layer() -> None:
    """With PyTorch's own pre-LN layer, given the same activation."""
    net = small_transformer(2, 4)
    block = net.layers[0]
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, 0.0, lambda h: h * torch.sigmoid(1.702 * h), batch_first=True, norm_first=True
    )
    layer.load_state_dict(block.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(block(x), layer(x))


def test_dropout_acts_in_training_only() -> None:
    net = shaken(DenseTransformer(2, 4, width=8, heads=2, feed_forward=12, layers=1, dropout=0.5))
    x = torch.randn(3, 2, 7)
    assert not torch.allclose(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("name", DENSITIES)
def test_density_is_zero_outside_of_the_domain(name: str) -> None:
    flow = toy_absflow(name, hidden=(8,))
    outside = torch.tensor([[4.001, 1.0], [1.0, -4.001], [-9.0, 9.0]])
    log_prob = flow.log_prob(outside)
    if name == "eight_gaussians":
        assert log_prob.isfinite().all()  # inverse softplus maps the whole plane
    else:
        assert (log_prob == -math.inf).all()
    assert (Logit()(torch.tensor([[-0.1], [1.1]]))[1] == -math.inf).all()
    assert (SoftplusInverse()(torch.tensor([[-0.1]]))[1] == -math.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DENSITIES)
def test_values_and_gradients_are_finite_at_the_boundary(name: str, dtype: torch.dtype) -> None:
    flow = toy_absflow(name, hidden=(8,)).to(dtype)
    x = torch.tensor([[0.0, 0.0], [4.0, 4.0], [-4.0, 0.0], [2.0, 4.0], [1e-20, -1e-7]], dtype=dtype)
    x.requires_grad_()
    log_prob = flow.log_prob(x)
    assert log_prob.dtype == dtype
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in flow.parameters())


@pytest.mark.parametrize("layer", [Logit(), SoftplusInverse(), Abs()], ids=lambda layer: type(layer).__name__)
def test_gradients_outside_of_the_domain_are_no_nan(layer: Transform) -> None:
    x = torch.tensor([[-1.0, 0.0, 1.0, 2.0]], requires_grad=True)
    z, ladj = layer(x)
    assert z.isfinite().all()
    (z.sum() + ladj.sum()).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["checkerboard", "corners", "eight_gaussians"])
@pytest.mark.parametrize("make", [toy_flow, toy_absflow])
def test_seeds_train_side_by_side(make: Callable[..., Flow], name: str) -> None:
    """vmap of grad_and_value over stacked parameters, traced or not, is the loop over models."""
    flows = [make(name, hidden=(6, 5)) for _ in range(3)]
    x = torch.stack([DENSITIES[name].sample(16, seed) for seed in range(3)]).double()

    def loss(parameters: dict, buffers: dict, batch: Tensor) -> Tensor:
        return -functional_call(flows[0], (parameters, buffers), (batch,)).mean()

    state = stack_module_state(flows)
    step = vmap(grad_and_value(loss))
    for run in (step, make_fx(step)(*state, x)):
        gradients, values = run(*state, x)
        for i, flow in enumerate(flows):
            expected = -flow.log_prob(x[i]).mean()
            torch.testing.assert_close(values[i], expected)
            wanted = torch.autograd.grad(expected, list(flow.parameters()))
            for (key, _), g in zip(flow.named_parameters(), wanted, strict=True):
                torch.testing.assert_close(gradients[key][i], g)


def everything() -> tuple[Flow, Tensor]:
    """A flow of images with most layers at once, and data for it."""
    layers = [
        VariationalDequantization(StandardUniform((1, 8, 8)), 16),
        Affine(2.0, -1.0),
        Squeeze2d(),
        Conv1x1(4),
        ActNorm(4),
        AffineCoupling(small_densenet(2, 4), "tanh_exp", order="sequential"),
        MaxPool2d(),
        Slice(StandardNormal((2, 2, 2)), 2),
        Augment(StandardNormal((1, 2, 2)), 2),
        Permute(3, 2, 1),
        Permute(3, 2, 1),
    ]
    return Flow(DiagonalNormal((3, 2, 2)), layers), torch.randint(16, (3, 5, 1, 8, 8))


def test_random_layers_run_under_vmap_and_tracing() -> None:
    flow, x = everything()
    state = dict(flow.named_parameters())

    def loss(parameters: dict, batch: Tensor) -> Tensor:
        return -functional_call(flow, parameters, (batch,)).mean()

    step = vmap(grad_and_value(loss), in_dims=(None, 0), randomness="different")
    traced = make_fx(step)(state, x)
    for run in (step, traced):
        torch.manual_seed(5)
        gradients, values = run(state, x)
        assert values.isfinite().all()
        assert len(values.unique()) == 3
        assert set(gradients) == set(state)
    sample = flow.sample(2)
    assert sample.shape == (2, 1, 8, 8)
    assert sample.dtype == torch.int64


def test_double_precision_keeps_its_digits_after_conversion() -> None:
    """A model built in single precision and converted computes as one built in double precision."""
    torch.set_default_dtype(torch.float32)
    flow = Flow(StandardNormal((2,)), [Affine(1 / 28, -0.3), *couplings(2, (4,), "softplus")]).double()
    torch.set_default_dtype(torch.float64)
    twin = Flow(StandardNormal((2,)), [Affine(1 / 28, -0.3), *couplings(2, (4,), "softplus")])
    twin.load_state_dict(flow.state_dict())
    x = torch.randn(5, 2)
    torch.testing.assert_close(flow.log_prob(x), twin.log_prob(x), atol=1e-14, rtol=0)
    assert flow.sample(2).dtype == torch.float64


def test_bound_of_a_decoder_makes_the_flow_a_bound() -> None:
    decoder = Flow(StandardNormal((3,)), [Augment(StandardNormal((2,)), 1)])
    assert Flow(StandardNormal((2,)), [Slice(decoder, 2)]).lower_bound
    assert Flow(decoder, []).lower_bound
    assert not Flow(StandardNormal((2,)), []).lower_bound
