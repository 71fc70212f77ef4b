"""The paper's figures on cloning, on learning to learn, on invariance, on other data sets, and on what states do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from common.report.theme import PALETTE, PUBLISHED, Drawing
from common.room.spec import resolve
from common.run.record import FinishedRun
from common.verdict.claims import load
from common.verdict.statistics import mean_interval

__all__ = [
    "ablations",
    "cloning",
    "deep_cloning",
    "introspection",
    "invariances",
    "learning",
    "matrix",
    "meta_training",
    "unseen",
]

LEARNERS = {
    "vsml": ("VSML", PALETTE[0], "-"),
    "vsml_es": ("VSML, by evolution", PALETTE[9], "-"),
    "vsml_backprop": ("VSML, by backpropagation", PALETTE[9], "-"),
    "vsml_deeper": ("VSML, on a deeper grid", PALETTE[6], "-"),
    "vsml_deep": ("VSML, hidden layer", PALETTE[6], "--"),
    "vsml_conv": ("VSML, convolutions", PALETTE[5], "-"),
    "meta_rnn": ("Meta RNN", PALETTE[3], "-"),
    "hebbian": ("Hebbian fast weights", PALETTE[1], "-"),
    "fast_weight_memory": ("fast-weight memory", PALETTE[4], "-"),
    "adam": ("Adam", "0.25", "--"),
    "sgd": ("SGD", "0.55", "--"),
    "adam_tuned": ("Adam, rate tuned", "0.25", ":"),
    "sgd_tuned": ("SGD, rate tuned", "0.55", ":"),
    "adam_deep": ("Adam, hidden layer", PALETTE[2], "--"),
    "sgd_deep": ("SGD, hidden layer", PALETTE[8], "--"),
}
"""Title, colour and line of each, in the order of legends."""
ASIDE = ("vsml_deep", "vsml_conv")
"""Not in the figure of learning to learn, which has enough lines."""
TASKS = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10-grey": "CIFAR-10, grey",
    "spoken-digits": "spoken digits",
    "omniglot": "Omniglot",
    "random": "Random",
    "sum-sign": "Sum Sign",
}
ROWS = {
    "mnist": "MNIST",
    "fashion": "Fashion-MNIST",
    "cifar10": "CIFAR-10, grey",
    "digits": "spoken digits",
    "omniglot": "Omniglot",
    "random": "Random",
    "all_but_mnist": "all but MNIST",
}
"""Data sets of meta-training in the matrix."""
CONDITIONS = {
    "mnist": "reference: 10 classes, 28 x 28",
    "five_classes": "5 classes",
    "21_pixels": "21 x 21",
    "48_pixels": "48 x 48",
    "projected": "random projection",
    "shuffled": "pixels shuffled",
}
CLONES = {"random": ("cloned on random data", PALETTE[0]), "mnist": ("cloned on MNIST", PALETTE[1])}
ABLATIONS = {
    "as_meta_trained": "as at scale cpu",
    "error_late": "error with the next example, 2 ticks before it",
    "two_ticks": "2 ticks before and after the error",
    "label_fed": "label heard beside the error",
    "published_offsets": "gate offsets -5 and 5, as published",
    "published_read_out": "read-out not enlarged, as published",
    "offsets_and_read_out": "both as published",
    "not_projected": "no projections",
    "normed": "messages normalised",
    "n4": "N = 4",
    "n8": "N = 8",
    "n32": "N = 32",
    "bf16": "states kept in bfloat16",
    "deep": "a hidden layer of 8 nodes",
}
BAND = "Bands: two standard errors over seeds on either side."


@dataclass(frozen=True)
class Shown:
    """All runs of one variant."""

    variant: str
    runs: Sequence[FinishedRun]

    def curve(self, name: str) -> np.ndarray:
        """An array of every seed, (seeds, ...)."""
        return np.concatenate([run.arrays[name] for run in self.runs])

    def has(self, name: str) -> bool:
        """Whether its runs kept that array."""
        return name in self.runs[0].arrays

    def metric(self, name: str) -> np.ndarray:
        """A final metric of every seed."""
        return np.concatenate([run.metrics[name] for run in self.runs])


def learning(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 6: accuracy over all inputs so far, on the data set of meta-training and on another."""
    found = _by_variant(runs, {name: None for name in LEARNERS if name not in ASIDE})
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.6), sharey=True, layout="constrained")
    rows: list[dict[str, Any]] = []
    for axis, task in zip(axes, ("mnist", "fashion-mnist"), strict=True):
        for one in found:
            title, colour, line = LEARNERS[one.variant]
            rows += _curve(axis, one, f"curve_{task}", colour, line, {"data": task, "learner": title})
        axis.set_title(TASKS[task] + (", meta-trained on" if task == "mnist" else ", never seen"), fontsize=10)
        axis.set(xlabel="examples seen", ylim=(0, 1))
        axis.axhline(0.1, color="0.7", linewidth=0.8, linestyle=(0, (1, 3)))
    axes[0].set_ylabel("accuracy over all examples so far")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    _legend(figure, found, LEARNERS)
    return Drawing(figure, pd.DataFrame(rows), _names(found), [_seeds(found), BAND, "Dotted in grey: chance."])


