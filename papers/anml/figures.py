"""The paper's figures 3 to 6 and S9; the course of meta-training; sparsity; other readings of the paper."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt, log
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from scipy.optimize import isotonic_regression

from common.report.theme import PALETTE, Drawing
from common.report.theme import PUBLISHED as OPEN
from common.run.record import FinishedRun
from common.verdict.claims import load
from common.verdict.statistics import mean_interval

__all__ = ["accuracy", "activations", "meta_training", "oracles", "order", "readings", "representations", "sparsity"]

MAIN = {
    "anml": ("ANML", PALETTE[0]),
    "anml_first_order": ("ANML, first order", PALETTE[9]),
    "oml_linear": ("OML corrected: one linear layer, second order", PALETTE[2]),
    "oml": ("OML as run by ANML's authors", PALETTE[3]),
    "oml_olft": ("OML-OLFT", PALETTE[1]),
    "pretrain": ("pretrain & transfer", PALETTE[4]),
    "scratch": ("scratch", "0.35"),
}
READINGS = {
    "anml_kept_head": ("ANML, output layer kept", "#332288"),
    "anml_sgd": ("ANML, plain gradient descent", "#882255"),
    "anml_20_epochs": ("ANML as its code runs, oracle of 20 epochs", "#aa4499"),
    "anml_published": ("ANML as its code runs", "#999933"),
    "oml84_linear": ("OML's own trunk, one linear layer, second order", "#117733"),
}
OTHERS = ("#ca9161", "#44aa99", "#cc6677")
"""Colours of variants that have no title here."""
KINDS = {"representation": "before the gate", "gate": "gate", "gated": "after the gate"}
CHANCE = {"color": "0.55", "linestyle": ":", "linewidth": 1}

PAPER, ORACLE, TALK = "ANML's authors: paper", "ANML's authors: paper, oracle", "ANML's authors: later talk"
CODE, AGAIN = "published code run by others", "independent replication"
MARKERS = {PAPER: "D", ORACLE: "^", TALK: "s", CODE: "v", AGAIN: "s"}
SOURCES = {"A5t": TALK, "N1": CODE, "N2": AGAIN, "N4": AGAIN, "N6": AGAIN, "N7": AGAIN}
"""By the beginning of a claim's name; those of the paper begin with A, others are not drawn."""
NEAREST = {
    **{("anml_published", source): "anml" for source in (PAPER, ORACLE, TALK)},
    ("anml_published", CODE): "anml_first_order",
    ("oml84_linear", AGAIN): "oml_linear",
}
"""Which treatment a reported value stands with where the one that it was reported of is not drawn."""
TRAINING = {
    ("N1", "anml_published"): (0.92, 0.97, 0.98, 0.97, 0.92),
    ("N2", "anml"): (0.94, 0.98, 0.98, 0.97, 0.93),
    ("N4", "oml84_linear"): (0.98, 0.97, 0.96, 0.95, 0.90),
}
"""Meta-test training accuracy of the replications after 10, 50, 100, 200 and 600 classes, which no claim has."""
Reported = Mapping[tuple[str, str], Mapping[str, float]]
"""(variant, metric) -> source -> value."""


@dataclass(frozen=True)
class Treatment:
    """All runs of one variant, in the order of their seeds."""

    variant: str
    title: str
    colour: Any
    runs: Sequence[FinishedRun]

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings, which its runs share."""
        return self.runs[0].identity.config

    @property
    def seeds(self) -> list[int]:
        """Of all runs."""
        return [seed for run in self.runs for seed in run.seeds]

    @property
    def kinds(self) -> list[str]:
        """Which representations it has: one, or with a gate three."""
        return [kind for kind in KINDS if f"active_{kind}" in self.runs[0].metrics]

    def summary(self, metric: str) -> dict[str, Any]:
        """A final metric's mean over seeds with its interval; both ends are the mean where there is one seed."""
        values = np.concatenate([run.metrics[metric] for run in self.runs])
        low, high = mean_interval(values) or (values[0], values[0])
        return {"value": values.mean(), "low": low, "high": high, "seeds": len(values), "source": None}


