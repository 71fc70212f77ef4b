"""LARS: momentum on gradients that are scaled, layer by layer, to the norm of the weights."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from common.errors import RefigureError

__all__ = ["Lars"]


class Lars(torch.optim.Optimizer):
    """LARS as BYOL uses it.

    Of a weight p with gradient g:  u = g + wd p;  u ← u η ‖p‖/‖u‖, unless one of the norms is 0;
    of a bias or a normalisation's parameter, which have one axis:  u = g.
    Then  m ← 0.9 m + u;  p ← p - lr m:  momentum comes after the scaling, and the rate stays outside of it.

    Arguments:
        clip: Whether the factor is min(η ‖p‖/(‖u‖ lr), 1) instead, so that a weight never moves faster than by plain
            momentum: `clip_lr` of solo-learn.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.9, eta: float = 1e-3,
        clip: bool = False,
    ) -> None:  # fmt: skip
        if min(lr, weight_decay, momentum, eta) < 0:
            raise RefigureError("LARS: lr, weight_decay, momentum and eta must be 0 or positive")
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta, "clip": clip}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters that have a gradient; a few calls for all of them, whatever their number."""
        for group in self.param_groups:
            updated = [value for value in group["params"] if value.grad is not None]
            weights = [value for value in updated if value.ndim > 1]
            others = [value for value in updated if value.ndim <= 1]
            if weights:
                updates = torch._foreach_add([value.grad for value in weights], weights, alpha=group["weight_decay"])
                factors = self._factors(weights, updates, group)
                self._move(weights, torch._foreach_mul(updates, factors), group)
            if others:
                self._move(others, [value.grad for value in others], group)

    def _factors(self, weights: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """η ‖p‖/‖u‖ of each weight; 1 where a norm is 0."""
        sizes, lengths = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(updates))
        defined = (sizes > 0) & (lengths > 0)
        factors = torch.where(defined, group["eta"] * sizes / lengths.clamp(min=torch.finfo(lengths.dtype).tiny), 1)
        if group["clip"]:
            factors = (factors / max(group["lr"], math.ulp(0.0))).clamp(max=1)
        return list(factors.unbind())

    def _move(self, values: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        for value in values:
            if "momentum" not in self.state[value]:
                self.state[value]["momentum"] = torch.zeros_like(value)
        moments = [self.state[value]["momentum"] for value in values]
        torch._foreach_mul_(moments, group["momentum"])
        torch._foreach_add_(moments, updates)
        torch._foreach_add_(values, moments, alpha=-group["lr"])
