"""The runs that speak for a paper's claims, and what they say."""

import dataclasses
import itertools
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np

from common.errors import RefigureError, suggest
from common.room import claims
from common.room.claims import Claim, Evaluations, Measure
from common.room.plan import PlannedRun, plan
from common.room.spec import SCALES, ScaleName
from common.run import record
from common.run.record import FinishedRun
from common.verdict.judge import Evidence, Judged, judge, not_run, with_q_values

__all__ = ["evaluate"]


def evaluate(paper: str, only: Collection[Path] | None = None) -> list[Judged]:
    """Every claim of a paper, judged.

    Arguments:
        only: The runs that may be read, relative to `runs/`; all when left out.
    """
    runs = _Runs(paper, only)
    return with_q_values([_evaluate(paper, claim, runs) for claim in claims.load(paper)])


def _evaluate(paper: str, claim: Claim, runs: "_Runs") -> Judged:
    if claim.ours is None:
        return not_run(paper, claim, f"needs {claim.needs}")
    whole = None
    smaller = [] if claim.needs else [scale for scale in reversed(SCALES) if scale != claim.scale]
    for scale in (claim.scale, *smaller):
        if whole := runs.sides(claim, scale):
            break
    begun = runs.sides(claim, claim.scale, whole=False)
    if whole and begun and min(len(side.draws) for side in begun) >= min(len(side.draws) for side in whole):
        whole, scale = begun, claim.scale  # a smaller scale that has no more seeds says less
    if whole:
        return judge(paper, claim, whole[0], whole[1] if len(whole) > 1 else None, scale)
    present = runs.values(claim.ours, claim.scale)
    there = f"; there is {' '.join(f'{value:.4g}' for value in present.values())}" if present else ""
    seeds = {str(seed): value for seed, value in present.items()}
    return dataclasses.replace(
        not_run(paper, claim, (f"needs {claim.needs}" if claim.needs else _cost(claim, runs)) + there),
        seeds=seeds,
        n=Evidence(present, ()).n if present else "",
    )


def _cost(claim: Claim, runs: "_Runs") -> str:
    """What training the missing runs of a claim would take."""
    planned = [run for measure in claim.measures for run in runs.planned(measure, claim.scale)]
    lines = [run.lineage for run in planned if runs.finished(run) is None]
    missing = {run.folder: run for line in lines for run in line if runs.finished(run) is None}
    known = [run.expected for run in missing.values() if run.expected]
    hours = sum(expected.seconds for expected in known) / 3600
    cost = f"about {hours:.2g} h on {known[0].machine}" if known else "at a cost not measured yet"
    return f"needs {len(missing)} run(s) at scale {claim.scale}, {cost}"


class _Runs:
    """The planned runs of a paper, each scale planned once, and those of them that are done, each read once."""

    def __init__(self, paper: str, only: Collection[Path] | None) -> None:
        self._paper = paper
        self._only = only
        self._planned: dict[ScaleName, list[PlannedRun]] = {}
        self._finished: dict[Path, FinishedRun | None] = {}

    def planned(self, measure: Measure, scale: ScaleName) -> list[PlannedRun]:
        """The runs of a measure at a scale."""
        if scale not in self._planned:
            self._planned[scale] = plan(self._paper, scale)
        variant = (measure.experiment, measure.variant)
        return [run for run in self._planned[scale] if (run.identity.experiment, run.identity.variant) == variant]

    def finished(self, planned: PlannedRun) -> FinishedRun | None:
        """A planned run, if it is done and may be read."""
        path = planned.identity.path
        if self._only is not None and path not in self._only:
            return None
        if path not in self._finished:
            is_there = (planned.folder / record.DONE).is_file()
            self._finished[path] = run = record.read(planned.folder) if is_there else None
            if run is not None:
                run.verify()
        return self._finished[path]

    def values(self, measure: Measure, scale: ScaleName) -> dict[int, float]:
        """Seed to value of those runs of a measure that are there."""
        runs = [run for planned in self.planned(measure, scale) if (run := self.finished(planned))]
        pairs = (zip(run.seeds, run.metrics.get(measure.metric, ()), strict=False) for run in runs)
        return dict(itertools.chain.from_iterable(pairs))

    def sides(self, claim: Claim, scale: ScaleName, *, whole: bool = True) -> list[Evidence] | None:
        """What the runs of a scale say of each measure of a claim; None where one has none.

        Arguments:
            whole: Whether all seeds of the scale are needed.
        """
        sides = [self.evidence(claim, measure, scale, whole) for measure in claim.measures]
        return None if None in sides else [side for side in sides if side]

    def evidence(self, claim: Claim, measure: Measure, scale: ScaleName, whole: bool) -> Evidence | None:
        """What the runs of a scale say of a measure; None where a run, or with `whole` any of them, is missing."""
        planned = self.planned(measure, scale)
        done = [run for each in planned if (run := self.finished(each)) is not None]
        if not done or (whole and len(done) < len(planned)):
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
        deviations = {deviation for run in planned for deviation in run.deviations}
        touching = {each.what for each in deviations if {"all", claim.id} & {*each.touches}}
        carried = any(run.provenance.get("carried") for run in done)
        plain = Evidence(values, tuple(str(run.identity) for run in done), tuple(sorted(touching)), carried)
        return _with_evaluations(plain, measure, done, f"papers/{self._paper}/claims.yaml: {claim.id}")


def _with_evaluations(plain: Evidence, measure: Measure, runs: list[FinishedRun], where: str) -> Evidence:
    """The evidence with the evaluations that each seed's value is the mean of.

    Raises:
        RefigureError: The runs lack them though they are to be pooled, or have others than the metric is the mean of.
    """
    if (evaluations := measure.evaluations) is None:
        return plain
    kept = [_kept(evaluations, measure.metric, run, where) for run in runs]
    there = [values for values in kept if values is not None]
    if evaluations.pooled:
        if len(there) < len(runs):
            raise RefigureError(f"{where}: a run of {measure.variant} keeps no {evaluations.of} for {measure.metric}")
        pooled = [float(value) for values in there for value in values.reshape(-1)]
        return dataclasses.replace(plain, pooled=pooled, of=evaluations.of)
    if all(evaluations.place(measure.metric, run.identity.config) is None for run in runs):
        return plain
    if len(there) < len(runs):
        return dataclasses.replace(plain, within=f"each seed is a mean of {evaluations.of}, whose spread is not kept")
    counts = sorted({values.shape[1] for values in there})
    within = f"each seed is a mean of {' or '.join(map(str, counts))} {evaluations.of}"
    if counts[0] > 1:
        within += f", deviation {math.sqrt(np.mean([values.var(1, ddof=1).mean() for values in there])):.2g}"
    return dataclasses.replace(plain, within=within)


def _kept(evaluations: Evaluations, metric: str, run: FinishedRun, where: str) -> np.ndarray | None:
    """The evaluations that a run keeps of a metric, (seeds, evaluations); None where it keeps none.

    Raises:
        RefigureError: The metric is not their mean.
    """
    place = evaluations.place(metric, run.identity.config)
    if place is None or "arrays.npz" not in run.checksums or place[0] not in run.arrays:
        return None
    values = run.arrays[place[0]]
    if values.ndim != 3 or not 0 <= place[1] < values.shape[2]:
        raise RefigureError(f"{where}: {metric} has no place in array {place[0]} of {run.identity}: {values.shape}")
    values = values[..., place[1]]
    if not np.allclose(values.mean(1), run.metrics[metric], rtol=1e-4, atol=1e-6):
        raise RefigureError(f"{where}: {metric} of {run.identity} is not the mean of its {evaluations.of}")
    return values
