"""Which input of a run's key changed."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import RefigureError
from common.room import spec
from common.room.spec import SCALES, PlannedRun, ScaleName
from common.run import record as runs

__all__ = ["differences", "explain_paper", "explain_run"]


def explain_paper(paper: str, scale: ScaleName) -> Iterator[str]:
    """A line for every run of a scale: done, new, or what changed since the latest earlier run."""
    folder = spec.root() / "runs"
    current = {plan.identity.path for other in SCALES if other != scale for plan in spec.plan(paper, other)}
    for plan in spec.plan(paper, scale):
        yield from _explain(plan, folder, current)


def explain_run(target: str, scale: ScaleName) -> Iterator[str]:
    """What separates a run on disk from the one that its variant needs now.

    Raises:
        RefigureError: No such run, or its variant is no longer there.
    """
    folder = spec.root() / "runs"
    path = Path(target)
    path = path if (path / "config.json").is_file() else folder / target
    record = _record(path)
    seeds = tuple(record["seeds"])
    for other in SCALES:
        if record["key"] in {plan.identity.key for plan in spec.plan(record["paper"], other)}:
            yield f"{record['paper']}/{record['experiment']}/{record['variant']}/{path.name}: current at scale {other}"
            return
    plan = spec.plan_run(record["paper"], record["experiment"], record["variant"], scale, seeds)
    if record["key"] == plan.identity.key:
        yield f"{path.name}: current, with seeds that no scale asks for"
        return
    yield f"{path.name}: superseded at scale {scale} by {plan.identity.seeds_name}-{plan.identity.key}:"
    yield from (f"  {line}" for line in _changes(record, plan, folder))


def _explain(plan: PlannedRun, folder: Path, current: Collection[Path]) -> Iterator[str]:
    identity = plan.identity
    if runs.is_done(folder / identity.path, identity.key):
        yield f"{identity}: done, nothing changed"
        return
    if (folder / identity.path / "config.json").is_file():
        yield f"{identity}: begun, goes on from its last checkpoint"
        return
    earlier = sorted(
        (
            path
            for path in (folder / identity.group).glob("*/config.json")
            if path.parent.relative_to(folder) not in current
        ),  # a run of another scale is no earlier version
        key=lambda path: (path.parent.name.startswith(f"{identity.seeds_name}-"), path.stat().st_mtime),
    )
    if not earlier:
        yield f"{identity}: never run here"
        return
    yield f"{identity}: runs again; against {earlier[-1].parent.name}:"
    yield from (f"  {line}" for line in _changes(_record(earlier[-1].parent), plan, folder))


def _changes(old: Mapping[str, Any], plan: PlannedRun, folder: Path) -> Iterator[str]:
    """`differences` of a recorded run and a planned one; below them, those of the runs that the two need."""
    yield from differences(old, {**plan.identity.inputs, "manifest": plan.manifest})
    before = folder / old["paper"] / old["needs"]
    if plan.needs and before != folder / plan.needs.identity.path and (before / "config.json").is_file():
        yield from (f"  {line}" for line in _changes(_record(before), plan.needs, folder))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What differs between the recorded inputs of two keys, in words."""
    for key in sorted({*old["config"], *new["config"]}):
        before, after = old["config"].get(key, "absent"), new["config"].get(key, "absent")
        if before != after:
            yield f"config {key}: {before} -> {after}"
    if list(old["seeds"]) != list(new["seeds"]):
        yield f"seeds: {old['seeds']} -> {new['seeds']}"
    needed, needs = old.get("needs") or "nothing", new.get("needs") or "nothing"
    if needed != needs:
        yield f"needs: {needed} -> {needs}"
    for name in sorted({*old["data"], *new["data"]}):
        if old["data"].get(name) != new["data"].get(name):
            yield f"data {name}: {_state(old['data'], new['data'], name)}"
    for file in sorted({*old["manifest"], *new["manifest"]}):
        before, after = old["manifest"].get(file), new["manifest"].get(file)
        if before is None or after is None:
            yield f"code {file}: {'now imported' if before is None else 'no longer imported'}"
            continue
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                yield f"code {file}: {name} {_state(before, after, name)}"


def _state(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    return "is new" if name not in before else "is gone" if name not in after else "changed"


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        record: dict[str, Any] = {"needs": "", **json.loads(path.read_text(encoding="utf-8"))}
        kinds = {"paper": str, "experiment": str, "variant": str, "key": str, "needs": str, "config": dict}
        for name, kind in {**kinds, "seeds": list, "data": dict, "manifest": dict}.items():
            if not isinstance(record[name], kind):
                raise TypeError(f"{name} is {record[name]!r}")
        return record
    except FileNotFoundError:
        raise RefigureError(f"{folder}: no run here (no config.json); refigure status <paper> lists them") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefigureError(f"{path} cannot be read ({error}): delete the run's folder") from None
