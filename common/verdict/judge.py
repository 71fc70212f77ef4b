"""The one function that gives a verdict: numbers of runs in, verdict and reason out."""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from common.errors import RefigureError
from common.room.claims import Claim, Class, Kind, Tolerance
from common.room.config import build, to_dict
from common.room.spec import ScaleName
from common.verdict.statistics import (
    LEAST,
    Estimate,
    adjusted,
    difference,
    linear_log,
    mean_interval,
    pairs,
    to_published,
)

__all__ = [
    "Evidence", "Judged", "Verdict", "from_records", "judge", "not_run", "regressions", "to_records", "tone",
    "with_q_values",
]  # fmt: skip

Verdict = Literal[
    "agrees", "compatible", "differs, better", "differs", "same direction", "opposite", "holds", "fails", "undecided",
    "smaller run: same direction", "smaller run: opposite", "smaller run: holds", "smaller run: fails",
    "smaller run: undecided", "smaller run: not comparable", "not run",
]  # fmt: skip
GOOD = ("agrees", "compatible", "differs, better", "same direction", "holds")
"""Verdicts that say that a claim stands, under the paper's conditions or in a smaller run."""
SMALLER = "smaller run: "
TOO_FEW = "too few: "
"""How the reason of a claim begins that is undecided because more draws are needed."""
TONES = {
    "agrees": "good", "compatible": "good", "same direction": "good", "holds": "good", "differs, better": "better",
    "differs": "bad", "opposite": "bad", "fails": "bad", "undecided": "partly", "not comparable": "partly",
    "not run": "none",
}  # fmt: skip
"""How verdicts are coloured."""

CONDITIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What runs say of one measure at one scale."""

    values: Mapping[int, float]
    """Seed to value."""
    runs: tuple[str, ...]
    """The runs that were read."""
    deviations: tuple[str, ...] = ()
    """Their departures from the paper that touch the claim."""
    carried: bool = False
    """Whether a run was filed under today's key after a replay instead of trained under it."""
    pooled: Sequence[float] = ()
    """The evaluations of all seeds, where these are the independent draws."""
    of: str = "seeds"
    """What the draws are, in the plural."""
    within: str = ""
    """Of seeds that are the draws: what each is the mean of, in words."""

    @property
    def draws(self) -> Sequence[float]:
        """The independent draws."""
        return self.pooled if len(self.pooled) else [*self.values.values()]

    @property
    def n(self) -> str:
        """How many draws there are of what: `3 seeds`."""
        return f"{len(self.draws)} {self.of if len(self.draws) != 1 else self.of.removesuffix('s')}"


@dataclass(frozen=True)
class Judged:
    """A claim with what the runs say; the fields of `refigure diff --json`."""

    id: str
    paper: str
    statement: str
    headline: bool
    origin: Class
    """`class` in records."""
    kind: Kind
    published: float | None
    published_error: float | None
    source: str
    provenance: str
    ours: float | None
    interval: tuple[float, float] | None
    seeds: dict[str, float]
    """Seed to value; of an order claim, ours (the other side is in the reason)."""
    n: str
    """How many independent draws, of what: `3 seeds`, `6000 lifetimes`; of an order claim, of the side with fewer."""
    unit: str
    difference: float | None
    verdict: Verdict
    reason: str
    scale: ScaleName | None
    """The scale that was measured; None where nothing was."""
    carried: bool = False
    """Whether one of the runs was carried over from another key."""
    runs: tuple[str, ...] = ()
    """The runs that were read."""
    p_value: float | None = None
    """Of an order between draws that scatter: that its gap is at most the margin."""

    @property
    def too_few(self) -> bool:
        """Whether there are runs, but too few for a verdict."""
        return self.reason.startswith(TOO_FEW)


@dataclass(frozen=True)
class _Reading:
    """What the numbers alone say of a claim."""

    word: str
    """The verdict without the conditions."""
    reason: str
    interval: tuple[float, float] | None = None
    """Of ours; of an order, of the gap to the other side."""
    difference: float | None = None
    """To the published value; of an order, the gap to the other side."""
    p_value: float | None = None
    """Of an order: that the gap is at most the margin."""


