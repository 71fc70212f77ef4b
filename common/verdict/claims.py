"""Published against ours: `papers/<paper>/claims.yaml`, and the one function that gives a verdict."""

import dataclasses
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.errors import RefigureError, suggest
from common.room import spec
from common.room.config import build, read_yaml
from common.room.spec import SCALES, PlannedRun, ScaleName
from common.run import record as runs
from common.verdict.statistics import compare, mean_interval, prediction_margin

__all__ = ["GOOD", "Claim", "Judged", "evaluate", "judge", "load", "regressions"]

Kind = Literal["value", "order", "shape", "identity"]
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
class Measure:
    """Which number of which run."""

    experiment: str
    """Experiment of the paper."""
    variant: str
    """Variant of the experiment."""
    metric: str
    """Name in the run's final metrics."""


@dataclass(frozen=True)
class Published:
    """A number that others reported."""

    value: float
    """The number."""
    error: float | None = None
    """Its error as reported."""
    seeds: int | None = None
    """How many seeds it is the mean of, where known."""


@dataclass(frozen=True)
class Source:
    """Where a claim stands and how well it was read."""

    where: str
    """Table, figure or section."""
    how: Literal["read exactly", "read off the plot", "second-hand", "unverified", "official code", "theory"]
    """How the value came here; `official code` means measured by running it, `theory` derived."""


@dataclass(frozen=True)
class Tolerance:
    """How far ours may be from the published value."""

    why: str
    """Why that far."""
    absolute: float | None = None
    """In the metric's unit."""
    relative: float | None = None
    """As a fraction of the published value."""
    spread: bool = False
    """As far as the published run is expected to scatter, given our spread over seeds (95 % prediction)."""

    def __post_init__(self) -> None:
        if (self.absolute is not None) + (self.relative is not None) + self.spread != 1:
            raise ValueError("give exactly one of absolute, relative and spread")


@dataclass(frozen=True)
class Bound:
    """What a curve's or a distribution's property must satisfy, for every seed."""

    condition: Literal["<", "<=", ">", ">="]
    """Comparison with the value."""
    value: float
    """In the metric's unit."""
    why: str
    """Why that value."""


@dataclass(frozen=True)
class Claim:
    """One statement of the paper that runs can bear out."""

    id: str
    """Short and stable: `S1a-flow`."""
    statement: str
    """In words."""
    kind: Kind
    """`value` a number; `order` ours above or below another; `shape` a property; `identity` what theory demands."""
    source: Source
    """Where it stands."""
    ours: Measure
    """What measures it."""
    scale: ScaleName
    """The scale with the paper's conditions."""
    unit: str = ""
    """Unit of the metric."""
    better: Literal["lower", "higher", "neither"] = "neither"
    """Which direction is better."""
    headline: bool = False
    """Whether it is one of the few that carry the paper."""
    published: Published | None = None
    """The published number; of an order claim, the published gap; of an identity, what theory gives."""
    against: Measure | None = None
    """Of an order claim: what ours is better than."""
    margin: float = 0.0
    """Of an order claim: the least gap that counts."""
    tolerance: Tolerance | None = None
    """Of a value or an identity: how far ours may be."""
    bound: Bound | None = None
    """Of a shape claim: what must hold."""

    def __post_init__(self) -> None:
        needs = {
            "value": ("published", "tolerance"),
            "order": ("against",),
            "shape": ("bound",),
            "identity": ("published", "tolerance"),
        }[self.kind]
        for name in needs:
            if getattr(self, name) is None:
                raise ValueError(f"a claim of kind {self.kind} needs {name!r}")
        if self.kind == "order" and self.better == "neither":
            raise ValueError("a claim of kind order needs 'better': lower or higher")


@dataclass(frozen=True)
class Judged:
    """A claim with what the runs say; the fields of `refigure diff --json`."""

    id: str
    paper: str
    statement: str
    headline: bool
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
    runs: tuple[str, ...] = ()
    """The runs that were read."""


def load(paper: str) -> list[Claim]:
    """The claims of a paper, checked against its experiments.

    Raises:
        RefigureError: A fault in `claims.yaml`, or a claim that names what does not exist.
    """
    room = spec.load(paper)
    path = spec.root() / "papers" / paper / "claims.yaml"
    where = f"papers/{paper}/claims.yaml"
    document = read_yaml(path)
    entries = document.get("claims") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or set(document) != {"claims"}:
        raise RefigureError(f"{where}: expected one key 'claims' with a list")
    claims: list[Claim] = []
    for number, entry in enumerate(entries):
        name = entry.get("id", number) if isinstance(entry, Mapping) else number
        claim: Claim = build(Claim, entry, f"{where}: {name}")
        if claim.id in {earlier.id for earlier in claims}:
            raise RefigureError(f"{where}: {claim.id}: the id stands there twice")
        for measure in filter(None, (claim.ours, claim.against)):
            experiment = spec.find(room.experiments, measure.experiment, "experiment", f"{where}: {claim.id}")
            spec.find(experiment.variants, measure.variant, "variant", f"{where}: {claim.id}")
            scale = spec.find(experiment.scales, claim.scale, "scale", f"{where}: {claim.id}")
            if measure.variant not in (scale.variants or experiment.variants):
                raise RefigureError(
                    f"{where}: {claim.id}: variant {measure.variant!r} does not run at scale {claim.scale}: "
                    "name it there, or measure the claim at another scale"
                )
        claims.append(claim)
    return claims


