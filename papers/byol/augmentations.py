"""The augmentations T and T' (table 6 and appendix B), one image after the other: the plain form, in the paper's order.

An image is (3, H, W) in [0, 1]. `fast_augmentations` does the same to a batch; both take what `draw` drew.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

__all__ = [
    "Draws", "Policy", "augment_one", "blur", "brightness", "contrast", "crop_resize", "cubic", "draw", "gaussian",
    "grey", "hsv_to_rgb", "hue", "rgb_to_hsv", "saturation", "solarise",
]  # fmt: skip

GREY = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue."""
ATTEMPTS = 10
"""Crops that are drawn before the whole image is taken."""


@dataclass(frozen=True)
class Policy:
    """What T or T' does, in its order. Defaults are those of T."""

    side: int = 224
    """Pixels a side of the result."""
    least_area: float = 0.08
    """The crop's area is uniform between this share of the image and all of it; its aspect log-uniform, 3/4 to 4/3."""
    flip: float = 0.5
    """Probability of a flip from left to right."""
    jitter: float = 0.8
    """Probability of all four changes of colour, in random order."""
    strengths: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Largest change of brightness, contrast, saturation and hue."""
    grey: float = 0.2
    """Probability of grey."""
    blur: float = 1.0
    """Probability of the Gaussian blur, σ uniform between 0.1 and 2 pixels."""
    radius: int = 11
    """Half-width of the blur's kernel: int(side/10/2) in the official code, 23 taps at 224."""
    solarise: float = 0.0
    """Probability of solarisation."""


class Draws(NamedTuple):
    """What was drawn for B images, (B,) each unless said."""

    box: Tensor
    """Top, left, height and width of the crop in pixels, (B, 4), whole numbers."""
    flip: Tensor
    jitter: Tensor
    order: Tensor
    """(B, 4): which of brightness 0, contrast 1, saturation 2, hue 3 comes first, second, third, last."""
    amounts: Tensor
    """(B, 4): added to brightness, factor of contrast, factor of saturation, added to hue."""
    grey: Tensor
    blur: Tensor
    sigma: Tensor
    solarise: Tensor

    def at(self, places: slice) -> "Draws":
        """The draws of some of the images."""
        return Draws(*(value[places] for value in self))

    def to(self, device: torch.device) -> "Draws":
        """On a device; `order` and `jitter` stay on the CPU, where it is decided which images they touch."""
        host = {"order", "jitter"}
        return Draws(*(value if name in host else value.to(device) for name, value in self._asdict().items()))


def draw(policy: Policy, sizes: tuple[int, int] | Tensor, count: int, generator: Generator) -> Draws:
    """What is drawn for `count` images of a size (height, width), or of sizes (count, 2); on the CPU."""

    def chance(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    sizes = torch.as_tensor(sizes).expand(count, 2).double()
    strengths = torch.tensor(policy.strengths)
    amounts = (2 * torch.rand(count, 4, generator=generator) - 1) * strengths
    return Draws(
        box=_boxes(policy, sizes, generator), flip=chance(policy.flip), jitter=chance(policy.jitter),
        order=torch.rand(count, 4, generator=generator).argsort(1),
        amounts=amounts + torch.tensor([0.0, 1, 1, 0]),
        grey=chance(policy.grey), blur=chance(policy.blur),
        sigma=0.1 + 1.9 * torch.rand(count, generator=generator), solarise=chance(policy.solarise),
    )  # fmt: skip


def _boxes(policy: Policy, sizes: Tensor, generator: Generator) -> Tensor:
    """The first of ten drawn crops that lies within the image, else the whole image."""
    count = len(sizes)
    area, aspect, top, left = torch.rand(4, count, ATTEMPTS, generator=generator).double()
    height, width = sizes[:, :1], sizes[:, 1:]
    area = height * width * (policy.least_area + (1 - policy.least_area) * area)
    aspect = ((2 * aspect - 1) * math.log(4 / 3)).exp()
    tall, wide = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (tall <= height) & (wide <= width) & (tall >= 1) & (wide >= 1)
    top, left = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    boxes = torch.stack([top, left, tall, wide], -1)
    first = boxes[torch.arange(count), fits.double().argmax(1)]
    whole = torch.cat([torch.zeros_like(sizes), sizes], 1)
    return torch.where(fits.any(1, keepdim=True), first, whole).float()


def augment_one(image: Tensor, draws: Draws, index: int, policy: Policy) -> Tensor:
    """One image (3, H, W) in [0, 1] after the draws of place `index`: (3, side, side) in [0, 1]."""
    x = crop_resize(image, [int(value) for value in draws.box[index]], policy.side).clamp(0, 1)
    if draws.flip[index]:
        x = x.flip(2)
    if draws.jitter[index]:
        for kind in draws.order[index].tolist():
            x = (brightness, contrast, saturation, hue)[kind](x, float(draws.amounts[index, kind])).clamp(0, 1)
    if draws.grey[index]:
        x = grey(x)
    if draws.blur[index]:
        x = blur(x, float(draws.sigma[index]), policy.radius)
    if draws.solarise[index]:
        x = solarise(x)
    return x.clamp(0, 1)


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def crop_resize(image: Tensor, box: list[int], side: int) -> Tensor:
    """The crop (top, left, height, width), bicubically at `side` x `side` pixels.

    Where it gets smaller the kernel is widened by as much, so that no pixel is passed over.
    """
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width]
    for axis in (1, 2):
        size = crop.shape[axis]
        scale = size / side
        rows = []
        for place in range(side):
            centre = (place + 0.5) * scale - 0.5
            weights = cubic((torch.arange(size, device=image.device) - centre) / max(scale, 1.0))
            weights = (weights / weights.sum()).to(image)
            rows.append(torch.tensordot(weights, crop, ([0], [axis])))
        crop = torch.stack(rows, axis)
    return crop


