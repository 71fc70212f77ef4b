"""Semi-supervised learning: a pre-trained encoder and a new linear layer, fine-tuned on few labels (table 2)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.room.config import build
from common.train.loop import parts
from common.train.recorder import Outcome, Recorder
from common.train.seeding import numpy_rng
from common.train.torch import initialised, torch_device
from papers.byol.augmentations import Policy
from papers.byol.config import Finetune, Pretrain
from papers.byol.evaluation import NESTEROV
from papers.byol.networks import encoder, load_encoder
from papers.byol.pictures import Pictures, pictures
from papers.byol.schedules import learning_rate

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["few_labels", "train"]

BATCH = 1000
"""Images that are classified at once."""


def few_labels(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Places of a share of the labels, the same number of each class, one at least."""
    rows = []
    for place in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == place)
        rows.append(rng.permutation(members)[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(rows))


def train(config: Finetune, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Fine-tune on each share of the labels; rate and epochs are chosen on held-out training images."""
    (seed,) = seeds
    device = torch_device()
    trained: Pretrain = build(Pretrain, parent.identity.config, "the parent's settings")
    source = pictures(trained.images, "train", trained.train, device)
    test = pictures(trained.images, "test", trained.tested, device)
    labels = source.labels.cpu().numpy()
    held_out = numpy_rng(seed, "held out").permutation(len(labels))[: min(trained.held_out, len(labels) // 2)]
    others = np.setdiff1d(np.arange(len(labels)), held_out)
    parameters = {name: torch.from_numpy(np.array(value)) for name, value in parent.parameters.items()}

    def work(share: float) -> dict[str, np.ndarray]:
        rows = others[few_labels(labels[others], share, numpy_rng(seed, "labels", round(1e6 * share)))]
        choices = [(rate, epochs) for rate in config.rates for epochs in config.epochs]
        fitted = [
            _fit(config, trained, source, rows, rate, epochs, None if config.scratch else parameters, seed, device)
            for rate, epochs in choices
        ]
        scores = [_accuracy(model, source, trained.side, held_out) for model in fitted]
        best = int(np.argmax(scores))
        accuracy = _accuracy(fitted[best], test, trained.side, None)
        return {"accuracy": np.array(100 * accuracy), "rate": np.array(choices[best][0])}

    results = parts({str(share): lambda share=share: work(share) for share in config.shares}, run)  # type: ignore[misc]
    metrics = {f"accuracy_{float(share):g}": [float(result["accuracy"])] for share, result in results.items()}
    return Outcome(metrics | {f"rate_{float(share):g}": [float(each["rate"])] for share, each in results.items()})


def _fit(
    config: Finetune, trained: Pretrain, source: Pictures, rows: np.ndarray, rate: float, epochs: int,
    parameters: dict[str, Tensor] | None, seed: int, device: torch.device,
) -> nn.Module:  # fmt: skip
    """An encoder with a linear layer, trained on images `rows` with crops and flips: SGD, Nesterov 0.9, a cosine."""

    def make() -> nn.Module:
        f = encoder(trained)
        return nn.Sequential(f, nn.Linear(f.features, source.classes))  # type: ignore[arg-type]

    model = initialised(make, seed, device)
    if parameters is not None:
        load_encoder(model[0], parameters)  # type: ignore[index]
    batch = min(config.batch, len(rows))
    an_epoch = len(rows) // batch
    steps = max(epochs * an_epoch, config.least_steps)
    optimiser = torch.optim.SGD(model.parameters(), rate, NESTEROV, nesterov=True)
    crops = Policy(trained.side, flip=0.5, jitter=0.0, grey=0.0, blur=0.0, solarise=0.0)
    model.train()
    for step in range(steps):
        epoch, place = divmod(step, an_epoch)
        order = numpy_rng(seed, "fine-tuning", epoch).permutation(rows)[place * batch : (place + 1) * batch]
        (x,) = source.views(order, [crops], seed, "fine-tuning", step)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, 0, rate, 256)
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), source.labels[torch.from_numpy(order).to(device)]).backward()
        optimiser.step()
    return model.eval()


@torch.no_grad()
def _accuracy(model: nn.Module, images: Pictures, side: int, rows: np.ndarray | None) -> float:
    """The share of images, all or those at `rows`, that are classified correctly."""
    right = torch.cat([model(part).argmax(1) for part in images.plain(side, BATCH)]) == images.labels
    return float((right if rows is None else right[torch.from_numpy(rows).to(right.device)]).double().mean())
