"""What the tests share: modules with arbitrary parameters."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


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
