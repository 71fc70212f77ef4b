"""Surjective layers: deterministic in one direction, random in the other."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from common.errors import RefigureError
from papers.survae.bijections import softplus
from papers.survae.distributions import Distribution, HalfNormal
from papers.survae.transforms import (
    Context,
    Inferred,
    Key,
    Transform,
    constant,
    demand_key,
    sum_except_batch,
)

__all__ = [
    "Abs",
    "Augment",
    "Max",
    "MaxPool2d",
    "SignedAbs",
    "Slice",
    "Sort",
]


def demand_exact(decoder: Distribution, layer: object) -> None:
    """Raise `RefigureError` if the decoder of a layer is only a bound."""
    if not decoder.exact:
        raise RefigureError(f"{type(layer).__name__} needs an exact decoder, {type(decoder).__name__} is a bound")


class Abs(Transform):
    r"""Absolute value; generation tosses a fair coin for the sign of every element.

    $$ z = |x|, \qquad x = s z, \quad s \sim \mathcal U\{-1, 1\}, \qquad \mathcal V = -D \log 2 $$

    References:
        | SurVAE Flows: Surjections to Bridge the Gap between VAEs and Flows (Nielsen et al., 2020), section 3
        | https://arxiv.org/abs/2007.02731
    """

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        return jnp.abs(x), constant(x, -math.prod(x.shape[1:]) * math.log(2))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return z * jax.random.rademacher(demand_key(key, self), z.shape, z.dtype)


class SignedAbs(Transform):
    r"""Absolute value of some elements; generation draws their signs from a classifier.

    $$ z_i = |x_i| \; (i \in I), \qquad z_j = x_j \; (j \notin I), \qquad
    \mathcal V = \sum_{i \in I} \log p(\operatorname{sign} x_i \mid z) $$

    Arguments:
        classifier: ``classifier(z, key=key)`` from $z$, (B, D), to the logits of a positive sign, (B, |I|).
        elements: $I$, indices along axis 1; 0 counts as negative.
    """

    classifier: Callable[..., Array]
    elements: tuple[int, ...] = eqx.field(static=True, converter=tuple)

    def _where_signed(self, x: Array, changed: Array) -> Array:
        return jnp.where(np.isin(np.arange(x.shape[1]), self.elements), changed, x)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        z = self._where_signed(x, jnp.abs(x))
        logits = self.classifier(z, key=key)
        positive = jnp.stack([x[:, i] > 0 for i in self.elements], 1)
        return z, -sum_except_batch(softplus(jnp.where(positive, -logits, logits)))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        key, net_key = jax.random.split(demand_key(key, self))
        positive = jax.random.bernoulli(key, jax.nn.sigmoid(self.classifier(z, key=net_key)))
        signed = z
        for i, sign in zip(self.elements, positive.T, strict=True):
            signed = signed.at[:, i].set(jnp.where(sign, z[:, i], -z[:, i]))
        return signed


class Sort(Transform):
    r"""Sorts the elements of a set; generation puts them in random order.

    $$ z = \operatorname{sort}(x), \quad x = z_I, \; I \sim \mathcal U(S_L), \quad \mathcal V = -\log L! $$

    A set of L numbers is (B, L); one of L vectors is (B, C, L), whose columns move together. Ties (of
    probability zero) keep their order.

    Arguments:
        element: The entry of every vector, 0 to C - 1, that is the sorting key.
    """

    element: int = eqx.field(static=True, default=0)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        order = jnp.argsort(x if x.ndim == 2 else x[:, self.element])
        return take_elements(x, order), constant(x, -math.lgamma(x.shape[-1] + 1))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return take_elements(z, random_order(demand_key(key, self), z))


def take_elements(x: Array, order: Array) -> Array:
    """Reorders the last axis of (B, L) or (B, C, L) by indices (B, L)."""
    return jnp.take_along_axis(x, order if x.ndim == 2 else order[:, None], axis=-1)


def random_order(key: PRNGKeyArray, x: Array) -> Int[Array, "B L"]:
    """A uniformly random permutation of the last axis for every sample."""
    return jnp.argsort(jax.random.uniform(key, (x.shape[0], x.shape[-1])))


class Max(Transform):
    r"""The largest of K values; generation hides it among K - 1 smaller ones.

    $$ z = \max_k x_k, \qquad k \sim p(k \mid z), \quad x_k = z, \quad x_{-k} = z - d, \quad
    d \sim p(d \mid z) \text{ on } [0, \infty)^{K - 1} $$
    $$ \mathcal V = \log p(k \mid z) + \log p(d \mid z) $$

    From (B, K, ...) to (B, ...). Of equal values the first is the maximum. In the paper $p(d \mid z, k)$ knows k, too;
    here it does not.

    Arguments:
        size: K.
        decoder: $p(d \mid z)$ on (B, K - 1, ...), an exact distribution; by default a standard `HalfNormal`.
        index: $p(k \mid z)$ on (B, ...), as a rule a `Categorical`; by default uniform.

    Raises:
        RefigureError: ``decoder`` is only a bound.
    """

    size: int = eqx.field(static=True)
    decoder: Distribution | None = None
    index: Distribution | None = None

    def __check_init__(self) -> None:
        if self.decoder is not None:
            demand_exact(self.decoder, self)

    # How `MaxPool2d` differs: where the K values lie in x, (B, ..., K) is what `forward` sees, and where the
    # K - 1 differences, (B, ..., K - 1), lie in what the decoder sees.
    def _gather(self, x: Array) -> Array:
        return jnp.moveaxis(x, 1, -1)

    def _scatter(self, values: Array) -> Array:
        return jnp.moveaxis(values, -1, 1)

    def _stack(self, d: Array) -> Array:
        return jnp.moveaxis(d, -1, 1)

    def _unstack(self, d: Array, z: Array) -> Array:
        return jnp.moveaxis(d, 1, -1)

    def split(self, x: Array) -> tuple[Array, Array, Int[Array, "B ..."]]:
        """The maximum $z$, the differences $d$ in the decoder's layout, and the index $k$."""
        values = self._gather(x)
        k = jnp.argmax(values, -1)[..., None]
        slots = np.arange(self.size - 1)
        z = jnp.take_along_axis(values, k, -1)
        d = z - jnp.take_along_axis(values, slots + (slots >= k), -1)
        return z[..., 0], self._stack(d), k[..., 0]

    def merge(self, z: Array, d: Array, k: Int[Array, "B ..."]) -> Array:
        """The inverse of `split`."""
        d, k, places = self._unstack(d, z), k[..., None], np.arange(self.size)
        smaller = z[..., None] - jnp.take_along_axis(d, jnp.minimum(places - (places > k), self.size - 2), -1)
        return self._scatter(jnp.where(places == k, z[..., None], smaller))

    def _decoder(self, z: Array) -> Distribution:
        if self.decoder is not None:
            return self.decoder
        d = jax.eval_shape(self._stack, jnp.broadcast_to(z[..., None], (*z.shape, self.size - 1)))
        return HalfNormal(d.shape[1:])

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        z, d, k = self.split(x)
        log_p = self._decoder(z).log_prob(d, context=z)
        if self.index is None:
            return z, log_p - math.prod(z.shape[1:]) * math.log(self.size)
        return z, log_p + self.index.log_prob(k, context=z)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        index_key, key = jax.random.split(demand_key(key, self))
        if self.index is None:
            k = jax.random.randint(index_key, z.shape, 0, self.size)
        else:
            k = self.index.sample(index_key, z.shape[0], context=z)
        return self.merge(z, self._decoder(z).sample(key, z.shape[0], context=z), k)


