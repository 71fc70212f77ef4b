"""Speed of BYOL: augmentations alone and one update, beside lightly's in the same run where it is installed.

    pip install lightly
    python benchmarks/bench_byol.py [--repeats N] [--json FILE]

Both sides have the same network, ResNet-18 for 32 x 32 pixels with heads 4096/256, or the small encoder; lightly's step
is its loss, its heads and its moving average around our encoder.
"""

import copy
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from measure import Row, cpu_seconds, main, per
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from papers.byol.config import Pretrain
from papers.byol.learner import optimiser_of, update
from papers.byol.networks import Byol, encoder
from papers.byol.pictures import ImagesInMemory
from papers.byol.pretrain import policies

BATCH = 64
RESNET = Pretrain(images="cifar10-jpeg", encoder="resnet18", side=32, radius=1, batch=BATCH)
SMALL = Pretrain(images="cifar10-jpeg", encoder="small", side=16, radius=1, hidden=256, projection=64, batch=BATCH)


def source() -> ImagesInMemory:
    """Made-up images of the size of CIFAR-10's."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8)
    return ImagesInMemory(images, np.arange(BATCH).astype(np.uint8) % 10, torch.device("cpu"))


def peer(name: str) -> Any:
    """A module of lightly, or None where it is not installed."""
    try:
        return importlib.import_module(f"lightly.{name}")
    except ImportError:
        print("lightly is not installed: ours alone")
        return None


def augmentations(repeats: int) -> Iterator[Row]:
    """Both views of a batch; lightly's work on one image after the other, decoded already."""
    images = source()
    seconds: tuple[float, ...] = ()
    if (transforms := peer("transforms")) is not None:
        image = importlib.import_module("PIL.Image")
        pictures = [image.fromarray(each.permute(1, 2, 0).numpy()) for each in images.images]
        first = transforms.BYOLView1Transform(input_size=32)
        second = transforms.BYOLView2Transform(input_size=32)
        both = transforms.BYOLTransform(view_1_transform=first, view_2_transform=second)
        seconds = per(cpu_seconds(lambda: [both(each) for each in pictures], repeats), BATCH)
    for side, config in ((32, RESNET), (16, SMALL)):
        ours = cpu_seconds(
            lambda config=config: images.views(np.arange(BATCH), policies(config), 0, "views", 0), repeats
        )
        yield Row(
            f"augmentation alone, both views, {side} x {side}",
            "image",
            per(ours, BATCH),
            peer=seconds if side == 32 else (),
        )


def lightly_step(config: Pretrain) -> Callable[[], None] | None:
    """An update by lightly's parts around our encoder; None where it is not installed."""
    heads = peer("models.modules.heads")
    if heads is None:
        return None
    losses, utils = (importlib.import_module(f"lightly.{name}") for name in ("loss", "models.utils"))
    backbone = encoder(config)
    online = nn.Sequential(
        backbone, heads.BYOLProjectionHead(backbone.features, config.hidden, config.projection)
    )  # fmt: skip
    predictor = heads.BYOLPredictionHead(config.projection, config.hidden, config.projection)
    target = copy.deepcopy(online).requires_grad_(False)
    criterion = losses.NegativeCosineSimilarity()
    optimiser = torch.optim.SGD([*online.parameters(), *predictor.parameters()], 0.06, 0.9, weight_decay=5e-4)
    first, second = torch.randn(2, BATCH, 3, config.side, config.side)

    def step() -> None:
        utils.update_momentum(online, target, m=0.99)
        q1, q2 = predictor(online(first)), predictor(online(second))
        with torch.no_grad():
            t1, t2 = target(first), target(second)
        loss = 0.5 * (criterion(q1, t2) + criterion(q2, t1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def steps(repeats: int) -> Iterator[Row]:
    """Updates without augmentations, and one with them."""
    images = source()
    for name, config in (("small encoder, 16 x 16", SMALL), ("ResNet-18, 32 x 32", RESNET)):
        model = Byol(config, 10)
        optimiser = optimiser_of(model, config)
        first, second = images.views(np.arange(BATCH), policies(config), 0, "views", 0)

        def step(
            views: tuple[torch.Tensor, torch.Tensor] = (first, second), model: Byol = model,
            optimiser: torch.optim.Optimizer = optimiser, config: Pretrain = config,
        ) -> None:  # fmt: skip
            update(model, optimiser, *views, images.labels, 5, config, steps=100, warm_up=10)

        with FlopCounterMode(display=False) as counter:
            step()
        theirs = lightly_step(config)
        seconds = per(cpu_seconds(theirs, repeats), BATCH) if theirs else ()
        ours = per(cpu_seconds(step, repeats), BATCH)
        yield Row(f"update, {name}", "image", ours, counter.get_total_flops() / BATCH, peer=seconds)
        if config is RESNET:

            def whole(step: Callable[..., None] = step, config: Pretrain = config) -> None:
                step(tuple(images.views(np.arange(BATCH), policies(config), 0, "views", 0)))

            yield Row(
                f"update with augmentations, {name}", "image", per(cpu_seconds(whole, repeats), BATCH), None, "step"
            )


if __name__ == "__main__":
    main("byol", lambda repeats: [*augmentations(repeats), *steps(repeats)])
