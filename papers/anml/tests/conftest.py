"""What the tests share: small learners, a batch, programs compiled once."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from papers.anml import meta_learning
from papers.anml.meta_learning import Dense, Learner
from papers.anml.networks import Block, Conv

NORMED = (Block(pool=True),)
"""A small trunk like ANML's: 8 -> 3 pixels a side."""
PLAIN = (Block(2, norm=False), Block(norm=False))
"""A small trunk like OML's: 12 -> 5 -> 3 pixels a side."""
SHORT = (Block(3, norm=False), Block(pool=True))
"""A small trunk for drawings: 28 -> 9 -> 3 pixels a side."""
LEAST = (Block(9, norm=False),)
"""The smallest: 28 -> 3 pixels a side."""


def some_learner(
    blocks: Sequence[Block] = NORMED, channels: int = 4, nm: int = 2, hidden: Sequence[int] = (), outputs: int = 7,
    cin: int = 1,
) -> Learner:  # fmt: skip
    """Arbitrary parameters, none at a zero or an identity; `nm=0`: no neuromodulatory network."""
    rng = np.random.default_rng(5)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape))

    def convs(width: int) -> tuple[Conv, ...]:
        made = []
        for index, block in enumerate(blocks):
            fan = width if index else cin
            scale, shift = (1 + 0.2 * normal(width), 0.2 * normal(width)) if block.norm else (None, None)
            made.append(Conv(normal(3, 3, fan, width) * (2 / (9 * fan)) ** 0.5, 0.1 * normal(width), scale, shift))
        return tuple(made)

    def dense(fan_in: int, fan_out: int) -> Dense:
        return Dense(normal(fan_out, fan_in) * (2 / fan_in) ** 0.5, 0.1 * normal(fan_out))

    sizes = [9 * channels, *hidden, outputs]
    head = tuple(dense(*pair) for pair in itertools.pairwise(sizes))
    learner = Learner(convs(channels), head)
    return learner._replace(nm_trunk=convs(nm), nm_out=dense(9 * nm, 9 * channels)) if nm else learner


def some_batch(side: int, remember: int = 5, steps: int = 3, outputs: int = 7) -> tuple[jax.Array, jax.Array]:
    """Random images and labels; the last `steps` are of one class."""
    rng = np.random.default_rng(7)
    labels = np.append(rng.integers(0, outputs, remember), np.full(steps, 2))
    return jnp.asarray(rng.random((remember + steps, side, side, 1))), jnp.asarray(labels)


scores = jax.jit(meta_learning.scores, static_argnames="scheme")
