"""The sub-RNN: one tiny LSTM in the place of each weight, all with the same parameters (section 3).

`lstm_tick` states the equations; `fast_lstm.py` has the form that runs. States have their features first, (N, ...),
and one column a sub-RNN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["GateOffsets", "Norm", "State", "SubRNN", "init_sub_rnn", "lstm_tick", "message"]


class Norm(NamedTuple):
    """Layer normalisation of a message."""

    scale: Float[Array, " M"]
    offset: Float[Array, " M"]


class SubRNN(NamedTuple):
    """V_M, everything that is meta-learned: an LSTM of N units and two linear maps to messages of M numbers."""

    w: Float[Array, "2*M+N 4*N"]
    """Rows: forward message, backward message, hidden state. Columns: the gates i, g, f, o."""
    b: Float[Array, " 4*N"]
    forward_w: Float[Array, "N M"]
    forward_b: Float[Array, " M"]
    backward_w: Float[Array, "N M"]
    backward_b: Float[Array, " M"]
    forward_norm: Norm | None = None
    backward_norm: Norm | None = None

    @property
    def units(self) -> int:
        """N."""
        return self.forward_w.shape[-2]

    @property
    def message_size(self) -> int:
        """M."""
        return self.forward_w.shape[-1]


class State(NamedTuple):
    """V_L, the learning state: hidden state and cell of every sub-RNN, N numbers each, features first."""

    h: Float[Array, "N ..."]
    c: Float[Array, "N ..."]


class GateOffsets(NamedTuple):
    """Constants added to two gates before their sigmoid (official code), one number or one a unit; not learned."""

    input: float | Float[Array, " N"] = -5.0
    forget: float | Float[Array, " N"] = 5.0


def init_sub_rnn(key: Array, units: int, message_size: int, normed: bool = False, read_out: float = 1.0) -> SubRNN:
    """Normal weights of scale 1 / sqrt(fan-in), cut at two of it and not rescaled, zero biases (official code).

    Arguments:
        normed: Whether messages are layer-normalised.
        read_out: Factor on the weights of the message maps.
    """
    keys = jax.random.split(key, 3)
    fan_in = 2 * message_size + units

    def normal(key: Array, rows: int, columns: int) -> Array:
        return jax.random.truncated_normal(key, -2, 2, (rows, columns)) / rows**0.5

    def norm() -> Norm | None:
        return Norm(jnp.ones(message_size), jnp.zeros(message_size)) if normed else None

    return SubRNN(
        normal(keys[0], fan_in, 4 * units), jnp.zeros(4 * units),
        read_out * normal(keys[1], units, message_size), jnp.zeros(message_size),
        read_out * normal(keys[2], units, message_size), jnp.zeros(message_size),
        norm(), norm(),
    )  # fmt: skip


def lstm_tick(
    params: SubRNN,
    offsets: GateOffsets,
    up: Float[Array, " M"],
    down: Float[Array, " M"],
    h: Float[Array, " N"],
    c: Float[Array, " N"],
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """One tick of one sub-RNN: its new hidden state and cell.

    Arguments:
        up: The forward message to its input.
        down: The backward message to its output.

    `fast_lstm.lstm` computes the same for all sub-RNNs at once; the runs use it.
    """
    z_i, z_g, z_f, z_o = jnp.split(jnp.concatenate([up, down, h]) @ params.w + params.b, 4)
    i = jax.nn.sigmoid(z_i + offsets.input)
    f = jax.nn.sigmoid(z_f + offsets.forget)
    o = jax.nn.sigmoid(z_o)
    c = f * c + i * jnp.tanh(z_g)
    return o * jnp.tanh(c), c


def message(
    h: Float[Array, "N ..."], w: Array, b: Array, norm: Norm | None, axis: int | tuple[int, ...]
) -> Float[Array, "M ..."]:
    """The mean over `axis` of the messages of sub-RNNs with hidden states `h`.

    The map is linear: without a norm the mean of the messages is the message of the mean.
    """
    if norm is None:
        mean = h.mean(axis)
        return _columns(w.T, mean) + _as_column(b, mean.ndim)
    messages = _columns(w.T, h) + _as_column(b, h.ndim)
    centred = messages - messages.mean(0)
    normed = centred * jax.lax.rsqrt((centred**2).mean(0) + 1e-5)
    return (normed * _as_column(norm.scale, h.ndim) + _as_column(norm.offset, h.ndim)).mean(axis)


def _columns(matrix: Array, x: Array) -> Array:
    """A matrix times the columns (features) of x."""
    return (matrix @ x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])


def _as_column(vector: Array, ndim: int) -> Array:
    return vector.reshape(-1, *[1] * (ndim - 1))
