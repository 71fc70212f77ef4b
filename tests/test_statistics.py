"""Intervals and comparisons against closed forms, SciPy's tests and simulated draws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.verdict.statistics import adjusted, difference, linear_log, mean_interval, pairs, to_published

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
    ours, baseline, published = (
        rng.normal(size=(rounds, draws)),
        rng.normal(0, 3, (rounds, 4)),
        rng.normal(size=(rounds, 3)),
    )
    covered = {
        "mean": [low <= 0 <= high for low, high in map(mean_interval, ours.tolist())],
        "gap": [_holds(difference(a, b).interval()) for a, b in zip(ours, baseline, strict=True)],
        "published": [
            _holds(to_published(a, b.mean(), None, 3).interval()) for a, b in zip(ours, published, strict=True)
        ],
        "error": [
            _holds(to_published(a, b.mean(), 3**-0.5, 3).interval()) for a, b in zip(ours, published, strict=True)
        ],
    }
    slack = 3 * math.sqrt(0.95 * 0.05 / rounds)
    for name in ("mean", "published"):  # exact
        assert np.mean(covered[name]) == pytest.approx(0.95, abs=slack)
    for name in ("gap", "error"):  # Satterthwaite's degrees of freedom are an approximation
        assert 0.945 - slack <= np.mean(covered[name]) <= 0.98


@pytest.mark.parametrize(("seeds", "evaluations"), [(3, 10), (3, 100)])
def test_pooled_evaluations_cover_as_often_as_they_say(seeds: int, evaluations: int) -> None:
    """Skewed losses (gamma distributed) of two learners on shared tasks: their mean, its logarithm, gaps in pairs.

    Of a published mean the number of evaluations is known and its error is not.
    """
    rng = np.random.default_rng(evaluations)
    rounds, n = 3000, seeds * evaluations
    task = rng.gamma(4, size=(rounds, n))
    ours, baseline = task + rng.gamma(2, size=(rounds, n)), task + rng.gamma(4, size=(rounds, n))
    published = (rng.gamma(4, size=(rounds, evaluations)) + rng.gamma(2, size=(rounds, evaluations))).mean(1)
    logs = [(linear_log(a), linear_log(b)) for a, b in zip(ours, baseline, strict=True)]
    covered = {
        "mean": [_holds(mean_interval(a), 6) for a in ours],
        "log": [_holds(mean_interval(a), math.log(6)) for a, _ in logs],
        "gap": [_holds(pairs(b, a).interval(), 2) for a, b in zip(ours, baseline, strict=True)],
        "log gap": [_holds(pairs(b, a).interval(), math.log(8 / 6)) for a, b in logs],
        "published": [
            _holds(to_published(a, value, None, evaluations).interval())
            for a, value in zip(ours, published, strict=True)
        ],
    }
    slack = 3 * math.sqrt(0.95 * 0.05 / rounds)
    for name, held in covered.items():
        assert np.mean(held) == pytest.approx(0.95, abs=slack + 0.01), name  # of skewed draws nearly 95 %
    apart = [_holds(difference(b, a).interval(), 2) for a, b in zip(ours, baseline, strict=True)]
    assert np.mean(apart) > 0.98  # as if they were not pairs: too wide


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=30))
def test_a_linear_logarithm_has_the_mean_s_logarithm_and_relative_error(values: list[float]) -> None:
    numbers = linear_log(values)
    assert np.mean(numbers) == pytest.approx(math.log(np.mean(values)), abs=1e-9)
    assert np.std(numbers) == pytest.approx(np.std(values) / np.mean(values), abs=1e-9)


def _holds(ends: tuple[float, float] | None, value: float = 0.0) -> bool:
    assert ends is not None
    return ends[0] <= value <= ends[1]


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
