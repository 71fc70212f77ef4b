"""Copy memory, convergence, exactness, language, images, memory, and the surface under a penalty on the Jacobian."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, panel_row, published_values, table_rows
from common.report.theme import PALETTE, PUBLISHED, Drawing
from papers.deq.regression import REACH, curve
from papers.deq.tasks import chance

__all__ = ["convergence", "copy_memory", "depth", "effort", "exactness", "images", "language", "memory", "surface"]

MODELS = {
    "deq": "DEQ-Transformer", "phantom": "DEQ, gradient of one step", "penalised": "DEQ, Jacobian penalised",
    "unrolled": "weight-tied stack", "tcn": "TCN", "lstm": "LSTM", "gru": "GRU",
}  # fmt: skip
SOLVED = (
    ("unrolled", "fixed_point", "weight-tied stack"),
    ("deq", "broyden", "DEQ, Broyden"),
    ("deq", "anderson", "DEQ, Anderson"),
    ("deq", "fixed_point", "DEQ, plain iteration"),
)
"""Network, solver, and how the pair is called."""
FIRST = (("unrolled", "fixed_point"), ("deq", "broyden"))
"""The pairs that are drawn before training, too."""
SEEDS = "Every seed a point or a line; lines between points join medians over seeds."
LEAST = 1e-8
"""Smaller losses are drawn as if they were this."""
PUBLISHED_EVALUATIONS, PUBLISHED_TOLERANCE = 360, 4.0
"""How far the axes of the paper's figures go: evaluations in figure 2, right, and tolerance in figure 3, left."""
NAMES = {
    "transformer_deq": "DEQ-Transformer", "transformer_tied": "weight-tied transformer",
    "transformer_untied": "transformer", "trellis_deq": "DEQ-TrellisNet", "trellis_tied": "weight-tied TrellisNet",
    "conv": "convolution", "transformer": "transformer",
}  # fmt: skip
"""How variants of language and memory are called."""


def copy_memory(runs: Runs, claims: Claims) -> Drawing:
    """Test loss against T; training loss against steps at the greatest T."""
    treatments = by_variant(runs)
    lengths = sorted({int(variant.rpartition("_")[2]) for variant in treatments})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    rows: list[dict[str, Any]] = []
    for colour, (model, title) in zip(PALETTE, MODELS.items(), strict=False):
        medians = []
        for length in lengths:
            if f"{model}_{length}" in treatments:
                losses = np.maximum(treatments[f"{model}_{length}"].metric("loss"), LEAST)
                left.plot([length] * len(losses), losses, "o", color=colour, markersize=3.5, alpha=0.7)
                medians.append((length, np.median(losses)))
                rows += table_rows(panel="test", model=title, T=length, loss=losses)
        if medians:
            left.plot(*zip(*medians, strict=True), "o-", markersize=3.5, color=colour, label=title)
        if f"{model}_{lengths[-1]}" in treatments:
            for _, course in treatments[f"{model}_{lengths[-1]}"].histories():
                right.plot(course["step"], course["loss"], color=colour, linewidth=1.1, label=title)
                rows += table_rows(panel="training", model=title, **course[["step", "loss"]])
    grid = np.linspace(lengths[0], lengths[-1], 100)
    left.plot(grid, [chance(value) for value in grid], "--", color="0.5", linewidth=1, label="chance")
    right.axhline(chance(lengths[-1]), color="0.5", linestyle="--", linewidth=1)
    for claim, loss in published_values(claims, runs):
        model, _, length = claim.ours.variant.rpartition("_")
        if claim.ours.metric == "loss" and int(length) in lengths:
            colour = PALETTE[list(MODELS).index(model)]
            left.plot(int(length), loss, **{**PUBLISHED, "color": colour, "zorder": 5})
            rows.append({"panel": "published", "model": MODELS[model], "T": int(length), "loss": loss})
    left.set(xlabel="T, the delay", ylabel="test loss, nats", yscale="log", xticks=lengths)
    left.minorticks_off()
    _legend(figure, left, 4)
    right.set(xlabel="steps", ylabel="training loss, nats", yscale="log", title=f"T = {lengths[-1]}")
    return drawing(figure, rows, treatments.values(), SEEDS, "Open diamonds: published.")


