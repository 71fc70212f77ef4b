"""One update: two views, the loss of a member of the family, the optimiser, the target (Algorithm 1)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from papers.byol.lars import Lars
from papers.byol.losses import byol_loss, info_nce, normalised, participation_ratio, spread
from papers.byol.networks import Byol
from papers.byol.schedules import learning_rate, target_decay
from papers.byol.world import World, world

if TYPE_CHECKING:
    from papers.byol.config import Pretrain

__all__ = ["family_loss", "optimiser_of", "update", "view_loss"]


def family_loss(
    model: Byol, view1: Tensor, view2: Tensor, config: "Pretrain", together: World
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of two views, both directions, and what was computed on the way.

    φ is the prediction q_θ(z_θ), or z_θ without a predictor; ψ the target's projection z_ξ, or that of the online
    network with or without its gradient. With β = 0 it is BYOL's loss, else -InfoNCE^{α,β}, which for β = 0 differs
    from it by the constant 2 a direction.
    """
    y1, y2 = model.online["encoder"](view1), model.online["encoder"](view2)
    z1, z2 = model.online["projector"](y1), model.online["projector"](y2)
    q1, q2 = model.predictor(z1), model.predictor(z2)
    if config.target == "average":
        assert model.target is not None
        with torch.no_grad():
            t1, t2 = (model.target["projector"](model.target["encoder"](view)) for view in (view1, view2))
    elif config.target == "stopped":
        t1, t2 = z1.detach(), z2.detach()
    else:
        t1, t2 = z1, z2
    if config.beta == 0:
        loss = byol_loss(q1, t2, q2, t1)
    else:
        directions = ((q1, t1, t2), (q2, t2, t1))
        loss = -sum(info_nce(*each, config.alpha, config.beta, together) for each in directions)  # type: ignore[misc]
    return config.loss_scale * loss, {"representation": y1, "projection": z1, "prediction": q1, "target": t2}


def view_loss(
    model: Byol, view1: Tensor, view2: Tensor, labels: Tensor, config: "Pretrain", together: World
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and that of the online probe, whose gradient stops at the representation; and what is logged."""
    loss, parts = family_loss(model, view1, view2, config, together)
    logits = model.classifier(parts["representation"].detach())
    probe = F.cross_entropy(logits, labels)
    with torch.no_grad():
        z = parts["projection"].float()
        logged = {
            "loss": loss.detach(), "probe_accuracy": 100 * (logits.argmax(1) == labels).float().mean(),
            "spread": spread(z), "rank": participation_ratio(z), "representation_rank": participation_ratio(
                parts["representation"].float()
            ),
            "projection_norm": z.norm(dim=1).mean(),
            "representation_norm": parts["representation"].float().norm(dim=1).mean(),
            "agreement": (normalised(parts["projection"]) * normalised(parts["target"])).sum(1).mean(),
        }  # fmt: skip
    return loss + probe, logged


def optimiser_of(model: Byol, config: "Pretrain") -> torch.optim.Optimizer:
    """LARS or SGD; the predictor is a group of its own, whose rate is a multiple of the others'."""
    others = [*model.online.parameters(), *model.classifier.parameters()]
    groups = [{"params": others, "multiple": 1.0}]
    if predictor := list(model.predictor.parameters()):
        groups.append({"params": predictor, "multiple": config.predictor_rate})
    if config.optimiser == "lars":
        return Lars(groups, 0.0, config.weight_decay, config.momentum, config.eta, config.clip)
    return torch.optim.SGD(groups, 0.0, config.momentum, weight_decay=config.weight_decay)


def update(
    model: Byol, optimiser: torch.optim.Optimizer, view1: Tensor, view2: Tensor, labels: Tensor, step: int,
    config: "Pretrain", *, steps: int, warm_up: int,
) -> Mapping[str, float]:  # fmt: skip
    """Make update `step`, counted from 0, of `steps`; returns what is logged.

    Gradients of micro-batches are averaged; each is a batch of its own to batch normalisation and to negatives. The
    target moves once, after the optimiser, with the decay of this step.

    Arguments:
        view1, view2: This process's part of the batch, normalised, (B, 3, side, side).
    """
    together = world()
    share = (config.micro or config.batch) // together.size
    optimiser.zero_grad(set_to_none=True)
    logged: list[dict[str, Tensor]] = []
    mixed = config.precision == "bf16" and view1.is_cuda
    for part in zip(view1.split(share), view2.split(share), labels.split(share), strict=True):
        with torch.autocast(view1.device.type, torch.bfloat16, enabled=mixed):
            loss, metrics = view_loss(model, *part, config, together)
        (loss * (len(part[2]) / len(labels))).backward()
        logged.append(metrics)
    together.average_gradients(list(model.parameters()))
    rate = learning_rate(step, steps, warm_up, config.base_rate, config.batch)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiple"]
    optimiser.step()
    tau = config.tau if config.tau_constant else target_decay(step, steps, config.tau)
    model.follow(tau)
    values = torch.stack([torch.stack([row[name] for row in logged]).float().mean() for name in logged[0]])
    return dict(zip(logged[0], values.tolist(), strict=True)) | {"rate": rate, "tau": tau}


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """All values of a module by name, on the CPU."""
    return {name: value.detach().cpu() for name, value in module.state_dict().items()}
