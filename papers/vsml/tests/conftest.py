"""What the tests share: double precision, quick compilation, small networks with arbitrary parameters."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from papers.vsml.layers import Dense
from papers.vsml.network import Network, initial_cells
from papers.vsml.sub_rnn import SubRNN, init_sub_rnn


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


def some_params(units: int = 4, message: int = 3, normed: bool = False) -> SubRNN:
    """Arbitrary parameters, none at a zero."""
    rng = np.random.default_rng(3)
    like = jax.eval_shape(lambda: init_sub_rnn(jax.random.key(0), units, message, normed))
    return jax.tree.map(lambda array: jnp.asarray(0.7 * rng.standard_normal(array.shape)), like)


def some_episode(
    network: Network, units: int = 4, length: int = 5, episodes: int = 2
) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
    """Initial cells, inputs and one-hot labels."""
    rng = np.random.default_rng(4)
    inputs, outputs = network.layers[0].nodes[0], network.layers[-1].nodes[1][0]
    cells = initial_cells(jax.random.split(jax.random.key(1), episodes), network, units)
    x = jnp.asarray(rng.standard_normal((length, episodes, *inputs)))
    return cells, x, jax.nn.one_hot(rng.integers(0, outputs, (length, episodes)), outputs, dtype=x.dtype)


def dense(*sizes: int, **changes: object) -> Network:
    """A network of dense layers of these widths."""
    return Network(tuple(Dense(a, b) for a, b in itertools.pairwise(sizes)), **changes)


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
