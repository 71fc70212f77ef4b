"""What evolved quadrupeds do on each body, and what becomes of them when their weights are destroyed (section 4)."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from common.errors import RefigureError
from common.room.config import build
from common.train.loop import parts
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from papers.hebbian_abcd.body import BODIES
from papers.hebbian_abcd.config import Evaluate, Walk
from papers.hebbian_abcd.evolution import birth, first_genome
from papers.hebbian_abcd.lifetime import Disturbance, herd_of, live
from papers.hebbian_abcd.walk import lives_of, sizes_of

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["CONDITIONS", "CONTROLS", "SNAPSHOTS", "disturbance", "train"]

CONDITIONS = ("undisturbed", "zeroed", "third_zeroed", "window")
"""Nothing is done; all weights are set to zero once; a third of them is; all are held at zero for a window."""
CONTROLS = ("frozen", "unlearning")
"""Of plastic weights alone: they stop to change at a step; they never change."""
EARLY = ("undisturbed", "unlearning")
"""Conditions of which the first hundred steps are measured."""
SHOWN = 4
"""Lives of which the weights are followed."""
SNAPSHOTS = (0, 1, 5, 20, 100)
"""Steps after which the first layer's weights are kept."""
FRAMES = tuple(range(0, 121, 12))
"""Steps in which a walk is pictured."""
REST = 50
"""Steps after a damage that are not counted: a body coasts, whatever its weights are."""


