"""How well streams are learned: accuracy over all examples so far, and predictions for an example seen again."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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

Learn = Callable[[Any, Array, Float[Array, "T E A"], Float[Array, "T E B"]], Float[Array, "T E B"]]
"""Parameters, key, inputs and one-hot labels to logits."""
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


def watch(
    learn: Learn, params: Any, stream: Stream, seeds: Sequence[int], runs: int, length: int, together: int = 0
) -> Float[np.ndarray, "S runs T"]:
    """Whether each prediction of so many runs a seed was right, one after the other.

    Arguments:
        params: With a leading axis of seeds.
        together: Runs that are computed at once, a divisor of `runs`; 0 for all.
    """
    most = stream.source.most
    length = length if most is None else min(length, most)
    together = together or runs

    @jax.jit
    def every(params: Any, source: Episodes, keys: Array) -> Array:
        def some(params: Any, key: Array) -> Array:
            keys = jax.random.split(key, 3)
            x, labels = jax.vmap(lambda key: source.draw(key, length))(jax.random.split(keys[0], together))
            if stream.change is not None:
                x = jax.vmap(stream.change)(jax.random.split(keys[1], together), x)
            x, labels = x.swapaxes(0, 1), labels.T
            return learn(params, keys[2], x, jax.nn.one_hot(labels, stream.outputs)).argmax(-1).T == labels.T

        return jax.lax.map(lambda mine: jax.lax.map(lambda key: some(mine[0], key), mine[1]), (params, keys))

    keys = _keys(seeds, runs // together, "runs", stream)
    return np.asarray(every(params, stream.source, keys)).reshape(len(seeds), runs, length)


def _keys(seeds: Sequence[int], count: int, purpose: str, stream: Stream) -> Array:
    return jnp.stack([jax.random.split(jax_key(seed, purpose, stream.source.name), count) for seed in seeds])


def cumulative(right: Float[np.ndarray, "... T"]) -> Float[np.ndarray, "... T"]:
    """Accuracy over all predictions so far."""
    return np.cumsum(right, -1) / np.arange(1, right.shape[-1] + 1)


def summarise(curves: Float[np.ndarray, "S T"], counts: Sequence[int]) -> dict[str, Float[np.ndarray, " S"]]:
    """Of cumulative accuracies the values after so many examples, and after all."""
    return {str(count): curves[:, count - 1] for count in counts if count <= curves.shape[1]} | {"end": curves[:, -1]}


def seen_again(
    learn: Learn, params: Any, stream: Stream, seeds: Sequence[int], runs: int, length: int
) -> tuple[Float[np.ndarray, "S runs T 2"], Float[np.ndarray, "S 2*T B"], Int[np.ndarray, "S 2*T"]]:
    """Probability of an example's class when it is new and when it comes again at once (section 5).

    Returns:
        Both probabilities of each example of so many runs; of the first run all probabilities, and the labels.
    """

    @jax.jit
    def every(params: Any, source: Episodes, keys: Array) -> tuple[Array, Array, Array]:
        def one(params: Any, key: Array) -> tuple[Array, Array, Array]:
            keys = jax.random.split(key)
            x, labels = (jnp.repeat(array, 2, 0) for array in source.draw(keys[0], length))
            p = jax.nn.softmax(learn(params, keys[1], x[:, None], jax.nn.one_hot(labels, OUTPUTS)[:, None])[:, 0])
            return jnp.take_along_axis(p, labels[:, None], 1).reshape(length, 2), p, labels

        return jax.lax.map(lambda mine: jax.lax.map(lambda key: one(mine[0], key), mine[1]), (params, keys))

    found, p, labels = every(params, stream.source, _keys(seeds, runs, "seen again", stream))
    return np.asarray(found), np.asarray(p[:, 0]), np.asarray(labels[:, 0])
