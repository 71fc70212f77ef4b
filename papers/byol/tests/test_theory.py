"""What theory demands of losses, schedules, LARS, the target, networks and augmentations (card's list (a) to (g))."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import RefigureError
from papers.byol import augmentations as plain
from papers.byol.augmentations import Policy, augment_one, draw
from papers.byol.config import Pretrain
from papers.byol.fast_augmentations import augment, resize
from papers.byol.lars import Lars
from papers.byol.learner import family_loss, optimiser_of, update, view_loss
from papers.byol.losses import byol_loss, info_nce, participation_ratio, regression_loss, spread
from papers.byol.networks import BatchNorm, Byol, ResNet, load_encoder, mlp
from papers.byol.schedules import learning_rate, target_decay
from papers.byol.world import World

ALONE = World(0, 1)
TINY = Pretrain(encoder="small", widths=(4, 6), side=8, hidden=8, projection=5, batch=12, base_rate=5.0, tau=0.9)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(config: Pretrain = TINY, seed: int = 0) -> Byol:
    torch.manual_seed(seed)
    return Byol(config, 3)


def views(batch: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, batch, 3, 8, 8, generator=generator)
    return first, second, torch.arange(batch) % 3


# (a) the loss


def test_the_loss_is_two_minus_two_cosines() -> None:
    q, z = rows(7, 4), rows(7, 4, seed=1)
    torch.testing.assert_close(regression_loss(q, z), 2 - 2 * F.cosine_similarity(q, z))
    torch.testing.assert_close(regression_loss(3 * q, 0.2 * z), regression_loss(q, z))


def test_its_gradient_is_orthogonal_to_the_prediction_and_zero_where_they_are_parallel() -> None:
    q, z = rows(7, 4).requires_grad_(), rows(7, 4, seed=1)
    (gradient,) = torch.autograd.grad(regression_loss(q, z).sum(), q)
    torch.testing.assert_close((gradient * q).sum(1), torch.zeros(7, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(gradient.norm()) > 0.1
    parallel = (2.5 * z).requires_grad_()
    loss = regression_loss(parallel, z).sum()
    assert float(loss) == pytest.approx(0, abs=1e-12)
    assert float(torch.autograd.grad(loss, parallel)[0].norm()) == pytest.approx(0, abs=1e-12)


def test_both_directions_are_summed_and_each_prediction_meets_the_other_view() -> None:
    """Averaged instead of summed losses cost others 11 points; the wrong pairing 35 (card, section 10)."""
    q1, z2, q2, z1 = (rows(6, 4, seed=seed) for seed in range(4))
    directions = regression_loss(q1, z2).mean() + regression_loss(q2, z1).mean()
    torch.testing.assert_close(byol_loss(q1, z2, q2, z1), directions)
    model = make()
    view1, view2, _ = views()
    loss, _ = family_loss(model, view1, view2, TINY, ALONE)
    t1, t2 = (model.target["projector"](model.target["encoder"](view)) for view in (view1, view2))
    q1, q2 = (model.predictor(model.online["projector"](model.online["encoder"](view))) for view in (view1, view2))
    torch.testing.assert_close(loss, (regression_loss(q1, t2) + regression_loss(q2, t1)).mean())
    assert not torch.allclose(loss, (regression_loss(q1, t1) + regression_loss(q2, t2)).mean())


# (b) the family


def test_without_negatives_infonce_is_byols_loss() -> None:
    phi, same, other = (rows(6, 4, seed=seed) for seed in range(3))
    objective = info_nce(phi, same, other, 0.1, 0.0, ALONE)
    torch.testing.assert_close(objective, 2 - regression_loss(phi, other).mean())


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_with_negatives_infonce_is_simclrs_loss(alpha: float) -> None:
    """NT-Xent by its definition: the positive among all 2B views but the own, one by one."""
    z1, z2 = F.normalize(rows(5, 4), dim=1), F.normalize(rows(5, 4, seed=1), dim=1)
    losses = []
    for i in range(5):
        positive = float(z1[i] @ z2[i]) / alpha
        negatives = [float(z1[i] @ z1[j]) / alpha for j in range(5) if j != i]
        everything = negatives + [float(z1[i] @ z2[j]) / alpha for j in range(5)]
        losses.append(math.log(sum(map(math.exp, everything))) - positive)
    objective = info_nce(z1, z1, z2, alpha, 1.0, ALONE)
    assert float(objective) / (2 * alpha) == pytest.approx(-sum(losses) / 5)


# (c) the target


def test_the_decay_rises_from_its_base_to_one() -> None:
    values = [target_decay(step, 100, 0.9) for step in range(101)]
    assert values[0] == pytest.approx(0.9)
    assert values[-1] == 1.0
    assert values == sorted(values)
    assert values[50] == pytest.approx(0.95)


def test_the_rate_warms_up_and_falls() -> None:
    values = [learning_rate(step, 100, 10, 0.2, 512) for step in range(101)]
    assert values[0] == 0
    assert max(values) == values[10] == pytest.approx(0.4)
    assert values[5] == pytest.approx(0.2)
    assert values[-1] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_the_target_follows_with_all_its_parameters(tau: float) -> None:
    """Biases and scales are averaged like weights (left out by others: card, section 10); statistics are not."""
    model = make()
    with torch.no_grad():
        for value in (*model.online.parameters(), *model.online.buffers()):
            value.add_(1.0)
    before = {name: value.clone() for name, value in model.target.named_parameters()}
    model.follow(tau)
    online = dict(model.online.named_parameters())
    assert any(name.endswith("bias") for name in before)
    for name, value in model.target.named_parameters():
        torch.testing.assert_close(value, tau * before[name] + (1 - tau) * online[name].detach())
    statistics = [value for name, value in model.target.named_buffers() if name.endswith("mean")]
    assert statistics
    assert not any(value.any() for value in statistics)


def test_the_target_moves_by_the_schedule_after_the_optimiser() -> None:
    model = make()
    optimiser = optimiser_of(model, TINY)
    view1, view2, labels = views()
    before = {name: value.clone() for name, value in model.target.named_parameters()}
    logged = update(model, optimiser, view1, view2, labels, 5, TINY, steps=10, warm_up=1)
    assert logged["tau"] == pytest.approx(0.95)
    for name, value in model.target.named_parameters():
        online = dict(model.online.named_parameters())[name].detach()
        torch.testing.assert_close(value, 0.95 * before[name] + 0.05 * online)
    constant = dataclasses.replace(TINY, tau_constant=True)
    assert update(model, optimiser, view1, view2, labels, 5, constant, steps=10, warm_up=1)["tau"] == 0.9


def test_tau_zero_is_a_stopped_gradient() -> None:
    copied = dataclasses.replace(TINY, tau=0.0, tau_constant=True, start="copy")
    stopped = dataclasses.replace(TINY, target="stopped")
    model, other = make(copied), make(stopped)
    other.online.load_state_dict(model.online.state_dict())
    other.predictor.load_state_dict(model.predictor.state_dict())
    other.classifier.load_state_dict(model.classifier.state_dict())
    model.follow(0.0)
    for each, config in ((model, copied), (other, stopped)):
        optimiser = optimiser_of(each, config)
        for step in range(3):
            update(each, optimiser, *views(), step + 1, config, steps=10, warm_up=1)
    for value, expected in zip(model.online.parameters(), other.online.parameters(), strict=True):
        torch.testing.assert_close(value, expected)


# (d) gradients


def test_no_gradient_reaches_the_target_or_comes_from_the_probe() -> None:
    model = make()
    view1, view2, labels = views()
    loss, _ = view_loss(model, view1, view2, labels, TINY, ALONE)
    loss.backward()
    assert all(value.grad is None for value in model.target.parameters())
    gradients = [value.grad.clone() for value in model.online.parameters()]
    model.zero_grad()
    family_loss(model, view1, view2, TINY, ALONE)[0].backward()
    for gradient, value in zip(gradients, model.online.parameters(), strict=True):
        torch.testing.assert_close(gradient, value.grad)


# (e) LARS


def test_the_first_step_of_lars_has_the_norm_of_the_weight() -> None:
    weight, bias = nn.Parameter(rows(4, 3)), nn.Parameter(rows(3))
    before, norm = weight.detach().clone(), float(weight.detach().norm())
    weight.grad, bias.grad = rows(4, 3, seed=1), torch.ones_like(bias)
    bias_before = bias.detach().clone()
    Lars([weight, bias], 0.5, 0.1).step()
    assert float((weight.detach() - before).norm()) == pytest.approx(0.5 * 1e-3 * norm)
    torch.testing.assert_close(bias.detach(), bias_before - 0.5)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_lars_with_a_zero_norm_does_not_scale(zero: str) -> None:
    weight = nn.Parameter(torch.zeros(2, 2) if zero == "weight" else torch.ones(2, 2))
    weight.grad = torch.full((2, 2), 0.0 if zero == "gradient" else 3.0)
    before = weight.detach().clone()
    Lars([weight], 0.5, 0.0).step()
    torch.testing.assert_close(weight.detach(), before - 0.5 * weight.grad)


def test_clipped_lars_never_exceeds_plain_momentum() -> None:
    weight = nn.Parameter(100 * torch.ones(2, 2))
    weight.grad = torch.full((2, 2), 1e-6)
    Lars([weight], 0.5, 0.0, eta=0.02, clip=True).step()
    torch.testing.assert_close(weight.detach(), 100 - 0.5 * weight.grad)


# (f) averaged gradients


@pytest.mark.parametrize("beta", [0.0])
def test_averaged_gradients_of_micro_batches_are_the_whole_ones_without_batch_statistics(beta: float) -> None:
    gradients = []
    for micro in (0, 4):
        config = dataclasses.replace(TINY, micro=micro, beta=beta)
        model = make(config).eval()
        update(model, optimiser_of(model, config), *views(), 1, config, steps=10, warm_up=1)
        gradients.append([value.grad for value in (*model.online.parameters(), *model.predictor.parameters())])
    for whole, averaged in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, averaged)


# (g) the optimal predictor


def test_an_optimal_linear_predictor_leaves_the_residual_variance() -> None:
    z, target = rows(40, 3), rows(40, 5, seed=1)
    z, target = z - z.mean(0), target - target.mean(0)
    q = torch.linalg.lstsq(z, target).solution
    residual = target - z @ q
    projection = z @ torch.linalg.inv(z.T @ z) @ z.T
    explained = torch.trace(target.T @ projection @ target)
    torch.testing.assert_close(residual.square().sum(), target.square().sum() - explained)
    constant = (target - target.mean(0)).square().sum()
    assert residual.square().sum() < constant, "a constant projection cannot have less"


# collapse


def test_measures_of_collapse() -> None:
    z = rows(4000, 6)
    assert float(spread(z)) == pytest.approx(1, abs=0.02)
    assert float(participation_ratio(z)) == pytest.approx(6, abs=0.1)
    assert float(spread(torch.ones(10, 6))) == pytest.approx(0, abs=1e-6)
    line = z[:, :1] * torch.arange(1.0, 7.0, dtype=torch.float64)
    assert float(participation_ratio(line)) == pytest.approx(1)
    eigenvalues = torch.linalg.eigvalsh(torch.cov((z * torch.arange(1, 7)).T))
    expected = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
    torch.testing.assert_close(participation_ratio(z * torch.arange(1, 7)), expected)


# networks


def test_networks_have_the_published_sizes() -> None:
    def count(module: nn.Module) -> int:
        return sum(value.numel() for value in module.parameters())

    with torch.device("meta"):
        resnet = ResNet((3, 4, 6, 3), True, 1, small=False)
        assert resnet.features == 2048
        assert count(resnet) == 23_508_032  # torchvision's ResNet-50 has 25,557,032 with its classifier of 2,049,000
        assert count(ResNet((2, 2, 2, 2), False, 1, small=True)) == 11_168_832
        assert count(mlp(2048, 4096, 256)) == 2048 * 4096 + 3 * 4096 + 4096 * 256
    assert ResNet((1, 1, 1, 1), False, 1, small=True)(torch.zeros(2, 3, 8, 8)).shape == (2, 512)


def test_heads_have_their_depth_and_no_bias_at_the_end() -> None:
    for depth in (1, 2, 3):
        linear = [layer for layer in mlp(4, 8, 3, depth) if isinstance(layer, nn.Linear)]
        assert len(linear) == depth
        assert linear[-1].bias is None
        assert all(layer.bias is not None for layer in linear[:-1])


def test_a_view_has_its_own_statistics_and_evaluation_has_running_ones() -> None:
    norm = BatchNorm(3)
    x = torch.randn(50, 3) * 2 + 1
    torch.testing.assert_close(norm(x), F.batch_norm(x, None, None, training=True))
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0))
    norm.eval()
    assert norm(x[:1]).shape == (1, 3)


# augmentations


POLICY = Policy(side=12, radius=2, blur=0.5, solarise=0.3)


@pytest.mark.parametrize("size", [(16, 16), (9, 20)])
def test_a_batch_is_augmented_as_its_images_are(size: tuple[int, int]) -> None:
    images = torch.rand(48, 3, *size, generator=torch.Generator().manual_seed(0))
    images[0] = 0.0
    images[1] = images[1].mean()
    draws = draw(POLICY, size, 48, torch.Generator().manual_seed(1))
    assert all(
        0 < int(value.sum()) < 48 for value in (draws.flip, draws.jitter, draws.grey, draws.blur, draws.solarise)
    )
    expected = torch.stack([augment_one(image, draws, index, POLICY) for index, image in enumerate(images)])
    ours = augment(images, draws, POLICY)
    assert float(ours.min()) >= 0
    assert float(ours.max()) <= 1
    close = (ours - expected).abs() < 2e-5
    edge = (expected - 0.5).abs() < 1e-3  # rounding may solarise one of the two
    assert bool((close | edge).all())
    assert float(close.double().mean()) > 0.99


def test_the_two_views_of_an_image_are_drawn_apart() -> None:
    """One augmentation for both views was others' fault (card, section 10)."""
    first, second = (draw(POLICY, (16, 16), 64, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert not torch.equal(first.box, second.box)
    assert not torch.equal(first.amounts, second.amounts)


def test_draws_have_the_published_distributions() -> None:
    policy = Policy(side=8, blur=0.1, solarise=0.2)
    draws = draw(policy, (224, 224), 20_000, torch.Generator().manual_seed(0))
    for chances, share in (
        (draws.flip, 0.5),
        (draws.jitter, 0.8),
        (draws.grey, 0.2),
        (draws.blur, 0.1),
        (draws.solarise, 0.2),
    ):
        assert float(chances.double().mean()) == pytest.approx(share, abs=0.015)
    area = (draws.box[:, 2] * draws.box[:, 3] / 224**2).double()
    aspect = draws.box[:, 3] / draws.box[:, 2]
    assert float(area.min()) > 0.07
    assert float(area.mean()) == pytest.approx(0.52, abs=0.04), "fewer of the largest fit"
    assert float(aspect.min()) > 0.73
    assert float(aspect.max()) < 1.37
    inside = draws.box[:, :2] + draws.box[:, 2:] <= 224
    assert bool(inside.all() and (draws.box >= 0).all())
    assert 0.1 <= float(draws.sigma.min()) < 0.12 < 1.98 < float(draws.sigma.max()) <= 2
    low, high = draws.amounts.amin(0), draws.amounts.amax(0)
    torch.testing.assert_close(low, torch.tensor([-0.4, 0.6, 0.8, -0.1]), atol=0.01, rtol=0)
    torch.testing.assert_close(high, torch.tensor([0.4, 1.4, 1.2, 0.1]), atol=0.01, rtol=0)
    assert len({tuple(order) for order in draws.order.tolist()}) == 24


def test_special_cases_of_augmentations() -> None:
    x = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain.hue(x, 1.0), x)
    torch.testing.assert_close(plain.saturation(x, 1.0), x)
    torch.testing.assert_close(plain.contrast(x, 1.0), x)
    torch.testing.assert_close(plain.blur(x, 1.0, 0), x)
    torch.testing.assert_close(plain.crop_resize(x, [0, 0, 8, 8], 8), x)
    torch.testing.assert_close(
        plain.crop_resize(torch.full((3, 9, 5), 0.3), [1, 0, 7, 5], 4), torch.full((3, 4, 4), 0.3)
    )
    torch.testing.assert_close(resize(x[None], 4)[0], plain.crop_resize(x, [0, 0, 8, 8], 4).clamp(0, 1))


# bad input


@pytest.mark.parametrize(("settings", "told"), [
    ({"batch": 1}, "batch and micro must be 2"),
    ({"batch": 8, "micro": 1}, "batch and micro must be 2"),
    ({"batch": 8, "micro": 3}, "multiple of micro"),
    ({"tau": 1.1}, "between 0 and 1"),
    ({"tau": -0.1}, "between 0 and 1"),
    ({"alpha": 0.0}, "must be positive"),
    ({"widths": ()}, "need an entry"),
    ({"least_area": 0.0}, "between 0 and 1"),
    ({"hidden": 0}, "1 or more"),
    ({"epochs": -1}, "0 or more"),
])  # fmt: skip
def test_settings_that_make_no_sense(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(TINY, **settings)


def test_a_batch_of_one_is_refused_in_a_line() -> None:
    with pytest.raises(RefigureError, match="batch of one"):
        BatchNorm(3)(torch.zeros(1, 3))


@pytest.mark.parametrize("tau", [-0.1, 1.5])
def test_a_decay_outside_of_zero_and_one_is_refused(tau: float) -> None:
    with pytest.raises(RefigureError, match=r"outside of \[0, 1\]"):
        target_decay(0, 10, tau)


def test_a_checkpoint_of_another_width_is_refused() -> None:
    wide, narrow = (make(dataclasses.replace(TINY, widths=widths)).online["encoder"] for widths in ((4, 8), (4, 6)))
    with pytest.raises(RefigureError, match="another width"):
        load_encoder(narrow, wide.state_dict())
    deep = make(dataclasses.replace(TINY, widths=(4, 6, 6))).online["encoder"]
    with pytest.raises(RefigureError, match="another encoder"):
        load_encoder(narrow, deep.state_dict())
    load_encoder(narrow, {name: value + 1 for name, value in narrow.state_dict().items()})
