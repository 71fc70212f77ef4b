r"""Bijective layers: $\mathcal V = \log |\det \partial z / \partial x|$, the likelihood stays exact."""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from common.errors import RefigureError, suggest
from papers.survae.transforms import Context, Inferred, Key, Transform, constant, sum_except_batch

__all__ = [
    "SCALE_FNS",
    "ActNorm",
    "Affine",
    "AffineCoupling",
    "Conv1x1",
    "Logit",
    "Sigmoid",
    "Softplus",
    "SoftplusInverse",
]

ScaleFn = Callable[[Array], tuple[Array, Array]]
softplus = jax.nn.softplus


def _exp(s: Array) -> tuple[Array, Array]:
    return jnp.exp(s), s


def _softplus(s: Array) -> tuple[Array, Array]:
    scale = softplus(s)
    # Far below zero the scale e^s underflows, its logarithm s need not; the clip keeps gradients finite.
    return scale, jnp.where(s < -40, s, jnp.log(jnp.maximum(scale, math.exp(-41))))


def _sigmoid(s: Array) -> tuple[Array, Array]:
    scale = jax.nn.sigmoid(s + 2) + 1e-3
    return scale, jnp.log(scale)


def _tanh_exp(s: Array) -> tuple[Array, Array]:
    log_scale = 2 * jnp.tanh(s / 2)
    return jnp.exp(log_scale), log_scale


SCALE_FNS: dict[str, ScaleFn] = {
    "exp": _exp,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "tanh_exp": _tanh_exp,
}
r"""From the pre-scale $s$ to the scale and its logarithm: $e^s$, $\log(1 + e^s)$, $\sigma(s + 2) + 10^{-3}$
and $e^{2 \tanh(s / 2)}$."""


