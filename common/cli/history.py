"""What git knows: verdicts as they were committed, and the revisions that runs were made at."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import RefigureError
from common.room import spec
from common.run import record

__all__ = ["committed_verdicts", "untraceable"]


def committed_verdicts(paper: str, rev: str | None = None) -> list[dict[str, Any]]:
    """Identifiers, verdicts and scales of a paper's claims at a revision (default: HEAD), from `docs/gallery/`.

    It is empty where the paper had none yet.

    Raises:
        RefigureError: `rev` was given and names no revision (or git is not there), or the committed file is damaged.
    """
    if rev is not None:
        _git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}", fault=f"--rev {rev}: no such git revision")
    name = f"{rev or 'HEAD'}:docs/gallery/{paper}/claims.json"
    try:
        text = _git("show", name, fault="not committed")
    except RefigureError:
        return []
    try:
        return [{field: entry[field] for field in ("id", "verdict", "scale")} for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        raise RefigureError(f"git's {name} is no list of judged claims: `make gallery` and commit it again") from None


def untraceable(paper: str) -> Iterator[str]:
    """A line for each finished run of which the code cannot be found.

    Its revision is unknown to git, or its tree had changes; if it was carried, also that of the last replay.
    """
    spec.load(paper)  # says which papers there are
    folder = spec.root() / "runs"
    runs = [record.read(path.parent) for path in sorted((folder / paper).glob(f"*/*/*/{record.DONE}"))]
    origins = [[run.provenance, *run.provenance.get("carried", [])[-1:]] for run in runs]
    revisions = {_revision(origin).get("git", "") for each in origins for origin in each}
    known = _known(sorted(revisions - {""}))
    for run, each in zip(runs, origins, strict=True):
        faults = [_fault(_revision(origin), known) for origin in each]
        if all(faults):
            yield f"{run.folder.relative_to(folder)}: {faults[-1]}; train it again, or refigure carry {paper}"


def _revision(origin: Mapping[str, Any]) -> Mapping[str, Any]:
    return origin.get("revision") or {}


def _fault(revision: Mapping[str, Any], known: set[str]) -> str:
    if revision.get("git") not in known:
        return f"revision {str(revision.get('git', 'of no checkout'))[:10]} is unknown to git"
    return f"revision {revision['git'][:10]} with changes that were not committed" if revision.get("dirty") else ""


def _known(revisions: list[str]) -> set[str]:
    """Those of some revisions that the repository has."""
    text = _git("cat-file", "--batch-check", fault="no git repository here: it tells which revisions exist",
                text="".join(f"{revision}\n" for revision in revisions))  # fmt: skip
    return {line.split()[0] for line in text.splitlines() if line.split()[1:2] == ["commit"]}


def _git(*arguments: str, fault: str, text: str = "") -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=spec.root(), input=text, capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except FileNotFoundError:
        raise RefigureError("git is not installed, and this compares with committed verdicts") from None
    except subprocess.SubprocessError:
        raise RefigureError(fault) from None
