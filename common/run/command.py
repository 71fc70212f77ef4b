"""One experiment by hand: what `python -m papers.<paper>` does. Needs only the scientific packages."""

import argparse
import importlib
import inspect
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from common import atomic
from common.data import cache_folder
from common.errors import RefigureError, suggest
from common.room import spec
from common.room.spec import SCALES, PlannedRun
from common.run import record as runs
from common.run.device import (
    choose_device,
    describe,
    device_name,
    keep_compiled,
    peak_memory,
    set_precision,
    set_threads,
)
from common.run.memory import reuse_memory
from common.run.progress import Progress
from common.train.seeding import deterministic

__all__ = ["main"]


def main(paper: str, arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    options = _parser(paper).parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        for plan in _planned(paper, options):
            folder = options.out or spec.root() / "runs" / plan.identity.path
            if options.dry_run:
                print(folder)
                continue
            execute(plan, Path(folder), options)
    except RefigureError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except OSError as error:
        if not atomic.is_full(error):
            raise
        print(
            f"error: disk full ({error.filename or 'no file named'}): free some space and run again",
            file=sys.stderr,
        )
        return 1
    return 0


def execute(plan: PlannedRun, folder: Path, options: argparse.Namespace) -> None:
    """Train `plan` in `folder`, from its last checkpoint if there is one; nothing to do if it is done.

    Raises:
        RefigureError: Whatever keeps it from ending; the last good checkpoint stays.
    """
    key = plan.identity.key
    if options.key is not None and options.key != key:
        raise RefigureError(
            f"{plan.identity}: the key is {key}, not {options.key}: code or settings changed since this was planned; "
            "start the build again"
        )
    with runs.holding(folder, wait=options.wait):
        if runs.is_done(folder, key):
            print(f"{plan.identity}: done already", file=sys.stderr)
            return
        parent = _parent(plan, options.parent)
        threads = options.threads or plan.threads
        set_threads(threads)  # once for what reads the environment at its import, once more for what was imported
        deterministic()
        choose_device()
        keep_compiled(cache_folder())
        reuse_memory()
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        progress = Progress(f"{plan.identity.variant} {plan.identity.seeds_name}", options.quiet)
        run = runs.Run(plan, folder, progress, every=options.checkpoint_every)
        run.begin()
        if not options.resume:
            for name in (runs.RESUME, Path("metrics.jsonl")):
                (folder / name).unlink(missing_ok=True)
        module = _module(plan)
        provenance: dict[str, Any] = {
            "revision": _revision(),
            "device": device_name(),
            "threads": set_threads(threads),
            "determinism": deterministic(),
            "precision": set_precision(getattr(plan.config, "precision", "fp32")),
        }
        try:
            outcome = module.train(plan.config, plan.identity.seeds, run, *([parent] if parent else []))
        finally:
            progress.close()
        provenance |= {
            "code": plan.identity.code,
            "data": plan.identity.data,
            "machine": describe(),
            "platform": platform.platform(),
            "started": started,
            "peak_memory": {"host": peak_memory("host"), "device": peak_memory("device")},
        }
        if parent is not None:
            provenance["needs"] = {"run": str(parent.identity), "provenance": parent.provenance["digest"]}
        run.finish(outcome, provenance)
    shown = ", ".join(f"{name} {sum(v) / len(v):.4g}" for name, v in list(outcome.metrics.items())[:3])
    print(f"{plan.identity}: {shown}", file=sys.stderr)


def _module(plan: PlannedRun) -> ModuleType:
    """The experiment's module, from the very files that the key was made of.

    Raises:
        RefigureError: It lies elsewhere, or has no `train` that takes what it would be given.
    """
    module = importlib.import_module(plan.module)
    file = Path(str(module.__file__)).resolve()
    if not file.is_relative_to(spec.root().resolve()):
        raise RefigureError(
            f"{plan.module} would run from {file}, but the key is of the code in {spec.root()}: "
            "start from that folder, or install it with pip install -e"
        )
    arguments = ("config", "seeds", "run", *(["parent"] if plan.needs else []))
    try:
        inspect.signature(module.train).bind(*arguments)
    except (AttributeError, TypeError):
        raise RefigureError(f"{file} has no function train({', '.join(arguments)})") from None
    return module


def _parent(plan: PlannedRun, given: Path | None) -> runs.FinishedRun | None:
    """The finished run that `plan` needs, with every file verified; None where it needs none.

    Arguments:
        given: Its folder; None for its place in `runs/`.

    Raises:
        RefigureError: It is missing, not finished, damaged or another run.
    """
    if plan.needs is None:
        if given is not None:
            raise RefigureError(f"--parent {given}: experiment {plan.identity.experiment!r} needs no other run")
        return None
    needed = plan.needs.identity
    folder = given or spec.root() / "runs" / needed.path
    if given is None and not (folder / runs.DONE).is_file():
        raise RefigureError(
            f"{plan.identity} needs the run {needed}, which is not there or not finished; this makes it: "
            f"python -m papers.{needed.paper} --experiment {needed.experiment} --variant {needed.variant} "
            f"--scale {plan.scale} --seeds {','.join(map(str, needed.seeds))}"
        )
    parent = runs.read(folder, verify=True)
    if parent.identity.key != needed.key:
        raise RefigureError(f"{folder} holds {parent.identity}, but {plan.identity} needs {needed}")
    return parent


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; --help lists the options\n")


def _parser(paper: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"python -m papers.{paper}",
        description=f"Train runs of {paper}. Without --experiment, --variant or --seed: all that the scale has.",
    )
    parser.add_argument("--experiment", help="which experiment")
    parser.add_argument("--variant", help="which variant")
    parser.add_argument("--scale", default="cpu", help="smoke, cpu (default) or paper")
    parser.add_argument("--seed", type=int, action="append", help="a seed, trained on its own; may be repeated")
    parser.add_argument("--seeds", help="seeds trained as one batch, such as 0-4 or 0,2,5")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: its place in runs/)")
    parser.add_argument("--parent", type=Path, metavar="DIR", help="the run it needs (default: its place in runs/)")
    parser.add_argument("--key", help="stop unless the run has this key")
    parser.add_argument("--no-resume", dest="resume", action="store_false", help="ignore an earlier checkpoint")
    parser.add_argument("--resume", action="store_true", default=True, help="go on from a checkpoint (the default)")
    parser.add_argument("--wait", action="store_true", help="wait for another process that trains the same run")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as the experiment declares)")
    parser.add_argument("--checkpoint-every", type=float, default=runs.SECONDS_BETWEEN_CHECKPOINTS, metavar="SECONDS")
    parser.add_argument("--quiet", action="store_true", help="plain lines instead of a bar")
    parser.add_argument("--dry-run", action="store_true", help="print the folders of the runs and stop")
    return parser


