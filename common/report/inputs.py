"""What a report is made of, without making it; light, for the workflow's every start."""

import hashlib

from common.room import spec
from common.room.config import canonical, to_dict
from common.room.digest import code_digest, code_manifest
from common.room.spec import PlannedRun, ScaleName
from common.run import record as runs
from common.verdict import claims

__all__ = ["FORMATS", "digest_of_drawing", "output_names", "published_runs"]

FORMATS = ("png", "pdf", "csv")
TABLES = ("claims.csv", "claims.json", "metrics.json", "provenance.json")


def output_names(paper: str) -> list[str]:
    """Every file of `results/<paper>/`, relative to it."""
    figures = [f"figures/{name}.{kind}" for name in spec.load(paper).figures for kind in FORMATS]
    return ["index.html", *TABLES, *figures]


def published_runs(paper: str, scale: ScaleName) -> list[PlannedRun]:
    """Runs under published settings that are done and no part of `scale`: claims are judged by them, too."""
    if scale == "paper":
        return []
    mine = {plan.identity.path for plan in spec.plan(paper, scale)}
    return [
        plan
        for plan in spec.plan(paper, "paper")
        if plan.identity.path not in mine and runs.is_done(spec.root() / "runs" / plan.identity.path, plan.identity.key)
    ]


def digest_of_drawing(paper: str, scale: ScaleName) -> str:
    """64 hex digits that change when what draws a paper does.

    That is code by meaning, spec and claims by content, and runs under published settings beside those of the scale.

    Raises:
        RefigureError: A fault in the spec, the claims or the code.
    """
    room, folder = spec.load(paper), spec.root()
    modules = sorted({figure.draw.partition(":")[0] for figure in room.figures.values()} | {"common.report.build"})
    templates = sorted((folder / "common" / "report" / "templates").iterdir())
    content = [
        scale,
        to_dict(room),
        to_dict(claims.load(paper)),
        [code_digest(code_manifest(folder, module)) for module in modules],
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in templates if path.is_file()],
        [plan.identity.path.as_posix() for plan in published_runs(paper, scale)],
    ]
    return hashlib.sha256(canonical(content).encode()).hexdigest()
