"""What the tests of experiments train with: a recorder in memory, finished runs, and an interruption."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.room.config import to_dict
from common.room.identity import Identity
from common.run.record import FinishedRun, sha256_of
from common.train.recorder import Outcome, Recorder

__all__ = ["Memory", "finished", "finished_run", "resumes", "same"]


class Memory(Recorder):
    """A recorder in memory that may stop a run after some steps.

    Arguments:
        stop_at: Finished steps at which it is interrupted; None for never.
    """

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.lines: list[tuple[int, dict]] = []
        self.states: dict[int, str] = {}
        self.kept: tuple[int, dict[str, np.ndarray]] | None = None
        self.restored: list[int] = []
        self.shown: list[tuple[int, int]] = []

    def log(self, step: int, metrics: Mapping[str, float | list[float]], state: str = "") -> None:
        self.lines.append((step, dict(metrics)))
        if state:
            self.states[step] = state

    def save(self, step: int, state: Mapping[str, np.ndarray]) -> None:
        self.kept = (step, {name: np.array(array) for name, array in state.items()})

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        self.restored += [self.kept[0]] if self.kept else []
        return self.kept

    def progress(self, step: int, total: int) -> None:
        self.shown.append((step, total))
        if self.stop_at is not None and step >= self.stop_at:
            raise KeyboardInterrupt

    def due(self) -> bool:
        return True


def finished(config: object, parameters: Mapping[str, np.ndarray]) -> Any:
    """A finished run as a further run sees its parent: settings and parameters."""
    return SimpleNamespace(identity=SimpleNamespace(config=to_dict(config)), parameters=parameters)


def finished_run(
    folder: Path, identity: Identity, metrics: Mapping[str, Sequence[float]], arrays: Mapping[str, np.ndarray],
    lines: Sequence[Mapping[str, Any]] = (),
) -> FinishedRun:  # fmt: skip
    """A run as figures read it, of made-up numbers, in a folder below this one.

    Arguments:
        lines: The metrics stream, which is not written where it is empty.
    """
    folder = folder / identity.path
    folder.mkdir(parents=True)
    np.savez(folder / "arrays.npz", **arrays)
    if lines:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checksums = {file.name: sha256_of(file) for file in folder.iterdir()}
    numbers = {name: list(values) for name, values in metrics.items()}
    return FinishedRun(folder, identity, numbers, {}, {}, checksums)


def same(outcome: Outcome, expected: Outcome) -> None:
    """Metrics, arrays and parameters are equal to the last bit."""
    for part in ("metrics", "arrays", "parameters"):
        values, others = getattr(outcome, part) or {}, getattr(expected, part) or {}
        assert values.keys() == others.keys()
        for name in values:
            np.testing.assert_array_equal(values[name], others[name], err_msg=f"{part}: {name}")


def resumes(train: Callable[[Memory], Outcome], stop_at: int, whole: Outcome | None = None) -> tuple[Outcome, Memory]:
    """Stop a training after so many steps and start it again: it ends as the training that nobody stopped.

    Returns its outcome and its recorder.
    """
    recorder = Memory(stop_at)
    with pytest.raises(KeyboardInterrupt):
        train(recorder)
    recorder.stop_at = None
    outcome = train(recorder)
    same(outcome, whole or train(Memory()))
    return outcome, recorder
