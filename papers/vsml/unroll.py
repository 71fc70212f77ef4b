"""Networks of clones that learn MNIST and Fashion-MNIST by ticks alone, and true gradient descent (figure 4)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from common.room.config import build
from common.train.jax import batch_seeds
from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key
from common.train.trees import unflatten_jax
from papers.vsml import tasks
from papers.vsml.cloning import Rule, descend_online, unroll
from papers.vsml.config import Clone, TaskName, Unroll
from papers.vsml.sub_rnn import SubRNN
from papers.vsml.train_clones import init_clone

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["train"]

Results = dict[str, np.ndarray]
Learn = Callable[[tuple[Array, ...], Array, Array, Array, Array], tuple[Array, Array]]
"""From weights, images (n, A), labels (n,), the order of examples (T, 1) and unseen images (m, A) to the logits of
examples and unseen images."""


def train(config: Unroll, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Unroll the clones of a training run, one after the other."""
    trained: Clone = build(Clone, dict(parent.identity.config), "the cloning run")
    clones = unflatten_jax(batch_seeds(lambda key: init_clone(trained, key), seeds), parent.parameters)
    rule = Rule(trained.rate, trained.bias_rate)
    programs = {
        "clone": _compiled(lambda params, *given: unroll(params, *given, ticks=trained.ticks)),
        "true": _compiled(lambda params, *given: descend_online(rule, *given)),
    }
    members = []
    for index, seed in enumerate(seeds):
        params = jax.tree.map(lambda array, index=index: array[index], clones)
        results: Results = {}
        for name in config.tasks:
            for kind, program in programs.items():
                measured = _measure(config, name, partial(program, params), seed)
                results |= {f"{name}_{kind}_{key}": value for key, value in measured.items()}
            results[f"{name}_behind"] = results[f"{name}_true_test_accuracy"] - results[f"{name}_clone_test_accuracy"]
        members.append(results)
        run.progress(index + 1, len(seeds))
    scalars = {name for name in members[0] if members[0][name].ndim == 0}
    return Outcome(
        metrics={name: [float(member[name]) for member in members] for name in sorted(scalars)},
        arrays={name: np.stack([member[name] for member in members]) for name in members[0] if name not in scalars},
    )


def _compiled(learn: Callable[..., tuple[Array, Array]]) -> Callable[..., tuple[Array, Array]]:
    """One program for all seeds and data sets, from parameters and the arguments of `Learn`."""

    @jax.jit
    def run(params: SubRNN, weights: tuple, images: Array, labels: Array, order: Array, unseen: Array) -> tuple:
        return learn(params, weights, images[order], labels[order], unseen)

    return run


def _measure(config: Unroll, name: TaskName, learn: Learn, seed: int) -> Results:
    """Loss and accuracy over windows of a stream, and accuracy on test images after its end."""
    stream, unseen = tasks.load(name, "train", config.side), tasks.load(name, "test", config.side)
    keys = jax.random.split(jax_key(seed, "stream", name))
    order = jax.random.permutation(keys[0], len(stream.images))
    order = jnp.resize(order, config.length)[:, None]
    sizes = [stream.inputs, *config.hidden, 10]
    weights = tuple(
        jax.random.normal(key, (1, b, a)) / a**0.5
        for key, a, b in zip(jax.random.split(keys[1], len(sizes) - 1), sizes[:-1], sizes[1:], strict=True)
    )

    tested_images = unseen.images[: config.tested]
    logits, tested = learn(weights, stream.images, stream.labels, order, tested_images)
    return _curves(logits, stream.labels[order], config.window) | {
        "test_accuracy": np.asarray((tested.argmax(-1) == unseen.labels[: config.tested, None]).mean())
    }


def _curves(logits: Float[Array, "T E C"], labels: Int[Array, "T E"], window: int) -> Results:
    def windows(values: Array) -> np.ndarray:
        return np.asarray(values.reshape(-1, window, values.shape[1]).mean((1, 2)))

    loss = windows(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    accuracy = windows(logits.argmax(-1) == labels)
    return {"loss": loss, "accuracy": accuracy}