class MaxPool2d(Max):
    r"""`Max` of every 2 x 2 window: (B, C, H, W) to (B, C, H / 2, W / 2).

    $$ \mathcal V = -C \tfrac H 2 \tfrac W 2 \log 4 + \log p(d \mid z) $$

    Window elements count in row-major order; the three differences of channel $c$ are the decoder's channels
    $3 c + j$.

    Arguments:
        decoder: $p(d \mid z)$ on (B, 3 C, H / 2, W / 2), exact; by default a standard `HalfNormal`.
        index: $p(k \mid z)$ on (B, C, H / 2, W / 2); by default uniform on the four places.
    """

    size: int = eqx.field(static=True, default=4, init=False)

    def _gather(self, x: Array) -> Array:
        b, c, h, w = x.shape
        windows = x.reshape(b, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5)
        return windows.reshape(b, c, h // 2, w // 2, 4)

    def _scatter(self, values: Array) -> Array:
        b, c, h, w, _ = values.shape
        windows = values.reshape(b, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5)
        return windows.reshape(b, c, 2 * h, 2 * w)

    def _stack(self, d: Array) -> Array:
        b, c, h, w, _ = d.shape
        return jnp.moveaxis(d, -1, 2).reshape(b, 3 * c, h, w)

    def _unstack(self, d: Array, z: Array) -> Array:
        b, c, h, w = z.shape
        return jnp.moveaxis(d.reshape(b, c, 3, h, w), 2, -1)


class Slice(Transform):
    r"""Keeps part of an axis; generation draws the rest. Multi-scale flows are made of it.

    $$ x = (z, x_2), \qquad x_2 \sim p(x_2 \mid z), \qquad \mathcal V = \log p(x_2 \mid z) $$

    Arguments:
        decoder: $p(x_2 \mid z)$, an exact distribution.
        num_keep: How many entries of the axis are $z$.
        dim: The axis.

    Raises:
        RefigureError: ``decoder`` is only a bound.
    """

    decoder: Distribution
    num_keep: int = eqx.field(static=True)
    dim: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        demand_exact(self.decoder, self)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        z, x2 = jnp.split(x, [self.num_keep], self.dim)
        return z, self.decoder.log_prob(x2, context=z)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        x2 = self.decoder.sample(demand_key(key, self), z.shape[0], context=z)
        return jnp.concatenate((z, x2), self.dim)


class Augment(Transform):
    r"""Appends noise to an axis; generation drops it. `Slice` the other way round, and a bound.

    $$ z = (x, z_2), \qquad z_2 \sim q(z_2 \mid x), \qquad \mathcal V = -\log q(z_2 \mid x) $$

    Arguments:
        encoder: $q(z_2 \mid x)$.
        size: The size of the axis in $x$.
        dim: The axis.

    References:
        | Augmented Normalizing Flows (Huang et al., 2020)
        | https://arxiv.org/abs/2002.07101
    """

    exact: ClassVar[bool] = False
    encoder: Distribution
    size: int = eqx.field(static=True)
    dim: int = eqx.field(static=True, default=1)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        z2, log_q = self.encoder.sample_with_log_prob(demand_key(key, self), x.shape[0], context=x)
        return jnp.concatenate((x, z2), self.dim), -log_q

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return jax.lax.slice_in_dim(z, 0, self.size, axis=self.dim)
