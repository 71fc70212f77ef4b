"""Copy memory, convergence, exactness, language, images, memory, and the surface under a penalty on the Jacobian."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from common.report.theme import PALETTE, PUBLISHED, Drawing
from common.run.record import FinishedRun
from common.verdict.claims import load
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
"""Which are drawn before training, too."""
SEEDS = "Every seed a point or a line; lines between points join medians over seeds."
KEPT = ("step", "evaluations", "residual")
"""Of the metrics stream, in the table of `effort`."""
LEAST = 1e-7
"""Losses below are drawn there."""


def copy_memory(runs: Sequence[FinishedRun]) -> Drawing:
    """Test loss against T; training loss against steps at the greatest T."""
    found: dict[str, dict[int, list[FinishedRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        model, length = run.identity.variant.rsplit("_", 1)
        found[model][int(length)].append(run)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    rows: list[dict[str, Any]] = []
    lengths = sorted({length for each in found.values() for length in each})
    for colour, (model, title) in zip(PALETTE, MODELS.items(), strict=False):
        medians = []
        for length in sorted(found[model]):
            losses = [max(value, LEAST) for run in found[model][length] for value in run.metrics["loss"]]
            left.plot([length] * len(losses), losses, "o", color=colour, markersize=3.5, alpha=0.7)
            medians.append((length, float(np.median(losses))))
            rows += [{"panel": "test", "model": title, "T": length, "loss": value} for value in losses]
        if medians:
            left.plot(*zip(*medians, strict=True), color=colour, label=title)
        rows += _course(right, found[model][lengths[-1]], title, colour)
    grid = np.linspace(lengths[0], lengths[-1], 100)
    left.plot(grid, [chance(value) for value in grid], "--", color="0.5", linewidth=1, label="chance")
    right.axhline(chance(lengths[-1]), color="0.5", linestyle="--", linewidth=1)
    for claim in load("deq"):
        model, _, length = claim.ours.variant.rpartition("_")
        if claim.kind == "value" and claim.published is not None and model in MODELS and int(length) in lengths:
            colour = PALETTE[list(MODELS).index(model)]
            left.plot(int(length), claim.published.value, **{**PUBLISHED, "color": colour, "zorder": 5})
            rows.append({"panel": "published", "model": MODELS[model], "T": int(length), "loss": claim.published.value})
    left.set(xlabel="T, blanks", ylabel="test loss, nats", yscale="log", xticks=lengths)
    left.minorticks_off()
    left.legend(fontsize=8)
    right.set(xlabel="steps", ylabel="training loss, nats", yscale="log", title=f"T = {lengths[-1]}")
    return _drawing(figure, rows, runs, [SEEDS, "Open diamonds: published."])


def _course(axis: Axes, runs: Sequence[FinishedRun], title: str, colour: Any) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        history = run.history()
        steps, losses = [line["step"] for line in history], [line["loss"] for line in history]
        axis.plot(steps, losses, color=colour, linewidth=1.1, label=title)
        rows += [
            {"panel": "training", "model": title, "step": step, "loss": loss}
            for step, loss in zip(steps, losses, strict=True)
        ]
    return rows


def convergence(runs: Sequence[FinishedRun]) -> Drawing:
    """Median relative residual against evaluations, before (dotted) and after training, each length a panel."""
    groups = _by_variant(runs)
    lengths = [variant.removeprefix("deq_") for variant in groups if variant in ("deq_50", "deq_200")]
    figure, axes = plt.subplots(
        1, len(lengths), figsize=(5.2 * len(lengths), 4.0), sharey=True, layout="constrained", squeeze=False
    )
    rows = []
    for axis, length in zip(axes[0], lengths, strict=True):
        for colour, (model, solver, title) in zip(PALETTE, SOLVED, strict=False):
            members = groups.get(f"{model}_{length}", [])
            for phase, line in (("start", ":"), ("end", "-")) if members else ():
                if phase == "start" and (model, solver) not in FIRST:
                    continue
                traces = np.concatenate([run.arrays[f"{solver}_{phase}"][0].T for run in members])
                middle = np.nanmedian(traces, 0)
                counts = np.arange(1, len(middle) + 1)
                label = f"{title}, {'before' if phase == 'start' else 'after'} training"
                axis.plot(counts, middle, line, color=colour, linewidth=2, label=label)
                rows += [
                    {"T": length, "network": title, "phase": phase, "evaluations": int(count), "residual": value}
                    for count, value in zip(counts, middle, strict=True)
                ]
        axis.set(xlabel="evaluations of f", yscale="log", title=f"T = {length}")
        axis.grid(alpha=0.4)
    axes[0][0].set_ylabel("relative residual |f(z) - z| / |f(z)|")
    axes[0][-1].legend(fontsize=7)
    return _drawing(figure, rows, runs, ["Medians over all sequences of all seeds."])


def effort(runs: Sequence[FinishedRun]) -> Drawing:
    """Evaluations of f that the forward solve takes, and where it ends, while a DEQ is trained."""
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    rows: list[dict[str, Any]] = []
    groups = {name: each for name, each in _by_variant(runs).items() if name.startswith("deq_")}
    for colour, (variant, members) in zip(PALETTE, groups.items(), strict=False):
        for run in members:
            lines = [line for line in run.history() if line["evaluations"]]
            for axis, name in zip(axes, ("evaluations", "residual"), strict=True):
                label = _length(variant) if run is members[0] else None
                axis.plot([line["step"] for line in lines], [line[name] for line in lines], color=colour, label=label)
            rows += [
                {"variant": variant, "seed": run.seeds[0], **{name: line[name] for name in KEPT}} for line in lines
            ]
    axes[0].set(xlabel="steps", ylabel="evaluations of f, mean", ylim=(0, None))
    axes[1].set(xlabel="steps", ylabel="relative residual at the end, median", yscale="log")
    axes[0].legend(fontsize=8)
    return _drawing(
        figure, rows, runs, ["Each seed a line. A DEQ begins as a stack of a few layers: that part is left out."]
    )


def depth(runs: Sequence[FinishedRun]) -> Drawing:
    """Difference of a weight-tied stack's successive layers against depth, by length; before training dotted."""
    groups = {name: each for name, each in _by_variant(runs).items() if name.startswith("deq_")}
    figure, axis = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    rows: list[dict[str, Any]] = []
    for colour, (variant, members) in zip(PALETTE, groups.items(), strict=False):
        for phase, line in (("start", ":"), ("end", "-")):
            middle = np.nanmedian(np.concatenate([run.arrays[f"fixed_point_{phase}"][0].T for run in members]), 0)
            counts = np.arange(1, len(middle) + 1)
            label = f"{_length(variant)}, {'before' if phase == 'start' else 'after'} training"
            axis.plot(counts, middle, line, color=colour, label=label)
            rows += [
                {"variant": variant, "phase": phase, "layers": int(count), "difference": value}
                for count, value in zip(counts, middle, strict=True)
            ]
    axis.set(xlabel="layers", ylabel="|f(z) - z| / |f(z)|", yscale="log")
    axis.grid(alpha=0.4)
    axis.legend(fontsize=7)
    return _drawing(figure, rows, runs, ["Medians over all sequences of all seeds."])


