"""One step of training: draws, losses or the rule, and the gradients that the optimiser gets."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import RefigureError
from papers.clapp.encoder import Encoder
from papers.clapp.losses import FULL, Draw, Factors, contrastive_loss, hinge_loss
from papers.clapp.patches import offset_pairs
from papers.clapp.rule import local_update

__all__ = ["class_losses", "draw_all", "losses_of", "set_rule_gradients"]

Draws = Sequence[tuple[Draw, ...]]
"""A draw for every head of every module."""


def draw_all(
    encoder: Encoder, grid: tuple[int, int, int], heads: int, skip: int, generator: torch.Generator, *,
    offsets: int, asynchronous: bool, negatives: int, anywhere: bool, broadcast: bool,
) -> Draws:  # fmt: skip
    """What chance decides in a step.

    Arguments:
        grid: (gy, gx, B).
        generator: Lies on the device of the draws.
        negatives: Of every pair; only with `anywhere` more than one.
        anywhere: Whether negatives come from all places of all images, else from the same place of another image.
        broadcast: Whether one y and one other image hold for the whole network (paper), instead of draws of their own
            for every module and head (official code).

    Raises:
        RefigureError: The batch has no other image.
    """
    rows, columns, batch = grid
    if batch < 2:
        raise RefigureError("a negative needs another image, and the batch has one: set batch to 2 or more")
    device = generator.device

    def draw() -> Draw:
        fixates = torch.rand(batch, generator=generator, device=device) < 0.5 if asynchronous else None
        if not anywhere:
            others = torch.randint(batch, (offsets, batch), generator=generator, device=device)
            return Draw(fixates, list(others[:1].expand(offsets, batch) if broadcast else others))
        lengths = [pair.target.stop - pair.target.start for pair in offset_pairs(rows, offsets, skip)]
        places = [
            torch.randint(
                length * columns * batch, (length, columns, batch, negatives), generator=generator, device=device
            )
            for length in lengths
        ]
        return Draw(fixates, places)

    if broadcast:
        return [(draw(),) * heads] * len(encoder.stages)
    return [tuple(draw() for _ in range(heads)) for _ in encoder.stages]


def losses_of(
    encoder: Encoder, x: Tensor, objective: str, draws: Draws, skip: int, factors: Factors = FULL
) -> list[Tensor]:
    """The loss at the end of each module, of images (B, C, H, W)."""
    losses = []
    for stage, mean, draw in zip(encoder.stages, encoder.ends(x), draws, strict=True):
        if objective == "contrastive":
            losses.append(contrastive_loss(mean, stage.prediction, draw[0], skip))
        elif len(draw) == 1:
            losses.append(hinge_loss(mean, stage.prediction, draw[0], skip, "both", factors))
        else:
            losses.append(
                hinge_loss(mean, stage.prediction, draw[0], skip, "prediction", factors)
                + hinge_loss(mean, stage.retrodiction, draw[1], skip, "retrodiction", factors)
            )
    return losses


def class_losses(encoder: Encoder, x: Tensor, labels: Tensor) -> list[Tensor]:
    """Cross-entropy at the end of each module, of a linear read-out of the activity averaged over the grid."""
    return [
        F.cross_entropy(stage.read_out(mean.mean((0, 1))), labels)
        for stage, mean in zip(encoder.stages, encoder.ends(x), strict=True)
    ]


@torch.no_grad()
def set_rule_gradients(
    encoder: Encoder, x: Tensor, draws: Draws, skip: int, factors: Factors = FULL, *, frozen: bool = False
) -> list[Tensor]:
    """Put minus the rule's changes where the optimiser looks for gradients; returns the losses of the layers.

    Layer by layer, so that each layer's maps can be forgotten when the next is done.
    """
    y, grid = encoder.patches(x)
    losses = []
    for stage, draw in zip(encoder.stages, draws, strict=True):
        activity = stage.layers[0].activity(y)
        changes, loss = local_update(stage, activity, grid, draw, skip, factors, frozen=frozen)
        parameters = dict(stage.named_parameters())
        for name, change in changes.items():
            parameters[name].grad = change.neg_().contiguous()  # a fused optimiser expects the layout of weights
        losses.append(loss)
        y = activity.y
    return losses