def accuracy(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 3: accuracy against the number of classes learned, on drawings learned and on those held out."""
    found = _treatments(runs)
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.3), sharey=True, layout="constrained")
    reported = _reported(found)
    rows = _accuracy(axes[0], found, "train", reported) + _accuracy(axes[1], found, "test", reported)
    _name_lines(axes[1], found, _ends(rows))
    return _finished(figure, rows, found)


def readings(runs: Sequence[FinishedRun]) -> Drawing:
    """Testing accuracy of ANML under other readings of the paper, and of whatever else the main figures leave out."""
    everything = _treatments(runs, main=False)
    found = [one for one in everything if one.variant == "anml" or one.variant not in MAIN] or everything
    figure, axis = plt.subplots(figsize=(6.6, 4.3), layout="constrained")
    longer = [one for one in found if one.config.get("iid_epochs", 1) > 1]  # in sequence as if it were ANML
    reported = _reported(found)
    rows = _accuracy(axis, [one for one in found if one not in longer] or found, "test", reported)
    for one in longer:
        rows += _curve(axis, one, "iid_test", "--") + _published(axis, one, "iid_test", reported)
    _name_lines(axis, found, _ends(rows))
    return _finished(figure, rows, found)


def oracles(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 4: testing accuracy in sequence and shuffled, and what the sequence costs of it."""
    found = _treatments(runs)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 4.9), width_ratios=(5, 4), layout="constrained")
    reported = _reported(found, PAPER, ORACLE, TALK)
    rows = _accuracy(left, found, "test", reported)
    for one in found:
        rows += _curve(left, one, "iid_test", "--") + _published(left, one, "iid_test", reported)
    tasks = sorted({600}.union(*(one.config["iid_tasks"] for one in found)))
    for place, one in enumerate(found):
        rows += _curve(right, one, "drop") + _published(right, one, "drop", reported, tasks[-1], aside=8 * (place + 1))
    _classes_axis(right, tasks, beyond=1.12)
    right.set_title("relative drop from the oracle to the sequence", fontsize=10)
    right.set_ylim(np.clip(right.get_ylim()[0], -0.5, -0.03), 1.03)
    names = [Line2D([], [], color=one.colour, linewidth=3, label=one.title) for one in found]
    names.append(Line2D([], [], color="0.3", label="one class after the other"))
    names.append(Line2D([], [], color="0.3", linestyle="--", label="i.i.d. oracle: the same drawings shuffled"))
    return _finished(figure, rows, found, names, notes=["Published drops at 600 stand side by side, right of 600."])


