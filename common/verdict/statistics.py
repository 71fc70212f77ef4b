"""Intervals and tests over seeds, on SciPy; fixed resampling seeds, so the same runs give the same numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Comparison", "compare", "mean_interval", "prediction_margin"]

RESAMPLES = 9999


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Percentile-bootstrap interval of the mean over seeds; None for fewer than two seeds."""
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    from scipy import stats

    found = stats.bootstrap(
        (np.asarray(values, float),), np.mean, n_resamples=RESAMPLES, confidence_level=confidence,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def prediction_margin(values: Sequence[float], published_seeds: int, confidence: float = 0.95) -> float:
    """How far a published mean of `published_seeds` seeds may lie from our mean if both draw from one normal.

    Half the width of Student's prediction interval, t s sqrt(1/m + 1/n), with our spread s over n seeds.

    Raises:
        ValueError: Fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError("a spread needs at least two seeds")
    from scipy import stats

    quantile = float(stats.t.ppf(0.5 + confidence / 2, n - 1))
    return float(quantile * np.std(values, ddof=1) * np.sqrt(1 / published_seeds + 1 / n))


@dataclass(frozen=True)
class Comparison:
    """Two groups of seeds, the first claimed to be larger."""

    difference: float
    """Mean of the first minus mean of the second."""
    interval: tuple[float, float] | None
    """Its 95 % bootstrap interval; None where a group has one seed."""
    p_value: float
    """One-sided permutation test of equal means, exact where there are few seeds."""
    effect: float | None
    """Difference in units of the pooled standard deviation (Cohen's d); None where that is 0 or unknown."""


def compare(larger: Sequence[float], smaller: Sequence[float]) -> Comparison:
    """Whether the first group's mean is larger, over independent seeds."""
    a, b = np.asarray(larger, float), np.asarray(smaller, float)
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Comparison(difference, None, 1.0, None)
    from scipy import stats

    def gap(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    pooled = float(np.sqrt((a.var(ddof=1) * (len(a) - 1) + b.var(ddof=1) * (len(b) - 1)) / (len(a) + len(b) - 2)))
    interval = (difference, difference)
    if pooled > 0:
        found = stats.bootstrap(
            (a, b), gap, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        interval = (float(found.low), float(found.high))
    test = stats.permutation_test(
        (a, b), gap, alternative="greater", n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    )
    return Comparison(difference, interval, float(test.pvalue), difference / pooled if pooled > 0 else None)
