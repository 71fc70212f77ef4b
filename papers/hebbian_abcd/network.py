"""A network without biases whose weights change while it acts, and the encoder of pictures before it (section 3)."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from papers.hebbian_abcd.plasticity import Coefficients, hebbian_update, normalised

__all__ = ["CONVOLUTIONS", "PlasticMLP", "encode"]

Layers = tuple[Float[np.ndarray, "... post pre"], ...]


class PlasticMLP(NamedTuple):
    """The settings of a multilayer perceptron with tanh units."""

    sizes: tuple[int, ...] = (28, 128, 64, 8)
    """Neurons of each layer, inputs first."""
    output: Literal["tanh", "raw"] = "tanh"
    """What the last neurons do, which is what their synapses learn from: the action itself, or the sum of inputs."""
    normalise: bool = False
    """Whether every layer is divided by its largest weight after each update."""

    def forward(self, weights: Layers, x: Float[np.ndarray, "... n"]) -> list[Float[np.ndarray, "... m"]]:
        """The activations of all layers, inputs first."""
        activations = [x]
        for index, w in enumerate(weights):
            z = np.einsum("...ji,...i->...j", w, activations[-1])
            last = index == len(weights) - 1
            activations.append(z if last and self.output == "raw" else np.tanh(z))
        return activations

    def step(
        self, weights: Layers, coefficients: tuple[Coefficients, ...], x: Float[np.ndarray, "... n"]
    ) -> tuple[Layers, Float[np.ndarray, "... m"]]:
        """One step of a lifetime: the weights after it, and what the last neurons did with the weights before it."""
        activations = self.forward(weights, x)
        pairs = zip(weights, coefficients, activations[:-1], activations[1:], strict=True)
        after = tuple(hebbian_update(*layer) for layer in pairs)
        return tuple(normalised(w) for w in after) if self.normalise else after, activations[-1]


CONVOLUTIONS = ((6, 3, 3, 1), (8, 6, 5, 2))
"""Of each convolution: channels out and in, pixels a side of its kernel, stride."""


def encode(params: Float[np.ndarray, "1362"], image: UInt8[np.ndarray, "84 84 3"]) -> Float[np.ndarray, "648"]:
    """The features of a picture: convolution, tanh and max-pool 2x2, twice; its kernels are evolved and not plastic.

    The picture comes in with its axes reversed, (channel, width, height), as in the official code.
    """
    x, start = image.swapaxes(0, 2).astype(np.float32) / 255, 0
    for out, channels, side, stride in CONVOLUTIONS:
        count = out * channels * side * side
        kernel = params[start : start + count].reshape(out, channels, side, side)
        start += count
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))[:, ::stride, ::stride]
        x = np.tanh(np.einsum("ocij,chwij->ohw", kernel, windows, optimize=True))
        height, width = (size // 2 * 2 for size in x.shape[1:])
        x = x[:, :height, :width].reshape(out, height // 2, 2, width // 2, 2).max((2, 4))
    return x.ravel()
