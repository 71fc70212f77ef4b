"""Rule against gradient, for every layer and while it learns (section 3 and the authors' comparison of updates)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from common.train import torch as torch_loop
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng, torch_generator
from common.train.torch import initialised, torch_device
from papers.clapp.config import Equality
from papers.clapp.encoder import Encoder
from papers.clapp.learning import encoder_of, step_draws
from papers.clapp.losses import Factors
from papers.clapp.step import losses_of, set_rule_gradients
from papers.clapp.stimuli import images

__all__ = ["differences", "train"]


def differences(encoder: Encoder, x: Tensor, draws: Sequence, config: Equality) -> list[float]:
    """|rule - gradient| / (|rule| + |gradient|), norms over all parameters of a layer; leaves the rule's gradients."""
    factors = Factors(config.third, config.fourth)
    encoder.zero_grad(set_to_none=True)
    torch.stack(losses_of(encoder, x, config.objective, draws, config.skip, factors)).sum().backward()
    slopes = [[value.grad.flatten() for value in stage.parameters()] for stage in encoder.stages]
    encoder.zero_grad(set_to_none=True)
    set_rule_gradients(encoder, x, draws, config.skip, factors)
    found = []
    for stage, slope in zip(encoder.stages, slopes, strict=True):
        gradient, rule = torch.cat(slope), torch.cat([value.grad.flatten() for value in stage.parameters()])
        total = float(gradient.norm() + rule.norm())
        found.append(float((rule - gradient).norm()) / total if total else 0.0)
    return found


def train(config: Equality, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train by the rule in double precision; every few steps compare it with the gradient on that step's batch."""
    (seed,) = seeds
    device = torch_device()
    stimulus = images(config, device)
    encoder = initialised(lambda: encoder_of(config, stimulus.shape[0], 1), seed, device).double()
    optimiser = torch.optim.Adam(encoder.parameters(), lr=config.rate)
    batch = min(config.batch, stimulus.count)
    depth = encoder.depth
    course = torch.full((-(-config.steps // config.every), depth), torch.nan, dtype=torch.float64)
    encoder.register_buffer("differences", course)  # goes into the checkpoints

    def step(index: int) -> Mapping[str, float]:
        order = numpy_rng(seed, "order", index).choice(stimulus.count, batch, replace=False)
        generator = torch_generator(seed, "stimulus", index, device=device)
        x = stimulus.draw(torch.from_numpy(order).to(device), generator).double()
        draws = step_draws(config, encoder, x, generator)
        if index % config.every == 0:
            encoder.differences[index // config.every] = torch.tensor(differences(encoder, x, draws, config))
        losses = set_rule_gradients(encoder, x, draws, config.skip, Factors(config.third, config.fourth))
        optimiser.step()
        return {f"loss_{place}": float(loss) for place, loss in enumerate(losses, 1)}

    torch_loop.train(step, encoder, optimiser, steps=config.steps, chunk=config.every, recorder=run, seed=seed)
    measured = encoder.differences.numpy()
    metrics = {f"difference_{layer}": [float(measured[:, layer - 1].max())] for layer in range(1, depth + 1)}
    metrics["difference"] = [float(measured.max())]
    arrays = {
        "differences": np.array(measured[None]),
        "steps": np.arange(0, config.steps, config.every)[None],
    }
    return Outcome(metrics, arrays)
