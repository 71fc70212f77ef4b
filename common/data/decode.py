"""Data sets as memory-mapped arrays: `load(name, split)` fetches, decodes once, checks and opens."""

import ast
import contextlib
import functools
import hashlib
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from common.data import fetching, registry
from common.data.fetching import cache_folder, hold, log
from common.data.registry import DataSet, Source, Split
from common.errors import RefigureError, suggest, writing

__all__ = ["declare", "decoded_folder", "load", "meaning", "verify"]

_declared: Collection[str] | None = None
_where = ""


def declare(names: Collection[str] | None, where: str = "") -> None:
    """Say which data sets this process may `load` (None allows any), and where they are declared, for the error's line.

    A run's key names the data that its experiment declares, so all that it reads must be among that.
    """
    global _declared, _where
    _declared, _where = names, where or "the experiment in papers/<paper>/paper.yaml"


def load(name: str, split: str = "train") -> Split:
    """A split of a data set as read-only, memory-mapped arrays.

    What they are, for each set, stands in `get(name).arrays`. Decoding happens once, into `decoded_folder(name)`. Each
    array is compared with its SHA-256, pinned or recorded, when a process opens it first; what is missing or changed is
    named in a warning and decoded again.

    Raises:
        RefigureError: An unknown name, a set that is not declared, data that cannot be had, or a decoder that gives
            other arrays than the registry pins.
    """
    from common.data.store import Damaged, read_split

    entry = registry.get(name)
    if split not in entry.splits:
        raise RefigureError(f"{name} has no split {split!r}: {suggest(split, entry.splits)}")
    if _declared is not None and name not in _declared:
        raise RefigureError(f"data set {name!r} is read and not declared: add it to `data:` of {_where}")
    folder = decoded_folder(name)
    try:
        return read_split(folder, entry, split)
    except Damaged as damage:
        if folder.exists():
            log.warning("%s: decoding %s again", damage, name)
    source, paths = fetching.obtain(name)
    with hold(cache_folder(name)):
        with contextlib.suppress(Damaged):  # unless another process has decoded it meanwhile
            return read_split(folder, entry, split)
        _decode(entry, source, paths, folder)
        return read_split(folder, entry, split)


def verify(name: str) -> list[tuple[str, str]]:
    """The same as `fetching.verify`, and the decoded arrays with it: all are hashed again."""
    from common.data.store import Damaged, check, read_record

    report, folder = fetching.verify(name), decoded_folder(name)
    if folder.is_dir():
        try:
            arrays = read_record(folder, registry.get(name))["arrays"]
        except Damaged as damage:
            return [*report, (folder.name, f"damaged: its record ({damage.why}); `load` decodes it again")]
        for key, expected in arrays.items():
            status = "ok"
            try:
                check(folder, key, expected, again=True)
            except Damaged as damage:
                status = f"damaged: {damage.why}; `load` decodes it again"
            report.append((f"{folder.name}/{key}", status))
    return report


def decoded_folder(name: str) -> Path:
    """Where a set's arrays lie: named by what the decoders do, so that an edited decoder never serves old arrays."""
    source = Path(__file__).with_name("decoders.py").read_text(encoding="utf-8")
    return cache_folder(name) / f"decoded-{meaning(source)}"


@functools.lru_cache(maxsize=1)
def meaning(source: str) -> str:
    """Eight hex digits that stand for what a module does: comments, layout and docstrings do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [line for line in node.body if not re.match("Expr.value=Constant", ast.dump(line))]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:8]


def _decode(entry: DataSet, source: Source, paths: dict[str, Path], target: Path) -> None:
    """Decode raw files to `target`, checked against the registry; folders of other decoders go."""
    from common.data import decoders, store

    fresh = target.with_name(f".{target.name}.part")
    try:
        arrays = f"the decoded arrays of {entry.name} to {target.parent}"
        with writing(arrays, fetching.ELSEWHERE, only_full=True):
            fresh.mkdir()
            try:
                content, checks = store.write(fresh, entry, decoders.decode(source, paths))
                _compare(entry, source, entry.checks, checks)
                _compare(entry, source, entry.content, content)
            except RefigureError:
                for raw in source.files:  # the next fetch shall not meet the same file again, if it is at fault
                    unproved = None if raw.identity else f"it does not decode to {entry.name}"
                    if wrong := fetching.fault(paths[raw.name], raw) or unproved:
                        fetching.set_aside(paths[raw.name], wrong)
                raise
            for folder in target.parent.glob("decoded-*"):
                shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _compare(entry: DataSet, source: Source, pinned: Mapping[str, str], decoded: Mapping[str, str]) -> None:
    """Refuse what was decoded if it is not what the registry pins, where it pins anything."""
    for key in sorted({*pinned, *decoded}) if pinned else ():
        if pinned.get(key) != decoded.get(key):
            why = "the decoder was changed, or the files are not this data set"
            if "jpeg" in source.decoder:
                why = "another libjpeg (the version of Pillow) decodes JPEG differently: install the locked one"
            raise RefigureError(
                f"{entry.name}: {source.decoder} decodes {', '.join(raw.name for raw in source.files)} to {key} = "
                f"{decoded.get(key)} instead of {pinned.get(key)}, so nothing was kept; {why}"
            )
