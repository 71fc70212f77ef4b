"""Raw files into the cache, verified: from a mirror, the repository's `data/`, or their official homes."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from common.data import files, registry
from common.data.registry import DataSet, RawFile, Source
from common.errors import RefigureError

__all__ = ["cache_folder", "fetch", "obtain", "verify"]

NOT_THERE = "the server answered 404"
TRIES = 3
PAUSE = 1.0
"""Seconds before the second try of a URL; doubles each time."""
TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and to wait for the next bytes."""


def cache_folder(name: str = "") -> Path:
    """The cache, or a data set's folder in it: `REFIGURE_DATA`, else `refigure` in the user's cache
    folder."""
    chosen = os.environ.get("REFIGURE_DATA")
    if chosen:
        return Path(chosen).expanduser().absolute() / name
    try:
        import pooch
    except ImportError:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "refigure" / name
    return Path(pooch.os_cache("refigure")) / name


def fetch(name: str) -> dict[str, Path]:
    """The raw files of a data set, verified, by file name.

    Each file is taken from the cache if it is there and whole; else from `REFIGURE_MIRROR` (a folder or URL
    laid out as `<set folder>/<file>`); else from the `data/` of the repository around the current folder;
    else from its official URLs. A damaged file is named in a warning and the next place is tried. An exact
    repacking found in a local place serves as well as the official archive. RefigureError says what to do
    when no place has the data.
    """
    return obtain(name)[1]


def obtain(name: str) -> tuple[Source, dict[str, Path]]:
    """As `fetch`, with the source that the files belong to."""
    entry = registry.get(name)
    folder = cache_folder(name)
    with files.lock(folder):
        record = files.Record(folder)
        rejected: list[str] = []
        for source in _nearest_first(entry, folder):
            if all(
                _present(raw, folder, record) or _from_local(raw, source, folder, record, rejected)
                for raw in source.files
            ):
                return source, {raw.name: folder / raw.name for raw in source.files}
        source = next((one for one in entry.sources if all(raw.urls for raw in one.files)), entry.sources[0])
        for raw in source.files:
            if not _present(raw, folder, record):
                _download(entry, raw, folder, record, rejected)
        return source, {raw.name: folder / raw.name for raw in source.files}


def verify(name: str) -> list[tuple[str, str]]:
    """Hash again what the cache holds of a data set: (file, status) with status `ok`, `missing`, `damaged:
    ...` or, for a file that is pinned only by its decoded content, `ok (pinned by content)`. Changes nothing
    but the record of verified files."""
    entry = registry.get(name)
    folder = cache_folder(name)
    held = [one for one in entry.sources if any((folder / raw.name).exists() for raw in one.files)]
    if not folder.is_dir():
        return [(raw.name, "missing") for raw in entry.files]
    report = []
    with files.lock(folder):
        record = files.Record(folder)
        for raw in (raw for source in held or entry.sources[:1] for raw in source.files):
            path = folder / raw.name
            if not path.exists():
                report.append((raw.name, "missing"))
            elif wrong := files.fault(path, raw):
                record.drop(raw)
                report.append((raw.name, f"damaged: {wrong}"))
            else:
                record.add(raw)
                report.append((raw.name, "ok" if raw.pinned else "ok (pinned by content)"))
    return report


def _nearest_first(entry: DataSet, folder: Path) -> list[Source]:
    """Sources with files in the cache first; otherwise in the registry's order, the official one leading."""
    return sorted(entry.sources, key=lambda source: not all((folder / raw.name).exists() for raw in source.files))


def _present(raw: RawFile, folder: Path, record: files.Record) -> bool:
    path = folder / raw.name
    if record.holds(raw):
        return True
    if not path.exists():
        return False
    wrong = files.fault(path, raw)
    if wrong is None:
        record.add(raw)
        return True
    record.drop(raw)
    files.set_aside(path, wrong)
    return False


def _local_places(raw: RawFile, source: Source) -> Iterator[str]:
    """Paths and URLs outside the official homes where the file may lie."""
    mirror = os.environ.get("REFIGURE_MIRROR")
    if mirror:
        if "://" in mirror:
            yield f"{mirror.rstrip('/')}/{source.folder}/{raw.name}"
        else:
            yield str(Path(mirror).expanduser() / source.folder / raw.name)
    for parent in (Path.cwd(), *Path.cwd().parents):
        if (parent / ".git").exists():
            yield str(parent / "data" / source.folder / raw.name)
            break


def _from_local(raw: RawFile, source: Source, folder: Path, record: files.Record, rejected: list[str]) -> bool:
    for place in _local_places(raw, source):
        if "://" in place:
            wrong = _from_url(place, raw, folder, tries=1)
        elif Path(place).is_file():
            wrong = files.install(folder / raw.name, raw, partial(_copy, Path(place)))
        else:
            continue
        if wrong is None:
            record.add(raw)
            return True
        rejected.append(f"{place} ({wrong})")
        if wrong != NOT_THERE:
            files.log.warning("%s is not used: %s", place, wrong)
    return False


def _copy(origin: Path, stream: IO[bytes]) -> None:
    with origin.open("rb") as source:
        shutil.copyfileobj(source, stream, 1 << 20)


def _download(entry: DataSet, raw: RawFile, folder: Path, record: files.Record, rejected: list[str]) -> None:
    for url in raw.urls:
        wrong = _from_url(url, raw, folder)
        if wrong is None:
            record.add(raw)
            return
        files.log.warning("%s: %s", url, wrong)
        rejected.append(f"{url} ({wrong})")
    tried = "tried " + ", ".join(rejected) if rejected else "it has no public address"
    known = f" ({raw.identity})" if raw.pinned else ""
    mirror = "" if raw.urls else "set REFIGURE_MIRROR to a mirror that holds it, or "
    raise RefigureError(
        f"cannot get {raw.name} of {entry.name}: {tried}; {mirror}put the file{known} by hand at {folder / raw.name}"
    )


def _from_url(url: str, raw: RawFile, folder: Path, tries: int = TRIES) -> str | None:
    """Download to the cache; what went wrong, or None. Tries again after lost connections and server
    errors."""
    try:
        import pooch
        import requests
    except ImportError:
        return "a download needs the package pooch: pip install 'refigure[workflow]'"
    try:
        import tqdm  # noqa: F401  pooch's progress bar

        bar = sys.stderr.isatty()
    except ImportError:
        bar = False

    get: Callable[..., object] = pooch.HTTPDownloader(
        progressbar=bar,
        chunk_size=1 << 16,
        timeout=TIMEOUT,
        headers={"Accept-Encoding": "identity"},  # some servers would have the client unpack the .gz
    )
    wrong: str | None = None
    for attempt in range(tries):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            wrong = files.install(folder / raw.name, raw, lambda stream: _stream(get, url, stream))
            if wrong is None:
                return None
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            wrong = NOT_THERE if status == 404 else f"the server answered {status}"
            if 400 <= status < 500 and status not in (408, 429):
                return wrong
        except (requests.RequestException, ValueError) as error:
            wrong = f"no connection ({type(error).__name__})"
        except RefigureError:
            raise
        except OSError as error:
            wrong = f"interrupted ({error.strerror or error})"
    return wrong


def _stream(get: Callable[..., object], url: str, stream: IO[bytes]) -> None:
    get(url, stream, None)
