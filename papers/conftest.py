"""What the tests of several rooms share: double precision, quick compilation, a recorder in memory."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision within one test, without touching the others."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="package")
def compile_quickly() -> Iterator[None]:
    """These tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class Memory:
    """A recorder in memory that may stop a run after some steps."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.lines: list[tuple[int, dict]] = []
        self.kept: tuple[int, dict] | None = None
        self.stop_at = stop_at
        self.shown: list[tuple[int, int]] = []

    def log(self, step, metrics):
        self.lines.append((step, dict(metrics)))

    def save(self, step, state):
        self.kept = (step, {name: np.array(array) for name, array in state.items()})

    def restore(self):
        return self.kept

    def progress(self, step, total):
        self.shown.append((step, total))
        if self.stop_at is not None and step >= self.stop_at:
            raise KeyboardInterrupt

    def due(self):
        return True


@pytest.fixture
def memory() -> type[Memory]:
    """Recorders in memory."""
    return Memory
