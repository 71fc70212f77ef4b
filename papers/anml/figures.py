"""The paper's figures 3 to 6 and S9; the course of meta-training; sparsity; other readings of the paper."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, published_values, seed_count, table_rows
from common.report.theme import PALETTE, PUBLISHED, Drawing

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
POINT: dict[str, Any] = {"marker": "X", "markersize": 5, "linestyle": "none"}
"""How a number after few numbers of classes is drawn, between which nothing is known."""
CHANCE = {"color": "0.55", "linestyle": ":", "linewidth": 1}

PAPER, ORACLE, TALK = "ANML's authors: paper", "ANML's authors: paper, oracle", "ANML's authors: later talk"
CODE, AGAIN = "published code run by others", "independent replication"
MARKERS = {PAPER: "D", ORACLE: "^", TALK: "s", CODE: "v", AGAIN: "s"}
SOURCES = {"A5t": TALK, "N1": CODE, "N2": AGAIN, "N4": AGAIN, "N6": AGAIN, "N7": AGAIN}
"""By the beginning of a claim's name; claims of the paper begin with A, the rest is not drawn."""
NEAREST = {
    **{("anml_published", source): "anml" for source in (PAPER, ORACLE, TALK)},
    ("anml_published", CODE): "anml_first_order",
    ("oml84_linear", AGAIN): "oml_linear",
}
"""The method that a reported value stands with where the variant that it was reported of is not drawn."""
Reported = Mapping[tuple[str, str], Mapping[str, float]]
"""(variant, metric) -> source -> value."""


@dataclass(frozen=True)
class Method(Treatment):
    """A treatment with the title and the colour that it has in all figures."""

    title: str
    colour: Any

    @property
    def kinds(self) -> list[str]:
        """The kinds of its representations: one, or with a gate three."""
        return [kind for kind in KINDS if f"active_{kind}" in self.runs[0].metrics]

    def summary(self, metric: str) -> dict[str, Any]:
        """A final metric's mean over seeds with its interval; both ends are the mean where there is one seed."""
        value, low, high = self.mean_with_interval(metric)
        return {"value": value, "low": low, "high": high, "seeds": len(self.seeds), "source": None}


def accuracy(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. 3: accuracy against the number of classes learned, on drawings learned and on those held out."""
    methods = _methods(runs)
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.3), sharey=True, layout="constrained")
    reported = _reported(methods, claims)
    rows = _accuracy(axes[0], methods, "train", reported) + _accuracy(axes[1], methods, "test", reported)
    _name_lines(axes[1], methods, _ends(rows))
    return _finished(figure, rows, methods)


def readings(runs: Runs, claims: Claims) -> Drawing:
    """Testing accuracy of ANML under other readings of the paper, and of whatever else the main figures leave out."""
    everything = _methods(runs, main=False)
    methods = [method for method in everything if method.variant == "anml" or method.variant not in MAIN] or everything
    figure, axis = plt.subplots(figsize=(6.6, 4.3), layout="constrained")
    longer = [method for method in methods if method.config.get("iid_epochs", 1) > 1]  # in sequence as if it were ANML
    reported = _reported(methods, claims)
    rows = _accuracy(axis, [method for method in methods if method not in longer] or methods, "test", reported)
    for method in longer:
        rows += _curve(axis, method, "iid_test", joined=False) + _published(axis, method, "iid_test", reported)
    _name_lines(axis, methods, _ends(rows))
    return _finished(figure, rows, methods)


def oracles(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. 4: testing accuracy in sequence and shuffled, and what the sequence costs of it."""
    methods = _methods(runs)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 4.9), width_ratios=(5, 4), layout="constrained")
    reported = _reported(methods, claims, PAPER, ORACLE, TALK)
    rows = _accuracy(left, methods, "test", reported)
    for method in methods:
        rows += _curve(left, method, "iid_test", joined=False) + _published(left, method, "iid_test", reported, 600)
    tasks = sorted({600}.union(*(method.config["iid_tasks"] for method in methods)))
    for place, method in enumerate(methods, start=1):
        rows += _curve(right, method, "drop", joined=False, aside=8 * place)
        rows += _published(right, method, "drop", reported, tasks[-1], aside=8 * place)
    _classes_axis(right, tasks, beyond=1.12)
    right.set_title("relative drop from the oracle to the sequence", fontsize=10)
    right.set_ylim(np.clip(right.get_ylim()[0], -0.15, -0.03), 1.03)
    names = [Line2D([], [], color=method.colour, linewidth=3, label=method.title) for method in methods]
    names.append(Line2D([], [], color="0.3", label="one class after the other"))
    names.append(Line2D([], [], color="0.3", label="i.i.d. oracle: the same drawings shuffled", **POINT))
    return _finished(
        figure,
        rows,
        methods,
        names,
        notes=["Drops stand side by side, right of their number of classes; intervals below the panel are cut."],
    )


