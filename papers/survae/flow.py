"""Flows: a base distribution seen through layers, and the bounds and units in which they are judged."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from papers.survae.distributions import Distribution
from papers.survae.transforms import Compose, Transform

__all__ = ["Flow", "InverseFlow", "bits_per_dim", "importance_bound", "ppll"]


class Flow(Distribution):
    r"""A base distribution $p(z)$ and layers that infer $z$ from $x$.

    $$ \log p(x) = \log p(z) + \sum_t \mathcal V_t $$

    holds exactly if all layers are exact; otherwise it is, in expectation over the inferred $z$, a lower
    bound.
    A flow is a distribution too, and so can be a base, an encoder or a decoder.

    Arguments:
        base: $p(z)$.
        transforms: The layers, in the direction of inference: the first one sees the data.

    References:
        | SurVAE Flows: Surjections to Bridge the Gap between VAEs and Flows (Nielsen et al., 2020)
        | https://arxiv.org/abs/2007.02731
    """

    def __init__(self, base: Distribution, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.base = base
        self.transforms = Compose(transforms)

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether `log_prob` is the log-density itself."""
        return self.base.exact and self.transforms.exact

    @property
    def lower_bound(self) -> bool:
        """Whether `log_prob` is one draw of a lower bound."""
        return not self.exact

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-density, or one draw of its lower bound, of $x$, (B, ...), as (B,), in nats."""
        z, ladj = self.transforms(x, context)
        return self.base.log_prob(z) + ladj

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """Draws (n, ...)."""
        return self.transforms.inverse(self.base.sample(n), context)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Sets the data-dependent parameters of all layers from a batch, first to last."""
        self.transforms.initialise(x)

    def elbo(self, x: Tensor) -> Tensor:
        r"""$\mathbb E_q[\log p(x, z) - \log q(z \mid x)]$ from one draw of $z$ per $x$, (B,)."""
        return self.log_prob(x)

    def iwbo(self, x: Tensor, k: int, chunk: int = 16) -> Tensor:
        r"""The importance-weighted bound with $k$ draws of $z$ per $x$, (B,).

        Arguments:
            x: Data, (B, ...).
            k: The number of draws.
            chunk: How many draws go through the layers at once; bounds the memory.
        """
        draws = [
            self.log_prob(x.repeat(size, *(1,) * (x.dim() - 1))).view(size, -1)
            for size in (min(chunk, k - start) for start in range(0, k, chunk))
        ]
        return importance_bound(torch.cat(draws))


class InverseFlow(Distribution):
    r"""A flow built for sampling: $x$ is the layers' *output* for a base draw $\epsilon$, given a context.

    $$ \log q(x) = \log p(\epsilon) - \sum_t \mathcal V_t, \qquad x = f(\epsilon) $$

    One pass yields a draw with its density, which is what an encoder must do in training. All layers must be
    bijective.

    Arguments:
        base: $p(\epsilon)$.
        transforms: The layers, from $\epsilon$ to $x$.
    """

    def __init__(self, base: Distribution, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.base = base
        self.transforms = Compose(transforms)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        noise = self.transforms.inverse(x, context)
        return self.base.log_prob(noise) - self.transforms(noise, context)[1]

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        return self.transforms(self.base.sample(n), context)[0]

    def sample_with_log_prob(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        noise = self.base.sample(n)
        x, ladj = self.transforms(noise, context)
        return x, self.base.log_prob(noise) - ladj


def importance_bound(log_weights: Tensor) -> Tensor:
    r"""$\log \frac 1 k \sum_i w_i$ from log-weights, (k, B) to (B,).

    References:
        | Importance Weighted Autoencoders (Burda et al., 2015)
        | https://arxiv.org/abs/1509.00519
    """
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


def bits_per_dim(log_prob: Tensor, dims: int) -> Tensor:
    r"""Bits per dimension, $-\log p(x) / (D \log 2)$, from nats; lower is better."""
    return -log_prob / (dims * math.log(2))


def ppll(log_prob: Tensor, points: int) -> Tensor:
    """Per-point log-likelihood of a set of points, in nats; higher is better."""
    return log_prob / points