def evaluate(paper: str, folder: Path | None = None, only: Collection[Path] | None = None) -> list[Judged]:
    """Every claim of a paper, judged.

    Arguments:
        folder: Where runs lie; the repository's `runs/` when left out.
        only: The runs that may be read, relative to it; all when left out.
    """
    folder = folder or spec.root() / "runs"
    shelf = _Shelf(paper, folder, only)
    return [_evaluate(paper, claim, shelf) for claim in load(paper)]


@dataclass(frozen=True)
class _Found:
    """The seeds of one measure at one scale."""

    values: dict[int, float]
    runs: tuple[str, ...]
    deviations: tuple[str, ...]


class _Shelf:
    """Planned runs and those of them that are done, read once."""

    def __init__(self, paper: str, folder: Path, only: Collection[Path] | None) -> None:
        self._paper = paper
        self._folder = folder
        self._only = only
        self._plans: dict[tuple[str, ScaleName], list[PlannedRun]] = {}
        self._read: dict[Path, runs.FinishedRun | None] = {}

    def plans(self, measure: Measure, scale: ScaleName) -> list[PlannedRun]:
        key = (measure.experiment, scale)
        if key not in self._plans:
            self._plans[key] = spec.plan(self._paper, scale, measure.experiment)
        return [plan for plan in self._plans[key] if plan.identity.variant == measure.variant]

    def run(self, plan: PlannedRun) -> runs.FinishedRun | None:
        if self._only is not None and plan.identity.path not in self._only:
            return None
        folder = self._folder / plan.identity.path
        if folder not in self._read:
            self._read[folder] = runs.read(folder) if (folder / runs.DONE).is_file() else None
        return self._read[folder]

    def find(self, claim: Claim, measure: Measure, scale: ScaleName) -> _Found | None:
        """The measure over all seeds of a scale; None while one of its runs is missing."""
        plans = self.plans(measure, scale)
        done = [run for plan in plans if (run := self.run(plan)) is not None]
        if not plans or len(done) < len(plans):
            return None
        values: dict[int, float] = {}
        for run in done:
            if measure.metric not in run.metrics and scale != claim.scale:
                return None  # such as an accuracy after more classes than a small scale learns
            if measure.metric not in run.metrics:
                raise RefigureError(
                    f"papers/{self._paper}/claims.yaml: {claim.id}: run {run.identity} has no metric "
                    f"{measure.metric!r}; {suggest(measure.metric, run.metrics)}"
                )
            values |= dict(zip(run.seeds, run.metrics[measure.metric], strict=True))
        touching = {
            deviation.what
            for plan in plans
            for deviation in plan.deviations
            if "all" in deviation.touches or claim.id in deviation.touches
        }
        return _Found(values, tuple(str(run.identity) for run in done), tuple(sorted(touching)))


def _evaluate(paper: str, claim: Claim, shelf: _Shelf) -> Judged:
    scales: list[ScaleName] = [claim.scale, *(scale for scale in reversed(SCALES) if scale != claim.scale)]
    for scale in scales:
        mine = shelf.find(claim, claim.ours, scale)
        other = shelf.find(claim, claim.against, scale) if claim.against else None
        if mine is not None and (claim.against is None or other is not None):
            return judge(paper, claim, mine, other, scale)
    return _blank(paper, claim, "not run", _price(claim, shelf))


def _price(claim: Claim, shelf: _Shelf) -> str:
    """What running the missing runs of a claim would take."""
    lacking = [
        plan
        for measure in filter(None, (claim.ours, claim.against))
        for plan in shelf.plans(measure, claim.scale)
        if shelf.run(plan) is None
    ]
    needed = {each.identity.path: each for plan in lacking for each in plan.lineage if shelf.run(each) is None}
    missing = list(needed.values())
    hours = sum(plan.expected.seconds for plan in missing if plan.expected) / 3600
    known = [plan.expected for plan in missing if plan.expected]
    cost = f", about {hours:.2g} h on {known[0].machine}" if known else ", at a cost not measured yet"
    return f"needs {len(missing)} run(s) at scale {claim.scale}{cost}"


def _blank(paper: str, claim: Claim, verdict: Verdict, reason: str) -> Judged:
    published = claim.published
    return Judged(
        id=claim.id,
        paper=paper,
        statement=claim.statement,
        headline=claim.headline,
        kind=claim.kind,
        published=published.value if published else None,
        published_error=published.error if published else None,
        source=claim.source.where,
        provenance=claim.source.how,
        ours=None,
        interval=None,
        seeds={},
        n_seeds=0,
        unit=claim.unit,
        difference=None,
        verdict=verdict,
        reason=reason,
        scale=None,
    )


