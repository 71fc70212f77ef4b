"""Networks inside the couplings, encoders and decoders."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

__all__ = ["MLP"]


class MLP(nn.Sequential):
    """Linear layers with ReLU between them, (B, D) to (B, E), in PyTorch's default initialisation.

    Arguments:
        inputs: D.
        hidden: The widths of the hidden layers.
        outputs: E.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        sizes = [inputs, *hidden, outputs]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        super().__init__(*layers[:-1])
