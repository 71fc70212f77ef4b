"""Which input of a run's key changed."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import RefigureError
from common.room import spec
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
    identity, key = record.read_record(folder)
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
    identity, folder = run.identity, _home() / run.identity.path
    if record.is_done(folder, identity.key):
        yield f"{identity}: done, nothing changed"
    elif (folder / "config.json").is_file():
        yield f"{identity}: begun, goes on from its last checkpoint"
    elif earlier := [  # a run of another scale is no earlier version
        path for path in folder.parent.glob("*/config.json") if path.parent.relative_to(_home()) not in elsewhere
    ]:
        seeds = f"{identity.seeds_name}-"
        latest = max(earlier, key=lambda path: (path.parent.name.startswith(seeds), path.stat().st_mtime)).parent
        yield f"{identity}: runs again; against {latest.name}:"
        yield from _changes(latest, run)
    else:
        yield f"{identity}: never run here"


def _changes(folder: Path, today: PlannedRun, indent: str = "  ") -> Iterator[str]:
    """What differs between a run on disk and a planned one; below it, between the runs that the two begin from."""
    old, _ = record.read_record(folder)
    recorded = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    yield from (f"{indent}{line}" for line in _differences(old, today.identity))
    if "threads" in recorded:
        yield from (f"{indent}code {line}" for line in _edits(recorded.get("manifest", {}), today.manifest))
    else:
        yield f"{indent}code: recorded by an earlier scheme of keys; refigure carry {old.paper} compares the numbers"
    parent = _home() / old.paper / old.parent
    if today.parent and parent != _home() / today.parent.identity.path and (parent / "config.json").is_file():
        yield from _changes(parent, today.parent, indent + "  ")


def _differences(old: Identity, new: Identity) -> Iterator[str]:
    """What differs between the inputs of two keys, code apart, in words."""
    for key in sorted({*old.config, *new.config}):
        before, after = old.config.get(key, "absent"), new.config.get(key, "absent")
        if before != after:
            yield f"config {key}: {before} -> {after}"
    for name, before, after in (
        ("seeds", [*old.seeds], [*new.seeds]),
        ("threads", old.threads, new.threads),
        ("parent", old.parent or "nothing", new.parent or "nothing"),
    ):
        if before != after:
            yield f"{name}: {before} -> {after}"
    for name in _changed(old.data, new.data):
        yield f"data {name} {_state(old.data, new.data, name)}"


def _edits(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What differs between the definitions that two runs reach."""
    for file in _changed(old, new):
        if file not in old or file not in new:
            yield f"{file}: {'now reached' if file in new else 'no longer reached'}"
            continue
        for name in _changed(old[file], new[file]):
            yield f"{file}: {name} {_state(old[file], new[file], name)}"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def _state(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> str:
    return "changed" if name in old and name in new else "is now reached" if name in new else "is no longer reached"
