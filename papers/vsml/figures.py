"""The paper's figures on cloning, on learning to learn, on invariance, on other data sets, and on what states do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from common.claims import load
from common.report.theme import PALETTE, PUBLISHED, Drawing
from common.runs import FinishedRun
from common.statistics import mean_interval

__all__ = [
    "ablations",
    "cloning",
    "deep_cloning",
    "introspection",
    "invariances",
    "learning",
    "meta_training",
    "unseen",
]

LEARNERS = {
    "vsml": ("VSML", PALETTE[0], "-"),
    "vsml_es": ("VSML, by evolution", PALETTE[9], "-"),
    "vsml_backprop": ("VSML, by backpropagation", PALETTE[9], "-"),
    "vsml_deeper": ("VSML, on a deeper grid", PALETTE[6], "-"),
    "vsml_deep": ("VSML, hidden layer", PALETTE[6], "--"),
    "vsml_on_others": ("VSML, trained on all but MNIST", PALETTE[0], ":"),
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
ASIDE = ("vsml_deep", "vsml_conv", "vsml_on_others")
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
    axis.legend(fontsize=8, loc="upper right")
    return Drawing(figure, pd.DataFrame(rows), _names([one]), [_seeds([one]), BAND])


def unseen(runs: Sequence[FinishedRun]) -> Drawing:
    """Their Fig. 8, the row of MNIST: accuracy over 2000 examples of every data set."""
    kinds = ("vsml", "meta_rnn", "hebbian", "fast_weight_memory", "sgd", "sgd_tuned", "adam")
    found = _by_variant(runs, dict.fromkeys(kinds))
    tasks = [task for task in TASKS if any(one.has(f"curve_{task}") for one in found)]
    figure, axis = plt.subplots(figsize=(8.6, 3.9), layout="constrained")
    rows = []
    width = 0.8 / len(found)
    for place, one in enumerate(found):
        title, colour, _ = LEARNERS[one.variant]
        for column, task in enumerate(tasks):
            if not one.has(f"curve_{task}"):
                continue
            values = one.metric(f"{task}_end")
            x = column + (place - (len(found) - 1) / 2) * width
            low, high = mean_interval(values) or (values.mean(), values.mean())
            axis.bar(x, values.mean(), 0.9 * width, color=colour)
            axis.plot([x, x], [low, high], color="0.1", linewidth=0.9)
            axis.plot(np.full(len(values), x), values, "o", color="0.1", markersize=1.8)
            rows += [{"data": task, "learner": title, "seed_index": i, "accuracy": v} for i, v in enumerate(values)]
    axis.set_xticks(range(len(tasks)), [TASKS[task] for task in tasks], fontsize=8)
    axis.set(ylabel="accuracy over all examples", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    for column, task in enumerate(tasks):
        chance = 0.5 if task == "sum-sign" else 0.1
        axis.plot([column - 0.45, column + 0.45], [chance, chance], color="0.4", linestyle=":", linewidth=1)
    _legend(figure, found, LEARNERS)
    notes = [_seeds(found), "Dots: seeds; lines: 95 % bootstrap intervals of their mean. Dotted: chance."]
    return Drawing(figure, pd.DataFrame(rows), _names(found), notes)


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
    notes = [_seeds(found), f"Means over windows of {window} examples, each predicted before it was learned. {BAND}"]
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
    """Accuracy over training episodes after a short meta-training under other settings."""
    found = _by_variant(runs, {run.identity.variant: None for run in runs})
    figure, axis = plt.subplots(figsize=(6.2, 0.34 * len(found) + 1), layout="constrained")
    rows = []
    for place, one in enumerate(found):
        values = one.metric("accuracy")
        axis.plot(values, np.full(len(values), place), "o", color=PALETTE[0], markersize=4.5, alpha=0.8)
        axis.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color="0.1")
        rows += [{"variant": one.variant, "seed_index": i, "accuracy": v} for i, v in enumerate(values)]
    axis.set_yticks(range(len(found)), [ABLATIONS.get(one.variant, one.variant) for one in found], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0.1, color="0.5", linestyle=":", linewidth=1)
    axis.set(xlabel="accuracy over whole training episodes", xlim=(0, None))
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    return Drawing(
        figure, pd.DataFrame(rows), _names(found), ["One dot a seed; the bar is their mean. Dotted: chance."]
    )


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
    axis: Axes, one: Shown, name: str, colour: Any, line: str, labels: Mapping[str, str], window: int = 1
) -> list[dict[str, Any]]:
    """A curve's mean over seeds with twice its standard error; its rows of the table, thinned."""
    if not one.has(name):
        return []
    values = one.curve(name)
    x = window * (np.arange(values.shape[1]) + 1)
    mean = values.mean(0)
    error = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.zeros_like(mean)
    axis.plot(x, mean, color=colour, linestyle=line, linewidth=1.5)
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
