"""Random streams named by their purpose, the same way for NumPy, PyTorch and JAX.

A stream is a function of the run's seed and a purpose, and of nothing else:

>>> order = numpy_rng(0, "data", 3).permutation(5)  # epoch 3 of seed 0, whatever was drawn before

So no generator state goes into a checkpoint (a resumed run asks for the stream of the epoch or step it is
at), and a new purpose leaves every other stream as it was. Inside compiled JAX code, where the step is
traced, take the key once and fold the step in: `jax.random.fold_in(jax_key(seed, "noise"), step)`.
"""

import hashlib
import json
import operator
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

if TYPE_CHECKING:
    import jax
    import torch

__all__ = ["jax_key", "numpy_rng", "torch_generator"]


def numpy_rng(seed: SupportsIndex, *purpose: str | SupportsIndex) -> np.random.Generator:
    """The NumPy stream of (seed, purpose): a Philox counter under a 128-bit hashed key."""
    return np.random.Generator(np.random.Philox(key=np.frombuffer(_hash(seed, purpose, 16), "<u8")))


def torch_generator(
    seed: SupportsIndex, *purpose: str | SupportsIndex, device: "torch.device | str" = "cpu"
) -> "torch.Generator":
    """The PyTorch stream of (seed, purpose) on `device`.

    PyTorch's CPU generator keeps 32 bits of its seed (its CUDA one 64): among a thousand streams two coincide
    with probability 1e-4. Different devices give different numbers.
    """
    import torch

    return torch.Generator(device).manual_seed(int.from_bytes(_hash(seed, purpose, 8), "little") >> 1)


def jax_key(seed: SupportsIndex, *purpose: str | SupportsIndex) -> "jax.Array":
    """The typed JAX key of (seed, purpose), of JAX's default implementation, all its bits hashed."""
    import jax

    like = jax.random.key(0)
    shape = jax.random.key_data(like).shape
    words = np.frombuffer(_hash(seed, purpose, 4 * shape[0]), "<u4")
    return jax.random.wrap_key_data(jax.numpy.asarray(words), impl=jax.random.key_impl(like))


def _hash(seed: SupportsIndex, purpose: tuple[str | SupportsIndex, ...], size: int) -> bytes:
    """`size` bytes that depend on each part, its type and its place. Floats are refused (TypeError)."""
    parts = [part if isinstance(part, str) else operator.index(part) for part in (operator.index(seed), *purpose)]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=size, person=b"refigure-stream").digest()
