"""Learning algorithm cloning: a sub-RNN that is trained to do what backpropagation does (section 4.1).

Two designated channels of every cell hold a weight w and a bias b. Told x, a sub-RNN shall send y = tanh(x) w + b
forwards; told x and the error e, it shall change w and b by gradient descent and send the error of x backwards. Nodes
hear sums of messages. Backpropagation is then what a grid of such sub-RNNs does, and nothing computes it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from papers.vsml.sub_rnn import GateOffsets, State, SubRNN, gate_matrix, lstm

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
"""Of each layer, for so many networks."""


class Rule(NamedTuple):
    """The learning algorithm that is cloned: gradient descent."""

    rate: float
    """alpha, of weights."""
    bias_rate: float
    """Of biases, of which every synapse has its own: a node's bias learns as fast as all of them together."""


class Targets(NamedTuple):
    """What a synapse should send, and by how much it should change."""

    forward: Array
    dw: Array
    db: Array
    backward: Array


def targets(rule: Rule, w: Array, b: Array, x: Array, e: Array) -> Targets:
    """Backpropagation of one synapse with input x, output y = tanh(x) w + b and error e = dL/dy."""
    t = jnp.tanh(x)
    return Targets(t * w + b, -rule.rate * t * e, -rule.bias_rate * e, e * w * (1 - t * t))


def fresh(w: Float[Array, "..."], b: Float[Array, "..."], units: int) -> State:
    """States that hold weights and biases, and nothing else."""
    c = jnp.zeros((units, *w.shape)).at[WEIGHT].set(w).at[BIAS].set(b)
    return State(jnp.zeros_like(c), c)


def gate_offsets(units: int) -> GateOffsets:
    """Weight and bias are kept and little is written to them; all other cells are open and soon forget.

    A product of input and error is formed in those: with the published offsets, or if they are kept as well, it is
    learned late or never.
    """
    holds = jnp.arange(units) <= BIAS
    return GateOffsets(jnp.where(holds, -2.0, 0.0), jnp.where(holds, 15.0, 0.0))


def forward_phase(params: SubRNN, state: State, x: Float[Array, "E A"], ticks: int) -> tuple[State, Array]:
    """Ticks with the input alone; the state and what each synapse sends forwards, (E, B, A)."""
    state = _ticks(params, state, x, None, ticks)
    return state, _read(state.h, params.forward_w, params.forward_b)


def backward_phase(
    params: SubRNN, state: State, x: Float[Array, "E A"], e: Float[Array, "E B"], ticks: int
) -> tuple[State, Array]:
    """Ticks with input and error; the state and what each synapse sends backwards, (E, B, A)."""
    state = _ticks(params, state, x, e, ticks)
    return state, _read(state.h, params.backward_w, params.backward_b)


def _ticks(params: SubRNN, state: State, x: Array, e: Array | None, ticks: int) -> State:
    """Ticks that hear x, e, and whether it is the time of errors."""
    shape = state.c.shape[1:]
    heard = [x[:, None, :]] if e is None else [x[:, None, :], e[..., None], jnp.ones_like(e)[..., None]]
    matrix = gate_matrix(params, gate_offsets(params.units), 1, 0 if e is None else 2)
    h, c = (array.reshape(len(array), -1) for array in state)
    fixed = [jnp.broadcast_to(array, shape).reshape(1, -1) for array in heard] + [jnp.ones((1, h.shape[1]), h.dtype)]
    for _ in range(ticks):
        h, c = lstm(matrix, jnp.concatenate([h, *fixed]), c)
    return State(h.reshape(-1, *shape), c.reshape(-1, *shape))


def _read(h: Array, w: Array, b: Array) -> Array:
    """The first number of a message."""
    return (w[:, 0] @ h.reshape(len(h), -1)).reshape(h.shape[1:]) + b[0]


def cloning_loss(
    params: SubRNN, rule: Rule, state: State, xs: Float[Array, "U E A"], es: Float[Array, "U E B"], ticks: int
) -> tuple[Float[Array, ""], tuple[State, dict[str, Array]]]:
    """How far grids of synapses are from backpropagation, over U examples one after the other.

    Targets come from the weights that the synapses hold themselves. Errors of changes are relative to the rule's rate
    and to the size of e. What nodes hear counts as well, the sum over a node's synapses divided by the root of their
    number: errors that many synapses share add up in a network.
    """
    weight, bias = (
        rule.rate,
        4 * rule.bias_rate,
    )  # biases count less: equal errors of all synapses of a node matter less

    @jax.checkpoint
    def step(state: State, example: tuple[Array, Array]) -> tuple[State, Array]:
        x, e = example
        w, b = state.c[WEIGHT], state.c[BIAS]
        aim = targets(rule, w, b, x[:, None], e[..., None])
        state, y = forward_phase(params, state, x, ticks)
        state, d = backward_phase(params, state, x, e, ticks)
        size = jnp.abs(e)[..., None] + 0.1
        off = jnp.stack([
            y - aim.forward,
            (state.c[WEIGHT] - w - aim.dw) / (weight * size),
            (state.c[BIAS] - b - aim.db) / (bias * size),
            (d - aim.backward) / size,
        ])  # fmt: skip
        alone = (off**2).mean((1, 2, 3))
        heard_forward = (off[:3].sum(-1) ** 2).mean((1, 2)) / off.shape[-1]
        heard_back = (off[3].sum(-2) ** 2).mean() / off.shape[-2]
        return state, jnp.concatenate([alone, heard_forward, heard_back[None]])

    state, off = jax.lax.scan(step, state, (xs, es))
    off = off.mean(0)
    names = ("forward", "dw", "db", "backward")
    metrics = {name: off[index] for index, name in enumerate(names)}
    metrics |= {f"sum_{name}": off[4 + index] for index, name in enumerate(names)}
    return off.sum(), (state, metrics)


