"""The losses at the end of a module: CLAPP's hinge (Eq. 3), and the contrastive one of CPC and Greedy InfoMax.

Activities are (gy, gx, B, c). Every loss is a mean over offsets; of an offset, over positions and samples.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from papers.clapp.patches import offset_pairs

__all__ = ["FULL", "Draw", "Factors", "Role", "contrastive_loss", "hinge_loss", "negatives_of", "sample_weights"]

Role = Literal["both", "prediction", "retrodiction"]
"""Which activities a head's dendritic input drives: the later ones, those of the context, or both."""
EPSILON = 1e-11
"""Within the logarithm of the contrastive loss (official code)."""


class Draw(NamedTuple):
    """What chance decides for one head of one module."""

    fixates: Tensor | None
    """y: whether the gaze stayed, (B,), True for +1, False for a saccade, -1; None for both at every step."""
    others: Sequence[Tensor]
    """Of each offset where negatives come from: (B,), another image, same place; or (rows, gx, B, n), places among the
    (row, column, image)-ordered targets."""


class Factors(NamedTuple):
    """Which factors of the rule are there (ablations)."""

    third: Literal["full", "unsigned", "none"] = "full"
    """gamma = y H; H alone, as if the gaze always stayed; or 1."""
    fourth: bool = True
    """The dendritic prediction; without it 1."""


FULL = Factors()
"""The rule as published."""


def negatives_of(values: Tensor, others: Tensor) -> Tensor:
    """Of targets (rows, gx, B, c) those that stand for the negatives, (rows, gx, B, n, c)."""
    if others.ndim == 1:
        return values[:, :, others].unsqueeze(-2)
    return values.flatten(0, 2)[others]


def sample_weights(fixates: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B,) by which positive and negative terms of a batch are averaged; no sample, no term."""
    batch = like.shape[2]
    if fixates is None:
        even = like.new_full((batch,), 1 / batch)
        return even, even
    positive = fixates.to(like.dtype)
    negative = 1 - positive
    return positive / positive.sum().clamp(min=1), negative / negative.sum().clamp(min=1)


def _scores(c: Tensor, z: Tensor, matrix: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """u = c' M z of positives (rows, gx, B), and of negatives (rows, gx, B, n)."""
    retrodicted = z @ matrix.T
    return (c * retrodicted).sum(-1), (c.unsqueeze(-2) * negatives_of(retrodicted, others)).sum(-1)


def hinge_loss(
    activity: Tensor, matrices: Tensor, draw: Draw, skip: int, role: Role = "both", factors: Factors = FULL
) -> Tensor:
    """L = max(0, 1 - y u) of one head, with the gradient stopped where its dendritic input has no say.

    With a factor of the rule left out it is the function of which that rule is the gradient.
    """
    total = activity.new_zeros(())
    positive, negative = sample_weights(draw.fixates, activity)
    for pair, matrix, others in zip(
        offset_pairs(len(activity), len(matrices), skip), matrices, draw.others, strict=True
    ):
        c, z = activity[pair.context], activity[pair.target]
        driven = (c.detach() if role == "prediction" else c, z.detach() if role == "retrodiction" else z)
        u, u_negative = _scores(*driven, matrix, others)
        places = u.shape[0] * u.shape[1]
        if factors.fourth:
            stay, leave = _terms(u, u_negative, factors)
        else:
            stay, leave = _without_prediction(c, z, matrix, others, role, factors)
        total = total + ((stay * positive).sum() + (leave.mean(-1) * negative).sum()) / places
    return total / len(matrices)


def _terms(u: Tensor, u_negative: Tensor, factors: Factors) -> tuple[Tensor, Tensor]:
    """The terms of fixations and of saccades."""
    if factors.third == "none":
        return -u, -u_negative
    return F.relu(1 - u), F.relu(1 - u_negative if factors.third == "unsigned" else 1 + u_negative)


def _without_prediction(
    c: Tensor, z: Tensor, matrix: Tensor, others: Tensor, role: Role, factors: Factors
) -> tuple[Tensor, Tensor]:
    """Terms whose gradient is gamma times 1 for the activities, and gamma times z c' for the matrices."""
    fixed = _scores(c.detach(), z.detach(), matrix, others)
    leaves = [u.detach().requires_grad_() for u in fixed]
    terms = _terms(*leaves, factors)
    gamma, gamma_negative = (-slope for slope in torch.autograd.grad([term.sum() for term in terms], leaves))
    sums, sums_negative = fixed
    if role != "retrodiction":
        sums, sums_negative = sums + z.sum(-1), sums_negative + negatives_of(z, others).sum(-1)
    if role != "prediction":
        sums, sums_negative = sums + c.sum(-1), sums_negative + c.sum(-1, keepdim=True)
    return -gamma * sums, -gamma_negative * sums_negative


def contrastive_loss(activity: Tensor, matrices: Tensor, draw: Draw, skip: int) -> Tensor:
    """-log of the positive's share in a softmax over its score and those of its negatives."""
    total = activity.new_zeros(())
    for pair, matrix, others in zip(
        offset_pairs(len(activity), len(matrices), skip), matrices, draw.others, strict=True
    ):
        u, u_negative = _scores(activity[pair.context], activity[pair.target], matrix, others)
        shares = torch.cat([u.unsqueeze(-1), u_negative], -1).softmax(-1)
        total = total - (shares[..., 0] + EPSILON).log().mean()
    return total / len(matrices)
