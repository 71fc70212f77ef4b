"""Training an encoder on a stimulus, and probing it: what all experiments share."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from common.train import torch as torch_loop
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng, torch_generator
from common.train.torch import initialised, torch_device
from common.train.trees import flatten
from papers.clapp.config import Learner
from papers.clapp.encoder import Encoder
from papers.clapp.losses import Factors
from papers.clapp.patches import grid_size, offset_pairs
from papers.clapp.probe import converged_probes, raw_probes
from papers.clapp.step import class_losses, draw_all, losses_of, set_rule_gradients
from papers.clapp.stimuli import Probing, Stimulus

__all__ = ["encoder_of", "features_of", "learn", "probe", "step_draws"]

CHUNK = 50
"""Steps between two lines of the metrics stream."""
ENCODED = 250
"""Examples that are encoded at once for the probes."""


def encoder_of(config: Learner, channels: int, classes: int) -> Encoder:
    """The network of a configuration, initialised with PyTorch's global generator."""
    heads = {"classes": "classes", "none": "none"}.get(config.objective, config.heads)
    return Encoder(
        channels, config.widths, config.pools, config.modules, config.patch, config.stride, heads=heads,
        offsets=config.offsets, bias=config.bias, classes=classes,
    )  # fmt: skip


def step_draws(config: Learner, encoder: Encoder, x: Tensor, generator: torch.Generator) -> Sequence:
    """What chance decides in a step on examples x."""
    rows, columns = grid_size((x.shape[-2], x.shape[-1]), config.patch, config.stride)
    return draw_all(
        encoder, (rows, columns, len(x)), 2 if config.heads == "separate" else 1, config.skip, generator,
        offsets=config.offsets, asynchronous=config.asynchronous, negatives=config.negatives, anywhere=config.anywhere,
        broadcast=config.broadcast,
    )  # fmt: skip


def fit(config: Learner, seed: int, stimulus: Stimulus, encoder: Encoder, device: torch.device, run: Recorder) -> None:
    """Train an encoder in place, by the rule or by a loss: one Adam, for the modules share no gradient."""
    batch = min(config.batch, stimulus.count)
    steps_per_epoch = stimulus.count // batch
    optimiser = torch.optim.Adam(encoder.parameters(), lr=config.rate, fused=True)
    factors = Factors(config.third, config.fourth)

    def step(index: int) -> Mapping[str, float]:
        epoch, place = divmod(index, steps_per_epoch)
        order = numpy_rng(seed, "order", epoch).permutation(stimulus.count)
        rows = torch.from_numpy(order[place * batch : (place + 1) * batch]).to(device)
        generator = torch_generator(seed, "stimulus", index, device=device)
        x = stimulus.draw(rows, generator)
        optimiser.zero_grad(set_to_none=True)
        if config.objective == "classes":
            losses = class_losses(encoder, x, stimulus.labels[rows])
        else:
            draws = step_draws(config, encoder, x, generator)
            if config.trainer == "rule":
                losses = set_rule_gradients(encoder, x, draws, config.skip, factors, frozen=config.frozen)
            else:
                losses = losses_of(encoder, x, config.objective, draws, config.skip, factors)
        if config.trainer == "loss":
            torch.stack(losses).sum().backward()
        optimiser.step()
        values = torch.stack(losses).tolist()
        return {f"loss_{place}": value for place, value in enumerate(values, 1)}

    torch_loop.train(
        step, encoder, optimiser, steps=config.epochs * steps_per_epoch, chunk=CHUNK, recorder=run, seed=seed
    )


def learn(config: Learner, seeds: Sequence[int], stimulus: Stimulus, run: Recorder) -> Outcome:
    """Train an encoder and probe its layers.

    Raises:
        RefigureError: The stimulus is too small for the patch grid or its offsets.
    """
    (seed,) = seeds
    device = torch_device()
    rows, _ = grid_size(stimulus.shape[1:], config.patch, config.stride)
    if config.objective in ("hinge", "contrastive"):
        list(offset_pairs(rows, config.offsets, config.skip))
    classes = 1 + max(int(labels.max()) for labels in stimulus.probing.train_labels.values())
    encoder = initialised(lambda: encoder_of(config, stimulus.shape[0], classes), seed, device)
    if config.objective != "none":
        fit(config, seed, stimulus, encoder, device, run)
    metrics, arrays = probe(config, seed, encoder.eval(), stimulus.probing)
    return Outcome({name: [value] for name, value in metrics.items()}, arrays, flatten(encoder.state_dict()))


def features_of(encoder: Encoder, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
    """Features (N, c) of many examples, of the layers wanted."""
    parts = [encoder.features(part, wanted) for part in x.split(ENCODED)]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def probe(
    config: Learner, seed: int, encoder: Encoder, probing: Probing
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Test accuracies in per cent, by probe and layer; and the course of the raw-feature probe.

    Metrics: `raw_L` and `converged_L` of the class at layer L, `<other label>_raw_L` of others; `rise`, the last
    layer's raw accuracy less the first's; `gain`, the same of the best layer.
    """
    device = probing.test.device
    test = features_of(encoder, probing.test, config.probed)

    def seen(number: int) -> list[Tensor]:
        return features_of(encoder, probing.train(torch_generator(seed, "probe", number, device=device)), config.probed)

    kept = [seen(number) for number in range(config.probe_draws)]
    metrics: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    first = kept[0] if kept else seen(0)
    for label, classes in probing.train_labels.items():
        prefix = "" if label == "class" else f"{label}_"
        course = raw_probes(
            lambda epoch: kept[epoch % len(kept)] if kept else seen(epoch), classes, test, probing.test_labels[label],
            epochs=config.probe_epochs, batch=config.probe_batch, rate=config.probe_rate,
            generator=torch_generator(seed, "raw probe", label),
        )  # fmt: skip
        converged = converged_probes(first, classes, test, probing.test_labels[label], config.l2)
        raw = course.accuracy[-1]
        for place, layer in enumerate(config.probed):
            metrics[f"{prefix}raw_{layer}"] = 100 * float(raw[place])
            metrics[f"{prefix}converged_{layer}"] = 100 * float(converged[place])
        for name, values in (("raw", raw), ("converged", converged)):
            metrics[f"{prefix}{name}_rise"] = 100 * float(values[-1] - values[0])
            metrics[f"{prefix}{name}_late"] = 100 * float(values[-1] - values[:-1].max())
        arrays[f"{prefix}course"] = 100 * course.accuracy[None].double().numpy()
        arrays[f"{prefix}course_steps"] = course.steps[None].numpy()
    for place, values in enumerate(test):
        metrics[f"scale_{config.probed[place]}"] = float(values.square().mean().sqrt())
    return metrics, arrays
