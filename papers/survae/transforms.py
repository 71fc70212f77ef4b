"""The contract of every SurVAE layer, and the composition of layers."""

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from common.errors import RefigureError

__all__ = ["Compose", "Context", "Inferred", "Key", "Stack", "Transform", "constant", "demand_key", "sum_except_batch"]

Key = PRNGKeyArray | None
"""Random key for layers that draw; all other layers need none."""
Context = Shaped[Array, "B ..."] | None
"""Further input of a conditional layer or distribution."""
Inferred = tuple[Shaped[Array, "B ..."], Float[Array, " B"]]
"""A latent $z$ and the likelihood contribution $\\mathcal V$ of every sample."""


def sum_except_batch(x: Shaped[Array, "B ..."]) -> Shaped[Array, " B"]:
    """Sum over all axes but the first: (B, ...) to (B,)."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def constant(x: Shaped[Array, "B ..."], value: float | Array) -> Float[Array, " B"]:
    """The same contribution for every sample, (B,), in the precision of $x$ (or the default)."""
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
    return jnp.full(x.shape[0], value, dtype)


def demand_key(key: Key, layer: object) -> PRNGKeyArray:
    """Returns the key.

    Raises:
        RefigureError: The key is None, but ``layer`` draws at random.
    """
    if key is None:
        raise RefigureError(f"{type(layer).__name__} draws at random here: pass key=jax.random.key(seed)")
    return key


class Transform(eqx.Module):
    r"""One layer $x \leftrightarrow z$ of a SurVAE flow, on batches (B, ...).

    $$ \log p(x) \simeq \log p(z) + \mathcal V(x, z) + \mathcal E(x, z), \qquad z \sim q(z \mid x) $$

    *Inference* (``forward``) goes from data $x$ to latent $z$, *generation* (``inverse``) back. Either may be
    random: in a bijection neither direction is, in a surjection one, in a stochastic layer both. A random direction
    needs ``key``; layers that do not use ``key`` or ``context`` ignore them. Every layer is a pytree whose
    arrays are its trainable parameters; all else is static.

    Attributes:
        exact: Whether the bound gap $\mathcal E$ is zero, so that the likelihood is exact.

    References:
        | SurVAE Flows: Surjections to Bridge the Gap between VAEs and Flows (Nielsen et al., 2020),
          equation 3 and table 1
        | https://arxiv.org/abs/2007.02731
    """

    exact: ClassVar[bool] = True

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        r"""Infers $z$, (B, ...), and the likelihood contribution $\mathcal V(x, z)$, ``ladj``, (B,).

        Raises:
            RefigureError: Inference is random and ``key`` is missing.
        """
        raise NotImplementedError

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        """Generates $x$ from $z$.

        Raises:
            RefigureError: Generation is random and ``key`` is missing.
        """
        raise NotImplementedError

    def initialise(self, x: Array, *, key: Key = None, context: Context = None) -> "Transform":
        """This layer with its data-dependent parameters, if it has any, set from a batch $x$."""
        return self


class Compose(Transform):
    r"""Layers one after the other, the first next to the data: $\mathcal V$ is the sum of theirs.

    Arguments:
        layers: The layers, in the direction of inference.
    """

    layers: tuple[Transform, ...]

    def __init__(self, layers: Iterable[Transform] = ()) -> None:
        self.layers = tuple(layers)

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether every layer is exact."""
        return all(layer.exact for layer in self.layers)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Transform:
        return self.layers[index]

    def _keys(self, key: Key) -> list[Key]:
        # Keys that no layer uses cost nothing once the caller is compiled.
        return [None] * len(self) if key is None else list(jax.random.split(key, len(self)))

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        contributions = []
        for layer, layer_key in zip(self.layers, self._keys(key), strict=True):
            x, ladj = layer.forward(x, key=layer_key, context=context)
            contributions.append(ladj)
        return x, sum(contributions, start=constant(x, 0.0))

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        for layer, layer_key in zip(reversed(self.layers), self._keys(key), strict=True):
            z = layer.inverse(z, key=layer_key, context=context)
        return z

    def initialise(self, x: Array, *, key: Key = None, context: Context = None) -> "Compose":
        """Initialises the layers first to last, each on the output of the preceding layers for $x$."""
        layers = []
        for layer, layer_key in zip(self.layers, self._keys(key), strict=True):
            layers.append(layer.initialise(x, key=layer_key, context=context))
            x, _ = layers[-1].forward(x, key=layer_key, context=context)
        return Compose(layers)


class Stack(Transform):
    """Layers that are alike in all but their parameters, one after the other by one compiled loop.

    It is `Compose` of `count` draws of a layer, compiled once however many there are.

    Arguments:
        make: ``make(key)`` is one layer.
        count: How many.
        key: Draws them.
    """

    layer: Transform
    count: int = eqx.field(static=True)

    def __init__(self, make: Callable[[PRNGKeyArray], Transform], count: int, *, key: PRNGKeyArray) -> None:
        self.layer = eqx.filter_vmap(make)(jax.random.split(key, count))
        self.count = count

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether every layer is exact."""
        return self.layer.exact

    def _keys(self, key: Key) -> PRNGKeyArray | None:
        return None if key is None else jax.random.split(key, self.count)

    def forward(self, x: Array, *, key: Key = None, context: Context = None) -> Inferred:
        arrays, static = eqx.partition(self.layer, eqx.is_array)

        def infer(carry: Inferred, part: tuple) -> tuple[Inferred, None]:
            z, ladj = eqx.combine(part[0], static).forward(carry[0], key=part[1], context=context)
            return (z, carry[1] + ladj), None

        return jax.lax.scan(infer, (x, constant(x, 0.0)), (arrays, self._keys(key)))[0]

    def inverse(self, z: Array, *, key: Key = None, context: Context = None) -> Array:
        arrays, static = eqx.partition(self.layer, eqx.is_array)

        def generate(z: Array, part: tuple) -> tuple[Array, None]:
            return eqx.combine(part[0], static).inverse(z, key=part[1], context=context), None

        return jax.lax.scan(generate, z, (arrays, self._keys(key)), reverse=True)[0]

    def initialise(self, x: Array, *, key: Key = None, context: Context = None) -> "Stack":
        """Initialises the layers first to last, each on the output of the preceding layers for $x$."""
        arrays, static = eqx.partition(self.layer, eqx.is_array)

        def advance(x: Array, part: tuple) -> tuple[Array, Transform]:
            layer = eqx.combine(part[0], static).initialise(x, key=part[1], context=context)
            return layer.forward(x, key=part[1], context=context)[0], eqx.filter(layer, eqx.is_array)

        set_arrays = jax.lax.scan(advance, x, (arrays, self._keys(key)))[1]
        return eqx.tree_at(lambda stack: stack.layer, self, eqx.combine(set_arrays, static))
