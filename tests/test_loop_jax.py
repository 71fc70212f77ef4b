"""The scan-based trainer: resume is exact, bad states are never kept, members of a batch are alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recorders import FolderRecorder, Interrupt, InterruptedRecorder

from common.errors import RefigureError
from common.train.jax import batch_seeds, batch_step, scan_train, shard
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


def same(one: Any, other: Any) -> bool:
    a, b = flatten_jax(one), flatten_jax(other)
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_trains_as_a_plain_loop_does(tmp_path: Path) -> None:
    recorder = FolderRecorder(tmp_path)
    start = init(jax_key(0))
    trained = scan_train(STEP, start, steps=25, chunk=10, recorder=recorder)
    one_step = eqx.filter_jit(STEP)
    state, losses = start, []  # the caller's state outlives the training
    for index in range(25):
        state, metrics = one_step(state, jnp.int32(index))
        losses.append(float(metrics["loss"]))
    for name, array in flatten_jax(state).items():
        np.testing.assert_allclose(flatten_jax(trained)[name], array, rtol=1e-4, atol=1e-6)
    logged = {step: line["loss"] for step, line in recorder.metrics().items()}
    assert logged == pytest.approx(
        {10: np.mean(losses[:10]), 20: np.mean(losses[10:20]), 25: np.mean(losses[20:])}, rel=1e-4
    )
    assert trained.model.activation is start.model.activation


@pytest.mark.parametrize(
    ("steps", "chunk", "every", "fail_at"), [(43, 10, 2, 4), (30, 10, 1, 2), (21, 10, 1, 3), (7, 10, 1, 1)]
)
def test_interrupted_anywhere_and_resumed_is_bit_identical(
    tmp_path: Path, steps: int, chunk: int, every: int, fail_at: int
) -> None:
    settings = {"steps": steps, "chunk": chunk}
    whole = FolderRecorder(tmp_path / "whole", every=every)
    expected = scan_train(STEP, init(jax_key(1)), recorder=whole, **settings)
    broken = InterruptedRecorder(tmp_path / "broken", fail_at, every=every)
    with pytest.raises(Interrupt):
        scan_train(STEP, init(jax_key(1)), recorder=broken, **settings)
    resumed = FolderRecorder(tmp_path / "broken", every=every)
    assert same(scan_train(STEP, init(jax_key(1)), recorder=resumed, **settings), expected)
    assert resumed.metrics() == whole.metrics()


def test_a_finished_run_is_restored_without_a_step(tmp_path: Path) -> None:
    recorder = FolderRecorder(tmp_path)
    first = scan_train(STEP, init(jax_key(0)), steps=12, chunk=5, recorder=recorder)

    def forbidden(state: Any, index: Any) -> Any:
        raise AssertionError("a finished run trained again")

    assert same(scan_train(forbidden, init(jax_key(0)), steps=12, chunk=5, recorder=recorder), first)
    with pytest.raises(RefigureError, match="at step 12, beyond the 10 steps"):
        scan_train(STEP, init(jax_key(0)), steps=10, chunk=5, recorder=recorder)


def test_weak_types_and_shared_buffers_survive_a_resume(tmp_path: Path) -> None:
    """A Python-born scalar is weakly typed; a target network starts as the online network's own buffer."""
    weights = jnp.linspace(0, 1, 64, dtype=jnp.bfloat16)
    start = {"rate": jnp.asarray(0.1), "online": weights, "target": weights, "host": np.float32(2)}

    def move(state: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        online = state["online"] + state["rate"] * index
        return {**state, "online": online.astype(jnp.bfloat16)}, {"sum": online.sum()}

    expected = scan_train(move, start, steps=6, chunk=2, recorder=FolderRecorder(tmp_path / "a"))
    with pytest.raises(Interrupt):
        scan_train(move, start, steps=6, chunk=2, recorder=InterruptedRecorder(tmp_path / "b", 3))
    assert same(scan_train(move, start, steps=6, chunk=2, recorder=FolderRecorder(tmp_path / "b")), expected)
    firm = {**start, "rate": np.float32(0.1)}
    assert same(scan_train(move, firm, steps=6, chunk=2, recorder=FolderRecorder(tmp_path / "c")), expected)
    assert float(start["target"][-1]) == 1  # the caller's buffer was not consumed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_non_finite_step_is_named_and_the_last_good_state_kept(tmp_path: Path, bad: float) -> None:
    def count(state: jax.Array, index: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return state + 1, {"fine": state, "loss": jnp.where(index == 13, bad, 1.0)}

    recorder = FolderRecorder(tmp_path)
    with pytest.raises(RefigureError, match=r"'loss' is (nan|inf) at step 14 of 40"):
        scan_train(count, jnp.float32(0), steps=40, chunk=5, recorder=recorder)
    saved = recorder.restore()
    assert saved is not None
    assert (saved[0], saved[1]["value"]) == (10, 10)


def test_the_member_that_diverged_is_named(tmp_path: Path) -> None:
    def count(state: jax.Array, index: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return state, {"loss": jnp.where((index == 3) & (state == 2), jnp.nan, state)}

    with pytest.raises(RefigureError, match="step 4 of 10, member 2"):
        scan_train(batch_step(count), jnp.arange(4.0), steps=10, chunk=10, recorder=FolderRecorder(tmp_path))


def test_a_state_gone_bad_after_a_finite_metric_is_not_saved(tmp_path: Path) -> None:
    """The loss of a step is computed before its update: the update may be what breaks the state."""

    def break_at_ten(state: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        weights = jnp.where(index == 9, jnp.nan, state["weights"])
        return {**state, "weights": weights}, {"loss": state["weights"].sum()}

    start = {
        "weights": jnp.ones(3),
        "best": jnp.float32(jnp.inf),
    }  # an infinity that means something may stay
    recorder = FolderRecorder(tmp_path)
    with pytest.raises(RefigureError, match="'weights' is no longer finite by step 10"):
        scan_train(break_at_ten, start, steps=20, chunk=5, recorder=recorder)
    saved = recorder.restore()
    assert saved is not None
    assert saved[0] == 5


def test_without_guard_divergence_is_data(tmp_path: Path) -> None:
    def count(state: jax.Array, index: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return state * jnp.nan, {"index": index}

    end = scan_train(
        count, jnp.ones(2), steps=4, chunk=3, recorder=FolderRecorder(tmp_path), guard=False, reduce="last"
    )
    assert np.isnan(end).all()
    assert FolderRecorder(tmp_path).metrics() == {3: {"index": 2}, 4: {"index": 3}}


def test_seeds_trained_as_a_batch_equal_seeds_trained_alone(tmp_path: Path) -> None:
    seeds = [0, 1, 2, 3]

    def train(seeds: list[int], name: str) -> Any:
        recorder = FolderRecorder(tmp_path / name)
        return scan_train(batch_step(STEP), batch_seeds(init, seeds), steps=40, chunk=20, recorder=recorder)

    batch = flatten_jax(train(seeds, "batch"))
    for member, seed in [(0, 0), (3, 3)]:
        alone = scan_train(STEP, init(jax_key(seed)), steps=40, chunk=20, recorder=FolderRecorder(tmp_path / f"{seed}"))
        for name, array in flatten_jax(alone).items():
            np.testing.assert_allclose(batch[name][member], array, rtol=1e-3, atol=1e-5)
    others = flatten_jax(train([0, 7, 8, 9], "others"))
    assert all(np.array_equal(others[name][0], batch[name][0]) for name in batch)
    assert not np.array_equal(others["model/layers/0/weight"][1], batch["model/layers/0/weight"][1])
    losses = FolderRecorder(tmp_path / "batch").metrics()[40]["loss"]
    assert isinstance(losses, list)
    assert len(losses) == 4


def test_mistakes_are_explained(tmp_path: Path) -> None:
    recorder = FolderRecorder(tmp_path)
    with pytest.raises(RefigureError, match="no array"):
        scan_train(lambda s, i: ((s[0], s[1] + 1), {}), (jnp.ones(2), 0), steps=2, chunk=1, recorder=recorder)
    with pytest.raises(RefigureError, match="metric 'm' has shape"):
        scan_train(lambda s, i: (s, {"m": s}), jnp.ones((2, 2)), steps=2, chunk=1, recorder=recorder)
    with pytest.raises(RefigureError, match="chunk >= 1"):
        scan_train(STEP, init(jax_key(0)), steps=2, chunk=0, recorder=recorder)


def test_shard_is_the_identity_on_one_device() -> None:
    if jax.local_device_count() > 1:
        pytest.skip("several devices")
    tree = {"a": jnp.ones((4, 2))}
    assert shard(tree) is tree


def run_script(source: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), str(root / "tests")])
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


KILLED = """
import os, sys
from pathlib import Path
from recorders import FolderRecorder
from test_loop_jax import STEP, init, jax_key, scan_train

class Killer(FolderRecorder):
    def save(self, step, state):
        if step == int(sys.argv[2]):
            os._exit(9)
        super().save(step, state)

scan_train(STEP, init(jax_key(5)), steps=20, chunk=5, recorder=Killer(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_killed_and_run_again_ends_the_same(tmp_path: Path) -> None:
    broken = run_script(KILLED, str(tmp_path / "broken"), "15")
    assert broken.returncode == 9, broken.stderr
    again = run_script(KILLED, str(tmp_path / "broken"), "-1")
    assert again.returncode == 0, again.stderr
    scan_train(STEP, init(jax_key(5)), steps=20, chunk=5, recorder=FolderRecorder(tmp_path / "whole"))
    one, other = (tmp_path / name / "state.safetensors" for name in ("broken", "whole"))
    assert one.read_bytes() == other.read_bytes()
    assert FolderRecorder(one.parent).metrics() == FolderRecorder(other.parent).metrics()


SHARDED = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, pytest
from recorders import FolderRecorder, Interrupt, InterruptedRecorder
from common.errors import RefigureError
from test_loop_jax import STEP, batch_seeds, batch_step, flatten_jax, init, same, scan_train, shard

folder = Path(sys.argv[1])
plain = batch_seeds(init, range(4))
split = shard(plain)
assert len(split.model.layers[0].weight.sharding.device_set) == 2
settings = {"steps": 12, "chunk": 4}
one = scan_train(batch_step(STEP), plain, recorder=FolderRecorder(folder / "one"), **settings)
two = scan_train(batch_step(STEP), split, recorder=FolderRecorder(folder / "two"), **settings)
weight = two.model.layers[0].weight
assert {shard.data.shape for shard in weight.addressable_shards} == {(2, 8, 2)}, weight.sharding
for name, array in flatten_jax(one).items():
    np.testing.assert_allclose(flatten_jax(two)[name], array, rtol=1e-3, atol=1e-5)
with pytest.raises(Interrupt):
    scan_train(batch_step(STEP), split, recorder=InterruptedRecorder(folder / "again", 2), **settings)
again = scan_train(batch_step(STEP), split, recorder=FolderRecorder(folder / "again"), **settings)
assert same(again, two)
with pytest.raises(RefigureError, match="length 3 cannot be split over 2"):
    shard({"a": jnp.ones(3), "scalar": jnp.ones(())})
"""


@pytest.mark.slow
def test_members_split_over_two_devices(tmp_path: Path) -> None:
    flags = "--xla_force_host_platform_device_count=2"
    done = run_script(SHARDED, str(tmp_path), XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
