"""Figures of BYOL: the family, decay, batch, augmentations, predictor's rate, heads, collapse, labels, size."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, seed_count, table_rows
from common.report.theme import PALETTE, PUBLISHED, Drawing

__all__ = ["augment", "batch", "collapse", "decay", "family", "heads", "predictor_rate", "semi", "size"]

ROWS = {
    "byol": "BYOL", "target_beta1": "predictor, target, β = 1", "target_no_predictor_beta1": "target, β = 1",
    "simclr": "SimCLR", "predictor_beta1": "predictor, β = 1", "stopped_beta1": "predictor, stop, β = 1",
    "stopped_no_predictor_beta1": "stop, β = 1", "stopped": "predictor, stop", "predictor_online": "predictor",
    "target_alone": "target", "stopped_alone": "stop", "neither": "neither", "random": "random encoder",
}  # fmt: skip
"""Variants of the family in the order of table 5b, then 19."""
PUBLISHED_ROWS = {
    "byol": "H2-0.99", "target_beta1": "H3-yy1", "target_no_predictor_beta1": "H3-ny1", "simclr": "H3-simclr",
    "predictor_beta1": "H3-yn1", "predictor_online": "H3-yn0", "target_alone": "H3-ny0", "neither": "H3-nn0",
    "stopped_beta1": "sg-p1", "stopped_no_predictor_beta1": "sg-1", "stopped": "sg-p0", "stopped_alone": "sg-0",
}  # fmt: skip
"""The claim that has a variant's published accuracy."""
SETS = {
    "": "baseline",
    "no_grey": "remove\ngreyscale",
    "no_colour": "remove\ncolour",
    "crop_blur": "crop +\nblur only",
    "crop": "crop only",
}
METHODS = {"byol": "BYOL", "simclr": "SimCLR"}
TRACED = ("byol", "simclr", "stopped", "target_alone", "predictor_online", "neither", "stopped_alone")
"""Variants whose training is drawn."""
SEEDS = "Points: seeds. Bars and lines: means over them, with 95 % intervals (Student's t) from three seeds on."
OPEN = "Open diamonds: published, on ImageNet."
PARAMETERS = {
    "H1-top1": (24, "BYOL"), "byol-r50x2-top1": (94, "BYOL (2x)"), "byol-r50x4-top1": (375, "BYOL (4x)"),
    "byol-r200x2-top1": (250, "BYOL (200-2x)"), "b-simclr-top1": (24, "SimCLR"),
    "simclr-r50x2-top1": (94, "SimCLR (2x)"),
    "simclr-r50x4-top1": (375, "SimCLR (4x)"), "b-moco-v2": (24, "MoCov2"), "b-infomin": (24, "InfoMin"),
    "b-cmc": (24, "CMC"), "sup": (24, "Sup."),
}  # fmt: skip
"""Millions of parameters and label of published points (tables 1 and 9)."""


def published(claims: Claims, name: str) -> float | None:
    """The published value of a claim."""
    values = [claim.published.value for claim in claims if claim.id == name and claim.published]
    return values[0] if values else None


def mark(axis: Axes, x: float, treatment: Treatment, metric: str, colour: Any, label: str | None = None) -> float:
    """A mean with its interval, and the seeds; returns the mean."""
    mean, low, high = treatment.mean_with_interval(metric)
    values = treatment.metric(metric)
    axis.errorbar(x, mean, [[mean - low], [high - mean]], fmt="o", color=colour, capsize=2, label=label)
    axis.plot([x] * len(values), values, ".", color=colour, alpha=0.5, markersize=3)
    return mean


def chance(axis: Axes, treatments: Mapping[str, Treatment]) -> None:
    """A dashed line for the random encoder, where it was run."""
    if random := treatments.get("family/random"):
        axis.axhline(random.mean_with_interval("linear")[0], color="0.5", linestyle="--", linewidth=1)