def convergence(runs: Runs, claims: Claims) -> Drawing:
    """Median relative residual against evaluations, before (dotted) and after training, each length a panel."""
    treatments = by_variant(runs)
    lengths = [variant.removeprefix("deq_") for variant in treatments if variant in ("deq_50", "deq_200")]
    figure, axes = panel_row(len(lengths), (5.2, 4.0), sharey=True)
    rows = []
    for axis, length in zip(axes, lengths, strict=True):
        for colour, (model, solver, title) in zip(PALETTE, SOLVED, strict=False):
            treatment = treatments.get(f"{model}_{length}")
            for phase, line in (("start", ":"), ("end", "-")):
                if treatment is None or (phase == "start" and (model, solver) not in FIRST):
                    continue
                counts, middle = _median_trace(treatment, f"{solver}_{phase}")
                label = f"{title}, {'before' if phase == 'start' else 'after'} training"
                axis.plot(counts, middle, line, color=colour, linewidth=2, label=label)
                rows += table_rows(T=length, network=title, phase=phase, evaluations=counts, residual=middle)
        axis.set(xlabel="evaluations of f", yscale="log", title=f"T = {length}")
        axis.grid(alpha=0.4)
        _not_run(axis, PUBLISHED_EVALUATIONS)
    axes[0].set_ylabel("relative residual |f(z) - z| / |f(z)|")
    _legend(figure, axes[0], 3)
    return drawing(figure, rows, treatments.values(), "Medians over all sequences of all seeds.")


def effort(runs: Runs, claims: Claims) -> Drawing:
    """Evaluations of f that the forward solve takes, and where it ends, while a DEQ is trained."""
    treatments = by_variant(runs)
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    rows: list[dict[str, Any]] = []
    for colour, (variant, treatment) in zip(PALETTE, _deqs(treatments).items(), strict=False):
        for seed, course in treatment.histories():
            course = course.loc[course["evaluations"] > 0, ["step", "evaluations", "residual"]]
            for axis, name in zip(axes, ("evaluations", "residual"), strict=True):
                label = _length(variant) if seed == treatment.seeds[0] else None
                axis.plot(course["step"], course[name], color=colour, label=label)
            rows += table_rows(variant=variant, seed=seed, **course)
    axes[0].set(xlabel="steps", ylabel="evaluations of f, mean", ylim=(0, None))
    axes[1].set(xlabel="steps", ylabel="relative residual at the end, median", yscale="log")
    _legend(figure, axes[0], 4)
    note = "Each seed a line. A DEQ begins as a stack of a few layers: that part is left out."
    return drawing(figure, rows, treatments.values(), note)


def depth(runs: Runs, claims: Claims) -> Drawing:
    """Difference of a weight-tied stack's successive layers against depth, by length; before training dotted."""
    treatments = by_variant(runs)
    figure, axis = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    rows: list[dict[str, Any]] = []
    for colour, (variant, treatment) in zip(PALETTE, _deqs(treatments).items(), strict=False):
        for phase, line in (("start", ":"), ("end", "-")):
            counts, middle = _median_trace(treatment, f"fixed_point_{phase}")
            label = f"{_length(variant)}, {'before' if phase == 'start' else 'after'} training"
            axis.plot(counts, middle, line, color=colour, label=label)
            rows += table_rows(variant=variant, phase=phase, layers=counts, difference=middle)
    axis.set(xlabel="layers", ylabel="|f(z) - z| / |f(z)|", yscale="log")
    axis.grid(alpha=0.4)
    _legend(figure, axis, 2)
    return drawing(figure, rows, treatments.values(), "Medians over all sequences of all seeds.")


def exactness(runs: Runs, claims: Claims) -> Drawing:
    """Loss against tolerance, and against the limit of evaluations."""
    treatments = by_variant(runs)
    solved = {variant: treatment for variant, treatment in treatments.items() if not variant.startswith("unrolled")}
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.8), sharey=True, layout="constrained")
    rows = []
    for axis, kind, label in (
        (axes[0], "tolerance", "tolerance, relative residual"),
        (axes[1], "limit", "evaluations of f at most"),
    ):
        for colour, (variant, treatment) in zip(PALETTE, solved.items(), strict=False):
            values, losses = treatment.runs[0].arrays[kind], treatment.array(f"{kind}_loss")
            axis.plot(values, losses.T, color=colour, linewidth=0.7, alpha=0.5)
            middle = np.median(losses, 0)
            axis.plot(values, middle, "o-", color=colour, label=_length(variant))
            rows += table_rows(kind=kind, variant=variant, value=values, loss=middle)
        axis.set(xlabel=label, xscale="log", yscale="log")
    _not_run(axes[0], PUBLISHED_TOLERANCE)
    axes[0].set_ylabel("test loss, nats")
    _legend(figure, axes[0], 4)
    return drawing(figure, rows, treatments.values(), "Thick: medians over seeds; thin: each seed.")


