"""Surjective layers: deterministic in one direction, random in the other.

Those that are deterministic in the direction of inference keep the likelihood exact; the others (`Augment`,
`GenerativeReLU` and the dequantizations) yield a lower bound.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from papers.survae.bijections import softplus
from papers.survae.distributions import Categorical, Distribution, Elementwise, HalfNormal, StandardUniform
from papers.survae.transforms import Transform, permute_last, random_permutation, sum_except_batch

__all__ = [
    "Abs",
    "Augment",
    "GenerativeReLU",
    "Max",
    "MaxPool2d",
    "ReLU",
    "Rounding",
    "SignedAbs",
    "Slice",
    "Sort",
    "UniformDequantization",
    "VariationalDequantization",
]


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


class _Decoded(Transform):
    """An inference surjection whose generation draws from a decoder; exact if the decoder's density is."""

    def __init__(self, decoder: Distribution | None) -> None:
        super().__init__()
        self.decoder = decoder

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether the decoder's density is exact."""
        return self.decoder is None or self.decoder.exact


class VariationalDequantization(Transform):
    r"""Rounding in the direction of generation: integers become points of their cells in the unit cube.

    $$ z = (x + u) / K, \quad u \sim q(u \mid x) \text{ on } [0, 1)^D, \qquad x = \lfloor K z \rfloor, \qquad
    \mathcal V = -\log q(u \mid x) - D \log K $$

    Arguments:
        encoder: $q(u \mid x)$; its context is the middle of the cells, $(x + 1/2) / K$.
        levels: $K$, so that $x$ is in $0 \dots K - 1$.

    References:
        | Flow++: Improving Flow-Based Generative Models with Variational Dequantization (Ho et al., 2019)
        | https://arxiv.org/abs/1902.00275
    """

    exact = False

    def __init__(self, encoder: Distribution, levels: int = 256) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = levels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u, log_q = self.encoder.sample_with_log_prob(x.shape[0], (x + 0.5) / self.levels)
        return (x + u) / self.levels, -log_q - math.prod(x.shape[1:]) * math.log(self.levels)

    def inverse(self, z: Tensor) -> Tensor:
        return (self.levels * z).floor().clamp(0, self.levels - 1).long()


class UniformDequantization(VariationalDequantization):
    r"""Uniform noise in every cell: $\mathcal V = -D \log K$.

    Arguments:
        shape: The shape of one $x$.
        levels: $K$.
    """

    def __init__(self, shape: Sequence[int], levels: int = 256) -> None:
        super().__init__(StandardUniform(shape), levels)


