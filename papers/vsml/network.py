"""A network of sub-RNNs that learns while it runs: one example after the other, forward only (sections 3 and 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from papers.vsml.layers import Layer, Message
from papers.vsml.sub_rnn import GateOffsets, State, SubRNN

__all__ = ["Memory", "Network", "begin", "bounded", "initial_cells", "learn_example", "learn_online", "predict"]


class Network(NamedTuple):
    """The settings of a network that are not arrays."""

    layers: tuple[Layer, ...]
    micro_ticks: int = 2
    """Ticks of a layer with the same incoming messages."""
    feed_label: bool = False
    """Whether outputs receive the label beside the error."""
    backward_pass: bool = False
    """Whether the layers run again, in reverse, with the new error; otherwise it enters with the next example."""
    two_phase: bool = False
    """Cloning, only with a backward pass: sub-RNNs receive the first channel of forward messages alone in the forward
    pass; in the backward pass that of both, and a flag of 1. A label is not fed."""
    output_channel: int = 1
    """Channel of the last forward message that is the logit; channel 0 of the first is the input (official code)."""
    logit_bound: float | None = 100.0
    """Logits are bound * tanh(z / bound); None for no bound."""
    offsets: GateOffsets = GateOffsets()
    state_type: str | None = None
    """Type of the states between examples; None for the type of the inputs."""
    averaged: bool = False
    """Whether the episodes form one batch: half of the states' features are averaged over it before each example."""


class Memory(NamedTuple):
    """What a network keeps from one example to the next."""

    states: tuple[State, ...]
    """Of the sub-RNNs of each layer."""
    downs: tuple[Message, ...]
    """Backward messages to the outputs of each layer; those of the last layer are the error, and the label if fed, zero
    once a backward pass has used them."""


def bounded(z: Array, bound: float) -> Array:
    """z, smoothly limited to (-bound, bound)."""
    return bound * jnp.tanh(z / bound)


def initial_cells(keys: Key[Array, " E"], network: Network, units: int) -> tuple[Float[Array, "N E ..."], ...]:
    """Cells at the start of episodes: half of the features random, so that sub-RNNs differ; the rest zero.

    The random features are truncated normal with the standard deviation 1 / sqrt(fan-in) before truncation (official
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


def begin(
    params: SubRNN, network: Network, cells: tuple[Float[Array, "N E ..."], ...], outputs: int, dtype: DTypeLike
) -> Memory:
    """The memory before the first example: these cells; hidden states and messages of zero."""
    episodes = cells[0].shape[1]
    hidden = [jnp.zeros((params.message_size, episodes, *layer.nodes[1]), dtype) for layer in network.layers[:-1]]
    feedback = jnp.zeros((1 + network.feed_label, episodes, outputs), dtype)
    states = tuple(State(jnp.zeros_like(cell), cell) for cell in cells)
    return Memory(_stored(network, states, dtype), (*hidden, feedback))


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

    @jax.checkpoint
    def step(memory: Memory, example: tuple[Array, Array]) -> tuple[Memory, Array]:
        return learn_example(params, network, memory, *example)

    memory = begin(params, network, cells, labels.shape[-1], inputs.dtype)
    return jax.lax.scan(step, memory, (inputs, labels))[1]


def learn_example(
    params: SubRNN, network: Network, memory: Memory, x: Float[Array, "E A"], label: Float[Array, "E B"]
) -> tuple[Memory, Float[Array, "E B"]]:
    """One example: predict, then receive the error, at once (`backward_pass`) or with the next example."""
    states, ups, downs = _forwards(params, network, memory, x)
    logits = _logits(network, ups)
    batch = len(x) if network.averaged else 1  # the error is the gradient of the mean loss of a batch
    error = (jax.nn.softmax(logits) - label) / batch
    downs[-1] = jnp.stack([error, label] if network.feed_label else [error])
    if network.backward_pass:
        for index in reversed(range(len(network.layers))):
            down = _flagged(downs[index]) if network.two_phase else downs[index]
            states[index], _, down = _tick(params, network, index, states[index], ups[index], down)
            if index:
                downs[index - 1] = _to_outputs(network, index - 1, down)
        downs[-1] = jnp.zeros_like(downs[-1])
    return Memory(_stored(network, states, x.dtype), tuple(downs)), logits


def predict(params: SubRNN, network: Network, memory: Memory, x: Float[Array, "E A"]) -> Float[Array, "E B"]:
    """Logits alone; nothing is learned."""
    return _logits(network, _forwards(params, network, memory, x)[1])


def _forwards(
    params: SubRNN, network: Network, memory: Memory, x: Float[Array, "E A"]
) -> tuple[list[State], list[Message], list[Message]]:
    """Tick layer after layer; also the forward messages (inputs first), and the backward messages to each layer."""
    states, downs = list(jax.tree.map(lambda s: s.astype(x.dtype), memory.states)), list(memory.downs)
    if network.averaged:
        states = [_average(state) for state in states]
    ups = [x[None]]
    for index in range(len(network.layers)):
        down = downs[index][:0] if network.two_phase else downs[index]
        states[index], up, down = _tick(params, network, index, states[index], ups[-1], down)
        ups.append(up)
        if index:
            downs[index - 1] = _to_outputs(network, index - 1, down)
    return states, ups, downs


def _tick(
    params: SubRNN, network: Network, index: int, state: State, up: Message, down: Message
) -> tuple[State, Message, Message]:
    layer = network.layers[index]
    up = up[:1] if network.two_phase else up
    up, down = (m.reshape(*m.shape[:2], *nodes) for m, nodes in zip((up, down), layer.nodes, strict=True))
    return layer.tick(params, network.offsets, state, up, down, network.micro_ticks)


def _to_outputs(network: Network, index: int, down: Message) -> Message:
    """A backward message as the outputs of a layer receive it: an image, if the layer is a convolution."""
    return down.reshape(*down.shape[:2], *network.layers[index].nodes[1])


def _logits(network: Network, ups: list[Message]) -> Float[Array, "E B"]:
    z = ups[-1][network.output_channel]
    return z if network.logit_bound is None else bounded(z, network.logit_bound)


def _flagged(down: Message) -> Message:
    return jnp.concatenate([down[:1], jnp.ones_like(down[:1])])


def _stored(network: Network, states: list[State] | tuple[State, ...], dtype: DTypeLike) -> tuple[State, ...]:
    return jax.tree.map(lambda s: s.astype(network.state_type or dtype), tuple(states))


def _average(state: State) -> State:
    """The state with the first half of its features averaged over the batch (official code)."""

    def part(s: Array) -> Array:
        half = len(s) // 2
        shared = jnp.broadcast_to(s[:half].mean(1, keepdims=True), s[:half].shape)
        return jnp.concatenate([shared, s[half:]])

    return State(part(state.h), part(state.c))
