"""Base distributions, encoders and decoders: small modules with ``log_prob`` and ``sample``.

All randomness of the layers comes from the ``sample`` methods of this module (``torch.randn``,
``torch.rand``), save for the permutations and signs that the layers themselves draw.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from papers.survae.transforms import sum_except_batch

__all__ = [
    "Bernoulli",
    "Categorical",
    "ConditionalNormal",
    "DiagonalNormal",
    "Distribution",
    "HalfNormal",
    "StandardNormal",
    "StandardUniform",
]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(nn.Module):
    """A distribution over tensors, perhaps given a context with the same batch size.

    Samples are reparametrised where they can be.

    Attributes:
        exact: Whether `log_prob` is the log-density and not a bound on it.
    """

    exact: bool = True

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-density of every $x$, (B, ...), as (B,)."""
        raise NotImplementedError

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """Draws (n, ...); a context, if the distribution takes one, is (n, ...)."""
        raise NotImplementedError

    def sample_with_log_prob(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draws (n, ...) with their log-densities, (n,)."""
        x = self.sample(n, context)
        return x, self.log_prob(x, context)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`log_prob`, for ``torch.func.functional_call``."""
        return self.log_prob(x, context)


class Elementwise(Distribution):
    """Independent elements; a context is ignored.

    Arguments:
        shape: The shape of one sample.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        # Samples follow the module's device and precision.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def log_density(self, x: Tensor) -> Tensor:
        """Log-density of each element, in the shape of $x$."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return sum_except_batch(self.log_density(x))

    def _randn(self, n: int) -> Tensor:
        return torch.randn(n, *self.shape, dtype=self._like.dtype, device=self._like.device)


class StandardNormal(Elementwise):
    r"""$\mathcal N(0, I)$."""

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.square() - _LOG_SQRT_2PI

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        return self._randn(n)


class DiagonalNormal(Elementwise):
    r"""$\mathcal N(\mu_c, e^{2 \lambda_c})$, mean and log-scale learned per channel (the first axis)."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        per_channel = (shape[0], *(1,) * (len(shape) - 1))
        self.mean = nn.Parameter(torch.zeros(per_channel))
        self.log_scale = nn.Parameter(torch.zeros(per_channel))

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * ((x - self.mean) * torch.exp(-self.log_scale)).square() - self.log_scale - _LOG_SQRT_2PI

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        return self._randn(n) * self.log_scale.exp() + self.mean


class StandardUniform(Elementwise):
    r"""Uniform on $[0, 1]^D$; the log-density is minus infinity outside."""

    def log_density(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x).masked_fill((x < 0) | (x > 1), -math.inf)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        return torch.rand(n, *self.shape, dtype=self._like.dtype, device=self._like.device)


class HalfNormal(Elementwise):
    r"""Absolute value of a standard normal: $\log p(d) = \log 2 + \log \mathcal N(d; 0, 1)$ for $d \ge 0$."""

    def log_density(self, x: Tensor) -> Tensor:
        return (math.log(2) - _LOG_SQRT_2PI - 0.5 * x.square()).masked_fill(x < 0, -math.inf)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        return self._randn(n).abs()


class ConditionalNormal(Distribution):
    r"""$\mathcal N(\mu(c), e^{2 \lambda(c)})$ given a context $c$.

    Arguments:
        net: From the context to (B, 2 D, ...), the means and then the log-scales along axis 1.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        mean, log_scale = self.net(context).chunk(2, 1)
        return self._log_prob((x - mean) * torch.exp(-log_scale), log_scale)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        return self.sample_with_log_prob(n, context)[0]

    def sample_with_log_prob(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.net(context).chunk(2, 1)
        noise = torch.randn_like(mean)
        return noise * log_scale.exp() + mean, self._log_prob(noise, log_scale)

    @staticmethod
    def _log_prob(noise: Tensor, log_scale: Tensor) -> Tensor:
        return sum_except_batch(-0.5 * noise.square() - log_scale - _LOG_SQRT_2PI)


class Bernoulli(Distribution):
    r"""Independent bits with logits $\ell(c)$ given a context $c$: $\log p(x) = x \ell - \log(1 + e^\ell)$.

    Arguments:
        net: From the context to the logits, in the shape of $x$.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        logits = self.net(context)
        return sum_except_batch(x * logits - nn.functional.softplus(logits, threshold=40.0))

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        logits = self.net(context)
        return (torch.rand_like(logits) < torch.sigmoid(logits)).to(logits.dtype)


class Categorical(Distribution):
    r"""An index in $0 \dots K-1$ per position, given a context.

    Arguments:
        net: From the context to logits (B, ..., K); the index is (B, ...).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        log_p = self.net(context).log_softmax(-1)
        return sum_except_batch(log_p.gather(-1, x.unsqueeze(-1)))

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        logits = self.net(context)
        gumbel = -torch.empty_like(logits).exponential_().log()
        return (logits + gumbel).argmax(-1)
