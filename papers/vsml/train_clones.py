"""Training sub-RNNs to be backpropagation, all seeds as one batch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int32

from common.train.jax import batch_seeds, batch_step, scan_train
from common.train.recorder import Outcome, Recorder
from common.train.trees import flatten_jax
from papers.vsml import tasks
from papers.vsml.cloning import Rule, cloning_loss, draw_network, draw_signals, draw_weights, fresh, network_loss
from papers.vsml.config import Clone, CloneOnPolicy
from papers.vsml.sub_rnn import State, SubRNN, init_sub_rnn
from papers.vsml.tasks import Episodes

__all__ = ["init_clone", "train"]

CHUNK = 250
"""Steps between two lines of the metrics stream."""
EASED_UNTIL = (0.1, 0.6)
"""Shares of the steps at which the cloned rate begins to fall, and at which it has fallen."""
DIVERGED = 20.0
"""Grids and networks with a cell beyond this value are drawn anew: the states of an untrained clone may diverge."""


class Training(NamedTuple):
    """The state of training; every array has a leading axis of seeds."""

    params: SubRNN
    optimiser: optax.OptState
    grids: State
    """States of the synapses, which carry over from step to step."""
    networks: tuple[State, ...]
    """States of the layers of networks of clones; none but on policy."""
    key: Array


def init_clone(config: Clone, key: Array) -> SubRNN:
    """Initial parameters. Messages have two numbers, for the error and the flag; forwards only the first is used."""
    return init_sub_rnn(key, config.units, 2)


def train(config: Clone, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train one clone a seed."""
    shape = (config.grids, config.outputs, config.inputs)
    images = tasks.load("mnist", "train", tasks.SIDE).images if config.signals == "mnist" else jnp.zeros((1, 1))
    mnist = tasks.load("mnist", "train", config.side) if isinstance(config, CloneOnPolicy) else None
    descent = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.iterations)),
    )

    def rule(index: Int32[Array, ""]) -> Rule:
        """The algorithm that is cloned at a step: descent with rates that fall exponentially to the configured ones."""
        begin, end = EASED_UNTIL
        remaining = jnp.clip((end - index / config.iterations) / (end - begin), 0, 1)
        return Rule(config.rate * config.eased**remaining, config.bias_rate * config.eased**remaining)

    def fresh_networks(key: Array) -> tuple[State, ...]:
        if not isinstance(config, CloneOnPolicy):
            return ()
        layers = draw_network(key, [config.side**2, *config.hidden, 10], config.networks)
        return tuple(fresh(*layer, config.units) for layer in layers)

    def init(key: Array) -> Training:
        keys = jax.random.split(key, 3)
        params, grids = init_clone(config, keys[0]), fresh(*draw_weights(keys[1], shape), config.units)
        networks = fresh_networks(jax.random.fold_in(key, 3))
        return Training(params, descent.init(params), grids, networks, keys[2])

    def step(
        images: Array, mnist: Episodes | None, state: Training, index: Int32[Array, ""]
    ) -> tuple[Training, Mapping[str, Array]]:
        keys = jax.random.split(jax.random.fold_in(state.key, index), 3)
        fresh_grids = fresh(*draw_weights(keys[0], shape), config.units)
        grids = _renew(jax.random.bernoulli(keys[1], config.renewed, (config.grids,)), fresh_grids, state.grids)
        xs, es = draw_signals(keys[2], config.signals, images, (config.examples, *shape))
        (loss, (grids, metrics)), gradient = jax.value_and_grad(cloning_loss, has_aux=True)(
            state.params, rule(index), grids, xs, es, config.ticks
        )
        networks = state.networks
        if isinstance(config, CloneOnPolicy):
            keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, index), 3), 3)
            ends = jax.random.bernoulli(keys[0], config.examples / config.life, (config.networks,))
            begun = fresh_networks(keys[1])
            chosen = jax.random.randint(keys[2], (config.examples, config.networks), 0, len(mnist.images))
            (network, (networks, network_metrics)), network_gradient = jax.value_and_grad(network_loss, has_aux=True)(
                state.params, rule(index), _renew_all(ends, begun, networks), mnist.images[chosen],
                jax.nn.one_hot(mnist.labels[chosen], 10), config.ticks,
            )  # fmt: skip
            networks = _renew_all(_diverged(networks), begun, networks)
            loss, gradient = loss + network, jax.tree.map(jnp.add, gradient, network_gradient)
            metrics |= {f"network_{name}": value for name, value in network_metrics.items()}
        updates, optimiser = descent.update(gradient, state.optimiser)
        grids = _renew(_diverged([grids]), fresh_grids, grids)
        params = optax.apply_updates(state.params, updates)
        return Training(params, optimiser, grids, networks, state.key), {"loss": loss} | metrics

    state = scan_train(
        batch_step(eqx.Partial(step, images, mnist)),
        batch_seeds(init, seeds),
        steps=config.iterations,
        chunk=CHUNK,
        recorder=run,
    )
    count = sum(array[0].size for array in jax.tree.leaves(state.params))
    return Outcome(metrics={"parameters": [count] * len(seeds)}, parameters=flatten_jax(state.params))


def _diverged(layers: Sequence[State]) -> Bool[Array, " E"]:
    """Which grids or networks have a cell that diverges."""
    return jnp.stack([jnp.abs(layer.c).max((0, 2, 3)) > DIVERGED for layer in layers]).any(0)


def _renew(renewed: Bool[Array, " E"], fresh_grids: State, grids: State) -> State:
    """The grids, of which those with true entries in `renewed` are replaced by fresh ones."""
    return jax.tree.map(lambda new, old: jnp.where(renewed[:, None, None], new, old), fresh_grids, grids)


def _renew_all(renewed: Bool[Array, " E"], begun: tuple[State, ...], networks: tuple[State, ...]) -> tuple[State, ...]:
    return tuple(_renew(renewed, *layers) for layers in zip(begun, networks, strict=True))