def activations(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 5: units before the gate, the gate, and after it, for three drawings and on average; first seed."""
    found = _treatments(runs, main=False)
    one = next((one for one in found if "gate" in one.kinds), found[0])
    run, wide = one.runs[0], len(one.kinds)
    figure, grid = plt.subplots(4, wide, figsize=(2.2 * wide + 0.3, 9.3), layout="constrained", squeeze=False)
    shown, columns = ("drawing 1", "drawing 2", "drawing 3", "mean over all drawings"), {}
    for axes, kind in zip(grid.T, one.kinds, strict=True):
        units = run.arrays[f"activations_{kind}"][0].astype(float)
        height = max(n for n in range(1, isqrt(units.shape[1]) + 1) if units.shape[1] % n == 0)
        top = 1.0 if kind == "gate" else float(np.quantile(units[:3], 0.995)) or 1.0
        for axis, name, values in zip(axes, shown, units, strict=True):
            image = axis.imshow(values.reshape(height, -1), "magma", vmin=0, vmax=top, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            columns[f"{kind}, {name}"] = values
        paper = _reported([one]).get((one.variant, f"active_{kind}"), {}).get(PAPER)
        axes[0].set_title(KINDS[kind] if wide > 1 else "representation", fontsize=10)
        axes[3].set_title(
            f"{run.metrics[f'active_{kind}'][0]:.1%} active" + (f" (paper: {paper:.1%})" if paper else ""), fontsize=8
        )
        extend = "neither" if kind == "gate" else "max"
        bar = figure.colorbar(image, ax=axes, location="bottom", aspect=24, pad=0.015, extend=extend)
        bar.ax.tick_params(labelsize=7)
    for axis, name in zip(grid[:, 0], shown, strict=True):
        axis.set_ylabel(name, fontsize=9)
    figure.suptitle(f"{one.title}, seed {run.seeds[0]} only", fontsize=10)
    table = pd.DataFrame({"unit": np.arange(units.shape[1]), **columns})
    note = "Colours end at the 99.5 % quantile of the column's three drawings, the gate's at 1."
    return Drawing(figure, table, [str(run.identity)], [note])


def representations(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 6, by principal components instead of t-SNE: ten classes, fifteen drawings each; first seed."""
    found = _treatments(runs, main=False)
    mapped = {"anml": ("representation", "gated"), "oml_linear": ("representation",), "oml": ("representation",)}
    panels = [(one, kind) for one in found for kind in mapped.get(one.variant, ())]
    panels = panels or [(one, "representation") for one in found]
    figure, axes = _grid(len(panels), 2, (3.3, 3.2))
    rows = []
    for axis, (one, kind) in zip(axes, panels, strict=True):
        for number, points in enumerate(one.runs[0].arrays[f"map_{kind}"][0].astype(float).reshape(10, 15, 2)):
            axis.plot(*points.T, "os^Dv"[number % 5], color=PALETTE[number], markersize=4, markeredgewidth=0)
            mark = {"variant": one.variant, "kind": kind, "seed": one.seeds[0], "class": number + 1}
            rows += [{**mark, "x": x, "y": y} for x, y in points]
        gate = f", {KINDS[kind]}" if len(one.kinds) > 1 else ""
        axis.set_title(textwrap.fill(f"{one.title}{gate}, seed {one.seeds[0]}", 38), fontsize=9)
        axis.set(xticks=[], yticks=[], xlabel="first component", ylabel="second component")
        axis.spines[:].set(visible=True, color="0.8")
    names = sorted({str(one.runs[0].identity) for one, _ in panels})
    return Drawing(figure, pd.DataFrame(rows), names, ["One seed; every panel has its own scale."])


def order(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. S9: accuracy held out at the end of the longest sequence, by when a class was learned."""
    found = _treatments(runs)
    figure, axes = _grid(len(found), min(4, len(found)), (2.1, 1.95), sharey=True)
    rows = []
    for axis, one in zip(axes, found, strict=True):
        by_class = np.concatenate([run.arrays["by_order"] for run in one.runs]).mean((0, 1))
        firsts = range(0, len(by_class), 10)
        means = [by_class[first : first + 10].mean() for first in firsts]
        axis.stairs(means, [*firsts, len(by_class)], fill=True, color=one.colour, alpha=0.75)
        axis.axhline(1 / len(by_class), **CHANCE | {"color": "0.2"})
        axis.set_title(textwrap.fill(one.title, 26), fontsize=8, color=one.colour)
        axis.set_xlim(0, len(by_class))
        _plain(axis)
        axis.tick_params(labelsize=7)
        mark = {"variant": one.variant, "seeds": len(one.seeds)}
        rows += [{**mark, "first": first + 1, "value": mean} for first, mean in zip(firsts, means, strict=True)]
    figure.supxlabel("place of a class in the sequence, in bins of ten", fontsize=9)
    figure.supylabel("testing accuracy", fontsize=9)
    return Drawing(figure, pd.DataFrame(rows), _names(found), [_averages(found), "Dotted: chance."])


def meta_training(runs: Sequence[FinishedRun]) -> Drawing:
    """Accuracy and loss on images of all classes in the course of meta-training, one line a seed."""
    found = _treatments(runs, main=False)
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.8), layout="constrained")
    rows: list[dict[str, Any]] = []
    for one in found:
        for run in (run for run in one.runs if "metrics.jsonl" in run.files):  # scratch has no such stream
            history = run.history()
            prefix = "remember_" if "remember_loss" in history[0] else ""
            for member, seed in enumerate(run.seeds):
                lines = [{kind: line[prefix + kind][member] for kind in ("accuracy", "loss")} for line in history]
                steps = [line["step"] for line in history]
                for axis, kind in zip(axes, ("accuracy", "loss"), strict=True):
                    axis.plot(steps, [line[kind] for line in lines], color=one.colour, linewidth=0.8, alpha=0.85)
                mark = {"variant": one.variant, "seed": seed}
                rows += [{**mark, "step": step, **line} for step, line in zip(steps, lines, strict=True)]
    table = pd.DataFrame(rows, columns=["variant", "seed", "step", "accuracy", "loss"])
    classes = found[0].config["classes"]
    axes[1].axhline(log(classes), **CHANCE)
    axes[1].annotate(f"guessing: ln {classes}", (1, log(classes)), (0, 2), ("axes fraction", "data"), "offset points",
                     ha="right", fontsize=7, color="0.4")  # fmt: skip
    top = 2 * log(classes)
    axes[1].set_ylim(0, min(top, axes[1].get_ylim()[1]))
    for axis, kind in zip(axes, ("accuracy", "loss"), strict=True):
        _plain(axis, percent=kind == "accuracy")
        axis.set_title(f"{kind} on images of all classes", fontsize=10)
        axis.set_xlabel("meta-iteration")
        axis.set_xlim(left=0)
    last = table[table["step"] == table.groupby("variant")["step"].transform("max")].groupby("variant")
    ends = {name: (end["step"], end["loss"]) for name, end in last[["step", "loss"]].mean().iterrows()}
    if ends:
        _name_lines(axes[1], found, ends)
    notes = ["One line a seed, a point for every 50 meta-iterations (their mean, as recorded); not smoothed further."]
    if len(table) and table["loss"].max() > top:
        notes.append(f"Losses above {top:.1f}, at the beginning, are outside of the panel.")
    return Drawing(figure, table, _names(found), notes)


def sparsity(runs: Sequence[FinishedRun]) -> Drawing:
    """How many units are active, how many are dead, and what the neighbours of a drawing know (section 4.2)."""
    networks: dict[tuple[str, ...], Treatment] = {}
    for one in _treatments(runs, main=False):
        networks.setdefault(tuple(run.identity.needs for run in one.runs), one)
    found = list(networks.values())
    lines: list[tuple[Treatment, str, str]] = []
    for one in found:
        gate = [(one, kind, KINDS[kind]) for kind in one.kinds] + [(one, "random_gate", "gate of a random network")]
        lines += [(one, "", one.title), *gate] if len(one.kinds) > 1 else [(one, "representation", one.title)]
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 0.2 * len(lines) + 1.3), sharey=True, layout="constrained")
    rows, reported = [], _reported(found)
    titles = ("active units", "dead units", f"{found[0].config['neighbours']}-nearest-neighbour accuracy")
    for axis, measure, title in zip(axes, ("active", "dead", "knn"), titles, strict=True):
        for place, (one, kind, _) in enumerate(lines):
            if f"{measure}_{kind}" not in one.runs[0].metrics:
                continue
            mark = {"variant": one.variant, "panel": measure, "kind": kind}
            rows.append(mark | (ours := one.summary(f"{measure}_{kind}")))
            axis.plot([ours["low"], ours["high"]], [place, place], color=one.colour, linewidth=5, alpha=0.3)
            axis.plot(ours["value"], place, "o", color=one.colour, markersize=4)
            for source, value in reported.get((one.variant, f"{measure}_{kind}"), {}).items():
                axis.plot(value, place, **_open(source, one.colour))
                rows.append(mark | {"value": value, "source": source})
        top = max(0.1, axis.get_xlim()[1]) if measure == "dead" else 1
        axis.set_xlim(-0.05 * top, 1.05 * top)
        axis.set_title(title, fontsize=9)
        _plain(axis)
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.locator_params("x", nbins=4, steps=[1, 2, 5, 10])
    axes[0].set_yticks(range(len(lines)), [label for *_, label in lines], fontsize=8)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    for label, (one, _, text) in zip(axes[0].get_yticklabels(), lines, strict=True):
        label.set_color(one.colour if text == one.title else "0.4")
    notes = ["Active: above 0.01; dead: active for no evaluation drawing. A network that treatments share stands once."]
    return _finished(figure, rows, found, notes=notes, chance=False)


def _treatments(runs: Sequence[FinishedRun], main: bool = True) -> list[Treatment]:
    """Runs by variant: the main ones in their order; then, unless `main` and there are such, the others."""
    by_variant: dict[str, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: (run.identity.variant, run.seeds)):
        by_variant.setdefault(run.identity.variant, []).append(run)
    untitled = [name for name in by_variant if name not in MAIN | READINGS]
    looks = {name: (name.replace("_", " "), OTHERS[i % len(OTHERS)]) for i, name in enumerate(untitled)}
    found = [Treatment(n, *look, by_variant[n]) for n, look in (MAIN | READINGS | looks).items() if n in by_variant]
    return [one for one in found if main and one.variant in MAIN] or found


def _reported(found: Sequence[Treatment], *sources: str) -> Reported:
    """What others reported of these treatments, out of the claims and `TRAINING`; by these sources, or by all."""
    experiment = found[0].runs[0].identity.experiment
    values = [
        (claim.id.partition("-")[0], claim.ours.variant, claim.ours.metric, claim.published.value)
        for claim in load("anml")
        if claim.kind == "value" and claim.ours.experiment == experiment and claim.published
    ]
    for (name, variant), curve in TRAINING.items():
        if experiment == "meta_test":
            counts = zip((10, 50, 100, 200, 600), curve, strict=True)
            values += [(name, variant, f"train_{count}", value) for count, value in counts]
    drawn = {one.variant for one in found}
    reported: dict[tuple[str, str], dict[str, float]] = {}
    for name, variant, metric, value in values:
        source = SOURCES.get(name, PAPER if name.startswith("A") else "")
        source = ORACLE if source == PAPER and metric.startswith("iid") else source
        if source in (sources or MARKERS):
            place = variant if variant in drawn else NEAREST.get((variant, source), variant)
            reported.setdefault((place, metric), {})[source] = value
    return reported


def _accuracy(axis: Axes, found: Sequence[Treatment], kind: str, reported: Reported) -> list[dict]:
    """Accuracy of every treatment against the number of classes, chance, and what others reported."""
    tasks = sorted({count for one in found for count in one.config["tasks"]})
    steps = np.geomspace(2, tasks[-1], 200)
    axis.plot(steps, 1 / steps, **CHANCE, zorder=1)
    rows = [row for one in found for row in _curve(axis, one, kind)]
    rows += [row for one in found for row in _published(axis, one, kind, reported)]
    _classes_axis(axis, tasks)
    axis.set_ylim(0, 1.02)
    axis.set_title({"train": "meta-test training accuracy", "test": "meta-test testing accuracy"}[kind], fontsize=10)
    return rows


def _curve(axis: Axes, one: Treatment, metric: str, linestyle: str = "-") -> list[dict]:
    """A metric's mean over seeds after numbers of classes, and its band."""
    tasks = one.config["tasks" if metric in ("train", "test") else "iid_tasks"]
    points = [one.summary(f"{metric}_{count}") for count in tasks]
    mean, low, high = ([point[name] for point in points] for name in ("value", "low", "high"))
    axis.plot(tasks, mean, color=one.colour, marker="o", markersize=3.5, linewidth=1.3, linestyle=linestyle)
    axis.fill_between(tasks, low, high, color=one.colour, alpha=0.18, linewidth=0)
    mark = {"variant": one.variant, "panel": metric}
    return [{**mark, "classes": count, **point} for count, point in zip(tasks, points, strict=True)]


def _published(
    axis: Axes, one: Treatment, metric: str, reported: Reported, limit: int | None = None, aside: float = 0
) -> list[dict]:
    """What others reported for up to `limit` classes (those that the treatment learns), in open markers."""
    rows = []
    for count in range(1, (limit or max(one.config["tasks"])) + 1):
        for source, value in reported.get((one.variant, f"{metric}_{count}"), {}).items():
            axis.plot(count + aside, value, **_open(source, one.colour), clip_on=False, zorder=3)
            mark = {"variant": one.variant, "panel": metric}
            rows.append({**mark, "classes": count, "value": value, "source": source})
    return rows


def _open(source: str, colour: Any = "0.3") -> dict[str, Any]:
    return OPEN | {"color": colour, "marker": MARKERS[source], "markersize": 5.5}


def _classes_axis(axis: Axes, tasks: Sequence[int], beyond: float = 1.02) -> None:
    """A tick at every number of classes, labelled where there is room."""
    labels: list[str] = []
    last = -tasks[-1]
    for count in tasks:
        room = count - last >= 0.06 * tasks[-1]
        labels.append(str(count) if room else "")
        last = count if room else last
    axis.set_xticks(tasks, labels, fontsize=7.5)
    axis.set_xlim(0, beyond * tasks[-1])
    axis.set_xlabel("number of classes learned", fontsize=9)
    _plain(axis)


def _plain(axis: Axes, percent: bool = True) -> None:
    """A light horizontal grid instead of a frame."""
    if percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _grid(count: int, wide: int, size: tuple[float, float], sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """`count` panels of a size, `wide` in a row."""
    tall = -(-count // wide)
    figure, grid = plt.subplots(
        tall, wide, figsize=(max(size[0] * wide, 3.6), size[1] * tall + 0.3), sharey=sharey, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis in grid.flat[count:]:
        axis.set_visible(False)
    return figure, list(grid.flat[:count])


def _ends(rows: Sequence[dict]) -> dict[str, tuple[float, float]]:
    """Where each treatment's line ends in the last panel that has it."""
    return {row["variant"]: (row["classes"], row["value"]) for row in rows if row["source"] is None}


def _name_lines(axis: Axes, found: Sequence[Treatment], ends: Mapping[str, tuple[float, float]]) -> None:
    """Titles right of a panel in the colour of the line, as near to its end as they can be without overlapping."""
    to_axes = axis.transData + axis.transAxes.inverted()
    found = sorted((one for one in found if one.variant in ends), key=lambda one: ends[one.variant][1])
    texts = [textwrap.fill(one.title, 26) for one in found]
    half = np.array([0.028 * (text.count("\n") + 1) + 0.004 for text in texts])
    stacked = np.cumsum(2 * half) - half  # one on the other from the bottom; each lifted no less than the one below
    lift = isotonic_regression([to_axes.transform(ends[one.variant])[1] for one in found] - stacked).x
    places = stacked + np.clip(lift, 0, max(0, 1 - 2 * half.sum()))
    line = {"arrowstyle": "-", "linewidth": 0.5, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 3}
    for one, text, place in zip(found, texts, places, strict=True):
        axis.annotate(
            text, ends[one.variant], (1.07, place), "data", "axes fraction", line | {"color": one.colour},
            annotation_clip=False, color=one.colour, fontsize=8, va="center", linespacing=1.0,
        )  # fmt: skip


def _finished(
    figure: Figure, rows: Sequence[dict], found: Sequence[Treatment], names: Sequence[Line2D] = (),
    notes: Sequence[str] = (), chance: bool = True,
) -> Drawing:  # fmt: skip
    """Write a legend of the marks that are there below the panels."""
    handles = list(names)
    if any(len(one.seeds) > 1 for one in found):
        band = {"color": "0.5", "linewidth": 6, "alpha": 0.4}
        handles.append(Line2D([], [], label=f"95 % interval of the mean over {_seeds(found)}", **band))
    if chance:
        handles.append(Line2D([], [], label="chance", **CHANCE))
    sources = dict.fromkeys(row["source"] for row in rows if row["source"] is not None)
    handles += [Line2D([], [], label=source, **_open(source)) for source in sources]
    room = (0.16 * -(-len(handles) // 3) + 0.12) / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, room, 1, 1 - room))
    # `loc="outside ..."` would slide down when the figure is saved with what is written below it
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=7.5, bbox_to_anchor=(0.5, 0),
                  bbox_transform=figure.transFigure, borderaxespad=0)  # fmt: skip
    means = _averages(found) if chance else f"Means over {_seeds(found)}."
    return Drawing(figure, pd.DataFrame(rows), _names(found), [means, *notes])


def _seeds(found: Sequence[Treatment]) -> str:
    counts = sorted({len(one.seeds) for one in found})
    return " or ".join(map(str, counts)) + (" seeds" if counts[-1] > 1 else " seed")


def _averages(found: Sequence[Treatment]) -> str:
    trajectories = sorted({one.config["trajectories"] for one in found})
    return f"Means over {_seeds(found)} with {' or '.join(map(str, trajectories))} trajectories each."


def _names(found: Sequence[Treatment]) -> list[str]:
    return [str(run.identity) for one in found for run in one.runs]
