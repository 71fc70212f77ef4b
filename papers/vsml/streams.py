"""How well streams are learned: accuracy over all examples so far, and predictions for examples that are repeated."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common.train.seeding import jax_key
from papers.vsml import tasks
from papers.vsml.config import TaskName
from papers.vsml.learners import Learn
from papers.vsml.tasks import Episodes

__all__ = ["Stream", "condition", "correct_predictions", "cumulative", "seen_again", "summarise"]

FIVE = (5, 8, 1, 4, 2)
"""Classes of the condition of five, in the order of their new labels (official code)."""


BLOCK = 10
"""Images that are shown before all of them are repeated."""


class Stream(NamedTuple):
    """The source of examples, their number of classes, and how their inputs are changed."""

    source: Episodes
    outputs: int
    change: Callable[[Array, Array], Array] | None = None
    """From a key and inputs (T, A) to changed inputs (T, A); None for no change."""


def condition(name: str, task: TaskName) -> Stream:
    """A test of invariance, one of `config.CONDITIONS`: another number of classes or pixels, or transformed pixels."""
    side = {"21 pixels": 21, "48 pixels": 48}.get(name, 28)
    source = tasks.load(task, "test", side)
    if name == "five classes":
        labels = np.asarray(source.labels)
        included = np.isin(labels, FIVE)
        new = np.array([FIVE.index(label) for label in labels[included]])
        source = Episodes(source.name, side, source.images[included], jnp.asarray(new))
        return Stream(source, len(FIVE))
    if name == "projected":
        return Stream(source, 10, tasks.project)
    if name == "shuffled":
        return Stream(source, 10, lambda key, x: x[:, jax.random.permutation(key, x.shape[1])])
    return Stream(source, 10)


def correct_predictions(
    learn: Learn,
    params: Any,
    stream: Stream,
    seeds: Sequence[int],
    runs: int,
    length: int,
    purpose: str = "test",
    batch_size: int = 0,
) -> Float[np.ndarray, "S runs T"]:
    """Whether each successive prediction is correct, in `runs` runs for each seed.

    A run's examples depend on its seed, number and purpose alone, so all learners see the same examples.

    Arguments:
        params: Parameters with a leading axis of seeds.
        batch_size: Runs that are computed at once, a divisor of `runs`; 0 for all.
    """
    longest = stream.source.longest
    length = length if longest is None else min(length, longest)

    @jax.jit
    def measure_all_seeds(params: Any, source: Episodes, keys: Array) -> Array:
        def measure_runs(params: Any, keys: Array) -> Array:
            drawing, changing, starting = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
            x, labels = jax.vmap(lambda key: source.draw(key, length))(drawing)
            if stream.change is not None:
                x = jax.vmap(stream.change)(changing, x)
            logits = learn(params, starting, x.swapaxes(0, 1), jax.nn.one_hot(labels.T, stream.outputs))
            return labels == logits.argmax(-1).T

        return jax.lax.map(
            lambda member: jax.lax.map(lambda keys: measure_runs(member[0], keys), member[1]), (params, keys)
        )

    keys = _keys(seeds, runs, purpose, stream).reshape(len(seeds), -1, batch_size or runs)
    return np.asarray(measure_all_seeds(params, stream.source, keys)).reshape(len(seeds), runs, length)


def _keys(seeds: Sequence[int], count: int, purpose: str, stream: Stream) -> Array:
    return jnp.stack([jax.random.split(jax_key(seed, purpose, stream.source.name), count) for seed in seeds])


def cumulative(correct: Float[np.ndarray, "... T"]) -> Float[np.ndarray, "... T"]:
    """Accuracy over all predictions so far."""
    return np.cumsum(correct, -1) / np.arange(1, correct.shape[-1] + 1)


def summarise(curves: Float[np.ndarray, "S T"], counts: Sequence[int]) -> dict[str, Float[np.ndarray, " S"]]:
    """Cumulative accuracies after each of the given numbers of examples, and after all (`end`)."""
    return {str(count): curves[:, count - 1] for count in counts if count <= curves.shape[1]} | {"end": curves[:, -1]}


def seen_again(
    learn: Learn, params: Any, stream: Stream, seeds: Sequence[int], runs: int, length: int
) -> tuple[Float[np.ndarray, "S runs T 2"], Float[np.ndarray, "S 2*T B"], Int[np.ndarray, "S 2*T"]]:
    """Probability of an example's class when it is new and when it is repeated (section 5).

    Examples come in blocks of `BLOCK`, each shown two times: nine other images lie between an image and its repeat.

    Returns:
        Both probabilities of each example of all runs; the probabilities of all classes in the first run; its labels.
    """

    def repeat_blocks(array: Array) -> Array:
        blocks = array.reshape(-1, 1, BLOCK, *array.shape[1:])
        return jnp.concatenate([blocks, blocks], 1).reshape(-1, *array.shape[1:])

    @jax.jit
    def measure_all_seeds(params: Any, source: Episodes, keys: Array) -> tuple[Array, Array, Array]:
        def measure_run(params: Any, key: Array) -> tuple[Array, Array, Array]:
            keys = jax.random.split(key)
            x, labels = (repeat_blocks(array) for array in source.draw(keys[0], length))
            logits = learn(params, keys[1:], x[:, None], jax.nn.one_hot(labels, stream.outputs)[:, None])
            p = jax.nn.softmax(logits[:, 0])
            true_class = jnp.take_along_axis(p, labels[:, None], 1).reshape(-1, 2, BLOCK)
            return true_class.swapaxes(1, 2).reshape(length, 2), p, labels

        return jax.lax.map(
            lambda member: jax.lax.map(lambda key: measure_run(member[0], key), member[1]), (params, keys)
        )

    pair_probabilities, p, labels = measure_all_seeds(params, stream.source, _keys(seeds, runs, "seen again", stream))
    return np.asarray(pair_probabilities), np.asarray(p[:, 0]), np.asarray(labels[:, 0])
