"""Intervals and tests against closed forms."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.verdict.statistics import compare, mean_interval, prediction_margin

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6)


def test_the_margin_of_two_seeds_in_closed_form() -> None:
    # Two values a distance 2 apart: s = sqrt 2; Student's 97.5 % quantile with one degree of freedom is tan(0.475 pi).
    expected = math.tan(0.475 * math.pi) * math.sqrt(2) * math.sqrt(1 / 4 + 1 / 2)
    assert prediction_margin([0.0, 2.0], 4) == pytest.approx(expected)


@given(values, st.integers(1, 10))
def test_the_margin_against_student(sample: list[float], published: int) -> None:
    n = len(sample)
    spread = math.sqrt(sum((x - sum(sample) / n) ** 2 for x in sample) / (n - 1))
    expected = stats.t(n - 1).ppf(0.975) * spread * math.sqrt(1 / published + 1 / n)
    assert prediction_margin(sample, published) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_margin_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws, other = rng.normal(size=(4000, 5)), rng.normal(size=(4000, 3)).mean(1)
    inside = [
        abs(ours.mean() - theirs) <= prediction_margin(ours, 3) for ours, theirs in zip(draws, other, strict=True)
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 4000))


@pytest.mark.parametrize("sample", [[], [1.0]])
def test_a_spread_needs_two(sample: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        prediction_margin(sample, 1)
    assert mean_interval(sample) is None


@settings(max_examples=15)
@given(values)
def test_the_interval_holds_the_mean_and_stays_among_the_values(sample: list[float]) -> None:
    interval = mean_interval(sample)
    assert interval is not None
    slack = 1e-9 * (1 + max(map(abs, sample)))
    assert min(sample) - slack <= interval[0] <= np.mean(sample) + slack
    assert np.mean(sample) - slack <= interval[1] <= max(sample) + slack
    assert mean_interval(sample) == interval


def test_the_interval_of_equal_values_is_a_point() -> None:
    assert mean_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)


def test_the_interval_of_many_seeds_is_the_normal_one() -> None:
    sample = np.random.default_rng(1).normal(size=400)
    half = 1.96 * sample.std() / math.sqrt(400)
    assert mean_interval(sample.tolist()) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.1 * half)


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(2).normal(size=(80, 20))
    intervals = [mean_interval(row.tolist()) for row in draws]
    assert 0.85 <= np.mean([low <= 0 <= high for low, high in filter(None, intervals)]) <= 1


@settings(max_examples=15)
@given(st.lists(st.integers(-50, 50), min_size=4, max_size=7), st.integers(2, 3))
def test_the_permutation_test_is_exact(pool: list[int], size: int) -> None:
    size = min(size, len(pool) - 2)
    a, b = pool[:size], pool[size:]
    observed = np.mean(a) - np.mean(b)
    gaps = []
    for chosen in itertools.combinations(range(len(pool)), size):
        first = [pool[i] for i in chosen]
        rest = [pool[i] for i in range(len(pool)) if i not in chosen]
        gaps.append(np.mean(first) - np.mean(rest))
    expected = np.mean(np.array(gaps) >= observed - 1e-9)
    assert compare(a, b).p_value == pytest.approx(expected)


@settings(max_examples=10)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=10), st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=10))
def test_resampling_is_that_of_scipy(first: list[float], second: list[float]) -> None:
    def gap(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    options: dict[str, Any] = {"n_resamples": 9999, "method": "percentile"}
    if np.ptp(first) > 0:
        expected = stats.bootstrap((first,), np.mean, rng=np.random.default_rng(0), **options).confidence_interval
        assert mean_interval(first) == (expected.low, expected.high)
    test = stats.permutation_test(
        (first, second), gap, alternative="greater", n_resamples=9999, rng=np.random.default_rng(0)
    )
    comparison = compare(first, second)
    assert comparison.p_value == test.pvalue
    if comparison.effect is not None:
        expected = stats.bootstrap((first, second), gap, rng=np.random.default_rng(0), **options).confidence_interval
        assert comparison.interval == (expected.low, expected.high)


def test_complete_separation_of_three_and_three() -> None:
    comparison = compare([4.0, 5.0, 6.0], [1.0, 2.0, 3.0])
    assert comparison.difference == 3
    assert comparison.p_value == pytest.approx(1 / math.comb(6, 3))
    assert comparison.effect == pytest.approx(3)  # both variances are 1
    assert comparison.interval is not None
    assert 1 <= comparison.interval[0] <= 3 <= comparison.interval[1] <= 5
    assert compare([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]).p_value == 1


def test_groups_without_spread_or_with_one_seed() -> None:
    assert compare([2.0, 2.0], [1.0, 1.0]).interval == (1.0, 1.0)
    assert compare([2.0, 2.0], [1.0, 1.0]).effect is None
    alone = compare([2.0], [1.0, 1.5])
    assert (alone.difference, alone.interval, alone.p_value, alone.effect) == (0.75, None, 1.0, None)
