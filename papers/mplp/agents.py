"""The agents: small networks that receive a message and some numbers, and send a message on.

All arrays have their features first, (features, ...), and one column for each agent and example, which has a state of
its own. The inputs of an agent come as blocks (the message, then scalars), each with its own stored standardiser, which
is folded into the first matrices. Blocks are broadcast against one another after their first axis.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = [
    "GRU",
    "MLP",
    "Standardiser",
    "Stateless",
    "fit_standardiser",
    "gru",
    "init_gru",
    "init_mlp",
    "init_stateless",
    "stateless",
]

WIDTHS = (80, 40)
"""Widths of the hidden layers (official code)."""
SMALL = 1e-5
"""Standard deviation below which a block is not scaled (official code)."""


BLOCK = 640
"""Columns that go through an agent's layers at once on a CPU."""


class Standardiser(NamedTuple):
    """An agent's inputs are norm * (value + shift), one pair a block. Collected before meta-training, not trained."""

    norm: Float[Array, " 1+n"]
    shift: Float[Array, " 1+n"]


class MLP(NamedTuple):
    """A network of two hidden layers; the output layer may lack a bias."""

    w0: Float[Array, "x H"]
    b0: Float[Array, " H"]
    w1: Float[Array, "H H2"]
    b1: Float[Array, " H2"]
    w2: Float[Array, "H2 y"]
    b2: Float[Array, " y"] | None = None


class GRU(NamedTuple):
    """An agent with a state of c numbers: a GRU whose candidate is the tanh of a network of the input plus one of the
    reset state (official code)."""

    keep_x: Float[Array, "x c"]
    keep_c: Float[Array, "c c"]
    keep_b: Float[Array, " c"]
    reset_x: Float[Array, "x c"]
    reset_c: Float[Array, "c c"]
    reset_b: Float[Array, " c"]
    new_b: Float[Array, " c"]
    new_x: MLP
    """From the x inputs to c numbers."""
    new_c: MLP
    """From the c numbers of the state to c numbers."""


class Stateless(NamedTuple):
    """An agent without state: a network for its message, and for the change of the number it owns, if it owns one."""

    message: MLP
    update: MLP | None = None


def _glorot(key: Array, rows: int, columns: int) -> Array:
    limit = math.sqrt(6 / (rows + columns))
    return jax.random.uniform(key, (rows, columns), minval=-limit, maxval=limit)


def init_mlp(key: Array, inputs: int, outputs: int, widths: Sequence[int] = WIDTHS, last_bias: bool = True) -> MLP:
    """Glorot uniform weights, zero biases (official code)."""
    keys = jax.random.split(key, 3)
    first, second = widths
    return MLP(
        _glorot(keys[0], inputs, first), jnp.zeros(first),
        _glorot(keys[1], first, second), jnp.zeros(second),
        _glorot(keys[2], second, outputs), jnp.zeros(outputs) if last_bias else None,
    )  # fmt: skip


def init_gru(key: Array, inputs: int, carry: int, widths: Sequence[int] = WIDTHS) -> GRU:
    """Glorot uniform weights; biases of -1 for the gates and 0 elsewhere (official code)."""
    keys = jax.random.split(key, 6)
    gates = [_glorot(k, rows, carry) for k, rows in zip(keys, (inputs, carry, inputs, carry), strict=False)]
    low = jnp.full(carry, -1.0)
    return GRU(
        gates[0], gates[1], low, gates[2], gates[3], low, jnp.zeros(carry),
        init_mlp(keys[4], inputs, carry, widths, last_bias=False),
        init_mlp(keys[5], carry, carry, widths, last_bias=False),
    )  # fmt: skip


def init_stateless(key: Array, inputs: int, message: int, owner: bool, widths: Sequence[int] = WIDTHS) -> Stateless:
    """Glorot uniform weights, zero biases; only an owner of a number has the second network."""
    keys = jax.random.split(key)
    return Stateless(
        init_mlp(keys[0], inputs, message, widths), init_mlp(keys[1], inputs, 1, widths) if owner else None
    )


def fit_standardiser(blocks: Sequence[Float[Array, "f ..."]]) -> Standardiser:
    """The standardiser by mean and standard deviation over all axes of each block."""
    deviations = [block.std() for block in blocks]
    norms = [jnp.where(deviation < SMALL, 1, 1 / jnp.maximum(deviation, SMALL)) for deviation in deviations]
    return Standardiser(jnp.stack(norms), -jnp.stack([block.mean() for block in blocks]))


