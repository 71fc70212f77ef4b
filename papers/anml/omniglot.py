"""Omniglot as the papers prepare it: small grey drawings, 20 of each character."""

from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from common import data
from common.errors import RefigureError

__all__ = ["DRAWINGS", "LEARNED", "load", "resize", "scale"]

DRAWINGS = 20
"""Drawings of each character, each by another person."""
LEARNED = 15
"""Drawings 0-14 of a character are learned in meta-testing, 15-19 are held out."""
CLASSES = {"background": 964, "evaluation": 659}
Pixels = Literal["unit", "published"]


def load(split: Literal["background", "evaluation"], side: int) -> UInt8[np.ndarray, "C 20 side side"]:
    """The drawings of a split, white 255, in the order of alphabets and characters.

    Raises:
        RefigureError: The split has another number of characters or drawings than it should have.
    """
    images = data.load("omniglot", split)["images"]
    if images.shape[:2] != (CLASSES[split], DRAWINGS):
        raise RefigureError(
            f"omniglot/{split} has {images.shape[0]} characters with {images.shape[1]} drawings, not "
            f"{CLASSES[split]} with {DRAWINGS}: delete its folder in the data cache and fetch it again"
        )
    return resize(np.asarray(images), side)


def resize(ink: UInt8[np.ndarray, "... 105 105"], side: int) -> UInt8[np.ndarray, "... side side"]:
    """Shrink drawings (1 = ink) to white paper (255) with black ink, by Pillow's Lanczos filter (official code)."""
    paper = 255 * (1 - ink.reshape(-1, *ink.shape[-2:]))
    small = [np.asarray(Image.fromarray(drawing).resize((side, side), Image.Resampling.LANCZOS)) for drawing in paper]
    return np.stack(small).reshape(*ink.shape[:-2], side, side)


def scale(images: UInt8[np.ndarray, "..."], pixels: Pixels) -> Float[np.ndarray, "..."]:
    """Grey levels as network inputs, float32.

    `unit`: in [0, 1] (the authors' later code). `published`: as the official code scales them. It applies a
    standardisation meant for [0, 1] to values up to 255 and divides by 256 once more: inputs lie in [-0.043, 0.0034].
    """
    if pixels == "unit":
        return images.astype(np.float32) / 255
    return (images.astype(np.float32) - np.float32(0.92206 * 256)) / np.float32(0.08426 * 256 * 256)
