"""Which runs are there, and what the missing ones took where they were measured."""

from collections.abc import Iterator
from pathlib import Path

from common.room import spec
from common.room.plan import plan
from common.room.spec import SCALES, Expected
from common.run import record

__all__ = ["COLUMNS", "superfluous", "survey"]

COLUMNS = ("experiment", "scale", "done", "missing", "stale", "a run", "missing runs", "memory", "measured on")


def survey(paper: str) -> Iterator[list[str]]:
    """A row for each experiment of a paper at each scale it has.

    Stale are missing runs of which an earlier one, under another key, is there.
    """
    for name, experiment in spec.load(paper).experiments.items():
        for scale in (scale for scale in SCALES if scale in experiment.scales):
            runs = plan(paper, scale, name)
            missing = [run for run in runs if not record.is_done(run.folder, run.identity.key)]
            stale = sum(any(run.folder.parent.glob(f"{run.identity.seeds_name}-*/{record.DONE}")) for run in missing)
            counts = map(str, (len(runs) - len(missing), len(missing), stale))
            yield [name, scale, *counts, *_cost(experiment.scales[scale].expected, len(missing))]


def _cost(expected: Expected | None, missing: int) -> list[str]:
    """Time of a run and of the missing ones, memory, and the machine where it was measured."""
    if expected is None:
        return ["not measured", "", "", ""]
    total = _duration(missing * expected.seconds) if missing else "–"
    return [_duration(expected.seconds), total, f"{expected.memory / 1000:.1f} GB", expected.machine]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def superfluous(paper: str) -> list[Path]:
    """Folders of runs that no scale of the paper's present code and settings needs."""
    needed = {run.folder for scale in SCALES for run in plan(paper, scale)}
    present = {path.parent for path in (spec.root() / "runs" / paper).glob("*/*/*/config.json")}
    return sorted(present - needed)
