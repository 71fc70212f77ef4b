r"""Bijective layers: $\mathcal V = \log |\det \partial z / \partial x|$, the likelihood stays exact."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from papers.survae.transforms import Transform, sum_except_batch

__all__ = [
    "SCALE_FNS",
    "ActNorm",
    "Affine",
    "AffineCoupling",
    "Conv1x1",
    "Logit",
    "Permute",
    "Reverse",
    "Shuffle",
    "Sigmoid",
    "Softplus",
    "SoftplusInverse",
    "Squeeze2d",
]

ScaleFn = Callable[[Tensor], tuple[Tensor, Tensor]]


def softplus(x: Tensor) -> Tensor:
    r"""$\log(1 + e^x)$; PyTorch's default threshold would cost float64 half of its digits."""
    return F.softplus(x, threshold=40.0)


def _exp(s: Tensor) -> tuple[Tensor, Tensor]:
    return s.exp(), s


def _softplus(s: Tensor) -> tuple[Tensor, Tensor]:
    scale = softplus(s)
    return scale, scale.log()


def _sigmoid(s: Tensor) -> tuple[Tensor, Tensor]:
    scale = torch.sigmoid(s + 2) + 1e-3
    return scale, scale.log()


def _tanh_exp(s: Tensor) -> tuple[Tensor, Tensor]:
    log_scale = 2 * torch.tanh(s / 2)
    return log_scale.exp(), log_scale


SCALE_FNS: dict[str, ScaleFn] = {
    "exp": _exp,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "tanh_exp": _tanh_exp,
}
r"""From the pre-scale $s$ to the scale and its logarithm; the scales are $e^s$, $\log(1 + e^s)$,
$\sigma(s + 2) + 10^{-3}$ and $e^{2 \tanh(s / 2)}$."""


class AffineCoupling(Transform):
    r"""Scales and shifts one half of the input by functions of the other half.

    $$ z_1 = x_1, \quad z_2 = \alpha(x_1) \odot x_2 + \beta(x_1), \quad \mathcal V = \sum \log \alpha(x_1) $$

    The net maps $x_1$ to pre-scales $s$ and shifts $\beta$, stacked along axis 1 in one of two orders:
    ``interleaved`` (all $s$, then all $\beta$) or ``sequential`` ($s, \beta$ of the first channel, then of
    the second ...). The names are those of the official code.

    Arguments:
        net: From $x_1$, (B, D1, ...), to (B, 2 D2, ...).
        scale_fn: Which $\alpha(s)$, a key of `SCALE_FNS`.
        dim: The axis that is split in two; with an odd size, $x_1$ is the longer part.
        order: ``interleaved`` or ``sequential``.
        conditional: Whether the net also sees a context, concatenated to $x_1$ along axis 1.

    References:
        | Density estimation using Real NVP (Dinh et al., 2016)
        | https://arxiv.org/abs/1605.08803
    """

    def __init__(
        self,
        net: nn.Module,
        scale_fn: str = "exp",
        dim: int = 1,
        order: str = "interleaved",
        conditional: bool = False,
    ) -> None:
        super().__init__()
        if order not in ("interleaved", "sequential"):
            raise ValueError(f"order is 'interleaved' or 'sequential', not {order!r}")
        self.net = net
        self.scale_fn = SCALE_FNS[scale_fn]
        self.dim = dim
        self.order = order
        self.conditional = conditional

    def _scale_and_shift(self, x1: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        h = self.net(x1 if context is None else torch.cat((x1, context), 1))
        if self.order == "interleaved":
            s, shift = h.chunk(2, 1)
        else:
            s, shift = h.unflatten(1, (-1, 2)).unbind(2)
        scale, log_scale = self.scale_fn(s)
        return scale, log_scale, shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x1, x2 = x.chunk(2, self.dim)
        scale, log_scale, shift = self._scale_and_shift(x1, context)
        return torch.cat((x1, torch.addcmul(shift, scale, x2)), self.dim), sum_except_batch(log_scale)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        z1, z2 = z.chunk(2, self.dim)
        scale, _, shift = self._scale_and_shift(z1, context)
        return torch.cat((z1, (z2 - shift) / scale), self.dim)


class Affine(Transform):
    r"""Fixed scale and shift, broadcast against the input.

    $$ z = a \odot x + b, \qquad \mathcal V = \sum \log |a| $$

    Arguments:
        scale: $a$, a number or nested numbers that broadcast against (D, ...).
        shift: $b$, likewise.
    """

    def __init__(self, scale: float | Sequence = 1.0, shift: float | Sequence = 0.0) -> None:
        super().__init__()
        # Double precision, cast at use: 1 / 28 rounded to single would spoil a model made double later.
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64), persistent=False)
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x * self.scale.to(x.dtype) + self.shift.to(x.dtype)
        ladj = self.scale.abs().log().to(x.dtype).expand(x.shape[1:]).sum()
        return z, ladj.expand(x.shape[0])

    def inverse(self, z: Tensor) -> Tensor:
        return (z - self.shift.to(z.dtype)) / self.scale.to(z.dtype)


