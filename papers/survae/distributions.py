"""Base distributions, encoders and decoders: small modules with ``log_prob`` and ``sample``."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from papers.survae.transforms import Context, Key, sum_except_batch

__all__ = [
    "Bernoulli",
    "Categorical",
    "ConditionalNormal",
    "DiagonalNormal",
    "Distribution",
    "Elementwise",
    "HalfNormal",
    "StandardNormal",
    "StandardUniform",
]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(eqx.Module):
    """A distribution over arrays, perhaps given a context with the same batch size.

    Samples are reparametrised where they can be.

    Attributes:
        exact: Whether `log_prob` is the log-density and not a random bound on it.
    """

    exact: ClassVar[bool] = True

    def log_prob(self, x: Array, key: Key = None, context: Context = None) -> Float[Array, " B"]:
        """The log-density of every $x$, (B, ...), as (B,). Only bounds draw at random and need ``key``."""
        raise NotImplementedError

    def sample(self, key: PRNGKeyArray, n: int, context: Context = None) -> Shaped[Array, "n ..."]:
        """Draws (n, ...); a context, if the distribution takes one, is (n, ...)."""
        raise NotImplementedError

    def sample_with_log_prob(
        self, key: PRNGKeyArray, n: int, context: Context = None
    ) -> tuple[Shaped[Array, "n ..."], Float[Array, " n"]]:
        """Draws (n, ...) with their log-densities, (n,)."""
        x = self.sample(key, n, context)
        return x, self.log_prob(x, context=context)


class Elementwise(Distribution):
    """Base of distributions with independent elements; a context is ignored.

    Arguments:
        shape: The shape of one sample.
    """

    shape: tuple[int, ...] = eqx.field(static=True, converter=tuple)

    def log_density(self, x: Array) -> Array:
        """Log-density of each element, in the shape of $x$."""
        raise NotImplementedError

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        """Draws independent elements in any shape to which the parameters broadcast."""
        raise NotImplementedError

    def log_prob(self, x: Array, key: Key = None, context: Context = None) -> Float[Array, " B"]:
        return sum_except_batch(self.log_density(x))

    def sample(self, key: PRNGKeyArray, n: int, context: Context = None) -> Shaped[Array, "n ..."]:
        return self.draw(key, (n, *self.shape))


class StandardNormal(Elementwise):
    r"""$\mathcal N(0, I)$."""

    def log_density(self, x: Array) -> Array:
        return -0.5 * x * x - _LOG_SQRT_2PI

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        return jax.random.normal(key, shape)


class StandardUniform(Elementwise):
    r"""Uniform on $[0, 1]^D$; the log-density is minus infinity outside."""

    def log_density(self, x: Array) -> Array:
        return jnp.where((x < 0) | (x > 1), -jnp.inf, jnp.zeros_like(x))

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape)


class HalfNormal(Elementwise):
    r"""Absolute value of a standard normal: $\log p(d) = \log 2 + \log \mathcal N(d; 0, 1)$ for $d \ge 0$."""

    def log_density(self, x: Array) -> Array:
        return jnp.where(x < 0, -jnp.inf, math.log(2) - _LOG_SQRT_2PI - 0.5 * x * x)

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        return jnp.abs(jax.random.normal(key, shape))


class DiagonalNormal(Distribution):
    r"""$\mathcal N(\mu_c, e^{2 \lambda_c})$ with a learned mean and log-scale for each channel $c$, started at 0.

    Arguments:
        shape: The shape of one sample, (C, ...).
    """

    mean: Float[Array, "C ..."]
    log_scale: Float[Array, "C ..."]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)
        self.mean = self.log_scale = jnp.zeros((shape[0], *(1,) * (len(shape) - 1)))

    def log_prob(self, x: Array, key: Key = None, context: Context = None) -> Float[Array, " B"]:
        noise = (x - self.mean) * jnp.exp(-self.log_scale)
        return sum_except_batch(-0.5 * noise * noise - self.log_scale - _LOG_SQRT_2PI)

    def sample(self, key: PRNGKeyArray, n: int, context: Context = None) -> Shaped[Array, "n ..."]:
        return self.mean + jnp.exp(self.log_scale) * jax.random.normal(key, (n, *self.shape))


class ConditionalNormal(Distribution):
    r"""$\mathcal N(\mu(c), e^{2 \lambda(c)})$ given a context $c$.

    Arguments:
        net: From the context to (B, 2 D, ...), the means and then the log-scales along axis 1.
    """

    net: Callable[..., Array]

    def _parameters(self, context: Context) -> tuple[Array, Array]:
        mean, log_scale = jnp.split(self.net(context), 2, axis=1)
        return mean, log_scale

    def log_prob(self, x: Array, key: Key = None, context: Context = None) -> Float[Array, " B"]:
        mean, log_scale = self._parameters(context)
        return self._log_prob((x - mean) * jnp.exp(-log_scale), log_scale)

    def sample(self, key: PRNGKeyArray, n: int, context: Context = None) -> Shaped[Array, "n ..."]:
        return self.sample_with_log_prob(key, n, context)[0]

    def sample_with_log_prob(
        self, key: PRNGKeyArray, n: int, context: Context = None
    ) -> tuple[Shaped[Array, "n ..."], Float[Array, " n"]]:
        mean, log_scale = self._parameters(context)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return noise * jnp.exp(log_scale) + mean, self._log_prob(noise, log_scale)

    @staticmethod
    def _log_prob(noise: Array, log_scale: Array) -> Float[Array, " B"]:
        return sum_except_batch(-0.5 * noise * noise - log_scale - _LOG_SQRT_2PI)


class Bernoulli(Distribution):
    r"""Independent bits with logits $\ell(c)$ given a context $c$: $\log p(x) = x \ell - \log(1 + e^\ell)$.

    Arguments:
        net: From the context to the logits, in the shape of $x$.
    """

    net: Callable[..., Array]

    def log_prob(self, x: Array, key: Key = None, context: Context = None) -> Float[Array, " B"]:
        logits = self.net(context)
        return sum_except_batch(x * logits - jax.nn.softplus(logits))

    def sample(self, key: PRNGKeyArray, n: int, context: Context = None) -> Shaped[Array, "n ..."]:
        logits = self.net(context)
        return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)


class Categorical(Distribution):
    r"""An index in $0 \dots K-1$ per position, given a context.

    Arguments:
        net: From the context to logits (B, ..., K); the index is (B, ...).
    """

    net: Callable[..., Array]

    def log_prob(self, x: Array, key: Key = None, context: Context = None) -> Float[Array, " B"]:
        log_p = jax.nn.log_softmax(self.net(context))
        return sum_except_batch(jnp.take_along_axis(log_p, x[..., None], axis=-1))

    def sample(self, key: PRNGKeyArray, n: int, context: Context = None) -> Shaped[Array, "n ..."]:
        return jax.random.categorical(key, self.net(context))