def train(config: Evaluate, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Test the centre of an evolution."""
    (seed,) = seeds
    evolved: Walk = build(Walk, dict(parent.identity.config), "the evolution")
    plastic, steps = parent.parameters["plastic"], config.steps or evolved.steps
    end = max(config.damage + config.window, config.frozen) + 2 * REST
    if steps < end:
        raise RefigureError(
            f"steps: lives of {steps} end before much is seen of what is done to them: give {end} at least"
        )
    conditions = (*CONDITIONS, *(CONTROLS if evolved.learner == "hebbian" else ()))

    def test(body: str, **options: Any) -> Float[np.ndarray, "T N"]:
        """Lives of which births and poses are the same whatever is done to them."""
        members = np.broadcast_to(plastic, (config.lifetimes, *plastic.shape))
        return lives_of(evolved, members, body, steps, (seed, "test", body), **options).progress

    def walk(body: str) -> dict[str, np.ndarray]:
        return {"distance": test(body).sum(0)}

    def suffer(condition: str) -> dict[str, np.ndarray]:
        disturb = disturbance(condition, config, plastic.shape[-1], seed)
        return {"speed": test("standard", stops=False, disturb=disturb).mean(1)}

    work: dict[str, Callable[[], dict[str, np.ndarray]]] = {body: lambda body=body: walk(body) for body in BODIES}
    work |= {condition: lambda condition=condition: suffer(condition) for condition in conditions}
    work["film"] = lambda: _filmed(evolved, plastic, seed)
    if evolved.learner == "hebbian":
        first = np.asarray(first_genome(evolved, sizes_of(evolved), seed)["plastic"])
        work["weights"] = lambda: _followed(evolved, plastic, steps, seed)
        work["unevolved"] = lambda: _followed(evolved, first, steps, seed)
    results = parts(work, run)
    distances = {body: results[body]["distance"] for body in BODIES}
    speeds = {condition: results[condition]["speed"] for condition in conditions}
    metrics = {f"distance_{body}": float(values.mean()) for body, values in distances.items()}
    metrics["unseen_kept"] = metrics["distance_left"] / metrics["distance_standard"]
    metrics |= learning(speeds) | recovery(speeds, config)
    if "weights" in results:
        metrics["components"] = float(results["weights"]["variances"][:3].sum())
        metrics["components_unevolved"] = float(results["unevolved"]["variances"][:3].sum())
    arrays = {f"distance_{body}": values[None] for body, values in distances.items()}
    arrays |= {f"speed_{condition}": values[None] for condition, values in speeds.items()}
    arrays |= {name: values[None] for name, values in (results.get("weights", {}) | results["film"]).items()}
    return Outcome(metrics={name: [value] for name, value in metrics.items()}, arrays=arrays)


def _filmed(evolved: Walk, plastic: Float[np.ndarray, "..."], seed: int) -> dict[str, np.ndarray]:
    """Postures of one life, a few steps apart."""
    herd, postures = herd_of(evolved.engine, ["standard"]), []

    def watch(step: int, weights: Float[np.ndarray, "N S"]) -> bool:
        if step in FRAMES:
            postures.append(herd.posture().copy())
        return True

    weights, changes = birth(evolved, plastic[None], numpy_rng(seed, "film", "birth"))
    poses, options = numpy_rng(seed, "film", "pose"), {"normalise": evolved.normalise, "disturb": watch}
    live(herd, weights, changes, sizes_of(evolved), FRAMES[-1] + 1, poses, **options)
    return {"postures": np.array(postures, np.float32), "frame_steps": np.array(FRAMES)}


def disturbance(condition: str, config: Evaluate, synapses: int, seed: int) -> Disturbance:
    """What is done to weights before a step, and whether they learn in it, under one of `CONDITIONS`."""
    third = numpy_rng(seed, "third").permutation(synapses)[: synapses // 3]

    def disturb(step: int, weights: Float[np.ndarray, "N S"]) -> bool:
        since = step - config.damage
        if (condition == "zeroed" and since == 0) or (condition == "window" and 0 <= since < config.window):
            weights[:] = 0
        if condition == "third_zeroed" and since == 0:
            weights[:, third] = 0
        if condition == "window" and 0 <= since < config.window:
            return False
        return condition != "unlearning" and not (condition == "frozen" and step >= config.frozen)

    return disturb


def learning(speeds: Mapping[str, Float[np.ndarray, " T"]]) -> dict[str, float]:
    """Mean speeds in steps 50 to 100, in metres a second, and the first as a share of the fastest fifty steps."""
    undisturbed = speeds["undisturbed"]
    fastest = np.convolve(undisturbed, np.ones(50) / 50, "valid").max()
    early = {f"early_{name}": float(speed[50:100].mean()) for name, speed in speeds.items() if name in EARLY}
    return early | {"early_share": early["early_undisturbed"] / float(fastest)}


def recovery(speeds: Mapping[str, Float[np.ndarray, " T"]], config: Evaluate) -> dict[str, float]:
    """Mean speeds from 50 steps after each damage to the end, in metres a second.

    `after_X` is of damaged lives, `undisturbed_X` of undisturbed lives of the same age, and `margin_X` is how much more
    than half of the second the first is.
    """
    ends = {"zeroed": config.damage, "third_zeroed": config.damage, "window": config.damage + config.window}
    ends["frozen"] = config.frozen
    metrics = {}
    for name, end in ends.items():
        if name in speeds:
            damaged, undisturbed = (float(speeds[each][end + REST :].mean()) for each in (name, "undisturbed"))
            metrics |= {f"after_{name}": damaged, f"undisturbed_{name}": undisturbed}
            metrics[f"margin_{name}"] = damaged - undisturbed / 2
    return metrics


def _followed(evolved: Walk, plastic: Float[np.ndarray, "..."], steps: int, seed: int) -> dict[str, np.ndarray]:
    """Weights of a few lives step by step: their first principal components, their variances, and some as pictures."""
    sizes = sizes_of(evolved)
    kept = np.empty((steps, SHOWN, plastic.shape[-1]), np.float32)

    def keep(step: int, weights: Float[np.ndarray, "N S"]) -> bool:
        kept[step] = weights
        return True

    members = np.broadcast_to(plastic, (SHOWN, *plastic.shape))
    lives_of(evolved, members, "standard", steps, (seed, "test", "standard"), stops=False, disturb=keep)
    if evolved.normalise:  # a layer is divided when it is used next
        for layer in np.split(kept[1:], np.cumsum([n * m for n, m in itertools.pairwise(sizes)])[:-1], 2):
            layer /= np.abs(layer).max(2, keepdims=True)
    pictures = (
        kept[list(SNAPSHOTS), 0, : sizes[0] * sizes[1]].reshape(len(SNAPSHOTS), sizes[0], sizes[1]).swapaxes(1, 2)
    )
    points = kept[1:].reshape(-1, plastic.shape[-1]).astype(np.float64)  # birth weights are as random as they are small
    points -= points.mean(0)
    variances, vectors = np.linalg.eigh(points @ points.T)
    variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]
    total = variances.sum() or 1.0
    components = (vectors[:, :3] * np.sqrt(variances[:3])).reshape(-1, SHOWN, 3).swapaxes(0, 1)
    return {
        "path": (components / np.sqrt(total)).astype(np.float32),
        "variances": variances[:10] / total,
        "pictures": (pictures / np.abs(pictures).max((1, 2), keepdims=True)).astype(np.float16),
    }
