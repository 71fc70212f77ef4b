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


def members(archive: Path, only: Callable[[str], bool], limit: int = 2 << 30) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in the archive that `only` accepts, in the archive's order; nothing is written.

    Names come without a leading `./`. A member that `only` refuses is neither read nor judged.

    Raises:
        RefigureError: A name leads outside the folder (absolute, a drive, `..`), a member is a link, a device or
            encrypted, the chosen ones unpack to more than `limit` bytes, or the archive is damaged.
    """
    try:
        for name, size, read in _entries(archive):
            if not only(name.removeprefix("./")):
                continue
            path = PurePosixPath(name.replace("\\", "/"))
            limit -= size
            if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in name.partition("/")[0]:
                raise RefigureError(f"{archive}: member {name!r} leads outside its folder; it was not unpacked")
            if read is None:
                raise RefigureError(f"{archive}: member {name!r} is a link or a device; it was not unpacked")
            if limit < 0:
                raise RefigureError(f"{archive} unpacks to more than is allowed; it stopped at member {name!r}")
            yield str(path), read()
    except BROKEN as error:
        raise RefigureError(f"{archive} cannot be unpacked: {error}") from error


def _entries(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes] | None]]:
    """Each member's name, declared size, and what reads it, or None if it is no plain file."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:  # reads no more than the declared size, and refuses encrypted members
            for info in opened.infolist():
                is_plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                yield info.filename, info.file_size, partial(opened.read, info) if is_plain else None
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            yield member.name, member.size, stream.read if stream else None
        while tar.fileobj is not None and tar.fileobj.read(1 << 20):
            pass  # the compressed stream checks itself at its very end, beyond the last member
