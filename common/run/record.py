"""A run on disk: its folder, its metrics stream, its checkpoint, and the moment from which it counts as done.

runs/<paper>/<experiment>/<variant>/<seeds>-<key>/
    config.json              what names the run, and the digest of each definition in its code
    metrics.jsonl            appended while it trains
    checkpoint/resume.safetensors   the last good state, until the run is done
    checkpoint/final.safetensors    the trained parameters; no artifact, made again where a further run begins from them
    arrays.npz               what figures need
    provenance.json          where, when, with what, every deviation from the paper, and from which key it was carried
    metrics.json             the final metrics and the checksums of the other files; written last, and the same
                             bytes whenever the same run is made on the same machine
"""

import contextlib
import hashlib
import io
import json
import lzma
import os
import tempfile
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
from common.errors import RefigureError, writing
from common.room.config import build, canonical, to_dict
from common.room.digest import Manifest
from common.room.identity import Identity
from common.run import checkpoint
from common.train.recorder import Outcome, Recorder

if TYPE_CHECKING:
    from common.room.plan import PlannedRun
    from common.run.progress import Progress

__all__ = [
    "FinishedRun", "Run", "close", "filing", "is_done", "read", "read_identity", "read_whole", "sha256_of",
    "with_digest",
]  # fmt: skip

DONE = "metrics.json"
STREAM = "metrics.jsonl"
PROVENANCE = "provenance.json"
RESUME = "checkpoint/resume.safetensors"
FINAL = "checkpoint/final.safetensors"
FILES = ("config.json", STREAM, "arrays.npz", FINAL)
"""What `metrics.json` holds the checksums of."""
SECONDS_BETWEEN_CHECKPOINTS = 20.0
MOST_BYTES = 2 << 30
"""Of all arrays that a run keeps for figures."""
MEND = "delete the run's folder and run it again, or pull or import it again"


