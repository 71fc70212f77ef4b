"""Self-supervised training of one variant, then its evaluations."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from common.errors import RefigureError
from common.train import torch as torch_loop
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from common.train.torch import initialised, torch_device
from papers.byol.augmentations import Policy
from papers.byol.config import Pretrain
from papers.byol.evaluation import evaluations
from papers.byol.learner import optimiser_of, parameters_of, update, view_loss
from papers.byol.networks import Byol
from papers.byol.pictures import Pictures, pictures
from papers.byol.world import World, world

__all__ = ["make_model", "policies", "train"]

CHUNK = 20
"""Updates between two lines of the metrics stream."""
MEASURED = 1024
"""Images of which collapse is measured at the end."""


def policies(config: Pretrain) -> tuple[Policy, Policy]:
    """T and T'."""
    first, second = (
        Policy(
            config.side, config.least_area, config.flip, config.jitter, grey=config.grey, blur=blur,
            radius=config.radius, solarise=solarise,
        )
        for blur, solarise in zip(config.blur, config.solarise, strict=True)
    )  # fmt: skip
    return first, second


def make_model(config: Pretrain, classes: int, seed: int, device: torch.device) -> Byol:
    """All networks at their first parameters."""
    model = initialised(lambda: Byol(config, classes), seed, device)
    assert isinstance(model, Byol)
    if config.start == "copy":
        model.follow(0.0)
    return model.to(memory_format=torch.channels_last) if device.type == "cuda" else model


def train(config: Pretrain, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train without labels, then evaluate the encoder once on test images, after the last update."""
    (seed,) = seeds
    device, together = torch_device(), world()
    source = pictures(config.images, "train", config.train, device)
    count = len(source.labels)
    if config.batch > count or config.batch % together.size:
        raise RefigureError(
            f"batch {config.batch} does not fit {count} training images and {together.size} processes: set batch to a "
            "multiple of the processes and at most the images"
        )
    model = make_model(config, source.classes, seed, device)
    optimiser = optimiser_of(model, config)
    an_epoch = count // config.batch
    steps, warm_up = config.epochs * an_epoch, round(config.warm_up * an_epoch)
    pair = policies(config)

    def step(index: int) -> Mapping[str, float]:
        epoch, place = divmod(index, an_epoch)
        rows = numpy_rng(seed, "order", epoch).permutation(count)[place * config.batch : (place + 1) * config.batch]
        part = together.part(len(rows))
        view1, view2 = source.views(rows, pair, seed, "views", index, part=part)
        labels = source.labels[torch.from_numpy(rows[part]).to(device)]
        return update(model, optimiser, view1, view2, labels, index, config, steps=steps, warm_up=warm_up)

    if steps:
        torch_loop.train(step, model, optimiser, steps=steps, chunk=CHUNK, recorder=run, seed=seed)
    encoder = model.online["encoder"]
    test = pictures(config.images, "test", config.tested, device)
    metrics = evaluations(encoder, source, test, config, seed, model.classifier)
    metrics |= _measures(model, source, config, seed, together)
    metrics["parameters"] = sum(value.numel() for value in encoder.parameters())
    return Outcome({name: [float(value)] for name, value in metrics.items()}, parameters=_arrays(model))


def _arrays(model: Byol) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in parameters_of(model.online["encoder"]).items()}


@torch.no_grad()
def _measures(model: Byol, source: Pictures, config: Pretrain, seed: int, together: World) -> dict[str, float]:
    """The loss and the measures of collapse, of views that training did not see, with statistics of the batch."""
    rows = np.arange(min(MEASURED, len(source.labels)))
    model.train()
    whole = dataclasses.replace(config, batch=len(rows), micro=0)
    views = source.views(rows, policies(config), seed, "measured")
    _, logged = view_loss(model, *views, source.labels[: len(rows)], whole, together)
    names = ("loss", "spread", "rank", "representation_rank", "projection_norm", "representation_norm", "agreement")
    return {name: float(logged[name]) for name in names}
