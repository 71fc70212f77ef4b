"""What frozen features are worth: linear probes and nearest neighbours, in PyTorch.

Features are (N, D) floats and labels (N,) integers from 0, as tensors or NumPy arrays; computation happens on
the device and in the precision of the training features. Strengths are chosen on a validation split that the
caller cuts from the training data; nothing here looks at test labels except `accuracy`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import RefigureError

__all__ = ["LinearProbe", "choose", "fit_logistic", "fit_minibatch", "fit_ridge", "knn_predict", "strengths"]

Split = tuple[Any, Any]
"""Features (N, D) and labels (N,)."""


@dataclass(frozen=True)
class LinearProbe:
    """logits = (x - shift) / scale · Wᵀ + b."""

    weight: Tensor
    """W, (classes, D)."""
    bias: Tensor
    """b, (classes,)."""
    shift: Tensor
    """Subtracted from each feature, (D,)."""
    scale: Tensor
    """Each feature is then divided by this, (D,)."""

    def __call__(self, features: Any) -> Tensor:
        """Logits (N, classes)."""
        x = torch.as_tensor(features).to(self.weight)
        return F.linear((x - self.shift) / self.scale, self.weight, self.bias)

    def accuracy(self, features: Any, labels: Any) -> float:
        """The fraction classified correctly, between 0 and 1."""
        predicted = self(features).argmax(dim=1)
        return (predicted == torch.as_tensor(labels).to(predicted)).double().mean().item()


def strengths(low: float = 1e-6, high: float = 1e5, count: int = 45) -> list[float]:
    """A logarithmic grid of L2 strengths; by default the one of BYOL's transfer evaluation."""
    return np.logspace(np.log10(low), np.log10(high), count).tolist()


def fit_logistic(
    train: Split, l2: float, *, classes: int | None = None, standardise: bool = True, max_iter: int = 500
) -> LinearProbe:
    """Multinomial logistic regression: the minimiser of mean cross-entropy + l2/2 ‖W‖².

    By L-BFGS on all of `train`; the bias is not penalised. `standardise` divides features by their standard
    deviation over `train`, which makes the probe blind to their scale. Raises RefigureError when features or
    labels are not usable.
    """
    x, y, shift, scale, classes = _prepare(train, classes, standardise)
    weight = x.new_zeros(classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), y) + 0.5 * l2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return LinearProbe(weight.detach(), bias.detach(), shift, scale)


def fit_ridge(train: Split, l2: float, *, classes: int | None = None, standardise: bool = True) -> LinearProbe:
    """Least squares on one-hot labels: the minimiser of mean ‖y - Wx - b‖² + l2 ‖W‖², in closed form.

    The cheap stand-in for `fit_logistic`; solved in float64, in the smaller of D and N dimensions.
    """
    x, y, shift, scale, classes = _prepare(train, classes, standardise)
    n, d = x.shape
    mean = x.double().mean(dim=0)
    centred = x.double() - mean
    targets = F.one_hot(y, classes).double()
    centre = targets.mean(dim=0)
    if d <= n:
        gram = centred.T @ centred + n * l2 * torch.eye(d, dtype=torch.double, device=x.device)
        weight = torch.linalg.solve(gram, centred.T @ (targets - centre)).T
    else:
        gram = centred @ centred.T + n * l2 * torch.eye(n, dtype=torch.double, device=x.device)
        weight = (centred.T @ torch.linalg.solve(gram, targets - centre)).T
    return LinearProbe(weight.to(x), (centre - weight @ mean).to(x), shift, scale)


def fit_minibatch(
    train: Split,
    optimiser: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
    *,
    steps: int,
    batch: int,
    generator: torch.Generator,
    cosine: bool = False,
    classes: int | None = None,
    standardise: bool = False,
) -> LinearProbe:
    """A linear layer trained for `steps` minibatches drawn in epochs: a probe that need not converge.

    CLAPP's code: `lambda p: torch.optim.Adam(p, 1e-3)`, batch 32, raw features. BYOL (appendix C.1):
    `lambda p: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True)`, batch 1024, `cosine` decay.
    The order comes from `generator` (a CPU one); weights start as in `torch.nn.Linear`'s uniform law.
    """
    x, y, shift, scale, classes = _prepare(train, classes, standardise)
    bound = x.shape[1] ** -0.5
    start = bound * (2 * torch.rand(classes, x.shape[1] + 1, generator=generator) - 1)
    weight = start[:, :-1].to(x, copy=True).requires_grad_()
    bias = start[:, -1].to(x, copy=True).requires_grad_()
    trainer = optimiser([weight, bias])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(trainer, steps) if cosine else None
    batch = min(batch, len(x))
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch:  # the remainder of an epoch is dropped
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[:batch].to(x.device), order[batch:]
        trainer.zero_grad()
        F.cross_entropy(F.linear(x[rows], weight, bias), y[rows]).backward()
        trainer.step()
        if schedule is not None:
            schedule.step()
    return LinearProbe(weight.detach(), bias.detach(), shift, scale)


