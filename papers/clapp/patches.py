"""Images as grids of patches, and which patch predicts which (section 4 and appendix)."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from common.errors import RefigureError

__all__ = ["Pair", "extract_patches", "grid_size", "offset_pairs"]


class Pair(NamedTuple):
    """One prediction offset k: which rows of the grid are contexts, and which of the same columns are targets."""

    context: slice
    """Rows of the contexts c."""
    target: slice
    """Rows of the targets z, `skip + k` rows further down."""


def grid_size(image: tuple[int, int], patch: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patch grid.

    Raises:
        RefigureError: The image is smaller than a patch.
    """
    if any(side < size for side, size in zip(image, patch, strict=True)):
        raise RefigureError(
            f"an image of {image[0]} x {image[1]} pixels has no patch of {patch[0]} x {patch[1]}: take larger images "
            "(crop) or a smaller patch"
        )
    rows, columns = ((side - size) // step + 1 for side, size, step in zip(image, patch, stride, strict=True))
    return rows, columns


def extract_patches(x: Tensor, patch: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Patches (gy, gx, B, C, h, w) of images (B, C, H, W); time runs down the rows of the grid.

    Raises:
        RefigureError: The images are smaller than a patch.
    """
    grid_size((x.shape[-2], x.shape[-1]), patch, stride)
    windows = x.unfold(2, patch[0], stride[0]).unfold(3, patch[1], stride[1])  # (B, C, gy, gx, h, w)
    return windows.permute(2, 3, 0, 1, 4, 5)


def offset_pairs(rows: int, offsets: int, skip: int) -> Iterator[Pair]:
    """The pairs of each offset k = 1 .. K: context row r predicts row r + k + skip of its column.

    Raises:
        RefigureError: The largest offset leaves the grid.
    """
    if offsets < 1 or offsets + skip >= rows:
        raise RefigureError(
            f"{offsets} prediction offsets with {skip} skipped rows need {offsets + skip + 1} rows of patches, and the "
            f"grid has {rows}: at most offsets = {max(0, rows - 1 - skip)} here; take larger images for more"
        )
    for distance in range(1 + skip, offsets + skip + 1):
        yield Pair(slice(0, rows - distance), slice(distance, rows))
