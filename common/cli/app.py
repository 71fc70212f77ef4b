"""What each word of `refigure` does; the work is in the modules it imports when asked."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from common.errors import RefigureError
from common.room import spec
from common.room.config import to_dict

__all__ = ["app"]

app = typer.Typer(
    help="Reproduce the figures of machine-learning papers and say, number by number, how close they came.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Real data: fetch and verify it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

COLOURS = {
    "matched": "green", "better": "blue", "missed": "red", "reduced: holds": "yellow", "reduced: fails": "red",
    "reduced: shown": "yellow", "not run": "dim",
}  # fmt: skip


def _papers(incomplete: str) -> list[str]:
    return [name for name in spec.papers() if name.startswith(incomplete)]


def _data_sets(incomplete: str) -> list[str]:
    from common import data

    return [name for name in data.DATASETS if name.startswith(incomplete)]


Paper = Annotated[str, typer.Argument(help="Name of a paper.", autocompletion=_papers)]
Scale = Annotated[str, typer.Option(help="smoke, cpu or paper.", autocompletion=lambda: list(spec.SCALES))]


def _scale(name: str) -> spec.ScaleName:
    return next((scale for scale in spec.SCALES if scale == name), None) or _no_scale(name)


def _no_scale(name: str) -> spec.ScaleName:
    from common.errors import suggest

    raise RefigureError(f"no scale {name!r}; {suggest(name, spec.SCALES)}")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def _table(*columns: str, rows: Iterable[Iterable[str]], right: Iterable[str] = ()) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


@app.command("list")
def list_papers() -> None:
    """What there is: papers and their experiments."""
    rows = []
    for paper in spec.papers():
        room = spec.load(paper)
        for name, experiment in room.experiments.items():
            scales = " ".join(scale for scale in spec.SCALES if scale in experiment.scales)
            rows.append([paper, name, str(len(experiment.variants)), scales, experiment.summary])
    _table("paper", "experiment", "variants", "scales", "shows", rows=rows, right=["variants"])


@app.command()
def status(paper: Paper) -> None:
    """Runs done, missing and stale, and what the missing ones would take on this machine."""
    from common.cli.status import estimate, survey

    rows = []
    for line in survey(paper):
        time, memory = estimate(line.missing)
        rows.append(
            [line.experiment, line.scale, str(line.done), str(len(line.missing)), str(line.stale), time, memory]
        )
    _table(
        "experiment", "scale", "done", "missing", "stale", "time left here", "memory",
        rows=rows, right=["done", "missing", "stale", "time left here", "memory"],
    )  # fmt: skip


@app.command()
def diff(
    paper: Annotated[str | None, typer.Argument(help="A paper; all when left out.", autocompletion=_papers)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of claims on standard output.")] = False,
    rev: Annotated[str | None, typer.Option(help="Compare with the verdicts committed at this git revision.")] = None,
) -> None:
    """Published against ours. Exits with 1 when a claim that once matched no longer does."""
    from common.cli.history import committed_verdicts
    from common.report.page import number
    from common.verdict import claims

    fallen: list[tuple[Any, str]] = []
    judged = []
    before: dict[str, Any] = {}
    for name in [paper] if paper else spec.papers():
        found = claims.evaluate(name)
        earlier = committed_verdicts(name, rev)
        before |= {f"{name}/{entry['id']}": entry for entry in earlier}
        fallen += claims.regressions(found, earlier)
        judged += found
    if as_json:
        records = [to_dict(claim) for claim in judged]
        if rev:
            records = [{**r, "before": before.get(f"{r['paper']}/{r['id']}", {}).get("verdict")} for r in records]
        print(json.dumps(records, indent=1))
    else:
        rows = []
        for claim in judged:
            colour = COLOURS[claim.verdict]
            ours = number(claim.ours)
            if claim.interval:
                ours += f" [{number(claim.interval[0])}, {number(claim.interval[1])}]"
            published = number(claim.published) + (f" ({claim.provenance})" if claim.published is not None else "")
            row = [claim.id, published, ours, str(claim.n_seeds), number(claim.difference)]
            if rev:
                entry = before.get(f"{claim.paper}/{claim.id}")
                row.append(entry["verdict"] if entry else "–")
            rows.append([*row, f"[{colour}]{claim.verdict}[/{colour}]", claim.reason.replace("[", "\\[")])
        names = ["claim", "published", "ours", "seeds", "difference", *([f"at {rev}"] if rev else []), "verdict", "why"]
        _table(*names, rows=rows, right=["published", "seeds", "difference"])
    for claim, verdict in fallen:
        typer.echo(f"no longer stands: {claim.paper}/{claim.id} was {verdict!r}, is {claim.verdict!r}", err=True)
    if fallen:
        raise typer.Exit(1)


@app.command()
def explain(
    target: Annotated[str, typer.Argument(help="A paper, or the folder of a run.", autocompletion=_papers)],
    scale: Scale = "cpu",
) -> None:
    """Why runs are done again: which input of the key changed, against which earlier run."""
    from common.cli.explain import explain_paper, explain_run

    lines: Iterable[str] = ()
    if target in spec.papers():
        lines = explain_paper(target, _scale(scale))
    elif Path(target).exists() or "/" in target:
        lines = explain_run(target, _scale(scale))
    else:
        spec.load(target)  # says which papers there are
    for line in lines:
        typer.echo(line)


@app.command("import")
def import_runs(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    replace: Annotated[bool, typer.Option(help="Take the new one where another result is there.")] = False,
) -> None:
    """Bring home runs made elsewhere: verified, filed under runs/."""
    from common.cli.imports import import_all

    for line in import_all(folders, replace=replace):
        typer.echo(line)


@app.command()
def new(name: Annotated[str, typer.Argument(help="Name of the paper, such as my_paper.")]) -> None:
    """A room for another paper: it runs, tests and draws at once, ready to be filled."""
    from common.cli.new import make_room

    for line in make_room(name):
        typer.echo(line)


@app.command()
def prune(
    paper: Paper,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without it they are only listed.")] = False,
) -> None:
    """Runs that no scale needs any more: earlier code or settings."""
    from common.cli.status import superfluous

    for folder in superfluous(paper):
        if delete:
            import shutil

            shutil.rmtree(folder)
        typer.echo(f"{'deleted' if delete else 'not needed'}: {folder}")


@app.command()
def gallery() -> None:
    """Rebuild docs/gallery/ from results/."""
    from common.report.gallery import build

    typer.echo(f"drawn: {build()}")


@app.command()
def schema() -> None:
    """Rewrite workflow/schemas/, the JSON Schemas for editors, from the dataclasses."""
    from common.report.schemas import write

    for path in write(spec.root()):
        typer.echo(f"written: {path}")


@data_app.command("list")
def data_list() -> None:
    """Data sets, their licences, and how stand-ins deviate."""
    from common import data

    rows = [[name, entry.title, entry.licence, entry.deviation or ""] for name, entry in data.DATASETS.items()]
    _table("name", "title", "licence", "deviation", rows=rows)


Names = Annotated[list[str], typer.Argument(help="Data sets.", autocompletion=_data_sets)]


@data_app.command("fetch")
def data_fetch(names: Names) -> None:
    """Fetch and verify data sets: from REFIGURE_MIRROR if it is set, else from their official homes."""
    from common import data

    for name in names:
        for path in data.fetch(name).values():
            typer.echo(f"{name}: {path}")


@data_app.command("verify")
def data_verify(names: Names) -> None:
    """Hash every file of data sets again; exits with 1 when one is missing or damaged."""
    from common import data

    wrong = False
    for name in names:
        for file, found in data.verify(name):
            typer.echo(f"{name}: {file}: {found}")
            wrong |= not found.startswith("ok")
    if wrong:
        raise typer.Exit(1)