def activations(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. 5: units before the gate, the gate, and after it, for three drawings and on average; first seed."""
    methods = _methods(runs, main=False)
    method = next((method for method in methods if "gate" in method.kinds), methods[0])
    first, wide = replace(method, runs=method.runs[:1]), len(method.kinds)
    reported = _reported([method], claims)
    figure, grid = plt.subplots(4, wide, figsize=(2.2 * wide + 0.3, 9.3), layout="constrained", squeeze=False)
    shown, columns = ("drawing 1", "drawing 2", "drawing 3", "mean over all drawings"), {}
    for axes, kind in zip(grid.T, method.kinds, strict=True):
        units = first.array(f"activations_{kind}")[0].astype(float)
        height = max(n for n in range(1, isqrt(units.shape[1]) + 1) if units.shape[1] % n == 0)
        top = 1.0 if kind == "gate" else float(np.quantile(units[:3], 0.995)) or 1.0
        for axis, name, values in zip(axes, shown, units, strict=True):
            image = axis.imshow(values.reshape(height, -1), "magma", vmin=0, vmax=top, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            columns[f"{kind}, {name}"] = values
        active = f"active_{kind}"
        paper = reported.get((method.variant, active), {}).get(PAPER)
        axes[0].set_title(KINDS[kind] if wide > 1 else "representation", fontsize=10)
        axes[3].set_title(
            f"{first.metric(active)[0]:.1%} active" + (f" (paper: {paper:.1%})" if paper else ""), fontsize=8
        )
        extend = "neither" if kind == "gate" else "max"
        bar = figure.colorbar(image, ax=axes, location="bottom", aspect=24, pad=0.015, extend=extend)
        bar.ax.tick_params(labelsize=7)
    for axis, name in zip(grid[:, 0], shown, strict=True):
        axis.set_ylabel(name, fontsize=9)
    figure.suptitle(f"{method.title}, seed {first.seeds[0]} only", fontsize=10)
    table = pd.DataFrame({"unit": np.arange(units.shape[1]), **columns})
    note = "Colours end at the 99.5 % quantile of the column's three drawings, the gate's at 1."
    return drawing(figure, table, [first], note)


def representations(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. 6, by principal components instead of t-SNE: ten classes, fifteen drawings each; first seed."""
    methods = _methods(runs, main=False)
    mapped = {"anml": ("representation", "gated"), "oml_linear": ("representation",), "oml": ("representation",)}
    panels = [(method, kind) for method in methods for kind in mapped.get(method.variant, ())]
    panels = panels or [(method, "representation") for method in methods]
    figure, axes = _grid(len(panels), 2, (3.3, 3.2))
    rows = []
    for axis, (method, kind) in zip(axes, panels, strict=True):
        for number, points in enumerate(method.array(f"map_{kind}")[0].astype(float).reshape(10, 15, 2)):
            axis.plot(*points.T, "os^Dv"[number % 5], color=PALETTE[number], markersize=4, markeredgewidth=0)
            mark = {"variant": method.variant, "kind": kind, "seed": method.seeds[0], "class": number + 1}
            rows += table_rows(**mark, x=points[:, 0], y=points[:, 1])
        gate = f", {KINDS[kind]}" if len(method.kinds) > 1 else ""
        axis.set_title(textwrap.fill(f"{method.title}{gate}, seed {method.seeds[0]}", 38), fontsize=9)
        axis.set(xticks=[], yticks=[], xlabel="first component", ylabel="second component")
        axis.spines[:].set(visible=True, color="0.8")
    firsts = {method.variant: Treatment(method.runs[:1]) for method, _ in panels}
    return drawing(figure, rows, firsts.values(), "One seed; every panel has its own scale.")


def order(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. S9: accuracy held out at the end of the longest sequence, by when a class was learned."""
    methods = _methods(runs)
    figure, axes = _grid(len(methods), min(4, len(methods)), (2.1, 1.95), sharey=True)
    rows = []
    for axis, method in zip(axes, methods, strict=True):
        by_class = method.array("by_order").mean((0, 1))
        firsts = range(0, len(by_class), 10)
        means = [by_class[first : first + 10].mean() for first in firsts]
        axis.stairs(means, [*firsts, len(by_class)], fill=True, color=method.colour, alpha=0.75)
        axis.axhline(1 / len(by_class), **CHANCE | {"color": "0.2"})
        axis.set_title(textwrap.fill(method.title, 26), fontsize=8, color=method.colour)
        axis.set_xlim(0, len(by_class))
        _plain(axis)
        axis.tick_params(labelsize=7)
        places = [first + 1 for first in firsts]
        rows += table_rows(variant=method.variant, seeds=len(method.seeds), first=places, value=means)
    figure.supxlabel("place of a class in the sequence, in bins of ten", fontsize=9)
    figure.supylabel("testing accuracy", fontsize=9)
    return drawing(figure, rows, methods, _averages(methods), "Dotted: chance.")


def meta_training(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy and loss on images of all classes in the course of meta-training, one line a seed."""
    methods = _methods(runs, main=False)
    kinds = ("accuracy", "loss")
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.8), layout="constrained")
    rows: list[dict[str, Any]] = []
    for method in methods:
        for seed, logged in method.histories():
            prefix = "remember_" if "remember_loss" in logged else ""
            course = pd.DataFrame({"step": logged["step"], **{kind: logged[prefix + kind] for kind in kinds}})
            for axis, kind in zip(axes, kinds, strict=True):
                axis.plot(course["step"], course[kind], color=method.colour, linewidth=0.8, alpha=0.85)
            rows += table_rows(variant=method.variant, seed=seed, **course)
    table = pd.DataFrame(rows, columns=["variant", "seed", "step", *kinds])
    classes = methods[0].config["classes"]
    axes[1].axhline(log(classes), **CHANCE)
    axes[1].annotate(f"guessing: ln {classes}", (1, log(classes)), (0, 2), ("axes fraction", "data"), "offset points",
                     ha="right", fontsize=7, color="0.4")  # fmt: skip
    top = 2 * log(classes)
    axes[1].set_ylim(0, min(top, axes[1].get_ylim()[1]))
    for axis, kind in zip(axes, kinds, strict=True):
        _plain(axis, percent=kind == "accuracy")
        axis.set_title(f"{kind} on images of all classes", fontsize=10)
        axis.set_xlabel("meta-iteration")
        axis.set_xlim(left=0)
    last = table[table["step"] == table.groupby("variant")["step"].transform("max")].groupby("variant")
    ends = {name: (end["step"], end["loss"]) for name, end in last[["step", "loss"]].mean().iterrows()}
    if ends:
        _name_lines(axes[1], methods, ends)
    notes = ["One line a seed, a point for every 50 meta-iterations (their mean, as recorded); not smoothed further."]
    if len(table) and table["loss"].max() > top:
        notes.append(f"Losses above {top:.1f}, at the beginning, are outside of the panel.")
    return drawing(figure, table, methods, *notes)


