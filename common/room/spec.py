"""What there is: `papers/<paper>/paper.yaml` as checked dataclasses, and the runs that a scale needs.

Light to import (no torch, no jax): the command line and Snakemake read it at every start.
"""

import dataclasses
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from common import data
from common.errors import RefigureError, suggest
from common.room.config import build, override, read_yaml, to_dict
from common.room.digest import code_digest, code_manifest
from common.room.identity import Deviation, Identity

__all__ = [
    "SCALES",
    "Experiment",
    "Figure",
    "Paper",
    "PlannedRun",
    "ScaleName",
    "load",
    "papers",
    "plan",
    "root",
]

ScaleName = Literal["smoke", "cpu", "paper"]
SCALES: tuple[ScaleName, ...] = get_args(ScaleName)
"""From the smallest to the published settings."""


@dataclass(frozen=True)
class Expected:
    """What one run was measured to need."""

    seconds: float
    """Wall time, of which `refigure status` makes an estimate for this machine."""
    memory: int
    """Peak resident memory, MB."""
    gflops: float
    """Speed of the machine it was measured on, as `common.run.device.calibrate` gives it."""
    machine: str
    """That machine, in words."""


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
    variants: tuple[str, ...] | None = None
    """The variants that run at this scale; all when left out."""
    expected: Expected | None = None
    """Cost of one run."""

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
    needs: str = ""
    """Which variant of the experiment that this one needs; the one of its own name when left out."""
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
    """The module whose `train(config, seeds, run)` runs it (`parent` after these with `needs`); the root of the code
    digest."""
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
    threads: int = 1
    """CPU threads of a run."""
    gpus: int = 0
    """GPUs that a run needs; 0 when it may use one but need not."""
    needs: str = ""
    """An experiment listed before this one: each run begins from its finished run at the same scale and seeds."""


@dataclass(frozen=True)
class Figure:
    """One figure or table of the report."""

    title: str
    """Its heading in the report."""
    draw: str
    """`module:function` that draws it: function(finished runs) -> `common.report.theme.Drawing`."""
    experiment: str
    """The experiment whose runs it shows."""
    also: tuple[str, ...] = ()
    """Other experiments whose runs it shows beside these."""
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
    arxiv: str = ""
    """arXiv number."""
    code: str = ""
    """Official code: repository and commit."""
    ledger: tuple[Disagreement, ...] = ()
    """Where paper and official code disagree."""


@dataclass(frozen=True)
class PlannedRun:
    """A run that a scale needs, whether it is there or not."""

    identity: Identity
    """What names it."""
    scale: ScaleName
    """The scale it was planned for."""
    module: str
    """Where `train` is."""
    config: Any
    """The resolved configuration, an instance of the experiment's config class."""
    deviations: tuple[Deviation, ...]
    """All departures from the paper, computed and declared, and those of the run that it needs."""
    manifest: Mapping[str, Mapping[str, str]]
    """Digest of every definition in its code."""
    expected: Expected | None
    """What it costs."""
    threads: int
    """CPU threads."""
    gpus: int
    """GPUs."""
    needs: "PlannedRun | None" = None
    """The run that it begins from."""

    @property
    def lineage(self) -> tuple["PlannedRun", ...]:
        """This run, the one that it needs, and so on."""
        return (self, *(self.needs.lineage if self.needs else ()))


