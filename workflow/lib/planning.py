"""What the rules ask: papers, runs, outputs. Reads specs only; no torch, no jax, no paper's method."""

import contextlib
import functools
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from common import atomic
from common.errors import RefigureError, suggest
from common.report.inputs import is_current, output_names
from common.room import spec
from common.room.plan import PlannedRun, plan

__all__ = [
    "Room",
    "checked",
    "drawing_command",
    "hold_build",
    "job_of",
    "marker",
    "options_of",
    "rooms",
    "unknown_target",
    "unknown_targets",
]

P = ParamSpec("P")
T = TypeVar("T")

_held = contextlib.ExitStack()
"""The lock of this build; the system frees it when the process ends, however it ends."""


@dataclass(frozen=True)
class Job:
    """A run as the scheduler sees it."""

    path: str
    paper: str
    experiment: str
    variant: str
    seeds: str
    scale: str
    threads: int
    gpus: int
    memory: int
    """MB."""
    minutes: int
    parent: str
    """Folder of the run that must be there before; empty: none."""


@dataclass(frozen=True)
class Room:
    """A paper that is asked for."""

    paper: str
    jobs: Sequence[Job]
    outputs: Sequence[str]
    """Files of `results/<paper>/`."""
    current: bool
    """Whether they are what would be drawn."""
    fault: str = ""
    """Why the room cannot be planned: then it has neither jobs nor outputs."""


def in_one_line(function: Callable[P, T]) -> Callable[P, T]:
    """Ends Snakemake with a fault's line and status 1.

    An exit and no WorkflowError: around that one Snakemake prints rule, wildcards and traceback.
    """

    @functools.wraps(function)
    def guarded(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return function(*arguments, **named)
        except RefigureError as error:
            sys.exit(f"error: {error}")

    return guarded


@in_one_line
def checked(config: Mapping[str, Any], words: Sequence[str]) -> tuple[list[str], spec.ScaleName]:
    """The papers and the scale that the configuration and the command line ask for.

    Arguments:
        words: The command line: where its targets name papers, these alone are planned.
    """
    known = {"scale", "papers"}
    for key in config:
        if key not in known:
            raise RefigureError(f"--config {key}: unknown key; {suggest(key, known)}")
    scale, wanted = spec.scale_name(str(config["scale"]), "--config scale: "), config["papers"] or spec.papers()
    if isinstance(wanted, str):
        wanted = wanted.split(",")
    for paper in map(str, wanted):
        if paper not in spec.papers():
            raise RefigureError(f"--config papers: no paper {paper!r}; {suggest(paper, spec.papers())}")
    named = {match[1] for word in words if (match := re.match(r"(?:\./)?(?:results|runs)/(\w+)", word))}
    asked = [str(paper) for paper in wanted if paper in named and "all" not in words]
    return asked or [str(paper) for paper in wanted], scale


def rooms(papers: Sequence[str], scale: spec.ScaleName) -> list[Room]:
    """The rooms that are asked for; a broken one stops the build only where it is the only one."""
    planned = [_room(paper, scale) for paper in papers]
    if len(planned) == 1 and planned[0].fault:
        sys.exit(f"error: {planned[0].fault}")
    return planned


def _room(paper: str, scale: spec.ScaleName) -> Room:
    try:
        jobs = [_job(run) for run in plan(paper, scale)]
        return Room(paper, jobs, output_names(paper), is_current(paper, scale))
    except RefigureError as error:
        return Room(paper, [], [], False, str(error))


def _job(run: PlannedRun) -> Job:
    cost = run.expected
    return Job(
        path=_folder(run),
        paper=run.identity.paper,
        experiment=run.identity.experiment,
        variant=run.identity.variant,
        seeds=",".join(map(str, run.identity.seeds)),
        scale=run.scale,
        threads=run.identity.threads,
        gpus=run.gpus,
        memory=int(1.5 * cost.memory) if cost else 2000,
        minutes=max(10, int(5 * cost.seconds / 60)) if cost else 120,
        parent=_folder(run.parent) if run.parent else "",
    )


def _folder(run: PlannedRun) -> str:
    return f"runs/{run.identity.path.as_posix()}"


def options_of(job: Job) -> str:
    """The options of `python -m papers.<paper>` that train a job's run."""
    options = {"experiment": job.experiment, "variant": job.variant, "scale": job.scale, "seeds": job.seeds}
    return " ".join(f"--{name} {shlex.quote(value)}" for name, value in options.items())


@in_one_line
def job_of(planned: Sequence[Room], path: str) -> Job:
    """The job that makes a run's folder."""
    for job in (job for room in planned for job in room.jobs):
        if job.path == path:
            return job
    raise RefigureError(f"{path} is no run that this scale needs now: refigure explain {path.split('/')[1]} lists them")


@in_one_line
def unknown_target(target: str) -> None:
    """Ends with the line for something under `results/` that no rule makes."""
    paper, _, file = target.strip("/").partition("/")
    if paper not in spec.papers():
        raise RefigureError(f"no paper {paper!r}; {suggest(paper, spec.papers())}")
    if not file:
        raise RefigureError(f"type it as results/{paper}; if you did, --config papers leaves it out")
    raise RefigureError(f"results/{paper} has no {file!r}; {suggest(file, output_names(paper))}")


def unknown_targets(planned: Sequence[Room]) -> str:
    """A pattern of what lies under `results/` and is none of the files that rooms have."""
    names = [f"{room.paper}/{name}" for room in planned for name in room.outputs]
    known = "|".join(map(re.escape, [*names, *(f"{room.paper}.fault" for room in planned)]))
    return f"(?!(?:{known})$).+"


def marker(room: Room, scale: str) -> str:
    """A file that is as new as now where a room must be drawn, so that Snakemake, which looks at times, draws it."""
    path = Path(".snakemake") / "refigure" / f"{room.paper}-{scale}"
    if not (room.current and path.exists()):
        atomic.write_text(path, f"{time.time_ns()}\n")  # Snakemake compares the content of small files, too
    return path.as_posix()


def drawing_command(room: Room, scale: str) -> str:
    """The command that draws a room's results; of a broken room one that says why it cannot."""
    if room.fault:
        return f"sh -c {shlex.quote('echo ' + shlex.quote('error: ' + room.fault) + ' >&2; exit 1')}"
    return f"{shlex.quote(sys.executable)} -m common.report {room.paper} --scale {scale}"


@in_one_line
def hold_build(folder: str) -> None:
    """Hold the repository against a second build, for as long as this process lives."""
    _held.enter_context(atomic.holding(Path(os.path.realpath(folder)) / ".snakemake" / "refigure", what="this folder"))