def gru(
    agent: GRU,
    standardiser: Standardiser,
    blocks: Sequence[Float[Array, "f ..."]],
    carry: Float[Array, "c ..."],
) -> Float[Array, "c ..."]:
    """The next state of every agent.

    With inputs u and state a:

    k, r = sigmoid(u Wux + a Wuc + bu), sigmoid(u Wrx + a Wrc + br)
    n = tanh(F(u) + G(r a) + bn);  a' = k a + (1 - k) n
    """
    size = agent.new_b.shape[0]
    first = _folded(
        standardiser,
        blocks,
        jnp.concatenate([agent.keep_x, agent.reset_x, agent.new_x.w0], 1),
        jnp.concatenate([agent.keep_b, agent.reset_b, agent.new_x.b0]),
    )
    # sigmoid(z) = (1 + tanh(z / 2)) / 2
    first *= jnp.where(jnp.arange(len(first)) < 2 * size, 0.5, 1).astype(first.dtype)[:, None]
    x, c = agent.new_x, agent.new_c

    def next_state(inputs: Float[Array, "x+1 S"], a: Float[Array, "c S"]) -> Float[Array, "c S"]:
        z = first @ inputs
        gates = z[: 2 * size] + 0.5 * jnp.concatenate([agent.keep_c, agent.reset_c], 1).T @ a
        keep, reset = jnp.split(0.5 + 0.5 * _tanh(gates), 2)
        hidden_x = _tanh(x.w1.T @ _tanh(z[2 * size :]) + x.b1[:, None])
        hidden_c = _tanh(c.w1.T @ _tanh(c.w0.T @ (reset * a) + c.b0[:, None]) + c.b1[:, None])
        new = _tanh(jnp.concatenate([x.w2, c.w2]).T @ jnp.concatenate([hidden_x, hidden_c]) + agent.new_b[:, None])
        return new + keep * (a - new)

    shape = carry.shape[1:]
    return _in_blocks(next_state, _columns(blocks, shape), carry.reshape(size, -1)).reshape(carry.shape)


def stateless(
    mlp: MLP, standardiser: Standardiser, blocks: Sequence[Float[Array, "f ..."]], shape: tuple[int, ...]
) -> Float[Array, "y ..."]:
    """Outputs of a stateless agent's network, with ReLU between layers and tanh at the end.

    Arguments:
        shape: Shape of all axes after the features.
    """
    first = _folded(standardiser, blocks, mlp.w0, mlp.b0)

    def outputs(inputs: Float[Array, "x+1 S"]) -> Float[Array, "y S"]:
        z = mlp.w1.T @ jax.nn.relu(first @ inputs) + mlp.b1[:, None]
        z = mlp.w2.T @ jax.nn.relu(z)
        return _tanh(z + mlp.b2[:, None])

    return _in_blocks(outputs, _columns(blocks, shape)).reshape(-1, *shape)


def _in_blocks(function: Callable[..., Float[Array, "y S"]], *columns: Float[Array, "x S"]) -> Float[Array, "y S"]:
    """The function of all columns. A CPU computes blocks of columns whose intermediate values fit into its cache; the
    reverse pass computes these values again, which is cheaper than fetching them from memory."""
    total = columns[0].shape[1]
    if total <= 2 * BLOCK or jax.default_backend() != "cpu":
        return function(*columns)
    count = -(-total // BLOCK)
    width = -(-total // count)

    def split(rows: Float[Array, "x S"]) -> Float[Array, "count x width"]:
        padded = jnp.pad(rows, ((0, 0), (0, count * width - total)))
        return padded.reshape(-1, count, width).swapaxes(0, 1)

    outputs = jax.lax.map(lambda part: jax.checkpoint(function)(*part), tuple(map(split, columns)))
    return outputs.swapaxes(0, 1).reshape(-1, count * width)[:, :total]


def _columns(blocks: Sequence[Array], shape: tuple[int, ...]) -> Float[Array, "x+1 S"]:
    """All blocks and a row of ones, one column an agent."""
    rows = [jnp.broadcast_to(block, (len(block), *shape)).reshape(len(block), -1) for block in blocks]
    return jnp.concatenate([*rows, jnp.ones((1, rows[0].shape[1]), rows[0].dtype)])


def _folded(standardiser: Standardiser, blocks: Sequence[Array], w: Array, b: Array) -> Float[Array, "y x+1"]:
    """The matrix of standardiser and dense layer together, for columns of raw blocks and a one."""
    sizes = jnp.array([len(block) for block in blocks])
    total = sum(len(block) for block in blocks)
    norm, shift = (jnp.repeat(part, sizes, total_repeat_length=total) for part in standardiser)
    scaled = w * norm[:, None]
    return jnp.concatenate([scaled, (b + shift @ scaled)[None]]).T


@jax.custom_jvp
def _tanh(x: Array) -> Array:
    return jnp.tanh(x)


def _tanh_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The derivative from the value of tanh alone, so that nothing else is kept for the reverse pass."""
    y = _tanh(primals[0])
    return y, (1 - y * y) * tangents[0]


_tanh.defjvp(_tanh_derivative)