def not_run(paper: str, claim: Claim, reason: str) -> Judged:
    """A claim that no run measures yet."""
    published = claim.published
    return Judged(
        paper=paper, id=claim.id, statement=claim.statement, headline=claim.headline, origin=claim.origin,
        kind=claim.kind, unit=claim.unit,
        published=published.value if published else None, published_error=published.error if published else None,
        source=claim.source.where, provenance=claim.source.how, ours=None, interval=None, seeds={}, n="",
        difference=None, verdict="not run", reason=reason, scale=None,
    )  # fmt: skip


def judge(paper: str, claim: Claim, ours: Evidence, against: Evidence | None, scale: ScaleName) -> Judged:
    """The verdict on a claim, of numbers alone. Nothing else in the project gives one.

    Under other conditions than the paper's (a deviation touches the claim) it begins with `smaller run:`, and a value
    is not comparable.
    """
    sides = [ours, *([against] if against else [])]
    if not all(math.isfinite(value) for side in sides for value in side.draws):
        raise RefigureError(f"papers/{paper}/claims.yaml: {claim.id}: a run has a number that is not finite")
    reading = _read(claim, ours, against)
    touching = sorted({deviation for side in sides for deviation in side.deviations})
    word, reason = reading.word, f"{reading.reason}; {ours.within}" if ours.within else reading.reason
    if touching:
        word = SMALLER + ("not comparable" if claim.kind == "value" else word)
        more = [f"{len(touching) - 2} more deviations"] if len(touching) > 2 else []
        reason = f"{reason}; other conditions: {'; '.join([*touching[:2], *more])}"
    measured, difference = float(np.mean(ours.draws)), reading.difference
    if claim.kind == "order" and difference is not None:
        measured, difference = difference, difference - claim.published.value if claim.published else None
    return dataclasses.replace(
        not_run(paper, claim, reason), ours=measured, interval=reading.interval, difference=difference,
        seeds={str(seed): value for seed, value in ours.values.items()},
        n=min(sides, key=lambda side: len(side.draws)).n, verdict=cast(Verdict, word), scale=scale,
        carried=any(side.carried for side in sides), runs=tuple(run for side in sides for run in side.runs),
        p_value=reading.p_value,
    )  # fmt: skip


def _read(claim: Claim, ours: Evidence, against: Evidence | None) -> _Reading:
    if claim.kind == "order":
        assert against is not None
        return _read_order(claim, ours, against)
    values, interval = ours.draws, _back(claim, mean_interval(_compared(claim, ours)))
    if claim.kind == "shape":
        return _read_shape(claim, ours, interval)
    assert claim.published is not None
    assert claim.tolerance is not None
    target, tolerance = claim.published.value, claim.tolerance
    apart = float(np.mean(values)) - target
    if claim.kind == "identity":
        allowed, worst = _margin(tolerance, target, False) or 0.0, max(abs(value - target) for value in values)
        word = "holds" if worst <= allowed else "fails"
        return _Reading(word, f"largest error {worst:.2g}, allowed {allowed:.2g}", interval, apart)
    return dataclasses.replace(_read_value(claim, ours), interval=interval, difference=apart)


def _read_shape(claim: Claim, ours: Evidence, interval: tuple[float, float] | None) -> _Reading:
    """A property: every training must have it; of pooled evaluations, their mean, with its interval."""
    assert claim.bound is not None
    bound = f"{claim.bound.condition} {claim.bound.value:g} ({claim.bound.why})"
    tested = ours.draws if not ours.pooled else interval or ()
    met = [CONDITIONS[claim.bound.condition](number, claim.bound.value) for number in tested]
    if not ours.pooled:
        counted = f"{sum(met)} of {len(met)} {ours.of} {bound}"
        if all(met) and len(met) < LEAST and not claim.exact:
            return _Reading("undecided", f"{TOO_FEW}{counted}; {LEAST} are needed", interval)
        return _Reading("holds" if all(met) else "fails", counted, interval)
    word = "undecided" if len(set(met)) != 1 else "holds" if met[0] else "fails"
    return _Reading(word, f"mean of {ours.n} {bound}", interval)


