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
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from common.errors import RefigureError
from common.train.recorder import Recorder
from common.train.seeding import jax_key
from common.train.trees import flatten_jax, unflatten_jax

__all__ = ["batch_seeds", "batch_step", "scan_train", "shard"]

Tree = TypeVar("Tree")
Step = Callable[[Any, jax.Array], tuple[Any, Mapping[str, jax.Array]]]


def scan_train(
    step: Step,
    state: Tree,
    *,
    steps: int,
    chunk: int,
    recorder: Recorder,
    reduce: Literal["mean", "last"] = "mean",
    guard: bool = True,
) -> Tree:
    """`state` after `steps` applications of `step(state, index) -> (state, metrics)`.

    Arrays in `state` are trained on (a copy: the caller's stay usable); anything else in it, such as an
    activation function, is fixed. Metrics are scalars or vectors (one value a seed or member); after each
    chunk their mean over it, or their last value, goes to `recorder.log`.

    Chunks end at multiples of `chunk` whatever happened before, so that a run that was killed and resumes
    from `recorder.restore()` executes the very programs of an uninterrupted one and ends bit-identical to it.

    `guard`: a metric that is not finite raises RefigureError naming the first such step, and no state in
    which an array lost its finiteness is ever saved, so the last checkpoint stays a good one.
    """
    if steps < 0 or chunk < 1:
        raise RefigureError(f"a loop needs steps >= 0 and chunk >= 1, not steps={steps}, chunk={chunk}")
    arrays, fixed = eqx.partition(state, _is_array)
    arrays = jax.tree.map(_own, arrays)
    finite = {name for name, array in flatten_jax(arrays).items() if _is_finite(array)}
    advance = _compile(step, fixed)

    done = 0
    if (found := recorder.restore()) is not None:
        done, flat = found
        if done > steps:
            raise RefigureError(f"the checkpoint is at step {done}, beyond the {steps} steps asked for; delete it")
        arrays = unflatten_jax(arrays, flat)

    while done < steps:
        length = min(chunk - done % chunk, steps - done)
        arrays, stacked = advance(arrays, done, length)
        metrics = {name: np.asarray(values) for name, values in stacked.items()}
        if guard:
            _check_metrics(metrics, done, steps)
        done += length
        recorder.log(done, {name: _reduced(name, values, reduce) for name, values in metrics.items()})
        if recorder.due() or done == steps:
            flat = flatten_jax(arrays)
            if guard:
                _check_state(flat, finite, done)
            recorder.save(done, flat)
        recorder.progress(done, steps)
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


def _reduced(name: str, values: np.ndarray, how: str) -> float | list[float]:
    if values.ndim > 2:
        raise RefigureError(f"metric {name!r} has shape {values.shape[1:]} a step; give a scalar or a vector")
    return (values[-1] if how == "last" else values.mean(axis=0, dtype=np.float64)).tolist()


def _check_metrics(metrics: Mapping[str, np.ndarray], done: int, steps: int) -> None:
    first = [(tuple(bad[0]), name) for name, values in metrics.items() if len(bad := np.argwhere(~np.isfinite(values)))]
    if first:
        (offset, *member), name = min(first, key=lambda found: found[0][0])
        value = metrics[name][offset, *member]
        who = f", member {', '.join(map(str, member))}" if member else ""
        raise RefigureError(
            f"metric {name!r} is {value} at step {done + offset + 1} of {steps}{who}; training stopped and "
            f"the last good checkpoint was kept; lower the learning rate or clip gradients"
        )


def _check_state(flat: Mapping[str, np.ndarray], finite: set[str], done: int) -> None:
    for name in sorted(finite):
        if not _is_finite(flat[name]):
            raise RefigureError(
                f"state {name!r} is no longer finite by step {done}; training stopped and the last good "
                f"checkpoint was kept; lower the learning rate or clip gradients"
            )


def _is_finite(array: np.ndarray) -> bool:
    return not jnp.issubdtype(array.dtype, jnp.inexact) or bool(np.isfinite(array).all())


def _check_fixed(before: Any, after: Any) -> None:
    if not eqx.tree_equal(before, after):
        raise RefigureError(
            "step changed a part of the state that is no array (a Python number, say); make it a jax.Array"
        )
