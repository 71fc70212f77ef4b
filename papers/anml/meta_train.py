"""Meta-training of every treatment: compiled meta-iterations, drawings on the device, all seeds as one batch."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from common.train.jax import batch_seeds, batch_step, scan_train
from common.train.recorder import Outcome, Recorder
from common.train.trees import flatten_jax
from papers.anml import omniglot
from papers.anml.config import MetaTrain
from papers.anml.fast_meta_learning import fast_meta_gradient, images_at_once, mean_gradient
from papers.anml.meta_learning import Learner, Scheme, logits, representation, reset_row
from papers.anml.networks import NETWORKS, init_dense, init_trunk

__all__ = ["init_learner", "scheme", "train"]

CHUNK = 50
"""Meta-iterations between two lines of the metrics stream."""


class State(NamedTuple):
    """The state of meta-training; every array has a leading axis of seeds."""

    learner: Learner
    optimiser: optax.OptState
    key: Array


def scheme(config: MetaTrain) -> Scheme:
    """The settings of a treatment that are not arrays."""
    return Scheme(NETWORKS[config.network], config.plastic, config.gradient, config.inner_rate)


def init_learner(config: MetaTrain, key: Array) -> Learner:
    """Initial parameters of a learner: Kaiming-normal weights in all networks."""
    blocks = NETWORKS[config.network]
    keys = jax.random.split(key, 5)
    size = 9 * config.channels
    head = [init_dense(keys[0], size, config.hidden)] if config.hidden else []
    head.append(init_dense(keys[1], config.hidden or size, config.outputs))
    inputs = 3 if config.pixels == "published" else 1
    learner = Learner(init_trunk(keys[2], blocks, config.channels, inputs), tuple(head))
    if not config.neuromodulation:
        return learner
    return learner._replace(
        nm_trunk=init_trunk(keys[3], blocks, config.nm_channels, inputs),
        nm_out=init_dense(keys[4], 9 * config.nm_channels, size),
    )


def train(config: MetaTrain, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Meta-train one learner per seed. Learners of the batch share nothing but the drawings."""
    drawings = omniglot.scale(omniglot.load("background", config.side)[: config.classes], config.pixels)
    adam = optax.adam(config.outer_rate)

    def init(key: Array) -> State:
        learner = init_learner(config, jax.random.fold_in(key, 0))
        return State(learner, adam.init(learner), jax.random.fold_in(key, 1))

    def step(drawings: Array, state: State, index: Int32[Array, ""]) -> tuple[State, dict[str, Array]]:
        learner, gradient, metrics = _gradient(config, state.learner, drawings, jax.random.fold_in(state.key, index))
        updates, optimiser = adam.update(gradient, state.optimiser)
        return State(optax.apply_updates(learner, updates), optimiser, state.key), metrics

    state = scan_train(
        batch_step(eqx.Partial(step, jnp.asarray(drawings[..., None]))),
        batch_seeds(init, seeds),
        steps=0 if config.objective == "none" else config.iterations,
        chunk=CHUNK,
        recorder=run,
    )
    return Outcome(
        metrics={"parameters": [_count_parameters(state.learner) / len(seeds)] * len(seeds)},
        parameters=flatten_jax(state.learner),
    )


def _gradient(
    config: MetaTrain, learner: Learner, drawings: Array, key: Array
) -> tuple[Learner, Learner, dict[str, Array]]:
    """Algorithm 1 of the paper: draw a class, reset its output row, learn it, and measure on it and on all classes.

    Pre-training classifies as many drawings of all classes instead, and resets nothing.

    Returns:
        The learner, with the row reset; the gradient; and metrics.
    """
    classes, count = drawings.shape[:2]
    rule, steps = scheme(config), config.inner_steps

    if config.objective == "iid":
        size = config.remember + steps
        chosen = jax.random.choice(key, classes * count, (size,), replace=False)
        x, labels = drawings[chosen // count, chosen % count], chosen // count

        def class_scores(learner: Learner, x: Array) -> Array:
            return logits(learner.head, representation(learner, rule, x))

        gradient, losses, correct = mean_gradient(class_scores, learner, x, labels, images_at_once(rule, size))
        return learner, gradient, {"loss": losses.mean(), "accuracy": correct.mean()}

    keys = jax.random.split(key, 4)
    label = jax.random.randint(keys[0], (), 0, classes)
    order = jax.random.permutation(keys[1], count)[:steps]
    remembered = jax.random.choice(keys[2], classes * count, (config.remember,), replace=False)
    x = jnp.concatenate([drawings[remembered // count, remembered % count], drawings[label, order]])
    labels = jnp.concatenate([remembered // count, jnp.broadcast_to(label, steps)])
    learner = learner._replace(head=reset_row(learner.head, keys[3], label))
    return learner, *fast_meta_gradient(learner, rule, x, labels, steps)


def _count_parameters(learner: Learner) -> int:
    return sum(array.size for array in jax.tree.leaves(learner))
