"""The DVC side of the registry: `data/<set>/<file>.dvc` and the project that holds them.

`python -m common.data.dvcfiles [root]` writes them all; they are committed, and a test holds them to the
registry.

`data/` is a DVC project of its own, inside the repository's: `dvc pull` at the root brings figures and runs
and succeeds without a network, while `dvc --cd data pull -R mnist` brings raw files from their official
homes. DVC pulls a file with a recorded MD5 from remotes only, never from the address it was imported from. So
each file has a remote of its own whose address is the file's, ended by `#`: what DVC appends is a URL's
fragment, which is not sent. `verify` makes DVC compare the MD5. A file whose MD5 nobody publishes is an
import without one; DVC brings it by `dvc --cd data update <set>/<file>.dvc`.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.data import files
from common.data.fetching import fetch
from common.data.registry import DATASETS, RawFile, get

__all__ = ["adopt", "texts", "write"]


def _tracked() -> Iterator[tuple[str, str, RawFile]]:
    """(data set, folder, file) for each file that has an official home."""
    for entry in DATASETS.values():
        for raw in entry.files:
            if raw.urls:
                yield entry.name, entry.sources[0].folder, raw


def _remote(name: str, raw: RawFile) -> str:
    return f"{name}-{raw.name}".replace(".", "-")


def _stage_md5(dep: dict[str, Any], out: dict[str, Any]) -> str:
    """DVC's checksum of an import stage: what it is made of, sizes left out."""
    stage = {
        "deps": [{key: value for key, value in dep.items() if key != "size"}],
        "outs": [{key: value for key, value in out.items() if key != "size"}],
    }
    return hashlib.md5(json.dumps(stage, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _dvc_file(name: str, raw: RawFile) -> str:
    size = {"size": raw.size} if raw.size is not None else {}
    dep: dict[str, Any] = {**size, "hash": "md5", "path": raw.urls[0]}
    out: dict[str, Any] = {"hash": "md5", "path": raw.name, "push": False}
    if raw.md5:
        out = {"md5": raw.md5, **size, **out, "remote": _remote(name, raw)}
    lines = [f"desc: {json.dumps(get(name).title)}", f"md5: {_stage_md5(dep, out)}", "frozen: true"]
    for key, block in (("deps", dep), ("outs", out)):
        lines.append(f"{key}:")
        for number, (field, value) in enumerate(block.items()):
            shown = str(value).lower() if isinstance(value, bool) else value
            lines.append(f"{'- ' if number == 0 else '  '}{field}: {shown}")
    return "\n".join(lines) + "\n"


def texts() -> dict[str, str]:
    """Every file of the DVC project below `data/`, by its path there."""
    made: dict[str, str] = {".dvc/.gitignore": "/config.local\n/tmp\n/cache\n"}
    config: list[str] = []
    ignored: dict[str, list[str]] = {}
    for name, folder, raw in _tracked():
        made[f"{folder}/{raw.name}.dvc"] = _dvc_file(name, raw)
        ignored.setdefault(folder, []).append(f"/{raw.name}\n")
        if raw.md5:
            config += [
                f"['remote \"{_remote(name, raw)}\"']\n",
                f'    url = "{raw.urls[0]}#"\n',
                "    verify = true\n",
            ]
    made[".dvc/config"] = "".join(config)
    made.update({f"{folder}/.gitignore": "".join(lines) for folder, lines in ignored.items()})
    return made


def write(data: Path) -> list[Path]:
    """Write the project's files below the folder `data`; the paths that changed."""
    changed = []
    for relative, text in texts().items():
        path = data / relative
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def adopt(name: str, data: Path) -> list[Path]:
    """Put a data set's verified official files below `data`, and into DVC's cache there.

    `dvc --cd data status` is then as clean as after a pull. Files of a repacking are not DVC's and stay out.
    Returns the paths in `data`; RefigureError if the files cannot be had.
    """
    fetched = fetch(name)
    placed = []
    for owner, folder, raw in _tracked():
        if owner != name or raw.name not in fetched:
            continue
        target = data / folder / raw.name
        goals = [target]
        if raw.md5:
            goals.append(data / ".dvc/cache/files/md5" / raw.md5[:2] / raw.md5[2:])
        origin = fetched[raw.name]
        for goal in goals:
            if not goal.exists() or files.fault(goal, raw):
                goal.parent.mkdir(parents=True, exist_ok=True)
                _link(origin, goal, raw)
            origin = target  # DVC's object and the file are one on disk; the cache's copy stays its own
        placed.append(target)
    return placed


def _link(origin: Path, goal: Path, raw: RawFile) -> None:
    """Put a file at `goal`: DVC's object as a hard link, where the file system can, to the file beside it."""
    goal.unlink(missing_ok=True)
    if ".dvc" in goal.parts:
        with contextlib.suppress(OSError):
            os.link(origin, goal)
            return
    with origin.open("rb") as source:
        files.install(goal, raw, lambda stream: shutil.copyfileobj(source, stream, 1 << 20))


def main() -> None:
    """Write the files and list what changed."""
    parser = argparse.ArgumentParser(description="Write data/<set>/*.dvc and data/.dvc from the registry.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="the repository (default: here)")
    for path in write(parser.parse_args().root / "data"):
        print(path)


if __name__ == "__main__":
    main()
