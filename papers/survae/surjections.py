"""Surjective layers: deterministic in one direction, random in the other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from papers.survae.bijections import softplus
from papers.survae.transforms import Transform, sum_except_batch

__all__ = ["Abs", "SignedAbs"]


def _constant(x: Tensor, value: float) -> Tensor:
    """The same contribution for every sample, (B,)."""
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return x.new_full((x.shape[0],), value, dtype=dtype)


def _fair_sign(z: Tensor) -> Tensor:
    return 1 - 2 * torch.randint_like(z, 2)


class Abs(Transform):
    r"""Absolute value; generation tosses a fair coin for the sign of every element.

    $$ z = |x|, \qquad x = s z, \quad s \sim \mathcal U\{-1, 1\}, \qquad \mathcal V = -D \log 2 $$

    References:
        | SurVAE Flows: Surjections to Bridge the Gap between VAEs and Flows (Nielsen et al., 2020), section 3
        | https://arxiv.org/abs/2007.02731
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.abs(), _constant(x, -math.prod(x.shape[1:]) * math.log(2))

    def inverse(self, z: Tensor) -> Tensor:
        return _fair_sign(z) * z


class SignedAbs(Transform):
    r"""Absolute value of some elements; generation draws their signs from a classifier.

    $$ z_i = |x_i| \; (i \in I), \qquad z_j = x_j \; (j \notin I), \qquad
    \mathcal V = \sum_{i \in I} \log p(\operatorname{sign} x_i \mid z) $$

    Arguments:
        classifier: From $z$, (B, D), to the logits of a positive sign, (B, |I|).
        elements: $I$, indices along axis 1; 0 counts as negative.
    """

    def __init__(self, classifier: nn.Module, elements: Sequence[int]) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("elements", torch.tensor(elements), persistent=False)

    def _mask(self, x: Tensor) -> Tensor:
        return (torch.arange(x.shape[1], device=x.device).unsqueeze(1) == self.elements).any(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.where(self._mask(x), x.abs(), x)
        logits = self.classifier(z)
        positive = x.index_select(1, self.elements) > 0
        return z, -sum_except_batch(softplus(torch.where(positive, -logits, logits)))

    def inverse(self, z: Tensor) -> Tensor:
        logits = self.classifier(z)
        sign = torch.where(torch.rand_like(logits) < torch.sigmoid(logits), 1.0, -1.0).to(z.dtype)
        return z * torch.ones_like(z).index_copy(1, self.elements, sign)
