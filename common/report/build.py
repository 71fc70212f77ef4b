"""Makes `results/<paper>/` of the runs of one scale. Trains nothing."""

import base64
import csv
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import atomic
from common.errors import RefigureError
from common.report import theme
from common.report.inputs import published_runs
from common.report.page import render
from common.room import spec
from common.room.config import to_dict
from common.room.spec import Paper, PlannedRun, ScaleName
from common.run import record as runs
from common.verdict import claims
from common.verdict.claims import Judged

__all__ = ["build"]


def build(paper: str, scale: ScaleName, target: Path | None = None) -> Path:
    """Draw every figure of the scale's runs, judge every claim, write the page; returns the folder.

    Claims are also judged by runs under published settings, where these are done.

    Raises:
        RefigureError: A run of the scale is not done, or a fault in the spec, the claims or a figure.
    """
    folder = spec.root()
    target = target or folder / "results" / paper
    room = spec.load(paper)
    plans = spec.plan(paper, scale)
    finished = {plan.identity.path: _finished(folder / "runs", plan) for plan in plans}
    theme.apply()
    shown = list(finished.values())
    drawings = {name: _draw(paper, name, room, shown, target) for name in room.figures}
    others = published_runs(paper, scale)
    judged = claims.evaluate(paper, only={*finished, *(plan.identity.path for plan in others)})
    read = {run for claim in judged for run in claim.runs}
    for plan in others:
        if str(plan.identity) in read:
            plans.append(plan)
            finished[plan.identity.path] = _finished(folder / "runs", plan)
    records = [to_dict(claim) for claim in judged]
    atomic.write_json(target / "claims.json", records)
    atomic.write_text(target / "claims.csv", _claims_csv(judged))
    atomic.write_json(target / "metrics.json", _metrics(shown, judged))
    atomic.write_json(target / "provenance.json", _provenance(paper, scale, plans, finished))
    pictures = {
        name: base64.b64encode((target / "figures" / f"{name}.png").read_bytes()).decode() for name in room.figures
    }
    page = render(
        "report.html.j2",
        paper=paper,
        room=room,
        scale=scale,
        plans=plans,
        runs=finished,
        judged=judged,
        drawings=drawings,
        pictures=pictures,
    )
    atomic.write_text(target / "index.html", page)
    return target


def _finished(folder: Path, plan: PlannedRun) -> runs.FinishedRun:
    path = folder / plan.identity.path
    if (path / runs.DONE).is_file() and not runs.is_done(path, plan.identity.key):
        raise RefigureError(f"{path / runs.DONE} is damaged: delete {path} and build again")
    if not runs.is_done(path, plan.identity.key):
        raise RefigureError(
            f"run {plan.identity} is not there or not finished: snakemake results/{plan.identity.paper} "
            f"--config scale={plan.scale} makes it, dvc pull runs/{plan.identity.paper} may bring it"
        )
    return runs.read(path)


def _draw(paper: str, name: str, room: Paper, finished: Sequence[runs.FinishedRun], target: Path) -> theme.Drawing:
    """Draw and save one figure."""
    figure = room.figures[name]
    module_name, _, function_name = figure.draw.partition(":")
    if str(spec.root()) not in sys.path:
        sys.path.insert(0, str(spec.root()))
    module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if function is None:
        raise RefigureError(f"papers/{paper}/paper.yaml: figures.{name}.draw: {module_name} has no {function_name!r}")
    shown = (figure.experiment, *figure.also)
    drawing = function([run for run in finished if run.identity.experiment in shown])
    theme.save(drawing, target / "figures" / name)
    return drawing


def _claims_csv(judged: Sequence[Judged]) -> str:
    text = io.StringIO()
    names = ["id", "statement", "headline", "kind", "published", "published_error", "source", "provenance", "ours",
             "low", "high", "unit", "difference", "n_seeds", "seeds", "scale", "verdict", "reason"]  # fmt: skip
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for claim in judged:
        low, high = claim.interval or ("", "")
        seeds = " ".join(f"{seed}:{value:.6g}" for seed, value in claim.seeds.items())
        writer.writerow({**claim.__dict__, "low": low, "high": high, "seeds": seeds})
    return text.getvalue()


def _metrics(finished: Sequence[runs.FinishedRun], judged: Sequence[Judged]) -> dict[str, float]:
    """Flat, for `dvc metrics diff`: means over seeds, and the number of claims with each verdict."""
    flat: dict[str, list[float]] = {}
    for run in finished:
        for name, values in run.metrics.items():
            flat.setdefault(f"{run.identity.experiment}.{run.identity.variant}.{name}", []).extend(values)
    out = {name: sum(values) / len(values) for name, values in flat.items()}
    for claim in judged:
        verdict = "claims." + claim.verdict.replace(": ", "_").replace(" ", "_")
        out[verdict] = out.get(verdict, 0) + 1
    return out


def _provenance(
    paper: str, scale: str, plans: Sequence[PlannedRun], finished: dict[Path, runs.FinishedRun]
) -> dict[str, Any]:
    """Which runs made the results and where each comes from; only facts of the runs, so clones agree."""
    return {
        "paper": paper,
        "scale": scale,
        "runs": {
            plan.identity.path.as_posix(): {
                "key": plan.identity.key,
                "seeds": list(plan.identity.seeds),
                "scale": plan.scale,
                "deviations": to_dict(plan.deviations),
                **{
                    name: finished[plan.identity.path].provenance.get(name)
                    for name in (
                        "revision",
                        "started",
                        "seconds",
                        "sessions",
                        "device",
                        "precision",
                        "machine",
                        "threads",
                    )
                },
            }
            for plan in plans
        },
    }