def root() -> Path:
    """The repository: the nearest folder upwards that has `papers/`, `common/` and a Snakefile.

    Outside of one it is the folder that this package was installed from.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "papers").is_dir() and (folder / "common").is_dir() and (folder / "Snakefile").is_file():
            return folder
    return Path(__file__).resolve().parents[2]


def papers() -> list[str]:
    """Names of all papers, sorted."""
    return sorted(path.parent.name for path in root().glob("papers/*/paper.yaml"))


def load(paper: str) -> Paper:
    """The spec of a paper.

    Raises:
        RefigureError: No such paper, or a fault in its `paper.yaml` (file and key are named).
    """
    if paper not in papers():
        raise RefigureError(f"no paper {paper!r}; {suggest(paper, papers())}")
    path = root() / "papers" / paper / "paper.yaml"
    return _load(path, path.stat().st_mtime_ns)


@cache
def _load(path: Path, _modified: int) -> Paper:
    where = path.relative_to(root()).as_posix()
    spec: Paper = build(Paper, read_yaml(path), where)
    for name, experiment in spec.experiments.items():
        place = f"{where}: experiments.{name}"
        if not experiment.variants:
            raise RefigureError(f"{place}.variants: at least one is needed")
        for scale_name, scale in experiment.scales.items():
            for variant in scale.variants or ():
                if variant not in experiment.variants:
                    raise RefigureError(
                        f"{place}.scales.{scale_name}.variants: no variant {variant!r}; "
                        f"{suggest(variant, experiment.variants)}"
                    )
            if not scale.seeds or len(set(scale.seeds)) != len(scale.seeds) or min(scale.seeds) < 0:
                raise RefigureError(f"{place}.scales.{scale_name}.seeds: expected distinct numbers from 0 up")
            for variant in scale.only:
                find(experiment.variants, variant, "variant", f"{place}.scales.{scale_name}.only")
            if (scale.config or scale.only) and not scale.why:
                raise RefigureError(f"{place}.scales.{scale_name}.why: say why its settings are not the published ones")
        _check_needs(spec, name, place)
    for name, figure in spec.figures.items():
        for key, shown in [("experiment", figure.experiment), *(("also", other) for other in figure.also)]:
            if shown not in spec.experiments:
                raise RefigureError(
                    f"{where}: figures.{name}.{key}: no experiment {shown!r}; {suggest(shown, spec.experiments)}"
                )
    return spec


def _check_needs(spec: Paper, name: str, place: str) -> None:
    """Whether every run of an experiment will find the run that it needs.

    Raises:
        RefigureError: One will not.
    """
    experiment, needs = spec.experiments[name], spec.experiments[name].needs
    wanted = {key: variant.needs or key for key, variant in experiment.variants.items()}
    if not needs:
        for key, variant in experiment.variants.items():
            if variant.needs:
                raise RefigureError(f"{place}.variants.{key}.needs: experiments.{name}.needs must say whose variant")
        return
    names = list(spec.experiments)
    earlier = names[: names.index(name)]
    if needs not in names:
        raise RefigureError(f"{place}.needs: no experiment {needs!r}; {suggest(needs, earlier)}")
    if needs not in earlier:
        raise RefigureError(f"{place}.needs: {needs!r} must be another experiment, listed before {name!r}")
    needed = spec.experiments[needs]
    for key, name in wanted.items():
        if name not in needed.variants:
            raise RefigureError(
                f"{place}.variants.{key}.needs: no variant {name!r} in {needs!r}; {suggest(name, needed.variants)}"
            )
    for scale_name, scale in experiment.scales.items():
        there, other = f"{place}.scales.{scale_name}", needed.scales.get(scale_name)
        if other is None:
            raise RefigureError(f"{there}: {needs!r}, which it needs, lacks it; {suggest(scale_name, needed.scales)}")
        for key in scale.variants or experiment.variants:
            if wanted[key] not in (other.variants or needed.variants):
                raise RefigureError(
                    f"{there}.variants: {key!r} needs variant {wanted[key]!r} of {needs!r}, which leaves it out at "
                    f"this scale; {suggest(wanted[key], other.variants or ())}"
                )
        if scale.batches() != other.batches():
            raise RefigureError(
                f"{there}: seeds {_batches(scale)}, but {needs!r}, which it needs, has {_batches(other)}: "
                "give both the same seeds and batch"
            )


def _batches(scale: Scale) -> str:
    return " ".join(str(list(seeds)) for seeds in scale.batches())


def find(options: Mapping[Any, Any], name: str, kind: str, owner: str) -> Any:
    """`options[name]`, or a line that offers the nearest name."""
    if name not in options:
        raise RefigureError(f"no {kind} {name!r} in {owner}; {suggest(name, options)}")
    return options[name]


def config_class(paper: str, experiment: str) -> type:
    """The dataclass of an experiment's settings, from the paper's light `config` module."""
    spec = find(load(paper).experiments, experiment, "experiment", paper)
    if str(root()) not in sys.path:
        sys.path.insert(0, str(root()))
    try:
        module = importlib.import_module(f"papers.{paper}.config")
    except SyntaxError as error:
        raise RefigureError(f"papers/{paper}/config.py, line {error.lineno}: {error.msg}") from None
    except Exception as error:  # whatever a paper's own module raises
        raise RefigureError(f"papers/{paper}/config.py cannot be imported: {error}") from None
    found = getattr(module, spec.config_class, None)
    if not dataclasses.is_dataclass(found) or not isinstance(found, type):
        raise RefigureError(
            f"papers/{paper}/paper.yaml: experiments.{experiment}.config_class: "
            f"papers/{paper}/config.py has no dataclass {spec.config_class!r}"
        )
    return found


def resolve(paper: str, experiment: str, variant: str, scale: ScaleName | None, assignments: Sequence[str] = ()) -> Any:
    """The configuration of a variant at a scale, with `key=value` texts on top.

    Arguments:
        scale: None for the published settings, whether or not a scale runs them.
    """
    spec = find(load(paper).experiments, experiment, "experiment", paper)
    chosen = find(spec.variants, variant, "variant", f"{paper}/{experiment}")
    settings = {**spec.config, **chosen.config}
    if scale is not None:
        size = find(spec.scales, scale, "scale", f"{paper}/{experiment}")
        settings |= {**size.config, **size.only.get(variant, {})}
    where = f"papers/{paper}/paper.yaml: {experiment}/{variant}" + (f" at scale {scale}" if scale else "")
    kind = config_class(paper, experiment)
    config = build(kind, settings, where)
    if assignments:
        config = build(kind, override(to_dict(config), assignments), "--set")
    return config


def plan_run(
    paper: str,
    experiment: str,
    variant: str,
    scale: ScaleName,
    seeds: tuple[int, ...],
    assignments: Sequence[str] = (),
) -> PlannedRun:
    """One run, whether or not `paper.yaml` asks for these seeds and settings.

    Arguments:
        assignments: Settings by hand; the run that it needs keeps its own.
    """
    spec = find(load(paper).experiments, experiment, "experiment", paper)
    config = resolve(paper, experiment, variant, scale, assignments)
    chosen, size = spec.variants[variant], spec.scales[scale]
    names = (*spec.data, *chosen.data)
    manifest = _manifest(root(), spec.module)
    needs = plan_run(paper, spec.needs, chosen.needs or variant, scale, seeds) if spec.needs else None
    try:
        identity = Identity(
            paper=paper,
            experiment=experiment,
            variant=variant,
            config=to_dict(config),
            seeds=seeds,
            data={name: data.checksums(name) for name in names},
            code=code_digest(manifest),
            needs=needs.identity.path.relative_to(paper).as_posix() if needs else "",
        )
    except ValueError as error:
        raise RefigureError(f"{paper}/{experiment}/{variant}: {error}") from None
    deviations = (
        *_differences(paper, experiment, variant, config, size, assignments),
        *(_data_deviation(name) for name in names if data.deviation(name)),
        *spec.deviations,
        *chosen.deviations,
        *(needs.deviations if needs else ()),
    )
    return PlannedRun(
        identity=identity,
        scale=scale,
        module=spec.module,
        config=config,
        deviations=tuple(dict.fromkeys(deviations)),
        manifest=manifest,
        expected=size.expected,
        threads=spec.threads,
        gpus=spec.gpus,
        needs=needs,
    )


def plan(paper: str, scale: ScaleName, experiment: str | None = None) -> list[PlannedRun]:
    """All runs of a paper (or of one experiment) at a scale, in the paper's order."""
    return list(_plan(paper, scale, experiment))


