"""Accuracy by layer and probe, rule against gradient, losses, ablations, preferred patches, encodings, sparsity."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, panel_row, published_values, table_rows
from common.report.theme import PALETTE, PUBLISHED, Drawing

__all__ = [
    "ablations", "components", "equality", "layers", "losses", "probe_steps", "receptive_fields", "sequences",
    "sparsity",
]  # fmt: skip

TITLES = {
    "clapp": "CLAPP", "clapp_s": "CLAPP-s", "hinge_cpc": "Hinge Loss CPC", "random": "random", "gim": "Greedy InfoMax",
    "cpc": "CPC", "supervised": "supervised", "greedy_supervised": "supervised layer by layer",
    "clapp_one_y": "CLAPP, one y", "clapp_no_bias": "CLAPP without biases", "clapp_300": "CLAPP, 300 epochs",
    "clapp_s_two": "CLAPP-s, two modules",
}  # fmt: skip
MAIN = ("clapp", "clapp_s", "hinge_cpc", "random")
ABLATED = {
    "full": "CLAPP-s", "unsigned": "gamma = H", "no_gamma": "gamma = 1", "no_prediction": "without prediction",
    "frozen": "initial W_pred", "offset_1": "K = 1", "offset_2": "K = 2",
}  # fmt: skip
COLOURS = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(TITLES)}
PROBES = {"raw": "raw features, Adam (official)", "converged": "standardised features, converged"}
CHANCE = 10
SHOWN_LAYERS = (1, 3, 6)
"""Layers of the paper's pictures of patches and encodings."""
SEEDS = "Lines: means over seeds; bands: 95 % intervals, where there are three seeds."


def _probed(treatment: Treatment) -> list[int]:
    return [int(layer) for layer in treatment.config["probed"]]


def _depth_line(axis: Axes, treatment: Treatment, metric: str, label: str, **style: Any) -> list[dict[str, Any]]:
    """Accuracy against the layer, with its band; returns the rows of the table."""
    probed = _probed(treatment)
    means, lows, highs = np.array([treatment.mean_with_interval(f"{metric}_{layer}") for layer in probed]).T
    axis.plot(probed, means, marker="o", markersize=4, label=label, **style)
    axis.fill_between(probed, lows, highs, color=style.get("color"), alpha=0.15, linewidth=0)
    axis.set_xticks(probed)
    return table_rows(method=label, metric=metric, layer=probed, accuracy=means, low=lows, high=highs)


