"""Images on the device, and views of them: CIFAR-10 in memory, ImageNet from files."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from common import data
from common.errors import RefigureError
from common.train.seeding import torch_generator
from papers.byol.augmentations import Draws, Policy, draw
from papers.byol.fast_augmentations import augment, resize

__all__ = ["ImagesInMemory", "ImagesOnDisk", "Pictures", "normalise", "pictures", "spread_evenly"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours; the official code uses them for all images."""
WHOLE = slice(None)
"""All rows of a batch."""
TEST_SCALE = 256 / 224
"""Of the shorter side before the central crop, where images are larger than views."""


def normalise(x: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with the mean and deviation of ImageNet's colours taken out."""
    mean, deviation = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (x - mean) / deviation


def spread_evenly(total: int, count: int) -> np.ndarray:
    """`count` places of `total`, evenly; all for 0."""
    if count > total:
        raise RefigureError(f"{count} images were asked for, and the split has {total}: set train and tested to less")
    return np.linspace(0, total, count or total, endpoint=False).astype(np.int64)


class Pictures(Protocol):
    """Labelled images that give views."""

    labels: Tensor
    """(N,), on the device."""
    classes: int

    def views(
        self, rows: np.ndarray, policies: Sequence[Policy], seed: int, *purpose: str | int, part: slice = WHOLE
    ) -> list[Tensor]:
        """A view of images `rows` for each policy, normalised, (B, 3, side, side); drawn by (seed, purpose).

        Arguments:
            part: Which of the rows this process makes views of; draws are those of all rows, whoever makes them.
        """

    def plain(self, side: int, batch: int) -> Iterator[Tensor]:
        """All images in order, whole or cropped at their centre, normalised, so many at a time."""


class ImagesInMemory:
    """Small images of one size, on the device as bytes."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, device: torch.device) -> None:
        self.images = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(labels).long().to(device)
        self.classes = int(self.labels.max()) + 1

    def views(
        self, rows: np.ndarray, policies: Sequence[Policy], seed: int, *purpose: str | int, part: slice = WHOLE
    ) -> list[Tensor]:
        images = self.images[torch.from_numpy(rows[part]).to(self.images.device)].float() / 255
        views = []
        for number, policy in enumerate(policies):
            generator = torch_generator(seed, *purpose, number)
            draws = draw(policy, (images.shape[2], images.shape[3]), len(rows), generator).at(part).to(images.device)
            views.append(normalise(augment(images, draws, policy)))
        return views

    def plain(self, side: int, batch: int) -> Iterator[Tensor]:
        for part in self.images.split(batch):
            yield normalise(resize(part.float() / 255, side))


class ImagesOnDisk:
    """Images in a folder a class; decoded, and cropped bicubically, by threads, and changed on the device."""

    def __init__(self, folder: Path, device: torch.device, rows: int = 0) -> None:
        names = sorted(path.name for path in folder.glob("*/") if path.is_dir()) if folder.is_dir() else []
        if not names:
            raise RefigureError(
                f"ImageNet is not there: {folder} holds no folders of classes. Get ILSVRC-2012 from "
                f"https://image-net.org (an account is needed), unpack it to {folder.parent}/train/<class>/*.JPEG and "
                f"{folder.parent}/val/<class>/*.JPEG, or let REFIGURE_DATA name the folder above imagenet/"
            )
        files = [(path, place) for place, name in enumerate(names) for path in sorted((folder / name).glob("*"))]
        files = [files[row] for row in spread_evenly(len(files), rows)]
        self.paths = [path for path, _ in files]
        self.labels = torch.tensor([place for _, place in files], device=device)
        self.classes = len(names)
        self.device = device
        self._threads = ThreadPoolExecutor()

    def views(
        self, rows: np.ndarray, policies: Sequence[Policy], seed: int, *purpose: str | int, part: slice = WHOLE
    ) -> list[Tensor]:
        pictures = list(self._threads.map(_decoded, [self.paths[row] for row in rows[part]]))
        sizes = torch.ones(len(rows), 2)  # those of other processes decide nothing here
        sizes[part] = torch.tensor([[picture.height, picture.width] for picture in pictures]).float()
        views = []
        for number, policy in enumerate(policies):
            draws = draw(policy, sizes, len(rows), torch_generator(seed, *purpose, number)).at(part)
            boxes = [(left, top, left + wide, top + tall) for top, left, tall, wide in draws.box.tolist()]
            crops = self._threads.map(_cropped, pictures, boxes, [policy.side] * len(boxes))
            images = torch.from_numpy(np.stack(list(crops))).to(self.device).permute(0, 3, 1, 2).float() / 255
            whole = torch.tensor([0.0, 0, policy.side, policy.side]).expand(len(boxes), 4)
            views.append(normalise(augment(images, Draws(whole, *draws[1:]).to(self.device), policy)))
        return views

    def plain(self, side: int, batch: int) -> Iterator[Tensor]:
        for start in range(0, len(self.paths), batch):
            pictures = self._threads.map(_decoded, self.paths[start : start + batch])
            crops = [_cropped(picture, _centre(picture.width, picture.height), side) for picture in pictures]
            yield normalise(torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2).float() / 255)


def _centre(width: int, height: int) -> tuple[float, float, float, float]:
    """The central square: what a crop of 224 takes from an image whose shorter side has 256 pixels."""
    size = min(width, height) / TEST_SCALE
    left, top = (width - size) / 2, (height - size) / 2
    return left, top, left + size, top + size


def _decoded(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.convert("RGB")


def _cropped(picture: Any, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))


def pictures(name: str, split: str, count: int, device: torch.device) -> Pictures:
    """`count` images of a split, evenly spread; 0 for all.

    Raises:
        RefigureError: ImageNet is not there.
    """
    if name == "imagenet":
        return ImagesOnDisk(data.cache_folder(name) / {"train": "train", "test": "val"}[split], device, count)
    arrays = data.load(name, split)
    rows = spread_evenly(len(arrays["labels"]), count)
    return ImagesInMemory(np.asarray(arrays["images"])[rows], np.asarray(arrays["labels"])[rows], device)