def memory(runs: Runs, claims: Claims) -> Drawing:
    """Bytes and seconds of weight-tied stacks against their depth, and of the DEQ."""
    treatments = by_variant(runs)
    figure, axes = plt.subplots(
        len(treatments), 2, figsize=(9.0, 3.4 * len(treatments)), layout="constrained", squeeze=False
    )
    rows: list[dict[str, Any]] = []
    for (left, right), (variant, treatment) in zip(axes, treatments.items(), strict=True):
        metrics, arrays = treatment.runs[0].metrics, treatment.runs[0].arrays
        depths = sorted(int(name.rsplit("_", 1)[1]) for name in metrics if name.startswith("bytes_layers_"))
        counts = sorted(int(name.rsplit("_", 1)[1]) for name in metrics if name.startswith("bytes_deq_"))
        stacked = {depth: metrics[f"bytes_layers_{depth}"][0] / 1e6 for depth in depths}
        kept = {count: metrics[f"bytes_deq_{count}"][0] / 1e6 for count in counts}
        held = {count: kept[count] + metrics[f"bytes_solver_{count}"][0] / 1e6 for count in counts}
        left.plot(depths, stacked.values(), "o-", color=PALETTE[0], label="weight-tied stack")
        left.axhline(max(kept.values()), color=PALETTE[1], label="DEQ, any number of evaluations")
        left.axhline(
            max(held.values()), color=PALETTE[1], linestyle="--", label=f"with a solver of {max(counts)} evaluations"
        )
        right.plot(depths, [arrays[f"seconds_layers_{depth}"][0] for depth in depths], "o-", color=PALETTE[0])
        for count in counts:
            seconds = arrays[f"seconds_deq_{count}"][0]
            right.axhline(seconds, color=PALETTE[1], linewidth=1)
            right.annotate(f"DEQ, {count} evaluations each way", (depths[0], seconds), fontsize=7, va="bottom")
            rows.append(
                {"cell": variant, "evaluations": count, "MB": kept[count], "with_solver": held[count], "s": seconds}
            )
        for depth in depths:
            seconds = arrays[f"seconds_layers_{depth}"][0]
            rows.append({"cell": variant, "layers": depth, "MB": stacked[depth], "s": seconds})
        for axis in (left, right):
            axis.set(xlabel="layers", xscale="log", yscale="log", title=NAMES.get(variant, variant))
            axis.set_xticks(depths, [str(depth) for depth in depths])
            axis.xaxis.minorticks_off()
        left.set_ylabel("for the backward pass, MB")
        right.set_ylabel("forward and backward, s")
    _legend(figure, axes[0, 0], 3)
    return drawing(figure, rows, treatments.values(), "Seconds are of the machine that made the run, one batch.")


def language(runs: Runs, claims: Claims) -> Drawing:
    """Perplexity beside memory of each model, as bars."""
    order = ["transformer_deq", "transformer_tied", "transformer_untied", "trellis_deq", "trellis_tied"]
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", sharey=True)
    rows: list[dict[str, Any]] = []
    for place, (name, treatment) in enumerate(by_variant(runs, order).items()):
        words = treatment.metric("test_perplexity")
        kept, millions = (treatment.metric(metric)[0] / 1e6 for metric in ("bytes", "parameters"))
        axes[0].barh(place, words.mean(), color=PALETTE[0])
        axes[0].plot(words, [place] * len(words), "o", color="0.1", markersize=3)
        axes[1].barh(place, kept, color=PALETTE[1])
        for axis, value in zip(axes, (words.mean(), kept), strict=True):
            axis.annotate(
                f"{value:.0f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
            )
        rows.append({"model": name, "perplexity": words.mean(), "MB": kept, "million parameters": millions})
    labels = [f"{NAMES.get(row['model'], row['model'])}, {row['million parameters']:.2f} M" for row in rows]
    axes[0].set_yticks(range(len(rows)), labels, fontsize=8)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="test perplexity")
    axes[1].set(xlabel="kept for the backward pass, MB")
    note = "Dots: seeds. Parameters with those of the words."
    return drawing(figure, rows, by_variant(runs).values(), note)