def _read_value(claim: Claim, ours: Evidence) -> _Reading:
    """A published number: does ours agree within the margin, differ, or can it not be said?"""
    assert claim.published is not None
    assert claim.tolerance is not None
    published, margin = claim.published, _margin(claim.tolerance, claim.published.value, claim.log)
    draws = published.evaluations if ours.pooled else published.seeds
    error, needed = published.standard_error(draws), max(min(LEAST, draws or LEAST), 2)
    if claim.exact:
        gap = Estimate(float(np.mean(ours.draws)) - published.value, 0.0)
    elif len(ours.draws) < needed:
        return _Reading("undecided", f"{TOO_FEW}{ours.n}, {needed} are needed for an interval")
    elif error is None and np.ptp(ours.draws) == 0:
        return _Reading("undecided", f"{ours.n} are equal: how far either side scatters is not known")
    else:
        target = math.log(published.value) if claim.log else published.value
        relative = error / published.value if error is not None and claim.log else error
        gap = to_published(_compared(claim, ours), target, relative, draws)
    (low, high), (least, most) = gap.interval(0.95), gap.interval(0.90)
    apart = not low <= 0 <= high
    scatter = "" if error is not None or claim.exact else ", which is taken to scatter as ours"
    scatter += {
        "unstated": " (what its error is, is not stated: taken for a standard error)",
        "within one training": " (its error is one of evaluations of one training)",
    }.get(str(published.error_is), "")
    unit = " in logarithms" if claim.log else ""
    reason = f"to the published value{scatter}: [{low:.2g}, {high:.2g}]{unit}"
    if margin is None:
        word = "differs" if apart else "compatible"
        reason += f"; no margin has a reason: {claim.tolerance.why}"
    else:
        reason += "" if claim.exact else f", with 90 % confidence [{least:.2g}, {most:.2g}]"
        word = "agrees" if -margin <= least and most <= margin else "undecided"
        word = "differs" if apart and abs(gap.value) > margin else word
        reason += f"; margin {margin:.2g}: {claim.tolerance.why}"
    if word == "differs" and claim.better != "neither" and (gap.value < 0) is (claim.better == "lower"):
        word = "differs, better"
    return _Reading(word, reason)


def _margin(tolerance: Tolerance, target: float, log: bool) -> float | None:
    """How far ours may be, on logarithms as a log ratio; None where no reason gives one."""
    if tolerance.relative is not None:
        return math.log1p(tolerance.relative) if log else abs(target) * tolerance.relative
    return tolerance.absolute


def _read_order(claim: Claim, ours: Evidence, against: Evidence) -> _Reading:
    """Ours against another: the same direction as the paper says, the opposite, or undecided.

    Draws that belong together are compared in pairs: evaluations of the same number, which have their task in common,
    two measures of the same trainings, and trainings of the same seed where the claim says so.
    """
    larger, smaller = (against, ours) if claim.better == "lower" else (ours, against)
    plain = float(np.mean(larger.draws) - np.mean(smaller.draws))
    shown = " ".join(f"{value:.4g}" for value in against.values.values())
    beside = f"the other side{f', {against.n},' if against.of != ours.of else ''} over its seeds: {shown}"
    beside += f" ({against.within})" if against.within not in ("", ours.within) else ""
    paired = bool(ours.pooled and against.pooled) or ours.runs == against.runs or claim.paired
    fewest = min(ours, against, key=lambda side: len(side.draws))
    if claim.exact:
        gap = Estimate(plain, 0.0)
    elif len(fewest.draws) < LEAST:
        short = f"{TOO_FEW}{fewest.n} a side, {LEAST} are needed"
        return _Reading("undecided", f"{short}; gap {plain:.4g}; {beside}", difference=plain)
    elif paired and (len(ours.draws), *ours.values) != (len(against.draws), *against.values):
        raise RefigureError(f"{claim.id} compares {ours.n} with {against.n} in pairs: both sides need the same ones")
    else:
        gap = (pairs if paired else difference)(_compared(claim, larger), _compared(claim, smaller))
    if gap.error == 0 and not claim.exact:
        return _Reading("undecided", f"gap {plain:.4g}; neither side scatters: no error is known; {beside}",
                        difference=plain)  # fmt: skip
    low, high = gap.interval()
    word = "same direction" if low > claim.margin else "opposite" if high < claim.margin else "undecided"
    reason = f"gap {gap.value:.4g} [{low:.2g}, {high:.2g}]{' in logarithms' if claim.log else ''}"
    reason += f", {ours.of} in pairs" if paired else ""
    reason += f", margin {claim.margin:g}" if claim.margin else ""
    reason += ": in the direction, by less than the margin" if word == "opposite" and low > 0 else ""
    interval = (low, high) if not claim.log else None
    return _Reading(word, f"{reason}; {beside}", interval, plain, None if claim.exact else gap.p_above(claim.margin))


