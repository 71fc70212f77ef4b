"""`docs/gallery/`: the committed snapshot of all results, for people, page hosts and the README."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import atomic
from common.errors import RefigureError
from common.report.inputs import FORMATS
from common.report.page import number, render
from common.room import spec
from common.room.config import build as built
from common.verdict.claims import Judged

__all__ = ["build"]

BEGIN, END = "<!-- verdicts: written by `make gallery` -->", "<!-- end of verdicts -->"


def build(target: Path | None = None) -> Path:
    """Copy `results/` of every paper, write the index, and refresh the verdict table in the README.

    A paper that has neither results nor an earlier snapshot is left out, which a line on stderr says.

    Raises:
        RefigureError: Results of a paper that has a snapshot are not there, or no paper has any.
    """
    target = target or spec.root() / "docs" / "gallery"
    papers = spec.papers()
    known = [name for name in papers if (spec.root() / "results" / name).is_dir() or (target / name).is_dir()]
    for paper in set(papers) - set(known) if known else ():
        print(f"{paper}: no results yet, left out", file=sys.stderr)
    entries = [_copy(paper, target) for paper in known or papers]
    atomic.write_text(target / "index.html", render("gallery.html.j2", entries=entries))
    _refresh(spec.root() / "README.md", "\n".join(_verdict_rows(entries)))
    return target / "index.html"


def _copy(paper: str, target: Path) -> dict[str, Any]:
    room, source = spec.load(paper), spec.root() / "results" / paper
    if not (source / "index.html").is_file():
        raise RefigureError(
            f"{source} is not there: snakemake results/{paper} makes it, dvc pull results/{paper} brings it"
        )
    if _read(source / "provenance.json").get("scale") == "smoke":
        raise RefigureError(f"{source} was built at scale smoke, which is no snapshot: build it at cpu or paper first")
    records = _read(source / "claims.json")
    judged: list[Judged] = built(list[Judged], records, str(source / "claims.json"))
    names = ["index.html", "claims.json", *(f"figures/{name}.{kind}" for name in room.figures for kind in FORMATS)]
    shutil.rmtree(target / paper, ignore_errors=True)
    for name in names:
        atomic.write_bytes(target / paper / name, (source / name).read_bytes())
    return {"paper": paper, "room": room, "judged": judged}


def _read(path: Path) -> Any:
    """A JSON file of a build. Not by YAML, which takes 6e-05 for a text."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefigureError(f"{path}: {error}; snakemake results/{path.parent.name} makes it again") from None


def _verdict_rows(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Headline claims of all papers as a Markdown table."""
    yield "| paper | claim | published | ours (95 % interval) | seeds | verdict |"
    yield "|---|---|---:|---:|---:|---|"
    for entry in entries:
        for claim in entry["judged"]:
            if not claim.headline:
                continue
            ours = number(claim.ours)
            if claim.interval:
                ours += f" [{number(claim.interval[0])}, {number(claim.interval[1])}]"
            ours += f" {claim.unit}" if claim.unit else ""
            how = f" ({claim.provenance})" if claim.published is not None else ""
            yield (
                f"| {claim.paper} | {claim.statement} | {number(claim.published)}{how} | {ours} "
                f"| {claim.n_seeds} | {claim.verdict} |"
            )


def _refresh(readme: Path, table: str) -> None:
    """Put the table between its marks, if the file has them."""
    if not readme.is_file():
        return
    text = readme.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if begin and end:
        atomic.write_text(readme, f"{head}{BEGIN}\n{table}\n{END}{tail}")
