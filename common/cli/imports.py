"""Runs made elsewhere, brought home: verified against identity and digest, filed under `runs/`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from common import atomic
from common.errors import RefigureError
from common.room import spec
from common.room.plan import plan
from common.run import record
from common.run.record import FinishedRun

__all__ = ["import_all"]


def import_all(folders: Sequence[Path], *, replace: bool = False) -> Iterator[str]:
    """File every run that is in `folders`; a line for each.

    All of them are verified before the first is filed.

    Raises:
        RefigureError: A folder without runs, a damaged or unfinished run, another result already there.
    """
    runs: list[FinishedRun] = []
    for folder in folders:
        if not folder.is_dir():
            raise RefigureError(f"{folder}: no such folder")
        inside = sorted({path.parent for name in (record.DONE, "config.json") for path in folder.rglob(name)})
        if not inside:
            raise RefigureError(f"{folder}: no run in it (a run has config.json and {record.DONE})")
        runs += map(record.read, inside)
    for run in runs:
        run.verify()
    for run in runs:
        yield _file(run, replace)


def _file(run: FinishedRun, replace: bool) -> str:
    name = f"{run.identity.group}/{run.identity.seeds_name}-{run.key}"
    target = spec.root() / "runs" / name
    if target.resolve() == run.folder.resolve():
        return f"{name}: lies there already"
    if (target / record.DONE).is_file():
        if (target / record.DONE).read_bytes() == (run.folder / record.DONE).read_bytes():
            return f"{name}: there already, the same"
        if not replace:
            raise RefigureError(f"{name} is there with another result: --replace takes the new one")
    use = _use(run, name)
    with record.replaced(run, target):
        atomic.write_bytes(target / record.DONE, (run.folder / record.DONE).read_bytes())
    return f"{name}: imported{use}"


def _use(run: FinishedRun, name: str) -> str:
    """A remark that says which scale needs the run."""
    for scale in spec.SCALES:
        if run.key in {planned.identity.key for planned in plan(run.identity.paper, scale, run.identity.experiment)}:
            return f", used at scale {scale}"
    return f"; no scale needs it now (refigure explain {name} says what differs)"
