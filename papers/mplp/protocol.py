"""The protocol: weights, biases, activations and losses as agents, and one step of learning by their messages.

After the ordinary forward pass, messages go backwards: from the loss through each layer, within a dense layer first to
the biases, then to the weights. Every agent receives a message (that of the loss: the elementwise loss) and the values
of its operation in the forward pass. A weight or a bias changes by a learned factor times what its agents propose,
averaged over the batch, less the stored mean of proposals.

Arrays have the axes (E, B, units): networks, examples, units; weights (E, A, O). The inputs of agents have their
features in front.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from papers.mplp.agents import GRU, Standardiser, Stateless, fit_standardiser, gru, init_gru, init_stateless, stateless
from papers.mplp.network import LEAST, ForwardValues, Layer, Spec, elementwise_loss, forward

__all__ = [
    "Agents",
    "Carries",
    "LayerStatistics",
    "Protocol",
    "State",
    "Statistics",
    "init_protocol",
    "init_state",
    "init_statistics",
    "inner_update",
]


class Carries(NamedTuple):
    """States of the agents of a dense layer and of the operation after it (activation, softmax, or nothing)."""

    w: Float[Array, "c E B A O"] | None
    b: Float[Array, "c E B O"] | None
    operation: Float[Array, "c E B O"] | None


class State(NamedTuple):
    """What one step of learning changes: the networks and the states of their agents."""

    layers: tuple[Layer, ...]
    carries: tuple[Carries, ...] | None
    """States of the agents of each layer; None for agents without state."""
    loss: Float[Array, "c E B O"] | None


class Agents(NamedTuple):
    """The agents of a dense layer: of weights and biases (None where shared), with factors on their changes, and of the
    operation after the layer."""

    w: GRU | Stateless | None
    b: GRU | Stateless | None
    scale_w: Float[Array, ""]
    scale_b: Float[Array, ""]
    operation: GRU | Stateless | None


class Protocol(NamedTuple):
    """Everything that is meta-learned."""

    layers: tuple[Agents, ...]
    loss: GRU | Stateless
    shared_w: GRU | None = None
    shared_b: GRU | None = None


class LayerStatistics(NamedTuple):
    """Standardisers of the inputs of a layer's agents, and means of the proposals of its weights and biases."""

    w: Standardiser
    b: Standardiser
    mean_w: Float[Array, ""]
    mean_b: Float[Array, ""]
    operation: Standardiser | None


class Statistics(NamedTuple):
    """Statistics of all layers and of the loss; collected once, not trained."""

    layers: tuple[LayerStatistics, ...]
    loss: Standardiser


# --- messages backwards --------------------------------------------------------------------------------------


def inner_update(
    protocol: Protocol,
    statistics: Statistics,
    spec: Spec,
    state: State,
    x: Float[Array, "E B A"],
    target: Float[Array, "E B O"],
    collect: bool = False,
) -> tuple[State, Statistics]:
    """One step of learning on one batch; returns the new state and statistics.

    Arguments:
        collect: Whether agents use, and the function returns, statistics of this step instead of the given ones.
    """
    prediction, values = forward(spec, state.layers, x)
    _, message, loss_carry, loss_standardiser = _agent_step(
        protocol.loss, statistics.loss, _loss_blocks(spec, prediction, target), state.loss, spec.message, collect
    )
    layers, carries, layer_statistics = [], [], []
    for index in reversed(range(spec.depth)):
        carry = state.carries[index] if state.carries is not None else Carries(None, None, None)
        message, layer, carry, collected = _dense(
            protocol, statistics.layers[index], spec, index, state.layers[index], carry, values[index], message, collect
        )
        layers.append(layer)
        carries.append(carry)
        layer_statistics.append(collected)
    after = State(tuple(layers[::-1]), tuple(carries[::-1]) if state.carries is not None else None, loss_carry)
    return after, Statistics(tuple(layer_statistics[::-1]), loss_standardiser)


def _loss_blocks(spec: Spec, p: Array, t: Array) -> list[Float[Array, "1 E B O"]]:
    loss = elementwise_loss(spec, p, t)
    if spec.loss == "l2":
        return [part[None] for part in (loss, p, t, t - p)]
    p = jnp.clip(p, LEAST, 1 - LEAST)
    return [part[None] for part in (loss, p, t, jnp.log(p))]


def _operation_blocks(spec: Spec, index: int, z: Array) -> list[Float[Array, "1 E B O"]]:
    if index < spec.depth - 1:
        return [z[None]]
    shifted = z - z.max(-1, keepdims=True)
    e = jnp.exp(shifted)
    return [part[None] for part in (z, shifted, e, jnp.broadcast_to(e.sum(-1, keepdims=True), e.shape))]


