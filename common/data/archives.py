"""Reading zip and tar archives that nobody vouches for: only plain files, only inside their folder,
bounded."""

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from common.errors import RefigureError

__all__ = ["extract", "members"]

Only = Callable[[str], bool]
LIMIT = 2 << 30
"""Bytes that the chosen members may unpack to, in all."""
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def members(archive: Path, only: Only | None = None, limit: int = LIMIT) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in the archive that `only` accepts, in the archive's order.

    Names come without a leading `./`. RefigureError, naming archive and member, for a name that leaves the
    folder (absolute, a drive, `..`), a link or device, an encrypted member, more than `limit` bytes, or a
    damaged archive. A member that `only` refuses is neither read nor judged.
    """
    budget = [limit]
    try:
        if zipfile.is_zipfile(archive):
            yield from _zip_members(archive, only, budget)
        else:
            yield from _tar_members(archive, only, budget)
    except _BROKEN as error:
        raise RefigureError(f"{archive} cannot be unpacked: {error}") from error


def extract(archive: Path, into: Path, only: Only | None = None, limit: int = LIMIT) -> list[Path]:
    """Write the accepted members below `into`, which is made; the paths written. Rules and errors as
    `members`.

    Every name is judged before the first byte is written.
    """
    for _ in _names(archive, only):
        pass
    written = []
    for name, content in members(archive, only, limit):
        target = into / name
        if not target.resolve().is_relative_to(into.resolve()):
            raise _refusal(archive, name, "leads outside its folder through a link that lies there")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        written.append(target)
    return written


def _refusal(archive: Path, member: str, why: str) -> RefigureError:
    return RefigureError(f"{archive}: member {member!r} {why}; nothing of it was unpacked")


def _safe_name(archive: Path, member: str) -> str:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in member or ":" in path.parts[0]:
        raise _refusal(archive, member, "leads outside its folder")
    return str(path)


def _names(archive: Path, only: Only | None) -> Iterator[str]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for info in opened.infolist():
                    if _wanted(info.filename, only):
                        yield _zip_name(archive, info)
        else:
            with tarfile.open(archive) as opened_tar:
                for member in opened_tar:
                    if _wanted(member.name, only):
                        yield _tar_name(archive, member)
    except _BROKEN as error:
        raise RefigureError(f"{archive} cannot be unpacked: {error}") from error


def _wanted(name: str, only: Only | None) -> bool:
    return only is None or only(name.removeprefix("./"))


def _zip_name(archive: Path, info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refusal(archive, info.filename, "is a link or a device")
    if info.flag_bits & 1:
        raise _refusal(archive, info.filename, "is encrypted")
    return _safe_name(archive, info.filename)


def _tar_name(archive: Path, member: tarfile.TarInfo) -> str:
    if not (member.isfile() or member.isdir()):
        raise _refusal(archive, member.name, "is a link or a device")
    name = _safe_name(archive, member.name)
    if hasattr(tarfile, "data_filter"):  # a second opinion, from Python 3.11.4 on
        tarfile.data_filter(member, os.fspath(archive.parent))
    return name


def _spend(archive: Path, name: str, size: int, budget: list[int]) -> None:
    budget[0] -= size
    if budget[0] < 0:
        raise _refusal(archive, name, "makes the archive unpack to more than is allowed")


def _zip_members(archive: Path, only: Only | None, budget: list[int]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not _wanted(info.filename, only):
                continue
            name = _zip_name(archive, info)
            if info.is_dir():
                continue
            _spend(archive, name, info.file_size, budget)
            with opened.open(info) as stream:
                content = stream.read(info.file_size + 1)
            if len(content) != info.file_size:
                raise _refusal(archive, name, "is not as long as the archive declares")
            yield name, content


def _tar_members(archive: Path, only: Only | None, budget: list[int]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if not _wanted(member.name, only):
                continue
            name = _tar_name(archive, member)
            if member.isdir():
                continue
            _spend(archive, name, member.size, budget)
            stream = opened.extractfile(member)
            content = stream.read() if stream else b""
            if len(content) != member.size:
                raise _refusal(archive, name, "is cut short")
            yield name, content
        while opened.fileobj is not None and opened.fileobj.read(1 << 20):
            pass  # the compressed stream checks itself at its very end, beyond the last member