def images(runs: Runs, claims: Claims) -> Drawing:
    """Test accuracy of each network, and the accuracy of batches while it trained."""
    titles = {"mdeq": "MDEQ", "mdeq_tied": "weight-tied stack", "single": "one resolution", "mdeq_large": "MDEQ, large"}
    treatments = by_variant(runs, titles)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    rows: list[dict[str, Any]] = []
    for place, (name, treatment) in enumerate(treatments.items()):
        title, colour, accuracies = titles[name], PALETTE[place], treatment.metric("test_accuracy")
        left.bar(place, accuracies.mean(), color=colour, width=0.6)
        left.plot([place] * len(accuracies), accuracies, "o", color="0.1", markersize=3)
        left.annotate(f"{accuracies.mean():.1f}", (place, accuracies.mean()), ha="center", va="bottom", fontsize=8)
        for claim, accuracy in published_values(claims, runs):
            if (claim.ours.variant, claim.ours.metric) == (name, "test_accuracy"):
                left.plot(place, accuracy, **PUBLISHED)
                rows.append({"model": f"{title}, {claim.id}", "accuracy": accuracy})
        rows += table_rows(model=title, accuracy=accuracies)
        for _, course in treatment.histories():
            middle = course["accuracy"].rolling(5, min_periods=1).mean()
            right.plot(course["step"], middle, color=colour, linewidth=1.2, label=title)
    left.set_xticks(range(len(treatments)), [titles[name] for name in treatments], fontsize=8)
    left.set(ylabel="test accuracy, %", ylim=(0, 100))
    right.set(xlabel="steps", ylabel="accuracy while training, %")
    right.legend(fontsize=8)
    note = "Open diamonds: published. Dots: seeds. Right: means of 100 steps."
    return drawing(figure, rows, by_variant(runs).values(), note)


def surface(runs: Runs, claims: Claims) -> Drawing:
    """f(z; x) and its equilibria; below, plain iteration for one x, from the first seed of each variant."""
    titles = {"none": "no penalty", "two": "gamma = 2", "four": "gamma = 4"}
    treatments = by_variant(runs, titles)
    figure = plt.figure(figsize=(4.0 * len(treatments), 7.4), layout="constrained")
    rows: list[dict[str, Any]] = []
    for place, (name, treatment) in enumerate(treatments.items()):
        arrays = treatment.runs[0].arrays
        x, z, height, line = (arrays[key][0] for key in ("x", "z", "surface", "equilibria"))
        above: Any = figure.add_subplot(2, len(treatments), place + 1, projection="3d")
        above.plot_surface(*np.meshgrid(x, z, indexing="ij"), height, cmap="viridis", alpha=0.7, linewidth=0)
        above.plot(x, line, line, color="red", linewidth=2)
        above.set(xlabel="x", ylabel="z", zlabel="f(z; x)", title=titles[name])
        axis = figure.add_subplot(2, len(treatments), len(treatments) + place + 1)
        row = int(np.abs(x - REACH / 2).argmin())
        axis.plot(z, height[row], color=PALETTE[0], label=f"f(z; x = {x[row]:.1f})")
        axis.plot(z, z, color="0.5", linewidth=1, label="z")
        path = _cobweb(z, height[row])
        axis.plot(*path, color=PALETTE[1], linewidth=1, label="plain iteration from 0")
        axis.plot(line[row], line[row], "o", color="red", markersize=5)
        truth = float(curve(x[row]))
        axis.axvline(truth, color="0.7", linestyle=":", linewidth=1, label="the curve")
        axis.set(xlabel="z", ylabel="f(z; x)", xlim=(z[0], z[-1]), ylim=(z[0], z[-1]))
        rows += table_rows(variant=name, x=x, equilibrium=line, curve=[float(curve(value)) for value in x])
    _legend(figure, axis, 4)
    return drawing(figure, rows, by_variant(runs).values(), "The first seed; not chosen.")


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    """One legend for all panels, above them, of what is drawn in one of them."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=columns, fontsize=8)


def _not_run(axis: Axes, published: float) -> None:
    """The horizontal axis goes as far as the paper's; where we have no runs it says so."""
    last = float(axis.dataLim.x1)
    if last < published:
        axis.axvspan(last, published, color="0.95", zorder=0)
        axis.annotate("not run", (last, 0.5), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                      fontsize=8, color="0.4")  # fmt: skip
        axis.set_xlim(right=published)


def _cobweb(z: np.ndarray, values: np.ndarray, steps: int = 12) -> tuple[list[float], list[float]]:
    """The path that plain iteration from 0 takes on a tabulated function."""
    point, across, up = 0.0, [0.0], [0.0]
    for _ in range(steps):
        image = float(np.interp(point, z, values))
        across += [point, image]
        up += [image, image]
        point = image
    return across, up


def _deqs(treatments: Mapping[str, Treatment]) -> dict[str, Treatment]:
    """The DEQs among them."""
    return {variant: treatment for variant, treatment in treatments.items() if variant.startswith("deq_")}


def _median_trace(treatment: Treatment, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of evaluations, and the median relative residual after them over all sequences of all seeds."""
    median = np.nanmedian(treatment.array(name), (0, 2))
    return np.arange(1, len(median) + 1), median


def _length(variant: str) -> str:
    """How a variant of copy memory is called beside others of its model."""
    model, length = variant.rsplit("_", 1)
    return f"T = {length}" if model == "deq" else f"T = {length}, {MODELS[model].rsplit(', ')[1]}"
