"""All learners that can be meta-trained, in one form: initial parameters, and logits of episodes."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Key

from papers.vsml import baselines
from papers.vsml.config import VSML, FastWeightMemory, MetaRNN, MetaTrain
from papers.vsml.layers import Conv, Dense, Layer
from papers.vsml.network import Network, initial_cells, learn_online
from papers.vsml.sub_rnn import GateOffsets, init_sub_rnn

__all__ = ["OUTPUTS", "Learn", "Learner", "make_learner"]

OUTPUTS = 10
"""Classes of the tasks; tasks with fewer classes never use the last outputs."""

CHANNELS = 8
"""Channels of convolutional layers (official code)."""


Learn = Callable[[Any, Key[Array, " E"], Float[Array, "T E A"], Float[Array, "T E B"]], Float[Array, "T E B"]]


class Learner(NamedTuple):
    """A learning algorithm with parameters that are meta-learned."""

    init: Callable[[Array], Any]
    """From a key to parameters."""
    learn: Learn
    """From parameters, a key an episode, inputs and one-hot labels to the logits, predicted before labels are seen."""


def make_learner(config: MetaTrain, inputs: int, outputs: int = OUTPUTS) -> Learner:
    """The learner of a meta-training run, for images of `inputs` pixels."""
    if isinstance(config, VSML):
        return _vsml(config, inputs, outputs)
    if isinstance(config, MetaRNN):
        init, learn = partial(baselines.init_meta_rnn, units=config.units), baselines.meta_rnn
    elif isinstance(config, FastWeightMemory):
        init = partial(baselines.init_fast_weight_memory, units=config.units, memory=config.memory)
        learn = baselines.fast_weight_memory
    else:
        init, learn = baselines.init_hebbian, baselines.hebbian
    return Learner(
        lambda key: init(key, inputs=inputs, outputs=outputs), lambda params, keys, x, label: learn(params, x, label)
    )


def _vsml(config: VSML, inputs: int, outputs: int) -> Learner:
    """A network of sub-RNNs; its size is free, because V_M does not depend on it."""
    layers: list[Layer] = []
    for index in range(config.convolutions):
        side = layers[-1].out_side if layers else math.isqrt(inputs)
        layers.append(Conv(side, CHANNELS if index else 1, CHANNELS, stride=2))
    if layers:
        inputs = math.prod(layers[-1].nodes[1])
    sizes = [size for size in (inputs, config.hidden, outputs) if size]
    network = Network(
        (*layers, *(Dense(*pair) for pair in itertools.pairwise(sizes))),
        micro_ticks=config.micro_ticks,
        feed_label=config.feed_label,
        backward_pass=config.backward_pass,
        offsets=GateOffsets(config.input_offset, config.forget_offset),
        state_type={"fp32": None, "bf16": "bfloat16"}[config.states],
    )

    def learn(params: Any, keys: Array, x: Array, label: Array) -> Array:
        return learn_online(params, network, initial_cells(keys, network, config.units), x, label)

    return Learner(lambda key: init_sub_rnn(key, config.units, config.message, config.normed, config.read_out), learn)
