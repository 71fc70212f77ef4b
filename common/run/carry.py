"""`refigure carry`: finished runs whose key moved by code alone, filed under today's key after a replay.

Code may change its meaning to the parser and not its numbers, as a rewrite for readability does. A replay trains the
opening of a run again with today's code, at the run's own settings, and compares every number that was logged, with
the digests of the state where the run recorded them; a run without a metrics stream is trained and compared whole, and
so must be one of which a changed definition is not executed in the opening.
Equal to the last bit: the run is filed under today's key, and its provenance says what was replayed. Nothing is filed
without a replay of its variant; other seeds of the variant, trained by the same code, are declared as its siblings.
"""

import ast
import concurrent.futures
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from common import atomic, data
from common.errors import RefigureError
from common.room import spec
from common.room.config import to_dict
from common.room.plan import PlannedRun, plan
from common.room.spec import SCALES
from common.run import checkpoint, record
from common.run.command import finished_parent, revision, trained
from common.run.record import FINAL, FinishedRun, read
from common.run.runtime import describe

__all__ = ["Move", "carry", "moves", "replay"]

SUMMARY = "replay.json"


@dataclass(frozen=True)
class Move:
    """A finished run and where it belongs today."""

    plan: PlannedRun
    run: FinishedRun


def moves(paper: str, experiment: str | None = None) -> Iterator[Move]:
    """The planned runs of all scales that are not done, of which a run is there that differs by its code alone."""
    folder = spec.root() / "runs"
    planned: dict[Path, PlannedRun] = {}
    for scale in reversed(SCALES):  # a run that two scales share is carried as the smaller one says
        planned |= {each.identity.path: each for each in plan(paper, scale, experiment)}
    for path, today in planned.items():
        if record.is_done(folder / path, today.identity.key):
            continue
        pattern = f"{today.identity.seeds_name}-*/{record.DONE}"
        found = sorted((folder / today.identity.group).glob(pattern), key=lambda file: file.stat().st_mtime)
        for file in reversed(found):
            run = read(file.parent)
            if _differs_by_code_alone(run, today):
                yield Move(today, run)
                break


def _differs_by_code_alone(run: FinishedRun, today: PlannedRun) -> bool:
    """Whether a run has today's settings, seeds, data and threads, and a parent of today's variant and settings.

    Data that an earlier scheme named by its files counts as the same when the registry knows the checksums.
    """
    old, new = run.identity, today.identity
    if to_dict(old.config) != to_dict(new.config) or old.seeds != new.seeds or old.threads != new.threads:
        return False
    if old.data.keys() != new.data.keys():
        return False
    for name, checksums in old.data.items():
        if checksums != new.data[name] and not set(checksums.values()) <= data.known_checksums(name):
            return False
    if today.parent is None:
        return not old.parent
    return old.parent.split("/")[:2] == [today.parent.identity.experiment, today.parent.identity.variant]


def carry(paper: str, experiment: str | None = None, *, jobs: int = 1, every_seed: bool = False) -> Iterator[str]:
    """Replay and file what can be; a line for each run.

    Arguments:
        jobs: Replays at once.
        every_seed: Replay each run instead of one a variant.
    """
    refused: set[Path] = set()
    for name in [experiment] if experiment else list(spec.load(paper).experiments):
        pending = [move for move in moves(paper, name) if move.run.folder not in refused]
        groups: dict[Any, list[Move]] = {}
        for move in pending:
            identity = move.run.identity
            seed = identity.seeds if every_seed else ()
            groups.setdefault((identity.variant, move.plan.scale, identity.code, seed), []).append(move)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            replays = {pool.submit(_replay_apart, group[0]): group for group in groups.values()}
            for future in concurrent.futures.as_completed(replays):
                first, *siblings = replays[future]
                result = future.result()
                if "fault" in result:
                    refused |= {move.run.folder for move in replays[future]}
                    yield f"{first.run.identity.group}/{first.run.folder.name}: not carried: {result['fault']}"
                    for move in siblings:
                        yield f"{move.run.identity.group}/{move.run.folder.name}: not carried: nor is its sibling"
                    continue
                for move in replays[future]:
                    entry = result if move is first else {**result, "sibling": first.run.folder.name}
                    yield _file(move, entry)