class Rounding(_Decoded):
    r"""Rounding in the direction of inference: $z$ is the nearest integer, generation fills its cell.

    $$ z = \lfloor x + 1/2 \rfloor, \qquad x = z - 1/2 + u, \quad u \sim p(u \mid z), \qquad
    \mathcal V = \log p(u \mid z) $$

    Arguments:
        decoder: $p(u \mid z)$ on $[0, 1)^D$.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = (x + 0.5).floor()
        return z, self.decoder.log_prob(x + 0.5 - z, z)

    def inverse(self, z: Tensor) -> Tensor:
        return z - 0.5 + self.decoder.sample(z.shape[0], z)


class Slice(_Decoded):
    r"""Keeps the first part of an axis; generation draws the rest. The step of multi-scale architectures.

    $$ x = (z, x_2), \quad x_2 \sim p(x_2 \mid z), \qquad \mathcal V = \log p(x_2 \mid z) $$

    Arguments:
        decoder: $p(x_2 \mid z)$.
        num_keep: The size of $z$ along the axis.
        dim: The axis.
    """

    def __init__(self, decoder: Distribution, num_keep: int, dim: int = 1) -> None:
        super().__init__(decoder)
        self.num_keep = num_keep
        self.dim = dim

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, x2 = x.tensor_split([self.num_keep], self.dim)
        return z, self.decoder.log_prob(x2, z)

    def inverse(self, z: Tensor) -> Tensor:
        return torch.cat((z, self.decoder.sample(z.shape[0], z)), self.dim)


class Augment(Transform):
    r"""Slicing in the direction of generation: inference appends noise.

    $$ z = (x, z_2), \quad z_2 \sim q(z_2 \mid x), \qquad \mathcal V = -\log q(z_2 \mid x) $$

    Arguments:
        encoder: $q(z_2 \mid x)$.
        size: The size of $x$ along the axis.
        dim: The axis.
    """

    exact = False

    def __init__(self, encoder: Distribution, size: int, dim: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        self.size = size
        self.dim = dim

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z2, log_q = self.encoder.sample_with_log_prob(x.shape[0], x)
        return torch.cat((x, z2), self.dim), -log_q

    def inverse(self, z: Tensor) -> Tensor:
        return z.narrow(self.dim, 0, self.size)


class Max(_Decoded):
    r"""The largest of the K entries of the last axis; generation places it and draws the others below it.

    $$ z = \max_k x_k, \qquad \mathcal V = \log p(k \mid z) + \log p(d \mid z), \quad d = z - x_{-k} \ge 0 $$

    Of equal entries the first is the maximum.

    Arguments:
        decoder: $p(d \mid z)$, over (B, ..., K - 1).
        index: $p(k \mid z)$; uniform if absent.
    """

    def __init__(self, decoder: Distribution, index: Categorical | None = None) -> None:
        super().__init__(decoder)
        self.index = index

    @staticmethod
    def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maximum and its index, (B, ...), and the others' distances to it, (B, ..., K - 1), in order."""
        k = x.argmax(-1, keepdim=True)
        others = torch.arange(x.shape[-1] - 1, device=x.device)
        z = x.gather(-1, k)
        return z.squeeze(-1), k.squeeze(-1), z - x.gather(-1, others + (others >= k))

    @staticmethod
    def join(z: Tensor, k: Tensor, d: Tensor) -> Tensor:
        """The inverse of `split`."""
        z, k = z.unsqueeze(-1), k.unsqueeze(-1)
        i = torch.arange(d.shape[-1] + 1, device=d.device)
        return torch.where(i == k, z, z - d.gather(-1, (i - (i > k).long()).clamp(max=d.shape[-1] - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, k, d = self.split(x)
        if self.index is None:
            log_k = _constant(x, -math.prod(x.shape[1:-1]) * math.log(x.shape[-1]))
        else:
            log_k = self.index.log_prob(k, z)
        return z, log_k + self.decoder.log_prob(d, z)

    def inverse(self, z: Tensor) -> Tensor:
        d = self.decoder.sample(z.shape[0], z)
        if self.index is None:
            k = torch.randint_like(z, d.shape[-1] + 1).long()
        else:
            k = self.index.sample(z.shape[0], z)
        return self.join(z, k, d)


class MaxPool2d(_Decoded):
    r"""The largest entry of every 2 x 2 window, (B, C, H, W) to (B, C, H / 2, W / 2): `Max` per window.

    $$ \mathcal V = -\tfrac{C H W}{4} \log 4 + \log p(d \mid z) $$

    The three distances $d$ of channel $c$ are channels $3c \dots 3c + 2$ of a (B, 3 C, H / 2, W / 2) tensor,
    in the windows' row-major order.

    Arguments:
        decoder: $p(d \mid z)$; half-normal if absent.
    """

    def __init__(self, decoder: Distribution | None = None) -> None:
        super().__init__(decoder)

    def _decoder(self, z: Tensor) -> Distribution:
        return self.decoder or HalfNormal((3 * z.shape[1], *z.shape[2:])).to(z)

    @staticmethod
    def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maxima and their index in the window, (B, C, H / 2, W / 2), and $d$."""
        b, c, h, w = x.shape
        windows = x.view(b, c, h // 2, 2, w // 2, 2).transpose(3, 4).flatten(4)
        z, k, d = Max.split(windows)
        return z, k, d.movedim(4, 2).flatten(1, 2)

    @staticmethod
    def join(z: Tensor, k: Tensor, d: Tensor) -> Tensor:
        """The inverse of `split`."""
        windows = Max.join(z, k, d.unflatten(1, (-1, 3)).movedim(2, 4))
        return windows.unflatten(4, (2, 2)).transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, _, d = self.split(x)
        log_k = -math.prod(z.shape[1:]) * math.log(4)
        return z, self._decoder(z).log_prob(d, z) + log_k

    def inverse(self, z: Tensor) -> Tensor:
        return self.join(z, torch.randint_like(z, 4).long(), self._decoder(z).sample(z.shape[0], z))


class Sort(Transform):
    r"""Sorts the last axis; generation shuffles it. Makes any flow invariant to the order of points.

    $$ z = x_{I}, \quad I = \operatorname{argsort} \kappa(x), \qquad \mathcal V = -\log L! $$

    Arguments:
        channel: For points (B, C, L), the coordinate $\kappa$ by which they are sorted, moved as wholes; None
            for numbers (B, L).
    """

    def __init__(self, channel: int | None = None) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key = x if self.channel is None else x[:, self.channel]
        return permute_last(x, key.argsort(dim=-1, stable=True)), _constant(x, -math.lgamma(x.shape[-1] + 1))

    def inverse(self, z: Tensor) -> Tensor:
        return permute_last(z, random_permutation(z))


class ReLU(_Decoded):
    r"""$z = \max(0, x)$ in the direction of inference; generation fills the negative axis.

    $$ \mathcal V = \sum_{x_i \le 0} \log p(-x_i) $$

    The density of $z$ is with respect to Lebesgue measure and an atom at 0, per element.

    Arguments:
        decoder: The density of $-x_i$ given $z_i = 0$.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.relu(), sum_except_batch(self.decoder.log_density(-x).masked_fill(x > 0, 0))

    def inverse(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, z, -self.decoder.sample(z.shape[0]))


class GenerativeReLU(Transform):
    r"""$x = \max(0, z)$ in the direction of generation: zeros in the data are filled with negative numbers.

    $$ z_i = x_i \; (x_i > 0), \quad -z_i \sim q \; (x_i = 0), \qquad
    \mathcal V = -\sum_{x_i = 0} \log q(-z_i) $$

    Arguments:
        encoder: $q$, on the positive numbers.
    """

    exact = False

    def __init__(self, encoder: Elementwise) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fill = self.encoder.sample(x.shape[0])
        log_q = self.encoder.log_density(fill).masked_fill(x > 0, 0)
        return torch.where(x > 0, x, -fill), -sum_except_batch(log_q)

    def inverse(self, z: Tensor) -> Tensor:
        return z.relu()
