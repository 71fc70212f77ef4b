"""Figure 4 and what stands around it: the densities, every seed of them, and the test likelihoods."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, published_values, table_rows
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


def figure4(runs: Runs, claims: Claims) -> Drawing:
    """One row a density; data, Flow, AbsFlow. The first seed, as the paper shows one."""
    panels = _panels(runs)
    figure, axes = plt.subplots(4, 3, figsize=(6.6, 8.9), layout="constrained")
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
            axes[row, column].set_xlabel(f"{treatment.metric('test_nll').mean():.3f} nats", fontsize=9, labelpad=3)
            metrics = {metric: treatment.metric(metric) for metric in treatment.runs[0].metrics}
            rows += table_rows(density=name, model=model, seed=treatment.seeds, **metrics)
        axes[row, 0].set_xlabel(f"entropy {density.entropy:.3f} nats", fontsize=9, labelpad=3)
    for axis, title in zip(axes[0], ("Data", *MODELS.values()), strict=True):
        axis.set_title(title, fontsize=12, pad=6)
    first = next(iter(panels.values()))
    note = (
        f"Pictures: seed {first.seeds[0]}; numbers: mean test NLL over {len(first.seeds)} seeds. "
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
    official = {
        claim.ours.variant: value for claim, value in published_values(claims, runs) if claim.ours.metric == "test_nll"
    }
    figure, axis = plt.subplots(figsize=(7.2, 3.3), layout="constrained")
    rows = []
    for place, (name, density) in enumerate(DENSITIES.items()):
        for side, model in enumerate(MODELS):
            treatment = panels[name, model]
            values, reference = treatment.metric("test_nll"), official[treatment.variant]
            mean, low, high = treatment.mean_with_interval("test_nll")
            x, colour = place + 0.34 * (side - 0.5), PALETTE[side]
            axis.plot([x, x], np.subtract((low, high), density.entropy), color=colour, linewidth=6, alpha=0.3)
            axis.plot(np.full(len(values), x - 0.05), values - density.entropy, "o", color=colour, markersize=4)
            axis.plot(x + 0.06, reference - density.entropy, **PUBLISHED)
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
    count = len(next(iter(panels.values())).seeds)
    handles = [
        Line2D([], [], color=PALETTE[i], marker="o", linestyle="none", label=MODELS[m]) for i, m in enumerate(MODELS)
    ]
    handles += [
        Line2D([], [], color="0.5", linewidth=6, alpha=0.4, label=f"95 % interval of the mean, {count} seeds"),
        Line2D([], [], label="official code, one run", **PUBLISHED),
    ]
    axis.legend(handles=handles, fontsize=8, ncols=2, loc="upper center")
    axis.set_ylim(-0.03, axis.get_ylim()[1] * 1.22)
    made = drawing(figure, rows, panels.values())
    named = made.table.assign(density=made.table["density"].map(TITLES))
    return replace(made, listed=named.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value))


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