def _compared(claim: Claim, side: Evidence) -> Sequence[float]:
    """The draws on which a claim is compared: on logarithms those of trainings, of evaluations that of their mean."""
    if not claim.log:
        return side.draws
    worst = float(np.mean(side.pooled)) if side.pooled else min(side.draws)
    if worst <= 0:
        raise RefigureError(f"{claim.id} is compared on logarithms, but a run has {worst:g}: leave out `log`")
    return linear_log(side.pooled) if side.pooled else [math.log(value) for value in side.draws]


def _back(claim: Claim, interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return (math.exp(interval[0]), math.exp(interval[1])) if interval and claim.log else interval


def with_q_values(judged: Sequence[Judged]) -> list[Judged]:
    """The claims of a paper, its orders with q-values, which an opposite one does not need.

    q is the share of false ones to be expected among the orders whose q is at most as large; all orders of the paper
    between draws that scatter are counted.
    """
    tested = [claim.p_value for claim in judged if claim.p_value is not None]
    q_values = iter(adjusted(tested))
    return [
        dataclasses.replace(claim, reason=f"{claim.reason}; q = {q:.2g}")
        if (q := None if claim.p_value is None else next(q_values)) is not None
        and not claim.verdict.endswith("opposite")
        else claim
        for claim in judged
    ]


def tone(verdict: str) -> str:
    """How a verdict is coloured: good, better, bad, partly or none; a smaller run is at best partly good."""
    plain = TONES[verdict.removeprefix(SMALLER)]
    return "partly" if verdict.startswith(SMALLER) and plain in ("good", "better") else plain


def to_records(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Judged claims as plain data."""
    return [{"class" if name == "origin" else name: part for name, part in to_dict(each).items()} for each in judged]


def from_records(records: Sequence[Mapping[str, Any]], where: str) -> list[Judged]:
    """What `to_records` gave."""
    renamed = [{"origin" if name == "class" else name: part for name, part in each.items()} for each in records]
    judged: list[Judged] = build(list[Judged], renamed, where)
    return judged


def regressions(now: Sequence[Judged], before: Sequence[Mapping[str, Any]]) -> list[tuple[Judged, str]]:
    """Claims that stood before and do not any more, each with its earlier verdict.

    A claim that is `not run` now (artifacts not pulled, code changed since), or measured at a smaller scale than
    before, is no regression: nothing comparable speaks against it.
    """
    earlier = {entry["id"]: entry for entry in before}
    fallen = []
    for claim in now:
        then = earlier.get(claim.id, {})
        comparable = claim.verdict != "not run" and claim.scale == then.get("scale", claim.scale)
        if _stands(then.get("verdict", "")) and not _stands(claim.verdict) and comparable:
            fallen.append((claim, then["verdict"]))
    return fallen


def _stands(verdict: str) -> bool:
    return verdict.removeprefix(SMALLER) in GOOD
