"""What theory demands of the rule and the loss (card, section 7, a to g)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from papers.clapp.config import Learner
from papers.clapp.encoder import Encoder
from papers.clapp.learning import step_draws
from papers.clapp.losses import Draw, Factors, hinge_loss
from papers.clapp.patches import offset_pairs
from papers.clapp.rule import head_update, local_update, plain_plasticity, plasticity
from papers.clapp.step import losses_of, set_rule_gradients
from papers.clapp.tests.conftest import SMALL, scaled

CLAPP = Learner(**SMALL)
VARIANTS = {
    "clapp": {},
    "clapp_s": {"heads": "shared", "asynchronous": False},
    "clapp_s, 4 negatives anywhere": {"heads": "shared", "asynchronous": False, "negatives": 4, "anywhere": True},
    "separate heads, negatives anywhere": {"negatives": 3, "anywhere": True},
    "one y": {"broadcast": True},
    "no bias": {"bias": False},
    "K = 1": {"offsets": 1},
    "no sign": {"third": "unsigned"},
    "gamma = 1": {"third": "none"},
    "no prediction": {"fourth": False},
    "no prediction, shared heads": {"fourth": False, "heads": "shared", "asynchronous": False},
    "no prediction, negatives anywhere": {"fourth": False, "negatives": 3, "anywhere": True},
    "no sign, no prediction": {"third": "unsigned", "fourth": False},
}


def case(config: Learner, seed: int = 0, batch: int = 6) -> tuple[Encoder, Tensor, Sequence]:
    encoder = scaled(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 1, 12, 12, dtype=torch.float64, generator=generator)
    return encoder, x, step_draws(config, encoder, x, generator)


def gradients(encoder: Encoder, losses: list[Tensor]) -> dict[str, Tensor]:
    encoder.zero_grad(set_to_none=True)
    sum(losses).backward()
    return {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_the_rule_is_the_gradient(variant: str) -> None:
    config = dataclasses.replace(CLAPP, **VARIANTS[variant])
    encoder, x, draws = case(config)
    factors = Factors(config.third, config.fourth)
    slopes = gradients(encoder, losses_of(encoder, x, "hinge", draws, config.skip, factors))
    encoder.zero_grad(set_to_none=True)
    set_rule_gradients(encoder, x, draws, config.skip, factors)
    ruled = {name: value.grad for name, value in encoder.named_parameters()}
    assert ruled.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert float(slope.norm()) > 0, name
        assert float((ruled[name] - slope).norm()) < 1e-10 * float(slope.norm()), name


def test_a_and_both_are_finite_differences() -> None:
    """With shared heads, where no gradient is stopped within a layer's loss."""
    encoder, x, draws = case(dataclasses.replace(CLAPP, heads="shared"))
    set_rule_gradients(encoder, x, draws, CLAPP.skip)
    for place, stage in enumerate(encoder.stages):
        for name, value in stage.named_parameters():
            at = tuple(torch.tensor(value.shape) // 2)
            losses = []
            for shift in (1e-6, -1e-6):
                with torch.no_grad():
                    value[at] += shift
                    losses.append(float(losses_of(encoder, x, "hinge", draws, CLAPP.skip)[place]))
                    value[at] -= shift
            assert float(value.grad[at]) == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-7), name


