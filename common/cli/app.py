"""What each word of `refigure` does; the work is in the modules it imports when asked."""

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from common import atomic
from common.errors import RefigureError
from common.room import spec

__all__ = ["app"]

app = typer.Typer(
    help="Reproduce the figures of machine-learning papers and say, number by number, how close they came.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Real data: fetch and verify it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

COLOURS = {"good": "green", "better": "blue", "bad": "red", "partly": "yellow", "none": "dim"}
LEGEND = """agrees: the 90 % interval of the difference lies inside the margin; differs: the 95 % interval leaves 0
out, and the margin is passed; same direction, opposite: by the 95 % interval of the gap; undecided: neither;
holds, fails: for every seed or not; smaller run: under other conditions, where no number is compared."""


def _papers(incomplete: str) -> list[str]:
    return [name for name in spec.papers() if name.startswith(incomplete)]


def _data_sets(incomplete: str) -> list[str]:
    from common import data

    return [name for name in data.DATASETS if name.startswith(incomplete)]


Paper = Annotated[str, typer.Argument(help="Name of a paper.", autocompletion=_papers)]
Papers = Annotated[list[str] | None, typer.Argument(help="Papers; all when left out.", autocompletion=_papers)]
Scale = Annotated[str, typer.Option(help=f"{', '.join(spec.SCALES)}.", autocompletion=lambda: list(spec.SCALES))]
Format = Literal["table", "md", "csv", "json"]
Names = Annotated[list[str], typer.Argument(help="Data sets.", autocompletion=_data_sets)]


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _table(*columns: str, rows: Iterable[Iterable[Any]], right: Iterable[str] = ()) -> None:
    """Print a table, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160).print(table)


@app.command("list")
def list_papers() -> None:
    """What there is: papers and their experiments."""
    rows = []
    for paper in spec.papers():
        for name, experiment in spec.load(paper).experiments.items():
            scales = " ".join(scale for scale in spec.SCALES if scale in experiment.scales)
            rows.append([paper, name, str(len(experiment.variants)), scales, experiment.summary])
    _table("paper", "experiment", "variants", "scales", "shows", rows=rows, right=["variants"])


@app.command()
def status(paper: Paper) -> None:
    """Runs done, missing and stale; what a run, and all that are missing, took where they were measured."""
    from common.cli.runs import COLUMNS, survey

    _table(*COLUMNS, rows=survey(paper), right=COLUMNS[2:-1])


@app.command()
def diff(
    paper: Annotated[str | None, typer.Argument(help="A paper; all when left out.", autocompletion=_papers)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    form: Annotated[Format, typer.Option("--format", help="table, md, csv, or json: a list of claims.")] = "table",
    rev: Annotated[str | None, typer.Option(help="Compare with the verdicts committed at this git revision.")] = None,
) -> None:
    """Published against ours. Exits with 1 when a claim that once matched no longer does."""
    from common.report.history import committed_verdicts
    from common.verdict.evidence import evaluate
    from common.verdict.judge import regressions, to_records

    if as_json and form not in ("table", "json"):
        raise RefigureError(f"--json and --format {form}: give one of them")
    if rev and form in ("md", "csv"):
        raise RefigureError(f"--format {form} has no column for --rev: take table or json")
    before: dict[str, str] = {}
    judged, fallen = [], []
    for name in [paper] if paper else spec.papers():
        now, earlier = evaluate(name), committed_verdicts(name, rev)
        before |= {f"{name}/{entry['id']}": entry["verdict"] for entry in earlier}
        fallen += regressions(now, earlier)
        judged += now
    if as_json or form == "json":
        records = to_records(judged)
        if rev:
            records = [{**record, "before": before.get(f"{record['paper']}/{record['id']}")} for record in records]
        print(json.dumps(records, indent=1))
    elif form == "csv":
        from common.report.page import claims_csv

        print(claims_csv(judged), end="")
    elif form == "md":
        from common.report.page import claims_markdown

        _say(claims_markdown(judged))
    else:
        _print_claims(judged, before, rev)
    for claim, verdict in fallen:
        typer.echo(f"no longer stands: {claim.paper}/{claim.id} was {verdict!r}, is {claim.verdict!r}", err=True)
    if fallen:
        raise typer.Exit(1)


def _print_claims(judged: list[Any], before: dict[str, str], rev: str | None) -> None:
    """The tables of judged claims by class, with their verdicts at a revision."""
    from rich.text import Text

    from common.report.page import CLASSES, measured, number
    from common.verdict.judge import tone

    names = ["claim", "published", "ours", "n", "difference", *([f"at {rev}"] if rev else []), "verdict", "why"]
    for origin, title in CLASSES.items():
        rows = []
        group = [claim for claim in judged if claim.origin == origin]
        for claim in sorted(group, key=lambda claim: claim.verdict == "not run"):
            colour, earlier = COLOURS[tone(claim.verdict)], before.get(f"{claim.paper}/{claim.id}", "–")
            published = number(claim.published) + (f" ({claim.provenance})" if claim.published is not None else "")
            numbers = [claim.id, published, measured(claim), claim.n, number(claim.difference)]
            verdict = Text(claim.verdict, colour).append(", carried" if claim.carried else "", "default")
            rows.append([*numbers, *([earlier] if rev else []), verdict, claim.reason])
        if rows:
            typer.secho(f"\n{title}: {len(rows)}", bold=True)
            _table(*names, rows=rows, right=["published", "n", "difference"])
    typer.secho(f"\n{LEGEND}", dim=True)


@app.command()
def bisect(
    claim: Annotated[str, typer.Argument(help="A claim, as paper/id: deq/D1.")],
) -> None:
    """The commits that changed a claim's verdict, or its number if it is a headline; latest first."""
    from common.report.history import changes
    from common.room import claims

    paper, _, name = claim.partition("/")
    of_today = {each.id: each for each in claims.load(paper)}
    lines = [f"{each.commit}: {each.before} -> {each.after}" for each in changes(paper) if each.claim == name]
    if not lines:
        spec.find(of_today, name, "claim", paper)
    _say(lines or [f"no commit changed {claim}"])


@app.command()
def explain(
    target: Annotated[str, typer.Argument(help="A paper, or the folder of a run.", autocompletion=_papers)],
    scale: Scale = "cpu",
) -> None:
    """Why runs are done again: which input of the key changed, against which earlier run."""
    from common.cli.runs import explain_paper, explain_run

    is_folder = target not in spec.papers() and (Path(target).exists() or "/" in target)
    _say((explain_run if is_folder else explain_paper)(target, spec.scale_name(scale)))


@app.command()
def carry(
    paper: Paper,
    experiment: Annotated[str | None, typer.Option(help="This experiment alone.")] = None,
    jobs: Annotated[int, typer.Option(help="Replays at once.", min=1)] = 1,
    every_seed: Annotated[bool, typer.Option("--every-seed", help="Replay each run, not one a variant.")] = False,
) -> None:
    """Keep runs whose code was rewritten: replay their openings, file under today's keys what is equal to the last bit.

    Exits with 1 when a run was not carried.
    """
    from common.run import carry as carrying

    refused = False
    for line in carrying.carry(paper, experiment, jobs=jobs, every_seed=every_seed):
        typer.echo(line)
        refused |= ": not carried: " in line
    if refused:
        raise typer.Exit(1)


@app.command()
def check(
    papers: Papers = None,
    allow_unknown: Annotated[bool, typer.Option("--allow-unknown", help="Name such runs, and let them pass.")] = False,
) -> None:
    """Whether the code of all runs can be found: exits with 1 on unknown revisions and trees with changes."""
    from common.cli.runs import untraceable

    lines = [line for paper in papers or spec.papers() for line in untraceable(paper)]
    _say(lines)
    if lines and not allow_unknown:
        raise typer.Exit(1)


@app.command("import")
def import_runs(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    replace: Annotated[bool, typer.Option(help="Take the new one where another result is there.")] = False,
) -> None:
    """Bring home runs made elsewhere: verified, filed under runs/."""
    from common.cli.runs import import_all

    _say(import_all(folders, replace=replace))


@app.command()
def new(name: Annotated[str, typer.Argument(help="Name of the paper, such as my_paper.")]) -> None:
    """A room for another paper: it runs, tests and draws at once, ready to be filled."""
    from common.cli.new import make_room

    _say(make_room(name))


@app.command()
def prune(
    paper: Paper,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without it they are only listed.")] = False,
) -> None:
    """Runs that no scale needs any more: earlier code or settings. Those made by hand with today's code stay."""
    from common.cli.runs import superfluous

    for folder in superfluous(paper):
        if delete:
            with atomic.holding(folder):
                shutil.rmtree(folder)
        typer.echo(f"{'deleted' if delete else 'not needed'}: {folder}")


@app.command()
def gallery() -> None:
    """Rebuild docs/gallery/ from results/."""
    from common.report.gallery import build

    typer.echo(f"drawn: {build()}")


@data_app.command("list")
def data_list() -> None:
    """Data sets, their licences, and how stand-ins deviate."""
    from common import data

    rows = [[name, entry.title, entry.licence, entry.deviation or ""] for name, entry in data.DATASETS.items()]
    _table("name", "title", "licence", "deviation", rows=rows)


@data_app.command("fetch")
def data_fetch(names: Names) -> None:
    """Fetch and verify data sets: from REFIGURE_MIRROR if it is set, else from their official homes."""
    from common import data

    _say(f"{name}: {path}" for name in names for path in data.fetch(name).values())


@data_app.command("verify")
def data_verify(names: Names) -> None:
    """Hash every file of data sets again; exits with 1 when one is missing or damaged."""
    from common import data

    is_whole = True
    for name in names:
        for file, state in data.verify(name):
            typer.echo(f"{name}: {file}: {state}")
            is_whole &= state.startswith("ok")
    if not is_whole:
        raise typer.Exit(1)