def brightness(x: Tensor, delta: float) -> Tensor:
    """x + δ."""
    return x + delta


def contrast(x: Tensor, factor: float) -> Tensor:
    """Distances from the mean of each channel over the image, times a factor."""
    mean = x.mean((-2, -1), keepdim=True)
    return factor * (x - mean) + mean


def saturation(x: Tensor, factor: float) -> Tensor:
    """The saturation of HSV times a factor, within [0, 1]."""
    h, s, v = rgb_to_hsv(x).unbind(-3)
    return hsv_to_rgb(torch.stack([h, (s * factor).clamp(0, 1), v], -3))


def hue(x: Tensor, delta: float) -> Tensor:
    """The hue of HSV moved by a share of the circle."""
    h, s, v = rgb_to_hsv(x).unbind(-3)
    return hsv_to_rgb(torch.stack([(h + delta) % 1.0, s, v], -3))


def rgb_to_hsv(x: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] to hue in [0, 1), saturation and value."""
    r, g, b = x.unbind(-3)
    v, least = x.amax(-3), x.amin(-3)
    chroma = v - least
    safe = torch.where(chroma > 0, chroma, 1)
    h = torch.where(v == r, (g - b) / safe, torch.where(v == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    h = torch.where(chroma > 0, (h / 6) % 1.0, 0)
    s = torch.where(v > 0, chroma / torch.where(v > 0, v, 1), 0)
    return torch.stack([h, s, v], -3)


def hsv_to_rgb(x: Tensor) -> Tensor:
    """The inverse of `rgb_to_hsv`: channel n is v - v s max(0, min(k, 4 - k, 1)), k = (n + 6h) mod 6, n = 5, 3, 1."""
    h, s, v = x.unbind(-3)
    channels = []
    for n in (5, 3, 1):
        k = (n + 6 * h) % 6
        channels.append(v - v * s * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, -3)


def grey(x: Tensor) -> Tensor:
    """Luminance in all three channels."""
    r, g, b = x.unbind(-3)
    return (GREY[0] * r + GREY[1] * g + GREY[2] * b).unsqueeze(-3).expand_as(x)


def gaussian(sigma: Tensor, radius: int) -> Tensor:
    """Normalised Gaussian weights at -radius ... radius: (..., 2 radius + 1)."""
    places = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = (-places.square() / (2 * sigma[..., None].square())).exp()
    return weights / weights.sum(-1, keepdim=True)


def blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Separable Gaussian blur of an image, zeros beyond its edges."""
    weights = gaussian(torch.tensor(sigma, dtype=x.dtype), radius).to(x)
    kernel = weights.expand(3, 1, 1, -1)
    x = torch.nn.functional.conv2d(x[None], kernel, padding=(0, radius), groups=3)
    return torch.nn.functional.conv2d(x, kernel.transpose(2, 3), padding=(radius, 0), groups=3)[0]


def solarise(x: Tensor) -> Tensor:
    """x below one half, else 1 - x."""
    return torch.where(x < 0.5, x, 1 - x)
