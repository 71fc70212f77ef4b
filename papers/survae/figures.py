"""Figure 4 and what stands around it: the densities, every seed of them, and the test likelihoods."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from common.report.theme import PALETTE, PUBLISHED, Drawing
from common.run.record import FinishedRun
from common.train.seeding import numpy_rng
from common.verdict.claims import load
from common.verdict.statistics import mean_interval
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


def figure4(runs: Sequence[FinishedRun]) -> Drawing:
    """One row a density; data, Flow, AbsFlow. The first seed, as the paper shows one."""
    found = _by_panel(runs)
    figure, axes = plt.subplots(4, 3, figsize=(6.6, 8.9), layout="constrained")
    rows = []
    for row, (name, density) in enumerate(DENSITIES.items()):
        run = found[name, "flow"]
        size = run.identity.config["train_size"]
        points = density.sample(size, numpy_rng(run.seeds[0], "train"))
        counts, *_ = np.histogram2d(*points.T, bins=BINS, range=[EXTENT[:2], EXTENT[2:]], density=True)
        _show(axes[row, 0], counts, LIMITS[name])
        axes[row, 0].set_ylabel(TITLES[name], fontsize=11)
        for column, model in enumerate(MODELS, start=1):
            run = found[name, model]
            _show(axes[row, column], run.arrays["density"][0], LIMITS[name])
            values = run.metrics["test_nll"]
            axes[row, column].set_xlabel(f"{np.mean(values):.3f} nats", fontsize=9, labelpad=3)
            rows += [
                {"density": name, "model": model, "seed": seed, **{k: v[i] for k, v in run.metrics.items()}}
                for i, seed in enumerate(run.seeds)
            ]
        axes[row, 0].set_xlabel(f"entropy {density.entropy:.3f} nats", fontsize=9, labelpad=3)
    for axis, title in zip(axes[0], ("Data", *MODELS.values()), strict=True):
        axis.set_title(title, fontsize=12, pad=6)
    first = next(iter(found.values()))
    note = (
        f"Pictures: seed {first.seeds[0]}; numbers: mean test NLL over {len(first.seeds)} seeds. "
        "Colour runs from 0 to 0.05, 0.10, 0.15 and 0.20 per unit area, row by row."
    )
    return Drawing(figure, pd.DataFrame(rows), [str(run.identity) for run in found.values()], [note])


def seeds(runs: Sequence[FinishedRun]) -> Drawing:
    """The same densities for every seed."""
    found = _by_panel(runs)
    count = max(len(run.seeds) for run in found.values())
    figure, axes = plt.subplots(
        len(found), count, figsize=(1.45 * count + 0.5, 1.45 * len(found) + 0.3), layout="constrained", squeeze=False
    )
    rows = []
    for row, ((name, model), run) in enumerate(found.items()):
        for column, seed in enumerate(run.seeds):
            _show(axes[row, column], run.arrays["density"][column][::2, ::2], LIMITS[name])
            axes[row, column].set_xlabel(f"{run.metrics['test_nll'][column]:.3f}", fontsize=7, labelpad=1.5)
            rows.append({"density": name, "model": model, "seed": seed, "test_nll": run.metrics["test_nll"][column]})
            if row == 0:
                axes[row, column].set_title(f"seed {seed}", fontsize=8)
        axes[row, 0].set_ylabel(f"{TITLES[name]}\n{MODELS[model]}", fontsize=7.5)
    return Drawing(figure, pd.DataFrame(rows), [str(run.identity) for run in found.values()])


def likelihoods(runs: Sequence[FinishedRun]) -> Drawing:
    """Test NLL above the entropy: every seed, the mean with its interval, the official code's one run."""
    found, official = _by_panel(runs), _official()
    figure, axis = plt.subplots(figsize=(7.2, 3.3), layout="constrained")
    rows = []
    for place, (name, density) in enumerate(DENSITIES.items()):
        for side, model in enumerate(MODELS):
            run = found[name, model]
            values = np.asarray(run.metrics["test_nll"])
            interval = mean_interval(values) or (values.mean(), values.mean())
            x, colour = place + 0.34 * (side - 0.5), PALETTE[side]
            axis.plot([x, x], np.subtract(interval, density.entropy), color=colour, linewidth=6, alpha=0.3)
            axis.plot(np.full(len(values), x - 0.05), values - density.entropy, "o", color=colour, markersize=4)
            axis.plot(x + 0.06, official[run.identity.variant] - density.entropy, **PUBLISHED)
            axis.annotate(
                f"{values.mean():.3f}", (x, max(values.max(), official[run.identity.variant]) - density.entropy),
                xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
            rows.append(
                {
                    "density": name,
                    "model": MODELS[model],
                    "entropy": density.entropy,
                    "official code": official[run.identity.variant],
                    "ours": values.mean(),
                    "low": interval[0],
                    "high": interval[1],
                    "seeds": len(values),
                    "above entropy": values.mean() - density.entropy,
                }
            )
    axis.axhline(0, color="0.4", linestyle="--", linewidth=1)
    axis.annotate("entropy: no model can be below", (3.45, 0), xytext=(0, 3), textcoords="offset points",
                  ha="right", fontsize=8, color="0.4")  # fmt: skip
    axis.set_xticks(range(len(DENSITIES)), [TITLES[name] for name in DENSITIES])
    axis.set_xlim(-0.5, 3.5)
    axis.set_ylabel("test NLL above the entropy (nats)")
    count = len(next(iter(found.values())).seeds)
    handles = [
        Line2D([], [], color=PALETTE[i], marker="o", linestyle="none", label=MODELS[m]) for i, m in enumerate(MODELS)
    ]
    handles += [
        Line2D([], [], color="0.5", linewidth=6, alpha=0.4, label=f"95 % interval of the mean, {count} seeds"),
        Line2D([], [], label="official code, one run", **PUBLISHED),
    ]
    axis.legend(handles=handles, fontsize=8, ncols=2, loc="upper center")
    axis.set_ylim(-0.03, axis.get_ylim()[1] * 1.22)
    table = pd.DataFrame(rows)
    listed = table.assign(density=table["density"].map(TITLES)).map(lambda v: f"{v:.3f}" if isinstance(v, float) else v)
    return Drawing(figure, table, [str(run.identity) for run in found.values()], listed=listed)


def _by_panel(runs: Sequence[FinishedRun]) -> dict[tuple[str, str], FinishedRun]:
    """Runs by (density, model), in the order of the figure."""
    named = {(run.identity.config["density"], run.identity.config["model"]): run for run in runs}
    return {(name, model): named[name, model] for name in DENSITIES for model in MODELS}


def _official() -> dict[str, float]:
    """Test NLL in nats of the official code by variant, from the claims."""
    return {
        claim.ours.variant: claim.published.value
        for claim in load("survae")
        if claim.kind == "value" and claim.ours.metric == "test_nll" and claim.published is not None
    }


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