def sparsity(runs: Runs, claims: Claims) -> Drawing:
    """How many units are active, how many are dead, and what the neighbours of a drawing know (section 4.2)."""
    networks: dict[tuple[str, ...], Method] = {}
    for method in _methods(runs, main=False):
        networks.setdefault(tuple(run.identity.parent for run in method.runs), method)
    methods = list(networks.values())
    lines: list[tuple[Method, str, str]] = []
    for method in methods:
        gated = [(method, "", method.title), *((method, kind, KINDS[kind]) for kind in method.kinds)]
        gated.append((method, "random_gate", "gate of a random network"))
        lines += gated if len(method.kinds) > 1 else [(method, "representation", method.title)]
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 0.2 * len(lines) + 1.3), sharey=True, layout="constrained")
    rows, reported = [], _reported(methods, claims)
    titles = ("active units", "dead units", f"{methods[0].config['neighbours']}-nearest-neighbour accuracy")
    for axis, measure, title in zip(axes, ("active", "dead", "knn"), titles, strict=True):
        for place, (method, kind, _) in enumerate(lines):
            metric = f"{measure}_{kind}"
            if metric not in method.runs[0].metrics:
                continue
            mark = {"variant": method.variant, "panel": measure, "kind": kind}
            rows.append(mark | (summary := method.summary(metric)))
            axis.plot([summary["low"], summary["high"]], [place, place], color=method.colour, linewidth=5, alpha=0.3)
            axis.plot(summary["value"], place, "o", color=method.colour, markersize=4)
            for source, value in reported.get((method.variant, metric), {}).items():
                axis.plot(value, place, **_open(source, method.colour))
                rows.append(mark | {"value": value, "source": source})
        top = max(0.1, axis.get_xlim()[1]) if measure == "dead" else 1
        axis.set_xlim(-0.05 * top, 1.05 * top)
        axis.set_title(title, fontsize=9)
        _plain(axis)
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.locator_params("x", nbins=4, steps=[1, 2, 5, 10])
    axes[0].set_yticks(range(len(lines)), [label for *_, label in lines], fontsize=8)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    for label, (method, _, text) in zip(axes[0].get_yticklabels(), lines, strict=True):
        label.set_color(method.colour if text == method.title else "0.4")
    notes = ["Active: above 0.01; dead: active for no evaluation drawing. A network that treatments share stands once."]
    return _finished(figure, rows, methods, notes=notes, chance=False)


