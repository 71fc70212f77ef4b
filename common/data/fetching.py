"""Raw files into the cache, whole and verified: from a mirror, the repository's `data/`, or their official homes."""

import contextlib
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import filelock

from common.data import registry
from common.data.registry import RawFile, Source
from common.errors import RefigureError, writing

__all__ = ["ELSEWHERE", "cache_folder", "fault", "fetch", "hold", "log", "obtain", "set_aside", "verify"]

log = logging.getLogger("refigure.data")
RETRIES = 2
ELSEWHERE = "free some space, or set REFIGURE_DATA to another folder"


def cache_folder(name: str = "") -> Path:
    """The cache, or a data set's folder in it: `REFIGURE_DATA`, else `refigure` in the user's cache folder."""
    if chosen := os.environ.get("REFIGURE_DATA"):
        return Path(chosen).expanduser().absolute() / name
    base = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "refigure" / name


def fetch(name: str) -> dict[str, Path]:
    """The raw files of a data set, verified, by file name.

    Each comes from the cache if it is there and whole; else from `REFIGURE_MIRROR` (a folder or URL laid out as `<set
    folder>/<file>`); else from `data/` of the repository around the current folder; else from its official URLs. An
    exact repacking in a local place serves as well as the official archive. RefigureError says what to do without any.
    """
    return obtain(name)[1]


def obtain(name: str) -> tuple[Source, dict[str, Path]]:
    """The source whose files are nearest, and these files as `fetch` gives them."""
    sources, folder = registry.get(name).sources, cache_folder(name)
    with hold(folder):
        rejected: list[str] = []
        for source in sorted(sources, key=lambda source: not all((folder / raw.name).exists() for raw in source.files)):
            if all(_whole(folder, raw) or _take(raw, _near(raw, source), 0, folder, rejected) for raw in source.files):
                break
        else:
            source = next((source for source in sources if all(raw.urls for raw in source.files)), sources[0])
            for raw in source.files:
                if not (_whole(folder, raw) or _take(raw, raw.urls, RETRIES, folder, rejected)):
                    tried = "tried " + ", ".join(rejected) if rejected else "it has no public address"
                    mirror = "" if raw.urls else "set REFIGURE_MIRROR to a mirror that holds it, or "
                    place = f"put the file ({raw.identity or 'no checksum known'}) by hand at {folder / raw.name}"
                    raise RefigureError(f"cannot get {raw.name} of {name}: {tried}; {mirror}{place}")
        return source, {raw.name: folder / raw.name for raw in source.files}


def verify(name: str) -> list[tuple[str, str]]:
    """(file, status) of what the cache holds, hashed: `ok`, `ok (pinned by content)`, `missing` or `damaged: ...`."""
    sources, folder = registry.get(name).sources, cache_folder(name)
    present = [source for source in sources if any((folder / raw.name).exists() for raw in source.files)]
    report = {}
    for raw in (raw for source in present or sources[:1] for raw in source.files):
        wrong = fault(folder / raw.name, raw)
        report[raw.name] = f"damaged: {wrong}" if wrong else "ok" if raw.identity else "ok (pinned by content)"
        if not (folder / raw.name).exists():
            report[raw.name] = "missing"
    return list(report.items())


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


def _whole(folder: Path, raw: RawFile) -> bool:
    """Whether the file is in the folder and whole; a damaged one is set aside."""
    path = folder / raw.name
    if path.exists() and (wrong := fault(path, raw)):
        set_aside(path, wrong)
    return path.exists()


def _install(raw: RawFile, write: Callable[[Path], object], folder: Path) -> str | None:
    """Let `write` make the file at a temporary path; move it into the folder only if it is `raw`.

    Returns what was wrong with it (nothing is kept then), or None once it is in place. What `write` raises passes on
    after the temporary file is gone, a full disk as a RefigureError.
    """
    part = folder / f".{raw.name}.part" / raw.name
    try:
        with writing(f"{raw.name} ({(raw.size or 0) / 1e6:.0f} MB) to {folder}", ELSEWHERE, only_full=True):
            part.parent.mkdir()
            write(part)
            if (wrong := fault(part, raw)) is None:
                os.replace(part, folder / raw.name)
            return wrong
    finally:
        shutil.rmtree(part.parent, ignore_errors=True)


def _near(raw: RawFile, source: Source) -> Iterator[str]:
    """Paths and URLs outside the official homes where the file may lie."""
    mirror = os.environ.get("REFIGURE_MIRROR", "")
    if "://" in mirror:
        yield f"{mirror.rstrip('/')}/{source.folder}/{raw.name}"
    elif mirror:
        yield str(Path(mirror).expanduser() / source.folder / raw.name)
    for parent in (Path.cwd(), *Path.cwd().parents):
        if (parent / ".git").exists():
            yield str(parent / "data" / source.folder / raw.name)
            break


def _take(raw: RawFile, places: Iterable[str], retries: int, folder: Path, rejected: list[str]) -> bool:
    """Whether a place gave the file to the folder; what was wrong with the others is added to `rejected`."""
    for place in places:
        if "://" in place:
            wrong = _download(place, raw, retries, folder)
        elif Path(place).is_file():
            wrong = _install(raw, partial(shutil.copyfile, place), folder)
        else:
            continue
        if wrong is None:
            return True
        rejected.append(f"{place} ({wrong})")
        if wrong != "the server answered 404":
            log.warning("%s is not used: %s", place, wrong)
    return False


def _download(url: str, raw: RawFile, retries: int, folder: Path) -> str | None:
    """Download to the folder; what went wrong, or None. Lost connections and server errors are tried again."""
    try:
        import pooch
        import requests
    except ImportError:
        return "a download needs the package pooch: pip install 'refigure[workflow]'"
    pooch.get_logger().setLevel(logging.WARNING)
    headers = {"Accept-Encoding": "identity"}  # some servers would have the client unpack the .gz
    stream = pooch.HTTPDownloader(sys.stderr.isatty(), chunk_size=1 << 16, timeout=(10.0, 60.0), headers=headers)

    def attempt(address: str, target: str, caller: object) -> None:
        try:
            stream(address, target, caller)
        except requests.HTTPError as error:
            status = getattr(error.response, "status_code", 0)
            final = 400 <= status < 500 and status not in (408, 429)  # pooch does not try again after OSError
            raise (OSError if final else ValueError)(f"the server answered {status}") from error

    def write(part: Path) -> None:
        known = {part.name: None}  # `_install` compares the checksum, and a wrong file is not worth asking for again
        shelf = pooch.create(part.parent, "", registry=known, urls={part.name: url}, retry_if_failed=retries)
        shelf.fetch(part.name, downloader=attempt)

    try:
        return _install(raw, write, folder)
    except requests.RequestException as error:
        return f"no connection ({type(error).__name__})"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
