"""Learning algorithm cloning: a sub-RNN that is trained to do what backpropagation does (section 4.1).

Two designated channels of every cell hold a weight w and a bias b. Given x, a sub-RNN shall send y = tanh(x) w + b
forwards; given x and the error e, it shall change w and b by gradient descent and send the error of x backwards. Nodes
receive sums of messages. A grid of such sub-RNNs then does backpropagation, although nothing computes it explicitly.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from papers.vsml.layers import Dense
from papers.vsml.sub_rnn import GateOffsets, State, SubRNN

__all__ = [
    "Rule",
    "Targets",
    "cloning_loss",
    "descend_online",
    "draw_signals",
    "draw_weights",
    "fresh",
    "targets",
    "unroll",
]

WEIGHT, BIAS = 0, 1
"""Channels of the cell."""

Weights = tuple[Float[Array, "E B A"], ...]
"""Weights of each layer, for E networks."""


class Rule(NamedTuple):
    """The learning algorithm that is cloned: gradient descent."""

    rate: float
    """alpha, the learning rate of weights."""
    bias_rate: float
    """Learning rate of biases. Every synapse has its own bias; a node's bias learns as fast as all of them together."""


class Targets(NamedTuple):
    """The messages a synapse should send, and the changes of its weight and bias."""

    forward: Array
    dw: Array
    db: Array
    backward: Array


def targets(rule: Rule, w: Array, b: Array, x: Array, e: Array) -> Targets:
    """Backpropagation of one synapse with input x, output y = tanh(x) w + b and error e = dL/dy."""
    t = jnp.tanh(x)
    return Targets(t * w + b, -rule.rate * t * e, -rule.bias_rate * e, e * w * (1 - t * t))


def fresh(w: Float[Array, "..."], b: Float[Array, "..."], units: int) -> State:
    """States that hold weights and biases and are zero otherwise."""
    c = jnp.zeros((units, *w.shape)).at[WEIGHT].set(w).at[BIAS].set(b)
    return State(jnp.zeros_like(c), c)


def gate_offsets(units: int) -> GateOffsets:
    """Offsets that keep weight and bias and write little to them; all other cells are open and soon forget.

    The other cells form the product of input and error: with the published offsets, or if these cells are kept as
    well, the product is learned late or never.
    """
    holds = jnp.arange(units) <= BIAS
    return GateOffsets(jnp.where(holds, -2.0, 0.0), jnp.where(holds, 15.0, 0.0))


def forward_phase(params: SubRNN, state: State, x: Float[Array, "E A"], ticks: int) -> tuple[State, Array]:
    """Tick with the input alone; return the state and the message of each synapse forwards, (E, B, A)."""
    nothing = jnp.zeros((0, *state.c.shape[1:3]), x.dtype)
    state = _dense(state).advance(params, gate_offsets(params.units), state, x[None], nothing, ticks)
    return state, _read(state.h, params.forward_w, params.forward_b)


def backward_phase(
    params: SubRNN, state: State, x: Float[Array, "E A"], e: Float[Array, "E B"], ticks: int
) -> tuple[State, Array]:
    """Tick with input, error and a flag of 1; return the state and the message of each synapse backwards, (E, B, A)."""
    down = jnp.stack([e, jnp.ones_like(e)])
    state = _dense(state).advance(params, gate_offsets(params.units), state, x[None], down, ticks)
    return state, _read(state.h, params.backward_w, params.backward_b)


def _dense(state: State) -> Dense:
    """The layer of a grid of synapses, (N, E, B, A)."""
    return Dense(*state.c.shape[:1:-1])


def _read(h: Array, w: Array, b: Array) -> Array:
    """The first number of each sub-RNN's message."""
    return (w[:, 0] @ h.reshape(len(h), -1)).reshape(h.shape[1:]) + b[0]


