"""A run on disk: its folder, its metrics stream, its checkpoint, and the moment from which it counts as done.

runs/<paper>/<experiment>/<variant>/<seeds>-<key>/
    config.json              what names the run, and the digest of each definition in its code
    metrics.jsonl            appended while it trains
    checkpoint/resume.safetensors   the last good state, until the run is done
    checkpoint/final.safetensors    the trained parameters
    arrays.npz               what figures need
    provenance.json          where, when, with what, and every deviation from the paper; carries its own digest
    metrics.json             the final metrics and the checksums of the other files; written last, and the same
                             bytes whenever the same run is made on the same machine
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import atomic
from common.errors import RefigureError
from common.room.config import build, canonical, to_dict
from common.room.identity import Identity

if TYPE_CHECKING:
    from common.room.spec import PlannedRun
    from common.run.progress import Progress
    from common.train.recorder import Outcome

__all__ = ["FinishedRun", "Run", "holding", "is_done", "read"]

DONE = "metrics.json"
SECONDS_BETWEEN_CHECKPOINTS = 20.0
RESUME = Path("checkpoint") / "resume.safetensors"
FINAL = Path("checkpoint") / "final.safetensors"
PROVENANCE = "provenance.json"
FILES = ("config.json", "metrics.jsonl", "arrays.npz", FINAL.as_posix())
"""What `metrics.json` holds the checksums of."""


class Run:
    """A run in training: the real `common.recorder.Recorder`.

    Arguments:
        plan: What is run.
        folder: Where; made if absent.
        progress: Shows how far it is.
        every: Seconds between checkpoints.
    """

    def __init__(
        self,
        plan: "PlannedRun",
        folder: Path,
        progress: "Progress",
        every: float = SECONDS_BETWEEN_CHECKPOINTS,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self._progress = progress
        self._every = every
        self._started = time.monotonic()
        self._saved = self._started
        self._before = 0.0
        self._sessions = 0
        self._mine = False
        self.step = 0

    def begin(self) -> None:
        """Make the folder and say in it whose it is.

        Raises:
            RefigureError: The folder holds another run.
        """
        identity = self.plan.identity
        record = {**identity.inputs, "key": identity.key, "manifest": self.plan.manifest}
        path = self.folder / "config.json"
        if path.exists():
            there = _read_json(path)
            if there.get("key") != identity.key:
                raise RefigureError(
                    f"{self.folder} holds another run (key {there.get('key')}, this one has {identity.key}): "
                    "give another folder with --out, or move that one away"
                )
        else:
            atomic.write_json(path, record)

    def log(self, step: int, metrics: Mapping[str, float | list[float]]) -> None:
        """Append one line to `metrics.jsonl`."""
        try:
            line = json.dumps({"step": int(step), **metrics}, allow_nan=False) + "\n"
        except ValueError:
            wrong = sorted(name for name, value in metrics.items() if not np.isfinite(value).all())
            raise RefigureError(
                f"{self.plan.identity}: {', '.join(wrong)} is not finite at step {step}; the last checkpoint is kept"
            ) from None
        try:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            if atomic.is_full(error):
                raise RefigureError(
                    f"disk full: {self.folder / 'metrics.jsonl'} at step {step}; free some space and run again, "
                    "it goes on from the last checkpoint"
                ) from error
            raise RefigureError(f"cannot write {self.folder / 'metrics.jsonl'}: {error.strerror}") from error

    def save(self, step: int, state: Mapping[str, np.ndarray]) -> None:
        """Replace the last good checkpoint."""
        from common.run import checkpoint

        meta = {
            "key": self.plan.identity.key,
            "step": str(int(step)),
            "seconds": repr(self._before + time.monotonic() - self._started),
            "sessions": str(self._sessions + 1),
        }
        checkpoint.save(self.folder / RESUME, state, meta)
        self._saved = time.monotonic()
        self._mine = True
        self.step = int(step)

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """The last good checkpoint; lines of the metrics stream that came after it are taken back.

        Raises:
            RefigureError: The checkpoint is damaged or belongs to another configuration.
        """
        from common.run import checkpoint

        if not (self.folder / RESUME).exists():
            _keep_lines(self.folder / "metrics.jsonl", -1)
            return None
        arrays, meta = checkpoint.load(self.folder / RESUME, expect={"key": self.plan.identity.key})
        self.step = int(meta["step"])
        if not self._mine:  # a loop after another reads what this session wrote, whose time is counted already
            self._before = float(meta["seconds"])
            self._sessions = int(meta["sessions"])
        _keep_lines(self.folder / "metrics.jsonl", self.step)
        return self.step, arrays

    def progress(self, step: int, total: int) -> None:
        """Show how far the run is."""
        self.step = int(step)
        self._progress.update(step, total)

    def due(self) -> bool:
        """Whether the last checkpoint is old enough to be replaced."""
        return time.monotonic() - self._saved >= self._every

    def finish(self, outcome: "Outcome", provenance: Mapping[str, Any]) -> None:
        """Write everything that is left, `metrics.json` last.

        Raises:
            RefigureError: A final metric is not finite, or has not one number per seed.
        """
        from common.run import checkpoint

        seeds = self.plan.identity.seeds
        metrics = {name: [float(value) for value in values] for name, values in outcome.metrics.items()}
        for name, values in metrics.items():
            if len(values) != len(seeds):
                raise RefigureError(f"{self.plan.identity}: metric {name} has {len(values)} values, not {len(seeds)}")
            if not np.isfinite(values).all():
                raise RefigureError(
                    f"{self.plan.identity}: final metric {name} is not finite ({values}); the last checkpoint is kept"
                )
        key = self.plan.identity.key
        if outcome.arrays:
            packed = io.BytesIO()
            np.savez_compressed(packed, **outcome.arrays)  # type: ignore[arg-type]
            atomic.write_bytes(self.folder / "arrays.npz", packed.getvalue())
        if outcome.parameters:
            checkpoint.save(self.folder / FINAL, outcome.parameters, {"key": key})
        seconds = self._before + time.monotonic() - self._started
        record = {
            **provenance,
            "seconds": round(seconds, 3),
            "sessions": self._sessions + 1,
            "deviations": to_dict(self.plan.deviations),
            "scale": self.plan.scale,
        }
        atomic.write_json(self.folder / PROVENANCE, {**record, "digest": _digest(record)})
        final = {
            "key": key,
            "seeds": list(seeds),
            "metrics": metrics,
            "files": {name: _sha256(self.folder / name) for name in FILES if (self.folder / name).exists()},
        }
        atomic.write_json(self.folder / DONE, {**final, "digest": _digest(final)})
        with contextlib.suppress(OSError):
            (self.folder / RESUME).unlink(missing_ok=True)


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done, as figures and claims read it."""

    folder: Path
    """Where it lies."""
    identity: Identity
    """What names it."""
    metrics: Mapping[str, Sequence[float]]
    """Name to one number per seed."""
    provenance: Mapping[str, Any]
    """Where it comes from."""
    manifest: Mapping[str, Mapping[str, str]]
    """Digest of every definition in its code."""
    files: tuple[str, ...]
    """Its files, relative to the folder; `metrics.json` last."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the metrics."""
        return self.identity.seeds

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays kept for figures."""
        path = self.folder / "arrays.npz"
        try:
            with np.load(path, allow_pickle=False) as packed:
                return {name: packed[name] for name in packed.files}
        except (OSError, ValueError, LookupError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            raise RefigureError(f"{path} cannot be read ({error}); delete the run's folder and build again") from None

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """The trained parameters that `train` handed back: a flat mapping of names to arrays."""
        from common.run import checkpoint

        if FINAL.as_posix() not in self.files:
            raise RefigureError(f"{self.identity} left no parameters: its train must put them into its Outcome")
        return checkpoint.load(self.folder / FINAL, expect={"key": self.identity.key})[0]

    def history(self) -> list[dict[str, Any]]:
        """The metrics stream, line by line."""
        path = self.folder / "metrics.jsonl"
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise RefigureError(f"{path} cannot be read ({error}); delete the run's folder and build again") from None


def is_done(folder: Path, key: str) -> bool:
    """Whether the folder holds the finished run of that key."""
    try:
        final = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(final, dict) and final.get("key") == key and _whole(final)


def read(folder: Path, *, verify: bool = False) -> FinishedRun:
    """A finished run.

    Arguments:
        verify: Hash every file and compare with what the run recorded when it finished.

    Raises:
        RefigureError: It is not finished, damaged, or its name does not fit its content.
    """
    if not (folder / DONE).is_file():
        raise RefigureError(f"{folder}: not a finished run (no {DONE}); run it again, it goes on where it stopped")
    final, record = _read_json(folder / DONE), _read_json(folder / "config.json")
    again = "delete the folder and run it again, or import it again"
    if not _whole(final):
        raise RefigureError(f"{folder / DONE} was changed after the run ended (digest differs): {again}")
    names = {field.name for field in dataclasses.fields(Identity)}
    fields = {name: value for name, value in record.items() if name in names}
    identity: Identity = build(Identity, fields, str(folder / "config.json"))
    if not identity.key == record.get("key") == final.get("key"):
        raise RefigureError(f"{folder}: its configuration has key {identity.key}, it says {final.get('key')}: {again}")
    if not isinstance(record.get("manifest"), dict):
        raise RefigureError(f"{folder / 'config.json'} has no manifest: {again}")
    metrics = build(dict[str, list[float]], final.get("metrics"), f"{folder / DONE}: metrics")
    for name, values in metrics.items():
        if len(values) != len(identity.seeds):
            raise RefigureError(
                f"{folder / DONE}: metric {name} has {len(values)} values, not {len(identity.seeds)}: {again}"
            )
    files = build(dict[str, str], final.get("files"), f"{folder / DONE}: files")
    if verify:
        for name, checksum in files.items():
            if name not in FILES:
                raise RefigureError(f"{folder / DONE} names {name!r}, which no run writes: {again}")
            path = folder / name
            if not path.is_file():
                raise RefigureError(f"{path} is missing: {again}")
            if _sha256(path) != checksum:
                raise RefigureError(f"{path} is damaged (its checksum differs): {again}")
        if not _whole(_read_json(folder / PROVENANCE)):
            raise RefigureError(f"{folder / PROVENANCE} was changed after the run ended (digest differs): {again}")
    return FinishedRun(
        folder=folder,
        identity=identity,
        metrics=metrics,
        provenance=_read_json(folder / PROVENANCE),
        manifest=record["manifest"],
        files=(*files, PROVENANCE, DONE),
    )


@contextlib.contextmanager
def holding(folder: Path, *, wait: bool = False, what: str = "") -> Iterator[None]:
    """Hold a folder against other processes; the system frees it when this one dies, however it dies.

    Arguments:
        wait: Wait for the other process instead of failing.
        what: What is held, for the message; the folder when left out.

    Raises:
        RefigureError: Another process holds it.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if atomic.is_full(error):
            raise RefigureError(f"disk full: cannot make {folder}; free some space and run again") from error
        raise RefigureError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            busy = f"{what or folder} is in work by another process (pid {holder})"
            if not wait:
                raise RefigureError(f"{busy}: wait for it, or stop it first") from None
            print(f"{busy}: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _keep_lines(path: Path, until: int) -> None:
    """Take back the lines of a metrics stream after step `until`, and one cut short by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n") or not isinstance(entry, dict) or entry.get("step", until + 1) > until:
            break
        kept.append(line)
    atomic.write_text(path, "".join(kept))


def _digest(final: Mapping[str, Any]) -> str:
    content = {name: value for name, value in final.items() if name != "digest"}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _whole(final: Mapping[str, Any]) -> bool:
    """Whether the content is what its digest was taken of."""
    try:
        return final.get("digest") == _digest(final)
    except ValueError:  # a number that is not finite, which no run writes
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RefigureError(f"{path} is missing: delete the run's folder and build again") from None
    except (OSError, ValueError) as error:
        raise RefigureError(f"{path} cannot be read ({error}): delete the run's folder and build again") from None
    if not isinstance(value, dict):
        raise RefigureError(f"{path} is not what a run writes: delete the run's folder and build again")
    return value