def _dense(
    protocol: Protocol, statistics: LayerStatistics, spec: Spec, index: int, layer: Layer, carry: Carries,
    values: ForwardValues, message: Array, collect: bool,
) -> tuple[Array, Layer, Carries, LayerStatistics]:  # fmt: skip
    """Messages through the operation after a dense layer, then its biases, then its weights."""
    agents = protocol.layers[index]
    operation, standardiser_operation = carry.operation, statistics.operation
    if agents.operation is not None:
        blocks = [message, *_operation_blocks(spec, index, values.z)]
        _, message, operation, standardiser_operation = _agent_step(
            agents.operation, statistics.operation, blocks, carry.operation, spec.message, collect
        )
    b = layer.b[None, :, None, :]
    proposal_b, message, carry_b, standardiser_b = _agent_step(
        agents.b or protocol.shared_b, statistics.b, [message, b, values.product[None]], carry.b, spec.message, collect
    )
    blocks = [message[:, :, :, None, :], layer.w[None, :, None], values.x[None, :, :, :, None]]
    proposal_w, message, carry_w, standardiser_w = _agent_step(
        agents.w or protocol.shared_w, statistics.w, blocks, carry.w, spec.message, collect
    )
    mean_b, mean_w = (proposal_b.mean(), proposal_w.mean()) if collect else (statistics.mean_b, statistics.mean_w)
    new_layer = Layer(
        layer.w + agents.scale_w * (proposal_w.mean(1) - mean_w),
        layer.b + agents.scale_b * (proposal_b.mean(1) - mean_b),
    )
    collected = LayerStatistics(standardiser_w, standardiser_b, mean_w, mean_b, standardiser_operation)
    return message.mean(-1), new_layer, Carries(carry_w, carry_b, operation), collected


def _agent_step(
    agent: GRU | Stateless | None, standardiser: Standardiser | None, blocks: list[Array], carry: Array | None,
    message: int, collect: bool,
) -> tuple[Array, Array, Array | None, Standardiser]:  # fmt: skip
    """The agents' proposals for the numbers they own (meaningless where they own none), their messages, their next
    states, and the standardiser they used."""
    assert agent is not None
    assert standardiser is not None
    if collect:
        standardiser = fit_standardiser(blocks)
    if isinstance(agent, GRU):
        assert carry is not None
        carry = gru(agent, standardiser, blocks, carry)
        return carry[0], carry[-message:], carry, standardiser
    shape = jnp.broadcast_shapes(*(block.shape[1:] for block in blocks))
    sent = stateless(agent.message, standardiser, blocks, shape)
    proposal = sent[0] if agent.update is None else stateless(agent.update, standardiser, blocks, shape)[0]
    return proposal, sent, None, standardiser


# --- the start -----------------------------------------------------------------------------------------------


def _has_operation(spec: Spec, layer: int) -> bool:
    return layer < spec.depth - 1 or spec.loss == "ce"


def _scalars(spec: Spec, layer: int) -> int:
    """Number of scalars that the operation after a layer receives: z; at the last layer z, z - max z, exp, and sum."""
    return 1 if layer < spec.depth - 1 else 4


def init_protocol(key: Array, spec: Spec) -> Protocol:
    """Untrained agents, with factors of 0.05 / 5 on changes (official code)."""
    m = spec.message
    keys = jax.random.split(key, 3 * spec.depth + 3)

    def agent(key: Array, inputs: int, owner: bool) -> GRU | Stateless:
        if not spec.hidden:
            return init_stateless(key, inputs, m, owner, spec.widths)
        return init_gru(key, inputs, m + spec.hidden + owner, spec.widths)

    layers = []
    for index in range(spec.depth):
        kw, kb, ko = keys[3 * index : 3 * index + 3]
        operation = agent(ko, m + _scalars(spec, index), owner=False) if _has_operation(spec, index) else None
        owners = (None, None) if spec.shared else (agent(kw, m + 2, owner=True), agent(kb, m + 2, owner=True))
        layers.append(Agents(*owners, jnp.float32(0.01), jnp.float32(0.01), operation))
    shared = [agent(k, m + 2, owner=True) if spec.shared else None for k in keys[-2:]]
    return Protocol(tuple(layers), agent(keys[-3], 4, owner=False), *shared)


def init_statistics(spec: Spec) -> Statistics:
    """Neutral statistics: shifts 0, norms 1, means 0."""

    def neutral(scalars: int) -> Standardiser:
        return Standardiser(jnp.ones(1 + scalars), jnp.zeros(1 + scalars))

    return Statistics(
        tuple(
            LayerStatistics(
                neutral(2), neutral(2), jnp.float32(0), jnp.float32(0),
                neutral(_scalars(spec, index)) if _has_operation(spec, index) else None,
            )
            for index in range(spec.depth)
        ),
        neutral(3),
    )  # fmt: skip


def init_state(spec: Spec, layers: tuple[Layer, ...], batch: int) -> State:
    """The state at the start of a lifetime: all agents' states are zero."""
    if not spec.hidden:
        return State(layers, None, None)
    c = spec.message + spec.hidden

    def zeros(features: int, shape: tuple[int, ...]) -> Array:
        return jnp.zeros((features, len(layers[0].w), batch, *shape))

    carries = tuple(
        Carries(
            zeros(c + 1, layer.w.shape[1:]),
            zeros(c + 1, layer.b.shape[1:]),
            zeros(c, layer.b.shape[1:]) if _has_operation(spec, index) else None,
        )
        for index, layer in enumerate(layers)
    )
    return State(layers, carries, zeros(c, layers[-1].b.shape[1:]))
