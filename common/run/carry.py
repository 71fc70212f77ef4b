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
import contextlib
import dataclasses
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from common import atomic
from common.errors import RefigureError
from common.room import spec
from common.room.config import build, to_dict
from common.room.digest import Definition, changed
from common.room.identity import Identity
from common.room.plan import PlannedRun, plan
from common.room.spec import SCALES
from common.run import record
from common.run.command import finished_parent, revision, trained
from common.run.record import FINAL, FinishedRun, read
from common.run.runtime import describe
from common.train.recorder import Recorder

__all__ = ["Move", "carry", "moves", "replay"]

SUMMARY = "replay.json"


@dataclass(frozen=True)
class Move:
    """A finished run and where it belongs today."""

    plan: PlannedRun
    run: FinishedRun


def moves(paper: str, experiment: str | None = None) -> Iterator[Move]:
    """The planned runs of all scales that are not done, of which a run is there that differs by its code alone."""
    planned: dict[Path, PlannedRun] = {}
    for scale in reversed(SCALES):  # a run that two scales share is carried as the smaller one says
        planned |= {run.folder: run for run in plan(paper, scale, experiment)}
    for folder, today in planned.items():
        if record.is_done(folder, today.identity.key):
            continue
        done = folder.parent.glob(f"{today.identity.seeds_name}-*/{record.DONE}")
        for file in sorted(done, key=lambda file: file.stat().st_mtime, reverse=True):
            run = read(file.parent)
            if _differs_by_code_alone(run.identity, today.identity):
                yield Move(today, run)
                break


def _differs_by_code_alone(old: Identity, new: Identity) -> bool:
    """Whether two runs have the same settings, seeds, data and threads, and parents of the same variant."""
    same_parent = old.parent.split("/")[:2] == new.parent.split("/")[:2]
    return same_parent and dataclasses.replace(old, code=new.code, parent=new.parent) == new


def carry(paper: str, experiment: str | None = None, *, jobs: int = 1, every_seed: bool = False) -> Iterator[str]:
    """Replay and file what can be; a line for each run.

    Arguments:
        jobs: Replays at once.
        every_seed: Replay each run instead of one a variant.
    """
    refused: set[Path] = set()
    for name in [experiment] if experiment else list(spec.load(paper).experiments):
        groups: dict[Any, list[Move]] = {}
        for move in (move for move in moves(paper, name) if move.run.folder not in refused):
            identity = move.run.identity
            seed = identity.seeds if every_seed else ()
            groups.setdefault((identity.variant, move.plan.scale, identity.code, seed), []).append(move)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            replays = {pool.submit(_replay_apart, group[0]): group for group in groups.values()}
            for future in concurrent.futures.as_completed(replays):
                first = replays[future][0]
                for move in replays[future]:
                    sibling = {} if move is first else {"sibling": first.run.folder.name}
                    try:
                        yield _file(move, {**future.result(), **sibling})
                    except _NotCarried as fault:
                        refused.add(move.run.folder)
                        why = "nor is its sibling" if sibling else fault
                        yield f"{move.run.identity.group}/{move.run.folder.name}: not carried: {why}"