def cloning_loss(
    params: SubRNN, rule: Rule, state: State, xs: Float[Array, "U E A"], es: Float[Array, "U E B"], ticks: int
) -> tuple[Float[Array, ""], tuple[State, dict[str, Array]]]:
    """Squared deviation of grids of synapses from backpropagation, over U examples one after the other.

    Targets come from the weights that the synapses hold themselves. Deviations of changes are relative to the rule's
    rate and to the size of e. The sums that nodes receive count as well, divided by the root of the number of synapses:
    deviations that many synapses share add up in a network.
    """
    weight, bias = (
        rule.rate,
        4 * rule.bias_rate,
    )  # biases count less: equal errors of all synapses of a node matter less

    @jax.checkpoint
    def step(state: State, example: tuple[Array, Array]) -> tuple[State, Array]:
        x, e = example
        w, b = state.c[WEIGHT], state.c[BIAS]
        target = targets(rule, w, b, x[:, None], e[..., None])
        state, y = forward_phase(params, state, x, ticks)
        state, d = backward_phase(params, state, x, e, ticks)
        size = jnp.abs(e)[..., None] + 0.1
        deviations = jnp.stack([
            y - target.forward,
            (state.c[WEIGHT] - w - target.dw) / (weight * size),
            (state.c[BIAS] - b - target.db) / (bias * size),
            (d - target.backward) / size,
        ])  # fmt: skip
        synapse_losses = (deviations**2).mean((1, 2, 3))
        node_forward = (deviations[:3].sum(-1) ** 2).mean((1, 2)) / deviations.shape[-1]
        node_backward = (deviations[3].sum(-2) ** 2).mean() / deviations.shape[-2]
        return state, jnp.concatenate([synapse_losses, node_forward, node_backward[None]])

    state, deviations = jax.lax.scan(step, state, (xs, es))
    deviations = deviations.mean(0)
    names = ("forward", "dw", "db", "backward")
    metrics = {name: deviations[index] for index, name in enumerate(names)}
    metrics |= {f"sum_{name}": deviations[4 + index] for index, name in enumerate(names)}
    return deviations.sum(), (state, metrics)


# --- networks: of clones, and of real weights ----------------------------------------------------------------


def unroll(
    params: SubRNN,
    weights: Weights,
    x: Float[Array, "T E A"],
    labels: Int[Array, "T E"],
    unseen: Float[Array, "n A"],
    ticks: int,
) -> tuple[Float[Array, "T E C"], Float[Array, "n E C"]]:
    """Logits of networks of clones that learn online, and logits of the resulting networks for unseen inputs.

    The networks learn by ticks and sums of messages alone.
    """

    def forward(states: Sequence[State], x: Array) -> tuple[list[State], list[Array]]:
        ticked, layer_inputs = [], [x]
        for state in states:
            state, y = forward_phase(params, state, layer_inputs[-1], ticks)
            ticked.append(state)
            layer_inputs.append(y.sum(-1))
        return ticked, layer_inputs

    def step(states: tuple[State, ...], example: tuple[Array, Array]) -> tuple[tuple[State, ...], Array]:
        x, label = example
        ticked, layer_inputs = forward(states, x)
        e = error(layer_inputs[-1], label)
        for index in reversed(range(len(ticked))):
            ticked[index], d = backward_phase(params, ticked[index], layer_inputs[index], e, ticks)
            e = d.sum(-2)
        return tuple(ticked), layer_inputs[-1]

    states = tuple(fresh(w, jnp.zeros_like(w), params.units) for w in weights)
    states, logits = jax.lax.scan(step, states, (x, labels))
    return logits, _one_by_one(lambda x: forward(states, x)[1][-1], unseen, x.shape[1])


