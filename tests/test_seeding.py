"""Random streams depend on seed and purpose alone, the same way in NumPy, PyTorch and JAX."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.train.seeding import jax_key, numpy_rng, torch_generator

PARTS = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=4)), max_size=3).map(tuple)

STREAMS: dict[str, Callable[..., np.ndarray]] = {
    "numpy": lambda *names: numpy_rng(*names).random(50_000),
    "torch": lambda *names: torch.rand(50_000, generator=torch_generator(*names), dtype=torch.double).numpy(),
    "jax": lambda *names: np.asarray(jax.random.uniform(jax_key(*names), (50_000,))),
}


@given(first=st.tuples(st.integers(0, 5), PARTS), second=st.tuples(st.integers(0, 5), PARTS))
def test_different_purposes_are_different_streams(first: tuple, second: tuple) -> None:
    a, b = (numpy_rng(seed, *purpose).integers(2**63) for seed, purpose in (first, second))
    assert (a == b) == (first == second)


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_are_uniform_repeatable_and_uncorrelated(stream: str) -> None:
    draw = STREAMS[stream]
    names = [(0,), (1,), (0, "data"), (0, "data", 0), (0, "data", 1), (0, "data", "1"), (0, 1, "data")]
    samples = np.stack([draw(*name) for name in names])
    assert np.array_equal(samples[4], draw(0, "data", np.int64(1)))  # NumPy's integers are integers
    assert np.abs(samples.mean(axis=1) - 0.5).max() < 5 * 12**-0.5 / 50_000**0.5
    assert np.abs(np.corrcoef(samples) - np.eye(len(names))).max() < 5 / 50_000**0.5


def test_streams_never_change() -> None:
    """Published numbers rest on these values: a change of the derivation must be noticed."""
    assert numpy_rng(0, "data", 3).bit_generator.random_raw() == 18354679117806634936
    assert torch_generator(0, "data", 3).initial_seed() == 6128096781325343024
    assert jax.random.key_data(jax_key(0, "data", 3)).tolist() == [4030280289, 2853617435]


def test_keys_follow_jaxs_default_implementation() -> None:
    with jax.default_prng_impl("rbg"):
        key = jax_key(3, "init")
    assert jax.random.key_impl(key) == jax.random.key_impl(jax.random.key(0, impl="rbg"))
    assert len(set(jax.random.key_data(key).tolist())) == 4


@pytest.mark.parametrize("purpose", [0.5, None, b"data"])
def test_purposes_are_strings_and_integers(purpose: object) -> None:
    with pytest.raises(TypeError):
        numpy_rng(0, purpose)  # type: ignore[arg-type]
