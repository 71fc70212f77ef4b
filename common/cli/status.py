"""Which runs are there, and what the missing ones would cost here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.room import spec
from common.room.spec import SCALES, PlannedRun, ScaleName
from common.run import record as runs

__all__ = ["Line", "estimate", "superfluous", "survey"]


@dataclass(frozen=True)
class Line:
    """One experiment at one scale."""

    experiment: str
    scale: ScaleName
    done: int
    missing: Sequence[PlannedRun]
    stale: int
    """Missing runs of which an earlier one, under another key, is there."""


def survey(paper: str) -> Iterator[Line]:
    """Every experiment of a paper at every scale it has."""
    folder = spec.root() / "runs"
    for name, experiment in spec.load(paper).experiments.items():
        for scale in SCALES:
            if scale not in experiment.scales:
                continue
            plans = spec.plan(paper, scale, name)
            missing = [p for p in plans if not runs.is_done(folder / p.identity.path, p.identity.key)]
            stale = [
                p for p in missing if any((folder / p.identity.group).glob(f"{p.identity.seeds_name}-*/{runs.DONE}"))
            ]
            yield Line(name, scale, len(plans) - len(missing), missing, len(stale))


def estimate(missing: Sequence[PlannedRun]) -> tuple[str, str]:
    """Time that runs would take on this machine, and the memory of as many as run at once; in words."""
    from common.run.device import calibrate, cores

    if not missing:
        return "–", "–"
    costs = [plan.expected for plan in missing]
    if any(cost is None for cost in costs):
        return "not measured", "not measured"
    at_once = max(1, min(len(missing), cores() // max(plan.threads for plan in missing)))
    speed = calibrate()
    seconds = sum(cost.seconds * cost.gflops / speed for cost in costs if cost) / at_once
    memory = max(cost.memory for cost in costs if cost) * at_once
    return _duration(seconds), f"{memory / 1000:.1f} GB"


def superfluous(paper: str) -> list[Path]:
    """Folders of runs that no scale of the paper's present code and settings needs."""
    folder = spec.root() / "runs"
    needed = {folder / plan.identity.path for scale in SCALES for plan in spec.plan(paper, scale)}
    there = {path.parent for path in (folder / paper).glob("*/*/*/config.json")}
    return sorted(there - needed)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