def exactness(runs: Sequence[FinishedRun]) -> Drawing:
    """Loss against tolerance, and against the limit of evaluations."""
    groups = {name: each for name, each in _by_variant(runs).items() if not name.startswith("unrolled")}
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.8), sharey=True, layout="constrained")
    rows = []
    for axis, kind, label in (
        (axes[0], "tolerance", "tolerance, relative residual"),
        (axes[1], "limit", "evaluations of f at most"),
    ):
        for colour, (variant, members) in zip(PALETTE, groups.items(), strict=False):
            values = members[0].arrays[kind]
            losses = np.concatenate([run.arrays[f"{kind}_loss"] for run in members])
            for each in losses:
                axis.plot(values, each, color=colour, linewidth=0.7, alpha=0.5)
            middle = np.median(losses, 0)
            axis.plot(values, middle, "o-", color=colour, label=_length(variant))
            rows += [
                {"kind": kind, "variant": variant, "value": value, "loss": loss}
                for value, loss in zip(values, middle, strict=True)
            ]
        axis.set(xlabel=label, xscale="log", yscale="log")
    axes[0].set_ylabel("test loss, nats")
    axes[0].legend(fontsize=8)
    return _drawing(figure, rows, runs, ["Thick: medians over seeds; thin: each seed."])


