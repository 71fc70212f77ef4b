"""`python -m papers.<paper>`: one experiment by hand, or all of a scale. Needs only the scientific packages."""

import argparse
import importlib
import inspect
import itertools
import math
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import ChainMap
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from common import atomic, data
from common.errors import RefigureError, status_of
from common.room import plan as planning
from common.room import spec
from common.room.digest import changed
from common.room.plan import PlannedRun, plan_run
from common.room.spec import find
from common.run import record, runtime
from common.run.progress import Progress
from common.run.record import FINAL, FinishedRun, Run
from common.train.recorder import Outcome, Recorder

__all__ = ["execute", "finished_parent", "git", "main", "revision", "trained"]

MOST_THREADS, MOST_SEEDS = 1024, 10_000


def main(paper: str, arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    planning.forget()
    options = _parser(paper).parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does

    def run_all() -> None:
        for plan in _planned(paper, options):
            folder = options.out or plan.folder
            if options.dry_run:
                print(folder)
            elif options.replay is not None:
                from common.run.carry import replay

                replay(plan, options.replay)
            else:
                if options.key not in (None, plan.identity.key):
                    raise RefigureError(
                        f"{plan.identity}: the key is {plan.identity.key}, not {options.key}: code or settings changed "
                        "since this was planned; start the build again"
                    )
                execute(
                    plan, folder, parent=options.parent, wait=options.wait, resume=options.resume,
                    quiet=options.quiet, every=options.checkpoint_every,
                )  # fmt: skip

    return status_of(run_all, "interrupted: the same command goes on from the last checkpoint")


def execute(
    plan: PlannedRun, folder: Path, *, parent: Path | None = None, wait: bool = False, resume: bool = True,
    quiet: bool = False, every: float = record.SECONDS_BETWEEN_CHECKPOINTS,
) -> None:  # fmt: skip
    """Train `plan` in `folder`, from its last checkpoint if there is one; nothing to do if it is done.

    Arguments:
        parent: Folder of the run that it begins from; None for its place in `runs/`.
        wait: Wait for another process that trains it, instead of failing.
        every: Seconds between checkpoints.

    Raises:
        RefigureError: Whatever keeps it from ending; the last good checkpoint stays.
    """
    with atomic.holding(folder, wait=wait):
        if record.is_done(folder, plan.identity.key):
            print(f"{plan.identity}: done already", file=sys.stderr)
            return
        parent_run = finished_parent(plan, parent, quiet=quiet)
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        progress = Progress(f"{plan.identity.variant} {plan.identity.seeds_name}", quiet)
        run = Run(plan, folder, progress, every=every)
        run.begin(resume=resume)
        try:
            outcome, provenance = trained(plan, run, parent_run)
        finally:
            progress.close()
        run.finish(outcome, {**provenance, "started": started})
    shown = ", ".join(f"{name} {sum(v) / len(v):.4g}" for name, v in list(outcome.metrics.items())[:3])
    print(f"{plan.identity}: {shown}", file=sys.stderr)


def trained(plan: PlannedRun, run: Recorder, parent: FinishedRun | None) -> tuple[Outcome, dict[str, Any]]:
    """What `train` gives for a plan in this process, set up for it, and where and how it was computed.

    Raises:
        RefigureError: The code on disk is no longer what the key was made of, or whatever `train` raises.
    """
    precision = getattr(plan.config, "precision", "fp32")
    runtime.settle(plan.identity.threads, precision)
    runtime.choose_device()
    runtime.keep_compiled(data.cache_folder())
    runtime.reuse_memory()
    module = _module(plan)
    settings = runtime.settle(plan.identity.threads, precision)
    device = runtime.device_name()
    _check_code(plan)
    source = revision()  # of what was read, whatever is committed while it trains
    data.declare(plan.data_sets, where=f"papers/{plan.identity.paper}/paper.yaml: {plan.identity.experiment}")
    try:
        outcome = module.train(plan.config, plan.identity.seeds, run, *([parent] if parent else []))
    finally:
        data.declare(None)
    provenance: dict[str, Any] = {
        "revision": source, "device": device, **settings, "code": plan.identity.code, "data": plan.identity.data,
        "machine": runtime.describe(), "platform": platform.platform(),
        "peak_memory": {place: runtime.peak_memory(place) for place in ("host", "device")},
    }  # fmt: skip
    if parent is not None:
        provenance["parent"] = {"run": str(parent.identity), "provenance": parent.provenance["digest"]}
    return outcome, provenance


def finished_parent(plan: PlannedRun, given: Path | None = None, *, quiet: bool = True) -> FinishedRun | None:
    """The finished run that `plan` begins from, with every file verified; None where it begins from none.

    Parameters are no artifact: where they are not there, they are made again.

    Arguments:
        given: Its folder; None for its place in `runs/`.

    Raises:
        RefigureError: It is missing, not finished, damaged or another run.
    """
    if plan.parent is None:
        if given is not None:
            raise RefigureError(f"--parent {given}: experiment {plan.identity.experiment!r} begins from no other run")
        return None
    identity = plan.parent.identity
    folder = given or plan.parent.folder
    if given is None and not (folder / record.DONE).is_file():
        raise RefigureError(
            f"{plan.identity} begins from the run {identity}, which is not there or not finished; this makes it: "
            f"python -m papers.{identity.paper} --experiment {identity.experiment} --variant {identity.variant} "
            f"--scale {plan.scale} --seeds {','.join(map(str, identity.seeds))}"
        )
    parent = record.read(folder)
    parent.verify()
    if parent.key != identity.key:
        raise RefigureError(f"{folder} holds {parent.identity}, but {plan.identity} begins from {identity}")
    if FINAL in parent.checksums and not (folder / FINAL).exists():
        _make_parameters(plan.parent, parent, quiet=quiet)
    return parent


def _make_parameters(plan: PlannedRun, run: FinishedRun, *, quiet: bool) -> None:
    """Train a finished run again for its parameters, which must be those that it recorded."""
    minutes = run.provenance.get("seconds", 0) / 60
    print(f"{run.identity}: its parameters are not here, training it again ({minutes:.1f} min)", file=sys.stderr)
    again = run.folder / ".again.part"
    with atomic.holding(run.folder, wait=True):
        if (run.folder / FINAL).exists():
            return
        execute(plan, again, quiet=quiet)
        checksum = record.read(again).checksums.get(FINAL)
        if checksum != run.checksums[FINAL]:
            raise RefigureError(
                f"{run.identity}: trained again on this machine it ends in other parameters than it recorded; keep "
                f"this machine's run instead: delete {run.folder} and build again"
            )
        (run.folder / FINAL).parent.mkdir(exist_ok=True)
        (again / FINAL).replace(run.folder / FINAL)
        shutil.rmtree(again, ignore_errors=True)


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
    arguments = ("config", "seeds", "run", *(["parent"] if plan.parent else []))
    try:
        inspect.signature(module.train).bind(*arguments)
    except (AttributeError, TypeError):
        raise RefigureError(f"{file} has no function train({', '.join(arguments)})") from None
    return module


def _check_code(plan: PlannedRun) -> None:
    """Refuse to train when a file was edited between the planning and the import of the experiment."""
    planning.forget()
    code = planning.reach(plan.identity.paper, plan.identity.experiment, plan.identity.variant)
    if code.digest != plan.identity.code:
        edited = [f"{file}: {name}" for file, name in changed(plan.manifest, code.manifest)]
        what = ", ".join(edited[:3]) or "a definition that it used"
        raise RefigureError(f"{plan.identity}: {what} changed since this was planned: start again")


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
    parser.add_argument("--scale", default="cpu", help=f"{', '.join(spec.SCALES)} (default: cpu)")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, action="append", help="a seed, trained on its own; may be repeated")
    seeds.add_argument("--seeds", type=_seed_range, help="seeds trained as one batch, such as 0-4 or 0,2,5")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting")
    parser.add_argument("--out", type=_folder, metavar="DIR", help="folder of the run (default: its place in runs/)")
    parser.add_argument("--parent", type=_folder, metavar="DIR", help="the run it begins from (default: in runs/)")
    parser.add_argument("--key", help="stop unless the run has this key")
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from a checkpoint (the default)"
    )
    parser.add_argument("--wait", action="store_true", help="wait for another process that trains the same run")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as declared; other threads, other key)")
    seconds = record.SECONDS_BETWEEN_CHECKPOINTS
    parser.add_argument(
        "--checkpoint-every", type=float, default=seconds, metavar="SECONDS", help="between checkpoints (%(default)s)"
    )
    parser.add_argument("--replay", type=_folder, metavar="DIR", help="compare the opening with the run in DIR")
    parser.add_argument("--quiet", action="store_true", help="plain lines instead of a bar")
    parser.add_argument("--dry-run", action="store_true", help="print the folders of the runs and stop")
    return parser