def _replay_apart(move: Move) -> dict[str, Any]:
    """The result of a replay in a process of its own: what was compared, or the fault.

    A result lies in the old run's folder until the run is filed, so that an interrupted command goes on.
    """
    identity, result = move.plan.identity, move.run.folder / SUMMARY
    if result.exists() and json.loads(result.read_text()).get("key") == identity.key:
        return _without(json.loads(result.read_text()), "key")
    words = [
        sys.executable, "-m", f"papers.{identity.paper}", "--experiment", identity.experiment, "--variant",
        identity.variant, "--scale", move.plan.scale, "--seeds", ",".join(map(str, identity.seeds)),
        "--replay", os.fspath(move.run.folder), "--quiet",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.fspath(spec.root())}
    done = subprocess.run(words, cwd=spec.root(), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        last = (lines or done.stderr.splitlines() or ["it ended without a word"])[-1]
        return {"fault": last.removeprefix("error: ")}
    return _without(json.loads(result.read_text()), "key")


def _without(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


class _Parted(Exception):
    """Ends a replay that has seen enough."""


class _Replay:
    """A recorder that compares what is logged with what a run logged."""

    def __init__(self, run: FinishedRun, lines: int) -> None:
        stream = run.history() if record.STREAM in run.checksums else []
        self.expected = stream[:lines] if lines else stream
        self.whole = not lines or len(stream) <= lines
        self.total = stream[-1]["step"] if stream else 0
        self.compared = 0
        self.states = 0
        self.step = 0

    def log(self, step: int, metrics: Mapping[str, float | list[float]], state: str = "") -> None:
        if self.compared == len(self.expected):
            if self.expected:
                raise RefigureError(f"it parts at step {step}: the run logged nothing there")
            return  # a run from before its experiment logged anything
        line = self.expected[self.compared]
        present = {"step": step, **metrics, "state": state}
        for name, value in line.items():
            if present.get(name) != value:
                raise RefigureError(
                    f"it parts at step {step}: {name} was {value}, is {present.get(name, 'not logged')}"
                )
        self.compared += 1
        self.states += "state" in line
        self.step = step
        if self.compared == len(self.expected) and not self.whole:
            raise _Parted

    def save(self, step: int, state: Mapping[str, np.ndarray]) -> None:
        """Nothing is kept of a replay."""

    def restore(self) -> None:
        """It begins at the beginning."""

    def progress(self, step: int, total: int) -> None:
        """Nobody waits for it."""

    def due(self) -> bool:
        """No checkpoint is."""
        return False


def replay(today: PlannedRun, folder: Path) -> None:
    """Train a run's opening again, compare, and write what was compared to a file in the run's folder.

    Raises:
        RefigureError: Something differs; the message says where the two part.
    """
    run = read(folder)
    run.verify()
    size = spec.load(today.identity.paper).experiments[today.identity.experiment]
    recorder = _Replay(run, size.scales[today.scale].replay)
    started = time.monotonic()
    whole = True
    executed: set[CodeType] = set()
    parent = finished_parent(today)
    sys.setprofile(lambda frame, event, _: executed.add(frame.f_code) if event == "call" else None)
    try:
        outcome, _ = trained(today, recorder, parent)
    except _Parted:
        whole = False
    finally:
        sys.setprofile(None)
    if whole and recorder.compared < len(recorder.expected):
        raise RefigureError(f"it parts after step {recorder.step}: the run logged more")
    if whole:
        _compare_ends(run, outcome, size.clocked)
    elif unseen := _not_executed(_changed(run, today), executed):
        raise RefigureError(
            f"{', '.join(unseen[:3])} changed, and the {recorder.compared} lines that are replayed do not execute it: "
            f"set replay: 0 (all of a run) at scale {today.scale} of {today.identity.experiment} in "
            f"papers/{today.identity.paper}/paper.yaml, or train it again"
        )
    result = {
        "from": f"{run.identity.group}/{run.folder.name}",
        "lines": recorder.compared,
        "states": recorder.states,
        "steps": recorder.step,
        "of": recorder.total,
        "whole": whole,
        "seconds": round(time.monotonic() - started, 1),
        "revision": revision(),
        "machine": describe(),
        "key": today.identity.key,
    }
    atomic.write_json(folder / SUMMARY, result)


def _changed(run: FinishedRun, today: PlannedRun) -> list[tuple[str, str]]:
    """File and name of each definition that a run's code reached with another meaning, or not at all."""
    return [
        (file, name)
        for file, definitions in today.manifest.items()
        for name, digest in definitions.items()
        if run.manifest.get(file, {}).get(name) != digest
    ]


def _not_executed(changed: Sequence[tuple[str, str]], executed: Collection[CodeType]) -> list[str]:
    """Those of some definitions that nothing entered and that no code names which was entered.

    A function that an opening enters and does not end, as `train` itself, counts as executed.
    """
    entered = {(os.path.realpath(code.co_filename), code.co_qualname.partition(".")[0]) for code in executed}
    named = {name for code in executed for name in code.co_names}
    return [
        f"{file}: {name}"
        for file, name in changed
        if (os.path.realpath(spec.root() / file), name) not in entered
        and (name not in named or _is_function(spec.root() / file, name))
    ]


def _is_function(file: Path, name: str) -> bool:
    """Whether a file defines a function of that name at its top level."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in body)


def _compare_ends(run: FinishedRun, outcome: Any, clocked: Sequence[str]) -> None:
    """Compare final metrics, arrays and parameters; times of the machine are left out."""

    def differ(kind: str, name: str) -> RefigureError:
        return RefigureError(f"it parts at the end: {kind} {name!r} differs")

    def counts(name: str) -> bool:
        return not any(fnmatch.fnmatch(name, pattern) for pattern in clocked)

    metrics = {name: [float(value) for value in values] for name, values in outcome.metrics.items()}
    for name in sorted({*metrics, *run.metrics}):
        if counts(name) and metrics.get(name) != list(run.metrics.get(name, [])):
            raise differ("metric", name)
    arrays = run.arrays if "arrays.npz" in run.checksums else {}
    for name in sorted({*outcome.arrays, *arrays}):
        if counts(name) and not _equal(outcome.arrays.get(name), arrays.get(name)):
            raise differ("array", name)
    if FINAL.as_posix() in run.checksums and (run.folder / FINAL).exists():
        for name, value in run.parameters.items():
            if not _equal(outcome.parameters.get(name), value):
                raise differ("parameter", name)


def _equal(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return False
    first, second = np.asarray(first), np.asarray(second)
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


def _file(move: Move, result: Mapping[str, Any]) -> str:
    """File a run under today's key, in place of the old folder."""
    today, run = move.plan, move.run
    run.verify()
    target = spec.root() / "runs" / today.identity.path
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    key = today.identity.key
    atomic.write_json(part / "config.json", {**today.identity.inputs, "key": key, "manifest": to_dict(today.manifest)})
    checksums = dict(run.checksums)
    if record.STREAM in checksums:
        shutil.copyfile(run.folder / record.STREAM, part / record.STREAM)
    if "arrays.npz" in checksums:
        atomic.write_bytes(part / "arrays.npz", record.packed(run.arrays))
        checksums["arrays.npz"] = record.sha256_of(part / "arrays.npz")
    if FINAL.as_posix() in checksums and (run.folder / FINAL).exists():
        checkpoint.save(part / FINAL, run.parameters)
        checksums[FINAL.as_posix()] = record.sha256_of(part / FINAL)
    checksums["config.json"] = record.sha256_of(part / "config.json")
    entries = [*run.provenance.get("carried", []), {**result, "to": key}]
    provenance = {
        **run.provenance, "code": today.identity.code, "data": to_dict(today.identity.data),
        "deviations": to_dict(today.deviations), "scale": today.scale, "carried": entries,
    }  # fmt: skip
    atomic.write_json(part / record.PROVENANCE, record.with_digest(provenance))
    final = {"key": key, "seeds": list(run.seeds), "metrics": to_dict(run.metrics), "files": checksums}
    atomic.write_json(part / record.DONE, record.with_digest(final))
    with atomic.holding(target):  # which someone may have begun to train
        begun = target.with_name(f".{target.name}.begun.part")
        shutil.rmtree(begun, ignore_errors=True)
        os.replace(target, begun)
        os.replace(part, target)
        shutil.rmtree(begun)
    shutil.rmtree(run.folder)
    compared = "whole" if result["whole"] else f"{result['steps']} of {result['of']} steps"
    by = f", as sibling of {result['sibling']}" if "sibling" in result else ""
    return f"{today.identity}: carried from {run.folder.name} ({compared} replayed{by})"