def memory(runs: Sequence[FinishedRun]) -> Drawing:
    """Bytes and seconds of weight-tied stacks against their depth, and of the DEQ."""
    groups = _by_variant(runs)
    figure, axes = plt.subplots(len(groups), 2, figsize=(9.0, 3.4 * len(groups)), layout="constrained", squeeze=False)
    rows: list[dict[str, Any]] = []
    for line, (variant, members) in zip(axes, groups.items(), strict=True):
        metrics, arrays = members[0].metrics, members[0].arrays
        depths = sorted(int(name.rsplit("_", 1)[1]) for name in metrics if name.startswith("bytes_layers_"))
        counts = sorted(int(name.rsplit("_", 1)[1]) for name in metrics if name.startswith("bytes_deq_"))
        kept = {count: metrics[f"bytes_deq_{count}"][0] / 1e6 for count in counts}
        held = {count: kept[count] + metrics[f"bytes_solver_{count}"][0] / 1e6 for count in counts}
        left, right = line
        left.plot(
            depths,
            [metrics[f"bytes_layers_{d}"][0] / 1e6 for d in depths],
            "o-",
            color=PALETTE[0],
            label="weight-tied stack",
        )
        left.axhline(max(kept.values()), color=PALETTE[1], label="DEQ, any number of evaluations")
        left.axhline(
            max(held.values()), color=PALETTE[1], linestyle="--", label=f"with a solver of {max(counts)} evaluations"
        )
        right.plot(depths, [arrays[f"seconds_layers_{d}"][0] for d in depths], "o-", color=PALETTE[0])
        for count in counts:
            seconds = arrays[f"seconds_deq_{count}"][0]
            right.axhline(seconds, color=PALETTE[1], linewidth=1)
            right.annotate(f"DEQ, {count} evaluations each way", (depths[0], seconds), fontsize=7, va="bottom")
            rows.append(
                {"cell": variant, "evaluations": count, "MB": kept[count], "with_solver": held[count], "s": seconds}
            )
        for depth in depths:
            seconds = arrays[f"seconds_layers_{depth}"][0]
            rows.append(
                {"cell": variant, "layers": depth, "MB": metrics[f"bytes_layers_{depth}"][0] / 1e6, "s": seconds}
            )
        for axis in line:
            axis.set(xlabel="layers", xscale="log", yscale="log", title=variant)
            axis.set_xticks(depths, [str(depth) for depth in depths])
            axis.xaxis.minorticks_off()
        left.set_ylabel("for the backward pass, MB")
        right.set_ylabel("forward and backward, s")
        left.legend(fontsize=8)
    return _drawing(figure, rows, runs, ["Seconds are of the machine that made the run, one batch."])


