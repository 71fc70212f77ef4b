"""Between a training loop and a run: where to log and to keep state, and what training hands back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Outcome", "Recorder"]


class Recorder:
    """The side of a run that a training loop sees; this one keeps nothing, `common.run.record.Run` all."""

    def log(self, step: int, metrics: Mapping[str, float | list[float]], state: str = "") -> None:
        """Append one line to the run's metrics stream.

        Arguments:
            step: Finished steps.
            state: Digest of the state after them, where it was taken.
        """

    def save(self, step: int, state: Mapping[str, np.ndarray]) -> None:
        """Keep `state` (flat: names to arrays) as the last good checkpoint, atomically."""

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """The last good checkpoint as (finished steps, state), or None for a fresh start."""
        return None

    def progress(self, step: int, total: int) -> None:
        """Show how far the run is; cheap enough to call after every chunk."""

    def due(self) -> bool:
        """Whether enough time has passed since the last checkpoint to write another."""
        return False


@dataclass(frozen=True)
class Outcome:
    """What an experiment's `train(config, seeds, run)` returns."""

    metrics: Mapping[str, Sequence[float]]
    """Final metrics: name to one number per seed, in the order of the seeds."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What figures need beyond the metrics: kept as `arrays.npz`."""
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The trained parameters: kept as `checkpoint/final.safetensors`."""
