"""What the tests of several rooms share: double precision, quick compilation, a recorder in memory."""

from collections.abc import Iterator

import jax
import pytest
from memory_recorder import Memory


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


@pytest.fixture(autouse=True, scope="module")
def forget_compiled() -> Iterator[None]:
    """Every compiled program holds memory maps, of which Linux gives a process 65,530; beyond them it crashes."""
    yield
    jax.clear_caches()


@pytest.fixture
def memory() -> type[Memory]:
    """Recorders in memory."""
    return Memory