def _planned(paper: str, options: argparse.Namespace) -> list[PlannedRun]:
    """The runs that the options name."""
    if options.scale not in SCALES:
        raise RefigureError(f"no scale {options.scale!r}; {suggest(options.scale, SCALES)}")
    if options.threads is not None and options.threads < 1:
        raise RefigureError(f"--threads {options.threads}: at least 1 is needed")
    room = spec.load(paper)
    if options.experiment is not None:
        spec.find(room.experiments, options.experiment, "experiment", paper)
    if options.seed and options.seeds:
        raise RefigureError("--seed and --seeds were both given: --seed trains one by one, --seeds as one batch")
    planned = []
    for name, experiment in room.experiments.items():
        if options.experiment not in (None, name):
            continue
        scale = spec.find(experiment.scales, options.scale, "scale", f"{paper}/{name}")
        if options.variant is not None:
            spec.find(experiment.variants, options.variant, "variant", f"{paper}/{name}")
        batches = [(seed,) for seed in options.seed] if options.seed else scale.batches()
        if options.seeds:
            batches = [_seed_range(options.seeds)]
        for variant in [options.variant] if options.variant else scale.variants or experiment.variants:
            planned += [spec.plan_run(paper, name, variant, options.scale, batch, options.set) for batch in batches]
    for name in ("out", "parent"):
        if getattr(options, name) is not None and len(planned) != 1:
            raise RefigureError(
                f"--{name} names one folder, but {len(planned)} runs were asked for: "
                "name --experiment, --variant and one --seed or --seeds"
            )
    return planned


def _seed_range(text: str) -> tuple[int, ...]:
    """`0-4` or `0,2,5` as numbers.

    Raises:
        RefigureError: Anything else.
    """
    try:
        if "-" in text:
            first, last = (int(part) for part in text.split("-"))
            seeds = tuple(range(first, last + 1))
        else:
            seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise RefigureError(f"--seeds {text}: expected a range such as 0-4 or a list such as 0,2,5")
    return seeds


def _revision() -> dict[str, Any]:
    """The git revision and whether tracked files differ from it; empty outside of a checkout."""
    folder = spec.root()
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True, timeout=20
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git": revision.stdout.strip(), "dirty": bool(changed.stdout.strip())}


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
