"""Flows: a base distribution behind layers, and the bounds and units of their likelihood."""

import math
from collections.abc import Callable, Iterable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from papers.survae.distributions import Distribution
from papers.survae.transforms import Compose, Context, Key, Transform

__all__ = ["Flow", "InverseFlow", "bits_per_dim", "importance_bound", "iwbo", "ppll"]


class Flow(Distribution):
    r"""A base distribution $p(z)$ and layers that infer $z$ from $x$.

    $$ \log p(x) = \log p(z) + \sum_t \mathcal V_t $$

    holds exactly if all layers are exact, and otherwise is, in expectation over the inferred $z$, a lower
    bound. A flow is a distribution too, and so can be a base, an encoder or a decoder.

    Arguments:
        base: $p(z)$; it is given no context.
        transforms: The layers, in the direction of inference: the first one sees the data.

    References:
        | SurVAE Flows: Surjections to Bridge the Gap between VAEs and Flows (Nielsen et al., 2020),
          algorithm 1
        | https://arxiv.org/abs/2007.02731
    """

    base: Distribution
    transforms: Compose

    def __init__(self, base: Distribution, transforms: Iterable[Transform]) -> None:
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

    def log_prob(self, x: Array, key: Key = None, context: Context = None) -> Float[Array, " B"]:
        """The log-density, or one draw of its lower bound, of $x$, (B, ...), as (B,), in nats.

        Raises:
            RefigureError: A layer infers at random and ``key`` is missing.
        """
        base_key, key = (None, None) if key is None else jax.random.split(key)
        z, ladj = self.transforms.forward(x, key=key, context=context)
        return self.base.log_prob(z, base_key) + ladj

    def sample(self, key: PRNGKeyArray, n: int, context: Context = None) -> Shaped[Array, "n ..."]:
        """Draws (n, ...)."""
        base_key, key = jax.random.split(key)
        return self.transforms.inverse(self.base.sample(base_key, n), key=key, context=context)

    def initialise(self, x: Array, key: Key = None, context: Context = None) -> "Flow":
        """This flow with the data-dependent parameters of its layers set from a batch, first to last.

        Those of a base, an encoder or a decoder that is a flow itself stay as they are.
        """
        return Flow(self.base, self.transforms.initialise(x, key=key, context=context))


class InverseFlow(Distribution):
    r"""A flow built for sampling: $x$ is the layers' *output* for a base draw $\epsilon$, given a context.

    $$ \log q(x \mid c) = \log p(\epsilon) - \sum_t \mathcal V_t, \qquad x = f(\epsilon; c) $$

    One pass yields a draw with its density, which is what an encoder must do in training. All layers must be
    bijective.

    Arguments:
        base: $p(\epsilon)$.
        transforms: The layers, from $\epsilon$ to $x$.
        context_net: From the context to the context of the layers; without it the layers get the context itself.
    """

    base: Distribution
    transforms: Compose
    context_net: Callable[..., Array] | None

    def __init__(
        self,
        base: Distribution,
        transforms: Iterable[Transform],
        context_net: Callable[..., Array] | None = None,
    ) -> None:
        self.base = base
        self.transforms = Compose(transforms)
        self.context_net = context_net

    def _context(self, context: Context) -> Context:
        return context if self.context_net is None else self.context_net(context)

    def log_prob(self, x: Array, key: Key = None, context: Context = None) -> Float[Array, " B"]:
        context = self._context(context)
        noise = self.transforms.inverse(x, context=context)
        return self.base.log_prob(noise) - self.transforms.forward(noise, context=context)[1]

    def sample(self, key: PRNGKeyArray, n: int, context: Context = None) -> Shaped[Array, "n ..."]:
        return self.sample_with_log_prob(key, n, context)[0]

    def sample_with_log_prob(
        self, key: PRNGKeyArray, n: int, context: Context = None
    ) -> tuple[Shaped[Array, "n ..."], Float[Array, " n"]]:
        base_key, key = jax.random.split(key)
        noise = self.base.sample(base_key, n)
        x, ladj = self.transforms.forward(noise, key=key, context=self._context(context))
        return x, self.base.log_prob(noise) - ladj


@eqx.filter_jit
def iwbo(flow: Distribution, x: Array, k: int, key: PRNGKeyArray, chunk: int = 16) -> Float[Array, " B"]:
    r"""The importance-weighted bound with $k$ draws of $z$ per $x$, (B,), in nats.

    Arguments:
        flow: A distribution whose ``log_prob`` is one draw of $\log p(x, z) - \log q(z \mid x)$.
        x: Data, (B, ...).
        k: The number of draws.
        key: Draws them.
        chunk: How many draws go through the layers at once; bounds the memory.
    """
    keys = jax.random.split(key, k)
    return importance_bound(jax.lax.map(lambda draw_key: flow.log_prob(x, draw_key), keys, batch_size=min(chunk, k)))


def importance_bound(log_weights: Float[Array, "k B"]) -> Float[Array, " B"]:
    r"""$\log \frac 1 k \sum_i w_i$ from log-weights, (k, B) to (B,).

    References:
        | Importance Weighted Autoencoders (Burda et al., 2015)
        | https://arxiv.org/abs/1509.00519
    """
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def bits_per_dim(log_prob: Float[Array, "..."], dims: int) -> Float[Array, "..."]:
    r"""Bits per dimension, $-\log p(x) / (D \log 2)$, from nats; lower is better."""
    return -log_prob / (dims * math.log(2))


def ppll(log_prob: Float[Array, "..."], points: int) -> Float[Array, "..."]:
    """Per-point log-likelihood of a set of points, in nats; higher is better."""
    return log_prob / points
