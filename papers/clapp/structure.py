"""What neurons respond to: sparsity, the patches that excite them most, and encodings in two components (Fig. 3)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.room.config import build
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from common.train.torch import torch_device
from papers.clapp.config import Images, Structure
from papers.clapp.encoder import Encoder
from papers.clapp.learning import ENCODED, encoder_of
from papers.clapp.stimuli import load_images, patch_images

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["principal_components", "sparseness", "train"]


def sparseness(responses: Tensor) -> Tensor:
    """Treves-Rolls sparseness of responses (examples, neurons) over neurons, the mean of examples: 0 dense, 1 sparse.

    1 - mean(r)^2 / mean(r^2), over 1 - 1/n; an example without any response counts as dense.
    """
    count = responses.shape[1]
    square = responses.square().mean(1)
    share = torch.where(square > 0, responses.mean(1).square() / square.clamp(min=1e-30), 1.0)
    return ((1 - share) / (1 - 1 / count)).mean()


def principal_components(values: Tensor, count: int = 2) -> Tensor:
    """The first principal components (examples, count) of centred values; the largest loading is positive."""
    centred = (values - values.mean(0)).double()
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:count]
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    return centred @ (directions * signs).T


@torch.no_grad()
def responses_of(encoder: Encoder, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Of each layer the patch-averaged activity (gy gx B, c) and the share of positions that are active; patches."""
    patches, _ = encoder.patches(x)
    activities, _ = encoder.activities(x)
    means = [activity.mean for activity in activities]
    active = [(activity.z > 0).float().mean() for activity in activities]
    return means, active, patches


def train(config: Structure, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Measure a trained network on test images."""
    (seed,) = seeds
    device = torch_device()
    settings: Images = build(Images, parent.identity.config, f"{parent.identity}: config")
    pixels, labels = load_images(settings.images, settings.tested_on, config.examples, device)
    x = patch_images(pixels, settings.crop, None)
    encoder = encoder_of(settings, 1, 10)
    encoder.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in parent.parameters.items()})
    encoder = encoder.to(device).eval()
    parts = [responses_of(encoder, part) for part in x.split(ENCODED)]
    metrics: dict[str, list[float]] = {}
    arrays: dict[str, np.ndarray] = {"labels": labels[: config.embedded][None].cpu().numpy()}
    patches = torch.cat([part[2] for part in parts])
    for place in range(encoder.depth):
        layer = place + 1
        means = torch.cat([part[0][place] for part in parts])
        metrics[f"active_{layer}"] = [float(torch.stack([part[1][place] for part in parts]).mean())]
        metrics[f"sparseness_{layer}"] = [float(sparseness(means))]
        metrics[f"silent_{layer}"] = [float((means.amax(0) == 0).float().mean())]
        alive = torch.nonzero(means.amax(0) > 0).flatten().cpu().numpy()
        chosen = numpy_rng(seed, "neurons", layer).permutation(alive)[: config.shown]
        best = means[:, torch.from_numpy(chosen).to(device)].topk(config.best, dim=0).indices.T  # (shown, best)
        arrays[f"patches_{layer}"] = _as_pixels(patches[best.flatten()], len(chosen))[None]
        grid = encoder.patches(x[: config.embedded])[1]
        encodings = _by_example(parts, place, grid[:2])[: config.embedded]
        arrays[f"components_{layer}"] = principal_components(encodings).float().cpu().numpy()[None]
    return Outcome(metrics, arrays)


def _by_example(parts: Sequence[tuple], place: int, grid: tuple[int, int]) -> Tensor:
    """A layer's activity averaged over the patch grid, (examples, c)."""
    return torch.cat([part[0][place].unflatten(0, (*grid, -1)).mean((0, 1)) for part in parts])


def _as_pixels(patches: Tensor, neurons: int) -> np.ndarray:
    """Grey patches (neurons, best, h, w) as uint8, from normalised ones; each patch over its own range."""
    grey = patches[:, 0]
    low, high = grey.amin((1, 2), keepdim=True), grey.amax((1, 2), keepdim=True)
    pixels = 255 * (grey - low) / (high - low).clamp(min=0.5)
    return pixels.round().clamp(0, 255).to(torch.uint8).unflatten(0, (neurons, -1)).cpu().numpy()
