"""Intervals and comparisons of independent draws: Student's t, Welch and pairs, plain or on logarithms.

Draws are trainings, or the evaluations of one rule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LEAST", "Estimate", "adjusted", "difference", "linear_log", "mean_interval", "pairs", "to_published"]

LEAST = 3
"""Draws a side: with fewer no spread is known that an interval could be made of."""


@dataclass(frozen=True)
class Estimate:
    """A number with its error."""

    value: float
    error: float
    """Standard error; 0 where nothing scatters."""
    freedom: float = math.inf
    """Degrees of freedom of the error."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Ends of its confidence interval."""
        from scipy.special import ndtri, stdtrit

        level = 0.5 + confidence / 2
        quantile = ndtri(level) if math.isinf(self.freedom) else stdtrit(self.freedom, level)
        return self.value - float(quantile) * self.error, self.value + float(quantile) * self.error

    def p_above(self, bound: float) -> float:
        """One-sided p-value of being at most `bound`."""
        from scipy.special import ndtr, stdtr

        if self.error == 0:
            return float(self.value <= bound)
        ratio = (bound - self.value) / self.error
        return float(ndtr(ratio) if math.isinf(self.freedom) else stdtr(self.freedom, ratio))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean; None for fewer than three draws."""
    return _mean(values).interval(confidence) if len(values) >= LEAST else None


def difference(larger: Sequence[float], smaller: Sequence[float]) -> Estimate:
    """Mean of the first minus mean of the second, of independent draws with spreads of their own (Welch)."""
    a, b = _mean(larger), _mean(smaller)
    variances, freedoms = (a.error**2, b.error**2), (a.freedom, b.freedom)
    return Estimate(a.value - b.value, math.hypot(a.error, b.error), _satterthwaite(variances, freedoms))


def pairs(larger: Sequence[float], smaller: Sequence[float]) -> Estimate:
    """Mean of the first minus mean of the second, of draws that belong together one by one."""
    return _mean(np.subtract(larger, smaller))


def linear_log(values: Sequence[float]) -> list[float]:
    """Numbers whose mean is the logarithm of the values' mean, and whose standard error is its own (delta method)."""
    array = np.asarray(values, float)
    mean = array.mean()
    return [float(number) for number in math.log(mean) + array / mean - 1]


def to_published(values: Sequence[float], value: float, error: float | None, draws: int | None) -> Estimate:
    """Our mean minus a published one.

    Arguments:
        error: Standard error of the published mean. Where it is not known, its draws are taken to scatter as ours do.
        draws: Of how many draws it is the mean; one where it is not known.
    """
    ours = _mean(values)
    if error is not None:
        freedom = _satterthwaite((ours.error**2, error**2), (ours.freedom, math.inf))
        return Estimate(ours.value - value, math.hypot(ours.error, error), freedom)
    spread = ours.error * math.sqrt(len(values))
    return Estimate(ours.value - value, math.hypot(ours.error, spread / math.sqrt(draws or 1)), ours.freedom)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's q-values: the share of false ones among all that are at most as large."""
    order = np.argsort(p_values)[::-1]
    ranked = np.asarray(p_values, float)[order] * len(p_values) / np.arange(len(p_values), 0, -1)
    q_values = np.empty(len(p_values))
    q_values[order] = np.minimum.accumulate(np.minimum(ranked, 1))
    return [float(q) for q in q_values]


def _mean(values: Sequence[float] | np.ndarray) -> Estimate:
    array = np.asarray(values, float)
    if np.ptp(array) == 0:
        return Estimate(float(array[0]), 0.0, max(len(array) - 1.0, 1.0))
    return Estimate(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array)), len(array) - 1.0)


def _satterthwaite(variances: tuple[float, float], freedoms: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of two squared standard errors."""
    parts = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / parts if parts > 0 else math.inf
