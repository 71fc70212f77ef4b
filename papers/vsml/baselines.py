"""What VSML is compared with: online gradient descent, Meta RNN, Hebbian fast weights, fast-weight memory.

All learn one example after the other, and predict the logits of an example before they see its label. The meta-learned
ones are pure functions of parameters, inputs (T, E, A) and one-hot labels (T, E, B), like `network.learn_online`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from papers.vsml.network import bounded

__all__ = [
    "FastWeightMemory",
    "Hebbian",
    "Linear",
    "MetaRNN",
    "fast_weight_memory",
    "hebbian",
    "init_fast_weight_memory",
    "init_hebbian",
    "init_linear",
    "init_meta_rnn",
    "init_perceptron",
    "meta_rnn",
    "online_descent",
]

BOUND = 100.0
"""Bound of the logits of all baselines (official code)."""


class Linear(NamedTuple):
    """A dense layer x w + b."""

    w: Float[Array, "A B"]
    b: Float[Array, " B"]

    def __call__(self, x: Float[Array, "*batch A"]) -> Float[Array, "*batch B"]:
        """x w + b."""
        return x @ self.w + self.b


def init_linear(key: Array, inputs: int, outputs: int) -> Linear:
    """Truncated normal weights of scale 1 / sqrt(inputs), zero biases (official code)."""
    return Linear(jax.random.truncated_normal(key, -2, 2, (inputs, outputs)) / inputs**0.5, jnp.zeros(outputs))


# --- online gradient descent ---------------------------------------------------------------------------------


def init_perceptron(key: Array, sizes: Sequence[int]) -> tuple[Linear, ...]:
    """Dense layers between these widths, inputs first."""
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(init_linear(k, a, b) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True))


def online_descent(
    layers: tuple[Linear, ...],
    optimiser: optax.GradientTransformation,
    inputs: Float[Array, "T A"],
    labels: Float[Array, "T B"],
) -> Float[Array, "T B"]:
    """Logits of a tanh network that makes one optimiser step on the cross-entropy of each example."""

    def logits(layers: tuple[Linear, ...], x: Array) -> Array:
        for layer in layers[:-1]:
            x = jnp.tanh(layer(x))
        return bounded(layers[-1](x), BOUND)

    def loss(layers: tuple[Linear, ...], x: Array, label: Array) -> tuple[Array, Array]:
        z = logits(layers, x)
        return optax.softmax_cross_entropy(z, label), z

    def step(carry: tuple, example: tuple[Array, Array]) -> tuple[tuple, Array]:
        layers, state = carry
        gradient, z = jax.grad(loss, has_aux=True)(layers, *example)
        updates, state = optimiser.update(gradient, state, layers)
        return (optax.apply_updates(layers, updates), state), z

    return jax.lax.scan(step, (layers, optimiser.init(layers)), (inputs, labels))[1]


# --- recurrent learners --------------------------------------------------------------------------------------


class MetaRNN(NamedTuple):
    """An LSTM, whose inputs are the example, the previous error and the previous label, and a linear read-out."""

    lstm: Linear
    read_out: Linear


def init_meta_rnn(key: Array, inputs: int, outputs: int, units: int) -> MetaRNN:
    """Truncated normal weights, zero biases."""
    keys = jax.random.split(key)
    return MetaRNN(init_linear(keys[0], inputs + 2 * outputs + units, 4 * units), init_linear(keys[1], units, outputs))


def meta_rnn(
    params: MetaRNN, inputs: Float[Array, "T E A"], labels: Float[Array, "T E B"], micro_ticks: int = 2
) -> Float[Array, "T E B"]:
    """Logits of the Meta RNN (Hochreiter et al. 2001)."""

    def step(carry: tuple, example: tuple[Array, Array]) -> tuple[tuple, Array]:
        h, c, feedback = carry
        x, label = example
        lstm_input = jnp.concatenate([x, feedback], -1)
        for _ in range(micro_ticks):
            h, c = _lstm_cell(params.lstm, lstm_input, h, c)
        z = bounded(params.read_out(h), BOUND)
        return (h, c, _feedback(z, label)), z

    zero = jnp.zeros((inputs.shape[1], params.read_out.w.shape[0]), inputs.dtype)
    no_feedback = jnp.zeros((inputs.shape[1], 2 * labels.shape[-1]), inputs.dtype)
    return jax.lax.scan(jax.checkpoint(step), (zero, zero, no_feedback), (inputs, labels))[1]


class Hebbian(NamedTuple):
    """A layer whose weights are w + coefficient * F, F written by a Hebbian rule."""

    w: Float[Array, "A+2*B B"]
    b: Float[Array, " B"]
    coefficient: Float[Array, "A+2*B B"]
    rate: Float[Array, ""]
    """The learning rate before its sigmoid."""


def init_hebbian(key: Array, inputs: int, outputs: int) -> Hebbian:
    """Truncated normal weights, coefficients 0.01, a rate of sigmoid(-4.5) (official code)."""
    linear = init_linear(key, inputs + 2 * outputs, outputs)
    return Hebbian(*linear, jnp.full(linear.w.shape, 0.01), jnp.array(-4.5))


def hebbian(
    params: Hebbian,
    inputs: Float[Array, "T E A"],
    labels: Float[Array, "T E B"],
    rule: Literal["hebb", "oja"] = "oja",
) -> Float[Array, "T E B"]:
    """Logits of Hebbian fast weights: a pass without feedback predicts, a pass with error and label writes.

    With presynaptic u, postsynaptic v = softmax(output) and rate r, the fast weights change by r v (u - v F) (Oja) or
    become (1 - r) F + r u v (Hebb).
    """
    rate = jax.nn.sigmoid(params.rate)

    def forward(fast: Array, x: Array, feedback: Array) -> tuple[Array, Array]:
        u = jnp.concatenate([x, feedback], -1)
        return u, jnp.einsum("ea,eab->eb", u, params.w + params.coefficient * fast) + params.b

    def step(fast: Array, example: tuple[Array, Array]) -> tuple[Array, Array]:
        x, label = example
        _, z = forward(fast, x, jnp.zeros((len(x), 2 * label.shape[-1]), x.dtype))
        z = bounded(z, BOUND)
        u, out = forward(fast, x, _feedback(z, label))
        v = jax.nn.softmax(out)
        if rule == "oja":
            fast = fast + rate * v[:, None] * (u[..., None] - v[:, None] * fast)
        else:
            fast = (1 - rate) * fast + rate * u[..., None] * v[:, None]
        return fast, z

    fast = jnp.zeros((inputs.shape[1], *params.w.shape), inputs.dtype)
    return jax.lax.scan(jax.checkpoint(step), fast, (inputs, labels))[1]


class FastWeightMemory(NamedTuple):
    """An LSTM that writes to and reads from a matrix, addressed by products of keys (Schlag et al. 2021)."""

    lstm: Linear
    write: Linear
    """From the LSTM's output to two keys, a value and a strength."""
    read: Linear
    """From the LSTM's output to two keys."""
    retrieved: Linear
    """From the value read in the memory to what is added to the LSTM's output."""
    read_out: Linear


