"""The augmentations of a whole batch on its device: what `augmentations` does image by image.

Crop, resize and flip are two matrix products an image, and so is the blur. Saturation and hue are written without a
round trip through HSV. Each change of colour touches the images alone that drew it, at each of the four places of the
random order.
"""

import torch
from torch import Tensor

from papers.byol.augmentations import Draws, Policy, cubic, gaussian, grey, solarise

__all__ = ["augment", "resize"]


def augment(images: Tensor, draws: Draws, policy: Policy) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] after their draws: (B, 3, side, side) in [0, 1]."""
    height, width = images.shape[-2:]
    rows = _resizing(draws.box[:, 0], draws.box[:, 2], height, policy.side)
    columns = _resizing(draws.box[:, 1], draws.box[:, 3], width, policy.side)
    columns = torch.where(draws.flip[:, None, None], columns.flip(1), columns)
    x = _separable(images, rows, columns).clamp_(0, 1)
    for place in range(4) if policy.jitter else ():
        for kind, change in enumerate((_brightness, _contrast, _saturation, _hue)):
            touched = (draws.jitter & (draws.order[:, place] == kind)).nonzero()[:, 0].to(x.device, non_blocking=True)
            amounts = draws.amounts[touched, kind, None, None]
            x[touched] = change(x[touched], amounts).clamp_(0, 1)
    if policy.grey:
        x = torch.where(_each(draws.grey), grey(x), x)
    if policy.blur and policy.radius:
        kernel = _toeplitz(gaussian(draws.sigma, policy.radius), policy.side)
        kernel = torch.where(draws.blur[:, None, None], kernel, torch.eye(policy.side, device=x.device))
        x = _separable(x, kernel, kernel)
    if policy.solarise:
        x = torch.where(_each(draws.solarise), solarise(x), x)
    return x.clamp_(0, 1)


def resize(images: Tensor, side: int) -> Tensor:
    """Whole images (B, 3, H, W) at side x side pixels, as `augment` resizes."""
    height, width = images.shape[-2:]
    if (height, width) == (side, side):
        return images
    zero = images.new_zeros(1)
    rows, columns = (_resizing(zero, zero + size, size, side) for size in (height, width))
    return _separable(images, rows, columns).clamp_(0, 1)


def _each(draws: Tensor) -> Tensor:
    return draws[:, None, None, None]


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · x · columnsᵀ of each image and channel."""
    return rows.unsqueeze(1) @ (x @ columns.transpose(1, 2).unsqueeze(1))


def _resizing(start: Tensor, size: Tensor, source: int, side: int) -> Tensor:
    """(B, side, source): weights by which `size` pixels from `start` on make `side` pixels."""
    scale = (size / side)[:, None, None]
    centres = start[:, None, None] + (torch.arange(side, device=start.device)[:, None] + 0.5) * scale - 0.5
    places = torch.arange(source, device=start.device)
    weights = cubic((places - centres) / scale.clamp(min=1))
    inside = (places >= start[:, None, None]) & (places < (start + size)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(-1, keepdim=True)


def _toeplitz(weights: Tensor, side: int) -> Tensor:
    """(B, taps) to (B, side, side): the convolution with zeros beyond the edges as a matrix."""
    radius = weights.shape[1] // 2
    places = torch.arange(side, device=weights.device)
    offsets = places[None, :] - places[:, None] + radius
    inside = (offsets >= 0) & (offsets <= 2 * radius)
    return weights[:, offsets.clamp(0, 2 * radius)] * inside


def _brightness(x: Tensor, delta: Tensor) -> Tensor:
    return x + delta[:, None]


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = x.mean((-2, -1), keepdim=True)
    return torch.lerp(mean, x, factor[:, None])


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Distances from the greatest channel times the factor, as far as the least channel stays at 0 or above."""
    v, least = x.amax(1), x.amin(1)
    chroma = v - least
    factor = torch.minimum(factor, v / chroma.clamp(min=1e-12))
    v = v.unsqueeze(1)
    return torch.lerp(v, x, factor.unsqueeze(1))


def _hue(x: Tensor, delta: Tensor) -> Tensor:
    """Greatest and least channel stay; each channel is a trapezoid in the hue between them."""
    r, g, b = x.unbind(1)
    v, least = x.amax(1), x.amin(1)
    chroma = v - least
    safe = chroma.clamp(min=1e-12)
    sextant = torch.where(v == r, (g - b) / safe, torch.where(v == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sextant = sextant + 6 * delta
    result = torch.empty_like(x)
    for channel, n in enumerate((5, 3, 1)):
        k = torch.remainder(sextant + n, 6)
        result[:, channel] = v - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
    return result
