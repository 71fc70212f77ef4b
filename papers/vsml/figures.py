"""The paper's figures on cloning, on learning to learn, on invariance, on other data sets, and on what states do."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter
from scipy.special import stdtrit

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, published_values, seed_count, table_rows
from common.report.theme import PALETTE, PUBLISHED, Drawing

__all__ = [
    "ablations", "cloning", "deep_cloning", "introspection", "invariances", "learning", "matrix", "meta_training",
    "unseen",
]  # fmt: skip

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
"""Title, colour and line of every learner, in the order of legends."""
TEN_OUTPUTS = ("meta_rnn", "hebbian", "fast_weight_memory")
"""Learners that answer with one of ten classes where there are two: their accuracy on Sum Sign is not comparable."""
ASIDE = ("vsml_deep", "vsml_conv")
"""Learners that the figure of learning to learn leaves out, which has enough lines."""
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
    "mnist": ("MNIST", ["mnist"]),
    "fashion": ("Fashion-MNIST", ["fashion-mnist"]),
    "cifar10": ("CIFAR-10, grey", ["cifar10-grey"]),
    "digits": ("spoken digits", ["spoken-digits"]),
    "omniglot": ("Omniglot", ["omniglot"]),
    "random": ("Random", ["random"]),
    "all_but_mnist": ("all but MNIST", ["fashion-mnist", "cifar10-grey", "spoken-digits", "omniglot", "random"]),
}
"""Title of a row of the matrix, and the data sets of its meta-training."""
CONDITIONS = {
    "mnist": "reference: 10 classes, 28 x 28",
    "five_classes": "5 classes",
    "21_pixels": "21 x 21",
    "48_pixels": "48 x 48",
    "projected": "random projection",
    "shuffled": "pixels shuffled",
}
CLONES = {
    "random": ("cloned on random data", PALETTE[0]), "mnist": ("cloned on MNIST", PALETTE[1]),
    "policy": ("cloned on policy on MNIST", PALETTE[2]),
}  # fmt: skip
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
NO_SUM_SIGN = "Sum Sign has two classes; learners with ten outputs have no score there."
BAND = "Bands: Student's 95 % intervals of the means."


def learning(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. 6: accuracy over all inputs so far, on the data set of meta-training and on another."""
    treatments = by_variant(runs, [name for name in LEARNERS if name not in ASIDE])
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.6), sharey=True, layout="constrained")
    rows: list[dict[str, Any]] = []
    tasks = ("mnist", "fashion-mnist")
    titles = {name: LEARNERS[name][0] for name in treatments}
    for name in [name for name in treatments if name.endswith("_tuned")]:
        plain = treatments.get(name.removesuffix("_tuned"))
        if plain and all(_same(plain, treatments[name], f"curve_{task}") for task in tasks):
            titles[name.removesuffix("_tuned")] += "; the same with its rate tuned"
            del treatments[name], titles[name]
    for axis, task in zip(axes, tasks, strict=True):
        for name, treatment in treatments.items():
            title, (_, colour, line) = titles[name], LEARNERS[name]
            rows += _curve(axis, treatment, f"curve_{task}", colour, line, {"data": task, "learner": title})
        axis.set_title(TASKS[task] + (", meta-trained on" if task == "mnist" else ", never seen"), fontsize=10)
        axis.set(xlabel="examples seen", ylim=(0, 1))
        axis.axhline(0.1, color="0.7", linewidth=0.8, linestyle=(0, (1, 3)))
    axes[0].set_ylabel("accuracy over all examples so far")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    _legend(figure, titles)
    return drawing(figure, rows, treatments.values(), _means(treatments), BAND, "Dotted in grey: chance.")


