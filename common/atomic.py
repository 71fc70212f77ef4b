"""Files that are whole or absent: written beside their place, synced, renamed into it; folders held by one process."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import filelock

from common.errors import RefigureError, writing

__all__ = ["holding", "replacing", "staged", "write_bytes", "write_json", "write_text"]


@contextlib.contextmanager
def staged(path: Path, *, alone: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream whose bytes become `path` when the block ends, in one rename.

    Whatever interrupts the block (it passes on as it is), `path` stays as it was and the temporary file goes; a killed
    process may leave `.<name>.<pid>.part`, which nothing reads. `alone` says that no other process writes `path`: the
    temporary file is then `.<name>.part`, and what a killed process left is overwritten by the next.
    """
    part = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing(path: Path, what: str = "", *, alone: bool = False) -> Iterator[IO[bytes]]:
    """`staged` for files of ours, with an explanation; `what` names the content, as in "the checkpoint <path>".

    Raises:
        RefigureError: The disk is full or the folder cannot be written.
    """
    with writing(what or path), staged(path, alone=alone) as stream:
        yield stream


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; some network file systems refuse that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as stream:
        stream.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to `path`, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; NaN and infinities are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


@contextlib.contextmanager
def holding(folder: Path, *, wait: bool = False, what: str = "") -> Iterator[None]:
    """Hold a folder against other processes; the system frees it when this one dies, however it dies.

    Arguments:
        wait: Wait for the other process instead of failing.
        what: What is held, for the message; the folder when left out.

    Raises:
        RefigureError: Another process holds it, or it cannot be written.
    """
    lock, holder = filelock.FileLock(folder / ".lock"), folder / ".holder"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            pid = holder.read_text() if holder.exists() else "unknown"
            busy = f"{what or folder} is in work by another process (pid {pid})"
            if not wait:
                raise RefigureError(f"{busy}: wait for it, or stop it first") from None
            print(f"{busy}: waiting for it", file=sys.stderr, flush=True)
            lock.acquire()
        holder.write_text(str(os.getpid()))
    try:
        yield
    finally:
        lock.release()
