"""The plasticity rule (Eqs. 6 to 8), without automatic differentiation.

A synapse changes by pre x post x dendritic prediction x broadcast modulator. For neuron j, at the later time,

    dW_ji = eta gamma (W_pred c)_j rho'(a_j) x_i,    gamma = y H,    H = 1[y u < 1],

in its role as context the same with (W_retro z)_j, and dW_pred = eta gamma z c'. In a convolution with pooling the
postsynaptic factor of a position is that of a neuron whose activity is the patch's mean: (1/P) rho'(a) where the
position won its pool, else 0; pre x post is summed over positions (card, section 3.1).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from papers.clapp.encoder import Activity, Layer, Module
from papers.clapp.fast_convolution import KERNEL, PADDING, correlate
from papers.clapp.losses import FULL, Draw, Factors, Role, negatives_of, sample_weights
from papers.clapp.patches import offset_pairs

__all__ = ["HeadUpdate", "head_update", "local_update", "plasticity", "postsynaptic"]


class HeadUpdate(NamedTuple):
    """What one head says of its layer's activity."""

    dendrite: Tensor
    """gamma times the dendritic input of every neuron, averaged over samples, (gy, gx, B, c)."""
    matrices: Tensor
    """Change of the prediction matrices, (K, c, c)."""
    loss: Tensor
    """The hinge loss that the update descends, for the metrics stream."""


def head_update(
    activity: Tensor, matrices: Tensor, draw: Draw, skip: int, role: Role = "both", factors: Factors = FULL
) -> HeadUpdate:
    """gamma times dendritic inputs, and the change of the prediction matrices.

    Arguments:
        activity: Patch-averaged activity of the layer, (gy, gx, B, c): c^t and z^(t+dt).
        matrices: M_k, (K, c, c); the prediction of z is M_k' c, the retrodiction of c is M_k z.
    """
    dendrite, change = torch.zeros_like(activity), torch.empty_like(matrices)
    loss = activity.new_zeros(())
    positive, negative = sample_weights(draw.fixates, activity)
    pairs = offset_pairs(len(activity), len(matrices), skip)
    for k, (pair, matrix, others) in enumerate(zip(pairs, matrices, draw.others, strict=True)):
        c, z = activity[pair.context], activity[pair.target]
        retrodicted = z @ matrix.T
        u = (c * retrodicted).sum(-1)
        u_negative = (negatives_of(retrodicted, others) @ c.unsqueeze(-1)).squeeze(-1)
        count = len(matrices) * u.shape[0] * u.shape[1]
        weights, weights_negative = positive / count, (negative / (count * others_each(others))).unsqueeze(-1)
        loss = loss + ((1 - u).clamp(min=0) * weights).sum() + ((1 + u_negative).clamp(min=0) * weights_negative).sum()
        gamma, gamma_negative = _modulators(u, u_negative, factors)
        gamma, gamma_negative = (gamma * weights).unsqueeze(-1), (gamma_negative * weights_negative).unsqueeze(-1)
        one = torch.ones_like(c[..., :1])
        z_negative = negatives_of(z, others)
        if role == "retrodiction":
            latest = gamma * z + (gamma_negative * z_negative).sum(-2)
            change[k] = c.flatten(0, 2).T @ latest.flatten(0, 2)
            later = None
        else:
            later = _collected(gamma * c, gamma_negative * c.unsqueeze(-2), others)
            change[k] = later.flatten(0, 2).T @ z.flatten(0, 2)
            latest = gamma * z + (gamma_negative * z_negative).sum(-2) if role == "both" else None
        if later is not None:  # the prediction M' c drives the later activity
            dendrite[pair.target] += (
                later @ matrix
                if factors.fourth
                else _collected(gamma * one, gamma_negative * one.unsqueeze(-2), others)
            )
        if latest is not None:  # the retrodiction M z drives the context
            dendrite[pair.context] += latest @ matrix.T if factors.fourth else gamma + gamma_negative.sum(-2)
    return HeadUpdate(dendrite, change, loss)


