"""Learning algorithm cloning: a sub-RNN that is trained to do what backpropagation does (section 4.1).

Two designated channels of every cell hold a weight w and a bias b. Given x, a sub-RNN shall send y = tanh(x) w + b
forwards; given x and the error e, it shall change w and b by gradient descent and send the error of x backwards. Nodes
receive sums of messages. A grid of such sub-RNNs then does backpropagation, although nothing computes it explicitly.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from papers.vsml.layers import Dense
from papers.vsml.network import Network
from papers.vsml.sub_rnn import GateOffsets, State, SubRNN

__all__ = [
    "Layers",
    "Rule",
    "Targets",
    "backward_phase",
    "clone_network",
    "cloning_loss",
    "descend",
    "draw_network",
    "draw_signals",
    "draw_weights",
    "forward_phase",
    "fresh",
    "gate_offsets",
    "logits",
    "network_loss",
    "targets",
]

WEIGHT, BIAS = 0, 1
"""Channels of the cell."""

Layers = tuple[tuple[Float[Array, "E B A"], Float[Array, "E B A"]], ...]
"""Weights and biases of each layer, for E networks; every synapse has a bias."""


class Rule(NamedTuple):
    """The learning algorithm that is cloned: gradient descent."""

    rate: float
    """alpha, the learning rate of weights."""
    bias_rate: float
    """Learning rate of biases. Every synapse has its own, so that of a node is its inputs times this."""


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
    """Offsets that keep weight and bias (losing some 1e-7 a tick) and write little to them; other cells soon forget.

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
    """Squared deviation of grids of synapses from backpropagation, over U examples one after the other."""

    @jax.checkpoint
    def step(state: State, example: tuple[Array, Array]) -> tuple[State, Array]:
        x, e = example
        ticked, y = forward_phase(params, state, x, ticks)
        ticked, d = backward_phase(params, ticked, x, e, ticks)
        return ticked, _deviations(rule, state, ticked, x, e, y, d)

    state, deviations = jax.lax.scan(step, state, (xs, es))
    deviations = deviations.mean(0)
    return deviations.sum(), (state, _named(deviations))


def network_loss(
    params: SubRNN,
    rule: Rule,
    states: tuple[State, ...],
    xs: Float[Array, "U E A"],
    labels: Float[Array, "U E C"],
    ticks: int,
) -> tuple[Float[Array, ""], tuple[tuple[State, ...], dict[str, Array]]]:
    """`cloning_loss` on policy: the mean over the layers of networks of clones, of what each hears as a network learns.

    Arguments:
        states: Of each layer.
        labels: One-hot.
    """

    @jax.checkpoint
    def step(states: tuple[State, ...], example: tuple[Array, Array]) -> tuple[tuple[State, ...], Array]:
        x, label = example
        ticked, sent, heard = list(states), [], [x]
        for index, state in enumerate(states):
            ticked[index], y = forward_phase(params, state, heard[-1], ticks)
            sent.append(y)
            heard.append(jax.lax.stop_gradient(y.sum(-1)))
        e = jax.nn.softmax(heard[-1]) - label
        losses = []
        for index in reversed(range(len(states))):
            x = heard[index]
            ticked[index], d = backward_phase(params, ticked[index], x, e, ticks)
            losses.append(_deviations(rule, states[index], ticked[index], x, e, sent[index], d))
            e = jax.lax.stop_gradient(d.sum(-2))
        return tuple(ticked), jnp.stack(losses).mean(0)

    states, deviations = jax.lax.scan(step, states, (xs, labels))
    deviations = deviations.mean(0)
    return deviations.sum(), (states, _named(deviations))


def _deviations(rule: Rule, before: State, after: State, x: Array, e: Array, y: Array, d: Array) -> Float[Array, " 8"]:
    """How far synapses that hear x and e, and send y and d, are from backpropagation: mean squares.

    Targets come from the weights that the synapses hold themselves, through which gradients flow as well. Deviations
    of changes and of backward messages are relative to the size of e; of changes also to the rule's rate, of biases to
    four times their rate: these count less, for equal errors of all synapses of a node matter less. Sums over the
    synapses of a node count as well, divided by the root of their number, for what many share adds up in a network.
    """
    w, b = before.c[WEIGHT], before.c[BIAS]
    target = targets(rule, w, b, x[:, None], e[..., None])
    size = jnp.abs(e)[..., None] + 0.1
    deviations = jnp.stack([
        y - target.forward,
        (after.c[WEIGHT] - w - target.dw) / (rule.rate * size),
        (after.c[BIAS] - b - target.db) / (4 * rule.bias_rate * size),
        (d - target.backward) / size,
    ])  # fmt: skip
    synapse_losses = (deviations**2).mean((1, 2, 3))
    node_forward = (deviations[:3].sum(-1) ** 2).mean((1, 2)) / deviations.shape[-1]
    node_backward = (deviations[3].sum(-2) ** 2).mean() / deviations.shape[-2]
    return jnp.concatenate([synapse_losses, node_forward, node_backward[None]])


def _named(deviations: Float[Array, " 8"]) -> dict[str, Array]:
    names = ("forward", "dw", "db", "backward")
    return dict(zip((*names, *(f"sum_{name}" for name in names)), deviations, strict=True))


# --- networks: of clones, and of real weights ----------------------------------------------------------------


def clone_network(sizes: Sequence[int], units: int, ticks: int) -> Network:
    """A network of clones with these numbers of nodes, inputs first, that learns by ticks and messages alone."""
    return Network(
        tuple(Dense(*pair, reduce="sum") for pair in pairwise(sizes)),
        micro_ticks=ticks, backward_pass=True, two_phase=True, output_channel=0, logit_bound=None,
        offsets=gate_offsets(units),
    )  # fmt: skip


def descend(
    rule: Rule, layers: Layers, x: Float[Array, "E A"], label: Float[Array, "E C"]
) -> tuple[Layers, Float[Array, "E C"]]:
    """One example of the algorithm that is cloned, in networks of real weights: new layers, and the logits before.

    Arguments:
        label: One-hot.
    """
    layer_inputs = _activate(layers, x)
    e = jax.nn.softmax(layer_inputs[-1]) - label
    changed = []
    for (w, b), x in zip(layers[::-1], layer_inputs[-2::-1], strict=True):
        target = targets(rule, w, b, x[:, None], e[..., None])
        changed.insert(0, (w + target.dw, b + target.db))
        e = target.backward.sum(-2)
    return tuple(changed), layer_inputs[-1]


def logits(layers: Layers, x: Float[Array, "E A"]) -> Float[Array, "E C"]:
    """What networks of real weights predict."""
    return _activate(layers, x)[-1]


def _activate(layers: Layers, x: Float[Array, "E A"]) -> list[Array]:
    """The inputs of each layer, and the logits."""
    layer_inputs = [x]
    for w, b in layers:
        layer_inputs.append((jnp.tanh(layer_inputs[-1])[:, None] * w + b).sum(-1))
    return layer_inputs


# --- what synapses are trained on ----------------------------------------------------------------------------


def draw_network(key: Array, sizes: Sequence[int], networks: int) -> Layers:
    """Initial layers between these numbers of nodes, inputs first: normal weights of scale 1 / sqrt(inputs)."""
    keys = jax.random.split(key, len(sizes) - 1)
    drawn = [jax.random.normal(k, (networks, b, a)) / a**0.5 for k, (a, b) in zip(keys, pairwise(sizes), strict=True)]
    return tuple((w, jnp.zeros_like(w)) for w in drawn)


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
