"""What frozen features are worth: linear probes and nearest neighbours, in PyTorch.

A split is a pair of features (N, D), floats, and labels (N,), integers from 0, as tensors or NumPy arrays; what is
computed from one stays on the device of its features. Splits that cannot be used raise RefigureError.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from common.errors import RefigureError

__all__ = ["LinearProbe", "choose", "fit_logistic", "fit_minibatch", "knn_predict"]

Split = tuple[Any, Any]
Optimiser = Callable[[list[Tensor]], torch.optim.Optimizer]


class LinearProbe(NamedTuple):
    """logits = W x + b, with `weight` W (classes, D) and `bias` b (classes,)."""

    weight: Tensor
    bias: Tensor

    def accuracy(self, features: Any, labels: Any) -> float:
        """The fraction classified correctly, between 0 and 1."""
        predicted = F.linear(torch.as_tensor(features).to(self.weight), self.weight, self.bias).argmax(dim=1)
        return (predicted == torch.as_tensor(labels).to(predicted)).double().mean().item()


def fit_logistic(train: Split, l2: float) -> LinearProbe:
    """Multinomial logistic regression on standardised features: the minimiser of mean cross-entropy + l2/2 ‖V‖².

    V = W · diag(standard deviation of each feature over `train`): the probe is blind to the features' scale and
    shift. The bias is free. By L-BFGS in float64, until no entry of the gradient exceeds 1e-7, or 500 iterations.
    The converged probe of CLAPP and BYOL; BYOL's transfer chooses `l2` among 45 values from 1e-6 to 1e5.
    """
    features, labels, classes = _checked(train)
    mean, deviation = features.double().mean(dim=0), features.double().std(dim=0, correction=0)
    varies = deviation > 1e-9 * features.abs().amax(dim=0)
    scale = torch.where(varies, deviation, 1) * (1 + l2) ** 0.5  # with the root, a large l2 converges as fast
    inputs = (features - mean) / scale
    weight = inputs.new_zeros(classes, features.shape[1], requires_grad=True)
    bias = inputs.new_zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_change=0, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(F.linear(inputs, weight, bias), labels) + l2 / (1 + l2) / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(objective)
    unscaled = weight.detach() / scale
    return LinearProbe(unscaled.to(features), (bias.detach() - unscaled @ mean).to(features))


def fit_minibatch(
    train: Split, optimiser: Optimiser, *, steps: int, batch: int, cosine: bool, generator: Generator
) -> LinearProbe:
    """A linear layer on raw features, trained for `steps` minibatches: a probe that need not converge.

    CLAPP: `torch.optim.Adam` at 1e-3, batch 32. BYOL (appendix C.1): `torch.optim.SGD` with momentum 0.9 and
    `nesterov`, batch 1024, its learning rate decayed to 0 by a half `cosine`. The CPU `generator` draws the initial
    weights, as `torch.nn.Linear` does, and then the order of each epoch, whose remainder is dropped.
    """
    features, labels, classes = _checked(train)
    width, batch = features.shape[1], min(batch, len(features))
    initial = (2 * torch.rand(classes, width + 1, generator=generator) - 1) / width**0.5
    weight, bias = (part.to(features, copy=True).requires_grad_() for part in (initial[:, :-1], initial[:, -1]))
    trainer = optimiser([weight, bias])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(trainer, steps)
    epoch = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(epoch) < batch:
            epoch = torch.randperm(len(features), generator=generator)
        rows, epoch = epoch[:batch].to(features.device), epoch[batch:]
        trainer.zero_grad()
        F.cross_entropy(F.linear(features[rows], weight, bias), labels[rows]).backward()
        trainer.step()
        if cosine:
            schedule.step()
    return LinearProbe(weight.detach(), bias.detach())


def choose(
    fit: Callable[[Split, float], LinearProbe], train: Split, validation: Split, candidates: Sequence[float]
) -> tuple[LinearProbe, float]:
    """The L2 strength or learning rate that does best on `validation`, after its probe of both splits (BYOL)."""
    best = max(candidates, key=lambda candidate: fit(train, candidate).accuracy(*validation))
    features, labels = (torch.cat([*map(torch.as_tensor, parts)]) for parts in zip(train, validation, strict=True))
    return fit((features, labels), best), best


def knn_predict(bank: Split, queries: Any, *, k: int, temperature: float) -> Tensor:
    """Classes (Q,) of `queries` (Q, D): the k nearest features of `bank` vote with exp(cosine / temperature)."""
    # lightly's CIFAR-10 benchmark of BYOL: k = 200, temperature 0.1
    features, labels, classes = _checked(bank)
    if not 1 <= k <= len(labels):
        raise RefigureError(f"k = {k} neighbours asked of a bank of {len(labels)}")
    predicted = []
    for part in F.normalize(torch.as_tensor(queries).to(features)).split(1024):  # bounds the memory of the cosines
        cosines, neighbours = (part @ F.normalize(features).T).topk(k, dim=1)
        weights = (cosines / temperature).softmax(dim=1)  # proportional to exp, without overflow
        votes = weights[:, None, :] @ F.one_hot(labels[neighbours], classes).to(weights)
        predicted.append(votes[:, 0].argmax(dim=1))
    return torch.cat(predicted)


def _checked(split: Split) -> tuple[Tensor, Tensor, int]:
    """Features (N, D), labels (N,) on their device, and the number of classes."""
    features, labels = map(torch.as_tensor, split)
    if features.ndim != 2 or not features.is_floating_point() or labels.shape != features.shape[:1] or not len(labels):
        raise RefigureError(f"not float features (N, D) and labels (N,): {[*features.shape]}, {[*labels.shape]}")
    if not features.isfinite().all() or labels.min() < 0:
        raise RefigureError("features hold NaN or infinity (look at the encoder), or labels lie below 0")
    return features, labels.to(features.device, torch.long), int(labels.max()) + 1
