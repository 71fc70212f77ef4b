"""What there is: `papers/<paper>/paper.yaml` as checked dataclasses.

Light to import (no torch, no jax): the command line and Snakemake read it at every start. Each file is read once per
process; `forget` lets the next look read it again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args

from common.errors import RefigureError, suggest
from common.room.config import build, read_yaml
from common.room.identity import Deviation

__all__ = [
    "SCALES", "Disagreement", "Experiment", "Figure", "Paper", "Scale", "ScaleName", "Variant",
    "find", "forget", "load", "once", "papers", "root", "scale_name",
]  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")
ScaleName = Literal["smoke", "cpu", "paper"]
SCALES: tuple[ScaleName, ...] = get_args(ScaleName)
"""From the smallest to the published settings."""


@dataclass(frozen=True)
class Expected:
    """What one run was measured to need."""

    seconds: float
    """Wall time."""
    memory: int
    """Peak resident memory, MB."""
    machine: str
    """The machine that it was measured on, in words."""


@dataclass(frozen=True)
class Scale:
    """How large an experiment is run."""

    seeds: tuple[int, ...]
    """All seeds at this scale; every one is reported."""
    batch: bool | int = False
    """Whether all seeds are trained as one batch (one run) instead of one run each; a number: so many a batch.

    With a number, seeds added at the end add runs and leave the others as they are.
    """
    config: dict[str, Any] = field(default_factory=dict)
    """Settings that differ from the published ones; each becomes a deviation of the run."""
    only: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of single variants at this scale, over `config`."""
    why: str = ""
    """The reason for those differences."""
    instead: dict[str, str] = field(default_factory=dict)
    """Data sets that are read in place of declared ones: declared name to the one read."""
    variants: tuple[str, ...] | None = None
    """The variants that run at this scale; all when left out."""
    expected: Expected | None = None
    """Cost of one run."""
    replay: int = 2
    """Lines of its metrics stream until which `refigure carry` trains a run again; 0 for all of it."""

    def batches(self) -> list[tuple[int, ...]]:
        """The seeds of each run."""
        size = len(self.seeds) if self.batch is True else max(1, int(self.batch))
        return [self.seeds[i : i + size] for i in range(0, len(self.seeds), size)]


@dataclass(frozen=True)
class Variant:
    """One row or column of the paper's comparison."""

    title: str
    """How figures and tables call it."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its settings, over the experiment's."""
    parent: str = ""
    """Which variant of the parent experiment it begins from; the one of its own name when left out."""
    config_class: str = ""
    """The dataclass of its settings, where it is not the experiment's."""
    data: tuple[str, ...] = ()
    """Data sets of the registry that it reads, besides the experiment's."""
    deviations: tuple[Deviation, ...] = ()
    """Where it departs from the paper at every scale."""


@dataclass(frozen=True)
class Experiment:
    """One training procedure with its variants and scales."""

    summary: str
    """What it shows, in a line."""
    module: str
    """The module whose `train(config, seeds, run)` runs it (with `parent` after these where it has one)."""
    config_class: str
    """The dataclass of its settings, in `papers/<paper>/config.py`."""
    variants: dict[str, Variant]
    """By name, in the paper's order."""
    scales: dict[ScaleName, Scale]
    """By name."""
    config: dict[str, Any] = field(default_factory=dict)
    """Settings shared by the variants, where they differ from the class's defaults."""
    data: tuple[str, ...] = ()
    """Data sets of the registry that every variant reads."""
    deviations: tuple[Deviation, ...] = ()
    """Where all of it departs from the paper."""
    clocked: tuple[str, ...] = ()
    """Patterns of metrics and arrays that are times of the machine, and differ whenever a run is made again."""
    threads: int = 1
    """CPU threads of a run."""
    gpus: int = 0
    """GPUs that a run needs; 0 when it may use one but need not."""
    parent: str = ""
    """An experiment listed before this one: each run begins from its finished run at the same scale and seeds."""


@dataclass(frozen=True)
class Figure:
    """One figure or table of the report."""

    title: str
    """Its heading in the report."""
    draw: str
    """`module:function` that draws it: function(finished runs, claims) -> `common.report.theme.Drawing`."""
    experiment: str
    """The experiment whose runs it shows."""
    also: tuple[str, ...] = ()
    """Other experiments whose runs it shows beside these."""
    published: bool = False
    """Whether variants are shown by runs under published settings, where as many seeds of these are done."""
    caption: str = ""
    """What is seen; says what error bands are."""
    original: str = ""
    """The figure or table of the paper that it is laid beside."""


@dataclass(frozen=True)
class Disagreement:
    """A line of the ledger: paper and official code say different things."""

    point: str
    """What they disagree about."""
    paper: str
    """What the paper says."""
    code: str
    """What the official code does."""
    effect: str
    """What each gives, or what is known of it."""
    followed: str
    """Which one the published number follows, and which one we run."""


