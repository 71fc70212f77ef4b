"""The networks that learn: their specification, the ordinary forward pass, and the loss of each output.

Arrays have the axes (E, B, units): networks, examples, units; weights (E, A, O).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from papers.mplp.agents import WIDTHS

__all__ = [
    "ACTIVATIONS",
    "LEAST",
    "ForwardValues",
    "Layer",
    "Spec",
    "elementwise_loss",
    "forward",
    "init_network",
    "predict",
]

KERNEL_DEVIATION = 0.05
"""Standard deviation of initial weights (official code)."""
LEAST = 1e-7
"""Probabilities are clipped to [LEAST, 1 - LEAST] for the cross-entropy (official code)."""
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "step": lambda z: jnp.maximum(0.0, jnp.sign(z)),
}


@dataclass(frozen=True)
class Spec:
    """The specification of a network and its agents."""

    sizes: tuple[int, ...]
    """Units of each layer, inputs first."""
    activation: Literal["relu", "sigmoid", "step"] = "relu"
    """Activation of hidden layers."""
    loss: Literal["l2", "ce"] = "l2"
    """Half the squared error, or softmax and cross-entropy, of each output."""
    message: int = 8
    """m, numbers of a message."""
    hidden: int = 15
    """h, numbers of an agent's state besides its message and, of a weight or a bias, its proposed change; 0 for
    agents without state."""
    shared: bool = False
    """Whether all weights share one GRU, and all biases another."""
    widths: tuple[int, int] = WIDTHS
    """Widths of the agents' hidden layers."""

    @property
    def depth(self) -> int:
        """Number of dense layers."""
        return len(self.sizes) - 1


class Layer(NamedTuple):
    """Weights and biases of a dense layer, for every network."""

    w: Float[Array, "E A O"]
    b: Float[Array, "E O"]


def init_network(key: Array, spec: Spec, count: int = 1) -> tuple[Layer, ...]:
    """`count` networks with normal weights of standard deviation 0.05 and zero biases."""
    keys = jax.random.split(key, spec.depth)
    return tuple(
        Layer(KERNEL_DEVIATION * jax.random.normal(k, (count, rows, columns)), jnp.zeros((count, columns)))
        for k, rows, columns in zip(keys, spec.sizes[:-1], spec.sizes[1:], strict=True)
    )


class ForwardValues(NamedTuple):
    """Values of the forward pass that the agents of a dense layer and of the operation after it receive."""

    x: Float[Array, "E B A"]
    product: Float[Array, "E B O"]
    z: Float[Array, "E B O"]


def forward(spec: Spec, layers: tuple[Layer, ...], x: Array) -> tuple[Float[Array, "E B O"], tuple[ForwardValues, ...]]:
    """Outputs of the networks, and what the agents of each layer receive of the forward pass."""
    values = []
    for index, layer in enumerate(layers):
        product = jnp.einsum("ebi,eio->ebo", x, layer.w)
        z = product + layer.b[:, None]
        values.append(ForwardValues(x, product, z))
        if index < spec.depth - 1:
            x = ACTIVATIONS[spec.activation](z)
        else:
            x = jax.nn.softmax(z) if spec.loss == "ce" else z
    return x, tuple(values)


def predict(spec: Spec, layers: tuple[Layer, ...], x: Float[Array, "E B A"]) -> Float[Array, "E B O"]:
    """Outputs of the networks; probabilities if they are classifiers."""
    return forward(spec, layers, x)[0]


def elementwise_loss(
    spec: Spec, prediction: Float[Array, "E B O"], target: Float[Array, "E B O"]
) -> Float[Array, "E B O"]:
    """Half the squared error, or the cross-entropy, of each output, without any sum."""
    if spec.loss == "l2":
        return 0.5 * (target - prediction) ** 2
    return -target * jnp.log(jnp.clip(prediction, LEAST, 1 - LEAST))