def judge(paper: str, claim: Claim, mine: _Found, other: _Found | None, scale: ScaleName) -> Judged:
    """The verdict on a claim, of numbers alone. Nothing else in the project gives one.

    `matched`, `better` and `missed` need the paper's conditions (no deviation that touches the claim) and at
    least three seeds, or as many as the paper had if that is fewer. Otherwise order, shape and identity claims
    are `reduced: holds` or `reduced: fails` and a value is `reduced: shown`, never matched.
    """
    values = list(mine.values.values())
    ours = float(np.mean(values))
    holds, difference, interval, reason = _measure(claim, values, list(other.values.values()) if other else [])
    if claim.kind == "order":
        ours = float(difference if difference is not None else ours)
    touching = sorted({*mine.deviations, *(other.deviations if other else ())})
    needed = min(3, claim.published.seeds if claim.published and claim.published.seeds else 3)
    if claim.kind == "order":
        needed = LEAST_FOR_A_TEST
    seeds = min(len(values), len(other.values) if other else len(values))
    verdict: Verdict
    if touching or seeds < needed:
        shown = claim.kind == "value" or (claim.kind == "order" and seeds < needed)
        verdict = "reduced: shown" if shown else "reduced: holds" if holds else "reduced: fails"
        limits = [*touching[:2], *([f"{len(touching) - 2} more deviations"] if len(touching) > 2 else [])]
        if seeds < needed:
            limits.append(f"{seeds} seed(s), {needed} are needed")
        reason = f"{reason}; other conditions: {'; '.join(limits)}"
    elif holds:
        verdict = "matched"
    else:
        ahead = difference is not None and (difference < 0) is (claim.better == "lower")
        verdict = "better" if claim.kind == "value" and claim.better != "neither" and ahead else "missed"
    if claim.kind == "order":
        difference = ours - claim.published.value if claim.published else None
    return dataclasses.replace(
        _blank(paper, claim, verdict, reason),
        ours=ours,
        interval=interval,
        seeds={str(seed): value for seed, value in mine.values.items()},
        n_seeds=seeds,
        difference=difference,
        scale=scale,
        runs=(*mine.runs, *(other.runs if other else ())),
    )


def _measure(
    claim: Claim, values: Sequence[float], against: Sequence[float]
) -> tuple[bool, float | None, tuple[float, float] | None, str]:
    """(holds, difference to the published value or gap, interval, reason in words)."""
    if claim.kind == "order":
        larger, smaller = (against, values) if claim.better == "lower" else (values, against)
        found = compare(larger, smaller)
        low = found.interval[0] if found.interval else found.difference
        holds = low > claim.margin and found.p_value <= ALPHA
        effect = f", {found.effect:.0f} pooled sd" if found.effect is not None else ""
        other = " ".join(f"{value:.4g}" for value in against)
        return (
            holds,
            found.difference,
            found.interval,
            (
                f"gap {found.difference:.4g}{effect}, permutation p = {found.p_value:.2g}; "
                f"the other side over its seeds: {other}{_size_of_gap(claim, found.interval)}"
            ),
        )
    interval = mean_interval(values)
    if claim.kind == "shape":
        assert claim.bound is not None
        met = [CONDITIONS[claim.bound.condition](value, claim.bound.value) for value in values]
        return (
            all(met),
            None,
            interval,
            (f"{sum(met)} of {len(met)} seeds {claim.bound.condition} {claim.bound.value:g} ({claim.bound.why})"),
        )
    assert claim.published is not None
    assert claim.tolerance is not None
    target, tolerance = claim.published.value, claim.tolerance
    difference = float(np.mean(values)) - target
    if claim.kind == "identity":
        allowed = tolerance.absolute if tolerance.absolute is not None else abs(target) * (tolerance.relative or 0)
        worst = max(abs(value - target) for value in values)
        return worst <= allowed, difference, interval, f"largest error {worst:.2g}, allowed {allowed:.2g}"
    if tolerance.spread and len(values) < 2:
        return False, difference, interval, "no spread known from one seed"
    if tolerance.spread:
        allowed = prediction_margin(values, claim.published.seeds or 1)
    elif tolerance.absolute is not None:
        allowed = tolerance.absolute
    else:
        allowed = abs(target) * (tolerance.relative or 0)
    return abs(difference) <= allowed, difference, interval, f"allowed ±{allowed:.2g}: {tolerance.why}"


def _size_of_gap(claim: Claim, interval: tuple[float, float] | None) -> str:
    """An order claim compares the order alone; says so where the published gap lies elsewhere."""
    if claim.published is None or interval is None or interval[0] <= claim.published.value <= interval[1]:
        return ""
    return "; the order is compared, not its size: the published gap lies outside of our interval"


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
