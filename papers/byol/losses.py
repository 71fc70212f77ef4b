"""The normalised loss of BYOL (Eq. 2), the InfoNCE family between BYOL and SimCLR (Eq. 6), and measures of collapse."""

import torch
from torch import Tensor

from papers.byol.world import World

__all__ = ["byol_loss", "info_nce", "normalised", "participation_ratio", "regression_loss", "spread"]

LEAST = 1e-12
"""Smaller squared norms count as this one (official code)."""


def normalised(u: Tensor) -> Tensor:
    """u / ‖u‖ along the last axis."""
    return u * u.square().sum(-1, keepdim=True).clamp(min=LEAST).rsqrt()


def regression_loss(q: Tensor, z: Tensor) -> Tensor:
    """‖q/‖q‖ - z/‖z‖‖² = 2 - 2 cos(q, z) of each row (Eq. 2): (B, d), (B, d) to (B,)."""
    return (normalised(q) - normalised(z)).square().sum(-1)


def byol_loss(q1: Tensor, z2: Tensor, q2: Tensor, z1: Tensor) -> Tensor:
    """Both directions summed, mean over the batch.

    Arguments:
        q1, q2: Predictions from view 1 and from view 2, (B, d).
        z2, z1: Target projections of view 2 and of view 1, (B, d). The prediction of a view meets the other's target.
    """
    return (regression_loss(q1, z2) + regression_loss(q2, z1)).mean()


def info_nce(phi: Tensor, psi_same: Tensor, psi_other: Tensor, alpha: float, beta: float, world: World) -> Tensor:
    """InfoNCE^{α,β} of one direction, to be maximised (Eq. 6-7).

    (2/B) Σ_i S(v_i, v'_i) - β (2α/B) Σ_i ln( Σ_{j≠i} exp(S(v_i, v_j)/α) + Σ_j exp(S(v_i, v'_j)/α) ), where
    S(u, w) = cos(φ(u), ψ(w)). β = 0 is BYOL's loss but for sign and a constant, β = 1 with φ = ψ that of SimCLR.

    Arguments:
        phi: φ(v), (B, d).
        psi_same: ψ(v), (B, d), whose rows but the own are negatives.
        psi_other: ψ(v'), (B, d); row i is the positive of row i.
        alpha: Temperature α.
        beta: Weight β of the negatives.
        world: Negatives come from the batches of all its processes.
    """
    phi, psi_same, psi_other = normalised(phi), normalised(psi_same), normalised(psi_other)
    objective = 2 * (phi * psi_other).sum(-1).mean()
    if not beta:
        return objective
    same, other = (phi @ world.gather(psi).T / alpha for psi in (psi_same, psi_other))
    own = torch.arange(len(phi), device=phi.device)
    same = same.index_put((own, own + world.rank * len(phi)), same.new_tensor(-torch.inf))
    return objective - beta * 2 * alpha * torch.cat([same, other], 1).logsumexp(1).mean()


def spread(z: Tensor) -> Tensor:
    """√d times the mean over dimensions of the deviation over the batch of z/‖z‖: 1 if isotropic, 0 if collapsed."""
    return normalised(z).std(0, correction=0).mean() * z.shape[1] ** 0.5


def participation_ratio(z: Tensor) -> Tensor:
    """(Σλ)²/Σλ² of the covariance's eigenvalues λ: an effective rank between 1 and min(B - 1, d)."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred
    return covariance.trace().square() / covariance.square().sum().clamp(min=1e-30)
