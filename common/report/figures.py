"""What the figures of all papers are made with: all runs of a variant as one, and the numbers that were published."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.report.theme import Drawing
from common.room.spec import find
from common.run.record import FinishedRun
from common.verdict.statistics import mean_interval

if TYPE_CHECKING:
    from common.room.claims import Claim

__all__ = [
    "Claims", "Runs", "Treatment", "by_variant", "drawing", "panel_row", "published_values", "seed_count",
    "table_rows",
]  # fmt: skip

Runs = Sequence[FinishedRun]
"""What a figure function is given first: the runs of the figure's experiments."""
Claims = Sequence["Claim"]
"""What it is given then: all claims of the paper."""


@dataclass(frozen=True)
class Treatment:
    """All runs of one variant of an experiment, in the order of their seeds."""

    runs: Runs
    """At least one."""

    @property
    def variant(self) -> str:
        """Name of the variant."""
        return self.runs[0].identity.variant

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings, which its runs share."""
        return self.runs[0].identity.config

    @property
    def seeds(self) -> list[int]:
        """The seeds of all its runs."""
        return [seed for run in self.runs for seed in run.seeds]

    def has(self, name: str) -> bool:
        """Whether its runs kept the array."""
        return name in self.runs[0].arrays

    def array(self, name: str) -> np.ndarray:
        """An array of every seed: (seeds, ...)."""
        return np.concatenate([find(run.arrays, name, "array", str(run.identity)) for run in self.runs])

    def metric(self, name: str) -> np.ndarray:
        """A final metric of every seed: (seeds,)."""
        return np.concatenate([find(run.metrics, name, "metric", str(run.identity)) for run in self.runs])

    def mean_with_interval(self, name: str) -> tuple[float, float, float]:
        """A final metric's mean and the ends of its 95 % interval, which are the mean where there is one seed."""
        mean = float(self.metric(name).mean())
        low, high = mean_interval(self.metric(name).tolist()) or (mean, mean)
        return mean, low, high

    def histories(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """By seed what it logged: `step` and a column for every metric. A run that logged nothing has none."""
        for run in self.runs:
            lines = run.history() if "metrics.jsonl" in run.files else []
            for member, seed in enumerate(run.seeds if lines else ()):
                yield seed, pd.DataFrame([
                    {name: value[member] if isinstance(value, list) else value for name, value in line.items()}
                    for line in lines
                ])  # fmt: skip


def by_variant(
    runs: Runs, order: Iterable[str] | None = None, *, with_experiment: bool = False
) -> dict[str, Treatment]:
    """The treatments by name.

    Arguments:
        runs: All runs of the figure.
        order: The names that are wanted, as far as there are runs; None for all, shorter names first, so that
            numbers at their ends rise.
        with_experiment: Whether a name is `<experiment>/<variant>`, as in a figure of several experiments.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: run.seeds):
        experiment = f"{run.identity.experiment}/" if with_experiment else ""
        groups.setdefault(experiment + run.identity.variant, []).append(run)
    names = sorted(groups, key=lambda name: (len(name), name)) if order is None else order
    return {name: Treatment(groups[name]) for name in names if name in groups}


def published_values(claims: Claims, runs: Runs) -> list[tuple["Claim", float]]:
    """The claims of a published number about an experiment that there are runs of, each with its number."""
    experiments = {run.identity.experiment for run in runs}
    return [
        (claim, claim.published.value)
        for claim in claims
        if claim.kind == "value" and claim.published and claim.ours and claim.ours.experiment in experiments
    ]


def seed_count(treatments: Iterable[Treatment]) -> str:
    """How many seeds they have, in words: `3 seeds`, `3 or 5 seeds`."""
    counts = sorted({len(treatment.seeds) for treatment in treatments})
    return f"{' or '.join(map(str, counts))} seed{'s' if counts[-1] > 1 else ''}"


def panel_row(count: int, size: tuple[float, float], **options: Any) -> tuple[Figure, list[Axes]]:
    """`count` panels of a size in inches, side by side; `options` are those of `subplots`."""
    width, height = size
    figure, axes = plt.subplots(
        1, count, figsize=(width * count, height), layout="constrained", squeeze=False, **options
    )
    return figure, list(axes[0])


def table_rows(**columns: Any) -> list[dict[str, Any]]:
    """Rows of a figure's table, given by columns; a single value stands in all of them."""
    rows: list[dict[str, Any]] = pd.DataFrame(columns).to_dict("records")
    return rows


def drawing(figure: Figure, rows: Any, treatments: Iterable[Treatment], *notes: str) -> Drawing:
    """What a figure function returns: with the rows of its table, and named after the runs that it shows."""
    names = [str(run.identity) for treatment in treatments for run in treatment.runs]
    return Drawing(figure, pd.DataFrame(rows), names, notes)
