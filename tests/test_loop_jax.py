"""The compiled scan under the loop driver: a plain loop's numbers, an exact resume, members of a batch alone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from memory_recorder import Memory

from common.errors import RefigureError
from common.train.jax import batch_seeds, batch_step, scan_stages, scan_train, shard
from common.train.loop import digest
from common.train.seeding import jax_key, numpy_rng
from common.train.trees import flatten_jax

OPTIMISER = optax.adam(3e-2)
INPUTS = jnp.asarray(numpy_rng(0, "inputs").normal(size=(64, 2)), jnp.float32)


class State(NamedTuple):
    model: eqx.nn.MLP
    opt_state: Any
    key: jax.Array


def init(key: jax.Array) -> State:
    model = eqx.nn.MLP(2, 1, 8, 1, key=key)  # its activation function is a leaf that is no array
    return State(model, OPTIMISER.init(eqx.filter(model, eqx.is_array)), key)


def step(inputs: jax.Array, state: State, index: jax.Array) -> tuple[State, dict[str, jax.Array]]:
    batch = inputs[jax.random.randint(jax.random.fold_in(state.key, index), (16,), 0, len(inputs))]

    def loss_of(model: eqx.nn.MLP) -> jax.Array:
        return jnp.mean((jax.vmap(model)(batch)[:, 0] - batch[:, 0] * batch[:, 1]) ** 2)

    loss, gradients = eqx.filter_value_and_grad(loss_of)(state.model)
    updates, opt_state = OPTIMISER.update(gradients, state.opt_state)
    return State(eqx.apply_updates(state.model, updates), opt_state, state.key), {"loss": loss}


STEP = eqx.Partial(step, INPUTS)


def same(first: Any, second: Any) -> bool:
    return digest(flatten_jax(first)) == digest(flatten_jax(second))


def interrupted(train: Callable[[Memory], Any], at: int) -> Memory:
    """The recorder of a training that ended after so many steps, fit to go on with."""
    recorder = Memory(stop_at=at)
    with pytest.raises(KeyboardInterrupt):
        train(recorder)
    recorder.stop_at = None
    return recorder


def test_trains_as_a_plain_loop_does() -> None:
    recorder, start = Memory(), init(jax_key(0))
    trained = scan_train(STEP, start, steps=25, chunk=10, recorder=recorder)
    one_step = eqx.filter_jit(STEP)
    state, losses = start, []  # the caller's state outlives the training
    for index in range(25):
        state, metrics = one_step(state, jnp.int32(index))
        losses.append(float(metrics["loss"]))
    for name, array in flatten_jax(state).items():
        np.testing.assert_allclose(flatten_jax(trained)[name], array, rtol=1e-4, atol=1e-6)
    logged = {step: line["loss"] for step, line in recorder.lines}
    assert logged == pytest.approx(
        {10: np.mean(losses[:10]), 20: np.mean(losses[10:20]), 25: np.mean(losses[20:])}, rel=1e-4
    )
    assert trained.model.activation is start.model.activation


def test_interrupted_and_resumed_is_bit_identical() -> None:
    def train(recorder: Memory) -> Any:
        return scan_train(STEP, init(jax_key(1)), steps=23, chunk=10, recorder=recorder)

    whole = Memory()
    expected = train(whole)
    recorder = interrupted(train, 10)
    assert same(train(recorder), expected)
    assert (recorder.lines, recorder.states) == (whole.lines, whole.states)


def test_stages_share_the_state_and_are_made_when_they_begin() -> None:
    """Of a run that was interrupted in its second stage, the first is never made again."""
    made: list[str] = []

    def stage(name: str, rate: float) -> Callable[[], Any]:
        def move(state: jax.Array, index: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            return state + rate * index, {"state": state}

        return lambda: made.append(name) or move  # type: ignore[func-returns-value]

    def train(recorder: Memory) -> Any:
        return scan_stages(
            [(4, stage("first", 1.0)), (4, stage("empty", 0.0)), (9, stage("last", 10.0))],
            jnp.float32(0), chunk=3, recorder=recorder,
        )  # fmt: skip

    expected = sum(range(4)) + 10 * sum(range(4, 9))
    assert float(train(Memory())) == expected
    assert made == ["first", "last"]
    recorder = interrupted(train, 6)
    made.clear()
    assert float(train(recorder)) == expected
    assert made == ["last"]


def test_weak_types_and_shared_buffers_survive_a_resume() -> None:
    """A Python-born scalar is weakly typed; a target network starts as the online network's own buffer."""
    weights = jnp.linspace(0, 1, 64, dtype=jnp.bfloat16)
    start = {"rate": jnp.asarray(0.1), "online": weights, "target": weights, "host": np.float32(2)}

    def move(state: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        online = state["online"] + state["rate"] * index
        return {**state, "online": online.astype(jnp.bfloat16)}, {"sum": online.sum()}

    def train(recorder: Memory, start: Any = start) -> Any:
        return scan_train(move, start, steps=6, chunk=2, recorder=recorder)

    expected = train(Memory())
    assert same(train(interrupted(train, 4)), expected)
    assert same(train(Memory(), {**start, "rate": np.float32(0.1)}), expected)
    assert float(start["target"][-1]) == 1  # the caller's buffer was not consumed


def test_the_member_that_diverged_is_named() -> None:
    def count(state: jax.Array, index: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return state, {"loss": jnp.where((index == 3) & (state == 2), jnp.nan, state)}

    with pytest.raises(RefigureError, match="step 4 of 10, member 2"):
        scan_train(batch_step(count), jnp.arange(4.0), steps=10, chunk=10, recorder=Memory())


def test_seeds_trained_as_a_batch_equal_seeds_trained_alone() -> None:
    def train(seeds: list[int], recorder: Memory) -> dict[str, np.ndarray]:
        states = batch_seeds(init, seeds)
        return flatten_jax(scan_train(batch_step(STEP), states, steps=40, chunk=20, recorder=recorder))

    recorder = Memory()
    batch = train([0, 1, 2, 3], recorder)
    alone = scan_train(STEP, init(jax_key(3)), steps=40, chunk=20, recorder=Memory())
    for name, array in flatten_jax(alone).items():
        np.testing.assert_allclose(batch[name][3], array, rtol=1e-3, atol=1e-5)
    elsewhere = train([0, 7, 8, 9], Memory())
    assert all(np.array_equal(elsewhere[name][0], batch[name][0]) for name in batch)
    assert not np.array_equal(elsewhere["model/layers/0/weight"][1], batch["model/layers/0/weight"][1])
    assert [np.shape(line["loss"]) for _, line in recorder.lines] == [(4,), (4,)]


def test_a_part_of_the_state_that_is_no_array_is_fixed() -> None:
    with pytest.raises(RefigureError, match="no array"):
        scan_train(lambda s, i: ((s[0], s[1] + 1), {}), (jnp.ones(2), 0), steps=2, chunk=1, recorder=Memory())


def test_shard_is_the_identity_on_one_device() -> None:
    if jax.local_device_count() > 1:
        pytest.skip("several devices")
    tree = {"a": jnp.ones((4, 2))}
    assert shard(tree) is tree


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, pytest
from memory_recorder import Memory
from common.errors import RefigureError
from test_loop_jax import STEP, batch_seeds, batch_step, flatten_jax, init, interrupted, same, scan_train, shard

plain = batch_seeds(init, range(4))
split = shard(plain)
assert len(split.model.layers[0].weight.sharding.device_set) == 2
train = lambda recorder, states=split: scan_train(batch_step(STEP), states, steps=12, chunk=4, recorder=recorder)
alone, both = train(Memory(), plain), train(Memory())
weight = both.model.layers[0].weight
assert {shard.data.shape for shard in weight.addressable_shards} == {(2, 8, 2)}, weight.sharding
for name, array in flatten_jax(alone).items():
    np.testing.assert_allclose(flatten_jax(both)[name], array, rtol=1e-3, atol=1e-5)
assert same(train(interrupted(train, 4)), both)
with pytest.raises(RefigureError, match="length 3 cannot be split over 2"):
    shard({"a": jnp.ones(3), "scalar": jnp.ones(())})
"""


@pytest.mark.slow
def test_members_split_over_two_devices() -> None:
    tests = Path(__file__).resolve().parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
