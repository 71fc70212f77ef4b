"""Verdicts as they were committed: `docs/gallery/<paper>/claims.json` at a git revision."""

import json
import subprocess
from typing import Any

from common.errors import RefigureError
from common.room import spec

__all__ = ["committed_verdicts"]


def committed_verdicts(paper: str, rev: str | None = None) -> list[dict[str, Any]]:
    """Identifiers and verdicts of a paper's claims at a revision (default: HEAD); empty where it had none yet.

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
        found: list[dict[str, Any]] = [{"id": entry["id"], "verdict": entry["verdict"]} for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError):
        raise RefigureError(f"git's {name} is no list of judged claims: `make gallery` and commit it again") from None
    return found


def _git(*arguments: str, fault: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=spec.root(), capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except FileNotFoundError:
        raise RefigureError("git is not installed, and this compares with committed verdicts") from None
    except subprocess.SubprocessError:
        raise RefigureError(fault) from None