def others_each(others: Tensor) -> int:
    """Negatives of a pair."""
    return 1 if others.ndim == 1 else others.shape[-1]


def _modulators(u: Tensor, u_negative: Tensor, factors: Factors) -> tuple[Tensor, Tensor]:
    """gamma = y H of fixations (y = 1) and of saccades (y = -1)."""
    if factors.third == "none":
        return torch.ones_like(u), torch.ones_like(u_negative)
    if factors.third == "unsigned":
        return (u < 1).to(u), (u_negative < 1).to(u)
    return (u < 1).to(u), -(u_negative > -1).to(u)


def _collected(own: Tensor, negative: Tensor, others: Tensor) -> Tensor:
    """What each target receives: of its own context `own` (rows, gx, B, d), and of those whose negative it is."""
    if others.ndim == 1:
        return own.index_add(2, others, negative.squeeze(-2))
    flat = own.flatten(0, 2).index_add(0, others.flatten(), negative.flatten(0, 3))
    return flat.view_as(own)


def postsynaptic(activity: Activity, dendrite: Tensor) -> Tensor:
    """The postsynaptic factor of every position, (N, c, h, w): rho'(a) times what a patch's mean is told, (N, c)."""
    height, width = activity.y.shape[2:]
    told = (dendrite / (height * width))[:, :, None, None]
    if activity.winners is None:
        return told * (activity.z > 0)
    spread = (told * (activity.y > 0)).contiguous(memory_format=torch.channels_last)
    return torch.ops.aten.max_pool2d_with_indices_backward(
        spread, activity.z, [2, 2], [2, 2], [0, 0], [1, 1], False, activity.winners
    )


def plasticity(layer: Layer, activity: Activity, dendrite: Tensor) -> tuple[Tensor, Tensor | None]:
    """Change of weights (c, C, 3, 3) and biases (c,): pre x post, summed over positions; a bias has the input 1."""
    post = postsynaptic(activity, dendrite)
    return correlate(post, activity.x), post.sum((0, 2, 3)) if layer.bias is not None else None


def plain_plasticity(layer: Layer, activity: Activity, dendrite: Tensor) -> tuple[Tensor, Tensor]:
    """The same, written out: every position's inputs in a row, times its postsynaptic factor."""
    post = postsynaptic(activity, dendrite).flatten(2)  # (N, c, h w)
    pre = torch.nn.functional.unfold(activity.x, KERNEL, padding=PADDING)  # (N, C 9, h w)
    return torch.einsum("ncp,nip->ci", post, pre).view_as(layer.weight), post.sum((0, 2))


@torch.no_grad()
def local_update(
    module: Module, activity: Activity, grid: tuple[int, int, int], draws: tuple[Draw, ...], skip: int,
    factors: Factors = FULL, *, frozen: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """Changes of a layer's parameters by their names in `module`, and its loss.

    Arguments:
        draws: One for the head that both share, or one for prediction and one for retrodiction.
        frozen: Whether prediction matrices keep their initial values.
    """
    (layer,) = module.layers
    mean = activity.mean.unflatten(0, grid)
    if len(draws) == 1:
        updates = {"prediction": head_update(mean, module.prediction, draws[0], skip, "both", factors)}
    else:
        updates = {
            "prediction": head_update(mean, module.prediction, draws[0], skip, "prediction", factors),
            "retrodiction": head_update(mean, module.retrodiction, draws[1], skip, "retrodiction", factors),
        }
    dendrite = sum(update.dendrite for update in updates.values()).flatten(0, 2)
    weight, bias = plasticity(layer, activity, dendrite)
    changes = {"layers.0.weight": weight} | ({} if bias is None else {"layers.0.bias": bias})
    if not frozen:
        changes |= {name: update.matrices for name, update in updates.items()}
    return changes, sum(update.loss for update in updates.values())
