"""Makes `results/<paper>/` of the runs of one scale. Trains nothing."""

import base64
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import atomic
from common.errors import RefigureError
from common.report import theme
from common.report.inputs import PROVENANCE, digest_of, inputs_of, output_names, runs_of
from common.report.page import claims_csv, render
from common.room import claims, spec
from common.room import plan as planning
from common.room.claims import Claim
from common.room.config import to_dict
from common.room.plan import PlannedRun
from common.room.spec import Figure, Paper, ScaleName
from common.run import record
from common.run.record import FinishedRun
from common.verdict.evidence import evaluate
from common.verdict.judge import Judged, to_records

__all__ = ["build", "shown"]

FACTS = ("revision", "started", "seconds", "sessions", "device", "precision", "machine", "threads", "carried")
"""What the results say of a run's provenance, where it has it."""


def build(paper: str, scale: ScaleName) -> Path:
    """Draw every figure, judge every claim, write the page; returns the folder.

    Figures show the scale's runs, some of them runs under published settings (`shown`); claims are judged by both.
    `provenance.json` is written last, with the checksums of the other files.

    Raises:
        RefigureError: A run of the scale is not done or damaged, a fault in the spec, the claims or a figure, or
            something that is drawn from changed meanwhile.
    """
    inputs, target = inputs_of(paper, scale), spec.root() / "results" / paper
    room, published, plans = spec.load(paper), claims.load(paper), runs_of(paper, scale)
    finished = {each.identity.path: _finished(each) for each in plans}
    shown_in = {name: shown(room, figure, plans, scale) for name, figure in room.figures.items()}
    theme.apply()
    drawings = {
        name: _draw(paper, name, room, [finished[each.identity.path] for each in shown_in[name]], published, target)
        for name in room.figures
    }
    judged = evaluate(paper, only=finished)
    read = {run for claim in judged for run in claim.runs}
    read |= {str(each.identity) for planned in shown_in.values() for each in planned}
    plans = [each for each in plans if each.scale == scale or str(each.identity) in read]
    atomic.write_json(target / "claims.json", to_records(judged))
    atomic.write_text(target / "claims.csv", claims_csv(judged))
    at_scale = [finished[each.identity.path] for each in plans if each.scale == scale]
    atomic.write_json(target / "metrics.json", _metrics(at_scale, judged))
    pictures = {
        name: base64.b64encode((target / "figures" / f"{name}.png").read_bytes()).decode() for name in room.figures
    }
    page = render(
        "report.html.j2", paper=paper, room=room, scale=scale, plans=plans, runs=finished, judged=judged,
        drawings=drawings, pictures=pictures, commands={claim.id: claim.command(paper) for claim in published},
    )  # fmt: skip
    atomic.write_text(target / "index.html", page)
    files = {name: record.sha256_of(target / name) for name in output_names(paper)[:-1]}
    planning.forget()
    after = inputs_of(paper, scale)
    if changed := sorted(name for name in {*inputs, *after} if inputs.get(name) != after.get(name)):
        raise RefigureError(f"{', '.join(changed[:3])} changed while results/{paper} was drawn: build again")
    runs = {str(each.identity): _provenance(each, finished[each.identity.path]) for each in plans}
    provenance = {"paper": paper, "scale": scale, "runs": runs, "drawing": digest_of(inputs), "files": files}
    atomic.write_json(target / PROVENANCE, record.with_digest(provenance))
    return target


def _finished(planned: PlannedRun) -> FinishedRun:
    """The run of a plan, with every file verified."""
    identity, folder = planned.identity, planned.folder
    if not (folder / record.DONE).is_file():
        raise RefigureError(
            f"run {identity} is not there or not finished: snakemake results/{identity.paper} "
            f"--config scale={planned.scale} makes it, dvc pull runs/{identity.paper} may bring it"
        )
    run = record.read(folder)
    run.verify()
    return run


def shown(room: Paper, figure: Figure, plans: Sequence[PlannedRun], scale: ScaleName) -> list[PlannedRun]:
    """The runs that a figure shows: those of the scale, or under published settings.

    The latter of an experiment that does not have this scale, and where the figure asks for them (`published`) of each
    variant of which as many seeds are done.
    """
    runs = [each for each in plans if each.identity.experiment in (figure.experiment, *figure.also)]
    at_scale = [
        each for each in runs if each.scale == scale or scale not in room.experiments[each.identity.experiment].scales
    ]
    if not (figure.published and runs):
        return at_scale
    named = {each.identity.path for each in planning.plan(runs[0].identity.paper, "paper")}
    published = [each for each in runs if each.identity.path in named]

    def seeds(of: Sequence[PlannedRun], variant: PlannedRun) -> int:
        return sum(len(each.identity.seeds) for each in of if each.identity.group == variant.identity.group)

    return [
        each for each in runs if each in (published if seeds(published, each) >= seeds(at_scale, each) else at_scale)
    ]


def _draw(
    paper: str, name: str, room: Paper, runs: Sequence[FinishedRun], published: Sequence[Claim], target: Path
) -> theme.Drawing:
    """Draw and save one figure, which is given its runs and all claims of the paper."""
    figure = room.figures[name]
    module_name, _, function_name = figure.draw.partition(":")
    function = getattr(importlib.import_module(module_name), function_name, None)
    if function is None:
        raise RefigureError(f"papers/{paper}/paper.yaml: figures.{name}.draw: {module_name} has no {function_name!r}")
    drawing: theme.Drawing = function(runs, published)
    theme.save(drawing, target / "figures" / name)
    return drawing


def _metrics(finished: Sequence[FinishedRun], judged: Sequence[Judged]) -> dict[str, float]:
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


def _provenance(planned: PlannedRun, run: FinishedRun) -> dict[str, Any]:
    """Where a run comes from; only facts of the run, so clones agree."""
    facts: Mapping[str, Any] = {name: run.provenance[name] for name in FACTS if name in run.provenance}
    deviations = to_dict(planned.deviations)
    return {"key": run.key, "seeds": list(run.seeds), "scale": planned.scale, "deviations": deviations, **facts}
