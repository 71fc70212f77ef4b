"""The network: 3x3 convolutions, each followed by ReLU and some by max-pooling, applied to every patch by itself."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import RefigureError
from papers.clapp.fast_convolution import KERNEL, PADDING, convolve
from papers.clapp.patches import extract_patches

__all__ = ["Activity", "Encoder", "Layer", "Module"]


class Activity(NamedTuple):
    """What a layer did with its input, as far as the rule needs it."""

    x: Tensor
    """Its input, the presynaptic activity, (N, C, h, w)."""
    z: Tensor
    """rho(a), before pooling, (N, c, h, w)."""
    winners: Tensor | None
    """Of each pooled position, the place of the position that won, as `max_pool2d` counts; None without pooling."""
    y: Tensor
    """What the next layer sees, (N, c, h', w')."""

    @property
    def mean(self) -> Tensor:
        """The activity averaged over the patch, (N, c): z and c of the loss."""
        return self.y.mean((2, 3))


class Layer(nn.Module):
    """a = W x + b, z = rho(a), and perhaps max-pooling by two.

    PyTorch's default initial weights: U(-1/sqrt(fan-in), 1/sqrt(fan-in)).
    """

    def __init__(self, source: int, width: int, *, pool: bool, bias: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(source, width, KERNEL, padding=PADDING, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """What the next layer sees."""
        z = F.relu(convolve(x, self.weight, self.bias))
        return F.max_pool2d(z, 2) if self.pool else z

    def activity(self, x: Tensor) -> Activity:
        """The same with what the rule needs."""
        z = F.relu(convolve(x, self.weight, self.bias))
        if not self.pool:
            return Activity(x, z, None, z)
        y, winners = F.max_pool2d(z, 2, return_indices=True)
        return Activity(x, z, winners, y)


class Module(nn.Module):
    """Layers between two stops of the gradient, with the prediction matrices of the loss at their end.

    `prediction` (K, c, c) holds matrices M_k with score u = c' M_k z: the prediction of z is M_k' c, the retrodiction
    of c is M_k z. Heads: `shared`, one set for both; `separate`, another set `retrodiction`; `none`, no such loss;
    `classes`, a linear read-out for supervised learning.
    """

    def __init__(self, layers: Sequence[Layer], heads: str, offsets: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        width = layers[-1].weight.shape[0]
        for name in {"shared": ["prediction"], "separate": ["prediction", "retrodiction"]}.get(heads, []):
            limit = 1 / math.sqrt(width)
            self.register_parameter(name, nn.Parameter(torch.empty(offsets, width, width).uniform_(-limit, limit)))
        if heads == "classes":
            self.read_out = nn.Linear(width, classes)


class Encoder(nn.Module):
    """All modules.

    Arguments:
        channels: Of the images.
        widths: Neurons (channels) of each layer.
        pools: Layers after which there is pooling, counted from 1.
        modules: Layers of each module; (1, 1, 1, 1, 1, 1) is layer-wise, (6,) end to end.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], pools: Sequence[int], modules: Sequence[int],
        patch: tuple[int, int], stride: tuple[int, int], *, heads: str, offsets: int, bias: bool, classes: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch, self.stride = patch, stride
        sources = [channels, *widths[:-1]]
        layers = [
            Layer(source, width, pool=number in pools, bias=bias)
            for number, (source, width) in enumerate(zip(sources, widths, strict=True), 1)
        ]
        ends = [sum(modules[: place + 1]) for place in range(len(modules))]
        self.stages = nn.ModuleList(
            Module(layers[end - size : end], heads, offsets, classes) for size, end in zip(modules, ends, strict=True)
        )

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(len(stage.layers) for stage in self.stages)

    def patches(self, x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """All patches of images (B, C, H, W) as one batch (gy gx B, C, h, w), and (gy, gx, B)."""
        cut = extract_patches(x, self.patch, self.stride)
        return cut.flatten(0, 2).contiguous(memory_format=torch.channels_last), tuple(cut.shape[:3])

    def ends(self, x: Tensor) -> list[Tensor]:
        """The patch-averaged activity at the end of each module, (gy, gx, B, c); gradients stay in their module."""
        y, grid = self.patches(x)
        means = []
        for stage in self.stages:
            y = y.detach()
            for layer in stage.layers:
                y = layer(y)
            means.append(y.mean((2, 3)).unflatten(0, grid))
        return means

    def activities(self, x: Tensor) -> tuple[list[Activity], tuple[int, int, int]]:
        """What every layer does, and (gy, gx, B)."""
        y, grid = self.patches(x)
        done = []
        for stage in self.stages:
            for layer in stage.layers:
                done.append(layer.activity(y))
                y = done[-1].y
        return done, grid

    @torch.no_grad()
    def features(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Activity averaged over patch and grid, (B, c), of the layers `wanted`, counted from 1.

        Raises:
            RefigureError: The network lacks a layer.
        """
        if missing := [number for number in wanted if not 1 <= number <= self.depth]:
            raise RefigureError(f"the probe asks for layer {missing[0]}, and the network has layers 1 to {self.depth}")
        y, grid = self.patches(x)
        means = {}
        for number, layer in enumerate((layer for stage in self.stages for layer in stage.layers), 1):
            y = layer(y)
            means[number] = y.mean((2, 3)).unflatten(0, grid).mean((0, 1))
        return [means[number] for number in wanted]
