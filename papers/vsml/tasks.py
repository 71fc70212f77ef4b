"""Episodes: streams of labelled examples, all as arrays of pixels (section 4; table of data sets).

An episode's examples come from one data set at one size, and may be projected by a random matrix.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common import data
from papers.vsml.config import TaskName

__all__ = ["Episodes", "load", "mixture", "project", "resize", "standardise"]

SCALERS = {"mnist": (0.13066, 0.30811), "fashion-mnist": (0.13066, 0.30811), "cifar10-grey": (0.4734, 0.2516),
           "spoken-digits": (0.0, 1.0), "omniglot": (0.9221, 0.2681)}  # fmt: skip
"""Mean and standard deviation of grey levels in [0, 1] (official code, which has MNIST's for Fashion-MNIST too)."""

SIDE = 28
"""Pixels a side of all images before they are resized."""


@dataclass(frozen=True)
class Episodes:
    """A data set at one size, from which episodes are drawn. It is a pytree of its arrays."""

    name: TaskName
    side: int
    images: Float[Array, "n A"] | None = None
    """All examples of the split; None where examples are generated."""
    labels: Int[Array, " n"] | None = None
    """Class of each example, from 0; for `omniglot` its character."""
    repeats: bool = False
    """Whether an episode may contain an image more than once, which is faster to draw."""

    @property
    def inputs(self) -> int:
        """A, the number of pixels."""
        return self.side**2

    @property
    def classes(self) -> int:
        """B, the number of classes."""
        return 2 if self.name == "sum-sign" else 10

    @property
    def longest(self) -> int | None:
        """Length of the longest episode without repetition; None for no limit."""
        if self.images is None:
            return None
        return 200 if self.name == "omniglot" else len(self.images)

    def draw(self, key: Array, length: int) -> tuple[Float[Array, "T A"], Int[Array, " T"]]:
        """One episode of `length` examples."""
        keys = jax.random.split(key, 3)
        match self.name:
            case "random":  # twenty Gaussian images with random labels, shown repeatedly
                images = jax.random.normal(keys[0], (20, self.inputs))
                labels = jax.random.randint(keys[1], (20,), 0, 10)
                chosen = jax.random.randint(keys[2], (length,), 0, 20)
                return images[chosen], labels[chosen]
            case "sum-sign":  # the class is the sign of the sum of pixels around a mean from U(-1, 1)
                means = jax.random.uniform(keys[0], (length, 1), minval=-1, maxval=1)
                x = means + jax.random.truncated_normal(keys[1], -2, 2, (length, self.inputs))
                return x, (x.sum(-1) >= 0).astype(jnp.int32)
            case "omniglot":  # ten characters, 20 drawings each, in random order
                characters = jax.random.choice(keys[0], len(self.images) // 20, (10,), replace=False)
                order = jax.random.permutation(keys[1], 200)[:length]
                return self.images[characters[order // 20] * 20 + order % 20], order // 20
            case _:
                chosen = (
                    jax.random.randint(keys[0], (length,), 0, len(self.images))
                    if self.repeats
                    else jax.random.permutation(keys[0], len(self.images))[:length]
                )
                return self.images[chosen], self.labels[chosen]


jax.tree_util.register_dataclass(Episodes, data_fields=["images", "labels"], meta_fields=["name", "side", "repeats"])


def load(name: TaskName, split: Literal["train", "test"], side: int) -> Episodes:
    """A task at a size; omniglot's training split is the background set, its test split the evaluation set."""
    if name not in _READERS:
        return Episodes(name, side)
    images, labels = _READERS[name](split)
    x = jnp.asarray(standardise(resize(images, side), name))
    return Episodes(name, side, x, jnp.asarray(labels, jnp.int32), repeats=split == "train")


def standardise(images: Float[np.ndarray, "n side side"], name: TaskName) -> Float[np.ndarray, "n A"]:
    """Inputs from grey levels in [0, 1], by the task's fixed mean and standard deviation."""
    mean, deviation = SCALERS[name]
    return ((images - np.float32(mean)) / np.float32(deviation)).reshape(len(images), -1)


def resize(images: Float[np.ndarray, "n side side"], side: int) -> Float[np.ndarray, "n side side"]:
    """Resize images: means over whole blocks of pixels where possible, else bilinear with antialiasing."""
    old = images.shape[-1]
    if side == old:
        return images
    if old % side == 0:
        block = old // side
        return images.reshape(len(images), side, block, side, block).mean((2, 4))
    return np.asarray(jax.image.resize(jnp.asarray(images), (len(images), side, side), "linear"))


def project(key: Array, x: Float[Array, "T A"]) -> Float[Array, "T A"]:
    """x Q, with the entries of Q uniform in +- sqrt(6 / (2 A)) (official code)."""
    size = x.shape[-1]
    limit = (6 / (2 * size)) ** 0.5
    return x @ jax.random.uniform(key, (size, size), minval=-limit, maxval=limit)


# --- data sets as grey images of 28 x 28 in [0, 1] -----------------------------------------------------------

Labelled = tuple[Float[np.ndarray, "n 28 28"], Int[np.ndarray, " n"]]


def _idx(name: str, split: str) -> Labelled:
    arrays = data.load(name, split)
    return np.asarray(arrays["images"], np.float32) / 255, np.asarray(arrays["labels"])


def _cifar10(split: str) -> Labelled:
    """Luminance (ITU-R 601) of CIFAR-10, resized from 32 to 28 pixels."""
    arrays = data.load("cifar10-jpeg", split)
    grey = np.asarray(arrays["images"], np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    return resize(grey, SIDE), np.asarray(arrays["labels"])


def _omniglot(split: str) -> Labelled:
    """Omniglot as black ink on white paper."""
    arrays = data.load("omniglot", {"train": "background", "test": "evaluation"}[split])["images"]
    paper = 1 - np.asarray(arrays, np.float32).reshape(-1, *arrays.shape[-2:])
    return resize(paper, SIDE), np.repeat(np.arange(len(arrays)), arrays.shape[1])


def _spoken_digits(split: str) -> Labelled:
    """Log-energies of 28 mel bands in 28 frames from beginning to end, standardised over each recording."""
    arrays = data.load("fsdd", split)
    offsets = arrays["offsets"]
    recordings = [np.asarray(arrays["samples"][a:b], np.float32) for a, b in itertools.pairwise(offsets)]
    return np.stack([_mel_image(samples) for samples in recordings]), np.asarray(arrays["digit"])


def _mel_image(samples: np.ndarray, window: int = 512, rate: int = 8000) -> Float[np.ndarray, "28 28"]:
    """Log-energies of mel bands (first axis) in frames (second axis)."""
    samples = np.pad(samples, window // 2)
    starts = np.linspace(0, len(samples) - window, SIDE).astype(int)
    frames = samples[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), SIDE + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.fft.rfftfreq(window, 1 / rate)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    energy = np.log(power @ np.clip(np.minimum(rising, falling), 0, None).T + 1)
    return ((energy - energy.mean()) / energy.std()).T.astype(np.float32)


_READERS = {
    "mnist": lambda split: _idx("mnist", split),
    "fashion-mnist": lambda split: _idx("fashion-mnist", split),
    "cifar10-grey": _cifar10,
    "omniglot": _omniglot,
    "spoken-digits": _spoken_digits,
}


def mixture(tasks: Sequence[Episodes], episodes: int) -> list[tuple[Episodes, int]]:
    """Number of episodes of each task, when `episodes` episodes take the tasks in turn."""
    return [(task, len(range(index, episodes, len(tasks)))) for index, task in enumerate(tasks)]