def _plan(paper: str, scale: ScaleName, only: str | None) -> Iterator[PlannedRun]:
    for name, experiment in load(paper).experiments.items():
        if (only is not None and name != only) or scale not in experiment.scales:
            continue
        size = experiment.scales[scale]
        for variant in size.variants or experiment.variants:
            for seeds in size.batches():
                yield plan_run(paper, name, variant, scale, seeds)


_manifests: dict[tuple[Path, str, int], dict[str, dict[str, str]]] = {}


def _manifest(folder: Path, module: str) -> dict[str, dict[str, str]]:
    """`code_manifest`, once per process and state of the source files."""
    newest = max(
        (path.stat().st_mtime_ns for package in ("common", "papers") for path in (folder / package).rglob("*.py")),
        default=0,
    )
    if (folder, module, newest) not in _manifests:
        _manifests[folder, module, newest] = code_manifest(folder, module)
    return _manifests[folder, module, newest]


def _differences(
    paper: str, experiment: str, variant: str, config: Any, scale: Scale, assignments: Sequence[str]
) -> list[Deviation]:
    """The settings that are not the published ones, each as a deviation that touches every claim."""
    published = to_dict(resolve(paper, experiment, variant, None))
    typed = {text.partition("=")[0].strip() for text in assignments}
    return [
        Deviation(
            what=f"{key}: {value} instead of {published[key]}",
            reason="set by hand" if key in typed else scale.why,
            touches=("all",),
        )
        for key, value in to_dict(config).items()
        if value != published[key]
    ]


def _data_deviation(name: str) -> Deviation:
    return Deviation(what=f"data set {name}", reason=str(data.deviation(name)), touches=("all",))
