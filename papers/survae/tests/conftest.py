"""What the tests share: modules with arbitrary parameters."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def filled(make: Callable[..., eqx.Module], *args: object, std: float = 0.4, **kwargs: object) -> eqx.Module:
    """``make(...)`` with normal draws for all parameters, so that none stays at a zero or an identity.

    Integers, which are no parameters, are as they are made.
    """
    rng = np.random.default_rng(0)
    outline = eqx.filter_eval_shape(make, *args, **kwargs)
    integers = [leaf for leaf in jax.tree.leaves(outline) if is_integer(leaf)]
    made = eqx.filter_jit(make)(*args, **kwargs) if integers else outline
    return jax.tree.map(
        lambda leaf, value: (
            jnp.asarray(std * rng.standard_normal(leaf.shape), leaf.dtype)
            if isinstance(leaf, jax.ShapeDtypeStruct) and not is_integer(leaf)
            else value
        ),
        outline,
        made,
    )


def is_integer(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.integer)
