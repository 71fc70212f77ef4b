"""What git knows of verdicts: which commits changed one, or the number of a headline claim."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import RefigureError
from common.report.page import number
from common.run.command import git

__all__ = ["Change", "changes", "committed_verdicts", "log"]

SHOWN = 8
"""Changes of a paper in one commit that the log names; of more it says how many."""


@dataclass(frozen=True)
class Change:
    """A claim that a commit changed."""

    commit: str
    """Abbreviated revision, date and subject."""
    claim: str
    before: str
    """Verdict and number."""
    after: str
    headline: bool
    """Whether it is or was one of the few that carry the paper."""


def committed_verdicts(paper: str, rev: str | None = None) -> list[dict[str, Any]]:
    """Identifiers, verdicts and scales of a paper's claims at a revision (default: HEAD); empty where it had none.

    Raises:
        RefigureError: `rev` was given and names no revision (or git is not there), or the committed file is damaged.
    """
    if rev is not None and git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}") is None:
        raise RefigureError(f"--rev {rev}: no such git revision")
    entries = _claims(paper, rev or "HEAD")
    return [{field: entry[field] for field in ("id", "verdict", "scale")} for entry in entries.values()]


def changes(paper: str) -> Iterator[Change]:
    """Claims whose verdict, or number if a headline, differs from one commit to the next; the latest first."""
    commits = (git("log", "--format=%h %cs %s", "--", _place(paper)) or "").splitlines()
    versions = [(commit, _claims(paper, commit.split()[0])) for commit in commits]
    for (commit, now), (_, before) in itertools.pairwise(versions):
        for name in [*now, *(name for name in before if name not in now)]:
            old, new = _shown(before.get(name)), _shown(now.get(name))
            if old != new:
                headline = any(side.get(name, {}).get("headline") for side in (now, before))
                yield Change(commit, name, old, new, bool(headline))


def log(papers: list[str]) -> str:
    """The changes of all papers as a Markdown page."""
    by_commit: dict[str, list[str]] = {}
    for paper in papers:
        for commit, group in itertools.groupby(changes(paper), key=lambda change: change.commit):
            ordered = sorted(group, key=lambda change: not change.headline)
            lines = [f"- {paper}/{each.claim}: {each.before} → {each.after}" for each in ordered]
            more = [f"- {paper}: {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            by_commit.setdefault(commit, []).extend([*lines[:SHOWN], *more])
    order = (git("log", "--format=%h %cs %s", "--", "docs/gallery") or "").splitlines()
    parts = [f"## {commit}\n\n" + "\n".join(by_commit[commit]) for commit in order if commit in by_commit]
    title = "# Commits that changed a verdict or a headline number"
    return "\n\n".join([title, "Written by `make gallery` from the commits before it.", *parts]) + "\n"


def _place(paper: str) -> str:
    return f"docs/gallery/{paper}/claims.json"


def _claims(paper: str, rev: str) -> dict[str, Mapping[str, Any]]:
    """The judged claims of a paper at a revision, by identifier; none where it had none."""
    name = f"{rev}:{_place(paper)}"
    try:
        entries = json.loads(git("show", name) or "[]")
        return {entry["id"]: {"scale": None, **entry, "verdict": entry["verdict"]} for entry in entries}
    except (ValueError, TypeError, KeyError):
        raise RefigureError(f"git's {name} is no list of judged claims: `make gallery` and commit it again") from None


def _shown(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "no claim"
    value = f" ({number(entry['ours'])})" if entry.get("headline") and entry.get("ours") is not None else ""
    return f"{entry['verdict']}{value}"
