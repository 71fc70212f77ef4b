"""What a report is made of, without making it; light, for the workflow's every start."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import RefigureError
from common.room import claims, spec
from common.room.config import canonical, to_dict
from common.room.plan import PlannedRun, code_of, plan
from common.room.spec import ScaleName
from common.run import record

__all__ = ["checked_results", "digest_of", "inputs_of", "is_current", "output_names", "runs_of"]

FORMATS = ("png", "pdf", "csv")
PROVENANCE = "provenance.json"


def output_names(paper: str) -> list[str]:
    """Every file of `results/<paper>/`, relative to it; `provenance.json` last."""
    figures = [f"figures/{name}.{kind}" for name in spec.load(paper).figures for kind in FORMATS]
    return [*figures, "index.html", "claims.csv", "claims.json", "metrics.json", PROVENANCE]


def runs_of(paper: str, scale: ScaleName) -> list[PlannedRun]:
    """The runs of a scale, and those under published settings that are done, by which claims are judged, too."""
    shown = {run.identity.path: run for run in plan(paper, scale)}
    others = [run for run in plan(paper, "paper") if run.identity.path not in shown]
    return [*shown.values(), *(run for run in others if record.is_done(run.folder, run.identity.key))]


def inputs_of(paper: str, scale: ScaleName) -> dict[str, str]:
    """All that a drawing is made of, as it is now: file or run to a digest, of code by its meaning.

    Raises:
        RefigureError: A fault in the spec, the claims or the code.
    """
    room, folder = spec.load(paper), spec.root()
    functions = [figure.draw.partition(":")[::2] for figure in room.figures.values()]
    code = code_of(*dict.fromkeys(functions), ("common.report.build", "build"))
    inputs = {file: digest_of(definitions) for file, definitions in code.manifest.items()} | {"code": code.digest}
    for template in (folder / "common" / "report" / "templates").glob("*.j2"):
        inputs[template.relative_to(folder).as_posix()] = record.sha256_of(template)
    inputs[f"papers/{paper}/paper.yaml"] = digest_of([scale, to_dict(room)])
    inputs[f"papers/{paper}/claims.yaml"] = digest_of(to_dict(claims.load(paper)))
    for run in runs_of(paper, scale):
        files = [_checksum(run.folder / name) for name in (record.DONE, record.PROVENANCE)]
        inputs[f"runs/{run.identity}"] = digest_of([run.scale, to_dict(run.deviations), files])
    return inputs


def is_current(paper: str, scale: ScaleName) -> bool:
    """Whether `results/<paper>/` is what would be drawn now, whatever the times of its files.

    A fault in the spec, the claims or the code is raised (RefigureError); one in the results is not.
    """
    drawing = digest_of(inputs_of(paper, scale))
    try:
        return bool(checked_results(paper)["drawing"] == drawing)
    except RefigureError:
        return False


def checked_results(paper: str) -> dict[str, Any]:
    """The `provenance.json` of a paper's results, after comparing every file with it.

    Raises:
        RefigureError: A file is not there, or not as the build wrote it.
    """
    folder = spec.root() / "results" / paper
    again = f"snakemake results/{paper} makes it again, dvc pull results/{paper} may bring it"
    provenance = record.read_whole(folder / PROVENANCE, again)
    files: Mapping[str, str] = provenance["files"]
    altered = [name for name in output_names(paper)[:-1] if _checksum(folder / name) != files.get(name)]
    if altered:
        raise RefigureError(f"{folder / altered[0]} is not as it was drawn: {again}")
    return provenance


def _checksum(path: Path) -> str:
    return record.sha256_of(path) if path.is_file() else "missing"


def digest_of(value: Any) -> str:
    """64 hex digits of plain data."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
