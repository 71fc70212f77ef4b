"""`sub_rnn.lstm_tick` for all sub-RNNs at once, and faster.

With one column a sub-RNN, a single product with the gates' matrix serves all of them, and the operations after it run
along contiguous memory. The slopes are written by hand, and tanh is a quotient of polynomials in single precision.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from papers.vsml.sub_rnn import GateOffsets, SubRNN

__all__ = ["gate_matrix", "lstm"]


def gate_matrix(
    params: SubRNN, offsets: GateOffsets, forward_channels: int, backward_channels: int
) -> Float[Array, "4*N K"]:
    """The gates' matrix for columns of [h, forward message, backward message, 1].

    It holds the first channels of messages only, because all other channels are zero. Biases and offsets are its last
    column. The rows of sigmoid gates are halved, since sigmoid(z) = (1 + tanh(z / 2)) / 2.
    """
    n, m = params.units, params.message_size
    gate_offsets = [
        jnp.broadcast_to(jnp.asarray(offset, params.b.dtype), n) for offset in (offsets.input, 0, offsets.forget, 0)
    ]
    columns = [params.w[2 * m :], params.w[:forward_channels], params.w[m : m + backward_channels]]
    rows = jnp.concatenate([*columns, (params.b + jnp.concatenate(gate_offsets))[None]]).T
    return rows * jnp.repeat(jnp.array([0.5, 1, 0.5, 0.5], rows.dtype), n)[:, None]


@jax.custom_vjp
def lstm(
    matrix: Float[Array, "4*N K"], columns: Float[Array, "K S"], c: Float[Array, "N S"]
) -> tuple[Float[Array, "N S"], Float[Array, "N S"]]:
    """`lstm_tick` of S sub-RNNs: their new hidden states and cells.

    In single precision tanh is a quotient of polynomials, and products of such quotients share one division.
    """
    z = _gates(matrix, columns)
    (pi, qi), (pg, qg), (pf, qf), (po, qo) = (_tanh_quotient(gate) for gate in z)
    write = qi * qg
    c = 0.5 * ((qf + pf) * c * write + (qi + pi) * pg * qf) / (write * qf)
    pc, qc = _tanh_quotient(c)
    return 0.5 * (qo + po) * pc / (qo * qc), c


def _lstm_forward(matrix: Array, columns: Array, c: Array) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    return lstm(matrix, columns, c), (matrix, columns, c)


def _lstm_backward(saved: tuple[Array, Array, Array], gradients: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Compute the gates again, which costs less than fetching them from memory."""
    matrix, columns, c = saved
    dh, dc = gradients
    # A product with the identity keeps the compiler from merging ticks and computing late ones again for early ones.
    dc = jnp.eye(len(dc), dtype=dc.dtype) @ dc
    ti, g, tf, to = (p / q for p, q in (_tanh_quotient(gate) for gate in _gates(matrix, columns)))
    i, f, o = (0.5 + 0.5 * t for t in (ti, tf, to))
    p, q = _tanh_quotient(f * c + i * g)
    t = p / q
    dc = dc + dh * o * (1 - t * t)
    # the matrix gives half of z_i, z_f and z_o: d sigmoid / d (z / 2) = (1 - tanh^2) / 2
    dz = jnp.concatenate([
        0.5 * dc * g * (1 - ti * ti), dc * i * (1 - g * g), 0.5 * dc * c * (1 - tf * tf), 0.5 * dh * t * (1 - to * to)
    ])  # fmt: skip
    return dz @ columns.T, matrix.T @ dz, dc * f


lstm.defvjp(_lstm_forward, _lstm_backward)


def _gates(matrix: Array, columns: Array) -> Array:
    """z_i, z_g, z_f, z_o: (4, N, S)."""
    return (matrix @ columns).reshape(4, -1, columns.shape[-1])


NUMERATOR = (9.999998543e-01, 1.292566264e-01, 2.951023452e-03, 1.142842036e-05)
DENOMINATOR = (1.0, 4.625887822e-01, 2.381555273e-02, 2.386691252e-04, 2.459209953e-07)
"""Minimax fit of tanh(x) = x P(x^2) / Q(x^2) on [-8, 8] by reweighted least squares: relative error 1.5e-7, with
rounding 4.5e-7; at 8, where x is clipped, tanh is 2e-7 below 1."""


def _tanh_quotient(x: Array) -> tuple[Array, Array]:
    """Numerator and denominator of tanh(x); the denominator is between 1 and 200."""
    if x.dtype != jnp.float32:
        return jnp.tanh(x), jnp.ones_like(x)
    x = jnp.clip(x, -8, 8)
    square = x * x
    p, q = NUMERATOR[-1], DENOMINATOR[-1]
    for coefficient in NUMERATOR[-2::-1]:
        p = p * square + coefficient
    for coefficient in DENOMINATOR[-2::-1]:
        q = q * square + coefficient
    return x * p, q