def choose(
    fit: Callable[[Split, float], LinearProbe],
    train: Split,
    validation: Split,
    candidates: Sequence[float],
    *,
    refit: bool = True,
) -> tuple[LinearProbe, float]:
    """The probe that does best on `validation`, and its candidate (an L2 strength, a learning rate).

    `fit(split, candidate)` makes a probe, `fit_logistic` for instance; among equals the first wins. `refit`
    fits the winner again on both splits together, as BYOL's transfer evaluation does.
    """
    if not candidates:
        raise RefigureError("no candidate to choose from")
    probes = [fit(train, candidate) for candidate in candidates]
    scores = [probe.accuracy(*validation) for probe in probes]
    best = scores.index(max(scores))
    if not refit:
        return probes[best], candidates[best]
    joined = tuple(torch.cat([torch.as_tensor(a), torch.as_tensor(b)]) for a, b in zip(train, validation, strict=True))
    return fit((joined[0], joined[1]), candidates[best]), candidates[best]


def knn_predict(
    bank: Split,
    queries: Any,
    k: int,
    *,
    temperature: float | None = None,
    metric: Literal["cosine", "euclidean"] = "cosine",
    rows: int = 1024,
) -> Tensor:
    """The class (Q,) that wins the vote of the k nearest `bank` features, for each of `queries` (Q, D).

    Each neighbour votes with weight 1, or exp(similarity / temperature), where similarity is the cosine or
    minus the Euclidean distance. Published: k = 200, temperature 0.1, cosine (CIFAR-10, lightly); k = 5
    (ANML's gates). Equal votes go to the class of the nearest of their neighbours.
    `rows` queries are compared at a time.
    """
    x, y, *_, classes = _prepare(bank, None, False)
    if not 1 <= k <= len(x):
        raise RefigureError(f"k = {k} neighbours asked of a bank of {len(x)}")
    queries = torch.as_tensor(queries).to(x)
    if metric == "cosine":
        x, queries = F.normalize(x), F.normalize(queries)
    found = []
    for part in queries.split(rows):
        closeness = part @ x.T if metric == "cosine" else -torch.cdist(part, x)
        nearest, index = closeness.topk(k, dim=1)
        weights = torch.ones_like(nearest)
        if temperature is not None:  # against the nearest: the vote is the same and cannot overflow
            weights = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = F.one_hot(y[index], classes).to(x).mul(weights[:, :, None]).sum(dim=1)
        leading = votes.gather(1, y[index]) >= votes.max(dim=1, keepdim=True).values
        first = leading.to(torch.uint8).argmax(dim=1, keepdim=True)
        found.append(y[index].gather(1, first)[:, 0])
    return torch.cat(found)


def _prepare(split: Split, classes: int | None, standardise: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Features (N, D), shifted and scaled, labels, the shift, the scale, and the number of classes."""
    x, y = torch.as_tensor(split[0]), torch.as_tensor(split[1])
    if x.ndim != 2 or not x.is_floating_point() or y.shape != x.shape[:1] or not len(x):
        raise RefigureError(f"a probe needs float features (N, D) and labels (N,), not {x.shape} and {y.shape}")
    if not x.isfinite().all():
        raise RefigureError("features hold NaN or infinity; look at the encoder")
    y = y.to(x.device, torch.long)
    known = int(y.max()) + 1
    if int(y.min()) < 0 or (classes is not None and known > classes):
        raise RefigureError(f"labels must lie from 0 to {(classes or known) - 1}, found {int(y.min())} to {known - 1}")
    if not standardise:
        return x, y, torch.zeros_like(x[0]), torch.ones_like(x[0]), classes or known
    shift, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-6 * deviation.max(), deviation, 1)  # a constant feature stays a constant
    return (x - shift) / scale, y, shift, scale, classes or known
