"""Which input of a run's key changed."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from common.errors import RefigureError
from common.room import spec
from common.room.digest import Manifest
from common.room.identity import Identity
from common.room.plan import PlannedRun, plan, plan_run
from common.room.spec import SCALES, ScaleName
from common.run import record

__all__ = ["explain_paper", "explain_run"]


def explain_paper(paper: str, scale: ScaleName) -> Iterator[str]:
    """A line for every run of a scale: done, new, or what changed since the latest earlier run."""
    elsewhere = {run.identity.path for other in SCALES if other != scale for run in plan(paper, other)}
    for run in plan(paper, scale):
        yield from _explain(run, elsewhere)


def explain_run(target: str, scale: ScaleName) -> Iterator[str]:
    """What separates a run on disk from the one that its variant needs now.

    Raises:
        RefigureError: No such run, or its variant is no longer there.
    """
    folder = Path(target) if (Path(target) / "config.json").is_file() else _home() / target
    if not (folder / "config.json").is_file():
        raise RefigureError(f"{folder}: no run here (no config.json); refigure status <paper> lists them")
    identity, _ = record.read_identity(folder)
    key = identity.key
    for name in SCALES:
        if key in {run.identity.key for run in plan(identity.paper, name)}:
            yield f"{identity.group}/{folder.name}: current at scale {name}"
            return
    today = plan_run(identity.paper, identity.experiment, identity.variant, scale, identity.seeds)
    if key == today.identity.key:
        yield f"{folder.name}: current, with seeds that no scale asks for"
        return
    yield f"{folder.name}: superseded at scale {scale} by {today.identity.path.name}:"
    yield from _changes(folder, today)


def _home() -> Path:
    return spec.root() / "runs"


def _explain(run: PlannedRun, elsewhere: Collection[Path]) -> Iterator[str]:
    """Runs of another scale, which lie `elsewhere`, are no earlier versions."""
    identity, folder = run.identity, run.folder
    earlier = [path.parent for path in folder.parent.glob("*/config.json")]
    earlier = [path for path in earlier if path.relative_to(_home()) not in elsewhere]
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
