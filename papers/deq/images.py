"""CIFAR-10: a multiscale DEQ, its weight-tied stack, and the tutorial's network of one resolution (MDEQ, table 1)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import data
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng, torch_generator
from common.train.torch import initialised, torch_device
from papers.deq.cells import ConvCell, MultiscaleCell
from papers.deq.config import Images
from papers.deq.implicit import Equilibrium
from papers.deq.iteration import Function
from papers.deq.memory import saved_bytes
from papers.deq.models import settle, solver_effort
from papers.deq.training import fit, parameters_of

__all__ = ["MultiscaleClassifier", "SingleClassifier", "classifier", "train"]

CLASSES = 10
SIDE = 32
CHUNK = 20
"""Steps between two lines of the metrics stream."""
TEST_BATCH = 200
"""Test images that are computed at once."""
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation of the colours of training images, as the official code gives them."""
MARGIN = 4
"""Largest shift in pixels, where training images are shifted at random."""


class Classified(NamedTuple):
    """The result of classifying a batch of images."""

    logits: Tensor
    """Logits of the classes, (B, 10)."""
    equilibrium: Equilibrium
    f: Function
    """The function whose equilibrium it is."""


def _convolved(source: int, target: int, size: int = 3, stride: int = 1, bias: bool = False) -> list[nn.Module]:
    """The layers convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(source, target, size, stride, size // 2, bias=bias)
    return [conv, nn.BatchNorm2d(target), nn.ReLU()]


class _Bottleneck(nn.Module):
    """A ResNet's bottleneck, four times as wide at its end; its inner normalisations have no scale and offset."""

    EXPANSION = 4

    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        wide = self.EXPANSION * width
        self.path = nn.Sequential(
            nn.Conv2d(source, width, 1, bias=False), nn.BatchNorm2d(width, affine=False), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width, affine=False), nn.ReLU(),
            nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide, affine=False),
        )  # fmt: skip
        self.skip = nn.Sequential(nn.Conv2d(source, wide, 1, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.path(x) + self.skip(x))


class MultiscaleClassifier(nn.Module):
    """MDEQ: a stem that computes the injection, the cell, and a head that receives all resolutions."""

    def __init__(self, config: Images) -> None:
        super().__init__()
        self.config = config
        channels, heads = config.channels, config.heads
        first = channels[0]
        stem = _convolved(3, first) + _convolved(first, first)
        self.stem = nn.Sequential(*stem, *(_convolved(first, first, 1) if len(channels) > 2 else []))
        self.cell = MultiscaleCell(channels, config.expansion, config.groups, config.dropout)
        self.widen = nn.ModuleList(_Bottleneck(*sizes) for sizes in zip(channels, heads, strict=True))
        wide = [_Bottleneck.EXPANSION * head for head in heads]
        self.down = nn.ModuleList(
            nn.Sequential(*_convolved(source, target, stride=2, bias=True)) for source, target in pairwise(wide)
        )
        self.final = nn.Sequential(*_convolved(wide[-1], config.final, 1, bias=True))
        self.out = nn.Linear(config.final, CLASSES)

    def forward(self, images: Tensor, layers: int | None) -> Classified:
        """Classify images (B, 3, H, W); `layers` is how often the cell is applied, None for its fixed point."""
        x = self.stem(images)
        f, sizes = self.cell.bind(x), self.cell.sizes(x.shape[-1])
        equilibrium = settle(self.config, f, x.new_zeros(len(x), sum(int(np.prod(size)) for size in sizes)), layers)
        first, *coarser = (
            block(part) for block, part in zip(self.widen, self.cell.split(equilibrium.z, sizes), strict=True)
        )
        for down, part in zip(self.down, coarser, strict=True):
            first = part + down(first)
        return Classified(self.out(self.final(first).mean((2, 3))), equilibrium, f)


class SingleClassifier(nn.Module):
    """The tutorial's network: convolution, batch normalisation, one resolution at its fixed point, batch normalisation,
    means over squares, and a linear read-out."""

    def __init__(self, config: Images) -> None:
        super().__init__()
        self.config = config
        (channels,) = config.channels
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.cell = ConvCell(channels, config.inner, config.groups)
        self.norm = nn.BatchNorm2d(channels)
        self.out = nn.Linear(16 * channels, CLASSES)

    def forward(self, images: Tensor, layers: int | None) -> Classified:
        """Classify images (B, 3, H, W); `layers` is how often the cell is applied, None for its fixed point."""
        x = self.stem(images)
        f = self.cell.bind(x)
        equilibrium = settle(self.config, f, torch.zeros_like(x), layers)
        pooled = F.avg_pool2d(self.norm(equilibrium.z), x.shape[-1] // 4)
        return Classified(self.out(pooled.flatten(1)), equilibrium, f)


def classifier(config: Images) -> nn.Module:
    """The network of a configuration, initialised with PyTorch's global generator."""
    return (MultiscaleClassifier if config.model == "multiscale" else SingleClassifier)(config)


def train(config: Images, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train on training images, then test once on test images, after the last step."""
    (seed,) = seeds
    device = torch_device()
    model = initialised(lambda: classifier(config), seed, device)
    images, labels = _load(config, "train", config.train, device)
    steps_per_epoch = -(-len(images) // config.batch)

    def loss(step: int) -> tuple[Tensor, Mapping[str, float], Equilibrium]:
        epoch, place = divmod(step, steps_per_epoch)
        order = numpy_rng(seed, "order", epoch).permutation(len(images))
        rows = torch.from_numpy(order[place * config.batch : (place + 1) * config.batch]).to(device)
        x = images[rows]
        if config.varied:
            x = _augmented(x, torch_generator(seed, "moved", step))
        output = model(x, _layers(config, step >= config.warm_up))
        value = F.cross_entropy(output.logits, labels[rows])
        accuracy = (output.logits.detach().argmax(1) == labels[rows]).float().mean()
        metrics = {"cross_entropy": float(value.detach()), "accuracy": 100 * float(accuracy)}
        return value, metrics, output.equilibrium

    fit(
        model, loss, seed=seed, steps=config.steps, rate=config.rate, floor=config.floor, decay=config.decay,
        clip=config.clip, chunk=CHUNK, recorder=run,
    )  # fmt: skip
    metrics = _test(model.eval(), config, device)
    trained = parameters_of(model)
    metrics["parameters"] = sum(value.numel() for value in model.parameters())
    x = images[: config.batch]
    model.train()
    metrics["bytes"] = saved_bytes(lambda: model(x, _layers(config, True)).logits, [*model.parameters(), x])
    return Outcome({name: [float(value)] for name, value in metrics.items()}, parameters=trained)


def _layers(config: Images, trained: bool) -> int | None:
    return None if config.depth == "deq" and trained else config.layers


def _load(config: Images, split: str, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (n, 3, side, side) and labels: `count` of them spread evenly over the split; 0 for all."""
    arrays = data.load("cifar10-jpeg", split)
    labels = np.array(arrays["labels"])
    rows = np.linspace(0, len(labels), count or len(labels), endpoint=False).astype(int)
    images = torch.from_numpy(arrays["images"][rows]).to(device).permute(0, 3, 1, 2).float() / 255
    if config.side < SIDE:
        images = F.avg_pool2d(images, SIDE // config.side)
    if config.normalised:
        mean, deviation = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, DEVIATION))
        images = (images - mean) / deviation
    return images.contiguous(), torch.from_numpy(labels[rows]).to(device).long()


def _augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to four pixels in both directions, filling with zeros, and mirror half of them."""
    batch, side = len(x), x.shape[-1]
    down, right = torch.randint(0, 2 * MARGIN + 1, (2, batch), generator=generator).to(x.device)
    mirrored = (torch.rand(batch, generator=generator) < 0.5).to(x.device)
    places = torch.arange(side, device=x.device)
    across = torch.where(mirrored[:, None], side - 1 - places, places) + right[:, None]
    rows = (places + down[:, None])[:, None, :, None]
    padded = F.pad(x, (MARGIN,) * 4)
    batch_index = torch.arange(batch, device=x.device)[:, None, None, None]
    return padded[batch_index, torch.arange(3, device=x.device)[:, None, None], rows, across[:, None, None, :]]


@torch.no_grad()
def _test(model: nn.Module, config: Images, device: torch.device) -> dict[str, float]:
    """Accuracy in per cent and cross-entropy on test images, and the solver's effort."""
    images, labels = _load(config, "test", config.tested, device)
    rows = []
    for x, y in zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
        output = model(x, _layers(config, True))
        metrics = {
            "test_accuracy": 100 * float((output.logits.argmax(1) == y).float().mean()),
            "test_loss": float(F.cross_entropy(output.logits, y)),
        }
        rows.append({**metrics, **solver_effort(output.equilibrium.info), "weight": float(len(x))})
    weights = np.array([row.pop("weight") for row in rows])
    return {name: float(np.average([row[name] for row in rows], weights=weights)) for name in rows[0]}
