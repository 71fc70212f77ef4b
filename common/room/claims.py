"""What a paper claims: `papers/<paper>/claims.yaml` as checked dataclasses. Verdicts are given in `common.verdict`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.errors import RefigureError
from common.room import spec
from common.room.config import build, read_yaml
from common.room.spec import ScaleName

__all__ = ["Bound", "Claim", "Kind", "Measure", "Published", "Source", "Tolerance", "load"]

Kind = Literal["value", "order", "shape", "identity"]


@dataclass(frozen=True)
class Measure:
    """Which number of which run."""

    experiment: str
    """Experiment of the paper."""
    variant: str
    """Variant of the experiment."""
    metric: str
    """Name in the run's final metrics."""


@dataclass(frozen=True)
class Published:
    """A number that others reported."""

    value: float
    """The number."""
    error: float | None = None
    """Its error as reported."""
    seeds: int | None = None
    """How many seeds it is the mean of, where known."""


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
    """As far as the published run is expected to scatter, given our spread over seeds (95 % prediction)."""

    def __post_init__(self) -> None:
        if (self.absolute is not None) + (self.relative is not None) + self.spread != 1:
            raise ValueError("give exactly one of absolute, relative and spread")


@dataclass(frozen=True)
class Bound:
    """What a curve's or a distribution's property must satisfy, for every seed."""

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
    source: Source
    """Where it stands."""
    ours: Measure
    """What measures it."""
    scale: ScaleName
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
    tolerance: Tolerance | None = None
    """Of a value or an identity: how far ours may be."""
    bound: Bound | None = None
    """Of a shape claim: what must hold."""

    def __post_init__(self) -> None:
        needed = {"order": ("against",), "shape": ("bound",)}.get(self.kind, ("published", "tolerance"))
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"a claim of kind {self.kind} needs {name!r}")
        if self.kind == "order" and self.better == "neither":
            raise ValueError("a claim of kind order needs 'better': lower or higher")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it compares: ours, and of an order the other side."""
        return (self.ours, *([self.against] if self.against else []))


@spec.once
def load(paper: str) -> list[Claim]:
    """The claims of a paper, checked against its experiments.

    Raises:
        RefigureError: A fault in `claims.yaml`, or a claim that names what does not exist.
    """
    experiments, where = spec.load(paper).experiments, f"papers/{paper}/claims.yaml"
    document = read_yaml(spec.root() / where, where)
    entries = document.get("claims") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or set(document) != {"claims"}:
        raise RefigureError(f"{where}: expected one key 'claims' with a list")
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(entries):
        name = entry.get("id", number) if isinstance(entry, Mapping) else number
        claim: Claim = build(Claim, entry, f"{where}: {name}")
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
    return list(claims.values())