def family(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy and spread of every row of tables 5b and 19."""
    treatments = by_variant(runs, ROWS)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.6), layout="constrained", sharey=True)
    rows: list[dict[str, Any]] = []
    for place, (name, treatment) in enumerate(treatments.items()):
        colour = PALETTE[1] if "beta1" in name or name == "simclr" else PALETTE[7] if name == "random" else PALETTE[0]
        for axis, metric in ((left, "linear"), (right, "spread")):
            mean, low, high = treatment.mean_with_interval(metric)
            axis.barh(place, mean, color=colour, alpha=0.75, height=0.65)
            axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="none", ecolor="0.2", capsize=2)
            axis.plot(treatment.metric(metric), [place] * len(treatment.seeds), ".", color="0.2", markersize=3)
            rows += table_rows(panel=metric, variant=ROWS[name], seed=treatment.seeds, value=treatment.metric(metric))
        if (value := published(claims, PUBLISHED_ROWS.get(name, ""))) is not None:
            left.plot(value, place, **PUBLISHED)
            rows.append({"panel": "published", "variant": ROWS[name], "value": value})
    left.set_yticks(range(len(treatments)), [ROWS[name] for name in treatments])
    left.invert_yaxis()
    left.set(xlabel="linear evaluation, top-1 (%)", xlim=(0, None))
    right.set(xlabel="spread of projections: 1 isotropic, 0 collapsed", xlim=(0, 1.1))
    return drawing(figure, rows, treatments.values(), SEEDS, OPEN)


def decay(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy against the target's decay."""
    treatments = by_variant(runs, with_experiment=True)
    columns = {
        "1": "decay/tau_1", "0.999": "decay/tau_0.999", "0.99": "family/byol", "0.9": "decay/tau_0.9",
        "0": "family/stopped",
    }  # fmt: skip
    return _columns(treatments, columns, claims, "H2-", "τ, the target's decay")


def predictor_rate(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy against the multiple of the predictor's learning rate."""
    treatments = by_variant(runs, with_experiment=True)
    columns = {str(value): f"predictor_rate/rate_{value}" for value in (0, 2, 10, 20)}
    ordered = {"0": columns["0"], "1": "family/stopped", **columns, "BYOL": "family/byol"}
    return _columns(treatments, ordered, claims, "H6-", "λ, multiple of the predictor's learning rate")


def heads(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy against the depths of projector and predictor."""
    treatments = by_variant(runs, with_experiment=True)
    pairs = [(projector, predictor) for projector in (1, 2, 3) for predictor in (1, 2, 3)]
    columns = {f"{p}-{q}": "family/byol" if (p, q) == (2, 2) else f"heads/heads_{p}_{q}" for p, q in pairs}
    return _columns(treatments, columns, claims, "heads-", "layers of projector - predictor")


def _columns(
    treatments: Mapping[str, Treatment], columns: Mapping[str, str], claims: Claims, prefix: str, label: str
) -> Drawing:
    """One column a setting: ours left, published right on an axis of its own height."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained", sharex=True)
    rows: list[dict[str, Any]] = []
    shown = []
    for place, (name, variant) in enumerate(columns.items()):
        if treatment := treatments.get(variant):
            mark(left, place, treatment, "linear", PALETTE[0])
            shown.append(treatment)
            rows += table_rows(setting=name, seed=treatment.seeds, linear=treatment.metric("linear"))
        value = published(claims, "H2-0.99" if variant == "family/byol" else prefix + name)
        if value is not None:
            right.plot(place, value, **PUBLISHED)
            rows.append({"setting": name, "published": value})
    chance(left, treatments)
    left.set_xticks(range(len(columns)), list(columns))
    for axis, title in ((left, "ours"), (right, "published, ImageNet")):
        axis.set(xlabel=label, ylabel="linear evaluation, top-1 (%)", title=title)
    extra = [treatments["family/random"]] if "family/random" in treatments else []
    return drawing(figure, rows, shown + extra, SEEDS, "Dashed: a random encoder.")


def batch(runs: Runs, claims: Claims) -> Drawing:
    """Decrease of accuracy from the whole batch, BYOL and SimCLR; batches fall to the right."""
    treatments = by_variant(runs, with_experiment=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
    rows: list[dict[str, Any]] = []
    shown: list[Treatment] = []
    for colour, (method, title) in zip(PALETTE, METHODS.items(), strict=False):
        line = [
            treatments.get(f"family/{method}"),
            treatments.get(f"batch/{method}_4"),
            treatments.get(f"batch/{method}_16"),
        ]
        drawn = [treatment for treatment in line if treatment]
        sizes = [int(treatment.config["micro"] or treatment.config["batch"]) for treatment in drawn]
        rows += _differences(left, sizes, drawn, colour, title)
        shown += drawn
        values = {int(claim.id.rpartition("-")[2]): claim.published.value for claim in claims
                  if claim.id.startswith(f"H4-{method}-") and claim.published}  # fmt: skip
        if method == "byol" and (base := published(claims, "H2-0.99")) is not None:
            values[4096] = base
        if 4096 in values:
            falls = {size: value - values[4096] for size, value in values.items()}
            ordered = dict(sorted(falls.items(), reverse=True))
            right.plot(list(ordered), list(ordered.values()), "-", color=colour, alpha=0.4)
            right.plot(list(ordered), list(ordered.values()), **{**PUBLISHED, "color": colour}, label=title)
            rows += table_rows(method=title, published_batch=list(ordered), difference=list(ordered.values()))
    for axis, title in ((left, "ours"), (right, "published, ImageNet")):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.invert_xaxis()
        axis.axhline(0, color="0.7", linewidth=0.8)
        axis.set(xlabel="images of a forward pass", ylabel="change from the whole batch (points)", title=title)
        _legend(axis)
    return drawing(figure, rows, shown, SEEDS, f"Differences seed by seed, {seed_count(shown)}." if shown else SEEDS)


def augment(runs: Runs, claims: Claims) -> Drawing:
    """Decrease of accuracy as augmentations are removed, BYOL and SimCLR."""
    treatments = by_variant(runs, with_experiment=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained", sharex=True)
    rows: list[dict[str, Any]] = []
    shown: list[Treatment] = []
    names = {"no_grey": "no-grey", "no_colour": "no-colour", "crop_blur": "crop-and-blur-alone", "crop": "crop-alone"}
    for colour, (method, title) in zip(PALETTE, METHODS.items(), strict=False):
        line = {place: treatments.get(f"augment/{method}_{name}" if name else f"family/{method}")
                for place, name in enumerate(SETS)}  # fmt: skip
        drawn = {place: treatment for place, treatment in line.items() if treatment}
        if 0 in drawn:
            rows += _differences(left, list(drawn), list(drawn.values()), colour, title)
            shown += drawn.values()
        base = published(claims, "H2-0.99" if method == "byol" else "H4-simclr-4096")
        if base is not None:
            values = [base, *(published(claims, f"H5-{method}-{name}") for name in names.values())]
            falls = [np.nan if value is None else value - base for value in values]
            right.plot(range(len(falls)), falls, "-", color=colour, alpha=0.4)
            right.plot(range(len(falls)), falls, **{**PUBLISHED, "color": colour}, label=title)
            rows += table_rows(method=title, published_place=range(len(falls)), difference=falls)
    left.set_xticks(range(len(SETS)), list(SETS.values()), fontsize=7)
    for axis, title in ((left, "ours"), (right, "published, ImageNet")):
        axis.axhline(0, color="0.7", linewidth=0.8)
        axis.tick_params(axis="x", labelsize=7)
        axis.set(ylabel="change from the baseline (points)", title=title)
        _legend(axis)
    return drawing(figure, rows, shown, SEEDS, "Differences seed by seed.")


def _differences(
    axis: Axes, places: Sequence[float], line: Sequence[Treatment], colour: Any, title: str
) -> list[dict[str, Any]]:
    """A line of differences from its first treatment, seed by seed where both have a seed; rows of the table."""
    if not line:
        return []
    rows: list[dict[str, Any]] = []
    base = dict(zip(line[0].seeds, line[0].metric("linear"), strict=True))
    means = []
    for place, treatment in zip(places, line, strict=True):
        values = dict(zip(treatment.seeds, treatment.metric("linear"), strict=True))
        gaps = [values[seed] - base[seed] for seed in values if seed in base]
        axis.plot([place] * len(gaps), gaps, ".", color=colour, alpha=0.6, markersize=4)
        means.append(np.mean(gaps) if gaps else np.nan)
        rows += table_rows(method=title, place=place, difference=gaps)
    axis.plot(places, means, "o-", color=colour, label=title, markersize=4)
    return rows


def collapse(runs: Runs, claims: Claims) -> Drawing:
    """Spread and effective rank of projections, and the norms of projection and representation, over training."""
    treatments = by_variant(runs, TRACED)
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.3), layout="constrained")
    panels = (
        ("spread", "spread of projections"), ("rank", "effective rank of projections"),
        ("projection_norm", "norm of projections"), ("representation_norm", "norm of representations"),
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for colour, (name, treatment) in zip(PALETTE, treatments.items(), strict=False):
        for number, (seed, course) in enumerate(treatment.histories()):
            for axis, (metric, _) in zip(axes, panels, strict=True):
                axis.plot(
                    course["step"], course[metric], color=colour, linewidth=1.1, label="" if number else ROWS[name]
                )
            rows += table_rows(variant=ROWS[name], seed=seed, **course[["step", *(metric for metric, _ in panels)]])
    for axis, (metric, title) in zip(axes, panels, strict=True):
        axis.set(xlabel="updates", title=title, yscale="linear" if metric == "spread" else "log")
    axes[0].set_ylim(0, 1.1)
    labels = axes[0].get_legend_handles_labels()
    if labels[0]:
        figure.legend(*labels, loc="outside lower center", ncols=len(labels[0]))
    return drawing(figure, rows, treatments.values(), "Every seed a line; means over 20 updates.")


def semi(runs: Runs, claims: Claims) -> Drawing:
    """Accuracy after fine-tuning against the share of labels."""
    treatments = by_variant(runs, ("scratch", "byol", "simclr"))
    titles = {"scratch": "Supervised", "byol": "BYOL", "simclr": "SimCLR"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.4), layout="constrained")
    rows: list[dict[str, Any]] = []
    for colour, (name, treatment) in zip(PALETTE, treatments.items(), strict=False):
        shares = sorted(treatment.config["shares"])
        means = [mark(left, 100 * share, treatment, f"accuracy_{share:g}", colour) for share in shares]
        left.plot([100 * share for share in shares], means, color=colour, label=titles[name])
        for share in shares:
            rows += table_rows(
                method=titles[name], labels=share, seed=treatment.seeds, top1=treatment.metric(f"accuracy_{share:g}")
            )
        key = "supervised" if name == "scratch" else name
        values = [published(claims, f"semi-{key}-{label}") for label in (1, 10, 100)]
        points = [(label, value) for label, value in zip((1, 10, 100), values, strict=True) if value is not None]
        if points:
            right.plot(*zip(*points, strict=True), "-", color=colour, alpha=0.4)
            right.plot(*zip(*points, strict=True), **{**PUBLISHED, "color": colour}, label=titles[name])
    for axis, title in ((left, "ours"), (right, "published, ImageNet")):
        axis.set(xscale="log", xlabel="labels (%)", ylabel="top-1 (%)", title=title)
        _legend(axis)
    return drawing(figure, rows, treatments.values(), SEEDS)


def size(runs: Runs, claims: Claims) -> Drawing:
    """Published accuracy against parameters; ours, of smaller networks, beside it."""
    treatments = {name: each for name, each in by_variant(runs, with_experiment=True).items()
                  if name in ("family/byol", "family/simclr") or name.startswith("cifar/")}  # fmt: skip
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.0), layout="constrained", width_ratios=(2, 1))
    rows: list[dict[str, Any]] = []
    for name, (millions, label) in PARAMETERS.items():
        if (value := published(claims, name)) is not None:
            left.plot(millions, value, **PUBLISHED)
            left.annotate(label, (millions, value), xytext=(6, -3), textcoords="offset points", fontsize=7)
            rows.append({"label": label, "parameters": 1e6 * millions, "published": value})
    for colour, (name, treatment) in zip(PALETTE, treatments.items(), strict=False):
        parameters = float(treatment.metric("parameters")[0])
        mark(right, parameters, treatment, "linear", colour, name.rpartition("/")[2])
        rows += table_rows(label=name, parameters=parameters, linear=treatment.metric("linear"))
    left.set(
        xscale="log", xlabel="parameters (millions)", ylabel="ImageNet, linear evaluation, top-1 (%)", xlim=(18, 520)
    )
    left.set_xticks([25, 50, 100, 200, 400], ["25M", "50M", "100M", "200M", "400M"])
    left.minorticks_off()
    right.set(xscale="log", xlabel="parameters", ylabel="CIFAR-10, linear evaluation, top-1 (%)", title="ours")
    _legend(right)
    return drawing(figure, rows, treatments.values(), SEEDS, "Open diamonds: published (tables 1 and 9).")


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)
