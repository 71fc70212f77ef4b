"""The runs on disk against those that are planned: what is there, what changed, what comes from elsewhere."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import data
from common.errors import RefigureError
from common.room import spec
from common.room.digest import Manifest
from common.room.identity import Identity
from common.room.plan import BY_HAND, PlannedRun, plan, plan_run, reach
from common.room.spec import SCALES, Expected, ScaleName
from common.run import record
from common.run.command import git
from common.run.record import FinishedRun

__all__ = ["COLUMNS", "explain_paper", "explain_run", "import_all", "superfluous", "survey", "untraceable"]

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
    """Folders of runs that no scale needs, and that nobody made by hand with the present code.

    Made by hand are runs with other settings (`--set`), seeds or threads than `paper.yaml` has.
    """
    needed = {run.folder for scale in SCALES for run in plan(paper, scale)}
    present = {path.parent for path in (_home() / paper).glob("*/*/*/config.json")}
    return sorted(folder for folder in present - needed if not _is_by_hand(folder))


def _is_by_hand(folder: Path) -> bool:
    try:
        identity, _ = record.read_identity(folder)
        if not _is_present(identity):
            return False
        if not (folder / record.DONE).is_file():
            return True
        provenance = record.read(folder).provenance
        if any(each["reason"] == BY_HAND for each in provenance["deviations"]):
            return True
        today = plan_run(
            identity.paper, identity.experiment, identity.variant, provenance["scale"], identity.seeds,
            threads=identity.threads,
        )  # fmt: skip
        return identity.key == today.identity.key
    except RefigureError:  # it is damaged, or nothing of its name is there any more
        return False


def _is_present(identity: Identity) -> bool:
    """Whether a run is of the present code, data and variants, and so is the one that it begins from."""
    experiments = spec.load(identity.paper).experiments
    if identity.variant not in spec.find(experiments, identity.experiment, "experiment", identity.paper).variants:
        return False
    today = reach(identity.paper, identity.experiment, identity.variant).digest == identity.code
    today &= all(data.identity(name.split(" as ")[0]) == checksums for name, checksums in identity.data.items())
    parent = _home() / identity.paper / identity.parent
    return today and (not identity.parent or _is_present(record.read_identity(parent)[0]))


def _home() -> Path:
    return spec.root() / "runs"


def explain_paper(paper: str, scale: ScaleName) -> Iterator[str]:
    """A line for every run of a scale: done, new, or what changed since the latest earlier run."""
    elsewhere = {run.folder for other in SCALES if other != scale for run in plan(paper, other)}
    for run in plan(paper, scale):
        identity, folder = run.identity, run.folder
        earlier = {path.parent for path in folder.parent.glob("*/config.json")} - elsewhere
        if record.is_done(folder, identity.key):
            yield f"{identity}: done, nothing changed"
        elif (folder / "config.json").is_file():
            yield f"{identity}: begun, goes on from its last checkpoint"
        elif not earlier:
            yield f"{identity}: never run here"
        else:
            same_seeds = f"{identity.seeds_name}-"
            latest = max(earlier, key=lambda path: (path.name.startswith(same_seeds), path.stat().st_mtime))
            yield f"{identity}: runs again; against {latest.name}:"
            yield from _changes(latest, run)


def explain_run(target: str, scale: ScaleName) -> Iterator[str]:
    """What separates a run on disk from the one that its variant needs now.

    Raises:
        RefigureError: No such run, or its variant is no longer there.
    """
    folder = Path(target) if (Path(target) / "config.json").is_file() else _home() / target
    if not (folder / "config.json").is_file():
        raise RefigureError(f"{folder}: no run here (no config.json); refigure status <paper> lists them")
    identity, _ = record.read_identity(folder)
    if needed_at := _scale_of(identity):
        yield f"{identity.group}/{folder.name}: current at scale {needed_at}"
        return
    today = plan_run(identity.paper, identity.experiment, identity.variant, scale, identity.seeds)
    if identity.key == today.identity.key:
        yield f"{folder.name}: current, with seeds that no scale asks for"
    else:
        yield f"{folder.name}: superseded at scale {scale} by {today.identity.path.name}:"
        yield from _changes(folder, today)


def _scale_of(identity: Identity) -> ScaleName | None:
    """The first scale that needs a run."""
    for scale in SCALES:
        if identity.key in {run.identity.key for run in plan(identity.paper, scale, identity.experiment)}:
            return scale
    return None


def _changes(folder: Path, today: PlannedRun, indent: str = "  ") -> Iterator[str]:
    """What differs between a run on disk and a planned one; below it, between the runs that the two begin from."""
    identity, manifest = record.read_identity(folder)
    old, new = _inputs(identity, manifest), _inputs(today.identity, today.manifest)
    for name in (name for name in {**new, **old} if old.get(name) != new.get(name)):
        if not name.startswith(("data", "code")):
            yield f"{indent}{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        elif name in old and name in new:
            yield f"{indent}{name} changed"
        else:
            used = "read" if name.startswith("data") else "reached"
            yield f"{indent}{name} is {'now' if name in new else 'no longer'} {used}"
    parent = _home() / identity.paper / identity.parent
    if today.parent and parent != today.parent.folder and (parent / "config.json").is_file():
        yield from _changes(parent, today.parent, indent + "  ")


def _inputs(identity: Identity, manifest: Manifest) -> dict[str, Any]:
    """Everything that decides a key, each input by its name."""
    definitions = {f"code {file}: {name}": text for file, names in manifest.items() for name, text in names.items()}
    return {
        **{f"config {name}": value for name, value in sorted(identity.config.items())},
        "seeds": list(identity.seeds),
        "threads": identity.threads,
        "parent": identity.parent or "nothing",
        **{f"data {name}": checksums for name, checksums in sorted(identity.data.items())},
        **dict(sorted(definitions.items())),
    }


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
        files = [path for name in (record.DONE, "config.json") for path in folder.rglob(name)]
        inside = sorted({path.parent for path in files if not re.search(r"/\.", f"/{path.relative_to(folder)}")})
        if not inside:
            raise RefigureError(f"{folder}: no run in it (a run has config.json and {record.DONE})")
        runs += map(record.read, inside)
    for run in runs:
        run.verify()
        _ = run.arrays if "arrays.npz" in run.checksums else None  # which must unpack, too
    for run in runs:
        yield _file(run, replace)


def _file(run: FinishedRun, replace: bool) -> str:
    name, target = str(run.identity), _home() / run.identity.path
    result = (run.folder / record.DONE).read_bytes()
    if target.resolve() == run.folder.resolve():
        return f"{name}: lies there already"
    if (target / record.DONE).is_file():
        if (target / record.DONE).read_bytes() == result:
            return f"{name}: there already, the same"
        if not replace:
            raise RefigureError(f"{name} is there with another result: --replace takes the new one")
    scale = _scale_of(run.identity)
    with record.filing(run, target):
        pass  # as it is
    if scale is None:
        return f"{name}: imported; no scale needs it now (refigure explain {name} says what differs)"
    return f"{name}: imported, used at scale {scale}"


def untraceable(paper: str) -> Iterator[str]:
    """A line for each finished run that was neither made nor last replayed by a committed revision."""
    spec.load(paper)  # says which papers there are
    for path in sorted((_home() / paper).glob(f"*/*/*/{record.DONE}")):
        provenance = record.read(path.parent).provenance
        origins = [provenance, *provenance.get("carried", [])[-1:]]
        faults = [_fault(origin.get("revision") or {}) for origin in origins]
        if all(faults):
            yield f"{path.parent.relative_to(_home())}: {faults[-1]}; train it again, or refigure carry {paper}"


def _fault(revision: Mapping[str, Any]) -> str:
    commit = str(revision.get("git", "of no checkout"))
    if git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        return f"revision {commit[:14]} is unknown to git"
    return f"revision {commit[:14]} with changes that were not committed" if revision["dirty"] else ""
