"""How well streams are learned: accuracy over all examples so far, and predictions for an example seen again."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common.seeding import jax_key
from papers.vsml import tasks
from papers.vsml.config import TaskName
from papers.vsml.learners import OUTPUTS
from papers.vsml.tasks import Episodes

__all__ = ["Learn", "Stream", "condition", "cumulative", "seen_again", "summarise", "watch"]

Learn = Callable[[Array, Float[Array, "T E A"], Float[Array, "T E B"]], Float[Array, "T E B"]]
"""Key, inputs and one-hot labels to logits."""
FIVE = (5, 8, 1, 4, 2)
"""Classes of the condition of five, in the order of their new labels (official code)."""


class Stream(NamedTuple):
    """Where examples come from, how many classes they have, and what is done to them."""

    source: Episodes
    outputs: int = OUTPUTS
    change: Callable[[Array, Array], Array] | None = None
    """Key and inputs (T, A) to inputs."""


def condition(name: str, task: TaskName) -> Stream:
    """A test of invariance, one of `config.CONDITIONS`: another number of classes or pixels, or pixels in disguise."""
    side = {"21 pixels": 21, "48 pixels": 48}.get(name, 28)
    source = tasks.load(task, "test", side)
    if name == "five classes":
        labels = np.asarray(source.labels)
        kept = np.isin(labels, FIVE)
        new = np.array([FIVE.index(label) for label in labels[kept]])
        source = Episodes(source.name, side, source.images[kept], jnp.asarray(new))
        return Stream(source, len(FIVE))
    if name == "projected":
        return Stream(source, change=tasks.project)
    if name == "shuffled":
        return Stream(source, change=lambda key, x: x[:, jax.random.permutation(key, x.shape[1])])
    return Stream(source)


def watch(learn: Learn, stream: Stream, seed: int, runs: int, length: int) -> Float[np.ndarray, "runs T"]:
    """Whether each prediction of so many runs was right, one after the other."""
    most = stream.source.most
    length = length if most is None else min(length, most)

    def one(key: Array) -> Array:
        keys = jax.random.split(key, 3)
        x, labels = stream.source.draw(keys[0], length)
        if stream.change is not None:
            x = stream.change(keys[1], x)
        logits = learn(keys[2], x[:, None], jax.nn.one_hot(labels, stream.outputs)[:, None])
        return logits[:, 0].argmax(-1) == labels

    keys = jax.random.split(jax_key(seed, "runs", stream.source.name), runs)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys))


def cumulative(right: Float[np.ndarray, "runs T"]) -> Float[np.ndarray, "runs T"]:
    """Accuracy over all predictions so far."""
    return np.cumsum(right, 1) / np.arange(1, right.shape[1] + 1)


def summarise(right: Float[np.ndarray, "runs T"], counts: Sequence[int]) -> dict[str, float]:
    """Cumulative accuracy, mean over runs, after so many examples and after all."""
    mean = cumulative(right).mean(0)
    return {str(count): float(mean[count - 1]) for count in counts if count <= len(mean)} | {"end": float(mean[-1])}


def seen_again(
    learn: Learn, source: Episodes, seed: int, runs: int, length: int
) -> tuple[Float[np.ndarray, "runs T 2"], Float[np.ndarray, "2*T B"], Int[np.ndarray, " 2*T"]]:
    """Probability of an example's class when it is new and when it comes again at once (section 5).

    Returns:
        Both probabilities of each example of so many runs; of the first run all probabilities, and the labels.
    """

    def one(key: Array) -> tuple[Array, Array, Array]:
        keys = jax.random.split(key)
        x, labels = (jnp.repeat(array, 2, 0) for array in source.draw(keys[0], length))
        logits = learn(keys[1], x[:, None], jax.nn.one_hot(labels, OUTPUTS)[:, None])
        p = jax.nn.softmax(logits[:, 0])
        return jnp.take_along_axis(p, labels[:, None], 1).reshape(length, 2), p, labels

    keys = jax.random.split(jax_key(seed, "seen again", source.name), runs)
    found, p, labels = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    return np.asarray(found), np.asarray(p[0]), np.asarray(labels[0])
