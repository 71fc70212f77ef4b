"""The paper's table and figures on walking, learning within life and damage; evolution; shared rules; driving."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.spatial.transform import Rotation

from common.report.figures import (
    Claims,
    Runs,
    Treatment,
    by_variant,
    drawing,
    panel_row,
    published_values,
    seed_count,
    table_rows,
)
from common.report.theme import PALETTE, PUBLISHED, Drawing
from papers.hebbian_abcd.body import FOOT, LEGS, STEP
from papers.hebbian_abcd.evaluate import SNAPSHOTS
from papers.hebbian_abcd.plasticity import RULES

__all__ = [
    "bodies", "capsules", "coefficients", "driving", "evolution", "exploring", "film", "learning", "recovery",
    "sharing", "trajectories", "weights",
]  # fmt: skip

LEARNERS = {"hebbian": ("Hebbian", PALETTE[0]), "static": ("static weights", PALETTE[1])}
BODIES = {"standard": "standard (seen)", "right": "right front damaged (seen)", "left": "left front damaged (unseen)"}
DAMAGES = {"zeroed": "all weights zeroed once", "third_zeroed": "a third zeroed once", "window": "all held at zero"}
CONDITIONS = {
    "hebbian": "960 steps\nHebbian",
    "static": "960 steps\nstatic",
    "hebbian_300": "300 steps\nHebbian",
    "static_300": "300 steps\nstatic",
    "normalised_300": "Hebbian\nnormalised",
    "birth_300": "Hebbian\nbirth up to 1",
}
SMOOTH = 25
"""Steps that a speed is the mean of, in drawings."""
PUBLISHED_STEPS = 960
"""Steps of a published life after settling."""


def bodies(runs: Runs, claims: Claims) -> Drawing:
    """Their table 1: distance on three bodies, in metres a second; and as a share of the standard body's."""
    treatments = by_variant(runs, LEARNERS)
    published = {
        (claim.ours.variant, claim.ours.metric): value for claim, value in published_values(claims, runs) if claim.ours
    }
    figure, axes = panel_row(2, (4.4, 3.4))
    rows: list[dict[str, Any]] = []
    for side, (name, treatment) in enumerate(treatments.items()):
        title, colour = LEARNERS[name]
        steps = treatment.array("speed_undisturbed").shape[1]
        for place, body in enumerate(BODIES):
            metric, x = f"distance_{body}", place + 0.36 * (side - 0.5)
            distances, standard = treatment.metric(metric), treatment.metric("distance_standard")
            reported = published.get((name, metric))
            for axis, values, value in (
                (axes[0], distances / steps, reported and reported / PUBLISHED_STEPS),
                (axes[1], distances / standard, reported and reported / published[name, "distance_standard"]),
            ):
                axis.bar(x, values.mean(), 0.34, color=colour, alpha=0.45, label=title if place == 0 else None)
                axis.plot(x + 0.05 * np.linspace(-1, 1, len(values)), values, "o", color=colour, markersize=3.5)
                if value:
                    axis.plot(x + 0.12, value, **PUBLISHED)
            rows += table_rows(
                learner=title,
                body=body,
                seed=treatment.seeds,
                speed=distances / steps,
                share=distances / standard,
                published=reported,
            )
    for axis, label in zip(axes, ("distance / steps (m/s)", "share of the standard body's"), strict=True):
        axis.set_xticks(
            range(len(BODIES)),
            [title.replace(" front ", " front\n").replace(" (", "\n(") for title in BODIES.values()],
            fontsize=8,
        )
        axis.set_ylabel(label)
        axis.axhline(0, color="0.4", linewidth=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    if published:
        handles, labels = [*handles, Line2D([], [], **PUBLISHED)], [*labels, "published, PyBullet"]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    note = f"Bars are means of {seed_count(treatments.values())}, dots the seeds, each the mean of its lives."
    return drawing(figure, rows, treatments.values(), note)


def learning(runs: Runs, claims: Claims) -> Drawing:
    """Speed against age: plastic from birth, never plastic, and plastic until step 100."""
    treatment = by_variant(runs, ["hebbian"])["hebbian"]
    figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    rows: list[dict[str, Any]] = []
    lines = {
        "undisturbed": ("Hebbian", PALETTE[0], "-"),
        "frozen": ("its weights fixed from step 100 on", PALETTE[4], "--"),
    }
    lines["unlearning"] = ("random weights, no plasticity", "0.45", "-")
    for condition, (title, colour, line) in lines.items():
        rows += _speed(axis, treatment, condition, title, colour, line)
    axis.axvline(treatment.config["frozen"], color="0.75", linewidth=0.8, linestyle=":")
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.set(xlabel="step of the life", ylabel="speed (m/s)", xlim=(0, None))
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return drawing(figure, rows, [treatment], _smoothed(treatment))


def recovery(runs: Runs, claims: Claims) -> Drawing:
    """Speed against age when weights are destroyed, beside the undisturbed of the same age."""
    treatments = by_variant(runs, LEARNERS)
    first = next(iter(treatments.values()))
    figure, axes = panel_row(len(DAMAGES), (3.2, 3.2), sharey=True)
    rows: list[dict[str, Any]] = []
    for axis, (damage, heading) in zip(axes, DAMAGES.items(), strict=True):
        for name, treatment in treatments.items():
            title, colour = LEARNERS[name]
            rows += _speed(axis, treatment, "undisturbed", f"{title}, undisturbed", colour, ":", damage=heading)
            rows += _speed(axis, treatment, damage, title, colour, "-", damage=heading)
        start = first.config["damage"]
        end = start + (first.config["window"] if damage == "window" else 2)
        axis.axvspan(start, end, color="0.85", zorder=0)
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set_title(heading, fontsize=9)
        axis.set(xlabel="step of the life", xlim=(0, None))
    axes[0].set_ylabel("speed (m/s)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
    return drawing(
        figure,
        rows,
        treatments.values(),
        _smoothed(first),
        "Shaded: when weights are zero. Static weights that are zero cannot come back.",
    )


def _smoothed(treatment: Treatment) -> str:
    return (
        f"Means over {SMOOTH} steps and all lives: thin lines are seeds, thick ones the mean of {len(treatment.seeds)}."
    )


def _speed(
    axis: Axes, treatment: Treatment, condition: str, title: str, colour: Any, line: str, **columns: Any
) -> list[dict[str, Any]]:
    """Speeds of every seed and their mean."""
    speeds = treatment.array(f"speed_{condition}")
    kernel = np.ones(SMOOTH) / SMOOTH
    smooth = np.stack([np.convolve(speed, kernel, "valid") for speed in speeds])
    steps = np.arange(smooth.shape[1]) + SMOOTH / 2
    for curve in smooth if len(smooth) > 1 else ():
        axis.plot(steps, curve, line, color=colour, linewidth=0.6, alpha=0.5)
    axis.plot(steps, smooth.mean(0), line, color=colour, linewidth=1.8, label=title)
    rows = []
    for seed, curve in zip(treatment.seeds, smooth, strict=True):
        rows += table_rows(curve=title, seed=seed, step=steps[::5], speed=curve[::5], **columns)
    return rows


def trajectories(runs: Runs, claims: Claims) -> Drawing:
    """The first three principal components of all weights over four lives, one panel a seed."""
    treatment = by_variant(runs, ["hebbian"])["hebbian"]
    paths, variances = treatment.array("path"), treatment.array("variances")
    figure = plt.figure(figsize=(3.3 * len(paths), 3.3), layout="constrained")
    rows: list[dict[str, Any]] = []
    for panel, (seed, lives, shares) in enumerate(zip(treatment.seeds, paths, variances, strict=True)):
        axis = figure.add_subplot(1, len(paths), panel + 1, projection="3d")
        for life, path in enumerate(lives):
            axis.plot(*path.T, color="0.8", linewidth=0.5)
            axis.scatter(*path.T, c=np.arange(len(path)), cmap="viridis", s=2, depthshade=False)
            rows += table_rows(
                seed=seed, life=life, step=np.arange(len(path))[::5], **{f"pc{i + 1}": path[::5, i] for i in range(3)}
            )
        axis.set_title(f"seed {seed}: {', '.join(f'{share:.0%}' for share in shares[:3])}", fontsize=9)
        axis.set(xticklabels=[], yticklabels=[], zticklabels=[])
        for number, label in enumerate((axis.set_xlabel, axis.set_ylabel, axis.set_zlabel), 1):
            label(f"PC {number}", labelpad=-12, fontsize=8)
    note = "From step 1 on; colour runs from dark (young) to light (old). Titles: shares of the variance."
    return drawing(figure, rows, [treatment], note)


def weights(runs: Runs, claims: Claims) -> Drawing:
    """The first layer's weights at several ages of one life."""
    treatment = by_variant(runs, ["hebbian"])["hebbian"]
    pictures = treatment.array("pictures")[0].astype(float)
    figure, axes = panel_row(len(pictures), (1.5, 3.2))
    rows: list[dict[str, Any]] = []
    for axis, age, picture in zip(axes, SNAPSHOTS, pictures, strict=True):
        end = np.quantile(np.abs(picture), 0.97)
        axis.imshow(picture, cmap="RdBu_r", vmin=-end, vmax=end, aspect="auto", interpolation="nearest")
        axis.set_title(f"step {age}", fontsize=9)
        axis.set(xticks=[], yticks=[])
        rows += table_rows(step=[age], mean_square=float((picture**2).mean()))
    axes[0].set_ylabel(f"{pictures.shape[1]} neurons of the first hidden layer")
    axes[len(axes) // 2].set_xlabel(f"{pictures.shape[2]} inputs")
    note = f"Seed {treatment.seeds[0]}; each picture has its own scale, which ends where 97 % of the weights do."
    return drawing(figure, rows, [treatment], note)


def coefficients(runs: Runs, claims: Claims) -> Drawing:
    """How the evolved coefficients are distributed, beside what they began as."""
    treatment = by_variant(runs, ["hebbian"])["hebbian"]
    counts = treatment.array("histogram").astype(float)
    names = RULES[treatment.config["rule"]]
    edges = np.linspace(-4, 4, counts.shape[-1] + 1)
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    density = counts / counts.sum(-1, keepdims=True) / width
    spread = treatment.config["spread"]
    figure, axes = panel_row(len(names), (1.9, 2.2), sharey=True)
    rows: list[dict[str, Any]] = []
    for index, (axis, name) in enumerate(zip(axes, names, strict=True)):
        for seed, curve in zip(treatment.seeds, density[:, index], strict=True):
            axis.plot(centres, curve, color=PALETTE[0], linewidth=1)
            rows += table_rows(coefficient=name, seed=seed, value=centres, density=curve)
        normal = np.exp(-0.5 * (centres / spread) ** 2) / spread / np.sqrt(2 * np.pi)
        axis.plot(centres, normal, "--", color="0.4", linewidth=1)
        axis.set_title({"eta": "η"}.get(name, name.upper()), fontsize=10)
        axis.set_xlabel("value")
    axes[0].set_ylabel("density")
    return drawing(figure, rows, [treatment], "Dashed: the distribution of the first centre.")


def evolution(runs: Runs, claims: Claims) -> Drawing:
    """Mean distance of a population against generations, in metres a second, and environment steps."""
    treatments = by_variant(runs, LEARNERS)
    figure, axes = panel_row(2, (4.2, 3.2), sharey=True)
    rows: list[dict[str, Any]] = []
    for name, treatment in treatments.items():
        title, colour = LEARNERS[name]
        longest = treatment.config["steps"]
        for seed, history in treatment.histories():
            speed, lived = history["fitness"] / longest, history["steps"]
            generations = history["step"]
            steps = (lived * np.diff(generations, prepend=0)).cumsum()
            label = title if seed == treatment.seeds[0] else None
            axes[0].plot(generations, speed, color=colour, linewidth=1.2, label=label)
            axes[1].plot(steps / 1e6, speed, color=colour, linewidth=1.2)
            rows += table_rows(learner=title, seed=seed, generation=generations, steps=steps, speed=speed)
    axes[0].set(xlabel="generation", ylabel="population mean of distance / steps (m/s)")
    axes[1].set(xlabel="steps of the policy (millions)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return drawing(figure, rows, treatments.values(), "A line a seed.")


def sharing(runs: Runs, claims: Claims) -> Drawing:
    """Distance when synapses share rules."""
    treatment = by_variant(runs, ["hebbian"])["hebbian"]
    counts = sorted(treatment.config["rules"])
    groups = ("layer", "neuron", "synapse")
    figure, axes = panel_row(len(BODIES), (3.1, 3.1), sharey=True)
    rows: list[dict[str, Any]] = []
    for axis, (body, heading) in zip(axes, BODIES.items(), strict=True):
        merged = np.stack([treatment.metric(f"{body}_{count}") for count in counts], 1)
        for seed, curve in zip(treatment.seeds, merged, strict=True):
            axis.plot(counts, curve, "o-", color=PALETTE[0], markersize=3, linewidth=0.8, alpha=0.6)
            rows += table_rows(body=body, sharing="k-means", seed=seed, rules=counts, distance=curve)
        for number, name in enumerate(groups):
            rules = int(treatment.metric(f"rules_{name}").max())
            values = treatment.metric(f"{body}_{name}")
            axis.plot(
                [rules] * len(values), values, "sv*"[number], color=PALETTE[number + 1], markersize=6, linestyle="none"
            )
            rows += table_rows(body=body, sharing=name, seed=treatment.seeds, rules=rules, distance=values)
        axis.set_xscale("log")
        axis.set_title(heading, fontsize=9)
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set_xlabel("number of rules")
    axes[0].set_ylabel("distance (m/s, summed over steps)")
    handles = [Line2D([], [], color=PALETTE[0], marker="o", markersize=3)]
    handles += [Line2D([], [], color=PALETTE[i + 1], marker="sv*"[i], linestyle="none") for i in range(3)]
    figure.legend(handles, ["merged by k-means", "mean of a layer", "mean of a neuron", "a rule for every synapse"],
                  loc="outside upper center", ncols=4, fontsize=8)  # fmt: skip
    return drawing(figure, rows, [treatment], "A line a seed; no evolution after merging.")


def exploring(runs: Runs, claims: Claims) -> Drawing:
    """Speed on the standard body, and how much of the distance is kept on the others, by conditions of evolution."""
    treatments = by_variant(runs, CONDITIONS)
    figure, axes = panel_row(len(BODIES), (4.0, 3.3))
    rows: list[dict[str, Any]] = []
    for place, (name, treatment) in enumerate(treatments.items()):
        standard = treatment.metric("distance_standard")
        colour = LEARNERS["static" if "static" in name else "hebbian"][1]
        for axis, body in zip(axes, BODIES, strict=True):
            divisor = treatment.array("speed_undisturbed").shape[1] if body == "standard" else standard
            values = treatment.metric(f"distance_{body}") / divisor
            axis.bar(place, values.mean(), 0.7, color=colour, alpha=0.45)
            axis.plot(place + 0.1 * np.linspace(-1, 1, len(values)), values, "o", color=colour, markersize=3.5)
            rows += table_rows(
                conditions=CONDITIONS[name].replace("\n", ", "), body=body, seed=treatment.seeds, value=values
            )
    for axis, (body, heading) in zip(axes, BODIES.items(), strict=True):
        axis.set_xticks(range(len(treatments)), [CONDITIONS[name] for name in treatments], fontsize=7, rotation=60)
        axis.set_title(heading, fontsize=9)
        axis.set_ylabel("distance / steps (m/s)" if body == "standard" else "share of the standard body's", fontsize=8)
        axis.axhline(0, color="0.4", linewidth=0.8)
    note = (
        "Bars are means over seeds (dots), in MuJoCo; the last two differ from 300 steps, Hebbian, in one thing each."
    )
    return drawing(figure, rows, treatments.values(), note)


def film(runs: Runs, claims: Claims) -> Drawing:
    """A walking quadruped from its right side, drawn from positions and angles."""
    treatment = by_variant(runs, ["hebbian"])["hebbian"]
    postures, times = treatment.array("postures")[0].astype(float), treatment.array("frame_steps")[0]
    figure, axis = plt.subplots(figsize=(9.6, 2.2), layout="constrained")
    for place, (posture, time) in enumerate(zip(postures, times, strict=True)):
        height, middle = posture[2], 2.1 * place
        for start, end in sorted(capsules(posture), key=lambda ends: -ends[:, 1].sum()):
            colour, order = (PALETTE[0], 3) if start[1] + end[1] < 0 else ("0.6", 1)
            axis.plot([start[0] + middle, end[0] + middle], [start[2] + height, end[2] + height], color=colour,
                      linewidth=5, solid_capstyle="round", zorder=order)  # fmt: skip
        axis.add_patch(plt.Circle((middle, height), 0.25, color="0.35", zorder=2))
        axis.text(middle, -0.25, f"{time * STEP:.1f} s\n{posture[0]:.1f} m", ha="center", va="top", fontsize=7)
    axis.plot([-1.2, 2.1 * len(times) - 0.9], [0, 0], color="0.6", linewidth=0.8, zorder=0)
    axis.set(xlim=(-1.2, 2.1 * len(times) - 0.9), ylim=(-0.75, 1.1), aspect="equal")
    axis.axis("off")
    rows = table_rows(step=times, x=postures[:, 0], height=postures[:, 2])
    note = f"Seed {treatment.seeds[0]}; right legs in colour; below, time and how far it is."
    return drawing(figure, rows, [treatment], note)


def capsules(posture: np.ndarray) -> np.ndarray:
    """Ends of the three capsules of each leg, relative to the torso's middle, in metres: (12, 2, 3).

    Arguments:
        posture: Position, quaternion (w, x, y, z) and angles of hip 1, ankle 1 ... hip 4, ankle 4.
    """
    torso = Rotation.from_quat(posture[[4, 5, 6, 3]])
    ends = []
    for leg, (x, y, axis, _) in enumerate(LEGS):
        hip, ankle = posture[7 + 2 * leg], posture[8 + 2 * leg]
        stub = np.array([x, y, 0]) * FOOT / 2
        turned = Rotation.from_rotvec([0, 0, hip])
        knee = stub + turned.apply(stub)
        bent = turned * Rotation.from_rotvec(ankle * np.array([axis, 1, 0]) / np.sqrt(2))
        ends += [(np.zeros(3), stub), (stub, knee), (knee, knee + bent.apply(2 * stub))]
    return torso.apply(np.array(ends).reshape(-1, 3)).reshape(-1, 2, 3)


def driving(runs: Runs, claims: Claims) -> Drawing:
    """Return against generations, and on new tracks after evolution."""
    treatments = by_variant(runs, LEARNERS)
    figure, axes = panel_row(2, (4.2, 3.2))
    rows: list[dict[str, Any]] = []
    published: Mapping[str, float] = {
        claim.ours.variant: value for claim, value in published_values(claims, runs) if claim.ours
    }
    for place, (name, treatment) in enumerate(treatments.items()):
        title, colour = LEARNERS[name]
        for seed, history in treatment.histories():
            label = title if seed == treatment.seeds[0] else None
            axes[0].plot(history["step"], history["fitness"], color=colour, linewidth=1.2, label=label)
            rows += table_rows(learner=title, seed=seed, generation=history["step"], fitness=history["fitness"])
        values = treatment.metric("return")
        axes[1].bar(place, values.mean(), 0.6, color=colour, alpha=0.45)
        axes[1].plot(place + 0.1 * np.linspace(-1, 1, len(values)), values, "o", color=colour, markersize=4)
        if name in published:
            axes[1].plot(place + 0.2, published[name], **PUBLISHED)
        rows += table_rows(learner=title, seed=treatment.seeds, tested=values)
    axes[0].set(xlabel="generation", ylabel="population mean of the return")
    axes[1].set(ylabel="return on new tracks")
    axes[1].set_xticks(range(len(treatments)), [LEARNERS[name][0] for name in treatments])
    handles, labels = axes[0].get_legend_handles_labels()
    if published:
        handles, labels = [*handles, Line2D([], [], **PUBLISHED)], [*labels, "published"]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    frames = next(iter(treatments.values())).config["steps"]
    note = f"Drives of at most {frames:,} frames; published ones have 1,000."
    return drawing(figure, rows, treatments.values(), note)
