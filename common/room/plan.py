"""The runs that a scale needs, named by what decides their numbers."""

import dataclasses
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import data
from common.errors import RefigureError
from common.room import spec
from common.room.config import build, override, to_dict
from common.room.digest import Definition, Manifest, Reach, Sources
from common.room.identity import Deviation, Identity
from common.room.spec import Expected, ScaleName, find, forget, once

__all__ = ["BY_HAND", "PlannedRun", "forget", "plan", "plan_run", "reach", "resolve"]

ROOTS = (("common.run.runtime", "RUNTIME"), ("common.run.runtime", "settle"))
"""What decides how numbers are computed, whatever the experiment: precision, determinism, threads."""

BY_HAND = "set by hand"
"""The reason of a deviation that the command line makes."""


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
    """The resolved configuration, an instance of the variant's config class."""
    deviations: tuple[Deviation, ...]
    """All departures from the paper, computed and declared, and those of its parent."""
    manifest: Manifest
    """Digest of every definition that it reaches."""
    data_sets: Mapping[str, str]
    """Data set by the name that code and declaration have, to the one that is read."""
    expected: Expected | None
    """What it costs."""
    gpus: int
    """GPUs."""
    parent: "PlannedRun | None" = None
    """The run that it begins from."""

    @property
    def folder(self) -> Path:
        """Its place in `runs/`."""
        return spec.root() / "runs" / self.identity.path

    @property
    def lineage(self) -> tuple["PlannedRun", ...]:
        """This run, its parent, and so on."""
        return (self, *(self.parent.lineage if self.parent else ()))


def plan(paper: str, scale: ScaleName, experiment: str | None = None) -> list[PlannedRun]:
    """All runs of a paper (or of one experiment) at a scale, in the paper's order."""
    return [
        plan_run(paper, name, variant, scale, seeds)
        for name, entry in spec.load(paper).experiments.items()
        if experiment in (None, name) and scale in entry.scales
        for variant in entry.scales[scale].variants or entry.variants
        for seeds in entry.scales[scale].batches()
    ]


def plan_run(
    paper: str, experiment: str, variant: str, scale: ScaleName, seeds: tuple[int, ...],
    assignments: Sequence[str] = (), threads: int | None = None,
) -> PlannedRun:  # fmt: skip
    """One run, whether or not `paper.yaml` asks for these seeds and settings.

    Arguments:
        assignments: Settings by hand; its parent keeps its own.
        threads: CPU threads other than the experiment declares.
    """
    entry = find(spec.load(paper).experiments, experiment, "experiment", paper)
    config = resolve(paper, experiment, variant, scale, assignments)
    chosen, size = entry.variants[variant], entry.scales[scale]
    sets = {name: size.instead.get(name, name) for name in (*entry.data, *chosen.data)}
    for name, read in sets.items():
        if name != read and (data.deviation(name) is None) is (data.deviation(read) is None):
            raise RefigureError(f"{paper}/{experiment}: instead: neither {name} nor {read} stands in for the other")
    code = reach(paper, experiment, variant)
    parent = plan_run(paper, entry.parent, chosen.parent or variant, scale, seeds) if entry.parent else None
    try:
        identity = Identity(
            paper, experiment, variant, config=to_dict(config), seeds=seeds, code=code.digest,
            data={read if read == name else f"{read} as {name}": data.identity(read) for name, read in sets.items()},
            threads=threads or entry.threads,
            parent=parent.identity.path.relative_to(paper).as_posix() if parent else "",
        )  # fmt: skip
    except ValueError as error:
        raise RefigureError(f"{paper}/{experiment}/{variant}: {error}") from None
    deviations = (
        *_differences(to_dict(config), to_dict(resolve(paper, experiment, variant, None)), assignments, size.why),
        *(Deviation(f"data set {name}", why) for name in sets.values() if (why := data.deviation(name))),
        *entry.deviations,
        *chosen.deviations,
        *(parent.deviations if parent else ()),
    )
    return PlannedRun(
        identity, scale, module=entry.module, config=config, deviations=tuple(dict.fromkeys(deviations)),
        manifest=code.manifest, data_sets=sets, expected=size.expected, gpus=entry.gpus, parent=parent,
    )  # fmt: skip


def resolve(paper: str, experiment: str, variant: str, scale: ScaleName | None, assignments: Sequence[str] = ()) -> Any:
    """The configuration of a variant at a scale, with `key=value` texts on top.

    Arguments:
        scale: None for the published settings, whether or not a scale runs them.
    """
    entry = find(spec.load(paper).experiments, experiment, "experiment", paper)
    chosen = find(entry.variants, variant, "variant", f"{paper}/{experiment}")
    settings = {**entry.config, **chosen.config}
    if scale is not None:
        size = find(entry.scales, scale, "scale", f"{paper}/{experiment}")
        settings |= {**size.config, **size.only.get(variant, {})}
    where = f"papers/{paper}/paper.yaml: {experiment}/{variant}" + (f" at scale {scale}" if scale else "")
    kind = _config_class(paper, experiment, chosen.config_class or entry.config_class)
    config = build(kind, settings, where)
    if assignments:
        config = build(kind, override(to_dict(config), assignments), "--set")
    return config


def reach(paper: str, experiment: str, variant: str) -> Reach:
    """The definitions that decide the numbers of a variant."""
    entry = find(spec.load(paper).experiments, experiment, "experiment", paper)
    chosen = find(entry.variants, variant, "variant", f"{paper}/{experiment}")
    kind = _config_class(paper, experiment, chosen.config_class or entry.config_class)
    return code_of((entry.module, "train"), (kind.__module__, kind.__qualname__), *ROOTS)


@once
def code_of(*roots: Definition) -> Reach:
    """What some definitions reach."""
    return _sources().reach(*roots)


@once
def _sources() -> Sources:
    return Sources(spec.root())


def _config_class(paper: str, experiment: str, name: str) -> type:
    """The dataclass of some settings of an experiment, from the paper's light `config` module."""
    if str(spec.root()) not in sys.path:
        sys.path.insert(0, str(spec.root()))
    try:
        module = importlib.import_module(f"papers.{paper}.config")
    except SyntaxError as error:
        raise RefigureError(f"papers/{paper}/config.py, line {error.lineno}: {error.msg}") from None
    except Exception as error:  # whatever a paper's own module raises
        raise RefigureError(f"papers/{paper}/config.py cannot be imported: {error}") from None
    kind = getattr(module, name, None)
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        raise RefigureError(
            f"papers/{paper}/paper.yaml: experiments.{experiment}: config_class: "
            f"papers/{paper}/config.py has no dataclass {name!r}"
        )
    return kind


def _differences(
    settings: Mapping[str, Any], published: Mapping[str, Any], assignments: Sequence[str], why: str
) -> list[Deviation]:
    """The settings that are not the published ones, each as a deviation that touches every claim."""
    typed = {text.partition("=")[0].strip() for text in assignments}
    return [
        Deviation(f"{key}: {value} instead of {published[key]}", BY_HAND if key in typed else why)
        for key, value in settings.items()
        if value != published[key]
    ]
