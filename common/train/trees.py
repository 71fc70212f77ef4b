"""Trees of arrays as a flat mapping of names to NumPy arrays, and back.

`flatten` and `unflatten` take nested dicts of PyTorch tensors, such as state dicts; `flatten_jax` and `unflatten_jax`
any JAX pytree. Neither framework is imported for the other.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import RefigureError

if TYPE_CHECKING:
    import torch

__all__ = ["flatten", "flatten_jax", "unflatten", "unflatten_jax"]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Copies of all tensors in nested dicts, named by their place: "model/layers.0.weight".

    Raises:
        RefigureError: Something in it is neither a dict nor a tensor.
    """
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        new = flatten(value, f"{name}/") if isinstance(value, Mapping) else {name: _to_numpy(name, value)}
        if flat.keys() & new.keys():
            raise RefigureError(
                f"two tensors of the state are both named {min(flat.keys() & new.keys())!r}; rename one"
            )
        flat |= new
    return flat


def unflatten(like: Mapping[str, Any], flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested dicts of `like`'s structure, devices and types with the values of `flat`; `like` is left alone.

    Raises:
        RefigureError: Names, shapes or element types differ; the message names the tensor.
    """
    seen: set[str] = set()

    def rebuilt(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        new: dict[str, Any] = {}
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                new[key] = rebuilt(value, f"{name}/")
                continue
            seen.add(name)
            new[key] = _to_torch(_matching(flat, name, tuple(value.shape), str(value.dtype).split(".")[-1]), value)
        return new

    tree = rebuilt(like, "")
    _check_all_used(flat, seen)
    return tree


def flatten_jax(tree: Any) -> dict[str, np.ndarray]:
    """Copies of all arrays and numbers in a JAX pytree, named by `keystr`; typed PRNG keys by their key data.

    Other leaves (activation functions inside an Equinox module, say) are structure. Every array must be
    addressable from this process.
    """
    import jax

    flat: dict[str, np.ndarray] = {}
    for name, leaf in _jax_leaves(tree)[0]:
        if _is_key(leaf):
            flat[name] = np.array(jax.random.key_data(leaf))
        elif _is_numeric(leaf):
            flat[name] = np.array(leaf)
    return flat


def unflatten_jax(like: Any, flat: Mapping[str, np.ndarray]) -> Any:
    """The pytree of `like`'s structure, shardings and types with the values of `flat`, copied.

    Raises:
        RefigureError: Names, shapes or element types differ; the message names the leaf.
    """
    import jax

    named, structure = _jax_leaves(like)
    leaves, seen = [], set()
    for name, leaf in named:
        if _is_key(leaf):
            data = _matching(flat, name, jax.eval_shape(jax.random.key_data, leaf).shape, "uint32")
            key = jax.random.wrap_key_data(jax.numpy.array(data), impl=jax.random.key_impl(leaf))
            leaves.append(jax.device_put(key, leaf.sharding))
        elif isinstance(leaf, bool | int | float):
            leaves.append(type(leaf)(_matching(flat, name, (), None).item()))
        elif _is_numeric(leaf):
            array = np.array(_matching(flat, name, leaf.shape, leaf.dtype.name))
            leaves.append(jax.device_put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array)
        else:
            leaves.append(leaf)
            continue
        seen.add(name)
    _check_all_used(flat, seen)
    return jax.tree_util.tree_unflatten(structure, leaves)


def _is_numeric(leaf: Any) -> bool:
    """Whether a leaf is a number or an array of numbers (PRNG keys are not)."""
    import jax

    return isinstance(leaf, bool | int | float | np.generic | np.ndarray) or (
        isinstance(leaf, jax.Array) and not _is_key(leaf)
    )


def _is_key(leaf: Any) -> bool:
    import jax

    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _jax_leaves(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    import jax

    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/") or "value", leaf) for path, leaf in leaves]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise RefigureError(f"two leaves of the state are both named {max(names, key=names.count)!r}; rename one")
    return named, structure


def _to_numpy(name: str, tensor: Any) -> np.ndarray:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise RefigureError(f"{name!r} of type {type(tensor).__name__} cannot go into a checkpoint; store tensors")
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes  # comes with JAX; NumPy itself has no bfloat16

        return np.array(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
    return np.array(tensor.numpy())


def _to_torch(array: np.ndarray, like: "torch.Tensor") -> "torch.Tensor":
    import torch

    if array.dtype.name == "bfloat16":
        tensor = torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(np.array(array))
    return tensor.to(like.device).requires_grad_(like.requires_grad)


def _matching(flat: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: str | None) -> np.ndarray:
    if name not in flat:
        raise RefigureError(f"the checkpoint lacks {name!r}; it was written by a model with other parts")
    array = flat[name]
    if array.shape != shape:
        raise RefigureError(f"{name!r} has shape {array.shape} in the checkpoint, {shape} in the model")
    if dtype is not None and array.dtype.name != dtype:
        raise RefigureError(f"{name!r} is {array.dtype.name} in the checkpoint, {dtype} in the model")
    return array


def _check_all_used(flat: Mapping[str, np.ndarray], seen: set[str]) -> None:
    if extra := sorted(flat.keys() - seen):
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise RefigureError(f"the checkpoint holds {extra[0]!r}{more}, which the model does not have")
