"""What the rules ask: papers, runs, outputs. Reads specs only; no torch, no jax, no paper's method."""

import fcntl
import functools
import hashlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from common.errors import RefigureError, suggest
from common.report.inputs import digest_of_drawing, output_names
from common.room import spec

__all__ = [
    "checked",
    "drawing_digest",
    "hold_build",
    "options_of",
    "outputs",
    "planned_runs",
    "unknown_target",
    "unknown_targets",
]

P = ParamSpec("P")
T = TypeVar("T")

_held: list[int] = []
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
    needs: str
    """Folder of the run that must be there before; empty: none."""


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
def checked(config: Mapping[str, Any]) -> tuple[list[str], str]:
    """The papers and the scale that the configuration asks for."""
    known = {"scale", "papers"}
    for key in config:
        if key not in known:
            raise RefigureError(f"--config {key}: unknown key; {suggest(key, known)}")
    scale, wanted = config["scale"], config["papers"] or spec.papers()
    if isinstance(wanted, str):
        wanted = wanted.split(",")
    if scale not in spec.SCALES:
        raise RefigureError(f"--config scale={scale}: no such scale; {suggest(str(scale), spec.SCALES)}")
    for paper in map(str, wanted):
        if paper not in spec.papers():
            raise RefigureError(f"--config papers: no paper {paper!r}; {suggest(paper, spec.papers())}")
    return [str(paper) for paper in wanted], scale


@in_one_line
def unknown_target(target: str) -> None:
    """Ends with the line for something under `results/` that no rule makes."""
    paper, _, file = target.strip("/").partition("/")
    if paper not in spec.papers():
        raise RefigureError(f"no paper {paper!r}; {suggest(paper, spec.papers())}")
    if not file:
        raise RefigureError(f"type it as results/{paper}; if you did, --config papers leaves it out")
    raise RefigureError(f"results/{paper} has no {file!r}; {suggest(file, output_names(paper))}")


def unknown_targets(papers: list[str]) -> str:
    """A pattern of what lies under `results/` and is none of the files that `papers` have."""
    known = "|".join(re.escape(f"{paper}/{name}") for paper in papers for name in outputs(paper))
    return f"(?!(?:{known})$).+"


@in_one_line
def planned_runs(paper: str, scale: str) -> list[Job]:
    """The runs of a paper at a scale."""
    return [_job(plan) for plan in spec.plan(paper, scale)]


def _job(plan: spec.PlannedRun) -> Job:
    cost = plan.expected
    return Job(
        path=_folder(plan),
        paper=plan.identity.paper,
        experiment=plan.identity.experiment,
        variant=plan.identity.variant,
        seeds=",".join(map(str, plan.identity.seeds)),
        scale=plan.scale,
        threads=plan.threads,
        gpus=plan.gpus,
        memory=int(1.5 * cost.memory) if cost else 2000,
        minutes=max(10, int(5 * cost.seconds / 60)) if cost else 120,
        needs=_folder(plan.needs) if plan.needs else "",
    )


def _folder(plan: spec.PlannedRun) -> str:
    return f"runs/{plan.identity.path.as_posix()}"


def options_of(job: Job) -> str:
    """The options of `python -m papers.<paper>` that train a job's run."""
    options = {"experiment": job.experiment, "variant": job.variant, "scale": job.scale, "seeds": job.seeds}
    return " ".join(f"--{name} {shlex.quote(value)}" for name, value in options.items())


@in_one_line
def outputs(paper: str) -> list[str]:
    """Files of `results/<paper>/`."""
    return output_names(paper)


@in_one_line
def drawing_digest(paper: str, scale: str) -> str:
    """A file that changes exactly when the meaning of what draws a paper does: code, claims, spec.

    Snakemake compares it by content, so that an edited comment re-draws nothing.
    """
    text = digest_of_drawing(paper, scale) + "\n"
    path = Path(".snakemake") / "refigure" / f"{paper}-{scale}.digest"
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(text)
        os.replace(part, path)
    return path.as_posix()


@in_one_line
def hold_build(folder: str) -> None:
    """Hold the repository against a second build, for as long as this process lives."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:8]
    path = Path(folder) / ".snakemake" / f"refigure-{name}.lock"
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise RefigureError(
            f"another build works in this folder (pid {holder}): wait for it to end, or stop it first"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    _held.append(descriptor)
