"""Copy memory: ten symbols, to be repeated after a delay of T (DEQ section 5.1)."""

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
from papers.deq.models import CopyTransformer, Output, build, solver_effort
from papers.deq.tasks import RECALLED, SYMBOLS, draw_copies
from papers.deq.training import fit, parameters_of

__all__ = ["measure", "train"]

CHUNK = 25
"""Steps between two lines of the metrics stream."""
TEST_BATCH = 50
"""Test sequences that are computed at once."""


def train(config: CopyMemory, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train a network, then test it on new sequences."""
    (seed,) = seeds
    device = torch_device()
    model = initialised(lambda: build(config), seed, device)
    x, y = (part.to(device) for part in draw_copies(numpy_rng(seed, "train"), config.length, config.train))
    steps_per_epoch = config.train // config.batch

    def loss(step: int) -> tuple[Tensor, Mapping[str, float], Equilibrium | None]:
        epoch, place = divmod(step, steps_per_epoch)
        order = numpy_rng(seed, "order", epoch).permutation(config.train)
        rows = torch.from_numpy(order[place * config.batch : (place + 1) * config.batch]).to(device)
        output = run_model(model, config, x[rows], trained=step >= config.warm_up)
        value = cross_entropy(output.logits, y[rows])
        equilibrium = output.equilibrium
        if config.jacobian_weight and output.f is not None and equilibrium is not None and equilibrium.info is not None:
            value = value + config.jacobian_weight * jacobian_penalty(output.f, equilibrium.z)
        return value, {}, equilibrium

    fit(
        model, loss, seed=seed, steps=config.steps, rate=config.rate, clip=config.clip, chunk=CHUNK, recorder=run
    )  # fmt: skip
    metrics = measure(model, config, seed)
    metrics["parameters"] = sum(value.numel() for value in model.parameters())
    return Outcome({name: [value] for name, value in metrics.items()}, parameters=parameters_of(model))


def run_model(model: nn.Module, config: CopyMemory, x: Tensor, trained: bool) -> Output:
    """Apply a network to sequences (B, T); a DEQ is first trained as a stack of layers.

    Arguments:
        trained: Whether a DEQ is solved for its fixed point; false during its first steps as a stack.
    """
    if isinstance(model, CopyTransformer):
        return model(x, None if config.model == "deq" and trained else config.layers)
    return model(x)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over all positions, in nats."""
    return F.cross_entropy(logits.reshape(-1, SYMBOLS), y.reshape(-1))


@torch.no_grad()
def measure(model: nn.Module, config: CopyMemory, seed: int) -> dict[str, float]:
    """Loss over all positions, share of the ten symbols recalled, and the solver's effort, on test sequences."""
    model.eval()
    device = next(model.parameters()).device
    x, y = (part.to(device) for part in draw_copies(numpy_rng(seed, "test"), config.length, config.test))
    rows = []
    for symbols, targets in zip(x.split(TEST_BATCH), y.split(TEST_BATCH), strict=True):
        output = run_model(model, config, symbols, trained=True)
        correct = output.logits[:, -RECALLED:].argmax(2) == targets[:, -RECALLED:]
        metrics = {"loss": float(cross_entropy(output.logits, targets)), "recall": float(correct.float().mean())}
        rows.append(
            {**metrics, **solver_effort(output.equilibrium and output.equilibrium.info), "weight": float(len(symbols))}
        )
    weights = np.array([row.pop("weight") for row in rows])
    return {name: float(np.average([row[name] for row in rows], weights=weights)) for name in rows[0]}
