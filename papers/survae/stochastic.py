"""Stochastic layers: random in both directions, the likelihood becomes a lower bound."""

from torch import Tensor

from papers.survae.distributions import Distribution
from papers.survae.transforms import Transform, permute_last, random_permutation

__all__ = ["VAE", "StochasticPermutation"]


class StochasticPermutation(Transform):
    r"""Shuffles the last axis of (B, ..., L) uniformly, in both directions.

    $$ \mathcal V = \log \tfrac{1}{L!} - \log \tfrac{1}{L!} = 0 $$
    """

    exact = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return permute_last(x, random_permutation(x)), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> Tensor:
        return permute_last(z, random_permutation(z))


class VAE(Transform):
    r"""The variational autoencoder as a layer.

    $$ z \sim q(z \mid x), \quad x \sim p(x \mid z), \quad \mathcal V = \log p(x \mid z) - \log q(z \mid x) $$

    Arguments:
        encoder: $q(z \mid x)$.
        decoder: $p(x \mid z)$.

    References:
        | Auto-Encoding Variational Bayes (Kingma et al., 2013)
        | https://arxiv.org/abs/1312.6114
    """

    exact = False

    def __init__(self, encoder: Distribution, decoder: Distribution) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_q = self.encoder.sample_with_log_prob(x.shape[0], x)
        return z, self.decoder.log_prob(x, z) - log_q

    def inverse(self, z: Tensor) -> Tensor:
        return self.decoder.sample(z.shape[0], z)
