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
def compile_quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """These tests compile much, often the same again, and compute little."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    before["jax_disable_most_optimizations"] = jax.config.read("jax_disable_most_optimizations")
    for name, value in {**settings, "jax_disable_most_optimizations": True}.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(autouse=True, scope="module")
def forget_compiled() -> Iterator[None]:
    """Every compiled program holds memory maps, of which Linux gives a process 65,530; beyond them it crashes."""
    yield
    jax.clear_caches()


@pytest.fixture
def memory() -> type[Memory]:
    """Recorders in memory."""
    return Memory
