"""`docs/gallery/`: the committed snapshot of all results, for people, page hosts and the README."""

import fnmatch
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import atomic
from common.errors import RefigureError, suggest
from common.report import history
from common.report.inputs import checked_results, output_names
from common.report.page import claims_markdown, render
from common.room import claims, spec
from common.room.claims import Class
from common.verdict.judge import SMALLER, Judged, from_records

__all__ = ["build", "with_claims"]

BEGIN, END = "<!-- verdicts: written by `make gallery` -->", "<!-- end of verdicts -->"
COLUMNS: dict[Class, tuple[str, str]] = {
    "printed": ("numbers it prints", "numbers and orders that the papers print"),
    "replication": ("others' numbers", "numbers that others published"),
    "reference": ("against the authors' code", "comparisons with runs of the authors' code"),
    "direction": ("in words", "things that the papers say in words"),
}
"""Classes that the first page counts: the head of a column, and what is counted in a sentence."""


def build() -> Path:
    """Copy `results/` of every paper, write the index, and refresh the verdict table in the README.

    A paper that has neither results nor an earlier snapshot is left out, which a line on stderr says.

    Raises:
        RefigureError: Results of a paper that has a snapshot are not there or were altered, or no paper has any.
    """
    results, target, papers = spec.root() / "results", spec.root() / "docs" / "gallery", spec.papers()
    known = [name for name in papers if (results / name).is_dir() or (target / name).is_dir()] or papers
    for paper in set(papers) - set(known):
        print(f"{paper}: no results yet, left out", file=sys.stderr)
    entries = [_entry(paper, results / paper) for paper in known]
    for paper in known:  # all of which are whole
        shutil.rmtree(target / paper, ignore_errors=True)
        for name in output_names(paper):
            if name.startswith("figures/") or name in ("index.html", "claims.json"):
                atomic.write_bytes(target / paper / name, (results / paper / name).read_bytes())
    atomic.write_text(target / "index.html", render("gallery.html.j2", entries=entries))
    _refresh(spec.root() / "README.md", "\n".join(_summary_rows(entries)))
    atomic.write_text(spec.root() / "docs" / "numbers.md", history.log(known))
    for entry in entries:
        readme = spec.root() / "papers" / entry["paper"] / "README.md"
        if readme.is_file():
            atomic.write_text(readme, with_claims(readme.read_text(encoding="utf-8"), entry["judged"], readme))
    return target / "index.html"


def with_claims(text: str, judged: Sequence[Judged], where: Path) -> str:
    """A room's README with its marked tables written anew.

    Each stands between `<!-- claims: S1a-* S2 -->`, which names identifiers or patterns of them, and
    `<!-- end of claims -->`.

    Raises:
        RefigureError: A mark names no claim, or has no end.
    """

    def table(match: re.Match[str]) -> str:
        rows = []
        for pattern in match[1].split():
            named = [claim for claim in judged if fnmatch.fnmatch(claim.id, pattern)]
            if not named:
                raise RefigureError(f"{where}: no claim {pattern!r}; {suggest(pattern, (each.id for each in judged))}")
            rows += named
        lines = "\n".join(claims_markdown(list({claim.id: claim for claim in rows}.values())))
        return f"<!-- claims: {match[1]} -->\n{lines}\n<!-- end of claims -->"

    begun, ended = text.count("<!-- claims: "), text.count("<!-- end of claims -->")
    if begun != ended:
        raise RefigureError(f"{where}: {begun} marks `<!-- claims: ... -->`, but {ended} `<!-- end of claims -->`")
    return re.sub(r"<!-- claims: (.*?) -->.*?<!-- end of claims -->", table, text, flags=re.DOTALL)


def _entry(paper: str, source: Path) -> dict[str, Any]:
    """What the index says of a paper, whose results are as they were drawn."""
    if checked_results(paper)["scale"] == "smoke":
        raise RefigureError(f"{source} was built at scale smoke, which is no snapshot: build it at cpu or paper first")
    records = json.loads((source / "claims.json").read_text(encoding="utf-8"))
    commands = {claim.id: claim.command(paper) for claim in claims.load(paper)}
    judged = from_records(records, f"{source}/claims.json")
    return {"paper": paper, "room": spec.load(paper), "judged": judged, "commands": commands}


def _summary_rows(entries: list[dict[str, Any]]) -> Iterator[str]:
    """What came out in all, a line for each paper as a Markdown table, and what was learned."""
    everything: list[Judged] = [claim for entry in entries for claim in entry["judged"]]
    for origin, (_, counted) in COLUMNS.items():
        group = [claim for claim in everything if claim.origin == origin]
        whole = [claim.verdict for claim in group if _at_conditions(claim)]
        yield f"- Of {len(group)} {counted}, **{len(whole)}** are judged" + (f": {_counted(whole)}." if whole else ".")
    yield ""
    yield f"| paper | {' | '.join(head for head, _ in COLUMNS.values())} | not run |"
    yield f"|---|{'---|' * len(COLUMNS)}---:|"
    for entry in entries:
        judged, home = entry["judged"], f"papers/{entry['paper']}/README.md"
        cells = [_tally(judged, origin) for origin in COLUMNS]
        missing = sum(claim.verdict == "not run" for claim in judged)
        yield f"| [{entry['paper']}]({home}): {entry['room'].title} | {' | '.join(cells)} | {missing} |"
    for entry in entries:
        if entry["room"].learned:
            yield ""
            yield f"**{entry['paper']}**: {entry['room'].learned}"


def _at_conditions(claim: Judged) -> bool:
    """Whether it has a verdict under the paper's conditions."""
    return claim.verdict != "not run" and not claim.too_few and not claim.verdict.startswith(SMALLER)


def _tally(judged: list[Judged], origin: str) -> str:
    """How many claims of a class were judged at the paper's conditions, and what smaller runs gave."""
    group = [claim for claim in judged if claim.origin == origin]
    if not group:
        return "–"
    whole = [claim.verdict for claim in group if _at_conditions(claim)]
    smaller = [claim.verdict.removeprefix(SMALLER) for claim in group
               if claim.verdict.startswith(SMALLER) and not claim.too_few]  # fmt: skip
    few = sum(claim.too_few for claim in group)
    judged_here = ": ".join(filter(None, [f"**{len(whole)} of {len(group)}** judged", _counted(whole)]))
    rest = [f"smaller runs: {_counted(smaller)}" if smaller else "", f"{few} with too few seeds" if few else ""]
    return "; ".join(filter(None, [judged_here, *rest]))


def _counted(words: Sequence[str]) -> str:
    """How often each verdict was given, the most frequent first."""
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common())


def _refresh(readme: Path, table: str) -> None:
    """Put the table between its marks, if the file has them."""
    if readme.is_file():
        marked = re.compile(f"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", re.DOTALL)
        atomic.write_text(readme, marked.sub(lambda _: f"\n{table}\n", readme.read_text(encoding="utf-8"), count=1))
