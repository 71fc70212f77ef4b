"""What a frozen encoder is worth: linear evaluation, logistic regression, nearest neighbours (appendix C)."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from common.train.probes import LinearProbe, choose, fit_logistic, knn_predict
from common.train.seeding import numpy_rng, torch_generator
from papers.byol.augmentations import Policy
from papers.byol.pictures import Pictures

if TYPE_CHECKING:
    from papers.byol.config import Pretrain

__all__ = ["evaluations", "features", "fit_linear", "linear_evaluation"]

BATCH = 1024
"""Images of a step of the linear evaluation, and of a pass over images."""
NESTEROV = 0.9
Batches = Iterator[tuple[Tensor, Tensor]]


@torch.no_grad()
def features(encoder: nn.Module, images: Pictures, side: int) -> Tensor:
    """The representations (N, D) of whole images, with the running statistics of batch normalisation."""
    encoder.eval()
    return torch.cat([encoder(part).float() for part in images.plain(side, BATCH)])


def fit_linear(
    batches: Batches, sizes: tuple[int, int], rates: Sequence[float], steps: int, generator: Generator
) -> list[LinearProbe]:
    """A linear layer for each rate, all trained at once on the same batches: SGD, Nesterov 0.9, half a cosine.

    Arguments:
        batches: Features (B, D) and labels (B,).
        sizes: Classes and D.
        generator: On the CPU; the layers begin alike, as `torch.nn.Linear` does.
    """
    classes, width = sizes
    initial = (2 * torch.rand(classes, width + 1, generator=generator) - 1) / width**0.5
    rate = torch.tensor(rates)[:, None, None]
    weights, moments = None, None
    for step, (x, y) in zip(range(steps), batches, strict=False):
        if weights is None:
            weights = initial.to(x).expand(len(rates), -1, -1).clone()
            moments, rate = torch.zeros_like(weights), rate.to(x)
        assert moments is not None
        inputs = F.pad(x, (0, 1), value=1.0)
        chances = F.linear(inputs, weights.flatten(0, 1)).unflatten(1, (len(rates), classes)).softmax(-1)
        errors = (chances - F.one_hot(y, classes).to(x)[:, None]) / len(x)
        gradient = (errors.flatten(1).T @ inputs).view_as(weights)
        moments = NESTEROV * moments + gradient
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        weights = weights - rate * cosine * (gradient + NESTEROV * moments)
    assert weights is not None
    return [LinearProbe(each[:, :-1], each[:, -1]) for each in weights]


def linear_evaluation(
    encoder: nn.Module, train: Pictures, held_out: np.ndarray, config: "Pretrain", cached: Tensor, seed: int
) -> LinearProbe:
    """The linear layer of appendix C.1: held-out images choose the rate, then all training images train it.

    Arguments:
        held_out: Places of the held-out images.
        cached: Features of the training images as they are, used where images are not cropped and flipped.
    """
    crops = Policy(config.side, flip=0.5, jitter=0.0, grey=0.0, blur=0.0, solarise=0.0)

    @torch.no_grad()
    def batches(rows: np.ndarray, name: str) -> Batches:
        epoch = 0
        while True:
            order = rows[numpy_rng(seed, name, epoch).permutation(len(rows))]
            for start in range(0, len(rows) - min(BATCH, len(rows)) + 1, BATCH):
                part = order[start : start + BATCH]
                places = torch.from_numpy(part).to(cached.device)
                x = cached[places]
                if config.linear_crops:
                    x = encoder(train.views(part, [crops], seed, name, epoch, start)[0]).float()
                yield x, train.labels[places]
            epoch += 1

    def fit(rows: np.ndarray, rates: Sequence[float], name: str) -> list[LinearProbe]:
        steps = config.linear_epochs * max(1, len(rows) // BATCH)
        sizes = (train.classes, cached.shape[1])
        return fit_linear(batches(rows, name), sizes, rates, steps, torch_generator(seed, name, "layer"))

    encoder.eval()
    everything = np.arange(len(cached))
    others = np.setdiff1d(everything, held_out)
    places = torch.from_numpy(held_out).to(cached.device)
    probes = fit(others, config.linear_rates, "choice")
    scores = [probe.accuracy(cached[places], train.labels[places]) for probe in probes]
    best = config.linear_rates[int(np.argmax(scores))]
    return fit(everything, [best], "linear")[0]


def evaluations(
    encoder: nn.Module,
    train: Pictures,
    test: Pictures,
    config: "Pretrain",
    seed: int,
    online: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Accuracies on test images in per cent.

    Keys: `linear` as in the paper; `logistic`, converged, by L-BFGS; `knn`; `online`, the classifier that was trained
    beside the encoder, where `online` gives its logits.
    """
    ours, theirs = (features(encoder, images, config.side) for images in (train, test))
    held_out = numpy_rng(seed, "held out").permutation(len(ours))[: min(config.held_out, len(ours) // 2)]
    kept = np.setdiff1d(np.arange(len(ours)), held_out)
    splits = [(ours[torch.from_numpy(rows).to(ours.device)], _at(train.labels, rows)) for rows in (kept, held_out)]
    logistic, _ = choose(fit_logistic, splits[0], splits[1], config.strengths)
    vote = partial(knn_predict, k=min(config.neighbours, len(ours)), temperature=config.temperature)
    accuracies = {
        "logistic": logistic.accuracy(theirs, test.labels),
        "knn": _share(vote((ours, train.labels), theirs), test.labels),
        "online": _share(online(theirs).argmax(1), test.labels),
    }
    if config.linear_epochs:
        probe = linear_evaluation(encoder, train, np.sort(held_out), config, ours, seed)
        accuracies = {"linear": probe.accuracy(theirs, test.labels), **accuracies}
    return {name: 100 * value for name, value in accuracies.items()}


def _at(values: Tensor, rows: np.ndarray) -> Tensor:
    return values[torch.from_numpy(rows).to(values.device)]


def _share(predicted: Tensor, labels: Tensor) -> float:
    return (predicted == labels).double().mean().item()
