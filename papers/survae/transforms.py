"""The contract of every SurVAE layer, and the composition of layers."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["Compose", "Transform", "permute_last", "random_permutation", "sum_except_batch"]


def sum_except_batch(x: Tensor) -> Tensor:
    """Sum over all axes but the first: (B, ...) to (B,)."""
    return x.flatten(1).sum(1)


def permute_last(x: Tensor, index: Tensor) -> Tensor:
    """Reorders the last axis of $x$, (B, ..., L), by a permutation per sample, (B, L)."""
    return x.gather(-1, index.view(x.shape[0], *(1,) * (x.dim() - 2), -1).expand_as(x))


def random_permutation(x: Tensor) -> Tensor:
    """A uniform permutation of the last axis for each sample of (B, ..., L), as (B, L)."""
    return torch.rand(x.shape[0], x.shape[-1], device=x.device).argsort(-1)


class Transform(nn.Module):
    r"""One layer $x \leftrightarrow z$ of a SurVAE flow.

    $$ \log p(x) \simeq \log p(z) + \mathcal V(x, z) + \mathcal E(x, z), \qquad z \sim q(z \mid x) $$

    *Inference* (``forward``) goes from data $x$ to latent $z$, *generation* (``inverse``) back. A bijection
    is deterministic in both, a surjection in one, a stochastic layer in neither direction. No layer writes
    into its input or branches in Python on a value, so that layers run under ``torch.func`` and can be
    traced.

    Attributes:
        exact: Whether the bound gap $\mathcal E$ is zero, so that $\mathcal V$ is all there is.
        conditional: Whether the layer takes a context beside its input.

    References:
        | SurVAE Flows: Surjections to Bridge the Gap between VAEs and Flows (Nielsen et al., 2020),
          equation 3 and table 1
        | https://arxiv.org/abs/2007.02731
    """

    exact: bool = True
    conditional: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Infers $z$, (B, ...), and the likelihood contribution $\mathcal V(x, z)$, ``ladj``, (B,)."""
        raise NotImplementedError

    def inverse(self, z: Tensor) -> Tensor:
        """Generates $x$ from $z$."""
        raise NotImplementedError

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Tensor:
        """Sets data-dependent parameters, if the layer has any, from a batch $x$; returns its $z$."""
        return self(x)[0]


class Compose(Transform, nn.ModuleList):
    r"""Layers one after the other, the first next to the data: $\mathcal V$ is the sum of theirs.

    It is a ``ModuleList``: layers can be indexed and iterated, and parameters are named by position.

    Arguments:
        layers: The layers, in the direction of inference.
    """

    def __init__(self, layers: Iterable[Transform] = ()) -> None:
        nn.ModuleList.__init__(self, layers)

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether every layer is exact."""
        return all(cast(Transform, layer).exact for layer in self)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        for layer in self:
            x, ladj = layer(x, context) if layer.conditional else layer(x)
            total = ladj if total is None else total + ladj
        return x, x.new_zeros(x.shape[0]) if total is None else total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for layer in reversed(self):
            z = layer.inverse(z, context) if layer.conditional else layer.inverse(z)
        return z

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer.initialise(x)
        return x
