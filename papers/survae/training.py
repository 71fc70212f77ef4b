"""What experiments B and C share: gradient steps on examples that all seeds read, and bounds on test examples."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, PRNGKeyArray, Shaped

from common.errors import RefigureError
from common.train.jax import batch_seeds, scan_train
from common.train.recorder import Recorder
from common.train.seeding import jax_key, numpy_rng
from papers.survae.flow import Flow, iwbo

__all__ = ["bounds", "draws", "epoch_order", "fit"]


class State(NamedTuple):
    """The state of training; every array has a leading axis of seeds."""

    model: Flow
    optimiser: optax.OptState
    key: PRNGKeyArray


def fit(
    model: Callable[[PRNGKeyArray], Flow],
    examples: Shaped[np.ndarray, "n ..."],
    optimiser: optax.GradientTransformation,
    seeds: Sequence[int],
    *,
    steps: int,
    batch: int,
    chunk: int,
    recorder: Recorder,
    vary: Callable[[Array, PRNGKeyArray], Array] | None = None,
) -> Flow:
    """Models of all seeds, trained on their mean negative log-likelihood (or its bound) per example, in nats.

    Each seed has its own initial weights, order of examples and random draws; layers with data-dependent parameters
    are set from the first batch.

    Arguments:
        model: From a key to an untrained model.
        examples: What all seeds train on.
        vary: Changes a batch at random, as augmentation does.
        chunk: Steps between two lines of the metrics stream.
    """
    orders = np.stack([epoch_order(seed, len(examples), steps * batch) for seed in seeds])
    firsts = jnp.asarray(examples[orders[:, :batch]])
    keys = jnp.stack([jax_key(seed, "initialise") for seed in seeds])

    def init(key: PRNGKeyArray) -> State:
        flow = model(jax.random.fold_in(key, 0))
        return State(flow, optimiser.init(eqx.filter(flow, eqx.is_inexact_array)), jax.random.fold_in(key, 1))

    def update(state: State, batch: Array, index: Int32[Array, ""]) -> tuple[State, Float[Array, ""]]:
        vary_key, key = jax.random.split(jax.random.fold_in(state.key, index))
        batch = batch if vary is None else vary(batch, vary_key)
        loss, gradient = eqx.filter_value_and_grad(lambda flow: -flow.log_prob(batch, key).mean())(state.model)
        parameters = eqx.filter(state.model, eqx.is_inexact_array)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, parameters)
        return State(eqx.apply_updates(state.model, updates), optimiser_state, state.key), loss

    def step(examples: Array, orders: Array, state: State, index: Int32[Array, ""]) -> tuple[State, dict[str, Array]]:
        chosen = jax.lax.dynamic_slice_in_dim(orders, index * batch, batch, axis=1)
        state, loss = eqx.filter_vmap(update, in_axes=(eqx.if_array(0), 0, None))(state, examples[chosen], index)
        return state, {"nll": loss}

    state = batch_seeds(init, seeds)
    ready = eqx.filter_jit(eqx.filter_vmap(lambda flow, x, key: flow.initialise(x, key)))(state.model, firsts, keys)
    state = scan_train(
        eqx.Partial(step, jnp.asarray(examples), jnp.asarray(orders)),
        State(ready, state.optimiser, state.key),
        steps=steps,
        chunk=chunk,
        recorder=recorder,
    )
    return state.model


def epoch_order(seed: int, size: int, count: int) -> Int32[np.ndarray, " count"]:
    """`count` indices below `size`: every one once an epoch, in another order each epoch."""
    epochs = [numpy_rng(seed, "order", epoch).permutation(size) for epoch in range(-(-count // size))]
    return np.concatenate(epochs)[:count].astype(np.int32)


def bounds(
    models: Flow, x: Shaped[np.ndarray, "n ..."], k: int, keys: Shaped[Array, " S"], batch: int
) -> Float[np.ndarray, "S n"]:
    """The importance-weighted bound of k draws on the log-likelihood of each example, in nats; exact models' own.

    Raises:
        RefigureError: One is not finite.
    """
    evaluate = eqx.filter_jit(
        eqx.filter_vmap(lambda flow, x, key: iwbo(flow, x, k, key, 1), in_axes=(eqx.if_array(0), None, 0))
    )
    parts = []
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        padded = np.concatenate((part, x[: batch - len(part)]))  # one program for all parts
        part_keys = jax.vmap(lambda key, start=start: jax.random.fold_in(key, start))(keys)
        parts.append(np.asarray(evaluate(models, jnp.asarray(padded), part_keys))[:, : len(part)])
    values = np.concatenate(parts, 1)
    if not np.isfinite(values).all():
        raise RefigureError("a trained model has a log-likelihood that is not finite; the last checkpoint is kept")
    return values


def draws(models: Flow, keys: Shaped[Array, " S"], count: int) -> Array:
    """Samples (S, count, ...) of each model."""
    return eqx.filter_jit(eqx.filter_vmap(lambda flow, key: flow.sample(key, count)))(models, keys)
