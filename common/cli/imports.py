"""Runs made elsewhere, brought home: verified against identity and digest, filed under `runs/`."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import RefigureError
from common.room import spec
from common.run import record as runs

__all__ = ["import_all"]


def import_all(folders: Sequence[Path], *, replace: bool = False) -> Iterator[str]:
    """File every run found in `folders`; a line for each.

    All of them are verified before the first is filed.

    Raises:
        RefigureError: A folder without runs, a damaged or unfinished run, another result already there.
    """
    found: list[runs.FinishedRun] = []
    for folder in folders:
        if not folder.is_dir():
            raise RefigureError(f"{folder}: no such folder")
        inside = sorted({path.parent for name in (runs.DONE, "config.json") for path in folder.rglob(name)})
        if not inside:
            raise RefigureError(f"{folder}: no run in it (a run has config.json and {runs.DONE})")
        found += [runs.read(path, verify=True) for path in inside]
    for run in found:
        yield _file(run, replace)


def _file(run: runs.FinishedRun, replace: bool) -> str:
    home = spec.root() / "runs"
    target = home / run.identity.path
    if target.resolve() == run.folder.resolve():
        return f"{run.identity}: lies there already"
    if (target / runs.DONE).is_file():
        if (target / runs.DONE).read_bytes() == (run.folder / runs.DONE).read_bytes():
            return f"{run.identity}: there already, the same"
        if not replace:
            raise RefigureError(f"{run.identity} is there with another result: --replace takes the new one")
    fit = _fit(run)
    with runs.holding(target):
        part, aside = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("part", "old.part"))
        try:
            for name in run.files:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.folder / name, part / name)
            os.replace(target, aside)  # nothing is deleted before the new one is in place
            os.replace(part, target)
        finally:
            if not target.exists() and aside.exists():
                os.replace(aside, target)
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(aside, ignore_errors=True)
    return f"{run.identity}: imported{fit}"


def _fit(run: runs.FinishedRun) -> str:
    """A remark when the present code would give the run another key."""
    identity = run.identity
    for scale in spec.SCALES:
        for plan in spec.plan(identity.paper, scale, identity.experiment):
            if plan.identity.path == identity.path:
                return f", used at scale {scale}"
    return f"; no scale needs it now (refigure explain {identity} says what differs)"
