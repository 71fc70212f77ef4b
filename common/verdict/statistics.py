"""Intervals and tests over seeds; fixed resampling seeds, so the same runs give the same numbers.

Resampling is written out in NumPy, and gives what `scipy.stats.bootstrap` and `permutation_test` give (a test compares
them): importing those takes longer than all verdicts of a paper.
"""

import itertools
import math
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
    return _percentiles(_resampled_means(np.random.default_rng(0), np.asarray(values, float)), confidence)


def prediction_margin(values: Sequence[float], published_seeds: int, confidence: float = 0.95) -> float:
    """How far a published mean of `published_seeds` seeds may lie from our mean if both draw from one normal.

    Half the width of Student's prediction interval, t s sqrt(1/m + 1/n), with our spread s over n seeds.

    Raises:
        ValueError: Fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError("a spread needs at least two seeds")
    from scipy.special import stdtrit

    quantile = float(stdtrit(n - 1, 0.5 + confidence / 2))
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
    pooled = float(np.sqrt((a.var(ddof=1) * (len(a) - 1) + b.var(ddof=1) * (len(b) - 1)) / (len(a) + len(b) - 2)))
    interval = (difference, difference)
    if pooled > 0:
        rng = np.random.default_rng(0)
        interval = _percentiles(_resampled_means(rng, a) - _resampled_means(rng, b), 0.95)
    return Comparison(difference, interval, _permutation_p(a, b), difference / pooled if pooled > 0 else None)


def _resampled_means(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    means: np.ndarray = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(-1)
    return means


def _percentiles(means: np.ndarray, confidence: float) -> tuple[float, float]:
    alpha = (1 - confidence) / 2
    means = np.sort(means)
    places = np.array([alpha, 1 - alpha]) * (len(means) - 1)
    below = places.astype(int)
    part = places - below
    low, high = (1 - part) * means[below] + part * means[below + 1]
    return float(low), float(high)


def _permutation_p(a: np.ndarray, b: np.ndarray) -> float:
    """How often a gap as large comes out when values are dealt to the two groups anew: all ways, or at random."""
    values, ways = np.concatenate([a, b]), math.comb(len(a) + len(b), len(a))
    exact = ways <= RESAMPLES
    if exact:
        everyone = set(range(len(values)))
        deals = [[*first, *sorted(everyone - {*first})] for first in itertools.combinations(everyone, len(a))]
    else:
        rng = np.random.default_rng(0)
        deals = [rng.permutation(len(values)).tolist() for _ in range(RESAMPLES)]
    dealt = values[np.array(deals)]
    gaps = dealt[:, : len(a)].mean(-1) - dealt[:, len(a) :].mean(-1)
    observed = a.mean() - b.mean()
    slack = abs(100 * np.finfo(float).eps * observed)  # sums in another order differ in their last digits
    count = int(np.count_nonzero(gaps >= observed - slack))
    return count / ways if exact else (count + 1) / (RESAMPLES + 1)