def _methods(runs: Runs, main: bool = True) -> list[Method]:
    """The main methods in their order; then, unless `main` and there are such, the other variants."""
    treatments = by_variant(runs)
    untitled = sorted(treatments.keys() - MAIN.keys() - READINGS.keys())
    looks = {name: (name.replace("_", " "), OTHERS[i % len(OTHERS)]) for i, name in enumerate(untitled)}
    methods = [
        Method(treatments[name].runs, *look) for name, look in (MAIN | READINGS | looks).items() if name in treatments
    ]
    return [method for method in methods if main and method.variant in MAIN] or methods


def _reported(methods: Sequence[Method], claims: Claims, *sources: str) -> Reported:
    """What others reported of these methods, out of the claims; by these sources, or by all."""
    values = [
        (claim.id.partition("-")[0], claim.ours.variant, claim.ours.metric, value)
        for claim, value in published_values(claims, methods[0].runs)
    ]
    drawn = {method.variant for method in methods}
    reported: dict[tuple[str, str], dict[str, float]] = {}
    for name, variant, metric, value in values:
        source = SOURCES.get(name, PAPER if name.startswith("A") else "")
        source = ORACLE if source == PAPER and metric.startswith("iid") else source
        if source in (sources or MARKERS):
            place = variant if variant in drawn else NEAREST.get((variant, source), variant)
            reported.setdefault((place, metric), {})[source] = value
    return reported


def _accuracy(axis: Axes, methods: Sequence[Method], kind: str, reported: Reported) -> list[dict]:
    """Accuracy of every method against the number of classes, chance, and what others reported."""
    tasks = sorted({count for method in methods for count in method.config["tasks"]})
    ends = [int(metric.rpartition("_")[2]) for _, metric in reported if metric.rpartition("_")[0] == kind]
    last = max([tasks[-1], *ends])
    steps = np.geomspace(2, last, 200)
    axis.plot(steps, 1 / steps, **CHANCE, zorder=1)
    rows = [row for method in methods for row in _curve(axis, method, kind)]
    rows += [row for method in methods for row in _published(axis, method, kind, reported, last)]
    _classes_axis(axis, sorted({*tasks, *ends}))
    if last > tasks[-1]:
        axis.axvspan(tasks[-1], last, color="0.97", zorder=0)
        axis.text((tasks[-1] + last) / 2, 0.03, "not run", ha="center", fontsize=7.5, color="0.4")
    axis.set_ylim(0, 1.02)
    axis.set_title({"train": "meta-test training accuracy", "test": "meta-test testing accuracy"}[kind], fontsize=10)
    return rows