# --- networks: of clones, and of real weights ----------------------------------------------------------------


def unroll(
    params: SubRNN,
    weights: Weights,
    x: Float[Array, "T E A"],
    labels: Int[Array, "T E"],
    unseen: Float[Array, "n A"],
    ticks: int,
) -> tuple[Float[Array, "T E C"], Float[Array, "n E C"]]:
    """Logits of networks of clones that learn online, and logits for unseen inputs of the networks that result.

    Nothing but ticks and sums of messages happens here.
    """

    def forward(states: Sequence[State], x: Array) -> tuple[list[State], list[Array]]:
        ticked, heard = [], [x]
        for state in states:
            state, y = forward_phase(params, state, heard[-1], ticks)
            ticked.append(state)
            heard.append(y.sum(-1))
        return ticked, heard

    def step(states: tuple[State, ...], example: tuple[Array, Array]) -> tuple[tuple[State, ...], Array]:
        x, label = example
        ticked, heard = forward(states, x)
        e = error(heard[-1], label)
        for index in reversed(range(len(ticked))):
            ticked[index], d = backward_phase(params, ticked[index], heard[index], e, ticks)
            e = d.sum(-2)
        return tuple(ticked), heard[-1]

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
    """As `unroll`, of the same networks under the algorithm that was cloned."""

    def forward(layers: Sequence[tuple[Array, Array]], x: Array) -> list[Array]:
        heard = [x]
        for w, b in layers:
            heard.append((jnp.tanh(heard[-1])[:, None] * w + b).sum(-1))
        return heard

    def step(layers: tuple, example: tuple[Array, Array]) -> tuple[tuple, Array]:
        x, label = example
        heard = forward(layers, x)
        e = error(heard[-1], label)
        changed = []
        for (w, b), x in zip(layers[::-1], heard[-2::-1], strict=True):
            aim = targets(rule, w, b, x[:, None], e[..., None])
            changed.insert(0, (w + aim.dw, b + aim.db))
            e = aim.backward.sum(-2)
        return tuple(changed), heard[-1]

    layers = tuple((w, jnp.zeros_like(w)) for w in weights)
    layers, logits = jax.lax.scan(step, layers, (x, labels))
    return logits, _one_by_one(lambda x: forward(layers, x)[-1], unseen, x.shape[1])


def error(logits: Float[Array, "E C"], label: Int[Array, " E"]) -> Float[Array, "E C"]:
    """The slope of cross-entropy."""
    return jax.nn.softmax(logits) - jax.nn.one_hot(label, logits.shape[-1])


def _one_by_one(function: Callable[[Array], Array], x: Float[Array, "n A"], episodes: int) -> Array:
    """Of each input, given to all networks."""
    return jax.lax.map(lambda x: function(jnp.broadcast_to(x, (episodes, *x.shape))), x)


# --- what synapses are trained on ----------------------------------------------------------------------------


def draw_weights(key: Array, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Weights and biases of grids (E, B, A), each grid of its own scale."""
    keys = jax.random.split(key, 4)
    one = (shape[0], 1, 1)
    w = jax.random.normal(keys[0], shape) * jnp.exp(jax.random.uniform(keys[1], one, minval=-4, maxval=-1))
    b = jax.random.normal(keys[2], shape) * jnp.exp(jax.random.uniform(keys[3], one, minval=-7, maxval=-2))
    return w, b


def draw_signals(
    key: Array, kind: Literal["random", "mnist"], images: Float[Array, "n P"] | None, shape: tuple[int, int, int, int]
) -> tuple[Float[Array, "U E A"], Float[Array, "U E B"]]:
    """Inputs and errors of U examples for grids of E x B x A synapses.

    `random`: normal inputs of mixed scales, half of a grid's inputs alike, as an image's background is; normal errors
    of mixed scales. `mnist`: pixels of images, and errors of a softmax over random logits.
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
