"""Reading zip and tar archives that nobody vouches for: only plain files, only inside their folder, bounded."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from common.errors import RefigureError

__all__ = ["members"]

BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
Entry = tuple[str, int, bool, Callable[[], bytes]]
"""A member: its name, its declared size, whether it is a plain file, and what reads it."""


def members(archive: Path, only: Callable[[str], bool], limit: int = 2 << 30) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in the archive that `only` accepts, in the archive's order; nothing is written.

    Names come without a leading `./`. A member that `only` refuses is neither read nor judged.

    Raises:
        RefigureError: A name leads outside the folder (absolute, a drive, `..`), a member is a link, a device or
            encrypted, the chosen ones unpack to more than `limit` bytes, or the archive is damaged.
    """
    try:
        for name, size, plain, read in _zip_entries(archive) if zipfile.is_zipfile(archive) else _tar_entries(archive):
            if not only(name.removeprefix("./")):
                continue
            path = PurePosixPath(name.replace("\\", "/"))
            limit -= size
            why = "" if plain else "is a link or a device"
            if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in name.partition("/")[0]:
                why = "leads outside its folder"
            elif limit < 0:
                why = "makes the archive unpack to more than is allowed"
            if why:
                raise RefigureError(f"{archive}: member {name!r} {why}; it was not unpacked")
            yield str(path), read()
    except BROKEN as error:
        raise RefigureError(f"{archive} cannot be unpacked: {error}") from error


def _zip_entries(archive: Path) -> Iterator[Entry]:
    """The members of a zip archive; zipfile reads no more than the declared size, and refuses encrypted ones."""
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.is_dir():
                plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                yield info.filename, info.file_size, plain, partial(opened.read, info)


def _tar_entries(archive: Path) -> Iterator[Entry]:
    """The members of a tar archive, compressed or not."""
    with tarfile.open(archive) as opened:
        for member in opened:
            if not member.isdir():
                stream = opened.extractfile(member) if member.isfile() else None
                yield member.name, member.size, member.isfile(), stream.read if stream else bytes
        while opened.fileobj is not None and opened.fileobj.read(1 << 20):
            pass  # the compressed stream checks itself at its very end, beyond the last member
