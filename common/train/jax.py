"""The training loop for JAX: chunks of steps as one compiled scan, with checkpoint, resume and NaN guard.

A paper writes the method as two pure functions and hands over the rest:

    def init(key):
        model = eqx.nn.MLP(2, 1, 32, 2, key=key)
        return State(model, optimiser.init(eqx.filter(model, eqx.is_array)), key)

    def step(images, state, index):  # index: int32, counted from 0
        batch = images[jax.random.randint(jax.random.fold_in(state.key, index), (64,), 0, len(images))]
        ...
        return State(model, opt_state, state.key), {"loss": loss}

    state = scan_train(
        eqx.Partial(step, images), init(jax_key(seed)), steps=10_000, chunk=100, recorder=run
    )

`eqx.Partial` passes large data as an argument; in a closure it would become a constant of the program.
Several seeds as one program, on all local devices:

    states = shard(batch_seeds(init, seeds))
    states = scan_train(batch_step(eqx.Partial(step, images)), states, steps=10_000, chunk=100, recorder=run)

Then every metric has one value a seed, and the log holds lists.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from common.errors import RefigureError
from common.train.loop import State, drive
from common.train.recorder import Recorder
from common.train.seeding import jax_key
from common.train.trees import flatten_jax, unflatten_jax

__all__ = ["batch_seeds", "batch_step", "scan_stages", "scan_train", "shard"]

Tree = TypeVar("Tree")
Step = Callable[[Any, jax.Array], tuple[Any, Mapping[str, jax.Array]]]


def scan_train(step: Step, state: Tree, *, steps: int, chunk: int, recorder: Recorder) -> Tree:
    """`state` after `steps` applications of `step(state, index) -> (state, metrics)`.

    Arrays in `state` are trained on (a copy: the caller's stay usable); anything else in it, such as an
    activation function, is fixed. Metrics are scalars or vectors (one value a seed or member); after each
    chunk their mean over it goes to `recorder.log`.

    Raises:
        RefigureError: A metric is not finite, or an array of the state lost its finiteness, see `drive`.
    """
    return scan_stages([(steps, lambda: step)], state, chunk=chunk, recorder=recorder)


def scan_stages(
    stages: Sequence[tuple[int, Callable[[], Step]]], state: Tree, *, chunk: int, recorder: Recorder
) -> Tree:
    """`scan_train` in stages that share the state and the count of steps.

    Arguments:
        stages: Of each stage the finished steps at which it ends, and what makes its step when it begins.
    """
    arrays, fixed = eqx.partition(state, _is_array)
    arrays = jax.tree.map(_own, arrays)
    programs: dict[int, Callable[[Any, int, int], tuple[Any, dict[str, jax.Array]]]] = {}

    def advance(stage: int, done: int, length: int) -> dict[str, np.ndarray]:
        nonlocal arrays
        if stage not in programs:
            programs.clear()  # with what the earlier stage held
            programs[stage] = _compile(stages[stage][1](), fixed)
        arrays, stacked = programs[stage](arrays, done, length)
        return {name: np.asarray(values) for name, values in stacked.items()}

    def restore(flat: State) -> None:
        nonlocal arrays
        arrays = unflatten_jax(arrays, flat)

    ends = [end for end, _ in stages]
    drive(advance, lambda: flatten_jax(arrays), restore, stages=ends, chunk=chunk, recorder=recorder)
    return eqx.combine(arrays, fixed)


def batch_seeds(init: Callable[[jax.Array], Tree], seeds: Sequence[int]) -> Tree:
    """`init(key)` of every seed's `jax_key(seed)`, stacked: each array gets a leading axis."""
    return eqx.filter_vmap(init)(jnp.stack([jax_key(seed) for seed in seeds]))


def batch_step(step: Step) -> Step:
    """`step` for states with a leading axis (seeds, or members of a population); all see the same index.

    Members do not influence one another. Another number of members may round differently, as the compiler
    orders sums in matrix products by their size.
    """
    return eqx.filter_vmap(step, in_axes=(eqx.if_array(0), None))


def shard(tree: Tree, axis: int = 0) -> Tree:
    """`tree` with `axis` of each array split evenly over the local devices; on one device, `tree` itself.

    Arrays without that axis are replicated. The program then runs on all devices, each on its part; a CPU
    counts as several after `jax.config.update("jax_num_cpu_devices", n)`. Raises RefigureError when the
    length of the axis is not a multiple of the number of devices.
    """
    devices = jax.local_devices()
    if len(devices) == 1:
        return tree
    mesh = jax.sharding.Mesh(np.array(devices), ("members",))

    def place(leaf: Any) -> Any:
        if not _is_array(leaf):
            return leaf
        names = [None] * axis + ["members"] if leaf.ndim > axis else []
        if names and leaf.shape[axis] % len(devices):
            raise RefigureError(
                f"an axis of length {leaf.shape[axis]} cannot be split over {len(devices)} devices; "
                f"use a multiple of {len(devices)} seeds or members"
            )
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names)))

    return jax.tree.map(place, tree)


def _compile(step: Step, fixed: Any) -> Callable[[Any, int, int], tuple[Any, dict[str, jax.Array]]]:
    """(arrays, first index, length) -> (arrays, metrics stacked over steps); the arrays given are consumed.

    The first index is traced and the length is not: one program for all full chunks, one for the last.
    """
    data, code = eqx.partition(step, _is_array)

    def scan(arrays: Any, data: Any, first: jax.Array, length: int) -> tuple[Any, dict[str, jax.Array]]:
        def body(arrays: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            state, metrics = eqx.combine(data, code)(eqx.combine(arrays, fixed), index)
            new, unchanged = eqx.partition(state, _is_array)
            _check_fixed(fixed, unchanged)
            return new, dict(metrics)

        return jax.lax.scan(body, arrays, first + jnp.arange(length, dtype=jnp.int32))

    compiled = jax.jit(scan, static_argnames="length", donate_argnums=0)
    return lambda arrays, first, length: compiled(arrays, data, jnp.int32(first), length=length)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _own(leaf: Any) -> jax.Array:
    """A copy of `leaf` that may be donated, of a type as firm as that of an array read from a checkpoint."""
    array = jnp.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.lax.convert_element_type(array, array.dtype)  # a weak one rounds differently
    return jnp.copy(array)


def _check_fixed(before: Any, after: Any) -> None:
    if not eqx.tree_equal(before, after):
        raise RefigureError(
            "step changed a part of the state that is no array (a Python number, say); make it a jax.Array"
        )