def layers(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy of linear probes against the layer, by method and probe; and at layer 6 beside what was published."""
    order = [f"{experiment}/{variant}" for experiment in ("vision", "views", "methods") for variant in TITLES]
    treatments = by_variant(runs, order, with_experiment=True)
    figure, axes = panel_row(3, (4.4, 4.2))
    rows: list[dict[str, Any]] = []
    for axis, (metric, title) in zip(axes, PROBES.items(), strict=False):
        for name, treatment in treatments.items():
            experiment, _, variant = name.partition("/")
            style = {"color": COLOURS[variant], "linestyle": "--" if experiment == "methods" else "-"}
            rows += _depth_line(axis, treatment, metric, TITLES[variant], **style)
        axis.axhline(CHANCE, color="0.7", linewidth=1, linestyle=":")
        axis.set(xlabel="layer", ylabel="test accuracy, %", title=title)
    places = {name: place for place, name in enumerate(treatments)}
    for name, treatment in treatments.items():
        last = f"raw_{_probed(treatment)[-1]}"
        seeds = treatment.metric(last)
        axes[2].plot([places[name]] * len(seeds), seeds, "o", markersize=4, color=COLOURS[name.partition("/")[2]])
    for claim, accuracy in published_values(claims, runs):
        name = f"{claim.ours.experiment}/{claim.ours.variant}"
        if name in places:
            axes[2].plot(places[name], accuracy, **PUBLISHED)
            rows.append({"method": f"published, {TITLES[claim.ours.variant]}", "layer": 6, "accuracy": accuracy})
    names = [TITLES[name.partition("/")[2]] for name in places]
    axes[2].set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes[2].set(ylabel="test accuracy, %", ylim=(0, 100), title="last layer, raw features")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=8)
    notes = [SEEDS, "Open diamonds: published, of STL-10."]
    if any(name.startswith("methods") for name in treatments):
        notes.append("Dashed: experiment methods, of its own length of training.")
    return drawing(figure, rows, treatments.values(), *notes)


def probe_steps(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy of the raw-feature probe against its steps, a line a layer; and root mean square of the features."""
    treatments = by_variant(runs, MAIN)
    figure, axes = panel_row(len(treatments) + 1, (3.1, 3.6))
    rows: list[dict[str, Any]] = []
    shades = plt.get_cmap("viridis")
    for axis, (name, treatment) in zip(axes, treatments.items(), strict=False):
        steps, course = treatment.array("course_steps")[0], treatment.array("course").mean(0)
        probed = _probed(treatment)
        for place, layer in enumerate(probed):
            axis.plot(steps, course[:, place], color=shades(place / len(probed)), label=f"layer {layer}")
            rows += table_rows(method=TITLES[name], layer=layer, steps=steps, accuracy=course[:, place])
        axis.axhline(CHANCE, color="0.7", linewidth=1, linestyle=":")
        axis.set(xscale="log", xlabel="steps of the probe", title=TITLES[name])
        axes[-1].plot(probed, [treatment.metric(f"scale_{layer}").mean() for layer in probed], "o-", markersize=4,
                      color=COLOURS[name], label=TITLES[name])  # fmt: skip
    top = max(axis.get_ylim()[1] for axis in axes[:-1])
    for axis in axes[:-1]:
        axis.set_ylim(5, top)
    axes[0].set_ylabel("test accuracy, %")
    axes[0].legend(fontsize=7)
    axes[-1].set(yscale="log", xlabel="layer", title="root mean square of features")
    axes[-1].legend(fontsize=7)
    return drawing(figure, rows, treatments.values(), "Means over seeds.")


def equality(runs: Runs, claims: Claims) -> Drawing:
    """Relative difference of rule and gradient against steps, a line a layer, the greatest of all seeds."""
    treatments = by_variant(runs, MAIN)
    figure, axes = panel_row(len(treatments), (4.6, 3.4), sharey=True)
    rows: list[dict[str, Any]] = []
    shades = plt.get_cmap("viridis")
    for axis, (name, treatment) in zip(axes, treatments.items(), strict=True):
        steps, found = treatment.array("steps")[0], treatment.array("differences").max(0)
        for place in range(found.shape[1]):
            shown = np.maximum(found[:, place], 1e-18)
            axis.plot(steps, shown, color=shades(place / found.shape[1]), label=f"layer {place + 1}")
            rows += table_rows(method=TITLES[name], layer=place + 1, steps=steps, difference=found[:, place])
        axis.axhline(np.finfo(np.float64).eps, color="0.6", linestyle=":", linewidth=1)
        axis.axhline(1e-10, color="0.3", linestyle="--", linewidth=1)
        axis.set(yscale="log", ylim=(1e-18, 1e-8), xlabel="steps of training", title=TITLES[name])
    axes[0].set_ylabel("|rule - gradient| / (|rule| + |gradient|)")
    axes[0].legend(fontsize=7, ncols=2)
    note = "Greatest of all seeds. Dashed: what is allowed; dotted: the rounding of one operation."
    return drawing(figure, rows, treatments.values(), note)


def losses(runs: Runs, claims: Claims) -> Drawing:
    """Loss of each module against steps, a head's: with two heads the sum is halved."""
    treatments = {name: treatment for name, treatment in by_variant(runs, MAIN).items() if name != "random"}
    figure, axes = panel_row(len(treatments), (3.6, 3.2), sharey=True)
    rows: list[dict[str, Any]] = []
    shades = plt.get_cmap("viridis")
    for axis, (name, treatment) in zip(axes, treatments.items(), strict=True):
        heads = 2 if treatment.config["heads"] == "separate" else 1
        modules = treatment.config["modules"]
        for seed, course in treatment.histories():
            for place in range(len(modules)):
                values = course[f"loss_{place + 1}"].rolling(5, min_periods=1).mean() / heads
                layer = sum(modules[: place + 1])
                label = f"layer {layer}" if seed == treatment.seeds[0] else None
                axis.plot(
                    course["step"], values, "." if len(values) < 3 else "-", color=shades((layer - 1) / 6), label=label
                )
                rows += table_rows(method=TITLES[name], seed=seed, layer=layer, step=course["step"], loss=values)
        axis.set(xlabel="steps of training", title=TITLES[name])
    axes[0].set_ylabel("hinge loss a head")
    axes[0].legend(fontsize=7)
    return drawing(figure, rows, treatments.values(), "Each seed a line; means of five lines of the metrics stream.")


def ablations(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy against the layer without one of the rule's factors."""
    treatments = by_variant(runs, ABLATED)
    figure, axes = panel_row(2, (4.8, 3.8))
    rows: list[dict[str, Any]] = []
    for axis, (metric, title) in zip(axes, PROBES.items(), strict=True):
        for colour, (name, treatment) in zip(PALETTE, treatments.items(), strict=False):
            rows += _depth_line(axis, treatment, metric, ABLATED[name], color=colour)
        axis.set(xlabel="layer", ylabel="test accuracy, %", title=title)
    axes[0].legend(fontsize=7)
    return drawing(figure, rows, treatments.values(), SEEDS)


def receptive_fields(runs: Runs, claims: Claims) -> Drawing:
    """Test patches that excite some neurons most: methods in rows, layers in columns; the first seed."""
    treatments = by_variant(runs, MAIN)
    shown = _shown(treatments, "patches")
    figure, axes = plt.subplots(len(treatments), len(shown), squeeze=False, layout="constrained",
                                figsize=(2.8 * len(shown), 2.3 * len(treatments)))  # fmt: skip
    rows: list[dict[str, Any]] = []
    for line, (name, treatment) in zip(axes, treatments.items(), strict=True):
        arrays = treatment.runs[0].arrays
        for axis, layer in zip(line, shown, strict=True):
            patches = arrays[f"patches_{layer}"][0]  # (neurons, best, h, w)
            axis.set_axis_off()
            axis.set_title(f"{TITLES[name]}, layer {layer}", fontsize=8)
            rows += table_rows(method=TITLES[name], layer=layer, neuron=range(len(patches)))
            if len(patches):
                axis.imshow(_mosaic(patches), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return drawing(figure, rows, treatments.values(), "First seed; neurons drawn at random, not chosen.")


def _shown(treatments: Mapping[str, Treatment], kind: str) -> list[int]:
    """The layers of the paper's pictures that all networks have."""
    return [layer for layer in SHOWN_LAYERS if all(each.has(f"{kind}_{layer}") for each in treatments.values())]


def _mosaic(patches: np.ndarray) -> np.ndarray:
    """Patches (neurons, best, h, w) as one picture with white lines between."""
    framed = np.pad(patches, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=255)
    neurons, best, height, width = framed.shape
    return framed.transpose(0, 2, 1, 3).reshape(neurons * height, best * width)


def components(runs: Runs, claims: Claims) -> Drawing:
    """Two principal components of encodings of test images, by layer and method; the first seed."""
    treatments = by_variant(runs, MAIN)
    shown = _shown(treatments, "components")
    figure, axes = plt.subplots(len(treatments), len(shown), squeeze=False, layout="constrained",
                                figsize=(2.8 * len(shown), 2.6 * len(treatments)))  # fmt: skip
    rows: list[dict[str, Any]] = []
    for line, (name, treatment) in zip(axes, treatments.items(), strict=True):
        arrays = treatment.runs[0].arrays
        labels = arrays["labels"][0]
        for axis, layer in zip(line, shown, strict=True):
            points = arrays[f"components_{layer}"][0]
            axis.scatter(*points.T, c=labels, cmap="tab10", s=3, linewidths=0, alpha=0.7)
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{TITLES[name]}, layer {layer}", fontsize=8)
            rows += table_rows(method=TITLES[name], layer=layer, label=labels, first=points[:, 0], second=points[:, 1])
    return drawing(figure, rows, treatments.values(), "First seed.")


def sparsity(runs: Runs, claims: Claims) -> Drawing:
    """Share of active positions, sparseness, and share of neurons that are always silent, against the layer."""
    treatments = by_variant(runs, MAIN)
    shown = {"active": "share of active positions", "sparseness": "sparseness over neurons",
             "silent": "share of neurons that are silent"}  # fmt: skip
    figure, axes = panel_row(len(shown), (3.6, 3.2))
    rows: list[dict[str, Any]] = []
    for axis, (metric, title) in zip(axes, shown.items(), strict=True):
        for name, treatment in treatments.items():
            depth = sum(key.startswith("active_") for key in treatment.runs[0].metrics)
            numbers = range(1, depth + 1)
            means = [treatment.metric(f"{metric}_{layer}").mean() for layer in numbers]
            axis.plot(numbers, means, "o-", markersize=4, color=COLOURS[name], label=TITLES[name])
            rows += table_rows(method=TITLES[name], measure=title, layer=list(numbers), value=means)
        axis.set(xlabel="layer", title=title, ylim=(0, 1))
    axes[0].legend(fontsize=7)
    return drawing(figure, rows, treatments.values(), "Means over seeds.")


def sequences(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy against the layer for spoken digits, their speakers, and moving digits."""
    treatments = by_variant(runs, [f"{name}/{key}" for name in ("speech", "motion") for key in MAIN],
                            with_experiment=True)  # fmt: skip
    panels = {
        "spoken digits": ("speech", "raw"),
        "speakers": ("speech", "speaker_raw"),
        "moving digits": ("motion", "raw"),
    }
    panels = {title: place for title, place in panels.items() if any(key.startswith(place[0]) for key in treatments)}
    figure, axes = panel_row(len(panels), (3.8, 3.4))
    rows: list[dict[str, Any]] = []
    for axis, (title, (experiment, metric)) in zip(axes, panels.items(), strict=True):
        for name, treatment in _of(treatments, experiment).items():
            for row in _depth_line(axis, treatment, metric, TITLES[name], color=COLOURS[name]):
                rows.append({"panel": title, **row})
        axis.set(xlabel="layer", ylabel="test accuracy, %", title=title)
    axes[0].legend(fontsize=7)
    return drawing(figure, rows, treatments.values(), SEEDS)


def _of(treatments: Mapping[str, Treatment], experiment: str) -> dict[str, Treatment]:
    return {key.partition("/")[2]: value for key, value in treatments.items() if key.startswith(f"{experiment}/")}
