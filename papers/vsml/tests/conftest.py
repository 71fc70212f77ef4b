"""What the tests share: double precision, quick compilation, small networks with arbitrary parameters."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from papers.vsml.layers import Dense
from papers.vsml.network import Network, initial_cells, learn_online
from papers.vsml.sub_rnn import SubRNN, init_sub_rnn

learn = jax.jit(learn_online, static_argnames="network")


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
    keys = jax.random.split(jax.random.key(1), episodes)
    cells = jax.jit(initial_cells, static_argnums=(1, 2))(keys, network, units)
    x = jnp.asarray(rng.standard_normal((length, episodes, *inputs)))
    return cells, x, jax.nn.one_hot(rng.integers(0, outputs, (length, episodes)), outputs, dtype=x.dtype)


def dense(*sizes: int, **changes: object) -> Network:
    """A network of dense layers of these widths."""
    return Network(tuple(Dense(a, b) for a, b in itertools.pairwise(sizes)), **changes)