def _curve(axis: Axes, method: Method, metric: str, joined: bool = True, aside: float = 0) -> list[dict]:
    """A metric's mean over seeds after numbers of classes, and its interval: a line with a band, or single points."""
    tasks = method.config["tasks" if metric in ("train", "test") else "iid_tasks"]
    points = [method.summary(f"{metric}_{count}") for count in tasks]
    mean, low, high = ([point[name] for point in points] for name in ("value", "low", "high"))
    if joined:
        axis.plot(tasks, mean, color=method.colour, marker="o", markersize=3.5, linewidth=1.3)
        axis.fill_between(tasks, low, high, color=method.colour, alpha=0.18, linewidth=0)
    else:
        places = np.add(tasks, aside)
        axis.vlines(places, low, high, color=method.colour, alpha=0.35, linewidth=3)
        axis.plot(places, mean, color=method.colour, **POINT)
    mark = {"variant": method.variant, "panel": metric}
    return [{**mark, "classes": count, **point} for count, point in zip(tasks, points, strict=True)]


def _published(
    axis: Axes, method: Method, metric: str, reported: Reported, limit: int | None = None, aside: float = 0
) -> list[dict]:
    """What others reported for up to `limit` classes (those that the method learns), in open markers."""
    rows = []
    for count in range(1, (limit or max(method.config["tasks"])) + 1):
        for source, value in reported.get((method.variant, f"{metric}_{count}"), {}).items():
            axis.plot(count + aside, value, **_open(source, method.colour), clip_on=False, zorder=3)
            mark = {"variant": method.variant, "panel": metric}
            rows.append({**mark, "classes": count, "value": value, "source": source})
    return rows


def _open(source: str, colour: Any = "0.3") -> dict[str, Any]:
    """How a value that this source reported is drawn."""
    return PUBLISHED | {"color": colour, "marker": MARKERS[source], "markersize": 5.5}


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
    """Where the line of every method ends in the last panel that has it."""
    return {row["variant"]: (row["classes"], row["value"]) for row in rows if row["source"] is None}


def _name_lines(axis: Axes, methods: Sequence[Method], ends: Mapping[str, tuple[float, float]]) -> None:
    """Titles right of the lines in their colours, as near to their ends as they can be without overlapping."""
    to_axes = axis.transData + axis.transAxes.inverted()
    methods = sorted(
        (method for method in methods if method.variant in ends), key=lambda method: ends[method.variant][1]
    )
    texts = [textwrap.fill(method.title, 26) for method in methods]
    half = np.array([0.028 * (text.count("\n") + 1) + 0.004 for text in texts])
    stacked = np.cumsum(2 * half) - half  # one on the other from the bottom; each lifted no less than the one below
    lift = isotonic_regression([to_axes.transform(ends[method.variant])[1] for method in methods] - stacked).x
    places = stacked + np.clip(lift, 0, max(0, 1 - 2 * half.sum()))
    beside = max(to_axes.transform(end)[0] for end in ends.values()) + 0.06
    line = {"arrowstyle": "-", "linewidth": 0.5, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 3}
    for method, text, place in zip(methods, texts, places, strict=True):
        axis.annotate(
            text, ends[method.variant], (beside, place), "data", "axes fraction", line | {"color": method.colour},
            annotation_clip=False, color=method.colour, fontsize=8, va="center", linespacing=1.0,
        )  # fmt: skip


def _finished(
    figure: Figure, rows: Sequence[dict], methods: Sequence[Method], names: Sequence[Line2D] = (),
    notes: Sequence[str] = (), chance: bool = True,
) -> Drawing:  # fmt: skip
    """Write a legend of the marks that are there below the panels."""
    handles = list(names)
    if any(len(method.seeds) > 1 for method in methods):
        band = {"color": "0.5", "linewidth": 6, "alpha": 0.4}
        handles.append(Line2D([], [], label=f"95 % interval of the mean over {seed_count(methods)}", **band))
    if chance:
        handles.append(Line2D([], [], label="chance", **CHANCE))
    sources = dict.fromkeys(row["source"] for row in rows if row["source"] is not None)
    handles += [Line2D([], [], label=source, **_open(source)) for source in sources]
    room = (0.16 * -(-len(handles) // 3) + 0.12) / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, room, 1, 1 - room))
    # `loc="outside ..."` would slide down when the figure is saved with what is written below it
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=7.5, bbox_to_anchor=(0.5, 0),
                  bbox_transform=figure.transFigure, borderaxespad=0)  # fmt: skip
    means = _averages(methods) if chance else f"Means over {seed_count(methods)}."
    return drawing(figure, rows, methods, means, *notes)


def _averages(methods: Sequence[Method]) -> str:
    trajectories = sorted({method.config["trajectories"] for method in methods})
    return f"Means over {seed_count(methods)} with {' or '.join(map(str, trajectories))} trajectories each."