def descend_online(
    rule: Rule,
    weights: Weights,
    x: Float[Array, "T E A"],
    labels: Int[Array, "T E"],
    unseen: Float[Array, "n A"],
) -> tuple[Float[Array, "T E C"], Float[Array, "n E C"]]:
    """Same arguments and results as `unroll`, for the same networks under the algorithm that was cloned."""

    def forward(layers: Sequence[tuple[Array, Array]], x: Array) -> list[Array]:
        layer_inputs = [x]
        for w, b in layers:
            layer_inputs.append((jnp.tanh(layer_inputs[-1])[:, None] * w + b).sum(-1))
        return layer_inputs

    def step(layers: tuple, example: tuple[Array, Array]) -> tuple[tuple, Array]:
        x, label = example
        layer_inputs = forward(layers, x)
        e = error(layer_inputs[-1], label)
        changed = []
        for (w, b), x in zip(layers[::-1], layer_inputs[-2::-1], strict=True):
            target = targets(rule, w, b, x[:, None], e[..., None])
            changed.insert(0, (w + target.dw, b + target.db))
            e = target.backward.sum(-2)
        return tuple(changed), layer_inputs[-1]

    layers = tuple((w, jnp.zeros_like(w)) for w in weights)
    layers, logits = jax.lax.scan(step, layers, (x, labels))
    return logits, _one_by_one(lambda x: forward(layers, x)[-1], unseen, x.shape[1])


def error(logits: Float[Array, "E C"], label: Int[Array, " E"]) -> Float[Array, "E C"]:
    """The gradient of the cross-entropy in the logits."""
    return jax.nn.softmax(logits) - jax.nn.one_hot(label, logits.shape[-1])


def _one_by_one(function: Callable[[Array], Array], x: Float[Array, "n A"], episodes: int) -> Array:
    """The function of each input, given to all networks."""
    return jax.lax.map(lambda x: function(jnp.broadcast_to(x, (episodes, *x.shape))), x)


# --- what synapses are trained on ----------------------------------------------------------------------------


def draw_weights(key: Array, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Weights and biases of grids (E, B, A), each grid with its own scale."""
    keys = jax.random.split(key, 4)
    per_grid = (shape[0], 1, 1)
    w = jax.random.normal(keys[0], shape) * jnp.exp(jax.random.uniform(keys[1], per_grid, minval=-4, maxval=-1))
    b = jax.random.normal(keys[2], shape) * jnp.exp(jax.random.uniform(keys[3], per_grid, minval=-7, maxval=-2))
    return w, b


def draw_signals(
    key: Array, kind: Literal["random", "mnist"], images: Float[Array, "n P"] | None, shape: tuple[int, int, int, int]
) -> tuple[Float[Array, "U E A"], Float[Array, "U E B"]]:
    """Inputs and errors of U examples for grids of E x B x A synapses.

    `random`: normal inputs of mixed scales, half of a grid's inputs equal, like an image's background; normal errors of
    mixed scales. `mnist`: pixels of images, and errors of a softmax over random logits.
    """
    u, e, b, a = shape
    keys = jax.random.split(key, 5)
    if kind == "random":
        spread = jnp.exp(jax.random.uniform(keys[0], (u, e, 1), minval=-1.5, maxval=0.7))
        x = spread * jax.random.normal(keys[1], (u, e, a))
        x = x.at[..., : a // 2].set(x[..., :1])
        size = jnp.exp(jax.random.uniform(keys[2], (u, e, 1), minval=-5, maxval=0))
        return x, jnp.clip(size * jax.random.normal(keys[3], (u, e, b)), -1, 1)
    pixels = jax.random.randint(keys[0], (e, a), 0, images.shape[1])
    x = images[jax.random.randint(keys[1], (u, e, 1), 0, len(images)), pixels]
    spread = jnp.exp(jax.random.uniform(keys[2], (u, e, 1), minval=-1, maxval=2.5))
    p = jax.nn.softmax(spread * jax.random.normal(keys[3], (u, e, b)))
    return x, p - jax.nn.one_hot(jax.random.randint(keys[4], (u, e), 0, b), b)
