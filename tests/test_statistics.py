"""Intervals and comparisons against closed forms, SciPy's tests and simulated draws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.verdict.statistics import Estimate, adjusted, difference, mean_interval, to_published

samples = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=6).filter(lambda values: np.std(values) > 1e-3)


@given(samples)
def test_the_interval_of_a_mean_is_student_s(values: list[float]) -> None:
    expected = stats.t(len(values) - 1, np.mean(values), stats.sem(values)).interval(0.95)
    assert mean_interval(values) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(samples, samples)
def test_the_difference_is_welch_s(first: list[float], second: list[float]) -> None:
    expected, gap = stats.ttest_ind(first, second, equal_var=False), difference(first, second)
    assert gap.interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)), rel=1e-6, abs=1e-6)
    assert gap.p_above(0) == pytest.approx(
        stats.ttest_ind(first, second, equal_var=False, alternative="greater").pvalue, abs=1e-9
    )


@pytest.mark.parametrize("draws", [3, 5, 10])
def test_intervals_cover_as_often_as_they_say(draws: int) -> None:
    """Of a mean, of a gap of unlike spreads, and to a published mean of three draws, with and without its error."""
    rng = np.random.default_rng(draws)
    rounds = 4000
    ours, others, published = (
        rng.normal(size=(rounds, draws)),
        rng.normal(0, 3, (rounds, 4)),
        rng.normal(size=(rounds, 3)),
    )
    covered = {
        "mean": [low <= 0 <= high for low, high in map(mean_interval, ours.tolist())],
        "gap": [_holds(difference(a, b)) for a, b in zip(ours, others, strict=True)],
        "published": [_holds(to_published(a, b.mean(), None, 3)) for a, b in zip(ours, published, strict=True)],
        "error": [_holds(to_published(a, b.mean(), 3**-0.5, 3)) for a, b in zip(ours, published, strict=True)],
    }
    slack = 3 * math.sqrt(0.95 * 0.05 / rounds)
    for name in ("mean", "published"):  # exact
        assert np.mean(covered[name]) == pytest.approx(0.95, abs=slack)
    for name in ("gap", "error"):  # Satterthwaite's degrees of freedom are an approximation
        assert 0.945 - slack <= np.mean(covered[name]) <= 0.98


def _holds(estimate: Estimate) -> bool:
    low, high = estimate.interval()
    return low <= 0 <= high


def test_fewer_than_three_draws_have_no_interval() -> None:
    assert mean_interval([1.0, 2.0]) is mean_interval([]) is None


def test_nothing_that_does_not_scatter_divides_by_zero() -> None:
    assert mean_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)
    gap = difference([2.0] * 3, [1.0] * 3)
    assert (gap.interval(), gap.p_above(0.5), gap.p_above(1.0)) == ((1.0, 1.0), 0.0, 1.0)
    assert difference([2.0, 2.0, 2.0], [0.0, 1.0, 2.0]).freedom == 2
    assert to_published([3.0] * 3, 1.0, None, 1).interval() == (2.0, 2.0)


def test_q_values_in_closed_form() -> None:
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 4 / 3 * 0.04, 4 / 3 * 0.04, 0.5])
    assert adjusted([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_q_values_are_those_of_scipy(p_values: list[float]) -> None:
    assert adjusted(p_values) == pytest.approx(stats.false_discovery_control(p_values).tolist(), abs=1e-12)
