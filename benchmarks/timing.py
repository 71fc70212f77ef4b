"""How long a function takes, for benchmarks: warmed up, synchronised, repeated, the median reported."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Timing", "measure", "synchronise"]


@dataclass(frozen=True)
class Timing:
    """Seconds a call; `wall` and `cpu` hold one number a repetition."""

    first: float
    """The first call, compilation included."""
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    """Process time over all threads: the one to compare on a shared machine."""

    @property
    def median(self) -> float:
        """Median wall time, in seconds."""
        return float(np.median(self.wall))

    @property
    def cpu_median(self) -> float:
        """Median processor time, in seconds."""
        return float(np.median(self.cpu))

    @property
    def spread(self) -> float:
        """Interquartile range of the wall time over its median: above about 0.1, measure again."""
        low, high = np.quantile(self.wall, [0.25, 0.75])
        return float((high - low) / self.median)


def measure(run: Callable[[], Any], *, repeats: int = 7, warm_up: int = 1) -> Timing:
    """Time `run()`; what it returns is waited for, so that queued work on an accelerator counts."""
    first = _timed(run)[0]
    for _ in range(warm_up - 1):
        _timed(run)
    times = [_timed(run) for _ in range(repeats)]
    return Timing(first, tuple(wall for wall, _ in times), tuple(cpu for _, cpu in times))


def synchronise(result: Any = None) -> None:
    """Wait until `result` (a JAX pytree, or anything) and all CUDA work that PyTorch queued are done."""
    if (jax := sys.modules.get("jax")) is not None:
        jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _timed(run: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    synchronise(run())
    return time.perf_counter() - wall, time.process_time() - cpu
