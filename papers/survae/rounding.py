"""Rounding, the surjection from reals to integers of generation.

Inference dequantizes: this gives discrete data a (bounded) likelihood under a
continuous model.
"""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from papers.survae.distributions import Distribution
from papers.survae.transforms import Context, Inferred, Key, Transform, demand_key

__all__ = ["Dequantization", "UniformDequantization", "VariationalDequantization"]


def _off_the_edges(u: Array, cell: Array) -> Array:
    """Noise $u$ in [0, 1], kept so far inside that arithmetic with cell + u cannot leave the cell.

    Three operations on numbers up to |cell| + 1, each rounded by at most half an epsilon, need a margin of 1.5.
    """
    edge = 2 * jnp.finfo(u.dtype).eps * (jnp.abs(cell.astype(u.dtype)) + 1)
    return jnp.clip(u, edge, 1 - edge)


class Dequantization(Transform):
    r"""Generation rounds down; inference adds noise within the cell.

    $$ z = (x + u) / K, \quad u \sim q(u \mid x) \text{ on } [0, 1)^D, \qquad x = \lfloor K z \rfloor, \qquad
    \mathcal V = -\log q(u \mid x) - D \log K $$

    Takes integers in $0 \dots K - 1$ to reals in $[0, 1)$; generation clamps values outside. Noise within rounding
    error of an edge, $2 \epsilon (x + 1)$, counts as lying at that distance, so that $\lfloor K z \rfloor = x$ always.

    Attributes:
        levels: K.
    """

    exact: ClassVar[bool] = False
    levels: eqx.AbstractVar[int]

    def noise(self, key: PRNGKeyArray, x: Shaped[Array, "B ..."]) -> tuple[Array, Float[Array, " B"]]:
        r"""Draws $u$, in the shape of $x$, with $\log q(u \mid x)$."""
        raise NotImplementedError

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        u, log_q = self.noise(demand_key(key, self), x)
        return (x + _off_the_edges(u, x)) / self.levels, -log_q - math.prod(x.shape[1:]) * math.log(self.levels)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return jnp.clip(jnp.floor(z * self.levels), 0, self.levels - 1).astype(int)


class UniformDequantization(Dequantization):
    r"""`Dequantization` with uniform noise: $\mathcal V = -D \log K$.

    Arguments:
        levels: K.

    References:
        | A note on the evaluation of generative models (Theis et al., 2015)
        | https://arxiv.org/abs/1511.01844
    """

    levels: int = eqx.field(static=True, default=256)

    def noise(self, key: PRNGKeyArray, x: Shaped[Array, "B ..."]) -> tuple[Array, Float[Array, " B"]]:
        u = jax.random.uniform(key, x.shape)
        return u, jnp.zeros(x.shape[0], u.dtype)


class VariationalDequantization(Dequantization):
    r"""`Dequantization` with learned noise, as a rule an `InverseFlow` that ends in a `Sigmoid`.

    Arguments:
        encoder: $q(u \mid c)$ on $(0, 1)^D$; its context $c = 2 x / (K - 1) - 1$ lies in $[-1, 1]$.
        levels: K.

    References:
        | Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture
          Design (Ho et al., 2019)
        | https://arxiv.org/abs/1902.00275
    """

    encoder: Distribution
    levels: int = eqx.field(static=True, default=256)

    def noise(self, key: PRNGKeyArray, x: Shaped[Array, "B ..."]) -> tuple[Array, Float[Array, " B"]]:
        return self.encoder.sample_with_log_prob(key, x.shape[0], context=2 * (x / (self.levels - 1)) - 1)
