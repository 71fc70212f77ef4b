"""Data sets as memory-mapped arrays: `load(name, split)` fetches, decodes once and opens."""

import shutil
from pathlib import Path

from common import atomic
from common.data import files, registry, store
from common.data.fetching import cache_folder, obtain
from common.data.fetching import verify as verify_files
from common.data.registry import DataSet, Source
from common.data.store import Split
from common.errors import RefigureError, suggest

__all__ = ["load", "verify"]

VERSION = 1
"""Raised when what a decoder writes changes; older folders are then left alone and unused."""


def load(name: str, split: str = "train") -> Split:
    """A split of a data set as read-only, memory-mapped arrays.

    mnist, fashion-mnist: `images` (n, 28, 28) uint8, `labels` (n,) uint8.
    cifar10*, tiny-imagenet*: `images` (n, h, w, 3) uint8 RGB, `labels` (n,) uint8; names `classes`.
    omniglot (`background`, `evaluation`): `images` (characters, 20, 105, 105) uint8, 1 = ink; `alphabet`
        (index into the names `alphabets`), `character` (number in its alphabet), `file_id`.
    omniglot-runs (`test`): `train`, `test` (20 runs, 20, 105, 105) uint8, 1 = ink; `answers` (20, 20) uint8,
        the training drawing of the same character.
    ptb: `tokens` (n,) int32, each line closed by `<eos>`; names `vocabulary`, by falling training frequency.
    fsdd: `samples` int16 at 8 kHz, all recordings in a row, cut by `offsets` (n + 1,) int64; `digit`,
        `speaker` (index into the names `speakers`), `index`.

    Decoding happens once, into `<cache>/<set>/decoded-<version>`. Arrays that are missing or cut short are
    named in a warning and decoded again. RefigureError for unknown names, and when the data cannot be had.
    """
    entry = registry.get(name)
    if split not in entry.splits:
        raise RefigureError(f"{name} has no split {split!r}: {suggest(split, entry.splits)}")
    folder = cache_folder(name) / f"decoded-{VERSION}"
    opened = _open(entry, folder, split, warn=False)
    if opened is None:
        # The files first: `obtain` takes the same lock.
        if not folder.exists() or _open(entry, folder, split, warn=True) is None:
            source, paths = obtain(name)
            with files.lock(cache_folder(name)):
                if _open(entry, folder, split, warn=False) is None:
                    _decode(entry, source, paths, folder)
        opened = _open(entry, folder, split, warn=True)
    if opened is None:
        raise RefigureError(f"the arrays decoded to {folder} cannot be read back: is the disk sound?")
    return opened


def verify(name: str) -> list[tuple[str, str]]:
    """`fetching.verify`, and the decoded arrays with it: all are hashed again."""
    report = verify_files(name)
    folder = cache_folder(name) / f"decoded-{VERSION}"
    if not folder.is_dir():
        return report
    record = store.read_record(folder, registry.checksums(name))
    if record is None:
        return [*report, (folder.name, "damaged: no valid record; `load` decodes it again")]
    wrong = dict(store.damage(folder, record, full=True))
    for stored in record["arrays"].values():
        file = stored["file"]
        report.append((f"{folder.name}/{file}", f"damaged: {wrong[file]}" if file in wrong else "ok"))
    if wrong:  # without its record the folder counts as not decoded, so the next `load` mends it
        (folder / store.RECORD).unlink(missing_ok=True)
    return report


def _open(entry: DataSet, folder: Path, split: str, warn: bool) -> Split | None:
    record = store.read_record(folder, registry.checksums(entry.name))
    wrong = [(store.RECORD, "missing or of other data")] if record is None else store.damage(folder, record)
    if record is not None and not wrong:
        try:
            return store.read_split(folder, record, split)
        except (OSError, ValueError) as error:
            wrong = [(folder.name, str(error))]
    if warn:
        for file, why in wrong:
            files.log.warning("%s is damaged (%s): decoding %s again", folder / file, why, entry.name)
    return None


def _decode(entry: DataSet, source: Source, paths: dict[str, Path], target: Path) -> None:
    from common.data.decoders import DECODERS

    fresh = target.with_name(f".{target.name}.part")  # under the folder's lock there is only one
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        writer = store.Writer(fresh)
        try:
            DECODERS[source.decoder](paths, writer)
        except RefigureError:
            _distrust(source, paths, "it cannot be decoded")
            raise
        for key, expected in entry.content.items():
            got = writer.content.get(key)
            if got != expected:
                _distrust(source, paths, f"its {key} is not the published one")
                raise RefigureError(
                    f"{', '.join(paths)} of {entry.name}: {key} has SHA-256 {str(got)[:12]}... instead of "
                    f"{expected[:12]}..., so this is not the data set; nothing was kept"
                )
        writer.finish(registry.checksums(entry.name))
        store.replace_folder(fresh, target)
    except OSError as error:
        if atomic.is_full(error):
            raise RefigureError(
                f"no space left in {target.parent} for the decoded arrays of {entry.name}: free some, or set "
                "REFIGURE_DATA to a folder on another disk"
            ) from error
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _distrust(source: Source, paths: dict[str, Path], why: str) -> None:
    """Set aside files that only their content pins, so that the next fetch does not meet them again."""
    for raw in source.files:
        if not raw.pinned and paths[raw.name].exists():
            files.set_aside(paths[raw.name], why, "to be fetched again")