@dataclass(frozen=True)
class Paper:
    """A room: what `papers/<paper>/paper.yaml` says."""

    title: str
    """The paper's title."""
    authors: str
    """Its authors, as cited."""
    venue: str
    """Where and when it appeared."""
    question: str
    """What was asked, for the report's first paragraph."""
    experiments: dict[str, Experiment]
    """By name."""
    figures: dict[str, Figure]
    """By name; the name is the file's."""
    learned: str = ""
    """What was learned, in a sentence or two, for the first page."""
    arxiv: str = ""
    """arXiv number."""
    code: str = ""
    """Official code: repository and commit."""
    ledger: tuple[Disagreement, ...] = ()
    """Where paper and official code disagree."""


def root() -> Path:
    """The repository: the nearest folder upwards that has `papers/`, `common/` and a Snakefile.

    Outside of one it is the folder that this package was installed from.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise RefigureError("the current folder is gone: go to another one") from None
    for folder in (here, *here.parents):
        if all((folder / name).exists() for name in ("papers", "common", "Snakefile")):
            return folder
    return Path(__file__).resolve().parents[2]


def once(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function give each answer once per process and repository, until `forget`."""

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        key = (function, root(), args, *kwargs.items())
        if key not in _answers:
            _answers[key] = function(*args, **kwargs)
        return _answers[key]

    return answer


_answers: dict[Any, Any] = {}


def forget() -> None:
    """Read files again at the next look."""
    _answers.clear()


def papers() -> list[str]:
    """Names of all papers, sorted."""
    return sorted(path.parent.name for path in root().glob("papers/*/paper.yaml"))


@once
def load(paper: str) -> Paper:
    """The spec of a paper.

    Raises:
        RefigureError: No such paper, or a fault in its `paper.yaml` (file and key are named).
    """
    if paper not in papers():
        raise RefigureError(f"no paper {paper!r}; {suggest(paper, papers())}")
    where = f"papers/{paper}/paper.yaml"
    spec: Paper = build(Paper, read_yaml(root() / where, where), where)
    for name, experiment in spec.experiments.items():
        place = f"{where}: experiments.{name}"
        if not experiment.variants:
            raise RefigureError(f"{place}.variants: at least one is needed")
        for scale, size in experiment.scales.items():
            for variant in (*(size.variants or ()), *size.only):
                find(experiment.variants, variant, "variant", f"{place}.scales.{scale}")
            if not size.seeds or len(set(size.seeds)) != len(size.seeds) or min(size.seeds) < 0:
                raise RefigureError(f"{place}.scales.{scale}.seeds: expected distinct numbers from 0 up")
            declared = {*experiment.data, *(each for variant in experiment.variants.values() for each in variant.data)}
            for data_set in size.instead:
                find(dict.fromkeys(declared), data_set, "declared data set", f"{place}.scales.{scale}.instead")
            if (size.config or size.only) and not size.why:
                raise RefigureError(f"{place}.scales.{scale}.why: say why its settings are not the published ones")
        _check_parent(spec.experiments, name, place)
    for name, figure in spec.figures.items():
        for shown in (figure.experiment, *figure.also):
            find(spec.experiments, shown, "experiment", f"{where}: figures.{name}")
    return spec


def _check_parent(experiments: Mapping[str, Experiment], name: str, place: str) -> None:
    """Refuse an experiment of which a run would not find its parent's run."""
    child = experiments[name]
    wanted = {key: variant.parent or key for key, variant in child.variants.items()}
    if not child.parent:
        for key in (key for key, variant in child.variants.items() if variant.parent):
            raise RefigureError(f"{place}.variants.{key}.parent: experiments.{name}.parent must say whose variant")
        return
    earlier = dict(takewhile(lambda item: item[0] != name, experiments.items()))
    if child.parent in experiments and child.parent not in earlier:
        raise RefigureError(f"{place}.parent: {child.parent!r} must be another experiment, before {name!r}")
    parent: Experiment = find(earlier, child.parent, "experiment", f"{place}.parent")
    for key, variant in wanted.items():
        find(parent.variants, variant, "variant", f"{child.parent} ({place}.variants.{key}.parent)")
    for scale, size in child.scales.items():
        there = f"{place}.scales.{scale}"
        larger: Scale = find(parent.scales, scale, "scale", f"the parent {child.parent} ({there})")
        for key in size.variants or child.variants:
            if wanted[key] not in (larger.variants or parent.variants):
                raise RefigureError(
                    f"{there}.variants: {key!r} begins from variant {wanted[key]!r} of {child.parent!r}, which "
                    f"leaves it out at this scale; {suggest(wanted[key], larger.variants or ())}"
                )
        ours, theirs = (" ".join(str([*seeds]) for seeds in each.batches()) for each in (size, larger))
        if ours != theirs:
            problem = f"seeds {ours}, but its parent {child.parent!r} has {theirs}"
            raise RefigureError(f"{there}: {problem}: give both the same seeds and batch")


def scale_name(name: str, where: str = "") -> ScaleName:
    """A scale by its name.

    Arguments:
        where: What asked for it, for the message: `--config scale=`.
    """
    for scale in SCALES:
        if scale == name:
            return scale
    raise RefigureError(f"{where}no scale {name!r}; {suggest(name, SCALES)}")


def find(options: Mapping[Any, Any], name: str, kind: str, owner: str) -> Any:
    """`options[name]`, or a line that offers the nearest name."""
    if name not in options:
        raise RefigureError(f"no {kind} {name!r} in {owner}; {suggest(name, options)}")
    return options[name]
