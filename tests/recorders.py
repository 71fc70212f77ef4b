"""The smallest honest recorder: a folder with a checkpoint and a metrics stream."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.run import checkpoint


class FolderRecorder:
    """A `common.recorder.Recorder`: saves after every chunk, forgets metrics that a resumed run repeats."""

    def __init__(self, folder: Path, *, every: int = 1) -> None:
        self.folder, self.every, self.chunks = folder, every, 0
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, metrics: Mapping[str, float | list[float]]) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def save(self, step: int, state: Mapping[str, np.ndarray]) -> None:
        checkpoint.save(self.folder / "state.safetensors", state, {"step": str(step)})

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        path = self.folder / "state.safetensors"
        if not path.exists():
            return None
        arrays, meta = checkpoint.load(path)
        return int(meta["step"]), arrays

    def progress(self, step: int, total: int) -> None:
        pass

    def due(self) -> bool:
        self.chunks += 1
        return self.chunks % self.every == 0

    def metrics(self) -> dict[int, dict[str, float | list[float]]]:
        """The last value logged at each step."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return {line.pop("step"): line for line in map(json.loads, lines)}


class Interrupt(Exception):
    """What `InterruptedRecorder` raises."""


class InterruptedRecorder(FolderRecorder):
    """Raises in the `fail_at`-th call of `log`, as a process that ends between two chunks does."""

    def __init__(self, folder: Path, fail_at: int, *, every: int = 1) -> None:
        super().__init__(folder, every=every)
        self.calls, self.fail_at = 0, fail_at

    def log(self, step: int, metrics: Mapping[str, float | list[float]]) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise Interrupt
        super().log(step, metrics)