def _replay_apart(move: Move) -> dict[str, Any]:
    """What a replay in a process of its own compared.

    It lies in the old run's folder until the run is filed, so that an interrupted command goes on.

    Raises:
        _NotCarried: The replay failed or differs.
    """
    identity, result = move.plan.identity, move.run.folder / SUMMARY
    if _summary(result).get("to") != identity.key:
        words = [
            sys.executable, "-m", f"papers.{identity.paper}", "--experiment", identity.experiment, "--variant",
            identity.variant, "--scale", move.plan.scale, "--seeds", ",".join(map(str, identity.seeds)),
            "--replay", os.fspath(move.run.folder), "--quiet",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.fspath(spec.root())}
        done = subprocess.run(words, cwd=spec.root(), env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.splitlines() or ["it ended without a word"]
            faults = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            raise _NotCarried((faults or lines)[-1])
    return _summary(result)


def _summary(path: Path) -> dict[str, Any]:
    """What a replay left; nothing where it left nothing that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text()))
    return {}


class _NotCarried(RefigureError):
    """A replay that gives other numbers, or none."""


class _OpeningEnds(Exception):
    """Ends the training after the lines that are replayed."""


class _Replay(Recorder):
    """A recorder that compares what is logged with the lines that a run logged.

    Arguments:
        lines: As far as they are replayed.
        stop: Whether training ends after them.
    """

    def __init__(self, lines: Sequence[Mapping[str, Any]], stop: bool) -> None:
        self.lines, self.stop, self.compared = lines, stop, 0

    def log(self, step: int, metrics: Mapping[str, float | list[float]], state: str = "") -> None:
        if not self.lines:
            return  # a run from before its experiment logged anything
        if self.compared == len(self.lines):
            raise RefigureError(f"it parts at step {step}: the run logged nothing there")
        present = {"step": step, **metrics, "state": state}
        for name, value in self.lines[self.compared].items():
            if present.get(name) != value:
                raise RefigureError(
                    f"it parts at step {step}: {name} was {value}, is {present.get(name, 'not logged')}"
                )
        self.compared += 1
        if self.compared == len(self.lines) and self.stop:
            raise _OpeningEnds


def replay(today: PlannedRun, folder: Path) -> None:
    """Train a run's opening again, compare, and write what was compared to a file in the run's folder.

    Raises:
        RefigureError: Something differs; the message says where the two part.
    """
    run = read(folder)
    run.verify()
    experiment = spec.load(today.identity.paper).experiments[today.identity.experiment]
    logged = run.history() if record.STREAM in run.checksums else []
    opening = logged[: experiment.scales[today.scale].replay or None]
    recorder = _Replay(opening, stop=len(opening) < len(logged))
    started = time.monotonic()
    executed: set[CodeType] = set()
    parent = finished_parent(today)
    outcome, stack = None, set[CodeType]()  # of a training that came to its end; of one that did not
    sys.setprofile(lambda frame, event, _: executed.add(frame.f_code) if event == "call" else None)
    try:
        build(type(today.config), to_dict(today.config), "carry")  # the settings' own checks are executed, too
        outcome, _ = trained(today, recorder, parent)
    except _OpeningEnds as end:
        stack = {frame.f_code for frame, _ in traceback.walk_tb(end.__traceback__)}
    finally:
        sys.setprofile(None)
    if recorder.compared < len(opening):
        raise RefigureError(f"it parts before step {opening[recorder.compared]['step']}: the run logged more")
    edited = changed(run.manifest, today.manifest)
    if outcome is not None:
        _compare_ends(run, outcome, experiment.clocked)
    elif unseen := _not_executed(edited, executed):
        raise RefigureError(
            f"{', '.join(unseen[:3])} changed, and the {len(opening)} lines that are replayed do not execute it: "
            f"set replay: 0 (all of a run) at scale {today.scale} of {today.identity.experiment} in "
            f"papers/{today.identity.paper}/paper.yaml, or train it again"
        )
    atomic.write_json(folder / SUMMARY, {
        "from": f"{run.identity.group}/{run.folder.name}", "to": today.identity.key, "whole": outcome is not None,
        "lines": len(opening), "states": sum("state" in line for line in opening),
        "not to their end": [f"{file}: {name}" for file, name in edited if _functions(file, name) & _places(stack)],
        "steps": opening[-1]["step"] if opening else 0, "of": logged[-1]["step"] if logged else 0,
        "seconds": round(time.monotonic() - started, 1), "revision": revision(), "machine": describe(),
    })  # fmt: skip


def _not_executed(definitions: Sequence[Definition], executed: Collection[CodeType]) -> list[str]:
    """Those of some definitions of which a function was not entered, or which no code names that was entered.

    A function that an opening enters and does not end, as `train` itself, counts as executed; the entry names it. An
    alias for the names that a setting may have, among the settings, says nothing beyond these, which are compared.
    """
    entered = _places(executed)
    named = {
        name for code in executed if code.co_name != "<module>" for name in code.co_names
    }  # importing uses nothing
    unseen = []
    for file, name in definitions:
        functions = _functions(file, name)
        if not (functions <= entered if functions else name in named or _names_settings(file, name)):
            unseen.append(f"{file}: {name}")
    return unseen


def _places(codes: Collection[CodeType]) -> set[tuple[str, str]]:
    """File and qualified name of functions."""
    return {(os.path.realpath(code.co_filename), code.co_qualname) for code in codes}


def _functions(file: str, name: str) -> set[tuple[str, str]]:
    """The functions that a top-level definition of a file is, or has as methods."""
    path = os.path.realpath(spec.root() / file)
    for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return {(path, name)}
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {(path, f"{name}.{part.name}") for part in node.body if isinstance(part, ast.FunctionDef)}
    return set()


def _names_settings(file: str, name: str) -> bool:
    """Whether a definition is `NAME = Literal[...]` in a room's `config.py` or `config/`."""
    return Path(file).parts[2].removesuffix(".py") == "config" and any(
        isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == name
        and ast.unparse(node.value).startswith("Literal[")
        for node in ast.parse((spec.root() / file).read_text(encoding="utf-8")).body
    )


def _compare_ends(run: FinishedRun, outcome: Any, clocked: Sequence[str]) -> None:
    """Compare final metrics, arrays and parameters to the last bit; times of the machine are left out."""
    metrics = {name: np.asarray(values, float) for name, values in outcome.metrics.items()}
    arrays = run.arrays if "arrays.npz" in run.checksums else {}
    pairs: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("metric", metrics, run.metrics), ("array", outcome.arrays, arrays),
    ]  # fmt: skip
    if FINAL in run.checksums and (run.folder / FINAL).exists():
        pairs.append(("parameter", outcome.parameters, run.parameters))
    for kind, today, before in pairs:
        for name in sorted({*today, *before}):
            is_clocked = any(fnmatch.fnmatch(name, pattern) for pattern in clocked)
            if not is_clocked and _bits(today.get(name)) != _bits(before.get(name)):
                raise RefigureError(f"it parts at the end: {kind} {name!r} differs")


def _bits(value: Any) -> tuple[np.dtype, tuple[int, ...], bytes]:
    array = np.asarray(value)
    return array.dtype, array.shape, array.tobytes()


def _file(move: Move, result: Mapping[str, Any]) -> str:
    """File a run under today's key, in place of the old folder and of a run that was begun under that key."""
    today, run = move.plan, move.run
    entries = [*run.provenance.get("carried", []), result]
    provenance = {
        **run.provenance, "code": today.identity.code, "data": to_dict(today.identity.data), "carried": entries,
    }  # fmt: skip
    with record.filing(run, today.folder) as folder:
        record.close(today, folder, run.metrics, provenance, absent=run.checksums)
    shutil.rmtree(run.folder)
    compared = "whole" if result["whole"] else f"{result['steps']} of {result['of']} steps"
    by = f", as sibling of {result['sibling']}" if "sibling" in result else ""
    by += "".join(f"; not to its end: {name}" for name in result["not to their end"])
    return f"{today.identity}: carried from {run.folder.name} ({compared} replayed{by})"