class Run(Recorder):
    """A run in training.

    Arguments:
        plan: What is run.
        folder: Where; made if absent.
        progress: Shows how far it is.
        every: Seconds between checkpoints.
    """

    def __init__(
        self, plan: "PlannedRun", folder: Path, progress: "Progress", every: float = SECONDS_BETWEEN_CHECKPOINTS
    ) -> None:
        self.plan = plan
        self.folder = folder
        self._progress = progress
        self._every = every
        self._started = time.monotonic()
        self._saved = self._started
        self._seconds_before = 0.0
        self._sessions_before = 0
        self._has_saved = False
        self._length, self._hash = 0, hashlib.sha256()  # of the metrics stream, as it was written

    def begin(self, *, resume: bool = True) -> None:
        """Make the folder and say in it whose it is.

        Arguments:
            resume: Whether to go on from a checkpoint that lies there.

        Raises:
            RefigureError: The folder holds another run, or another state of this one's record.
        """
        if (self.folder / "config.json").exists():
            present, _ = read_identity(self.folder)
            if present.key != self.plan.identity.key:
                raise RefigureError(
                    f"{self.folder} holds another run (key {present.key}, this one has {self.plan.identity.key}): "
                    "give another folder with --out, or move that one away"
                )
        _write_config(self.plan, self.folder)
        if not resume:
            (self.folder / RESUME).unlink(missing_ok=True)
        if not (self.folder / RESUME).exists():
            self._cut("0")

    def log(self, step: int, metrics: Mapping[str, float | list[float]], state: str = "") -> None:
        """Append one line to the metrics stream."""
        entry = {"step": int(step), **metrics, **({"state": state} if state else {})}
        try:
            line = json.dumps(entry, allow_nan=False) + "\n"
        except ValueError:
            wrong = sorted(name for name, value in metrics.items() if not np.isfinite(value).all())
            raise RefigureError(
                f"{self.plan.identity}: {', '.join(wrong)} is not finite at step {step}; the last checkpoint is kept"
            ) from None
        path = self.folder / STREAM
        with writing(f"{path} at step {step}"), path.open("ab") as stream:
            stream.write(line.encode())
        self._length += len(line.encode())
        self._hash.update(line.encode())

    def save(self, step: int, state: Mapping[str, np.ndarray]) -> None:
        """Replace the last good checkpoint, which holds length and hash of the metrics stream so far."""
        meta = {
            "key": self.plan.identity.key,
            "step": str(int(step)),
            "seconds": repr(self._seconds()),
            "sessions": str(self._sessions_before + 1),
            "stream": self._synced(),
        }
        checkpoint.save(self.folder / RESUME, state, meta)
        self._saved = time.monotonic()
        self._has_saved = True

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """The last good checkpoint; lines of the metrics stream that came after it are taken back.

        Raises:
            RefigureError: The checkpoint is damaged or belongs to another configuration, or the stream up to it is.
        """
        if not (self.folder / RESUME).exists():
            return None
        arrays, meta = checkpoint.load(self.folder / RESUME, expect={"key": self.plan.identity.key})
        if not self._has_saved:  # a loop after another reads what this session wrote, whose time is counted already
            self._seconds_before = float(meta["seconds"])
            self._sessions_before = int(meta["sessions"])
        self._cut(meta["stream"])
        return int(meta["step"]), arrays

    def progress(self, step: int, total: int) -> None:
        """Show how far the run is."""
        self._progress.update(step, total)

    def due(self) -> bool:
        """Whether the last checkpoint is old enough to be replaced."""
        return time.monotonic() - self._saved >= self._every

    def finish(self, outcome: "Outcome", provenance: Mapping[str, Any]) -> None:
        """Write everything that is left, `metrics.json` last.

        Raises:
            RefigureError: A final metric is not finite, or has not one number per seed.
        """
        metrics = {name: [float(value) for value in values] for name, values in outcome.metrics.items()}
        _check_metrics(metrics, self.plan.identity, f"{self.plan.identity}, whose last checkpoint is kept")
        if outcome.arrays:
            atomic.write_bytes(self.folder / "arrays.npz", _packed(outcome.arrays))
        if outcome.parameters:
            checkpoint.save(self.folder / FINAL, outcome.parameters)
        stream = self._synced().partition(":")[2]
        if (self.folder / STREAM).exists() and sha256_of(self.folder / STREAM) != stream:
            raise RefigureError(f"{self.folder / STREAM} was changed while the run trained: run it again")
        times = {"seconds": round(self._seconds(), 3), "sessions": self._sessions_before + 1}
        close(self.plan, self.folder, metrics, {**provenance, **times})

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _synced(self) -> str:
        """Length and hash of the metrics stream so far, which from now on survives a power cut."""
        if (self.folder / STREAM).exists():
            with (self.folder / STREAM).open("rb") as stream:
                os.fsync(stream.fileno())
        return f"{self._length}:{self._hash.hexdigest()}"

    def _cut(self, mark: str) -> None:
        """Take back what the metrics stream has beyond a mark, after comparing what comes before it."""
        path, (length, _, expected) = self.folder / STREAM, mark.partition(":")
        content = path.read_bytes() if path.exists() else b""
        kept = content[: int(length)]
        self._length, self._hash = len(kept), hashlib.sha256(kept)
        if expected and self._hash.hexdigest() != expected:
            raise RefigureError(
                f"{path} is damaged (it is not what the checkpoint beside it was written after): delete the "
                "run's folder and run it again"
            )
        if kept != content:
            atomic.write_bytes(path, kept)


def _check_metrics(metrics: Mapping[str, Sequence[float]], identity: Identity, where: str) -> None:
    """Refuse final metrics that are not finite or not one number per seed."""
    for name, values in metrics.items():
        if len(values) != len(identity.seeds):
            raise RefigureError(f"{where}: metric {name} has {len(values)} values, not {len(identity.seeds)}")
        if not np.isfinite(values).all():
            raise RefigureError(f"{where}: final metric {name} is not finite ({values})")


def _write_config(plan: "PlannedRun", folder: Path) -> None:
    config = {**plan.identity.inputs, "key": plan.identity.key, "manifest": to_dict(plan.manifest)}
    atomic.write_json(folder / "config.json", config)


