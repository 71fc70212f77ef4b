"""What a paper claims: `papers/<paper>/claims.yaml` as checked dataclasses. Verdicts are given in `common.verdict`."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from common.errors import RefigureError
from common.room import spec
from common.room.config import build, read_yaml
from common.room.spec import ScaleName

__all__ = [
    "Bound", "Claim", "Class", "Evaluations", "Kind", "Measure", "Published", "Source", "Tolerance", "load", "parse",
]  # fmt: skip

Kind = Literal["value", "order", "shape", "identity"]
Class = Literal["printed", "replication", "reference", "direction", "beyond", "check"]
"""Whose the published side is: a number or an order that the paper (its supplement, its authors' talk) prints; one that
others published; one measured with the authors' code; what the paper says in words; ours alone; what theory demands."""


USED: dict[Kind, tuple[str, ...]] = {
    "value": ("tolerance",), "order": ("against", "margin", "paired"), "shape": ("bound",), "identity": ("tolerance",),
}  # fmt: skip
"""What a claim of a kind has beside what all have."""


@dataclass(frozen=True)
class Evaluations:
    """The evaluations that each seed's number is the mean of: lifetimes of a rule, test sequences of a learner."""

    of: str
    """What is evaluated, in the plural: `lifetimes`."""
    arrays: Mapping[str, int | str]
    """Arrays of a run that keep them, (seeds, evaluations, entries): metric `NAME_K` is the mean of entry K of NAME.

    The number of the first entry, or the setting of the run that lists the entries' names.
    """
    pooled: bool = False
    """Whether they are the independent draws, those of all seeds together, as of one rule; else each seed is one."""

    def place(self, metric: str, config: Mapping[str, Any]) -> tuple[str, int] | None:
        """The array that keeps the evaluations of a metric, and the entry; None where the metric is no mean of them."""
        name, _, entry = metric.rpartition("_")
        first = self.arrays.get(name)
        if isinstance(first, str):
            entries = [*map(str, config.get(first, ())), "end"]
            return (name, entries.index(entry)) if entry in entries else None
        return (name, int(entry) - first) if first is not None and entry.isdecimal() else None


@dataclass(frozen=True)
class Measure:
    """Which number of which run."""

    experiment: str
    """Experiment of the paper."""
    variant: str
    """Variant of the experiment."""
    metric: str
    """Name in the run's final metrics."""
    evaluations: Evaluations | None = None
    """What the metric is the mean of; that of the experiment in the document's `evaluations` when left out."""


@dataclass(frozen=True)
class Published:
    """A number that others reported."""

    value: float
    """The number."""
    error: float | None = None
    """As it was reported."""
    error_is: Literal["standard error", "deviation", "95 %", "unstated", "within one training"] | None = None
    """What `error` is: the mean's standard error; the deviation over draws; half of a 95 % interval; not said, and
    taken for a standard error; or of evaluations of one training, which says nothing of other trainings.
    """
    seeds: int | None = None
    """How many trainings it is the mean of, where known."""
    evaluations: int | None = None
    """How many evaluations it is the mean of, where known: the draws where ours are pooled evaluations."""

    def __post_init__(self) -> None:
        if (self.error is None) is not (self.error_is is None):
            raise ValueError("give 'error' and 'error_is' together: what was reported, and what it is")
        if self.error is not None and not self.error >= 0:
            raise ValueError(f"error must be 0 or positive, not {self.error:g}")
        if min(self.seeds or 1, self.evaluations or 1) < 1 or 0 in (self.seeds, self.evaluations):
            raise ValueError("seeds and evaluations must be positive, or left out where they are not known")
        if self.error_is == "deviation" and (self.seeds or self.evaluations) is None:
            raise ValueError("error_is deviation: say over how many seeds or evaluations")

    def standard_error(self, draws: int | None) -> float | None:
        """Standard error of the value as a mean of so many draws; None where it is not known."""
        if self.error is None or self.error_is == "within one training":
            return None
        if self.error_is == "deviation":
            return self.error / math.sqrt(draws or 1)
        return self.error / _half_width(draws) if self.error_is == "95 %" else self.error


def _half_width(draws: int | None) -> float:
    """Half of Student's 95 % interval in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit((draws or 1) - 1, 0.975)) if draws and draws > 1 else 1.96


@dataclass(frozen=True)
class Source:
    """Where a claim stands and how well it was read."""

    where: str
    """Table, figure or section."""
    how: Literal["read exactly", "read off the plot", "second-hand", "unverified", "official code", "theory"]
    """How the value came here; `official code` means measured by running it, `theory` derived."""


@dataclass(frozen=True)
class Tolerance:
    """How far ours may be from the published value."""

    why: str
    """Why that far."""
    absolute: float | None = None
    """In the metric's unit."""
    relative: float | None = None
    """As a fraction of the published value."""
    spread: bool = False
    """No margin has a reason: it is asked alone whether the two numbers differ by more than they scatter."""

    def __post_init__(self) -> None:
        if (self.absolute is not None) + (self.relative is not None) + self.spread != 1:
            raise ValueError("give exactly one of absolute, relative and spread")
        if not self.why:
            raise ValueError("say why that far")
        for margin in (self.absolute, self.relative):
            if margin is not None and not margin >= 0:
                raise ValueError(f"a margin must be 0 or positive, not {margin:g}")


@dataclass(frozen=True)
class Bound:
    """What a curve's or a distribution's property must satisfy: for every seed, or the mean of pooled evaluations."""

    condition: Literal["<", "<=", ">", ">="]
    """Comparison with the value."""
    value: float
    """In the metric's unit."""
    why: str
    """Why that value."""


@dataclass(frozen=True)
class Claim:
    """One statement of the paper that runs can bear out."""

    id: str
    """Short and stable: `S1a-flow`."""
    statement: str
    """In words."""
    kind: Kind
    """`value` a number; `order` ours above or below another; `shape` a property; `identity` what theory demands."""
    origin: Class
    """Its class, `class` in the document."""
    source: Source
    """Where it stands."""
    ours: Measure | None = None
    """What measures it."""
    needs: str = ""
    """Of a claim that nothing here measures, or of which smaller runs say nothing: what measuring it would take."""
    scale: ScaleName = "paper"
    """The scale with the paper's conditions."""
    unit: str = ""
    """Unit of the metric."""
    better: Literal["lower", "higher", "neither"] = "neither"
    """Which direction is better."""
    headline: bool = False
    """Whether it is one of the few that carry the paper."""
    published: Published | None = None
    """The published number; of an order claim, the published gap; of an identity, what theory gives."""
    against: Measure | None = None
    """Of an order claim: what ours is better than."""
    margin: float = 0.0
    """Of an order claim: the least gap that counts."""
    paired: bool = False
    """Of an order claim: whether a seed draws the same for both sides, so that trainings are compared seed by seed."""
    log: bool = False
    """Whether it is compared on logarithms, as losses and residuals are; margins are log ratios then."""
    exact: bool = False
    """Whether the metric is counted and does not scatter, as bytes: one run says all."""
    tolerance: Tolerance | None = None
    """Of a value or an identity: how far ours may be."""
    bound: Bound | None = None
    """Of a shape claim: what must hold."""

    def __post_init__(self) -> None:
        if self.ours is None and not self.needs:
            raise ValueError("give 'ours', or 'needs': what measuring it would take")
        needed = {"order": ("against",), "shape": ("bound",)}.get(self.kind, ("published", "tolerance"))
        for name in needed if self.ours else ("published",) if self.kind == "value" else ():
            if getattr(self, name) is None:
                raise ValueError(f"a claim of kind {self.kind} needs {name!r}")
        for name in {"against", "bound", "tolerance", "paired", "margin"} - {*USED[self.kind]}:
            if getattr(self, name):
                raise ValueError(f"a claim of kind {self.kind} has no {name!r}")
        if self.log and self.tolerance and self.tolerance.absolute is not None:
            raise ValueError("a claim on logarithms needs a relative tolerance")
        if self.log and self.kind == "value" and self.published and not self.published.value > 0:
            raise ValueError(f"a claim on logarithms needs a positive published value, not {self.published.value:g}")
        if self.kind == "identity" and self.tolerance and self.tolerance.spread:
            raise ValueError("an identity needs an absolute or a relative tolerance")
        if not self.id or "{" in self.id + self.statement:
            raise ValueError("an id and a statement without braces are needed: is a name missing in `each`?")
        if self.kind == "order" and self.better == "neither":
            raise ValueError("a claim of kind order needs 'better': lower or higher")

    def command(self, paper: str) -> str:
        """What trains the runs that measure it; empty where nothing does."""
        start, end = f"python -m papers.{paper}", f"--scale {self.scale}"
        words = [f"{start} --experiment {each.experiment} --variant {each.variant} {end}" for each in self.measures]
        return "; ".join(dict.fromkeys(words))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it compares: ours, and of an order the other side."""
        return tuple(filter(None, (self.ours, self.against)))


@spec.once
def load(paper: str) -> list[Claim]:
    """The claims of a paper, checked against its experiments.

    Raises:
        RefigureError: A fault in `claims.yaml`, or a claim that names what does not exist.
    """
    experiments, where = spec.load(paper).experiments, f"papers/{paper}/claims.yaml"
    claims: dict[str, Claim] = {}
    document = read_yaml(spec.root() / where, where)
    for claim in parse(document, where):
        place = f"{where}: {claim.id}"
        if claim.id in claims:
            raise RefigureError(f"{place}: the id stands there twice")
        for measure in claim.measures:
            experiment = spec.find(experiments, measure.experiment, "experiment", place)
            spec.find(experiment.variants, measure.variant, "variant", place)
            scale = spec.find(experiment.scales, claim.scale, "scale", place)
            if measure.variant not in (scale.variants or experiment.variants):
                raise RefigureError(
                    f"{place}: variant {measure.variant!r} does not run at scale {claim.scale}: "
                    "name it there, or measure the claim at another scale"
                )
        claims[claim.id] = claim
    for experiment_name in document.get("evaluations", {}):
        spec.find(experiments, experiment_name, "experiment", f"{where}: evaluations")
    return list(claims.values())


def parse(document: Any, where: str) -> Iterator[Claim]:
    """The claims that a document describes, each checked by itself."""
    entries = document.get("claims") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or set(document) - {"claims", "evaluations"}:
        raise RefigureError(f"{where}: expected the key 'claims' with a list, beside it at most 'evaluations'")
    evaluations = build(dict[str, Evaluations], document.get("evaluations", {}), f"{where}: evaluations")
    for number, entry in enumerate(itertools.chain.from_iterable(_members(each, where) for each in entries)):
        name = entry.get("id", number) if isinstance(entry, Mapping) else number
        yield _with_evaluations(_claim(entry, f"{where}: {name}"), evaluations)


def _with_evaluations(claim: Claim, evaluations: Mapping[str, Evaluations]) -> Claim:
    """A claim whose measures say what they are the mean of, by their experiments where they do not themselves."""

    def complete(measure: Measure | None) -> Measure | None:
        if measure is None or measure.evaluations is not None:
            return measure
        return replace(measure, evaluations=evaluations.get(measure.experiment))

    return replace(claim, ours=complete(claim.ours), against=complete(claim.against))


def _members(entry: Any, where: str) -> Iterator[Any]:
    """The claims of an entry: itself, or with `each` one for every choice of the values that its names may have."""
    if not isinstance(entry, Mapping) or "each" not in entry:
        yield entry
        return
    each = build(dict[str, list[str | int]], entry["each"], f"{where}: {entry.get('id')}.each")
    if not all(each.values()):
        raise RefigureError(f"{where}: {entry.get('id')}.each: a name without values makes no claim")
    for choice in itertools.product(*each.values()):
        values = {f"{{{name}}}": str(value) for name, value in zip(each, choice, strict=True)}
        yield {key: _filled(part, values) for key, part in entry.items() if key != "each"}


def _filled(part: Any, values: Mapping[str, str]) -> Any:
    """Plain data with values in place of their names in all texts."""
    if isinstance(part, str):
        for name, value in values.items():
            part = part.replace(name, value)
    elif isinstance(part, Mapping):
        return {key: _filled(inner, values) for key, inner in part.items()}
    elif isinstance(part, list):
        return [_filled(inner, values) for inner in part]
    return part


def _claim(entry: Any, where: str) -> Claim:
    """The claim that an entry describes; `class`, which is no name in Python, is its origin."""
    if isinstance(entry, Mapping) and "origin" not in entry:
        entry = {"origin" if key == "class" else key: part for key, part in entry.items()}
    try:
        claim: Claim = build(Claim, entry, where)
    except RefigureError as fault:
        raise RefigureError(str(fault).replace(".origin:", ".class:").replace("'origin'", "'class'")) from None
    return claim
