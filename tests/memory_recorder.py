"""What the tests of all rooms train with."""

from collections.abc import Mapping

import numpy as np

__all__ = ["Memory"]


class Memory:
    """A recorder in memory that may stop a run after some steps.

    Arguments:
        stop_at: Finished steps at which it is interrupted; None for never.
    """

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.lines: list[tuple[int, dict]] = []
        self.states: dict[int, str] = {}
        self.kept: tuple[int, dict[str, np.ndarray]] | None = None
        self.shown: list[tuple[int, int]] = []

    def log(self, step: int, metrics: Mapping[str, float | list[float]], state: str = "") -> None:
        self.lines.append((step, dict(metrics)))
        if state:
            self.states[step] = state

    def save(self, step: int, state: Mapping[str, np.ndarray]) -> None:
        self.kept = (step, {name: np.array(array) for name, array in state.items()})

    def restore(self) -> tuple[int, dict[str, np.ndarray]] | None:
        return self.kept

    def progress(self, step: int, total: int) -> None:
        self.shown.append((step, total))
        if self.stop_at is not None and step >= self.stop_at:
            raise KeyboardInterrupt

    def due(self) -> bool:
        return True
