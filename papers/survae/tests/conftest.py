"""What the tests share: double precision, quick compilation, modules with arbitrary parameters."""

from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
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


def filled(make: Callable[..., eqx.Module], *args: object, std: float = 0.4, **kwargs: object) -> eqx.Module:
    """``make(...)`` with normal draws for all parameters, so that none stays at a zero or an identity."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(std * rng.standard_normal(leaf.shape), leaf.dtype)
            if isinstance(leaf, jax.ShapeDtypeStruct)
            else leaf
        ),
        eqx.filter_eval_shape(make, *args, **kwargs),
    )