def invariances(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. 7: the same learner with other classes and sizes, and with pixels in disguise."""
    treatments = by_variant(runs, ["vsml"])
    vsml = treatments["vsml"]
    figure, axis = plt.subplots(figsize=(5.6, 4.0), layout="constrained")
    rows: list[dict[str, Any]] = []
    shown = {name: title for name, title in CONDITIONS.items() if vsml.has(f"curve_{name}")}
    for index, (name, title) in reversed([*enumerate(shown.items())]):  # the reference on top
        colour, line = ("0.1", "--") if name == "mnist" else (PALETTE[index - 1], "-")
        rows += _curve(axis, vsml, f"curve_{name}", colour, line, {"condition": title})
        axis.plot([], [], color=colour, linestyle=line, label=title)
    axis.set(xlabel="examples seen", ylabel="accuracy over all examples so far", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(fontsize=8, loc="lower right", reverse=True)
    return drawing(figure, rows, treatments.values(), _means(treatments), BAND)


def unseen(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. 8, the row of MNIST: accuracy over 2000 examples of every data set."""
    kinds = ("vsml", "meta_rnn", "hebbian", "fast_weight_memory", "sgd", "sgd_tuned", "adam")
    treatments = by_variant(runs, kinds)
    tasks = [task for task in TASKS if any(treatment.has(f"curve_{task}") for treatment in treatments.values())]
    figure, axis = plt.subplots(figsize=(8.6, 3.9), layout="constrained")
    rows = []
    handles: list[Patch] = []
    width = 0.8 / len(treatments)
    for place, (name, treatment) in enumerate(treatments.items()):
        title, colour, line = LEARNERS[name]
        look = {"color": colour} if line != ":" else {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
        handles.append(Patch(label=title, **look))
        for column, task in enumerate(tasks):
            if not treatment.has(f"curve_{task}") or (task == "sum-sign" and name in TEN_OUTPUTS):
                continue
            values = treatment.metric(f"{task}_end")
            mean, *interval = treatment.mean_with_interval(f"{task}_end")
            x = column + (place - (len(treatments) - 1) / 2) * width
            axis.bar(x, mean, 0.9 * width, linewidth=0, **look)
            axis.plot([x, x], interval, color="0.1", linewidth=0.9)
            axis.plot(np.full(len(values), x), values, "o", color="0.1", markersize=1.8)
            rows += table_rows(data=task, learner=title, seed_index=range(len(values)), accuracy=values)
    axis.set_xticks(range(len(tasks)), [TASKS[task] for task in tasks], fontsize=8)
    axis.set(ylabel="accuracy over all examples", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    for column, task in enumerate(tasks):
        chance = 0.5 if task == "sum-sign" else 0.1
        axis.plot([column - 0.45, column + 0.45], [chance, chance], color="0.4", linestyle=":", linewidth=1)
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    note = "Dots: seeds; lines: Student's 95 % intervals of their mean. Dotted: chance."
    return drawing(figure, rows, treatments.values(), _means(treatments), note, NO_SUM_SIGN)


def matrix(runs: Runs, claims: Claims) -> Drawing:
    """Their Fig. 8: one row a data set of meta-training, one column a data set of the test, for two learners."""
    kinds = {"vsml": "VSML", "meta_rnn": "Meta RNN"}
    treatments = by_variant(runs, [f"{kind}_on_{row}" for kind in kinds for row in ROWS])
    tasks = [task for task in TASKS if next(iter(treatments.values())).has(f"curve_{task}")]
    columns = {**{task: f"{task}_end" for task in tasks}, "unseen": "unseen"}
    shown = [row for row in ROWS if any(name.endswith(f"_on_{row}") for name in treatments)]
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 0.42 * len(shown) + 2.1), sharey=True, layout="constrained")
    rows = []
    for axis, (kind, learner) in zip(axes, kinds.items(), strict=True):
        means = np.full((len(shown), len(columns)), np.nan)
        for place, row in enumerate(shown):
            treatment = treatments.get(f"{kind}_on_{row}")
            for column, (data, metric) in enumerate(columns.items() if treatment else ()):
                if data == "sum-sign" and kind in TEN_OUTPUTS:
                    axis.text(column + 0.5, place + 0.5, "–", ha="center", va="center", fontsize=8, color="0.4")
                    continue
                values = treatment.metric(metric)
                means[place, column] = values.mean()
                marks = {"learner": learner, "meta_trained_on": ROWS[row][0], "data": data}
                rows += table_rows(**marks, seed_index=range(len(values)), accuracy=values)
        sns.heatmap(
            100 * means, vmin=0, vmax=100, cmap="viridis", annot=True, fmt=".0f", annot_kws={"size": 8}, ax=axis,
            cbar=False, linewidths=0.5, xticklabels=[*(TASKS[task] for task in tasks), "not seen"],
            yticklabels=[ROWS[row][0] for row in shown],
        )  # fmt: skip
        for place, row in enumerate(shown):
            for column in (column for column, task in enumerate(tasks) if task in ROWS[row][1]):
                look = {"fill": False, "edgecolor": "red", "linewidth": 1.4}
                axis.add_patch(Rectangle((column + 0.05, place + 0.05), 0.9, 0.9, **look))
        axis.axvline(len(tasks), color="white", linewidth=4)
        axis.set_title(learner, fontsize=10)
        axis.tick_params(axis="x", labelrotation=40, labelsize=8)
        axis.tick_params(axis="y", labelsize=8, labelrotation=0)
        axis.set(xlabel="tested on")
        plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    axes[0].set_ylabel("meta-trained on")
    note = "In per cent. Chance is 10, of Sum Sign 50."
    return drawing(figure, rows, treatments.values(), _means(treatments), note, NO_SUM_SIGN)


def introspection(runs: Runs, claims: Claims) -> Drawing:
    """Their Section 5: class probabilities while every image comes twice; VSML beside SGD."""
    treatments = by_variant(runs, ["vsml", "sgd"])
    figure, axes = plt.subplots(
        len(treatments), 1, figsize=(8.2, 2.3 * len(treatments)), sharex=True, layout="constrained", squeeze=False
    )
    rows = []
    for axis, (name, treatment) in zip(axes[:, 0], treatments.items(), strict=True):
        p, labels = treatment.array("shown_probability")[0], treatment.array("shown_label")[0]
        count = min(len(labels), 60)
        image = axis.imshow(p[:count].T, "viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axis.scatter(range(count), labels[:count], s=9, facecolors="none", edgecolors="white", linewidths=0.8)
        first, second = (treatment.metric(metric).mean() for metric in ("first_time", "second_time"))
        title = LEARNERS[name][0]
        axis.set_title(
            f"{title}: probability of the class {first:.2f} at the first look, {second:.2f} at the second", fontsize=9
        )
        axis.set(ylabel="class", yticks=range(0, 10, 3))
        for i, label in enumerate(labels[:count].astype(int)):
            columns = {"class": range(p.shape[1]), "probability": p[i]}
            rows += table_rows(learner=title, example=i, label=label, **columns)
    axis.set_xlabel("example; ten images, the same ten again, ten others, ...")
    figure.colorbar(image, ax=axes, label="probability", fraction=0.03)
    note = "First run of the first seed; circles: the class. Numbers: means over all runs and seeds."
    return drawing(figure, rows, treatments.values(), note)


def cloning(runs: Runs, claims: Claims) -> Drawing:
    """Their cloning figure: test loss while networks of clones learn, without a hidden layer."""
    return _cloning(runs, claims, "")


def deep_cloning(runs: Runs, claims: Claims) -> Drawing:
    """Their cloning figure again, for networks with a hidden layer."""
    return _cloning(runs, claims, "_deep")


def _cloning(runs: Runs, claims: Claims, depth: str) -> Drawing:
    treatments = by_variant(runs, [f"{kind}{depth}" for kind in CLONES])
    first = next(iter(treatments.values()))
    window = first.config["window"]
    published = {
        claim.ours.metric: value
        for claim, value in published_values(claims, runs)
        if claim.ours.variant == f"mnist{depth}"
    }
    figure, grid = plt.subplots(2, 2, figsize=(8.2, 5.8), sharex=True, layout="constrained")
    rows: list[dict[str, Any]] = []
    for axes, task in zip(grid.T, ("mnist", "fashion-mnist"), strict=True):
        for axis, measure in zip(axes, ("loss", "accuracy"), strict=True):
            at_the_edge = {"transform": axis.get_yaxis_transform(), "clip_on": False}
            for name, treatment in treatments.items():
                title, colour = CLONES[name.removesuffix("_deep")]
                labels = {"data": task, "measure": measure, "learner": title}
                rows += _curve(axis, treatment, f"{task}_clone_{measure}", colour, "-", labels, window)
                if measure == "accuracy":
                    tested = treatment.metric(f"{task}_clone_test_accuracy").mean()
                    axis.plot([1.0], [tested], "D", color=colour, **at_the_edge)
                    rows.append({**labels, "measure": "test accuracy", "mean": tested})
            labels = {"data": task, "measure": measure, "learner": "gradient descent"}
            rows += _curve(axis, first, f"{task}_true_{measure}", "0.2", "--", labels, window)
            axis.set_ylabel({"loss": "cross-entropy", "accuracy": "accuracy"}[measure] if task == "mnist" else "")
        if f"{task}_clone_test_accuracy" in published:
            axis.plot([1], [published[f"{task}_clone_test_accuracy"]], **at_the_edge, **PUBLISHED)
        axes[0].set(title=TASKS[task], ylim=(0, 2.5))
        axes[1].set(xlabel="examples seen", ylim=(0, 1))
        axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    shown = [CLONES[name.removesuffix("_deep")] for name in treatments]
    handles = [Line2D([], [], color=colour, label=title) for title, colour in shown]
    handles.append(Line2D([], [], color="0.2", linestyle="--", label="gradient descent, the algorithm cloned"))
    handles.append(Line2D([], [], label="published test accuracy", **PUBLISHED))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
    note = f"Means over {window} examples, each predicted before it was learned. Thin: seeds."
    return drawing(figure, rows, treatments.values(), _means(treatments), note)


def meta_training(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy on training episodes against meta-iterations; every seed a line."""
    treatments = by_variant(runs, LEARNERS)
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    rows = []
    for name, treatment in treatments.items():
        title, colour, line = LEARNERS[name]
        for seed, course in treatment.histories():
            steps, values = course["step"], course["accuracy"]
            axis.plot(steps, values, color=colour, linestyle=line, linewidth=1.1, marker=".", markersize=3)
            rows += table_rows(learner=title, seed=seed, meta_iteration=steps, accuracy=values)
    axis.set(xlabel="meta-iterations", ylabel="accuracy over whole episodes", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(figure, {name: LEARNERS[name][0] for name in treatments})
    note = "Episodes differ in size and length between learners and stages: jumps of VSML are changes of stage."
    return drawing(figure, rows, treatments.values(), note)


def ablations(runs: Runs, claims: Claims) -> Drawing:
    """What a short meta-training under other settings leads to: in its own episodes, and at full size."""
    trained, tested = (
        by_variant([run for run in runs if run.identity.experiment == experiment], ABLATIONS)
        for experiment in ("ablations", "ablation_test")
    )
    first = next(iter(tested.values()))
    count = max(int(metric.removeprefix("mnist_")) for metric in first.runs[0].metrics if metric[6:].isdigit())
    side = first.config["side"]
    panels = [
        ("training episodes", trained, "accuracy"),
        (f"MNIST, {side} x {side}, first {count}", tested, f"mnist_{count}"),
        (f"Fashion-MNIST, never seen, first {count}", tested, f"fashion-mnist_{count}"),
    ]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(9.6, 0.3 * len(trained) + 1.2), sharex=True, sharey=True, layout="constrained"
    )
    rows = []
    places = {name: place for place, name in enumerate(trained)}
    for axis, (title, treatments, metric) in zip(axes, panels, strict=True):
        for name, treatment in treatments.items():
            place, values = places[name], treatment.metric(metric)
            if name == "as_meta_trained":
                axis.axvline(values.mean(), color=PALETTE[0], linewidth=0.8, alpha=0.6)
            axis.plot(values, np.full(len(values), place), "o", color=PALETTE[0], markersize=4, alpha=0.8)
            axis.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color="0.1")
            rows += table_rows(variant=name, measured=title, seed_index=range(len(values)), accuracy=values)
        axis.axvline(0.1, color="0.5", linestyle=":", linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_yticks(range(len(trained)), [ABLATIONS[name] for name in trained], fontsize=8)
    axes[0].invert_yaxis()
    axes[0].set(xlim=(0, None))
    axes[1].set_xlabel("accuracy of all predictions")
    note = "One dot a seed; the bar is their mean, the line that of the settings of scale cpu. Dotted: chance."
    return drawing(figure, rows, [*trained.values(), *tested.values()], note)


# --- parts ---------------------------------------------------------------------------------------------------


def _curve(
    axis: Axes, treatment: Treatment, name: str, colour: Any, line: str, labels: Mapping[str, str], window: int = 0
) -> list[dict[str, Any]]:
    """A curve's mean over seeds with its 95 % interval; its rows of the table, thinned.

    Means over windows come with each seed's line instead of the interval.
    """
    if not treatment.has(name):
        return []
    values = treatment.array(name)
    x = max(1, window) * (np.arange(values.shape[1]) + 1)
    mean = values.mean(0)
    error = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.zeros_like(mean)
    axis.plot(x, mean, color=colour, linestyle=line, linewidth=1.5)
    if window:
        axis.plot(x, values.T, color=colour, linestyle=line, linewidth=0.6, alpha=0.6)
    else:
        half = error * (stdtrit(len(values) - 1, 0.975) if len(values) > 1 else 0)
        band = np.clip([mean - half, mean + half], 0, 1)
        axis.fill_between(x, *band, color=colour, alpha=0.2, linewidth=0)
    kept = np.unique(np.geomspace(1, len(x), 60).astype(int)) - 1
    return table_rows(**labels, examples=x[kept], mean=mean[kept], standard_error=error[kept])


def _same(first: Treatment, second: Treatment, curve: str) -> bool:
    """Whether two learners have the same curve, as where tuning keeps the rate; also where neither has one."""
    if not first.has(curve) or not second.has(curve):
        return first.has(curve) is second.has(curve)
    return np.array_equal(first.array(curve), second.array(curve))


def _legend(figure: Figure, titles: Mapping[str, str]) -> None:
    """The learners above the panels."""
    looks = {name: {"color": LEARNERS[name][1], "linestyle": LEARNERS[name][2]} for name in titles}
    handles = [Line2D([], [], label=title, **looks[name]) for name, title in titles.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)


def _means(treatments: Mapping[str, Treatment]) -> str:
    return f"Means over {seed_count(treatments.values())}."
