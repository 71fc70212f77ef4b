"""Speed of VSML: an example of an episode, in evolution strategies (forwards only) and in backpropagation.

An example costs two ticks of all sub-RNNs. In backpropagation ours has one tick before the label and one after it, the
official code two before.

    python benchmarks/bench_vsml.py [--repeats N] [--json FILE]
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from measure import Row, cpu_seconds, flops, main, per

from papers.vsml.layers import Dense
from papers.vsml.meta_train import meta_loss
from papers.vsml.network import Network, initial_cells, learn_online
from papers.vsml.sub_rnn import init_sub_rnn

CASES = {
    "evolution, 8 x 8": (8, 100, 16, False, "evolution_8"),
    "evolution, 14 x 14": (14, 100, 8, False, "evolution_14"),
    "evolution, 28 x 28": (28, 100, 4, False, "evolution_28"),
    "backpropagation, 14 x 14": (14, 50, 4, True, "backpropagation_14"),
    "backpropagation, 7 x 7": (7, 100, 16, True, None),
}
"""Pixels a side, examples, episodes, whether with the gradient, the measurement beside it."""


def rows(repeats: int) -> Iterator[Row]:
    """One row a case."""
    for name, (side, length, episodes, backward, reference) in CASES.items():
        network = Network((Dense(side**2, 10),), micro_ticks=1 if backward else 2, backward_pass=backward)
        keys = jax.random.split(jax.random.key(0), 4)
        params = init_sub_rnn(keys[0], 16, 8)
        x = jax.random.normal(keys[1], (episodes, length, side**2))
        labels = jax.random.randint(keys[2], (episodes, length), 0, 10)

        def loss(params: object, x: jax.Array, labels: jax.Array, network=network, key=keys[3]) -> jax.Array:
            cells = initial_cells(jax.random.split(key, x.shape[1]), network, 16)
            return meta_loss(learn_online(params, network, cells, x, jax.nn.one_hot(labels, 10)), labels)

        if backward:  # episodes share their parameters; members of a population have parameters of their own
            function, given = jax.grad(loss), (params, x.swapaxes(0, 1), labels.T)
        else:
            members = jax.tree.map(lambda array, episodes=episodes: jnp.stack([array] * episodes), params)
            one = lambda params, x, labels, loss=loss: loss(params, x[:, None], labels[:, None])  # noqa: E731
            function, given = jax.vmap(one), (members, x, labels)
        compiled, examples = jax.jit(function), episodes * length
        seconds = cpu_seconds(lambda compiled=compiled, given=given: compiled(*given), repeats)
        yield Row(name, "example", per(seconds, examples), flops(function, *given) / examples, reference)


if __name__ == "__main__":
    main("vsml", lambda repeats: list(rows(repeats)))