class AffineCoupling(Transform):
    r"""Scales and shifts one half of the input by functions of the other half.

    $$ z_1 = x_1, \quad z_2 = \alpha(x_1) \odot x_2 + \beta(x_1), \quad \mathcal V = \sum \log \alpha(x_1) $$

    The net maps $x_1$ to pre-scales $s$ and shifts $\beta$, stacked along axis 1 in one of two orders:
    ``interleaved`` (all $s$, then all $\beta$) or ``sequential`` ($s, \beta$ of the first channel, then of
    the second ...). The names are those of the official code.

    Arguments:
        net: ``net(x1, key=key)`` from $x_1$, (B, D1, ...), to (B, 2 D2, ...).
        scale_fn: Which $\alpha(s)$, a key of `SCALE_FNS`.
        dim: The axis that is split in two; with an odd size, $x_1$ is the longer part.
        order: ``interleaved`` or ``sequential``.
        conditional: Whether the net also sees the context, concatenated to $x_1$ along axis 1.

    Raises:
        RefigureError: Unknown ``scale_fn`` or ``order``.

    References:
        | Density estimation using Real NVP (Dinh et al., 2016)
        | https://arxiv.org/abs/1605.08803
    """

    net: Callable[..., Array]
    scale_fn: str = eqx.field(static=True, default="exp")
    dim: int = eqx.field(static=True, default=1)
    order: str = eqx.field(static=True, default="interleaved")
    conditional: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        if self.scale_fn not in SCALE_FNS:
            raise RefigureError(f"scale_fn {self.scale_fn!r}: {suggest(self.scale_fn, SCALE_FNS)}")
        if self.order not in ("interleaved", "sequential"):
            raise RefigureError(f"order is 'interleaved' or 'sequential', not {self.order!r}")

    def _split(self, x: Array) -> tuple[Array, Array]:
        middle = -(-x.shape[self.dim] // 2)
        return (
            jax.lax.slice_in_dim(x, 0, middle, axis=self.dim),
            jax.lax.slice_in_dim(x, middle, None, axis=self.dim),
        )

    def _parameters(self, x1: Array, key: Key, context: Context) -> tuple[Array, Array, Array]:
        if self.conditional:
            x1 = jnp.concatenate((x1, context), 1)
        h = self.net(x1, key=key)
        if self.order == "interleaved":
            half = h.shape[1] // 2
            s, shift = h[:, :half], h[:, half:]
        else:
            s, shift = h[:, ::2], h[:, 1::2]
        scale, log_scale = SCALE_FNS[self.scale_fn](s)
        return scale, log_scale, shift

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        x1, x2 = self._split(x)
        scale, log_scale, shift = self._parameters(x1, key, context)
        return jnp.concatenate((x1, scale * x2 + shift), self.dim), sum_except_batch(log_scale)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        z1, z2 = self._split(z)
        scale, _, shift = self._parameters(z1, key, context)
        return jnp.concatenate((z1, (z2 - shift) / scale), self.dim)


class Affine(Transform):
    r"""Fixed scale and shift, broadcast against the input; not trained.

    $$ z = a \odot x + b, \qquad \mathcal V = \sum \log |a| $$

    Arguments:
        scale: $a$, a number or nested sequences of numbers that broadcast against (D, ...).
        shift: $b$, likewise.
    """

    scale: float | tuple = eqx.field(static=True)
    shift: float | tuple = eqx.field(static=True)

    def __init__(self, scale: float | Sequence = 1.0, shift: float | Sequence = 0.0) -> None:
        self.scale, self.shift = _freeze(scale), _freeze(shift)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        z = x * np.asarray(self.scale, x.dtype) + np.asarray(self.shift, x.dtype)
        log_scale = np.log(np.abs(np.asarray(self.scale, np.float64)))
        return z, constant(x, float(np.broadcast_to(log_scale, x.shape[1:]).sum()))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return (z - np.asarray(self.shift, z.dtype)) / np.asarray(self.scale, z.dtype)


def _freeze(numbers: float | Sequence) -> float | tuple:
    return tuple(map(_freeze, numbers)) if isinstance(numbers, Sequence) else float(numbers)


class ActNorm(Transform):
    r"""Learned scale and shift per channel (axis 1), set by `initialise` to standardise a batch.

    $$ z = (x - \mu) e^{-\lambda}, \qquad \mathcal V = - n \sum_c \lambda_c $$

    with $n$ the number of positions (1 for (B, C), L for (B, C, L), H W for (B, C, H, W)). It starts as the
    identity; `initialise` takes $\mu$ = mean and $\lambda = \log(\mathrm{std} + 10^{-6})$, unbiased, over the
    batch and all positions; for a constant channel that is $\lambda = \log 10^{-6}$.

    Arguments:
        channels: The size C of axis 1.

    Raises:
        RefigureError: `initialise` got another number of channels, or fewer than two values of each.

    References:
        | Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma et al., 2018)
        | https://arxiv.org/abs/1807.03039
    """

    shift: Float[Array, " C"]
    log_scale: Float[Array, " C"]

    def __init__(self, channels: int) -> None:
        self.shift = jnp.zeros(channels)
        self.log_scale = jnp.zeros(channels)

    def _broadcast(self, x: Array) -> tuple[Array, Array]:
        shape = (-1, *(1,) * (x.ndim - 2))
        return self.shift.reshape(shape), self.log_scale.reshape(shape)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        shift, log_scale = self._broadcast(x)
        ladj = -math.prod(x.shape[2:]) * jnp.sum(self.log_scale)
        return (x - shift) * jnp.exp(-log_scale), constant(x, ladj)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        shift, log_scale = self._broadcast(z)
        return z * jnp.exp(log_scale) + shift

    def initialise(self, x: Array, *, key: Key = None, context: Context = None) -> "ActNorm":
        channels = self.shift.size
        if x.shape[1:2] != (channels,) or x.size < 2 * channels:
            raise RefigureError(f"ActNorm needs (B, {channels}, ...), at least two values a channel, not {x.shape}")
        axes = (0, *range(2, x.ndim))
        shift, log_scale = x.mean(axes), jnp.log(x.std(axes, ddof=1) + 1e-6)
        return eqx.tree_at(lambda layer: (layer.shift, layer.log_scale), self, (shift, log_scale))


class Conv1x1(Transform):
    r"""Invertible mixing of channels at every position, started as a random orthogonal matrix.

    $$ z_{\cdot p} = W x_{\cdot p}, \qquad \mathcal V = n \log |\det W| $$

    Arguments:
        channels: The size C of axis 1; the input is (B, C, L) or (B, C, H, W), with $n$ positions.
        key: Draws $W$ by a QR decomposition.

    References:
        | Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma et al., 2018)
        | https://arxiv.org/abs/1807.03039
    """

    weight: Float[Array, "C C"]

    def __init__(self, channels: int, *, key: PRNGKeyArray) -> None:
        self.weight = jnp.linalg.qr(jax.random.normal(key, (channels, channels)))[0]

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        z = jnp.einsum("dc,bc...->bd...", self.weight, x)
        return z, constant(x, math.prod(x.shape[2:]) * jnp.linalg.slogdet(self.weight)[1])

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return jnp.einsum("dc,bc...->bd...", jnp.linalg.inv(self.weight), z)


class Logit(Transform):
    r"""$z = \log x - \log(1 - x)$ with $\mathcal V = -\sum [\log x + \log(1 - x)]$, on $[0, 1]$.

    Inputs within ``eps`` of an end count as lying at distance ``eps``; outside of the interval $\mathcal V$
    is minus infinity and $z$ still finite, so that densities vanish there and gradients exist everywhere.

    Arguments:
        eps: The margin at both ends.
    """

    eps: float = eqx.field(static=True, default=1e-6)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        p = jnp.clip(x, self.eps, 1 - self.eps)
        log_p, log_q = jnp.log(p), jnp.log1p(-p)
        return log_p - log_q, sum_except_batch(jnp.where((x < 0) | (x > 1), -jnp.inf, -log_p - log_q))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return jax.nn.sigmoid(z)


class Sigmoid(Transform):
    r"""$z = \sigma(x)$, the inverse of `Logit`, with $\mathcal V = \sum [\log \sigma(x) + \log \sigma(-x)]$.

    Arguments:
        eps: The margin that `inverse` keeps from 0 and 1.
    """

    eps: float = eqx.field(static=True, default=1e-6)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        return jax.nn.sigmoid(x), -sum_except_batch(softplus(x) + softplus(-x))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        p = jnp.clip(z, self.eps, 1 - self.eps)
        return jnp.log(p) - jnp.log1p(-p)


class Softplus(Transform):
    r"""$z = \log(1 + e^x)$, onto the positive numbers, with $\mathcal V = \sum \log \sigma(x)$.

    Arguments:
        eps: The margin that `inverse` keeps from 0.
    """

    eps: float = eqx.field(static=True, default=1e-7)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        return softplus(x), -sum_except_batch(softplus(-x))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        z = jnp.maximum(z, self.eps)
        return z + jnp.log(-jnp.expm1(-z))


class SoftplusInverse(Transform):
    r"""$z = \log(e^x - 1)$ on $x \ge 0$, with $\mathcal V = -\sum \log(1 - e^{-x})$.

    Inputs below ``eps`` count as ``eps``; for negative ones $\mathcal V$ is minus infinity and $z$ finite.

    Arguments:
        eps: The margin at 0.
    """

    eps: float = eqx.field(static=True, default=1e-7)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        y = jnp.maximum(x, self.eps)
        log_slope = jnp.log(-jnp.expm1(-y))
        return y + log_slope, sum_except_batch(jnp.where(x < 0, -jnp.inf, -log_slope))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return softplus(z)
