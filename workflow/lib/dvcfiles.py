"""Verified files placed where `data/<set>/<file>.dvc` tracks them: `python workflow/lib/dvcfiles.py mnist`."""

import os
import shutil
import sys
from pathlib import Path

from common.data.fetching import fault, fetch
from common.data.registry import get
from common.errors import status_of


def adopt(name: str, data: Path) -> list[Path]:
    """Put a data set's verified official files below the folder `data`, and into DVC's cache there; their paths.

    `dvc --cd data status` is then as clean as after a pull. Files of a repacking are not DVC's and stay out.
    """
    fetched, source, placed = fetch(name), get(name).sources[0], []
    for raw in (raw for raw in source.files if raw.urls and raw.name in fetched):
        placed.append(data / source.folder / raw.name)
        tracked = [data / ".dvc/cache/files/md5" / raw.md5[:2] / raw.md5[2:]] if raw.md5 else []
        for goal in (placed[-1], *tracked):
            if fault(goal, raw):
                unfinished = goal.with_name(f".{goal.name}.part")
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fetched[raw.name], unfinished)
                os.replace(unfinished, goal)
    return placed


if __name__ == "__main__":
    sys.exit(status_of(lambda: print(*(path for name in sys.argv[1:] for path in adopt(name, Path("data"))), sep="\n")))