def init_fast_weight_memory(key: Array, inputs: int, outputs: int, units: int, memory: int) -> FastWeightMemory:
    """Truncated normal weights, zero biases; a memory of `memory` rows and `memory` squared columns."""
    keys = jax.random.split(key, 5)
    return FastWeightMemory(
        init_linear(keys[0], inputs + 2 * outputs + units, 4 * units),
        init_linear(keys[1], units, 3 * memory + 1),
        init_linear(keys[2], units, 2 * memory),
        init_linear(keys[3], memory, units),
        init_linear(keys[4], units, outputs),
    )


def fast_weight_memory(
    params: FastWeightMemory, inputs: Float[Array, "T E A"], labels: Float[Array, "T E B"]
) -> Float[Array, "T E B"]:
    """Logits of the fast-weight memory.

    Writing: M += beta (v - M k) k^T with k = k1 (x) k2, then M is scaled to a norm of at most 1. Reading: the
    standardised M (n (x) e), through a linear map, is added to the LSTM's output.
    """
    size = params.retrieved.w.shape[0]

    def step(carry: tuple, example: tuple[Array, Array]) -> tuple[tuple, Array]:
        h, c, memory, feedback = carry
        x, label = example
        h, c = _lstm_cell(params.lstm, jnp.concatenate([x, feedback], -1), h, c)
        written = params.write(h)
        k1, k2, value = jnp.split(jnp.tanh(written[:, :-1]), 3, -1)
        strength = jax.nn.sigmoid(written[:, -1:])
        k = _product(k1, k2)
        old = jnp.einsum("ers,es->er", memory, k)
        memory = memory + (strength * (value - old))[..., None] * k[:, None]
        norm = jnp.sqrt((memory**2).sum((1, 2), keepdims=True))
        memory = memory / jnp.maximum(1, norm)
        n, e = jnp.split(jnp.tanh(params.read(h)), 2, -1)
        r = jax.nn.standardize(jnp.einsum("ers,es->er", memory, _product(n, e)))
        z = bounded(params.read_out(h + params.retrieved(r)), BOUND)
        return (h, c, memory, _feedback(z, label)), z

    episodes = inputs.shape[1]
    zero = jnp.zeros((episodes, params.read_out.w.shape[0]), inputs.dtype)
    memory = jnp.zeros((episodes, size, size * size), inputs.dtype)
    no_feedback = jnp.zeros((episodes, 2 * labels.shape[-1]), inputs.dtype)
    return jax.lax.scan(jax.checkpoint(step), (zero, zero, memory, no_feedback), (inputs, labels))[1]


def _lstm_cell(linear: Linear, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """One step of the usual LSTM with gates i, g, f, o; 1 is added to the forget gate's input."""
    i, g, f, o = jnp.split(linear(jnp.concatenate([x, h], -1)), 4, -1)
    c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _feedback(logits: Array, label: Array) -> Array:
    """Error and label, side by side."""
    return jnp.concatenate([jax.nn.softmax(logits) - label, label], -1)


def _product(a: Float[Array, "E n"], b: Float[Array, "E m"]) -> Float[Array, "E n*m"]:
    """The outer product of two vectors, as a vector."""
    return (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
