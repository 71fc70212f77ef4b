"""Nested containers of arrays as a flat mapping of names to NumPy arrays, and back, for PyTorch and JAX alike.

`flatten` and `unflatten` take containers of PyTorch tensors, `flatten_jax` and `unflatten_jax` any JAX pytree.
No framework is imported for a tree that holds none of its arrays.
"""

import copy
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common.errors import RefigureError

__all__ = ["flatten", "flatten_jax", "unflatten", "unflatten_jax"]


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Copies of all tensors, arrays and numbers in `tree`, named by their place ("model/layers/0/weight").

    `tree` nests dicts, lists, tuples, named tuples and dataclasses; bool, int and float become 0-d arrays;
    None, strings and functions are structure, not state. Modules and optimisers go in as `state_dict()`.
    """
    flat: dict[str, np.ndarray] = {}

    def keep(name: str, leaf: Any) -> Any:
        if name in flat:
            raise RefigureError(f"two leaves of the state are both named {name!r}; rename one")
        flat[name] = _to_numpy(leaf)
        return leaf

    _walk(tree, keep, ())
    return flat


def unflatten(like: Any, flat: Mapping[str, np.ndarray]) -> Any:
    """The tree of `like`'s structure, devices and types with the values of `flat`; `like` is left alone.

    Raises RefigureError naming the leaf where names, shapes or element types differ.
    """
    seen: set[str] = set()

    def pick(name: str, leaf: Any) -> Any:
        seen.add(name)
        if isinstance(leaf, bool | int | float):
            return type(leaf)(_matching(flat, name, (), None).item())
        array = _matching(flat, name, tuple(leaf.shape), str(leaf.dtype).removeprefix("torch."))
        return _to_torch(array, leaf) if _is_torch(leaf) else np.array(array)

    tree = _walk(like, pick, ())
    _nothing_left(flat, seen)
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

    Raises RefigureError naming the leaf where names, shapes or element types differ.
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
    _nothing_left(flat, seen)
    return jax.tree_util.tree_unflatten(structure, leaves)


def _walk(tree: Any, visit: Callable[[str, Any], Any], path: tuple[str, ...]) -> Any:
    """`tree` rebuilt with `visit(name, leaf)` in place of each leaf that carries state."""
    if isinstance(tree, Mapping):
        return {key: _walk(value, visit, (*path, str(key))) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        names = getattr(tree, "_fields", range(len(tree)))
        parts = [_walk(value, visit, (*path, str(name))) for name, value in zip(names, tree, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        new = copy.copy(tree)
        for field in dataclasses.fields(tree):  # frozen ones too, and fields that __init__ does not take
            object.__setattr__(new, field.name, _walk(getattr(tree, field.name), visit, (*path, field.name)))
        return new
    name = "/".join(path) or "value"
    if _is_torch(tree) or _is_numeric(tree):
        return visit(name, tree)
    if tree is None or isinstance(tree, str) or (callable(tree) and not hasattr(tree, "state_dict")):
        return tree
    hint = "pass its state_dict()" if hasattr(tree, "state_dict") else "store arrays and numbers"
    raise RefigureError(f"leaf {name!r} of type {type(tree).__name__} cannot go into a checkpoint; {hint}")


def _is_torch(leaf: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(leaf, torch.Tensor)


def _is_numeric(leaf: Any) -> bool:
    """Whether `leaf` is a number or an array of numbers of NumPy or JAX (PRNG keys are not)."""
    return isinstance(leaf, bool | int | float | np.generic | np.ndarray) or (
        "jax" in sys.modules and isinstance(leaf, sys.modules["jax"].Array) and not _is_key(leaf)
    )


def _is_key(leaf: Any) -> bool:
    jax = sys.modules["jax"]
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _jax_leaves(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    import jax

    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/") or "value", leaf) for path, leaf in leaves]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise RefigureError(f"two leaves of the state are both named {max(names, key=names.count)!r}; rename one")
    return named, structure


def _to_numpy(leaf: Any) -> np.ndarray:
    if not _is_torch(leaf):
        return np.array(leaf)
    tensor = leaf.detach().cpu().contiguous()
    if tensor.dtype == sys.modules["torch"].bfloat16:
        import ml_dtypes  # comes with JAX; NumPy itself has no bfloat16

        return np.array(tensor.view(sys.modules["torch"].int16).numpy()).view(ml_dtypes.bfloat16)
    return np.array(tensor.numpy())


def _to_torch(array: np.ndarray, like: Any) -> Any:
    torch = sys.modules["torch"]
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


def _nothing_left(flat: Mapping[str, np.ndarray], seen: set[str]) -> None:
    if extra := sorted(flat.keys() - seen):
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise RefigureError(f"the checkpoint holds {extra[0]!r}{more}, which the model does not have")
