"""Tasks: sinusoids, and small images of digits; batches for a lifetime of learning (experiments of the notebooks).

Inputs have the axes (T, E, B, ...): steps, networks that each learn their own task, examples.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common import data

__all__ = ["GRID", "Images", "Sinusoids", "draw_batches", "draw_points", "draw_sinusoids", "load_images", "resize"]

GRID = np.linspace(-5, 5, 100, dtype=np.float32)
"""Where a learned sinusoid is compared with the true one (notebook)."""

ImageSet = Literal["mnist", "fashion-mnist"]


class Sinusoids(NamedTuple):
    """A sin(x + phase), one a network."""

    amplitude: Float[Array, " E"]
    phase: Float[Array, " E"]

    def __call__(self, x: Float[Array, "... E B 1"]) -> Float[Array, "... E B 1"]:
        """Values of the sinusoids."""
        return self.amplitude[:, None, None] * jnp.sin(x + self.phase[:, None, None])


def draw_sinusoids(key: Array, count: int) -> Sinusoids:
    """Amplitudes from U(0.1, 0.5), phases from U(0, pi)."""
    keys = jax.random.split(key)
    return Sinusoids(
        jax.random.uniform(keys[0], (count,), minval=0.1, maxval=0.5),
        jax.random.uniform(keys[1], (count,), maxval=jnp.pi),
    )


def draw_points(key: Array, sinusoids: Sinusoids, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Inputs from U(-5, 5) and their values, (*shape, 1); `shape` ends with the axes of networks and examples."""
    x = jax.random.uniform(key, (*shape, 1), minval=-5, maxval=5)
    return x, sinusoids(x)


class Images(NamedTuple):
    """A split of a data set, ready to be learned."""

    x: Float[Array, "n A"]
    labels: Int[Array, " n"]


def load_images(name: ImageSet, split: str, side: int) -> Images:
    """Resized images, standardised by mean and standard deviation of the whole training split at that size."""
    grey = {part: _grey(name, part, side) for part in {"train", split}}
    mean, deviation = grey["train"].mean(), grey["train"].std()
    x = (grey[split] - mean) / deviation
    return Images(jnp.asarray(x), jnp.asarray(data.load(name, split)["labels"], jnp.int32))


def _grey(name: ImageSet, split: str, side: int) -> Float[np.ndarray, "n A"]:
    images = np.asarray(data.load(name, split)["images"], np.float32) / 255
    return resize(images, side).reshape(len(images), -1)


def resize(images: Float[np.ndarray, "n old old"], side: int) -> Float[np.ndarray, "n side side"]:
    """Resize images: bilinear, with pixel centres at half integers and without antialiasing (official code)."""
    old = images.shape[-1]
    if side == old:
        return images
    at = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
    low = np.minimum(at.astype(int), old - 2)
    part = (at - low).astype(images.dtype)
    rows = images[:, low] * (1 - part)[:, None] + images[:, low + 1] * part[:, None]
    return rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part


def draw_batches(key: Array, images: Images, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Images (*shape, A) and one-hot labels (*shape, 10), drawn with replacement."""
    chosen = jax.random.randint(key, shape, 0, len(images.x))
    return images.x[chosen], jax.nn.one_hot(images.labels[chosen], 10)