def close(
    plan: "PlannedRun", folder: Path, metrics: Mapping[str, Sequence[float]], provenance: Mapping[str, Any],
    absent: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write what makes a run done: its configuration, its provenance, its metrics.

    Arguments:
        absent: Checksums of files that belong to the run and need not be there.
    """
    _write_config(plan, folder)
    record = {**provenance, "deviations": to_dict(plan.deviations), "scale": plan.scale}
    atomic.write_json(folder / PROVENANCE, with_digest(record))
    files = {name: sha256_of(folder / name) for name in FILES if (folder / name).exists()}
    final = {"key": plan.identity.key, "seeds": list(plan.identity.seeds), "metrics": to_dict(metrics)}
    atomic.write_json(folder / DONE, with_digest({**final, "files": {**(absent or {}), **files}}))
    with contextlib.suppress(OSError):
        (folder / RESUME).unlink(missing_ok=True)


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done, as figures and claims read it. Each file is compared with its checksum when it is read."""

    folder: Path
    """Where it lies."""
    identity: Identity
    """What names it."""
    metrics: Mapping[str, Sequence[float]]
    """Name to one number per seed."""
    provenance: Mapping[str, Any]
    """Where it comes from."""
    manifest: Manifest
    """Digest of every definition in its code."""
    checksums: Mapping[str, str]
    """File, relative to the folder, to SHA-256."""

    @property
    def key(self) -> str:
        """The key that it lies under."""
        return self.identity.key

    @property
    def files(self) -> tuple[str, ...]:
        """Its files, relative to the folder; `metrics.json` last. Parameters need not be there."""
        return (*self.checksums, PROVENANCE, DONE)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the metrics."""
        return self.identity.seeds

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays kept for figures."""
        content = self._content("arrays.npz")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as packed:
                if sum(member.file_size for member in packed.zip.infolist()) > MOST_BYTES:
                    raise ValueError(f"it unpacks to more than {MOST_BYTES >> 30} GiB")
                return dict(packed)
        except (ValueError, LookupError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise RefigureError(f"{self.folder / 'arrays.npz'} cannot be read ({error}): {MEND}") from None

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """The trained parameters that `train` handed back: a flat mapping of names to arrays."""
        if FINAL not in self.checksums:
            raise RefigureError(f"{self.identity} left no parameters: its train must put them into its Outcome")
        self._content(FINAL)
        return checkpoint.load(self.folder / FINAL)[0]

    def history(self) -> list[dict[str, Any]]:
        """The metrics stream, line by line."""
        return [json.loads(line) for line in self._content(STREAM).decode().splitlines()]

    def verify(self) -> None:
        """Compare every file with its checksum; parameters that are not there are passed over.

        Raises:
            RefigureError: A file is missing or damaged.
        """
        for name in self.checksums:
            if name != FINAL or (self.folder / name).exists():
                self._content(name)

    def _content(self, name: str) -> bytes:
        content = _read_bytes(self.folder / name)
        if hashlib.sha256(content).hexdigest() != self.checksums.get(name):
            raise RefigureError(f"{self.folder / name} is damaged (its checksum differs): {MEND}")
        return content


@contextlib.contextmanager
def filing(run: "FinishedRun", target: Path) -> Iterator[Path]:
    """A folder with copies of a finished run's files, verified; at the end they lie in `target`, `metrics.json` last.

    Until all copies are written `target` stays as it was. From the first that is moved in it is no finished run, so
    whatever interrupts that leaves one that can be made, imported or carried again.

    Raises:
        RefigureError: A file is damaged, cannot be written, or another process holds the folder.
    """
    run.verify()
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic.holding(target),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=target.parent) as part,
    ):
        for name in (name for name in run.files if (run.folder / name).exists()):
            atomic.write_bytes(Path(part) / name, (run.folder / name).read_bytes())
        yield Path(part)
        for leftover in (DONE, RESUME, *FILES):
            (target / leftover).unlink(missing_ok=True)
        for name in (name for name in run.files if (Path(part) / name).exists()):  # `metrics.json` is the last
            (target / name).parent.mkdir(exist_ok=True)
            os.replace(Path(part) / name, target / name)


