"""Linear probes of all layers at once: the official one on raw features, and a converged one on standardised ones."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from common.train.probes import fit_logistic

__all__ = ["Course", "converged_probes", "raw_probes"]

MARKS = 40
"""Points of the curve of accuracy against probe steps, on a logarithmic scale."""


class Course(NamedTuple):
    """The raw-feature probe while it is trained."""

    steps: Tensor
    """Finished steps, (marks,)."""
    accuracy: Tensor
    """Share of test examples classified correctly, (marks, layers)."""


def raw_probes(
    features: Callable[[int], Sequence[Tensor]], labels: Tensor, test: Sequence[Tensor], test_labels: Tensor, *,
    epochs: int, batch: int, rate: float, generator: Generator,
) -> Course:  # fmt: skip
    """A linear layer on raw features of every layer, all trained together by one Adam: section 3.3 of the card.

    The layers share the order of examples. Narrower layers are filled up with zeros, whose weights never move.

    Arguments:
        features: Of an epoch, each layer's (N, D).
        generator: A CPU generator that draws initial weights as `torch.nn.Linear` does, then the order of each epoch,
            whose remainder is dropped.
    """
    widths = [values.shape[1] for values in test]
    classes, device = int(torch.maximum(labels.max(), test_labels.max())) + 1, labels.device
    weights = torch.zeros(len(widths), max(widths) + 1, classes)
    for layer, width in enumerate(widths):
        initial = (2 * torch.rand(classes, width + 1, generator=generator) - 1) / width**0.5
        weights[layer, :width], weights[layer, -1] = initial[:, :-1].T, initial[:, -1]
    weights = weights.to(device).requires_grad_()
    weights.grad = torch.zeros_like(weights)
    adam = torch.optim.Adam([weights], lr=rate, fused=True)
    targets = torch.nn.functional.one_hot(labels, classes).float()
    stacked, batch = _stacked(test, max(widths)), min(batch, len(labels))
    total = epochs * (len(labels) // batch)
    marks = sorted({round(total ** (mark / MARKS)) for mark in range(MARKS + 1)})
    done, rows = 0, []
    with torch.no_grad():
        for epoch in range(epochs):
            seen = _stacked(features(epoch), max(widths))
            order = torch.randperm(len(labels), generator=generator).to(device)
            for start in range(0, len(labels) - batch + 1, batch):
                place = order[start : start + batch]
                x = seen[:, place]
                error = (x @ weights).softmax(-1) - targets[place]
                torch.bmm(x.mT, error, out=weights.grad).div_(batch)
                adam.step()
                done += 1
                if done == marks[len(rows)]:
                    rows.append(((stacked @ weights).argmax(-1) == test_labels).float().mean(-1))
    return Course(torch.tensor(marks[: len(rows)]), torch.stack(rows).cpu())


def _stacked(features: Sequence[Tensor], width: int) -> Tensor:
    """Features of all layers (layers, N, width + 1), filled up with zeros, a last column of ones for the bias."""
    filled = torch.zeros(len(features), len(features[0]), width + 1, device=features[0].device)
    for layer, values in enumerate(features):
        filled[layer, :, : values.shape[1]] = values
    filled[:, :, -1] = 1
    return filled


def converged_probes(
    train: Sequence[Tensor], labels: Tensor, test: Sequence[Tensor], test_labels: Tensor, l2: float
) -> Tensor:
    """Share of test examples that logistic regression on standardised features classifies correctly, (layers,)."""
    pairs = zip(train, test, strict=True)
    return torch.tensor([fit_logistic((seen, labels), l2).accuracy(new, test_labels) for seen, new in pairs])
