"""Copy memory: who can say ten symbols after T blanks."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from common.train.torch import initialised, torch_device
from papers.deq.config import CopyMemory
from papers.deq.implicit import Equilibrium, jacobian_penalty
from papers.deq.models import CopyTransformer, Output, build, spent
from papers.deq.tasks import RECALLED, SYMBOLS, draw_copies
from papers.deq.training import fit, parameters_of

__all__ = ["measure", "train"]

CHUNK = 25
"""Steps between two lines of the metrics stream."""
TOGETHER = 50
"""Test sequences at once."""


def train(config: CopyMemory, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train a network, then test it on new sequences."""
    (seed,) = seeds
    device = torch_device()
    model = initialised(lambda: build(config), seed, device)
    x, y = (part.to(device) for part in draw_copies(numpy_rng(seed, "train"), config.length, config.train))
    each = config.train // config.batch

    def loss(step: int) -> tuple[Tensor, Mapping[str, float], Equilibrium | None]:
        epoch, place = divmod(step, each)
        order = numpy_rng(seed, "order", epoch).permutation(config.train)
        rows = torch.from_numpy(order[place * config.batch : (place + 1) * config.batch]).to(device)
        output = run_model(model, config, x[rows], trained=step >= config.warm_up)
        value = cross_entropy(output.logits, y[rows])
        found = output.found
        if config.jacobian_weight and output.f is not None and found is not None and found.info is not None:
            value = value + config.jacobian_weight * jacobian_penalty(output.f, found.z)
        return value, {}, found

    fit(
        model, loss, seed=seed, steps=config.steps, rate=config.rate, clip=config.clip, chunk=CHUNK, recorder=run
    )  # fmt: skip
    metrics = measure(model, config, seed)
    metrics["parameters"] = sum(value.numel() for value in model.parameters())
    return Outcome({name: [value] for name, value in metrics.items()}, parameters=parameters_of(model))


def run_model(model: nn.Module, config: CopyMemory, x: Tensor, trained: bool) -> Output:
    """A DEQ begins as a stack of layers; a stack stays one.

    Arguments:
        trained: Whether that beginning is over.
    """
    if isinstance(model, CopyTransformer):
        return model(x, None if config.model == "deq" and trained else config.layers)
    return model(x)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over all positions, in nats."""
    return F.cross_entropy(logits.reshape(-1, SYMBOLS), y.reshape(-1))


@torch.no_grad()
def measure(model: nn.Module, config: CopyMemory, seed: int) -> dict[str, float]:
    """Loss over all positions, share of the ten symbols recalled, and what the solver did, on test sequences."""
    model.eval()
    device = next(model.parameters()).device
    x, y = (part.to(device) for part in draw_copies(numpy_rng(seed, "test"), config.length, config.test))
    rows = []
    for some, due in zip(x.split(TOGETHER), y.split(TOGETHER), strict=True):
        output = run_model(model, config, some, trained=True)
        right = output.logits[:, -RECALLED:].argmax(2) == due[:, -RECALLED:]
        found = {"loss": float(cross_entropy(output.logits, due)), "recall": float(right.float().mean())}
        rows.append({**found, **spent(output.found and output.found.info), "weight": float(len(some))})
    weights = np.array([row.pop("weight") for row in rows])
    return {name: float(np.average([row[name] for row in rows], weights=weights)) for name in rows[0]}
