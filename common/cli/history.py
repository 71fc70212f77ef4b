"""What git knows: verdicts as they were committed, and the revisions that runs were made at."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import RefigureError
from common.room import spec
from common.run import record
from common.run.command import git

__all__ = ["committed_verdicts", "untraceable"]


def committed_verdicts(paper: str, rev: str | None = None) -> list[dict[str, Any]]:
    """Identifiers, verdicts and scales of a paper's claims at a revision (default: HEAD); empty where it had none.

    Raises:
        RefigureError: `rev` was given and names no revision (or git is not there), or the committed file is damaged.
    """
    if rev is not None and git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}") is None:
        raise RefigureError(f"--rev {rev}: no such git revision")
    name = f"{rev or 'HEAD'}:docs/gallery/{paper}/claims.json"
    text = git("show", name)
    try:
        return [{field: entry[field] for field in ("id", "verdict", "scale")} for entry in json.loads(text or "[]")]
    except (ValueError, TypeError, KeyError):
        raise RefigureError(f"git's {name} is no list of judged claims: `make gallery` and commit it again") from None


def untraceable(paper: str) -> Iterator[str]:
    """A line for each finished run that was neither made nor last replayed by a committed revision."""
    spec.load(paper)  # says which papers there are
    folder = spec.root() / "runs"
    for path in sorted((folder / paper).glob(f"*/*/*/{record.DONE}")):
        provenance = record.read(path.parent).provenance
        origins = [provenance, *provenance.get("carried", [])[-1:]]
        faults = [_fault(origin.get("revision") or {}) for origin in origins]
        if all(faults):
            yield f"{path.parent.relative_to(folder)}: {faults[-1]}; train it again, or refigure carry {paper}"


def _fault(revision: Mapping[str, Any]) -> str:
    commit = str(revision.get("git", "of no checkout"))
    if git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        return f"revision {commit[:14]} is unknown to git"
    return f"revision {commit[:14]} with changes that were not committed" if revision["dirty"] else ""
