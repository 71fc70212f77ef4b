"""A room for another paper, made of the templates in `common/cli/room/`."""

import importlib.util
import keyword
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template

from common import atomic
from common.errors import RefigureError
from common.room import spec

__all__ = ["make_room"]

RESERVED = {"papers", "tests", "runs", "results", "con", "prn", "aux", "nul"}
ROOM = Path(__file__).parent / "room"


def make_room(name: str) -> Iterator[str]:
    """Write `papers/<name>/` and enter it in `dvc.yaml`; a line for each file.

    Raises:
        RefigureError: The name is taken or is no Python identifier in small letters.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise RefigureError(f"{name!r} cannot name a room: small letters, digits and '_', a letter first")
    if name in RESERVED or importlib.util.find_spec(name):
        raise RefigureError(f"{name!r} cannot name a room: it names something else already, choose another name")
    root = spec.root()
    room = root / "papers" / name
    if room.exists():
        raise RefigureError(f"papers/{name} exists already: choose another name")
    for template in sorted(ROOM.rglob("*.txt")):
        target = room / template.relative_to(ROOM).with_suffix("")
        atomic.write_text(target, Template(template.read_text(encoding="utf-8")).substitute(paper=name))
        yield f"written: {target.relative_to(root)}"
    pipeline = root / "dvc.yaml"
    if pipeline.is_file():
        atomic.write_text(pipeline, _entered(pipeline.read_text(encoding="utf-8"), name))
        yield "entered: dvc.yaml"
    yield f"next: snakemake results/{name} --config scale=smoke; python -m pytest papers/{name}; then fill the room"


def _entered(text: str, name: str) -> str:
    """`dvc.yaml` with the paper in its matrix and its metrics file listed."""
    text = re.sub(r"(?m)^(\s*paper: \[[^\]]*)\]", rf"\g<1>, {name}]", text, count=1).replace("[, ", "[", 1)
    return re.sub(r"(?m)^metrics:\n", f"metrics:\n  - results/{name}/metrics.json\n", text, count=1)
