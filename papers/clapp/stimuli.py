"""What the network sees: examples (B, C, H, W) in which time runs down, made on the device from a step's generator."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from common import data
from common.errors import RefigureError
from papers.clapp.config import Images

__all__ = ["Probing", "Stimulus", "images", "load_images", "patch_images", "spread_over", "two_views"]

MEAN, DEVIATION = 0.4120, 0.2570
"""Of grey pixels between 0 and 1 (official code)."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey pixel."""
GREY = 0.2
"""Share of views without colour (ours)."""


class Probing(NamedTuple):
    """What probes are fitted on and tested on."""

    train: Callable[[Generator], Tensor]
    """The labelled examples, as drawn by a generator."""
    train_labels: Mapping[str, Tensor]
    """By the name of what is asked: `class`."""
    test: Tensor
    test_labels: Mapping[str, Tensor]


class Stimulus(NamedTuple):
    """Training examples and those of the probes."""

    shape: tuple[int, int, int]
    """Channels, height, width of an example."""
    count: int
    """Training examples of an epoch."""
    draw: Callable[[Tensor, Generator], Tensor]
    """Examples (B, C, H, W) of the rows (B,)."""
    labels: Tensor | None
    """Classes of the training examples, where the encoder may see them."""
    probing: Probing


def spread_over(name: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 and labels (n,) of a data set, `count` of them spread evenly over a split; 0 for all.

    Images without labels have label 0.

    Raises:
        RefigureError: The split has fewer.
    """
    arrays = data.load(name, split)
    total = len(arrays["images"])
    if count > total:
        raise RefigureError(f"{count} images asked of {name}, whose split {split} has {total}: ask for fewer")
    rows = np.linspace(0, total, count or total, endpoint=False).astype(int)
    labels = arrays["labels"][rows] if "labels" in arrays.arrays else np.zeros(len(rows), np.uint8)
    return np.ascontiguousarray(arrays["images"][rows]), np.array(labels)


def load_images(name: str, split: str, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Colour images (n, 3, H, W) uint8 and labels (n,) on a device, `count` of them; 0 for all."""
    pixels, labels = spread_over(name, split, count)
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(labels).to(device).long()


def _grey(pixels: Tensor) -> Tensor:
    """Normalised grey images (B, 1, H, W) of uint8 colours (B, 3, H, W)."""
    weights = torch.tensor(LUMA, device=pixels.device).view(1, 3, 1, 1) / 255
    return ((pixels * weights).sum(1, keepdim=True) - MEAN) / DEVIATION


def _cut(pixels: Tensor, crop: int, corners: Tensor, mirrored: Tensor) -> Tensor:
    """Squares (B, C, crop, crop) whose corners are (B, 2), some of them mirrored (B,)."""
    places = torch.arange(crop, device=pixels.device)
    across = torch.where(mirrored[:, None], crop - 1 - places, places) + corners[:, 1:]
    rows = places + corners[:, :1]
    images = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[images, rows[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def patch_images(pixels: Tensor, crop: int, generator: Generator | None) -> Tensor:
    """Grey squares of images: random ones, half of them mirrored; without a generator those of the centre.

    Raises:
        RefigureError: The images are smaller.
    """
    height, width = pixels.shape[-2:]
    if crop > min(height, width):
        raise RefigureError(f"a crop of {crop} pixels does not fit into images of {height} x {width}: set crop")
    if generator is None:
        top, left = (height - crop) // 2, (width - crop) // 2
        return _grey(pixels[..., top : top + crop, left : left + crop])
    draws = torch.rand(3, len(pixels), generator=generator, device=generator.device).to(pixels.device)
    room = torch.tensor([height - crop + 1, width - crop + 1], device=pixels.device)
    corners = (draws[:2].T * room).long()
    return _grey(_cut(pixels, crop, corners, draws[2] < 0.5))


def two_views(pixels: Tensor, config: Images, generator: Generator) -> Tensor:
    """Two augmented views of each image, one below the other, (B, 3, 2 crop, crop): cut out, mirrored, jittered."""
    views = [_view(pixels, config, generator) for _ in range(2)]
    return torch.cat(views, 2)


def _view(pixels: Tensor, config: Images, generator: Generator) -> Tensor:
    draws = torch.rand(8, len(pixels), generator=generator, device=generator.device).to(pixels.device)
    area = config.least + (1 - config.least) * draws[0]
    aspect = torch.exp(math.log(4 / 3) * (2 * draws[1] - 1))
    scale = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)  # across, down
    centre = (2 * draws[2:4].T - 1) * (1 - scale)
    sign = torch.where(draws[4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(sign)
    theta = torch.stack([
        torch.stack([scale[:, 0] * sign, zero, centre[:, 0]], 1), torch.stack([zero, scale[:, 1], centre[:, 1]], 1),
    ], 1)  # fmt: skip
    grid = F.affine_grid(theta, [len(pixels), 3, config.crop, config.crop], align_corners=False)
    view = F.grid_sample(pixels.float() / 255, grid, padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation = (
        (1 + config.jitter * (2 * draw - 1)).view(-1, 1, 1, 1) for draw in (draws[5], draws[6], draws[7])
    )
    view = view * brightness
    middle = view.mean((1, 2, 3), keepdim=True)
    view = middle + contrast * (view - middle)
    grey = (view * torch.tensor(LUMA, device=view.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = torch.where(saturation < 1 - config.jitter * (1 - 2 * GREY), 0.0, saturation)
    return ((grey + saturation * (view - grey)).clamp(0, 1) - MEAN) / DEVIATION


def _whole(pixels: Tensor, side: int) -> Tensor:
    """Whole images in colour, means over squares."""
    return (F.adaptive_avg_pool2d(pixels.float() / 255, side) - MEAN) / DEVIATION


def images(config: Images, device: torch.device) -> Stimulus:
    """Still images as a stimulus."""
    labelled, labels = load_images(config.images, "train", config.labelled, device)
    tested, test_labels = load_images(config.images, config.tested_on, config.tested, device)
    supervised = config.objective == "classes"
    pool = labelled if supervised else load_images(config.images, config.pool, config.train, device)[0]
    crop = config.crop
    if config.stimulus == "patches":
        probing = Probing(
            lambda generator: patch_images(labelled, crop, generator), {"class": labels},
            patch_images(tested, crop, None), {"class": test_labels},
        )  # fmt: skip
        shape, draw = (1, crop, crop), lambda rows, generator: patch_images(pool[rows], crop, generator)
    else:
        whole = _whole(labelled, crop)
        probing = Probing(lambda _: whole, {"class": labels}, _whole(tested, crop), {"class": test_labels})
        shape, draw = (3, 2 * crop, crop), lambda rows, generator: two_views(pool[rows], config, generator)
    return Stimulus(shape, len(pool), draw, labels if supervised else None, probing)