class ActNorm(Transform):
    r"""Learned scale and shift per channel (axis 1), set by `initialise` to standardise a batch.

    $$ z = (x - \mu) e^{-\lambda}, \qquad \mathcal V = - n \sum_c \lambda_c $$

    with $n$ the number of positions (1 for (B, C), L for (B, C, L), H W for (B, C, H, W)). It starts as the
    identity; `initialise` takes $\mu$ = mean and $\lambda = \log(\mathrm{std} + 10^{-6})$, unbiased, over the
    batch and all positions.

    Arguments:
        channels: The size C of axis 1.

    References:
        | Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma et al., 2018)
        | https://arxiv.org/abs/1807.03039
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def _broadcast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *(1,) * (x.dim() - 2))
        return self.shift.view(shape), self.log_scale.view(shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._broadcast(x)
        ladj = -self.log_scale.sum() * math.prod(x.shape[2:])
        return (x - shift) * torch.exp(-log_scale), ladj.expand(x.shape[0])

    def inverse(self, z: Tensor) -> Tensor:
        shift, log_scale = self._broadcast(z)
        return z * torch.exp(log_scale) + shift

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Tensor:
        rows = x.transpose(0, 1).flatten(1)
        self.shift.copy_(rows.mean(1))
        self.log_scale.copy_((rows.std(1) + 1e-6).log())
        return self(x)[0]


class Conv1x1(Transform):
    r"""Invertible mixing of channels at every position, started as a random rotation.

    $$ z_{\cdot p} = W x_{\cdot p}, \qquad \mathcal V = n \log |\det W| $$

    Arguments:
        channels: The size C of axis 1; the input is (B, C, L) or (B, C, H, W), with $n$ positions.

    References:
        | Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma et al., 2018)
        | https://arxiv.org/abs/1807.03039
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = (self.weight @ x.flatten(2)).view_as(x)
        ladj = torch.linalg.slogdet(self.weight)[1] * math.prod(x.shape[2:])
        return z, ladj.expand(x.shape[0])

    def inverse(self, z: Tensor) -> Tensor:
        return torch.linalg.solve(self.weight, z.flatten(2)).view_as(z)


class Logit(Transform):
    r"""$z = \log x - \log(1 - x)$ with $\mathcal V = -\sum \log x + \log(1 - x)$, on $[0, 1]$.

    Inputs within ``eps`` of an end count as lying at distance ``eps``; outside of the interval $\mathcal V$
    is minus infinity and $z$ still finite, so that densities vanish there and gradients exist everywhere.

    Arguments:
        eps: The margin at both ends.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = x.clamp(self.eps, 1 - self.eps)
        log_p, log_q = p.log(), torch.log1p(-p)
        outside = (x < 0) | (x > 1)
        return log_p - log_q, sum_except_batch((-log_p - log_q).masked_fill(outside, -math.inf))

    def inverse(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)


class Sigmoid(Transform):
    r"""$z = \sigma(x)$, the inverse of `Logit`, with $\mathcal V = \sum \log \sigma(x) + \log \sigma(-x)$.

    Arguments:
        eps: The margin that `inverse` keeps from 0 and 1.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(x), -sum_except_batch(softplus(x) + softplus(-x))

    def inverse(self, z: Tensor) -> Tensor:
        p = z.clamp(self.eps, 1 - self.eps)
        return p.log() - torch.log1p(-p)


class Softplus(Transform):
    r"""$z = \log(1 + e^x)$, onto the positive numbers, with $\mathcal V = \sum \log \sigma(x)$.

    Arguments:
        eps: The margin that `inverse` keeps from 0.
    """

    def __init__(self, eps: float = 1e-7) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return softplus(x), -sum_except_batch(softplus(-x))

    def inverse(self, z: Tensor) -> Tensor:
        z = z.clamp(self.eps)
        return z + torch.log(-torch.expm1(-z))


class SoftplusInverse(Transform):
    r"""$z = \log(e^x - 1)$ on $x \ge 0$, with $\mathcal V = -\sum \log(1 - e^{-x})$.

    Inputs below ``eps`` count as ``eps``; for negative ones $\mathcal V$ is minus infinity and $z$ finite.

    Arguments:
        eps: The margin at 0.
    """

    def __init__(self, eps: float = 1e-7) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.clamp(self.eps)
        log_slope = torch.log(-torch.expm1(-y))
        return y + log_slope, -sum_except_batch(log_slope.masked_fill(x < 0, math.inf))

    def inverse(self, z: Tensor) -> Tensor:
        return softplus(z)


class _Rearrange(Transform):
    """A bijection that moves entries about: no contribution."""

    def rearrange(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.rearrange(x), x.new_zeros(x.shape[0])


class Reverse(_Rearrange):
    """Flips the order along an axis.

    Arguments:
        dim: The axis.
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def rearrange(self, x: Tensor) -> Tensor:
        return x.flip(self.dim)

    def inverse(self, z: Tensor) -> Tensor:
        return z.flip(self.dim)


class Shuffle(_Rearrange):
    """A permutation along an axis, drawn once and kept with the parameters.

    Arguments:
        size: The size of the axis.
        dim: The axis.
    """

    def __init__(self, size: int, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("permutation", torch.randperm(size))

    def rearrange(self, x: Tensor) -> Tensor:
        return x.index_select(self.dim, self.permutation)

    def inverse(self, z: Tensor) -> Tensor:
        return z.index_select(self.dim, self.permutation.argsort())


class Permute(_Rearrange):
    """Reorders axes: ``Permute(2, 1)`` takes (B, L, C) to (B, C, L).

    Arguments:
        dims: For every axis of the result but the batch, the input's axis.
    """

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = (0, *dims)
        self.inverse_dims = tuple(self.dims.index(i) for i in range(len(self.dims)))

    def rearrange(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)

    def inverse(self, z: Tensor) -> Tensor:
        return z.permute(self.inverse_dims)


class Squeeze2d(_Rearrange):
    """Space to depth: (B, C, H, W) to (B, 4 C, H / 2, W / 2), every 2 x 2 window's entries side by side."""

    def rearrange(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)

    def inverse(self, z: Tensor) -> Tensor:
        b, c, h, w = z.shape
        return z.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)