def _planned(paper: str, options: argparse.Namespace) -> list[PlannedRun]:
    """The runs that the options name; without `--experiment`, those of the experiments that the scale has."""
    if not 1 <= (options.threads or 1) <= MOST_THREADS or options.threads == 0:
        raise RefigureError(f"--threads {options.threads}: expected 1 to {MOST_THREADS}")
    if not 0 <= options.checkpoint_every < math.inf:
        raise RefigureError(f"--checkpoint-every {options.checkpoint_every}: expected seconds, 0 or more")
    size, experiments, owner = spec.scale_name(options.scale), spec.load(paper).experiments, paper
    if options.experiment is not None:
        owner = f"{paper}/{options.experiment}"
        experiments = {options.experiment: find(experiments, options.experiment, "experiment", paper)}
        find(experiments[options.experiment].scales, size, "scale", owner)
    experiments = {name: experiment for name, experiment in experiments.items() if size in experiment.scales}
    if not experiments:
        raise RefigureError(f"no experiment of {paper} has scale {size}")
    if options.variant is not None:
        find(ChainMap(*(each.variants for each in experiments.values())), options.variant, "variant", owner)
    by_hand = [options.seeds] if options.seeds else [(seed,) for seed in options.seed or ()]
    planned = []
    for name, experiment in experiments.items():
        scale = experiment.scales[size]
        variants: Iterable[str] = scale.variants or experiment.variants
        if options.variant is not None:
            variants = {options.variant} & experiment.variants.keys()
        for variant, seeds in itertools.product(variants, by_hand or scale.batches()):
            planned.append(plan_run(paper, name, variant, size, seeds, options.set, options.threads))
    for name in ("out", "parent", "replay"):
        if getattr(options, name) is not None and len(planned) != 1:
            raise RefigureError(
                f"--{name} names one folder, but {len(planned)} runs were asked for: "
                "name --experiment, --variant and one --seed or --seeds"
            )
    return planned


def _seed_range(text: str) -> tuple[int, ...]:
    """`0-4` or `0,2,5` as numbers."""
    first, dash, last = text.partition("-")
    try:
        listed = range(int(first), int(last) + 1) if dash else [*map(int, text.split(","))]
    except ValueError:
        listed = []
    if len(listed) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text}: at most {MOST_SEEDS:,} seeds are trained as one batch")
    seeds = tuple(listed)
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"{text}: expected a range such as 0-4 or a list such as 0,2,5")
    return seeds


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("name a folder")
    return Path(text)


def revision() -> dict[str, Any]:
    """The git revision and whether tracked files differ from it; empty outside of a checkout."""
    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    if head is None and (spec.root() / ".git").exists():
        print("git does not tell the revision: `git status` says why; the run's record will lack it", file=sys.stderr)
    return {} if head is None or changes is None else {"git": head.strip(), "dirty": bool(changes.strip())}


def git(*arguments: str) -> str | None:
    """What git prints; None where it has nothing to say or is not installed."""
    try:
        return subprocess.run(
            ["git", *arguments], cwd=spec.root(), capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
