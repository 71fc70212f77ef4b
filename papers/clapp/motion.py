"""Digits that move: frames follow in time, and a saccade goes to another sequence (stand-in for UCF-101)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from common.train.recorder import Outcome, Recorder
from common.train.seeding import torch_generator
from common.train.torch import torch_device
from papers.clapp.config import Motion
from papers.clapp.learning import learn
from papers.clapp.stimuli import Probing, Stimulus, spread_over

__all__ = ["paths", "sequences", "train"]

DIGIT = 14
"""Pixels a side of a digit."""
MEAN, DEVIATION = 0.05, 0.2
"""By which pixels are shifted and scaled, about those of a frame (ours)."""


def paths(count: int, config: Motion, generator: Generator) -> Tensor:
    """Corners (count, frames, 2) of digits that move evenly and bounce off the walls, in pixels."""
    draws = torch.rand(2, count, 1, 2, generator=generator, device=generator.device)
    room = config.side - DIGIT
    times = torch.arange(config.frames, device=generator.device).view(1, -1, 1)
    place = room * draws[0] + config.speed * (2 * draws[1] - 1) * times
    folded = place.remainder(2 * room) if room else torch.zeros_like(place)
    return torch.minimum(folded, 2 * room - folded).round().long()


def sequences(digits: Tensor, config: Motion, generator: Generator) -> Tensor:
    """Sequences (B, 1, frames side, side), a frame below the other, of digits (B, 14, 14) between 0 and 1."""
    corners = paths(len(digits), config, generator).to(digits.device)
    places = torch.arange(config.side, device=digits.device)
    inside = places - corners[..., None]  # (B, frames, 2, side): where in the digit
    shown = (inside >= 0) & (inside < DIGIT)
    rows, columns = inside.clamp(0, DIGIT - 1).unbind(2)
    batch = torch.arange(len(digits), device=digits.device).view(-1, 1, 1, 1)
    pixels = digits[batch, rows[..., :, None], columns[..., None, :]]
    pixels = pixels * (shown[:, :, 0, :, None] & shown[:, :, 1, None, :])
    return ((pixels - MEAN) / DEVIATION).flatten(1, 2).unsqueeze(1)


def motion(config: Motion, seed: int, device: torch.device) -> Stimulus:
    """Moving digits as a stimulus; test sequences are the same for all networks of a seed."""
    pool, test = (_digits(split, count, device) for split, count in (("train", config.train), ("test", config.tested)))
    labelled = _digits("train", config.labelled, device)
    tested = sequences(test[0], config, torch_generator(seed, "test sequences", device=device))
    probing = Probing(
        lambda generator: sequences(labelled[0], config, generator), {"class": labelled[1]}, tested, {"class": test[1]}
    )
    shape = (1, config.frames * config.side, config.side)

    def draw(rows: Tensor, generator: Generator) -> Tensor:
        return sequences(pool[0][rows], config, generator)

    return Stimulus(shape, len(pool[0]), draw, pool[1], probing)


def _digits(split: str, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Digits (n, 14, 14) between 0 and 1, and their classes."""
    images, labels = spread_over("mnist", split, count)
    pixels = torch.from_numpy(images).to(device).float() / 255
    return F.avg_pool2d(pixels.unsqueeze(1), 2)[:, 0], torch.from_numpy(labels).to(device).long()


def train(config: Motion, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train on moving digits without labels, and probe the digit."""
    return learn(config, seeds, motion(config, seeds[0], torch_device()), run)