def language(runs: Sequence[FinishedRun]) -> Drawing:
    """Perplexity beside memory of each model, as bars."""
    order = ["transformer_deq", "transformer_tied", "transformer_untied", "trellis_deq", "trellis_tied"]
    groups = _by_variant(runs)
    found = {name: groups[name] for name in order if name in groups}
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", sharey=True)
    rows: list[dict[str, Any]] = []
    for place, (name, members) in enumerate(found.items()):
        words = [value for run in members for value in run.metrics["test_perplexity"]]
        kept = members[0].metrics["bytes"][0] / 1e6
        millions = members[0].metrics["parameters"][0] / 1e6
        axes[0].barh(place, np.mean(words), color=PALETTE[0])
        axes[0].plot(words, [place] * len(words), "o", color="0.1", markersize=3)
        axes[1].barh(place, kept, color=PALETTE[1])
        for axis, value, text in ((axes[0], np.mean(words), f"{np.mean(words):.0f}"), (axes[1], kept, f"{kept:.0f}")):
            axis.annotate(text, (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        rows.append({"model": name, "perplexity": np.mean(words), "MB": kept, "million parameters": millions})
    labels = [f"{row['model'].replace('_', ' ')}, {row['million parameters']:.2f} M" for row in rows]
    axes[0].set_yticks(range(len(rows)), labels, fontsize=8)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="test perplexity")
    axes[1].set(xlabel="kept for the backward pass, MB")
    return _drawing(figure, rows, runs, ["Dots: seeds. Parameters with those of the words."])


def images(runs: Sequence[FinishedRun]) -> Drawing:
    """Test accuracy of each network, and the accuracy of batches while it trained."""
    titles = {"mdeq": "MDEQ", "mdeq_tied": "weight-tied stack", "single": "one resolution", "mdeq_large": "MDEQ, large"}
    groups = _by_variant(runs)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(name for name in titles if name in groups):
        members, colour = groups[name], PALETTE[place]
        found = [value for run in members for value in run.metrics["test_accuracy"]]
        left.bar(place, np.mean(found), color=colour, width=0.6)
        left.plot([place] * len(found), found, "o", color="0.1", markersize=3)
        left.annotate(f"{np.mean(found):.1f}", (place, np.mean(found)), ha="center", va="bottom", fontsize=8)
        for claim in load("deq"):
            if claim.kind == "value" and claim.published is not None and claim.ours.variant == name:
                left.plot(place, claim.published.value, **PUBLISHED)
                rows.append({"model": f"{titles[name]}, {claim.id}", "accuracy": claim.published.value})
        rows += [{"model": titles[name], "accuracy": value} for value in found]
        for run in members:
            history = run.history()
            middle = pd.Series([line["accuracy"] for line in history]).rolling(5, min_periods=1).mean()
            right.plot([line["step"] for line in history], middle, color=colour, linewidth=1.2, label=titles[name])
    left.set_xticks(range(len(groups)), [titles[name] for name in titles if name in groups], fontsize=8)
    left.set(ylabel="test accuracy, %", ylim=(0, 100))
    right.set(xlabel="steps", ylabel="accuracy while training, %")
    right.legend(fontsize=8)
    notes = ["Open diamonds: published, and as others report it. Dots: seeds. Right: means of 100 steps."]
    return _drawing(figure, rows, runs, notes)


def surface(runs: Sequence[FinishedRun]) -> Drawing:
    """f(z; x) and its equilibria; below, plain iteration for one x, from the first seed of each variant."""
    groups = {name: members for name, members in _by_variant(runs).items() if name in ("none", "two", "four")}
    order = [name for name in ("none", "two", "four") if name in groups]
    titles = {"none": "no penalty", "two": "gamma = 2", "four": "gamma = 4"}
    figure = plt.figure(figsize=(4.0 * len(order), 7.4), layout="constrained")
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(order):
        arrays = groups[name][0].arrays
        x, z, height, line = (arrays[key][0] for key in ("x", "z", "surface", "equilibria"))
        above: Any = figure.add_subplot(2, len(order), place + 1, projection="3d")
        above.plot_surface(*np.meshgrid(x, z, indexing="ij"), height, cmap="viridis", alpha=0.7, linewidth=0)
        above.plot(x, line, line, color="red", linewidth=2)
        above.set(xlabel="x", ylabel="z", zlabel="f(z; x)", title=titles[name])
        axis = figure.add_subplot(2, len(order), len(order) + place + 1)
        row = int(np.abs(x - REACH / 2).argmin())
        axis.plot(z, height[row], color=PALETTE[0], label=f"f(z; x = {x[row]:.1f})")
        axis.plot(z, z, color="0.5", linewidth=1, label="z")
        path = _cobweb(z, height[row])
        axis.plot(*path, color=PALETTE[1], linewidth=1, label="plain iteration from 0")
        axis.plot(line[row], line[row], "o", color="red", markersize=5)
        truth = float(curve(x[row]))
        axis.axvline(truth, color="0.7", linestyle=":", linewidth=1, label="the curve")
        axis.set(xlabel="z", ylabel="f(z; x)", xlim=(z[0], z[-1]), ylim=(z[0], z[-1]))
        axis.legend(fontsize=7)
        rows += [
            {"variant": name, "x": a, "equilibrium": b, "curve": float(curve(a))} for a, b in zip(x, line, strict=True)
        ]
    return _drawing(figure, rows, runs, ["The first seed; not chosen."])


def _cobweb(z: np.ndarray, values: np.ndarray, steps: int = 12) -> tuple[list[float], list[float]]:
    """Of plain iteration on a tabulated function, from 0."""
    point, across, up = 0.0, [0.0], [0.0]
    for _ in range(steps):
        image = float(np.interp(point, z, values))
        across += [point, image]
        up += [image, image]
        point = image
    return across, up


def _by_variant(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    groups: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.seeds):
        groups[run.identity.variant].append(run)
    return dict(sorted(groups.items(), key=lambda item: (len(item[0]), item[0])))


def _length(variant: str) -> str:
    model, length = variant.rsplit("_", 1)
    return f"T = {length}" if model == "deq" else f"T = {length}, {MODELS[model].rsplit(', ')[1]}"


def _drawing(figure: Any, rows: list[dict[str, Any]], runs: Sequence[FinishedRun], notes: list[str]) -> Drawing:
    return Drawing(figure, pd.DataFrame(rows), [str(run.identity) for run in runs], notes)
