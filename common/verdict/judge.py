"""The one function that gives a verdict: numbers of runs in, verdict and reason out."""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from common.room.claims import Claim, Class, Kind, Tolerance
from common.room.config import build, to_dict
from common.room.spec import ScaleName
from common.verdict.statistics import compare, mean_interval, prediction_margin

__all__ = ["Evidence", "Judged", "Verdict", "from_records", "judge", "not_run", "regressions", "to_records"]

Verdict = Literal["matched", "better", "missed", "reduced: holds", "reduced: fails", "reduced: shown", "not run"]
GOOD: tuple[Verdict, ...] = ("matched", "better", "reduced: holds")
"""Verdicts that say that a claim stands."""

CONDITIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
ALPHA = 0.05
LEAST_FOR_A_TEST = 3
"""Seeds a side: fewer cannot give a permutation test of three against three its p of 0.05."""


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
    n_seeds: int
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


@dataclass(frozen=True)
class _Reading:
    """What the numbers alone say of a claim."""

    holds: bool
    difference: float | None
    """To the published value; of an order, the gap to the other side."""
    interval: tuple[float, float] | None
    reason: str


def not_run(paper: str, claim: Claim, reason: str) -> Judged:
    """A claim that no run measures yet."""
    published = claim.published
    return Judged(
        paper=paper, id=claim.id, statement=claim.statement, headline=claim.headline, origin=claim.origin,
        kind=claim.kind, unit=claim.unit,
        published=published.value if published else None, published_error=published.error if published else None,
        source=claim.source.where, provenance=claim.source.how, ours=None, interval=None, seeds={}, n_seeds=0,
        difference=None, verdict="not run", reason=reason, scale=None,
    )  # fmt: skip


def judge(paper: str, claim: Claim, ours: Evidence, against: Evidence | None, scale: ScaleName) -> Judged:
    """The verdict on a claim, of numbers alone. Nothing else in the project gives one.

    `matched`, `better` and `missed` need the paper's conditions (no deviation that touches the claim) and at
    least three seeds, or as many as the paper had if that is fewer. Otherwise order, shape and identity claims
    are `reduced: holds` or `reduced: fails` and a value is `reduced: shown`, never matched.
    """
    values, sides = list(ours.values.values()), [ours, *([against] if against else [])]
    reading = _read(claim, values, list(against.values.values()) if against else [])
    is_order = claim.kind == "order"
    needed = min(3, claim.published.seeds if claim.published and claim.published.seeds else 3)
    needed = LEAST_FOR_A_TEST if is_order else needed
    seeds = min(len(side.values) for side in sides)
    touching = sorted({deviation for side in sides for deviation in side.deviations})
    verdict: Verdict
    reason, difference = reading.reason, reading.difference
    if touching or seeds < needed:
        shown = claim.kind == "value" or (is_order and seeds < needed)
        verdict = "reduced: shown" if shown else "reduced: holds" if reading.holds else "reduced: fails"
        limits = [*touching[:2], *([f"{len(touching) - 2} more deviations"] if len(touching) > 2 else [])]
        if seeds < needed:
            limits.append(f"{seeds} seed(s), {needed} are needed")
        reason = f"{reason}; other conditions: {'; '.join(limits)}"
    elif reading.holds:
        verdict = "matched"
    else:
        ahead = difference is not None and (difference < 0) is (claim.better == "lower")
        verdict = "better" if claim.kind == "value" and claim.better != "neither" and ahead else "missed"
    measured = float(np.mean(values))
    if is_order and difference is not None:
        measured = float(difference)
        difference = measured - claim.published.value if claim.published else None
    return dataclasses.replace(
        not_run(paper, claim, reason), ours=measured, interval=reading.interval, difference=difference,
        seeds={str(seed): value for seed, value in ours.values.items()}, n_seeds=seeds, verdict=verdict, scale=scale,
        carried=any(side.carried for side in sides), runs=tuple(run for side in sides for run in side.runs),
    )  # fmt: skip


def _read(claim: Claim, values: Sequence[float], against: Sequence[float]) -> _Reading:
    if claim.kind == "order":
        return _read_order(claim, values, against)
    interval = mean_interval(values)
    if claim.kind == "shape":
        assert claim.bound is not None
        condition, value = claim.bound.condition, claim.bound.value
        met = [CONDITIONS[condition](number, value) for number in values]
        reason = f"{sum(met)} of {len(met)} seeds {condition} {value:g} ({claim.bound.why})"
        return _Reading(all(met), None, interval, reason)
    assert claim.published is not None
    assert claim.tolerance is not None
    target, tolerance = claim.published.value, claim.tolerance
    difference = float(np.mean(values)) - target
    if claim.kind == "identity":
        allowed, worst = _allowed(tolerance, target), max(abs(value - target) for value in values)
        reason = f"largest error {worst:.2g}, allowed {allowed:.2g}"
        return _Reading(worst <= allowed, difference, interval, reason)
    if tolerance.spread and len(values) < 2:
        return _Reading(False, difference, interval, "no spread known from one seed")
    if tolerance.spread:
        allowed = prediction_margin(values, claim.published.seeds or 1)
    else:
        allowed = _allowed(tolerance, target)
    return _Reading(abs(difference) <= allowed, difference, interval, f"allowed ±{allowed:.2g}: {tolerance.why}")


def _allowed(tolerance: Tolerance, target: float) -> float:
    return tolerance.absolute if tolerance.absolute is not None else abs(target) * (tolerance.relative or 0)


def _read_order(claim: Claim, values: Sequence[float], against: Sequence[float]) -> _Reading:
    gap = compare(against, values) if claim.better == "lower" else compare(values, against)
    low = gap.interval[0] if gap.interval else gap.difference
    effect = f", {gap.effect:.0f} pooled sd" if gap.effect is not None else ""
    reason = f"gap {gap.difference:.4g}{effect}, permutation p = {gap.p_value:.2g}; the other side over its seeds: "
    reason += " ".join(f"{value:.4g}" for value in against)
    if claim.published and gap.interval and not gap.interval[0] <= claim.published.value <= gap.interval[1]:
        reason += "; the order is compared, not its size: the published gap lies outside of our interval"
    return _Reading(low > claim.margin and gap.p_value <= ALPHA, gap.difference, gap.interval, reason)


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
        if then.get("verdict") in GOOD and claim.verdict not in GOOD and comparable:
            fallen.append((claim, then["verdict"]))
    return fallen
