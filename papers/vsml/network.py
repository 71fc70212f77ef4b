"""A network of sub-RNNs that learns while it runs: one example after the other, forward only (sections 3 and 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from papers.vsml.layers import Layer
from papers.vsml.sub_rnn import GateOffsets, State, SubRNN

__all__ = ["Network", "bounded", "initial_cells", "learn_online"]

OUTPUT_CHANNEL = 1
"""Channel of the last forward message that is the logit; channel 0 of the first is the input (official code)."""


class Network(NamedTuple):
    """The settings of a network that are not arrays."""

    layers: tuple[Layer, ...]
    micro_ticks: int = 2
    """Ticks of a layer with the same incoming messages."""
    feed_label: bool = False
    """Whether outputs receive the label beside the error."""
    backward_pass: bool = False
    """Whether the layers tick once more in reverse with the new error; otherwise it enters with the next example."""
    logit_bound: float = 100.0
    """Logits are bound * tanh(z / bound)."""
    offsets: GateOffsets = GateOffsets()
    state_type: str | None = None
    """Type of the states between examples; None for the type of the inputs."""
    averaged: bool = False
    """Whether the episodes form one batch: half of the states' features are averaged over it before each example."""


def bounded(z: Array, bound: float) -> Array:
    """z, smoothly limited to (-bound, bound)."""
    return bound * jnp.tanh(z / bound)


def initial_cells(keys: Key[Array, " E"], network: Network, units: int) -> tuple[Float[Array, "N E ..."], ...]:
    """Cells at the start of episodes: half of the features random, so that sub-RNNs differ; the rest zero.

    The random features are truncated normal with the standard deviation 1 / sqrt(inputs) before truncation (official
    code).
    """
    random = units // 2

    def episode(key: Array) -> tuple[Array, ...]:
        cells = []
        keys = jax.random.split(key, len(network.layers))
        for drawing, layer in zip(keys, network.layers, strict=True):
            drawn = jax.random.truncated_normal(drawing, -2, 2, (random, *layer.grid)) / layer.fan_in**0.5
            cells.append(jnp.concatenate([drawn, jnp.zeros((units - random, *layer.grid))]))
        return tuple(cells)

    return jax.vmap(episode, out_axes=1)(keys)


def learn_online(
    params: SubRNN,
    network: Network,
    cells: tuple[Float[Array, "N E ..."], ...],
    inputs: Float[Array, "T E A"],
    labels: Float[Array, "T E B"],
) -> Float[Array, "T E B"]:
    """Logits of each example, predicted before its label is seen.

    Arguments:
        cells: Cells of each layer at the start; hidden states start at zero.
        inputs: E episodes of T examples each.
        labels: One-hot.
    """
    layers = network.layers
    states = tuple(State(jnp.zeros_like(cell), cell) for cell in cells)
    episodes = inputs.shape[1]
    feedback = jnp.zeros((1 + network.feed_label, episodes, labels.shape[-1]), inputs.dtype)
    hidden = [jnp.zeros((params.message_size, episodes, *layer.nodes[1]), inputs.dtype) for layer in layers[:-1]]

    def tick(index: int, state: State, up: Array, down: Array) -> tuple[State, Array, Array]:
        layer = layers[index]
        up, down = (m.reshape(*m.shape[:2], *nodes) for m, nodes in zip((up, down), layer.nodes, strict=True))
        return layer.tick(params, network.offsets, state, up, down, network.micro_ticks)

    def keep(states: tuple[State, ...]) -> tuple[State, ...]:
        return jax.tree.map(lambda s: s.astype(network.state_type or inputs.dtype), states)

    @jax.checkpoint
    def step(carry: tuple, example: tuple[Array, Array]) -> tuple[tuple, Array]:
        x, label = example
        states, downs = list(jax.tree.map(lambda s: s.astype(x.dtype), carry[0])), list(carry[1])
        if network.averaged:
            states = [_average(state) for state in states]
        ups = [x[None]]
        for index in range(len(layers)):
            states[index], up, down = tick(index, states[index], ups[-1], downs[index])
            ups.append(up)
            if index:
                downs[index - 1] = down
        logits = bounded(ups[-1][OUTPUT_CHANNEL], network.logit_bound)
        batch = episodes if network.averaged else 1  # the error is the gradient of the mean loss of a batch
        error = (jax.nn.softmax(logits) - label) / batch
        downs[-1] = jnp.stack([error, label] if network.feed_label else [error])
        if network.backward_pass:
            for index in reversed(range(len(layers))):
                states[index], _, down = tick(index, states[index], ups[index], downs[index])
                if index:
                    downs[index - 1] = down
            downs[-1] = jnp.zeros_like(downs[-1])
        return (keep(tuple(states)), tuple(downs)), logits

    return jax.lax.scan(step, (keep(states), (*hidden, feedback)), (inputs, labels))[1]


def _average(state: State) -> State:
    """The state with the first half of its features averaged over the batch (official code)."""

    def part(s: Array) -> Array:
        half = len(s) // 2
        shared = jnp.broadcast_to(s[:half].mean(1, keepdims=True), s[:half].shape)
        return jnp.concatenate([shared, s[half:]])

    return State(part(state.h), part(state.c))
