"""The figures: densities of the plane (figure 4), sets of points, images; samples, likelihoods and training."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from common.report.figures import Claims, Runs, Treatment, by_variant, drawing, published_values, seed_count, table_rows
from common.report.theme import PALETTE, PUBLISHED, Drawing
from common.train.seeding import numpy_rng
from papers.survae.densities import DENSITIES

__all__ = [
    "figure4", "image_likelihoods", "image_samples", "image_training", "likelihoods", "point_likelihoods",
    "point_samples", "point_training", "seeds",
]  # fmt: skip

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


POINT_MODELS = {"sort": "SortFlow", "permute": "PermuteFlow", "control": "neither symmetry"}
QUOTED = {"S3a-bruno": "BRUNO", "S3a-neural_statistician": "Neural Statistician", "S3a-flowscan": "FlowScan"}
IMAGE_SETS = {"cifar10": "CIFAR-10", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
IMAGE_MODELS = {"maxpool": "MaxPoolFlow", "slice": "baseline (slicing)"}


def point_samples(runs: Runs, claims: Claims) -> Drawing:
    """Data and samples, each an 8 x 8 grid of scatter plots."""
    treatments = by_variant(runs, POINT_MODELS)
    first = next(iter(treatments.values()))
    panels = {"Data": first.array("data")[0]}
    panels |= {POINT_MODELS[name]: treatment.array("samples")[0] for name, treatment in treatments.items()}
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.4), layout="constrained")
    for axis, (title, sets) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for place, points in enumerate(np.asarray(sets[:64], np.float32)):
            row, column = divmod(place, 8)
            inside = ((points >= 0) & (points <= 28)).all(1)
            # Points outside of a digit's square would lie in its neighbour's.
            axis.plot(*(points[inside] + [30 * column, -30 * row]).T, "o", color=PALETTE[0], markersize=0.7)
        axis.set(title=title, xlim=(-1, 240), ylim=(-211, 29), aspect="equal")
        axis.axis("off")
    rows = table_rows(model=[POINT_MODELS[name] for name in treatments], seed=[t.seeds[0] for t in treatments.values()])
    return drawing(figure, rows, treatments.values(), "Samples outside of the square of 28 x 28 are left out.")


def point_likelihoods(runs: Runs, claims: Claims) -> Drawing:
    """PPLL of every model, with the published numbers."""
    treatments = by_variant(runs, POINT_MODELS)
    published = {claim.ours.variant: value for claim, value in published_values(claims, runs)}
    figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    rows = _marks(axis, {POINT_MODELS[name]: t for name, t in treatments.items()}, "ppll", published)
    for claim in claims:
        if claim.id in QUOTED and claim.published:
            axis.axhline(claim.published.value, color="0.5", linestyle="--", linewidth=0.8)
            axis.annotate(
                QUOTED[claim.id], (1, claim.published.value), xycoords=("axes fraction", "data"),
                xytext=(3, 0), textcoords="offset points", va="center", fontsize=7, color="0.4",
            )  # fmt: skip
    axis.set_ylabel("log-likelihood a point (nats)")
    note = f"The bound of PermuteFlow has {next(iter(treatments.values())).config['k']} draws."
    return drawing(figure, rows, treatments.values(), note)


def image_likelihoods(runs: Runs, claims: Claims) -> Drawing:
    """Bits a dimension of both models on every data set."""
    treatments = _image_treatments(runs)
    published = {claim.ours.variant: value for claim, value in published_values(claims, runs)}
    figure, axis = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    named = {f"{IMAGE_SETS[name]}\n{IMAGE_MODELS[model]}": t for (name, model), t in treatments.items()}
    rows = _marks(axis, named, "bits_per_dim", published)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_ylabel("bits a dimension")
    return drawing(figure, rows, treatments.values())


def image_samples(runs: Runs, claims: Claims) -> Drawing:
    """One row a data set: samples of MaxPoolFlow, samples of the baseline."""
    treatments = _image_treatments(runs)
    names = [name for name in IMAGE_SETS if any(name == key[0] for key in treatments)]
    figure, axes = plt.subplots(
        len(names), 2, figsize=(6.4, 3.3 * len(names)), layout="constrained", squeeze=False
    )  # fmt: skip
    for row, name in enumerate(names):
        for axis, (model, title) in zip(axes[row], IMAGE_MODELS.items(), strict=True):
            axis.axis("off")
            if (name, model) in treatments:
                samples = treatments[name, model].array("samples")[0].transpose(0, 2, 3, 1)
                side = samples.shape[1]
                grid = samples.reshape(8, 8, side, side, -1).transpose(0, 2, 1, 3, 4).reshape(8 * side, 8 * side, -1)
                axis.imshow(grid.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axis.set_title(f"{IMAGE_SETS[name]}, {title}", fontsize=9)
    rows = [{"data": name, "model": model, "seed": t.seeds[0]} for (name, model), t in treatments.items()]
    return drawing(figure, rows, treatments.values())


def point_training(runs: Runs, claims: Claims) -> Drawing:
    """Training likelihood a point over steps."""
    treatments = {POINT_MODELS[name]: t for name, t in by_variant(runs, POINT_MODELS).items()}
    units = dict.fromkeys(treatments, -1 / next(iter(treatments.values())).config["points"])
    return _training(treatments, units, "log-likelihood a point (nats)")


def image_training(runs: Runs, claims: Claims) -> Drawing:
    """Training bits a dimension over steps."""
    found = _image_treatments(runs)
    treatments = {f"{IMAGE_SETS[name]}, {IMAGE_MODELS[model]}": t for (name, model), t in found.items()}
    dims = {title: int(np.prod(t.array("samples").shape[2:])) for title, t in treatments.items()}
    return _training(treatments, {title: 1 / (np.log(2) * size) for title, size in dims.items()}, "bits a dimension")


def _image_treatments(runs: Runs) -> dict[tuple[str, str], Treatment]:
    """The treatments by data set and model."""
    named = {f"{name}-{model}": (name, model) for name in IMAGE_SETS for model in IMAGE_MODELS}
    return {named[variant]: treatment for variant, treatment in by_variant(runs, named).items()}


def _marks(axis: Axes, treatments: dict[str, Treatment], metric: str, published: dict[str, float]) -> list[dict]:
    """Seeds, mean, interval and published value of each treatment, side by side; the rows of the table."""
    rows = []
    for place, (title, treatment) in enumerate(treatments.items()):
        mean, low, high = treatment.mean_with_interval(metric)
        colour = PALETTE[place % 2] if len(treatments) > 3 else PALETTE[place]
        values, reference = treatment.metric(metric), published.get(treatment.variant)
        axis.plot([place, place], [low, high], color=colour, **INTERVAL)
        axis.plot(place, mean, color=colour, **MEAN)
        axis.plot(place - 0.15 + 0.04 * np.linspace(-1, 1, len(values)), values, "o", color=colour, markersize=3)
        axis.annotate(
            f"{mean:.3f}", (place, values.max()), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
        )
        if reference is not None:
            axis.plot(place + 0.15, reference, **PUBLISHED)
        row = {"model": title.replace("\n", ", "), "published": reference, "ours": mean, "low": low, "high": high}
        rows.append(row | {"seeds": len(values)})
    axis.set_xticks(range(len(treatments)), list(treatments))
    axis.set_xlim(-0.5, len(treatments) - 0.5)
    axis.margins(y=0.15)
    return rows


def _training(treatments: dict[str, Treatment], units: dict[str, float], label: str) -> Drawing:
    """The training likelihood of every seed, in units of so many nats an example."""
    figure, axis = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
    rows = []
    for colour, (title, treatment) in zip(PALETTE, treatments.items(), strict=False):
        for number, (seed, history) in enumerate(treatment.histories()):
            values = history["nll"] * units[title]
            axis.plot(history["step"], values, color=colour, linewidth=1, label=None if number else title)
            rows += table_rows(model=title, seed=seed, step=history["step"], value=values)
    axis.set(xlabel="gradient step", ylabel=label)
    axis.legend(fontsize=8)
    return drawing(figure, rows, treatments.values())