def invariances(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 7: the same learner with other classes and sizes, and with pixels in disguise."""
    (one,) = _by_variant(runs, {"vsml": None})
    figure, axis = plt.subplots(figsize=(5.6, 4.0), layout="constrained")
    rows: list[dict[str, Any]] = []
    shown = {name: title for name, title in CONDITIONS.items() if one.has(f"curve_{name}")}
    for index, (name, title) in enumerate(shown.items()):
        colour = "0.1" if name == "mnist" else PALETTE[index - 1]
        rows += _curve(axis, one, f"curve_{name}", colour, "-", {"condition": title})
        axis.plot([], [], color=colour, label=title)
    axis.set(xlabel="examples seen", ylabel="accuracy over all examples so far", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(fontsize=8, loc="lower right")
    return Drawing(figure, pd.DataFrame(rows), _names([one]), [_seeds([one]), BAND])


def unseen(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 8, the row of MNIST: accuracy over 2000 examples of every data set."""
    kinds = ("vsml", "meta_rnn", "hebbian", "fast_weight_memory", "sgd", "sgd_tuned", "adam")
    found = _by_variant(runs, dict.fromkeys(kinds))
    tasks = [task for task in TASKS if any(one.has(f"curve_{task}") for one in found)]
    figure, axis = plt.subplots(figsize=(8.6, 3.9), layout="constrained")
    rows = []
    handles: list[Patch] = []
    width = 0.8 / len(found)
    for place, one in enumerate(found):
        title, colour, line = LEARNERS[one.variant]
        look = {"color": colour} if line != ":" else {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
        handles.append(Patch(label=title, **look))
        for column, task in enumerate(tasks):
            if not one.has(f"curve_{task}"):
                continue
            values = one.metric(f"{task}_end")
            x = column + (place - (len(found) - 1) / 2) * width
            low, high = mean_interval(values) or (values.mean(), values.mean())
            axis.bar(x, values.mean(), 0.9 * width, linewidth=0, **look)
            axis.plot([x, x], [low, high], color="0.1", linewidth=0.9)
            axis.plot(np.full(len(values), x), values, "o", color="0.1", markersize=1.8)
            rows += [{"data": task, "learner": title, "seed_index": i, "accuracy": v} for i, v in enumerate(values)]
    axis.set_xticks(range(len(tasks)), [TASKS[task] for task in tasks], fontsize=8)
    axis.set(ylabel="accuracy over all examples", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    for column, task in enumerate(tasks):
        chance = 0.5 if task == "sum-sign" else 0.1
        axis.plot([column - 0.45, column + 0.45], [chance, chance], color="0.4", linestyle=":", linewidth=1)
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    notes = [_seeds(found), "Dots: seeds; lines: 95 % bootstrap intervals of their mean. Dotted: chance."]
    return Drawing(figure, pd.DataFrame(rows), _names(found), notes)


def matrix(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 8: one row a data set of meta-training, one column a data set of the test, for two learners."""
    kinds = {"vsml": "VSML", "meta_rnn": "Meta RNN"}
    found = _by_variant(runs, {f"{kind}_on_{row}": None for kind in kinds for row in ROWS})
    tasks = [task for task in TASKS if found[0].has(f"curve_{task}")]
    columns = {**{task: f"{task}_end" for task in tasks}, "unseen": "unseen"}
    titles = [*(TASKS[task] for task in tasks), "not seen"]
    shown = [row for row in ROWS if any(one.variant.endswith(f"_on_{row}") for one in found)]
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 0.42 * len(shown) + 2.1), sharey=True, layout="constrained")
    rows = []
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        table = np.full((len(shown), len(columns)), np.nan)
        for one in found:
            learner, _, row = one.variant.partition("_on_")
            if learner != kind:
                continue
            place = shown.index(row)
            table[place] = [one.metric(metric).mean() for metric in columns.values()]
            rows += [
                {"learner": title, "meta_trained_on": ROWS[row], "data": data, "seed_index": i, "accuracy": value}
                for data, metric in columns.items()
                for i, value in enumerate(one.metric(metric))
            ]
        sns.heatmap(
            100 * table, vmin=0, vmax=100, cmap="viridis", annot=True, fmt=".0f", annot_kws={"size": 8}, ax=axis,
            cbar=False, linewidths=0.5, xticklabels=titles, yticklabels=[ROWS[row] for row in shown],
        )  # fmt: skip
        for place, row in enumerate(shown):
            for column, task in enumerate(tasks):
                if task in _met(row):
                    frame = Rectangle(
                        (column + 0.05, place + 0.05), 0.9, 0.9, fill=False, edgecolor="red", linewidth=1.4
                    )
                    axis.add_patch(frame)
        axis.axvline(len(tasks), color="white", linewidth=4)
        axis.set_title(title, fontsize=10)
        axis.tick_params(axis="x", labelrotation=40, labelsize=8)
        axis.tick_params(axis="y", labelsize=8, labelrotation=0)
        axis.set(xlabel="tested on")
        plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    axes[0].set_ylabel("meta-trained on")
    notes = [_seeds(found), "In per cent. Chance is 10; of Sum Sign 50 for VSML, which has an output a class."]
    return Drawing(figure, pd.DataFrame(rows), _names(found), notes)


def _met(row: str) -> tuple[str, ...]:
    """The data sets of the tests that a row of the matrix was meta-trained on."""
    return tuple(resolve("vsml", "matrix_train", f"vsml_on_{row}", None).tasks)


def introspection(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Section 5: class probabilities while every image comes twice; VSML beside SGD."""
    found = _by_variant(runs, {"vsml": None, "sgd": None})
    figure, axes = plt.subplots(len(found), 1, figsize=(8.2, 2.3 * len(found)), sharex=True, layout="constrained")
    rows = []
    for axis, one in zip(np.atleast_1d(axes), found, strict=True):
        p, labels = one.curve("shown_probability")[0], one.curve("shown_label")[0]
        count = min(len(labels), 60)
        image = axis.imshow(p[:count].T, "viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axis.scatter(range(count), labels[:count], s=9, facecolors="none", edgecolors="white", linewidths=0.8)
        first, second = one.metric("first_time").mean(), one.metric("second_time").mean()
        title = LEARNERS[one.variant][0]
        axis.set_title(
            f"{title}: probability of the class {first:.2f} at the first look, {second:.2f} at the second", fontsize=9
        )
        axis.set(ylabel="class", yticks=range(0, 10, 3))
        rows += [
            {"learner": title, "example": i, "label": int(labels[i]), "class": k, "probability": p[i, k]}
            for i in range(count)
            for k in range(p.shape[1])
        ]
    axis.set_xlabel("example; ten images, the same ten again, ten others, ...")
    figure.colorbar(image, ax=axes, label="probability", fraction=0.03)
    note = "First run of the first seed; circles: the class. Numbers: means over all runs and seeds."
    return Drawing(figure, pd.DataFrame(rows), _names(found), [note])


def cloning(runs: Sequence[FinishedRun]) -> Drawing:
    """Their cloning figure: test loss while networks of clones learn, without a hidden layer."""
    return _cloning(runs, "")


def deep_cloning(runs: Sequence[FinishedRun]) -> Drawing:
    """The same with a hidden layer."""
    return _cloning(runs, "_deep")


def _cloning(runs: Sequence[FinishedRun], depth: str) -> Drawing:
    found = _by_variant(runs, {f"{kind}{depth}": None for kind in CLONES})
    figure, grid = plt.subplots(2, 2, figsize=(8.2, 5.8), sharex=True, layout="constrained")
    rows: list[dict[str, Any]] = []
    published = {claim.id: claim.published for claim in load("vsml")}
    for column, task in enumerate(("mnist", "fashion-mnist")):
        for row, measure in enumerate(("loss", "accuracy")):
            axis = grid[row, column]
            for one in found:
                title, colour = CLONES[one.variant.removesuffix("_deep")]
                window = one.runs[0].identity.config["window"]
                labels = {"data": task, "measure": measure, "learner": title}
                rows += _curve(axis, one, f"{task}_clone_{measure}", colour, "-", labels, window)
                if measure == "accuracy":
                    ours = one.metric(f"{task}_clone_test_accuracy").mean()
                    axis.plot([1.0], [ours], "D", color=colour, transform=axis.get_yaxis_transform(), clip_on=False)
                    rows.append({**labels, "measure": "test accuracy", "mean": ours})
            labels = {"data": task, "measure": measure, "learner": "gradient descent"}
            rows += _curve(axis, found[0], f"{task}_true_{measure}", "0.2", "--", labels, window)
            axis.set_ylabel("cross-entropy" if measure == "loss" else "accuracy")
        claim = published.get(("C1" if task == "mnist" else "C2") + ("-deep" if depth else "-shallow"))
        if claim is not None:
            grid[1, column].plot(
                [1], [claim.value], transform=grid[1, column].get_yaxis_transform(), clip_on=False, **PUBLISHED
            )
        grid[0, column].set(title=TASKS[task], ylim=(0, 2.5))
        grid[1, column].set(xlabel="examples seen", ylim=(0, 1))
        grid[1, column].yaxis.set_major_formatter(PercentFormatter(1))
    handles = [Line2D([], [], color=colour, label=title) for title, colour in CLONES.values()]
    handles.append(Line2D([], [], color="0.2", linestyle="--", label="gradient descent, the algorithm cloned"))
    handles.append(Line2D([], [], label="published test accuracy", **PUBLISHED))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    notes = [
        _seeds(found),
        f"Means over {window} examples, each predicted before it was learned. Thin: seeds.",
    ]
    return Drawing(figure, pd.DataFrame(rows), _names(found), notes)


def meta_training(runs: Sequence[FinishedRun]) -> Drawing:
    """Accuracy on training episodes against meta-iterations; every seed a line."""
    found = _by_variant(runs, LEARNERS)
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    rows = []
    for one in found:
        title, colour, line = LEARNERS[one.variant]
        for run in one.runs:
            lines = run.history()
            steps, values = [entry["step"] for entry in lines], np.array([entry["accuracy"] for entry in lines])
            axis.plot(steps, values, color=colour, linestyle=line, linewidth=1.1, marker=".", markersize=3)
            rows += [
                {"learner": title, "seed": seed, "meta_iteration": step, "accuracy": value}
                for seed, column in zip(run.seeds, values.T, strict=True)
                for step, value in zip(steps, column, strict=True)
            ]
    axis.set(xlabel="meta-iterations", ylabel="accuracy over whole episodes", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(figure, found, LEARNERS)
    note = "Episodes differ in size and length between learners and stages: jumps of VSML are changes of stage."
    return Drawing(figure, pd.DataFrame(rows), _names(found), [note])


def ablations(runs: Sequence[FinishedRun]) -> Drawing:
    """What a short meta-training under other settings leads to: in its own episodes, and at full size."""
    found = _by_variant([run for run in runs if run.identity.experiment == "ablations"], ABLATIONS)
    tested = _by_variant([run for run in runs if run.identity.experiment == "ablation_test"], ABLATIONS)
    count = max(int(key.removeprefix("mnist_")) for key in tested[0].runs[0].metrics if key[6:].isdigit())
    side = tested[0].runs[0].identity.config["side"]
    panels = [
        ("training episodes", found, "accuracy"),
        (f"MNIST, {side} x {side}, first {count}", tested, f"mnist_{count}"),
        (f"Fashion-MNIST, never seen, first {count}", tested, f"fashion-mnist_{count}"),
    ]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(9.6, 0.3 * len(found) + 1.2), sharex=True, sharey=True, layout="constrained"
    )
    rows = []
    places = {one.variant: place for place, one in enumerate(found)}
    for axis, (title, shown, metric) in zip(axes, panels, strict=True):
        for one in shown:
            place, values = places[one.variant], one.metric(metric)
            if one.variant == "as_meta_trained":
                axis.axvline(values.mean(), color=PALETTE[0], linewidth=0.8, alpha=0.6)
            axis.plot(values, np.full(len(values), place), "o", color=PALETTE[0], markersize=4, alpha=0.8)
            axis.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color="0.1")
            rows += [
                {"variant": one.variant, "measured": title, "seed_index": i, "accuracy": v}
                for i, v in enumerate(values)
            ]
        axis.axvline(0.1, color="0.5", linestyle=":", linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_yticks(range(len(found)), [ABLATIONS[one.variant] for one in found], fontsize=8)
    axes[0].invert_yaxis()
    axes[0].set(xlim=(0, None))
    axes[1].set_xlabel("accuracy of all predictions")
    note = "One dot a seed; the bar is their mean, the line that of the settings of scale cpu. Dotted: chance."
    return Drawing(figure, pd.DataFrame(rows), _names(found + tested), [note])


# --- parts ---------------------------------------------------------------------------------------------------


def _by_variant(runs: Sequence[FinishedRun], order: Mapping[str, object]) -> list[Shown]:
    """The variants in this order, with all their runs in the order of seeds; others are left out."""
    found = []
    for variant in order:
        mine = sorted((run for run in runs if run.identity.variant == variant), key=lambda run: run.seeds)
        if mine:
            found.append(Shown(variant, mine))
    return found


def _curve(
    axis: Axes, one: Shown, name: str, colour: Any, line: str, labels: Mapping[str, str], window: int = 0
) -> list[dict[str, Any]]:
    """A curve's mean over seeds with twice its standard error; its rows of the table, thinned.

    Means over windows come with each seed's line instead of the error.
    """
    if not one.has(name):
        return []
    values = one.curve(name)
    x = max(1, window) * (np.arange(values.shape[1]) + 1)
    mean = values.mean(0)
    error = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.zeros_like(mean)
    axis.plot(x, mean, color=colour, linestyle=line, linewidth=1.5)
    if window:
        axis.plot(x, values.T, color=colour, linestyle=line, linewidth=0.6, alpha=0.6)
    else:
        axis.fill_between(x, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.2, linewidth=0)
    kept = np.unique(np.geomspace(1, len(x), 60).astype(int)) - 1
    return [{**labels, "examples": int(x[i]), "mean": mean[i], "standard_error": error[i]} for i in kept]


def _legend(figure: Figure, found: Sequence[Shown], titles: Mapping[str, tuple[str, Any, str]]) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=line, label=title)
        for title, colour, line in (titles[one.variant] for one in found)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)


def _names(found: Sequence[Shown]) -> list[str]:
    return [str(run.identity) for one in found for run in one.runs]


def _seeds(found: Sequence[Shown]) -> str:
    counts = sorted({sum(len(run.seeds) for run in one.runs) for one in found})
    return f"Means over {' or '.join(map(str, counts))} seeds."
