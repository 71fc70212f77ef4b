"""Raw files into the cache, whole and verified: from a mirror, the repository's `data/`, or their official homes."""

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import filelock

from common.data import registry
from common.data.registry import RawFile, Source
from common.errors import RefigureError, writing

__all__ = ["MISSING", "cache_folder", "fault", "fetch", "hold", "log", "obtain", "scratch", "set_aside"]

log = logging.getLogger("refigure.data")
RETRIES = 2
MISSING, NOT_THERE = "missing", "the server answered 404"
ELSEWHERE = "free some space, or set REFIGURE_DATA to another folder"


def cache_folder(name: str = "") -> Path:
    """The cache, or a data set's folder in it: `REFIGURE_DATA`, else `refigure` in the user's cache folder."""
    if chosen := os.environ.get("REFIGURE_DATA"):
        return _expanded(chosen, "REFIGURE_DATA").absolute() / name
    base = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(base, "XDG_CACHE_HOME") / "refigure" / name


def _expanded(folder: str, variable: str) -> Path:
    """A folder that a variable names, `~` and `~user` as their home."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise RefigureError(f"{variable}={folder}: there is no such home; name a folder in full") from None


def fetch(name: str) -> dict[str, Path]:
    """The raw files of a data set, verified, by file name.

    Each comes from the cache if it is there and whole; else from `REFIGURE_MIRROR` (a folder or URL laid out as `<set
    folder>/<file>`); else from `data/` or `artifacts/` of the repository around this folder; else from its URLs. An
    exact repacking in a local place serves as well as the official archive. RefigureError says what to do without any.
    """
    return obtain(name)[1]


def obtain(name: str) -> tuple[Source, dict[str, Path]]:
    """The source whose files are nearest, and these files as `fetch` gives them."""
    sources, folder = registry.get(name).sources, cache_folder(name)
    rejected: list[str] = []
    with hold(folder):
        for source in sorted(sources, key=lambda source: not all((folder / raw.name).exists() for raw in source.files)):
            if all(_bring(raw, _near(raw, source), folder, rejected) for raw in source.files):
                break
        else:
            source = sources[0]
            for raw in source.files:
                if not _bring(raw, raw.urls, folder, rejected):
                    tried = "tried " + ", ".join(rejected) if rejected else "it has no public address"
                    mirror = "" if raw.urls else "set REFIGURE_MIRROR to a mirror that holds it, or "
                    place = f"put the file ({raw.identity or 'no checksum known'}) by hand at {folder / raw.name}"
                    raise RefigureError(f"cannot get {raw.name} of {name}: {tried}; {mirror}{place}")
        return source, {raw.name: folder / raw.name for raw in source.files}


def fault(path: Path, raw: RawFile) -> str | None:
    """What is wrong with the file at `path`, in words, or None if it is `raw`. Reads all of it."""
    try:
        size = path.stat().st_size
        if size != (raw.size or size):
            return f"{size:,} bytes instead of {raw.size:,}"
        if size == 0:
            return "empty"
        kind, _, expected = raw.identity.partition(":")
        if expected:
            with path.open("rb") as stream:
                actual = hashlib.file_digest(stream, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
            if actual != expected:
                return f"{kind} {actual[:12]}... instead of {expected[:12]}..."
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"unreadable ({error.strerror or error})"
    return None


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged file to `<name>.corrupt` and say so in one warning."""
    aside = path.with_name(path.name + ".corrupt")
    os.replace(path, aside)
    log.warning("%s is damaged (%s): set aside as %s, to be fetched again", path, why, aside.name)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a data set's folder against other processes; the system frees it if this one dies."""
    with writing(f"to the data cache {folder}", ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(folder / ".lock").acquire()
    with held:
        for leftover in folder.glob(".*.part"):  # of a killed process: no other holds the folder now
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextlib.contextmanager
def scratch(folder: Path, what: str) -> Iterator[Path]:
    """A folder inside `folder` to write `what` into, gone at the end; a full disk is a RefigureError."""
    with (
        writing(f"{what} to {folder}", ELSEWHERE, only_full=True),
        tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as path,
    ):
        yield Path(path)


def _near(raw: RawFile, source: Source) -> Iterator[str]:
    """Paths and URLs where the file may lie outside its official homes."""
    mirror = os.environ.get("REFIGURE_MIRROR", "")
    if "://" in mirror:
        yield f"{mirror.rstrip('/')}/{source.folder}/{raw.name}"
    elif mirror:
        yield str(_expanded(mirror, "REFIGURE_MIRROR") / source.folder / raw.name)
    parents = (Path.cwd(), *Path.cwd().parents)
    if repository := next((parent for parent in parents if (parent / ".git").exists()), None):
        yield str(repository / "data" / source.folder / raw.name)
        if raw.md5 and not raw.urls:  # what DVC keeps in the repository
            yield str(repository / "artifacts" / "released" / "files" / "md5" / raw.md5[:2] / raw.md5[2:])


def _bring(raw: RawFile, places: Iterable[str], folder: Path, rejected: list[str]) -> bool:
    """Whether the file is in the folder, whole, or one of the places gave it.

    A damaged file is set aside first. What was wrong with a place is added to `rejected`.
    """
    wrong = fault(folder / raw.name, raw)
    if wrong and wrong != MISSING:
        set_aside(folder / raw.name, wrong)
    for place in places if wrong else ():
        wrong = _install(place, raw, folder)
        if wrong is None:
            break
        rejected.append(f"{place} ({wrong})")
        if wrong not in (MISSING, NOT_THERE):
            log.warning("%s is not used: %s", place, wrong)
    return wrong is None


def _install(place: str, raw: RawFile, folder: Path) -> str | None:
    """Copy the file from a path or URL into the folder if it is `raw`; else say in words what is wrong with it."""
    try:
        with scratch(folder, f"{raw.name} ({(raw.size or 0) / 1e6:.0f} MB)") as fresh:
            copy = _download if "://" in place else shutil.copyfile
            copy(place, fresh / raw.name)
            if (wrong := fault(fresh / raw.name, raw)) is None:
                os.replace(fresh / raw.name, folder / raw.name)
            return wrong
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return error.strerror or str(error)


def _download(url: str, goal: Path) -> None:
    """Download to a file; OSError says what went wrong. Lost connections and server errors are tried again."""
    try:
        import pooch
        import requests
    except ImportError:
        raise OSError("a download needs the package pooch: pip install 'refigure[workflow]'") from None
    headers = {"Accept-Encoding": "identity"}  # some servers would have the client unpack the .gz
    stream = pooch.HTTPDownloader(sys.stderr.isatty(), chunk_size=1 << 16, timeout=(10.0, 60.0), headers=headers)

    for retries_left in reversed(range(1 + RETRIES)):  # pooch's own retries ask again for what the server lacks, too
        try:
            return stream(url, str(goal), None)
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 0
            if not retries_left or (400 <= status < 500 and status not in (408, 429)):
                raise OSError(_failure(error, status)) from error
            time.sleep(1)


def _failure(error: Exception, status: int) -> str:
    """What ended a download, in words."""
    kind = type(error).__name__
    if kind == "TooManyRedirects":
        return "the server redirects without end"
    if kind in ("ChunkedEncodingError", "ContentDecodingError"):
        return "the transfer broke off"
    return f"the server answered {status}" if status else f"no connection ({kind})"
