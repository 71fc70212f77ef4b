"""Figure 4 and what stands around it: the densities, every seed of them, and the test likelihoods."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, published_values, seed_count, table_rows
from common.report.theme import PALETTE, PUBLISHED, Drawing
from common.train.seeding import numpy_rng
from papers.survae.densities import DENSITIES

__all__ = ["figure4", "likelihoods", "seeds"]

TITLES = {
    "checkerboard": "Checkerboard",
    "corners": "Corners",
    "eight_gaussians": "Eight Gaussians",
    "four_circles": "Four Circles",
}
MODELS = {"flow": "Flow", "absflow": "AbsFlow"}
LIMITS = {"checkerboard": 0.05, "corners": 0.10, "eight_gaussians": 0.15, "four_circles": 0.20}
"""Upper ends of the colour scales (official plotting commands)."""
EXTENT = (-4, 4, -4, 4)
BINS = 256
INTERVAL = {"linewidth": 6, "alpha": 0.3, "solid_capstyle": "butt"}
"""How an interval is drawn: a bar that ends where the interval does."""
MEAN = {"marker": "_", "markersize": 8, "markeredgewidth": 1.5, "linestyle": "none"}
"""How a mean is drawn."""


def figure4(runs: Runs, claims: Claims) -> Drawing:
    """One row a density; data, Flow, AbsFlow. The first seed, as the paper shows one."""
    panels = _panels(runs)
    official = _official(runs, claims)
    figure, axes = plt.subplots(4, 3, figsize=(6.6, 9.6), layout="constrained")
    rows = []
    for row, (name, density) in enumerate(DENSITIES.items()):
        flow = panels[name, "flow"]
        points = density.sample(flow.config["train_size"], numpy_rng(flow.seeds[0], "train"))
        counts, *_ = np.histogram2d(*points.T, bins=BINS, range=[EXTENT[:2], EXTENT[2:]], density=True)
        _show(axes[row, 0], counts, LIMITS[name])
        axes[row, 0].set_ylabel(TITLES[name], fontsize=11)
        for column, model in enumerate(MODELS, start=1):
            treatment = panels[name, model]
            _show(axes[row, column], treatment.array("density")[0], LIMITS[name])
            losses, reference = treatment.metric("test_nll"), official[treatment.variant]
            pictured = f"seed {treatment.seeds[0]}: {losses[0]:.3f} nats; mean: {losses.mean():.3f}"
            axes[row, column].set_xlabel(f"{pictured}\nofficial code: {reference:.3f}", fontsize=8, labelpad=3)
            metrics = {metric: treatment.metric(metric) for metric in treatment.runs[0].metrics}
            rows += table_rows(density=name, model=model, seed=treatment.seeds, **metrics)
        axes[row, 0].set_xlabel(f"entropy {density.entropy:.3f} nats", fontsize=8, labelpad=3)
    for axis, title in zip(axes[0], ("Data", *MODELS.values()), strict=True):
        axis.set_title(title, fontsize=12, pad=6)
    first = next(iter(panels.values()))
    note = (
        f"Below each model its test NLL: of the pictured seed ({first.seeds[0]}), the mean over "
        f"{seed_count(panels.values())}, and one run of the official code. "
        "Colour runs from 0 to 0.05, 0.10, 0.15 and 0.20 per unit area, row by row."
    )
    return drawing(figure, rows, panels.values(), note)


def seeds(runs: Runs, claims: Claims) -> Drawing:
    """The same densities for every seed."""
    panels = _panels(runs)
    count = max(len(treatment.seeds) for treatment in panels.values())
    figure, axes = plt.subplots(
        len(panels), count, figsize=(1.45 * count + 0.5, 1.45 * len(panels) + 0.3), layout="constrained", squeeze=False
    )
    rows = []
    for row, ((name, model), treatment) in enumerate(panels.items()):
        densities, losses = treatment.array("density"), treatment.metric("test_nll")
        for axis, seed, values, loss in zip(axes[row], treatment.seeds, densities, losses, strict=False):
            _show(axis, values[::2, ::2], LIMITS[name])
            axis.set_xlabel(f"{loss:.3f}", fontsize=7, labelpad=1.5)
            if row == 0:
                axis.set_title(f"seed {seed}", fontsize=8)
        rows += table_rows(density=name, model=model, seed=treatment.seeds, test_nll=losses)
        axes[row, 0].set_ylabel(f"{TITLES[name]}\n{MODELS[model]}", fontsize=7.5)
    return drawing(figure, rows, panels.values())


def likelihoods(runs: Runs, claims: Claims) -> Drawing:
    """Test NLL above the entropy: every seed, the mean with its interval, the official code's one run."""
    panels = _panels(runs)
    official = _official(runs, claims)
    figure, axis = plt.subplots(figsize=(7.2, 3.5), layout="constrained")
    rows = []
    for place, (name, density) in enumerate(DENSITIES.items()):
        for side, model in enumerate(MODELS):
            treatment = panels[name, model]
            values, reference = treatment.metric("test_nll"), official[treatment.variant]
            mean, low, high = treatment.mean_with_interval("test_nll")
            x, colour = place + 0.34 * (side - 0.5), PALETTE[side]
            axis.plot([x, x], np.subtract((low, high), density.entropy), color=colour, **INTERVAL)
            axis.plot(x, mean - density.entropy, color=colour, **MEAN)
            spread = x - 0.11 + 0.05 * np.linspace(-1, 1, len(values))
            axis.plot(spread, values - density.entropy, "o", color=colour, markersize=3)
            axis.plot(x + 0.08, reference - density.entropy, **PUBLISHED)
            axis.annotate(
                f"{mean:.3f}", (x, max(values.max(), reference) - density.entropy),
                xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
            row = {"density": name, "model": MODELS[model], "entropy": density.entropy, "official code": reference}
            row |= {"ours": mean, "low": low, "high": high, "seeds": len(values)}
            rows.append(row | {"above entropy": mean - density.entropy})
    axis.axhline(0, color="0.4", linestyle="--", linewidth=1)
    axis.annotate("entropy: no model can be below", (3.45, 0), xytext=(0, 3), textcoords="offset points",
                  ha="right", fontsize=8, color="0.4")  # fmt: skip
    axis.set_xticks(range(len(DENSITIES)), [TITLES[name] for name in DENSITIES])
    axis.set_xlim(-0.5, 3.5)
    axis.set_ylabel("test NLL above the entropy (nats)")
    handles = [
        Line2D([], [], color=PALETTE[side], marker="o", markersize=3, linestyle="none", label=f"{title}, a seed")
        for side, title in enumerate(MODELS.values())
    ]
    handles += [
        Line2D([], [], color="0.5", label="mean", **MEAN),
        Line2D([], [], color="0.5", label=f"its 95 % interval, {seed_count(panels.values())}", **INTERVAL),
        Line2D([], [], label="official code, one run", **PUBLISHED),
    ]
    figure.legend(handles=handles, fontsize=8, ncols=5, loc="outside upper center", columnspacing=1.2)
    axis.set_ylim(-0.03, axis.get_ylim()[1] + 0.03)
    made = drawing(figure, rows, panels.values())
    named = made.table.assign(density=made.table["density"].map(TITLES))
    return replace(made, listed=named.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value))


def _official(runs: Runs, claims: Claims) -> dict[str, float]:
    """The official code's test NLL of every variant."""
    return {
        claim.ours.variant: value for claim, value in published_values(claims, runs) if claim.ours.metric == "test_nll"
    }


def _panels(runs: Runs) -> dict[tuple[str, str], Treatment]:
    """The treatments by density and model, in the order of the figure."""
    named = {
        (treatment.config["density"], treatment.config["model"]): treatment for treatment in by_variant(runs).values()
    }
    return {(name, model): named[name, model] for name in DENSITIES for model in MODELS}


def _show(axis: Axes, values: np.ndarray, limit: float) -> None:
    """A density on [-4, 4]^2, first index along x, drawn with x to the right and y upwards."""
    axis.imshow(
        np.asarray(values, np.float32).T, origin="lower", extent=EXTENT, cmap="viridis", vmin=0, vmax=limit,
        interpolation="nearest",
    )  # fmt: skip
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
