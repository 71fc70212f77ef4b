"""What evolved quadrupeds do on each body, and what becomes of them when their weights are destroyed (section 4)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from common.errors import RefigureError
from common.room.config import build
from common.train.loop import parts
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from papers.hebbian_abcd.config import BODIES, Evaluate, Walk
from papers.hebbian_abcd.evolution import birth
from papers.hebbian_abcd.lifetime import Disturbance, herd_of, live
from papers.hebbian_abcd.walk import lives_of, sizes_of

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["CONDITIONS", "disturbance", "train"]

CONDITIONS = ("undisturbed", "zeroed", "third_zeroed", "window", "frozen", "unlearning")
"""Nothing is done; all weights are set to zero once; a third of them is; all are held at zero for a window; weights
stop to learn at a step; weights never learn."""
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
    if steps < config.damage + config.window + 2 * REST:
        raise RefigureError(
            f"steps: lives of {steps} end before anything is seen of a damage at step {config.damage}: "
            f"give {config.damage + config.window + 2 * REST} at least"
        )

    def test(body: str, **options: Any) -> Float[np.ndarray, "T N"]:
        """Lives of which births and poses are the same whatever is done to them."""
        members = np.broadcast_to(plastic, (config.lifetimes, *plastic.shape))
        return lives_of(evolved, members, body, steps, numpy_rng(seed, "test", body), **options).progress

    def walk(body: str) -> dict[str, np.ndarray]:
        return {"distance": test(body).sum(0)}

    def suffer(condition: str) -> dict[str, np.ndarray]:
        disturb = disturbance(condition, config, plastic.shape[-1], seed)
        return {"speed": test("standard", stops=False, disturb=disturb).mean(1)}

    work: dict[str, Callable[[], dict[str, np.ndarray]]] = {body: lambda body=body: walk(body) for body in BODIES}
    work |= {condition: lambda condition=condition: suffer(condition) for condition in CONDITIONS}
    work["weights"] = lambda: _followed(evolved, plastic, steps, seed)
    work["film"] = lambda: _filmed(evolved, plastic, seed)
    results = parts(work, run)
    distances = {body: results[body]["distance"] for body in BODIES}
    speeds = {condition: results[condition]["speed"] for condition in CONDITIONS}
    metrics = {f"distance_{body}": float(values.mean()) for body, values in distances.items()}
    metrics["unseen_kept"] = metrics["distance_left"] / metrics["distance_standard"]
    metrics |= _learning(speeds) | _recovery(speeds, config)
    metrics["components"] = float(results["weights"]["variances"][:3].sum())
    arrays = {f"distance_{body}": values[None] for body, values in distances.items()}
    arrays |= {f"speed_{condition}": values[None] for condition, values in speeds.items()}
    arrays |= {name: values[None] for name, values in (results["weights"] | results["film"]).items()}
    return Outcome(metrics={name: [value] for name, value in metrics.items()}, arrays=arrays)


def _filmed(evolved: Walk, plastic: Float[np.ndarray, "..."], seed: int) -> dict[str, np.ndarray]:
    """Postures of one life, a few steps apart."""
    rng, herd, frames = numpy_rng(seed, "test", "standard"), herd_of(evolved.engine, ["standard"]), []

    def watch(step: int, weights: Float[np.ndarray, "N S"]) -> bool:
        if step in FRAMES:
            frames.append(herd.posture())
        return True

    weights, changes = birth(evolved, plastic[None], rng)
    live(herd, weights, changes, sizes_of(evolved), FRAMES[-1] + 1, rng, normalise=evolved.normalise, disturb=watch)
    return {"frames": np.array(frames, np.float32), "frame_steps": np.array(FRAMES)}


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


def _learning(speeds: dict[str, Float[np.ndarray, " T"]]) -> dict[str, float]:
    """Mean speeds of the first hundred steps, in metres a second, and the first over that of later steps."""
    early, late = float(speeds["undisturbed"][50:100].mean()), float(speeds["undisturbed"][100:].mean())
    unlearning = float(speeds["unlearning"][50:100].mean())
    return {"speed_early": early, "speed_late": late, "early_share": early / late, "speed_unlearning": unlearning}


def _recovery(speeds: dict[str, Float[np.ndarray, " T"]], config: Evaluate) -> dict[str, float]:
    """Mean speeds after each damage, of undisturbed lives of the same age, and the first over the second."""
    ends = {"zeroed": config.damage, "third_zeroed": config.damage, "window": config.damage + config.window}
    metrics = {}
    for name, end in {**ends, "frozen": config.frozen}.items():
        after, beside = (float(speeds[condition][end + REST :].mean()) for condition in (name, "undisturbed"))
        metrics |= {f"after_{name}": after, f"beside_{name}": beside, f"kept_{name}": after / beside}
    return metrics


def _followed(evolved: Walk, plastic: Float[np.ndarray, "..."], steps: int, seed: int) -> dict[str, np.ndarray]:
    """Weights of a few lives step by step: their first principal components, their variances, and some as pictures."""
    sizes = sizes_of(evolved)
    kept = np.empty((steps, SHOWN, plastic.shape[-1]), np.float32)

    def keep(step: int, weights: Float[np.ndarray, "N S"]) -> bool:
        kept[step] = weights
        return True

    members = np.broadcast_to(plastic, (SHOWN, *plastic.shape))
    lives_of(evolved, members, "standard", steps, numpy_rng(seed, "test", "standard"), stops=False, disturb=keep)
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
