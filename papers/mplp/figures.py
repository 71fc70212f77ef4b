"""The notebooks' figures: losses and predictions step by step, five learners of MNIST; and what lies beyond."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, panel_row, published_values, table_rows
from common.report.theme import PALETTE, PUBLISHED, Drawing
from common.room import spec
from papers.mplp.tasks import GRID

__all__ = ["horizon", "initial_network", "losses", "meta_training", "mnist", "own", "predictions", "transfer"]

BAND = "Thick lines: means over all lifetimes; thin lines: each seed; bands: 16 % to 84 % of the lifetimes."
DIAMONDS = "Open diamonds: reference."


def losses(runs: Runs, claims: Claims) -> Drawing:
    """Loss of a new sinusoid against steps, released protocol and Adam."""
    panels = {"released/sinusoid": ("MPLP, released parameters", 0.05), "baseline/sinusoid_adam": ("Adam", 0.05)}
    return _losses(runs, claims, panels)


def initial_network(runs: Runs, claims: Claims) -> Drawing:
    """Loss of a new sinusoid from a meta-learned initial network, two steps: released protocol and MAML."""
    panels = {
        "released/maml": ("MPLP, released parameters", 0.08),
        "maml/maml": ("MAML", 0.04),
        "released/maml_random": ("MPLP from random networks", 0.8),
    }
    return _losses(runs, claims, panels)


def own(runs: Runs, claims: Claims) -> Drawing:
    """Protocols meta-trained here."""
    panels = {
        "evaluate/sinusoid": ("agents with states", 0.06),
        "evaluate/random": ("random networks, stateless agents", 0.06),
        "evaluate/maml": ("learned network, messages as drawn", 0.08),
        "evaluate/maml_messages": ("learned network, messages trained", 0.08),
        "baseline/own_adam": ("Adam, the same random networks", 0.06),
    }
    return _losses(runs, claims, panels)


def _losses(runs: Runs, claims: Claims, panels: Mapping[str, tuple[str, float]]) -> Drawing:
    treatments = by_variant(runs, panels, with_experiment=True)
    figure, axes = panel_row(len(treatments), (3.6, 3.3))
    rows: list[dict[str, Any]] = []
    for axis, (name, treatment) in zip(axes, treatments.items(), strict=True):
        title, top = panels[name]
        for colour, array, label, first in zip(
            PALETTE, ("seen", "loss"), ("train loss", "eval loss"), (1, 0), strict=False
        ):
            marks = {"learner": title, "measure": label}
            rows += _band(axis, treatment.array(array), first, colour, marks, label)
        rows += _references(axis, treatment, claims, {"learner": title, "measure": "reference"})
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="num steps", ylabel="L2 loss", ylim=(0, top))
        axis.set_xticks(range(treatment.array("loss").shape[-1]))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    diamonds = [DIAMONDS] if any(row["measure"] == "reference" for row in rows) else []
    return drawing(figure, rows, treatments.values(), BAND, *diamonds, _count(treatments))


def predictions(runs: Runs, claims: Claims) -> Drawing:
    """One new sinusoid as the network sees it after each step."""
    panels = {
        "released/sinusoid": "MPLP",
        "baseline/sinusoid_adam": "Adam",
        "released/maml": "MPLP from the learned network",
        "maml/maml": "MAML",
    }
    treatments = by_variant(runs, panels, with_experiment=True)
    figure, axes = panel_row(len(treatments), (3.0, 3.2), sharey=True)
    rows = []
    shown = {panels[name]: treatment.array("shown")[0] for name, treatment in treatments.items()}
    most = max(len(curves) for curves in shown.values()) - 2
    for axis, (title, curves) in zip(axes, shown.items(), strict=True):
        for step, curve in [*enumerate(curves[:-1]), ("target", curves[-1])]:
            rows += table_rows(learner=title, step=step, x=np.ravel(GRID), y=curve)
        for step, curve in enumerate(curves[:-1]):
            shade = plt.get_cmap("viridis_r")(0.1 + 0.85 * step / most)
            axis.plot(GRID, curve, color=shade, linewidth=1.4, label=f"{step}-step predictions")
        axis.plot(GRID, curves[-1], color="0.1", linestyle="--", linewidth=1.2, label="target")
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="x")
    axes[0].set_ylabel("y")
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda pair: len(pair[0]))
    figure.legend(handles, labels, loc="outside upper center", ncols=7, fontsize=7)
    note = "First lifetime of the first seed; not chosen. The same task in all panels."
    return drawing(figure, rows, treatments.values(), note)


def mnist(runs: Runs, claims: Claims) -> Drawing:
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
    return _accuracies(runs, claims, lines)


def horizon(runs: Runs, claims: Claims) -> Drawing:
    """What the released protocols do beyond the steps that they were trained for."""
    order = ("released/sinusoid_longer", "released/mnist_longer", "evaluate/random_longer")
    treatments = by_variant(runs, order, with_experiment=True)
    cured = by_variant(runs, ["evaluate/random_horizon"], with_experiment=True)
    figure, axes = panel_row(len(treatments), (4.2, 3.4))
    rows: list[dict[str, Any]] = []
    for axis, (name, treatment) in zip(axes, treatments.items(), strict=True):
        sinusoid, meta_trained = treatment.has("loss"), name.startswith("evaluate")
        title = f"sinusoids{', meta-trained here' if meta_trained else ''}: loss" if sinusoid else "MNIST: accuracy"
        label = "lifetimes of 5 steps" if meta_trained and cured else None
        rows += _band(axis, _measured(treatment), 0, PALETTE[0], {"learner": name, "measure": title}, label)
        for cured_name, cured_treatment in (cured if meta_trained else {}).items():
            marks = {"learner": cured_name, "measure": title}
            rows += _band(axis, _measured(cured_treatment), 0, PALETTE[1], marks, "lifetimes of 5 to 10 steps")
            figure.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8)
        axis.set(
            xlabel="num steps", yscale="log" if meta_trained else "linear", ylim=(1e-3 if meta_trained else 0, None)
        )
        trained = 5 if sinusoid else 20
        axis.axvline(trained, color="0.4", linestyle=":", linewidth=1)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.text(trained, axis.get_ylim()[1], " as trained", fontsize=8, color="0.4", va="bottom", ha="center")
        axis.set_title(title, fontsize=10, pad=14)
        if not sinusoid:
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    treatments |= cured
    return drawing(figure, rows, treatments.values(), BAND, _count(treatments))


def transfer(runs: Runs, claims: Claims) -> Drawing:
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
    return _accuracies(runs, claims, lines)


def _accuracies(runs: Runs, claims: Claims, lines: Mapping[str, tuple[str, Any, str]]) -> Drawing:
    treatments = by_variant(runs, lines, with_experiment=True)
    figure, axis = plt.subplots(figsize=(7.6, 4.0), layout="constrained")
    rows: list[dict[str, Any]] = []
    for name, treatment in treatments.items():
        title, colour, line = lines[name]
        untuned, tuned = treatments.get(name.removesuffix("_tuned")), treatments.get(f"{name}_tuned")
        if untuned and untuned is not treatment and _same(untuned, treatment):
            continue
        title += " (tuned: the same rate)" if tuned and _same(treatment, tuned) else ""
        spread = 0.12 if line == "-" else 0.0
        rows += _band(axis, _measured(treatment), 0, colour, {"learner": title}, title, spread, line)
        rows += _references(axis, treatment, claims, {"learner": f"{title}, reference"}, colour)
    axis.set(xlabel="Number of steps", ylabel="Accuracy", ylim=(0, None))
    axis.set_xticks(range(0, 21, 4))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.axhline(0.1, color="0.8", linewidth=0.8, zorder=0)
    figure.legend(loc="outside right upper", fontsize=8)
    notes = (BAND, DIAMONDS, _count(treatments), "Horizontal line: chance.")
    return drawing(figure, rows, treatments.values(), *notes)


def meta_training(runs: Runs, claims: Claims) -> Drawing:
    """Meta-loss against meta-steps, every seed a line."""
    treatments = by_variant(runs, sorted({run.identity.variant for run in runs}))
    titles = spec.load("mplp").experiments["meta_train"].variants
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    rows: list[dict[str, Any]] = []
    for colour, (variant, treatment) in zip(PALETTE, treatments.items(), strict=False):
        for seed, course in treatment.histories():
            width = max(1, len(course) // 100)
            smooth = np.convolve(course["loss"], np.ones(width) / width, "valid")
            steps = course["step"][width - 1 :]
            label = titles[variant].title if seed == treatment.seeds[0] else None
            axis.plot(steps, smooth, color=colour, linewidth=1, label=label)
            rows += table_rows(variant=variant, seed=seed, meta_step=steps[::width], loss=smooth[::width])
    axis.set(xlabel="meta-steps", ylabel="meta-loss", yscale="log")
    figure.legend(loc="outside upper center", ncols=2, fontsize=7)
    note = "Means over a hundredth of the meta-training; one line a seed."
    return drawing(figure, rows, treatments.values(), note)


# --- parts ---------------------------------------------------------------------------------------------------


def _measured(treatment: Treatment) -> np.ndarray:
    """Loss or accuracy after each step: (seeds, lifetimes, steps)."""
    return treatment.array("loss" if treatment.has("loss") else "accuracy")


def _same(one: Treatment, other: Treatment) -> bool:
    """Whether two treatments measured the same, as Adam tuned to the rate that it had."""
    return np.array_equal(_measured(one), _measured(other))


def _band(
    axis: Axes, values: np.ndarray, first: int, colour: Any, labels: Mapping[str, str], label: str | None,
    band: float = 0.25, line: str = "-",
) -> list[dict[str, Any]]:  # fmt: skip
    """Mean over lifetimes, each seed's mean, and a band of the middle lifetimes; the rows of the table.

    Arguments:
        values: A measure of each seed and lifetime after each step: (seeds, lifetimes, steps).
        first: The step of the first value.
    """
    steps = np.arange(values.shape[-1]) + first
    mean, (low, high) = values.mean((0, 1)), np.quantile(values, (0.16, 0.84), axis=(0, 1))
    axis.plot(steps, values.mean(1).T, line, color=colour, linewidth=0.5, alpha=0.6)
    axis.plot(steps, mean, line, color=colour, linewidth=1.6, label=label)
    axis.fill_between(steps, low, high, color=colour, alpha=band, linewidth=0)
    return table_rows(**labels, step=steps, mean=mean, quantile_16=low, quantile_84=high)


def _references(
    axis: Axes, treatment: Treatment, claims: Claims, labels: Mapping[str, str], colour: Any = "0.15"
) -> list[dict[str, Any]]:
    """What others measured of a treatment, as open diamonds."""
    rows = []
    for claim, value in published_values(claims, treatment.runs):
        if claim.ours.variant == treatment.variant:
            step = int(claim.ours.metric.rpartition("_")[2])
            axis.plot(step, value, **{**PUBLISHED, "color": colour, "zorder": 5})
            rows.append({**labels, "step": step, "mean": value})
    return rows


def _count(treatments: Mapping[str, Treatment]) -> str:
    counts = [f"{name} {_measured(treatment)[..., 0].size}" for name, treatment in treatments.items()]
    return f"Lifetimes: {', '.join(counts)}."
