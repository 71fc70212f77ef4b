"""`PlasticMLP.step` of a whole population, and faster: each row of weights is read and written once.

A neuron's activation is known once its row has been summed, so the row learns while it is still in the cache. Weights
and coefficients are packed: a member's layers one after the other, each (post, pre). A layer that is to be divided by
its largest weight is divided when it is read next.
"""

import numba
import numpy as np
from jaxtyping import Float, Int

__all__ = ["live_step", "still_step"]


@numba.njit(fastmath=True, cache=False)
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
    widest = 0
    for size in sizes:
        widest = max(widest, size)
    inputs, outputs = np.empty(widest, weights.dtype), np.empty(widest, weights.dtype)
    for member in range(len(weights)):
        inputs[: sizes[0]] = x[member]
        start = 0
        for layer in range(len(sizes) - 1):
            n, m = sizes[layer], sizes[layer + 1]
            scale, largest = scales[member, layer], np.float32(0)
            for j in range(m):
                a, b = start + j * n, start + (j + 1) * n
                w = weights[member, a:b]
                total = np.float32(0)
                for i in range(n):
                    total += w[i] * inputs[i]
                total *= scale
                y = total if raw and layer == len(sizes) - 2 else np.tanh(total)
                outputs[j] = y
                k_a, k_b = coefficients[member, 0, a:b], coefficients[member, 1, a:b]
                k_c, k_d = coefficients[member, 2, a:b], coefficients[member, 3, a:b]
                for i in range(n):
                    changed = scale * w[i] + (k_a[i] * inputs[i] + k_c[i]) * y + (k_b[i] * inputs[i] + k_d[i])
                    w[i] = changed
                    largest = max(largest, abs(changed))
            scales[member, layer] = 1 / largest if normalise else np.float32(1)
            inputs, outputs = outputs, inputs
            start += n * m
        actions[member] = inputs[: sizes[-1]]


@numba.njit(fastmath=True, cache=False)
def still_step(
    weights: Float[np.ndarray, "N S"],
    scales: Float[np.ndarray, "N L"],
    x: Float[np.ndarray, "N n"],
    sizes: Int[np.ndarray, " L+1"],
    raw: bool,
    actions: Float[np.ndarray, "N m"],
) -> None:
    """The same for weights that do not change. Arguments as of `live_step`."""
    widest = 0
    for size in sizes:
        widest = max(widest, size)
    inputs, outputs = np.empty(widest, weights.dtype), np.empty(widest, weights.dtype)
    for member in range(len(weights)):
        inputs[: sizes[0]] = x[member]
        start = 0
        for layer in range(len(sizes) - 1):
            n = sizes[layer]
            for j in range(sizes[layer + 1]):
                total = np.float32(0)
                for i in range(n):
                    total += weights[member, start + i] * inputs[i]
                total *= scales[member, layer]
                outputs[j] = total if raw and layer == len(sizes) - 2 else np.tanh(total)
                start += n
            inputs, outputs = outputs, inputs
        actions[member] = inputs[: sizes[-1]]
