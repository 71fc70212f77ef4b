"""Files on disk that are either whole and verified or not there: checksums, locks, the record."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from common import atomic
from common.data.registry import RawFile
from common.errors import RefigureError

__all__ = ["Record", "fault", "install", "lock", "log", "set_aside"]

log = logging.getLogger("refigure.data")
RECORD = "verified.json"
_BLOCK = 1 << 20


def fault(path: Path, raw: RawFile) -> str | None:
    """What is wrong with the file at `path`, in words, or None if it is `raw`. Reads all of it."""
    try:
        size = path.stat().st_size
        if raw.size is not None and size != raw.size:
            return f"{size:,} bytes instead of {raw.size:,}"
        if size == 0:
            return "empty"
        known = {"sha256": raw.sha256, "md5": raw.md5}
        sums = {
            kind: hashlib.new(kind, usedforsecurity=False) for kind, expected in known.items() if expected is not None
        }
        with path.open("rb") as stream:
            while sums and (block := stream.read(_BLOCK)):
                for digest in sums.values():
                    digest.update(block)
    except OSError as error:
        return f"unreadable ({error.strerror or error})"
    for kind, digest in sums.items():
        if digest.hexdigest() != known[kind]:
            return f"{kind} {digest.hexdigest()[:12]}... instead of {(known[kind] or '')[:12]}..."
    return None


def install(target: Path, raw: RawFile, write: Callable[[IO[bytes]], None]) -> str | None:
    """Let `write` fill a temporary file beside `target`; move it into place only if it is `raw`.

    Returns what was wrong with the bytes (nothing is kept then), or None once `target` is in place. Whatever
    `write` raises, KeyboardInterrupt included, passes on after the temporary file is gone; a full disk
    becomes a RefigureError.
    """
    try:
        with atomic.staged(target) as stream:
            write(stream)
            stream.flush()
            if (wrong := fault(Path(stream.name), raw)) is not None:
                raise _WrongBytes(wrong)
    except _WrongBytes as error:
        return str(error)
    except OSError as error:
        if atomic.is_full(error):
            needs = f" ({raw.size / 1e6:.0f} MB needed)" if raw.size else ""
            raise RefigureError(
                f"no space left in {target.parent} for {target.name}{needs}: free some, or set "
                "REFIGURE_DATA to a folder on another disk"
            ) from error
        raise
    return None


class _WrongBytes(Exception):
    """Ends the writing of a file that is not the one that was asked for."""


def set_aside(path: Path, why: str, then: str = "fetching it again") -> None:
    """Rename a damaged file to `<name>.corrupt` and say so in one warning."""
    aside = path.with_name(path.name + ".corrupt")
    os.replace(path, aside)
    log.warning("%s is damaged (%s): set aside as %s, %s", path, why, aside.name, then)


class Record:
    """Which files of a folder were verified, by size, time and checksum, so that they need no second hashing.

    A file that changed its size or modification time, or whose expected checksum changed, counts as
    unverified.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORD
        self._folder = folder
        try:
            loaded = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            loaded = {}
        self._known: dict[str, Any] = loaded if isinstance(loaded, dict) else {}

    def _now(self, raw: RawFile) -> dict[str, Any]:
        stat = (self._folder / raw.name).stat()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "checksum": raw.identity}

    def holds(self, raw: RawFile) -> bool:
        """Whether the file is the one that was verified earlier, as far as its size and time tell."""
        try:
            return bool(self._known.get(raw.name) == self._now(raw))
        except OSError:
            return False

    def add(self, raw: RawFile) -> None:
        """Remember that the file as it is now is verified."""
        self._known[raw.name] = self._now(raw)
        with contextlib.suppress(RefigureError):  # a read-only cache or a full disk only costs a hashing next time
            atomic.write_json(self._path, self._known)

    def drop(self, raw: RawFile) -> None:
        """Forget a file that turned out to be damaged."""
        if self._known.pop(raw.name, None) is not None:
            with contextlib.suppress(RefigureError):
                atomic.write_json(self._path, self._known)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes; the operating system frees it if this one dies.

    Under the lock, what killed processes left half-written is removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RefigureError(
            f"cannot write to the data cache {folder} ({error.strerror}): set REFIGURE_DATA to a folder of yours"
        ) from error
    try:
        try:
            import fcntl
        except ImportError:  # no such locks on this system: renaming into place stays atomic
            pass
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in folder.glob(".*.part"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)
