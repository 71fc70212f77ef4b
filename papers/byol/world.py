"""One process or several that share a batch: sums and gathers that gradients pass through."""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["World", "world"]


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum over processes of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class World:
    """The processes that share each batch in equal parts, in the order of their ranks."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def part(self, count: int) -> slice:
        """The places of this process among `count` of a whole batch."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes."""
        return x if self.size == 1 else _Sum.apply(x)  # type: ignore[no-any-return]

    def gather(self, x: Tensor) -> Tensor:
        """(B, ...) of each process to (size · B, ...), in the order of ranks."""
        if self.size == 1:
            return x
        whole = x.new_zeros(self.size * len(x), *x.shape[1:])
        return self.sum(whole.index_put((torch.arange(len(x), device=x.device) + self.rank * len(x),), x))

    def average_gradients(self, parameters: list[Tensor]) -> None:
        """Replace gradients by their means over processes, in one message."""
        gradients = [value.grad for value in parameters if value.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def world() -> World:
    """The processes of `torch.distributed` if it was started, else this one alone."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)
