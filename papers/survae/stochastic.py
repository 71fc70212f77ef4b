"""Stochastic layers: random in both directions, so that the likelihood is only bounded."""

from typing import ClassVar

import jax
from jaxtyping import Array

from papers.survae.distributions import Distribution
from papers.survae.surjections import random_order, take_elements
from papers.survae.transforms import Context, Inferred, Key, Transform, constant, demand_key

__all__ = ["VAE", "StochasticPermutation"]


class StochasticPermutation(Transform):
    r"""Puts the elements of a set, (B, L) or (B, C, L), in random order, whichever the direction.

    $$ z = x_I, \quad x = z_{I'}, \qquad I, I' \sim \mathcal U(S_L), \qquad
    \mathcal V = \log \tfrac 1 {L!} - \log \tfrac 1 {L!} = 0 $$
    """

    exact: ClassVar[bool] = False

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        return take_elements(x, random_order(demand_key(key, self), x)), constant(x, 0.0)

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return take_elements(z, random_order(demand_key(key, self), z))


class VAE(Transform):
    r"""A variational auto-encoder as a layer.

    $$ z \sim q(z \mid x), \qquad x \sim p(x \mid z), \qquad
    \mathcal V = \log p(x \mid z) - \log q(z \mid x) $$

    Arguments:
        encoder: $q(z \mid x)$, a distribution given $x$ as context.
        decoder: $p(x \mid z)$, a distribution given $z$ as context.

    References:
        | Auto-Encoding Variational Bayes (Kingma and Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    exact: ClassVar[bool] = False
    encoder: Distribution
    decoder: Distribution

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        encoder_key, decoder_key = jax.random.split(demand_key(key, self))
        z, log_q = self.encoder.sample_with_log_prob(encoder_key, x.shape[0], context=x)
        return z, self.decoder.log_prob(x, decoder_key, context=z) - log_q

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        return self.decoder.sample(demand_key(key, self), z.shape[0], context=z)
