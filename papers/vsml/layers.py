"""Layers of sub-RNNs: dense grids and convolutions (section 3, figure 2).

States have the axes (N, E, B, A): features, episodes, outputs, inputs; messages (M, E, A) or (M, E, B). Of a message
only the first channels need be given; the others are zero.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from papers.vsml.sub_rnn import GateOffsets, State, SubRNN, gate_matrix, lstm, message

__all__ = ["Conv", "Dense", "Layer"]

Message = Float[Array, "channels E *nodes"]


@dataclass(frozen=True)
class Dense:
    """A x B sub-RNNs: input a and output b are joined by one of them."""

    inputs: int
    outputs: int

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
        """Sub-RNNs an output hears."""
        return self.inputs

    def tick(
        self, params: SubRNN, offsets: GateOffsets, state: State, up: Message, down: Message, ticks: int
    ) -> tuple[State, Message, Message]:
        """So many ticks with the same incoming messages, then the messages that leave.

        Arguments:
            up: Forward messages to the inputs, (m, E, A).
            down: Backward messages to the outputs, (m', E, B).

        Returns:
            The new state, the forward message (M, E, B) and the backward message (M, E, A).
        """
        state = _ticks(params, offsets, state, up[:, :, None, :], down[..., None], ticks)
        return (
            state,
            message(state.h, params.forward_w, params.forward_b, params.forward_norm, -1),
            message(state.h, params.backward_w, params.backward_b, params.backward_norm, -2),
        )


@dataclass(frozen=True)
class Conv:
    """A 3 x 3 convolution with SAME padding: one sub-RNN for each position in the kernel and pair of channels.

    Every place in the image has the same states; what a tick makes of them there is averaged over all places.
    """

    side: int
    """Pixels a side of the input."""
    inputs: int
    """Channels."""
    outputs: int
    """Channels."""
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
        """Of the initial cells' scale: the kernel's size (official code)."""
        return 3

    def _patches(self, image: Array) -> Array:
        """Of every place the 3 x 3 pixels around it: (m, E, H, W, C) to (m, E, H', W', 3, 3, C); zeros beyond."""
        margin = (1, (self.out_side - 1) * self.stride + 2 - self.side)
        image = jnp.pad(image, ((0, 0), (0, 0), margin, margin, (0, 0)))
        at = self.stride * jnp.arange(self.out_side)[:, None] + jnp.arange(3)
        return image[:, :, at][:, :, :, :, at].swapaxes(3, 4)

    def tick(
        self, params: SubRNN, offsets: GateOffsets, state: State, up: Message, down: Message, ticks: int
    ) -> tuple[State, Message, Message]:
        """As of `Dense`, with messages (m, E, H, W, C).

        Messages to the input are summed over the places that see a pixel and divided by all 9 positions of the
        kernel. (The official code loses half of them where the stride is 2.)
        """
        patches = self._patches(up)[..., None, :]  # (m, E, H', W', 3, 3, 1, Cin)
        feedback = down[:, :, :, :, None, None, :, None]
        for _ in range(ticks):
            everywhere = jax.tree.map(lambda s: s[:, :, None, None], state)
            after = _ticks(params, offsets, everywhere, patches, feedback, 1)
            state = jax.tree.map(lambda s: s.mean((2, 3)), after)
        kernel = (4, 5, 7)
        forward = message(after.h, params.forward_w, params.forward_b, params.forward_norm, kernel)
        sent = message(after.h, params.backward_w, params.backward_b, params.backward_norm, (6,))
        zero = jnp.zeros((*sent.shape[:2], *self.nodes[0]), sent.dtype)
        _, scatter = jax.vjp(self._patches, zero)
        return state, forward, scatter(sent)[0] / 9


Layer = Dense | Conv


def _ticks(params: SubRNN, offsets: GateOffsets, state: State, up: Array, down: Array, ticks: int) -> State:
    """Ticks of all sub-RNNs; states and messages are broadcast against one another after their first axis."""
    shape = jnp.broadcast_shapes(state.h.shape[1:], up.shape[1:], down.shape[1:])

    def columns(x: Array) -> Array:
        return jnp.broadcast_to(x, (len(x), *shape)).reshape(len(x), -1)

    matrix = gate_matrix(params, offsets, len(up), len(down))
    h, c = columns(state.h), columns(state.c)
    fixed = [columns(up), columns(down), jnp.ones((1, h.shape[1]), h.dtype)]
    for _ in range(ticks):
        h, c = lstm(matrix, jnp.concatenate([h, *fixed]), c)
    return State(h.reshape(-1, *shape), c.reshape(-1, *shape))
