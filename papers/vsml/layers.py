"""Layers of sub-RNNs: dense grids and convolutions (section 3, figure 2).

States have the axes (N, E, B, A): features, episodes, outputs, inputs; messages (M, E, A) or (M, E, B). A message may
consist of its first channels alone; all other channels are then zero.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from papers.vsml.fast_lstm import gate_matrix, lstm
from papers.vsml.sub_rnn import GateOffsets, State, SubRNN, message

__all__ = ["Conv", "Dense", "Layer", "Message"]

Message = Float[Array, "channels E *nodes"]
"""To or from the nodes of a layer."""


@dataclass(frozen=True)
class Dense:
    """A x B sub-RNNs: one for each pair of an input a and an output b."""

    inputs: int
    outputs: int
    reduce: Literal["mean", "sum"] = "mean"
    """What nodes receive of the messages of their sub-RNNs: their mean (official code) or their sum (cloning)."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Axes of the states after features and episodes."""
        return (self.outputs, self.inputs)

    @property
    def nodes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes of incoming forward and backward messages."""
        return (self.inputs,), (self.outputs,)

    @property
    def fan_in(self) -> int:
        """Number of sub-RNNs that send messages to an output."""
        return self.inputs

    def advance(
        self, params: SubRNN, offsets: GateOffsets, state: State, up: Message, down: Message, ticks: int
    ) -> State:
        """The state after `ticks` ticks with the same incoming messages; arguments as those of `tick`."""
        return _ticks(params, offsets, state, up[:, :, None, :], down[..., None], ticks)

    def tick(
        self, params: SubRNN, offsets: GateOffsets, state: State, up: Message, down: Message, ticks: int
    ) -> tuple[State, Message, Message]:
        """Make `ticks` ticks with the same incoming messages, then send messages.

        Arguments:
            up: Forward messages to the inputs, (m, E, A).
            down: Backward messages to the outputs, (m', E, B).

        Returns:
            The new state, the forward message (M, E, B) and the backward message (M, E, A).
        """
        state = self.advance(params, offsets, state, up, down, ticks)
        forward = message(state.h, params.forward_w, params.forward_b, params.forward_norm, -1)
        backward = message(state.h, params.backward_w, params.backward_b, params.backward_norm, -2)
        if self.reduce == "sum":
            forward, backward = self.inputs * forward, self.outputs * backward
        return state, forward, backward


@dataclass(frozen=True)
class Conv:
    """A 3 x 3 convolution: one sub-RNN for each position in the kernel and pair of channels.

    One pixel of padding stands before the image and as many as are needed after it (official code).
    All places of the image share the same states: after a tick, the new states are averaged over all places.
    """

    side: int
    """Pixels a side of the input images."""
    inputs: int
    """Input channels."""
    outputs: int
    """Output channels."""
    stride: int = 1

    @property
    def out_side(self) -> int:
        """Pixels a side of the output."""
        return -(-self.side // self.stride)

    @property
    def grid(self) -> tuple[int, ...]:
        """Axes of the states after features and episodes."""
        return (3, 3, self.outputs, self.inputs)

    @property
    def nodes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes of incoming forward and backward messages."""
        return (self.side, self.side, self.inputs), (self.out_side, self.out_side, self.outputs)

    @property
    def fan_in(self) -> int:
        """Fan-in that scales the initial cells: the kernel's size (official code)."""
        return 3

    def _patches(self, image: Array) -> Array:
        """The 3 x 3 pixels around every place: (m, E, H, W, C) to (m, E, H', W', 3, 3, C), zeros beyond the border."""
        margin = (1, (self.out_side - 1) * self.stride + 2 - self.side)
        image = jnp.pad(image, ((0, 0), (0, 0), margin, margin, (0, 0)))
        at = self.stride * jnp.arange(self.out_side)[:, None] + jnp.arange(3)
        return image[:, :, at][:, :, :, :, at].swapaxes(3, 4)

    def tick(
        self, params: SubRNN, offsets: GateOffsets, state: State, up: Message, down: Message, ticks: int
    ) -> tuple[State, Message, Message]:
        """Same arguments as `Dense.tick`, with messages (m, E, H, W, C).

        Messages to a pixel of the input are summed over the places whose kernel covers it and divided by all 9
        positions of the kernel. (The official code loses half of them where the stride is 2.)
        """
        patches = self._patches(up)[..., None, :]  # (m, E, H', W', 3, 3, 1, Cin)
        feedback = down[:, :, :, :, None, None, :, None]
        for _ in range(ticks):
            per_place = jax.tree.map(lambda s: s[:, :, None, None], state)
            ticked = _ticks(params, offsets, per_place, patches, feedback, 1)
            state = jax.tree.map(lambda s: s.mean((2, 3)), ticked)
        kernel = (4, 5, 7)
        forward = message(ticked.h, params.forward_w, params.forward_b, params.forward_norm, kernel)
        backward = message(ticked.h, params.backward_w, params.backward_b, params.backward_norm, (6,))
        zero = jnp.zeros((*backward.shape[:2], *self.nodes[0]), backward.dtype)
        _, scatter = jax.vjp(self._patches, zero)
        return state, forward, scatter(backward)[0] / 9


Layer = Dense | Conv


def _ticks(params: SubRNN, offsets: GateOffsets, state: State, up: Array, down: Array, ticks: int) -> State:
    """Tick all sub-RNNs; states and messages are broadcast against one another after their first axis."""
    shape = jnp.broadcast_shapes(state.h.shape[1:], up.shape[1:], down.shape[1:])

    def columns(x: Array) -> Array:
        return jnp.broadcast_to(x, (len(x), *shape)).reshape(len(x), math.prod(shape))

    matrix = gate_matrix(params, offsets, len(up), len(down))
    h, c = columns(state.h), columns(state.c)
    fixed = [columns(up), columns(down), jnp.ones((1, h.shape[1]), h.dtype)]
    for _ in range(ticks):
        h, c = lstm(matrix, jnp.concatenate([h, *fixed]), c)
    return State(h.reshape(-1, *shape), c.reshape(-1, *shape))
