"""The notebooks' figures: losses and predictions step by step, five learners of MNIST; and what lies beyond."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from common.report.theme import PALETTE, PUBLISHED, Drawing
from common.run.record import FinishedRun
from common.verdict.claims import load
from papers.mplp.tasks import GRID

__all__ = ["horizon", "initial_network", "losses", "meta_training", "mnist", "own", "predictions", "transfer"]

BAND = "Lines: means over all lifetimes; bands: one standard deviation on either side; open diamonds: reference."


@dataclass(frozen=True)
class Shown:
    """All runs of one variant of one experiment."""

    runs: Sequence[FinishedRun]

    def lifetimes(self, name: str) -> np.ndarray:
        """A measure after each step, of all lifetimes of all seeds: (lifetimes, steps)."""
        found = np.concatenate([run.arrays[name] for run in self.runs])
        return found.reshape(-1, found.shape[-1])

    def has(self, name: str) -> bool:
        """Whether its runs measured that."""
        return name in self.runs[0].arrays

    @property
    def name(self) -> str:
        """Experiment and variant."""
        identity = self.runs[0].identity
        return f"{identity.experiment}/{identity.variant}"


def losses(runs: Sequence[FinishedRun]) -> Drawing:
    """Loss of a new sinusoid against steps, released protocol and Adam."""
    panels = {"released/sinusoid": ("MPLP, released parameters", 0.03), "baseline/sinusoid_adam": ("Adam", 0.045)}
    return _losses(runs, panels)


def initial_network(runs: Sequence[FinishedRun]) -> Drawing:
    """The same from a meta-learned initial network, two steps: released protocol and MAML."""
    panels = {
        "released/maml": ("MPLP, released parameters", 0.08),
        "maml/maml": ("MAML", 0.04),
        "released/maml_random": ("MPLP from random networks", 0.8),
    }
    return _losses(runs, panels)


def own(runs: Sequence[FinishedRun]) -> Drawing:
    """Protocols meta-trained here."""
    panels = {
        "evaluate/sinusoid": ("agents with states", 0.06),
        "evaluate/random": ("random networks, stateless agents", 0.06),
        "evaluate/maml": ("learned network, messages as drawn", 0.08),
        "evaluate/maml_messages": ("learned network, messages trained", 0.08),
        "baseline/own_adam": ("Adam, the same random networks", 0.06),
    }
    return _losses(runs, panels)


def _losses(runs: Sequence[FinishedRun], panels: Mapping[str, tuple[str, float]]) -> Drawing:
    found = _find(runs, panels)
    figure, axes = plt.subplots(1, len(found), figsize=(3.6 * len(found), 3.3), layout="constrained", squeeze=False)
    rows: list[dict[str, Any]] = []
    for axis, (key, one) in zip(axes[0], found.items(), strict=True):
        title, top = panels[key]
        for name, label, colour, first in (("seen", "train loss", PALETTE[0], 1), ("loss", "eval loss", PALETTE[1], 0)):
            rows += _band(axis, one.lifetimes(name), first, colour, {"learner": title, "measure": label}, label)
        rows += _references(axis, key, "loss_", {"learner": title, "measure": "reference"})
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="num steps", ylabel="L2 loss", ylim=(0, top))
        axis.set_xticks(range(one.lifetimes("loss").shape[1]))
        axis.legend(fontsize=8)
    return Drawing(figure, pd.DataFrame(rows), _names(found), [BAND, _count(found)])


def predictions(runs: Sequence[FinishedRun]) -> Drawing:
    """One new sinusoid as the network sees it after each step."""
    panels = {
        "released/sinusoid": "MPLP",
        "baseline/sinusoid_adam": "Adam",
        "released/maml": "MPLP from the learned network",
        "maml/maml": "MAML",
    }
    found = _find(runs, panels)
    figure, axes = plt.subplots(
        1, len(found), figsize=(3.0 * len(found), 3.2), sharey=True, layout="constrained", squeeze=False
    )
    rows = []
    most = max(len(one.runs[0].arrays["shown"][0]) for one in found.values()) - 2
    for axis, (key, one) in zip(axes[0], found.items(), strict=True):
        curves = one.runs[0].arrays["shown"][0]
        for step, curve in [*enumerate(curves[:-1]), ("target", curves[-1])]:
            rows += [{"learner": panels[key], "step": step, "x": x, "y": y} for x, y in zip(GRID, curve, strict=True)]
        for step, curve in enumerate(curves[:-1]):
            shade = plt.get_cmap("viridis_r")(0.1 + 0.85 * step / most)
            axis.plot(GRID, curve, color=shade, linewidth=1.4, label=f"{step}-step predictions")
        axis.plot(GRID, curves[-1], color="0.1", linestyle="--", linewidth=1.2, label="target")
        axis.set_title(panels[key], fontsize=10)
        axis.set(xlabel="x")
    axes[0][0].set_ylabel("y")
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes[0]), key=lambda pair: len(pair[0]))
    figure.legend(handles, labels, loc="outside upper center", ncols=7, fontsize=7)
    note = "First lifetime of the first seed; not chosen. The same task in all panels."
    return Drawing(figure, pd.DataFrame(rows), _names(found), [note])


def mnist(runs: Sequence[FinishedRun]) -> Drawing:
    """Accuracy on test images against steps of eight images: three networks under the released protocol, SGD, Adam."""
    lines = {
        "released/mnist": ("MPLP trained", PALETTE[0], "-"),
        "released/mnist_step": ("MPLP step function", PALETTE[1], "-"),
        "released/mnist_big": ("MPLP on bigger network", PALETTE[2], "-"),
        "baseline/mnist_sgd": ("SGD", PALETTE[3], "-"),
        "baseline/mnist_adam": ("Adam", PALETTE[4], "-"),
        "baseline/mnist_sgd_tuned": ("SGD, rate tuned", PALETTE[3], ":"),
        "baseline/mnist_adam_tuned": ("Adam, rate tuned", PALETTE[4], ":"),
    }
    return _accuracies(runs, lines, (6.0, 4.0))


def horizon(runs: Sequence[FinishedRun]) -> Drawing:
    """What the released protocols do beyond the steps that they were trained for."""
    found = _find(runs, {
        "released/sinusoid_longer": None, "released/mnist_longer": None, "evaluate/random_longer": None,
    })  # fmt: skip
    cured = _find(runs, {"evaluate/random_horizon": None})
    figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.4), layout="constrained", squeeze=False)
    rows: list[dict[str, Any]] = []
    for axis, (key, one) in zip(axes[0], found.items(), strict=True):
        sinusoid = one.has("loss")
        values = one.lifetimes("loss" if sinusoid else "accuracy")
        own = key.startswith("evaluate")
        title = f"sinusoids{', meta-trained here' if own else ''}: loss" if sinusoid else "MNIST: accuracy"
        label = "lifetimes of 5 steps" if own and cured else None
        rows += _band(axis, values, 0, PALETTE[0], {"learner": key, "measure": title}, label)
        for name, other in (cured if own else {}).items():
            values = other.lifetimes("loss")
            rows += _band(axis, values, 0, PALETTE[1], {"learner": name, "measure": title}, "of 5 to 10 steps")
            axis.legend(fontsize=8, loc="upper left")
        axis.set(xlabel="num steps", yscale="log" if own else "linear", ylim=(1e-3 if own else 0, None))
        trained = 5 if sinusoid else 20
        axis.axvline(trained, color="0.4", linestyle=":", linewidth=1)
        axis.text(trained, axis.get_ylim()[1], " as trained", fontsize=8, color="0.4", va="top")
        axis.set_title(title, fontsize=10)
        if not sinusoid:
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    found |= cured
    return Drawing(figure, pd.DataFrame(rows), _names(found), [BAND, _count(found)])


def transfer(runs: Sequence[FinishedRun]) -> Drawing:
    """Fashion-MNIST, a layer more and rectified units, which the released protocol never saw."""
    lines = {
        "released/mnist": ("MNIST", PALETTE[0], "-"),
        "released/fashion": ("Fashion-MNIST", PALETTE[1], "-"),
        "baseline/fashion_adam": ("Fashion-MNIST, Adam", PALETTE[4], "-"),
        "baseline/fashion_adam_tuned": ("Fashion-MNIST, Adam, rate tuned", PALETTE[4], ":"),
        "released/mnist_deeper": ("MNIST, a layer more", PALETTE[2], "-"),
        "baseline/mnist_deeper_adam": ("MNIST, a layer more, Adam", PALETTE[5], "-"),
        "released/mnist_relu": ("MNIST, rectified units", PALETTE[3], "-"),
    }
    return _accuracies(runs, lines, (6.0, 4.0))


def _accuracies(
    runs: Sequence[FinishedRun], lines: Mapping[str, tuple[str, Any, str]], size: tuple[float, float]
) -> Drawing:
    found = _find(runs, lines)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    rows: list[dict[str, Any]] = []
    for key, one in found.items():
        title, colour, line = lines[key]
        spread = 0.12 if line == "-" else 0.0
        rows += _band(axis, one.lifetimes("accuracy"), 0, colour, {"learner": title}, title, spread, line)
        rows += _references(axis, key, "accuracy_", {"learner": f"{title}, reference"}, colour)
    axis.set(xlabel="Number of steps", ylabel="Accuracy", ylim=(0, None))
    axis.set_xticks(range(0, 21, 4))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.axhline(0.1, color="0.8", linewidth=0.8, zorder=0)
    axis.legend(fontsize=8, loc="upper left")
    return Drawing(figure, pd.DataFrame(rows), _names(found), [BAND, _count(found), "Horizontal line: chance."])


def meta_training(runs: Sequence[FinishedRun]) -> Drawing:
    """Meta-loss against meta-steps, every seed a line."""
    variants = sorted({run.identity.variant for run in runs})
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    rows, named = [], set()
    for place, variant in enumerate(variants):
        for run in sorted((run for run in runs if run.identity.variant == variant), key=lambda run: run.seeds):
            lines = run.history()
            steps, values = [entry["step"] for entry in lines], np.array([entry["loss"] for entry in lines])
            width = max(1, len(steps) // 100)
            smooth = np.apply_along_axis(lambda v, w=width: np.convolve(v, np.ones(w) / w, "valid"), 0, values)
            for seed, column in zip(run.seeds, smooth.T, strict=True):
                label = None if variant in named else variant.replace("_", " ")
                named.add(variant)
                axis.plot(steps[width - 1 :], column, color=PALETTE[place], linewidth=1, label=label)
                rows += [
                    {"variant": variant, "seed": seed, "meta_step": s, "loss": v}
                    for s, v in list(zip(steps[width - 1 :], column, strict=True))[::width]
                ]
    axis.set(xlabel="meta-steps", ylabel="meta-loss", yscale="log")
    axis.legend(fontsize=8)
    names = [str(run.identity) for run in runs]
    return Drawing(figure, pd.DataFrame(rows), names, ["Means over a hundredth of the meta-training; one line a seed."])


# --- parts ---------------------------------------------------------------------------------------------------


def _find(runs: Sequence[FinishedRun], order: Mapping[str, object]) -> dict[str, Shown]:
    """The runs of these experiments and variants, in this order; what is not there is left out."""
    found = {}
    for key in order:
        mine = [run for run in runs if f"{run.identity.experiment}/{run.identity.variant}" == key]
        if mine:
            found[key] = Shown(sorted(mine, key=lambda run: run.seeds))
    return found


def _band(
    axis: Axes, values: np.ndarray, first: int, colour: Any, labels: Mapping[str, str], label: str | None,
    band: float = 0.25, line: str = "-",
) -> list[dict[str, Any]]:  # fmt: skip
    """Mean over lifetimes with one standard deviation on either side; its rows of the table."""
    steps = np.arange(values.shape[1]) + first
    mean, deviation = values.mean(0), values.std(0)
    axis.plot(steps, mean, line, color=colour, linewidth=1.6, label=label)
    axis.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=band, linewidth=0)
    return [
        {**labels, "step": int(s), "mean": m, "standard_deviation": d}
        for s, m, d in zip(steps, mean, deviation, strict=True)
    ]


def _references(
    axis: Axes, key: str, metric: str, labels: Mapping[str, str], colour: Any = "0.15"
) -> list[dict[str, Any]]:
    """What others measured of these runs, as open diamonds."""
    rows = []
    for claim in load("mplp"):
        if f"{claim.ours.experiment}/{claim.ours.variant}" != key or claim.published is None:
            continue
        step = int(claim.ours.metric.removeprefix(metric))
        axis.plot(step, claim.published.value, **{**PUBLISHED, "color": colour, "zorder": 5})
        rows.append({**labels, "step": step, "mean": claim.published.value})
    return rows


def _names(found: Mapping[str, Shown]) -> list[str]:
    return [str(run.identity) for one in found.values() for run in one.runs]


def _count(found: Mapping[str, Shown]) -> str:
    parts = [f"{one.name} {len(one.lifetimes('loss' if one.has('loss') else 'accuracy'))}" for one in found.values()]
    return f"Lifetimes: {', '.join(parts)}."
