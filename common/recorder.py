"""What a training loop needs of a run: somewhere to log, to keep its state, and to find it again."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

__all__ = ["Arrays", "Recorder"]

Arrays = Mapping[str, np.ndarray]
"""A flat state: names (slashes separate levels) to arrays."""


class Recorder(Protocol):
    """The side of a run that a training loop sees. `common.runs.Run` is the real one."""

    def log(self, step: int, metrics: Mapping[str, float | list[float]]) -> None:
        """Append one line to the run's metrics stream; `step` counts finished steps."""

    def save(self, step: int, state: Arrays) -> None:
        """Keep `state` as the last good checkpoint, atomically."""

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """The last good checkpoint as (finished steps, state), or None for a fresh start."""

    def progress(self, step: int, total: int) -> None:
        """Show how far the run is; cheap enough to call after every chunk."""

    def due(self) -> bool:
        """Whether enough time has passed since the last checkpoint to write another."""
