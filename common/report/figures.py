"""What the figures of all papers are made with: all runs of a variant as one, and the numbers that were published."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.report.theme import Drawing
from common.run.record import FinishedRun
from common.verdict.statistics import mean_interval

if TYPE_CHECKING:
    from common.room.claims import Claim

__all__ = [
    "Treatment", "by_variant", "drawing", "experiment_and_variant", "mean_with_interval", "number_of_seeds",
    "published_values", "run_names",
]  # fmt: skip


@dataclass(frozen=True)
class Treatment:
    """All runs of one variant of an experiment, in the order of their seeds."""

    runs: Sequence[FinishedRun]
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
        return np.concatenate([run.arrays[name] for run in self.runs])

    def metric(self, name: str) -> np.ndarray:
        """A final metric of every seed: (seeds,)."""
        return np.concatenate([run.metrics[name] for run in self.runs])

    def histories(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """By seed what it logged: `step` and a column for every metric. A run that logged nothing has none."""
        for run in self.runs:
            lines = run.history() if "metrics.jsonl" in run.files else []
            for member, seed in enumerate(run.seeds if lines else ()):
                yield seed, pd.DataFrame([
                    {name: value[member] if isinstance(value, list) else value for name, value in line.items()}
                    for line in lines
                ])  # fmt: skip


def experiment_and_variant(run: FinishedRun) -> str:
    """`<experiment>/<variant>`, which names a treatment where a figure has several experiments."""
    return f"{run.identity.experiment}/{run.identity.variant}"


def by_variant(
    runs: Sequence[FinishedRun],
    order: Iterable[str] | None = None,
    name_of: Callable[[FinishedRun], str] = lambda run: run.identity.variant,
) -> dict[str, Treatment]:
    """The treatments by their names.

    Arguments:
        runs: All runs of the figure.
        order: The names that are wanted, as far as there are runs; None for all, shorter names first, so that
            numbers at their ends rise.
        name_of: What names a run's treatment.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: run.seeds):
        groups.setdefault(name_of(run), []).append(run)
    names = sorted(groups, key=lambda name: (len(name), name)) if order is None else order
    return {name: Treatment(groups[name]) for name in names if name in groups}


def published_values(claims: Sequence["Claim"], runs: Sequence[FinishedRun]) -> list[tuple["Claim", float]]:
    """The claims of a published number about an experiment that there are runs of, each with its number."""
    experiments = {run.identity.experiment for run in runs}
    return [
        (claim, claim.published.value)
        for claim in claims
        if claim.kind == "value" and claim.published and claim.ours.experiment in experiments
    ]


def mean_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and the ends of its 95 % interval, which are the mean itself where there is one seed."""
    mean = float(np.mean(values))
    low, high = mean_interval(values) or (mean, mean)
    return mean, low, high


def run_names(treatments: Iterable[Treatment]) -> list[str]:
    """The names of all their runs, as a `Drawing` has them."""
    return [str(run.identity) for treatment in treatments for run in treatment.runs]


def number_of_seeds(treatments: Iterable[Treatment]) -> str:
    """How many seeds they have, in words: `3 seeds`, `3 or 5 seeds`."""
    counts = sorted({len(treatment.seeds) for treatment in treatments})
    return f"{' or '.join(map(str, counts))} seed{'s' if counts[-1] > 1 else ''}"


def drawing(figure: Figure, rows: Sequence[Mapping[str, Any]], treatments: Iterable[Treatment], *notes: str) -> Drawing:
    """What a figure function returns, of the rows of its table and of the treatments that it shows."""
    return Drawing(figure, pd.DataFrame(rows), run_names(treatments), notes)
