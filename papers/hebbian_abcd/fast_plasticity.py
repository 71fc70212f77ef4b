"""`PlasticMLP.step` of a whole population, and faster: one pass over a layer to act, one to learn while it is in cache.

Weights and coefficients are packed: a member's layers one after the other, each (pre, post), so that inner loops run
over many neurons side by side. A layer that is to be divided by its largest weight is divided when it is read next.
"""

import numba
import numpy as np
from jaxtyping import Float, Int

__all__ = ["live_step", "still_step"]

NUMERATOR = np.float32([9.999998543e-01, 1.292566264e-01, 2.951023452e-03, 1.142842036e-05])
DENOMINATOR = np.float32([1.0, 4.625887822e-01, 2.381555273e-02, 2.386691252e-04, 2.459209953e-07])
"""tanh(x) = x P(x^2) / Q(x^2) on [-8, 8], a fit of ours with a relative error of 4.5e-7."""


@numba.njit(fastmath=True)
def live_step(
    weights: Float[np.ndarray, "N S"],
    scales: Float[np.ndarray, "N L"],
    coefficients: Float[np.ndarray, "N 4 S"],
    x: Float[np.ndarray, "N n"],
    sizes: Int[np.ndarray, " L+1"],
    raw: bool,
    normalise: bool,
    actions: Float[np.ndarray, "N m"],
) -> None:
    """One step of the lifetimes of N members; weights, scales and actions are written in place.

    Arguments:
        weights: S synapses of each member.
        scales: What a layer's weights are multiplied with before use; ones at birth.
        coefficients: eta A, eta B, eta C and eta D of every synapse (only their products matter).
        raw: Whether the last neurons give the sum of their inputs instead of its tanh.
        normalise: Whether every layer is divided by its largest absolute weight after the update.
    """
    inputs, outputs = np.empty(sizes.max(), np.float32), np.empty(sizes.max(), np.float32)
    for member in range(len(weights)):
        inputs[: sizes[0]] = x[member]
        start = 0
        for layer in range(len(sizes) - 1):
            n, m, scale = sizes[layer], sizes[layer + 1], scales[member, layer]
            end = start + n * m
            _act(weights[member, start:end], scale, inputs[:n], outputs[:m], raw and layer == len(sizes) - 2)
            largest = np.float32(0)
            for i in range(n):
                o_i, row = inputs[i], slice(start + i * m, start + (i + 1) * m)
                w, k_a, k_b = weights[member, row], coefficients[member, 0, row], coefficients[member, 1, row]
                k_c, k_d = coefficients[member, 2, row], coefficients[member, 3, row]
                for j in range(m):
                    w[j] = scale * w[j] + (k_a[j] * o_i + k_c[j]) * outputs[j] + (k_b[j] * o_i + k_d[j])
                if normalise:
                    for j in range(m):
                        largest = max(largest, abs(w[j]))
            scales[member, layer] = 1 / largest if normalise and largest > 0 else np.float32(1)
            inputs, outputs = outputs, inputs
            start = end
        actions[member] = inputs[: sizes[-1]]


@numba.njit(fastmath=True)
def still_step(
    weights: Float[np.ndarray, "N S"],
    scales: Float[np.ndarray, "N L"],
    x: Float[np.ndarray, "N n"],
    sizes: Int[np.ndarray, " L+1"],
    raw: bool,
    actions: Float[np.ndarray, "N m"],
) -> None:
    """`live_step` for weights that do not change; it has the same arguments."""
    inputs, outputs = np.empty(sizes.max(), np.float32), np.empty(sizes.max(), np.float32)
    for member in range(len(weights)):
        inputs[: sizes[0]] = x[member]
        start = 0
        for layer in range(len(sizes) - 1):
            n, m = sizes[layer], sizes[layer + 1]
            end, last = start + n * m, layer == len(sizes) - 2
            _act(weights[member, start:end], scales[member, layer], inputs[:n], outputs[:m], raw and last)
            inputs, outputs = outputs, inputs
            start = end
        actions[member] = inputs[: sizes[-1]]


@numba.njit(fastmath=True)
def _act(
    w: Float[np.ndarray, " S"], scale: float, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"], raw: bool
) -> None:
    """The activations of a layer: tanh of the sums of its inputs, or the sums."""
    m = len(y)
    y[:] = 0
    for i in range(len(x)):
        o_i, row = scale * x[i], w[i * m : (i + 1) * m]
        for j in range(m):
            y[j] += row[j] * o_i
    if not raw:
        for j in range(m):
            z = min(np.float32(8), max(np.float32(-8), y[j]))
            s = z * z
            p = ((NUMERATOR[3] * s + NUMERATOR[2]) * s + NUMERATOR[1]) * s + NUMERATOR[0]
            q = (((DENOMINATOR[4] * s + DENOMINATOR[3]) * s + DENOMINATOR[2]) * s + DENOMINATOR[1]) * s + DENOMINATOR[0]
            y[j] = z * p / q