def is_done(folder: Path, key: str) -> bool:
    """Whether the folder holds the finished run of that key."""
    try:
        return bool(read_whole(folder / DONE).get("key") == key)
    except RefigureError:
        return False


def read(folder: Path) -> FinishedRun:
    """A finished run.

    Raises:
        RefigureError: It is not finished, damaged, or its name does not fit its content.
    """
    if not (folder / DONE).is_file():
        raise RefigureError(f"{folder}: not a finished run (no {DONE}); run it again, it goes on where it stopped")
    final, provenance = read_whole(folder / DONE), read_whole(folder / PROVENANCE)
    identity, manifest = read_identity(folder)
    if identity.key != final.get("key"):
        raise RefigureError(f"{folder}: its configuration has key {identity.key}, it says {final.get('key')}: {MEND}")
    metrics = build(dict[str, list[float]], final.get("metrics"), f"{folder / DONE}: metrics")
    _check_metrics(metrics, identity, str(folder / DONE))
    checksums = build(dict[str, str], final.get("files"), f"{folder / DONE}: files")
    if foreign := sorted({*checksums} - {*FILES}):
        raise RefigureError(f"{folder / DONE} names {foreign[0]!r}, which no run writes: {MEND}")
    run = FinishedRun(folder, identity, metrics, provenance, manifest, checksums)
    run._content("config.json")
    return run


def read_identity(folder: Path) -> tuple[Identity, Manifest]:
    """What `config.json` of a run says: what names it, and the digest of each definition in its code.

    Raises:
        RefigureError: It is missing, damaged, or its key does not fit the rest.
    """
    path = folder / "config.json"
    record = _read_json(path)
    key = record.pop("key", None)
    manifest = build(dict[str, dict[str, str]], record.pop("manifest", None), f"{path}: manifest")
    identity: Identity = build(Identity, record, str(path))
    if identity.key != key:
        raise RefigureError(f"{path} was changed (its configuration has key {identity.key}, it says {key}): {MEND}")
    return identity, manifest


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the digest of everything else in it."""
    bare = {name: value for name, value in content.items() if name != "digest"}
    return {**bare, "digest": hashlib.sha256(canonical(bare).encode()).hexdigest()}


def read_whole(path: Path, mend: str = MEND) -> dict[str, Any]:
    """A record, compared with its digest.

    Raises:
        RefigureError: It is missing, damaged or altered; the message ends with `mend`.
    """
    content = _read_json(path, mend)
    with contextlib.suppress(ValueError):  # of a number that is not finite, which is never written
        if content.get("digest") == with_digest(content)["digest"]:
            return content
    raise RefigureError(f"{path} was changed after it was written (its digest differs): {mend}")


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as an .npz file, the smallest that NumPy reads; the same arrays give the same bytes."""
    if (size := sum(np.asanyarray(array).nbytes for array in arrays.values())) > MOST_BYTES:
        raise RefigureError(
            f"arrays of {size / 2**30:.1f} GiB are more than a run keeps for figures (2 GiB): keep less"
        )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
    return content.getvalue()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path, mend: str = MEND) -> dict[str, Any]:
    try:
        value = json.loads(_read_bytes(path, mend))
    except (ValueError, RecursionError) as error:
        raise RefigureError(f"{path} cannot be read ({error}): {mend}") from None
    if not isinstance(value, dict):
        raise RefigureError(f"{path} is not what a run writes: {mend}")
    return value


def _read_bytes(path: Path, mend: str = MEND) -> bytes:
    try:
        if not path.exists() or path.is_file():  # a pipe or a device might never end
            return path.read_bytes()
        why = "no file"
    except OSError as error:
        why = error.strerror or str(error)
    raise RefigureError(f"{path} cannot be read ({why}): {mend}")