def test_the_rule_written_out_neuron_by_neuron() -> None:
    """Eqs. 6 to 8 for a layer without pooling on patches of one pixel with its neighbours cut off."""
    torch.manual_seed(0)
    count, rows, batch = 4, 3, 5
    activity = torch.rand(rows, 1, batch, count, dtype=torch.float64)
    predicting, retrodicting = torch.randn(2, 1, count, count, dtype=torch.float64)
    draws = [Draw(torch.rand(batch) < 0.5, [torch.randint(batch, (batch,))]) for _ in range(2)]
    expected = np.zeros((rows, batch, count))
    change, mirror = np.zeros((count, count)), np.zeros((count, count))
    z = activity[:, 0].numpy()
    pairs = [(row, row + 1, image) for row in range(rows - 1) for image in range(batch)]
    for head, (matrix, draw) in enumerate(zip((predicting[0], retrodicting[0]), draws, strict=True)):
        weights, stays = matrix.numpy(), draw.fixates.numpy()
        for before, after, image in pairs:
            source = image if stays[image] else int(draw.others[0][image])
            y = 1 if stays[image] else -1
            context, later = z[before, image], z[after, source]
            gamma = y * (y * context @ weights @ later < 1) / (rows - 1) / (stays == stays[image]).sum()
            if head == 0:
                expected[after, source] += gamma * (weights.T @ context)
                change += gamma * np.outer(context, later)
            else:
                expected[before, image] += gamma * (weights @ later)
                mirror += gamma * np.outer(context, later)
    first = head_update(activity, predicting, draws[0], 0, "prediction")
    second = head_update(activity, retrodicting, draws[1], 0, "retrodiction")
    np.testing.assert_allclose((first.dendrite + second.dendrite)[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(first.matrices[0], change, atol=1e-12)
    np.testing.assert_allclose(second.matrices[0], mirror, atol=1e-12)


def test_pre_times_post_in_both_forms() -> None:
    encoder, x, _ = case(CLAPP)
    with torch.no_grad():
        activities, _ = encoder.activities(x)
        for stage, activity in zip(encoder.stages, activities, strict=True):
            dendrite = torch.randn_like(activity.mean)
            fast, plain = (form(stage.layers[0], activity, dendrite) for form in (plasticity, plain_plasticity))
            for quick, written in zip(fast, plain, strict=True):
                torch.testing.assert_close(quick, written, rtol=1e-10, atol=1e-12)


def test_of_equal_positions_in_a_pool_one_wins() -> None:
    encoder, x, _ = case(CLAPP)
    flat = torch.ones_like(x)
    draws = step_draws(CLAPP, encoder, flat, torch.Generator().manual_seed(0))
    slopes = gradients(encoder, losses_of(encoder, flat, "hinge", draws, CLAPP.skip))
    set_rule_gradients(encoder, flat, draws, CLAPP.skip)
    for name, value in encoder.named_parameters():
        torch.testing.assert_close(value.grad, slopes[name], rtol=1e-10, atol=1e-12)


def test_b_no_layer_hears_of_anothers_loss() -> None:
    encoder, x, draws = case(CLAPP)
    for place, loss in enumerate(losses_of(encoder, x, "hinge", draws, CLAPP.skip)):
        for other, stage in enumerate(encoder.stages):
            slopes = torch.autograd.grad(loss, list(stage.parameters()), retain_graph=True, allow_unused=True)
            assert all(slope is None for slope in slopes) is (other != place)


def test_c_nothing_changes_where_the_margin_is_kept() -> None:
    """A score that is large for every pair: fixations have learned enough, saccades have not."""
    activity = torch.rand(4, 2, 6, 3, dtype=torch.float64) + 1
    matrices = torch.ones(1, 3, 3, dtype=torch.float64)
    for stays, still in ((True, True), (False, False)):
        for sign in (1, -1):
            draw = Draw(torch.full((6,), stays), [torch.arange(6)])
            update = head_update(activity, sign * matrices, draw, 0)
            assert bool((update.dendrite == 0).all()) is (still is (sign == 1))
            assert bool((update.matrices == 0).all()) is (still is (sign == 1))


def test_d_a_saccade_is_a_fixation_with_the_other_sign() -> None:
    torch.manual_seed(0)
    activity, matrices = torch.rand(4, 2, 6, 3, dtype=torch.float64), 1e-3 * torch.randn(2, 3, 3, dtype=torch.float64)
    itself = [torch.arange(6)] * 2  # the other image is the same one
    stay, leave = (head_update(activity, matrices, Draw(torch.full((6,), y), itself), 1) for y in (True, False))
    torch.testing.assert_close(stay.dendrite, -leave.dendrite)
    torch.testing.assert_close(stay.matrices, -leave.matrices)


def test_e_clapp_is_clapp_s_on_average() -> None:
    """Over all 2^B masks, each as often, but for the two that leave a mean empty."""
    torch.manual_seed(0)
    batch = 5
    activity, matrices = torch.rand(3, 1, batch, 3, dtype=torch.float64), torch.randn(1, 3, 3, dtype=torch.float64)
    others = [torch.randint(batch, (batch,))]
    both = head_update(activity, matrices, Draw(None, others), 0)
    masks = [torch.tensor([bool(number >> bit & 1) for bit in range(batch)]) for number in range(1, 2**batch - 1)]
    updates = [head_update(activity, matrices, Draw(mask, others), 0) for mask in masks]
    torch.testing.assert_close(torch.stack([update.dendrite for update in updates]).mean(0), both.dendrite)
    torch.testing.assert_close(torch.stack([update.matrices for update in updates]).mean(0), both.matrices)


def test_f_shared_heads_are_the_sum_of_separate_ones_that_are_equal() -> None:
    torch.manual_seed(0)
    activity, matrices = torch.rand(5, 2, 4, 3, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    draw = Draw(None, [torch.randint(4, (4,)) for _ in range(2)])
    both, first, second = (
        head_update(activity, matrices, draw, 1, role) for role in ("both", "prediction", "retrodiction")
    )
    torch.testing.assert_close(both.dendrite, first.dendrite + second.dendrite)
    for update in (first, second):
        torch.testing.assert_close(both.matrices, update.matrices)


def test_g_one_layer_is_end_to_end() -> None:
    settings = {**SMALL, "widths": (4,), "pools": (), "probed": (1,), "modules": (1,)}
    encoder, x, draws = case(Learner(**settings))
    deep, x, deep_draws = case(Learner(**{**SMALL, "modules": (3,), "trainer": "loss"}))
    slopes = gradients(encoder, losses_of(encoder, x, "hinge", draws, 1))
    set_rule_gradients(encoder, x, draws, 1)
    for name, value in encoder.named_parameters():
        torch.testing.assert_close(value.grad, slopes[name], rtol=1e-10, atol=1e-12)
    reached = gradients(deep, losses_of(deep, x, "hinge", deep_draws, 1))
    assert all(float(slope.norm()) > 0 for slope in reached.values()), "with three layers the lowest hears of the loss"


def test_initial_weights_leave_every_hinge_active() -> None:
    torch.manual_seed(0)
    encoder = scaled(CLAPP, by=1e-3)
    x = torch.randn(6, 1, 12, 12, dtype=torch.float64)
    draws = step_draws(CLAPP, encoder, x, torch.Generator().manual_seed(0))
    for loss in losses_of(encoder, x, "hinge", draws, CLAPP.skip):
        assert float(loss.detach()) == pytest.approx(4, abs=0.02)  # two heads, each 1 of fixations and 1 of saccades


def test_frozen_predictions_do_not_change() -> None:
    encoder, x, draws = case(CLAPP)
    activities, grid = encoder.activities(x)
    for stage, activity, draw in zip(encoder.stages, activities, draws, strict=True):
        changes, _ = local_update(stage, activity, grid, draw, CLAPP.skip, frozen=True)
        assert changes.keys() == {"layers.0.weight", "layers.0.bias"}


def test_the_same_y_for_the_whole_network_and_draws_of_their_own() -> None:
    _, _, own = case(CLAPP, batch=40)
    _, _, one = case(dataclasses.replace(CLAPP, broadcast=True), batch=40)
    masks = [draw.fixates for stage in one for draw in stage]
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert len({tuple(draw.fixates.tolist()) for stage in own for draw in stage}) == 2 * len(own)
    others = [row for stage in one for draw in stage for row in draw.others]
    assert all(torch.equal(row, others[0]) for row in others)


def test_offsets_pair_rows_of_a_column() -> None:
    pairs = [(pair.context.stop, pair.target.start, pair.target.stop) for pair in offset_pairs(7, 5, 1)]
    assert pairs == [(5, 2, 7), (4, 3, 7), (3, 4, 7), (2, 5, 7), (1, 6, 7)]


def test_an_empty_half_of_a_batch_has_no_term() -> None:
    activity, matrices = torch.rand(3, 1, 2, 3, dtype=torch.float64), torch.zeros(1, 3, 3, dtype=torch.float64)
    draw = Draw(torch.tensor([True, True]), [torch.tensor([1, 0])])
    assert float(hinge_loss(activity, matrices, draw, 0)) == pytest.approx(1)
