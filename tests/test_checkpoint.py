"""Checkpoints under faults: whatever happens, a file is the old one, the new one, or refused."""

import builtins
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import RefigureError
from common.run.checkpoint import load, save
from common.train.loop import digest
from common.train.trees import flatten, flatten_jax, unflatten, unflatten_jax

ARRAYS = {
    "weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "half": np.array([1.5, -2, np.nan], np.float16),
    "mask": np.array([True, False]),
    "count": np.array(2**40, np.int64),
    "key": np.array([0, 2**32 - 1], np.uint32),
    "empty": np.zeros((0, 3), np.float16),
    "": np.array(-0.0),
    "big-endian": np.array([1, 2], ">i4"),
    "complex": np.array([1 + 2j], np.complex64),
}
META = {"key": "0123456789ab", "step": "7"}


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in second.items()}
    return digest(first) == digest(native)


def test_a_round_trip_keeps_bits_types_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "state.safetensors"
    save(path, ARRAYS, META)
    arrays, meta = load(path, expect={"key": META["key"]})
    assert equal(arrays, ARRAYS)
    assert meta == META
    assert all(array.flags.writeable for array in arrays.values())
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    save(path, arrays, meta)
    again = path.read_bytes()
    save(path, dict(reversed(arrays.items())), meta)
    assert path.read_bytes() == again  # the same content, the same bytes
    assert safetensors.numpy.load_file(path)["count"] == 2**40  # an ordinary file of its format


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", ARRAYS, META)
    with pytest.raises(RefigureError, match=r"belongs to another configuration .key is '0123456789ab'"):
        load(tmp_path / "a", expect={"key": "ba9876543210"})
    with pytest.raises(RefigureError, match="scale is None"):
        load(tmp_path / "a", expect={"scale": "cpu"})


@pytest.mark.parametrize("kind", [np.complex128, object, "U3", "datetime64[s]", ml_dtypes.bfloat16])
def test_types_that_the_format_lacks_are_named(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(RefigureError, match=r"array 'x' of type .* convert"):
        save(tmp_path / "a", {"x": np.zeros(2, kind)})
    assert not list(tmp_path.iterdir())


PAYLOAD_ARRAYS = {"a": np.arange(5, dtype=np.float32), "b": np.array([True]), "c": np.zeros((0, 2))}


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("damage") / "state"
    save(path, PAYLOAD_ARRAYS, META)
    return path, path.read_bytes()


def test_any_truncation_is_detected(victim: tuple[Path, bytes]) -> None:
    path, content = victim
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(RefigureError, match=r"cut short|does not match its checksum"):
            load(path)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_altered_byte_is_detected_or_harmless(victim: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = victim
    at = data.draw(st.integers(0, len(content) - 1), "position")
    flip = data.draw(st.integers(1, 255), "flip")
    path.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
    try:
        arrays, meta = load(path)
    except RefigureError as error:
        message = str(error)
    else:
        assert equal(arrays, PAYLOAD_ARRAYS)
        assert meta == META
        return
    assert str(path) in message
    assert "delete it" in message


def test_each_flipped_bit_of_the_data_is_detected(victim: tuple[Path, bytes]) -> None:
    path, content = victim
    start = 8 + struct.unpack("<Q", content[:8])[0]
    assert len(content) - start == 21
    for bit in range(8 * start, 8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(RefigureError, match="does not match its checksum"):
            load(path)


@settings(max_examples=100)
@given(content=st.binary(max_size=64))
def test_other_files_are_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "foreign"
    path.write_bytes(content)
    with pytest.raises(RefigureError, match="no checkpoint"):
        load(path)


def test_files_without_checksum_and_missing_files_are_refused(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "plain")
    with pytest.raises(RefigureError, match="no checkpoint of ours"):
        load(tmp_path / "plain")
    with pytest.raises(RefigureError, match="cannot read the checkpoint"):
        load(tmp_path / "absent")


def broken_open(fail: Callable[[], None], after: int) -> Callable[..., Any]:
    """`Path.open` of a disk that takes `after` bytes and then fails."""

    def open_(path: Path, mode: str = "r") -> Any:
        file = builtins.open(path, mode)  # noqa: SIM115
        if "w" in mode:
            write = file.write

            class Broken:
                def __enter__(self) -> "Broken":
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

                def write(self, content: bytes) -> None:
                    write(content[:after])
                    file.flush()
                    fail()

            return Broken()
        return file

    return open_


def raise_(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


FAULTS: dict[str, tuple[BaseException, type[BaseException], str | None]] = {
    "full": (OSError(errno.ENOSPC, "No space left"), RefigureError, "disk full.*what was there before is kept"),
    "quota": (OSError(errno.EDQUOT, "Quota exceeded"), RefigureError, "disk full"),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), RefigureError, "cannot write .*Read-only"),
    "Ctrl-C": (KeyboardInterrupt(), KeyboardInterrupt, None),
}


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_saving_leaves_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, stage: str
) -> None:
    error, expected, message = FAULTS[fault]
    path = tmp_path / "state"
    save(path, {"old": np.ones(3)}, META)
    with monkeypatch.context() as patch:
        if stage == "write":
            patch.setattr(Path, "open", broken_open(raise_(error), after=20))
        else:
            patch.setattr(os, stage, raise_(error))
        with pytest.raises(expected, match=message):
            save(path, ARRAYS, META)
    assert equal(load(path)[0], {"old": np.ones(3)})
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_leftover_of_a_killed_process_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".state.part").write_bytes(b"half a checkp")
    save(tmp_path / "state", ARRAYS)
    assert equal(load(tmp_path / "state")[0], ARRAYS)
    assert not (tmp_path / ".state.part").exists()


def torch_tree(fill: float) -> dict[str, Any]:
    return {
        "box": {"left": torch.full((2, 3), fill).T, "deep": {"count": torch.tensor(int(fill))}},
        "half": torch.full((2,), fill, dtype=torch.float16),
        "weight": torch.nn.Parameter(torch.full((2,), fill)),
        "none": {},
    }


def test_torch_state_round_trips_through_a_file(tmp_path: Path) -> None:
    save(tmp_path / "state", flatten(torch_tree(3.0)))
    like = torch_tree(0.0)
    tree = unflatten(like, load(tmp_path / "state")[0])
    assert torch.equal(tree["box"]["left"], torch.full((3, 2), 3.0))
    assert tree["box"]["deep"]["count"].item() == 3
    assert tree["half"].dtype == torch.float16
    assert tree["weight"].requires_grad
    assert tree["none"] == {}
    assert like["box"]["left"].sum() == 0  # the pattern is left alone
    assert flatten(tree).keys() == {"box/left", "box/deep/count", "half", "weight"}
    assert equal(flatten(tree), flatten(torch_tree(3.0)))


def test_a_flattened_state_is_a_snapshot() -> None:
    weight = torch.zeros(2)
    flat = flatten({"weight": weight})
    weight += 1
    assert not flat["weight"].any()


def test_jax_pytrees_round_trip_with_keys_and_functions(tmp_path: Path) -> None:
    def tree(seed: int) -> Any:
        model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(seed))
        adam = optax.adam(0.1).init(eqx.filter(model, eqx.is_array))
        keys = {"one": jax.random.key(seed), "many": jax.random.split(jax.random.key(seed, impl="rbg"), 3)}
        return {
            "model": model,
            "adam": adam,
            "keys": keys,
            "half": jnp.full(2, seed, jnp.float16),
            "n": seed,
        }

    save(tmp_path / "state", flatten_jax(tree(3)))
    back = unflatten_jax(tree(0), load(tmp_path / "state")[0])
    assert equal(flatten_jax(back), flatten_jax(tree(3)))
    assert jax.tree.structure(back) == jax.tree.structure(tree(3))
    assert back["model"].activation is tree(0)["model"].activation
    assert jax.random.bits(back["keys"]["one"]) == jax.random.bits(jax.random.key(3))
    assert jax.random.key_impl(back["keys"]["many"]) == jax.random.key_impl(tree(0)["keys"]["many"])
    assert back["n"] == 3
    assert "model/layers/0/weight" in flatten_jax(back)


@pytest.mark.parametrize(("to_flat", "from_flat", "zeros"), [
    (flatten, unflatten, torch.zeros), (flatten_jax, unflatten_jax, jnp.zeros)])  # fmt: skip
def test_mismatches_name_the_leaf(to_flat: Any, from_flat: Any, zeros: Any) -> None:
    flat = to_flat({"a": {"w": zeros(2)}, "b": zeros(3)})
    half = torch.zeros(2).half() if zeros is torch.zeros else jnp.zeros(2, jnp.float16)
    for like, message in [
        (
            {"a": {"w": zeros(4)}, "b": zeros(3)},
            r"'a/w' has shape \(2,\) in the checkpoint, \(4,\) in the model",
        ),
        ({"a": {"w": zeros(2)}, "c": zeros(3)}, "lacks 'c'"),
        ({"a": {"w": zeros(2)}}, "holds 'b', which"),
        ({}, "holds 'a/w' and 1 more"),
        ({"a": {"w": half}, "b": zeros(3)}, "'a/w' is float32 in the checkpoint, float16 in the model"),
    ]:
        with pytest.raises(RefigureError, match=message):
            from_flat(like, flat)
    with pytest.raises(RefigureError, match="both named 'a/b'"):
        to_flat({"a": {"b": zeros(1)}, "a/b": zeros(1)})


@pytest.mark.parametrize("leaf", [torch.nn.Linear(1, 1), 3, np.ones(2), [torch.ones(2)]])
def test_only_tensors_are_leaves(leaf: Any) -> None:
    with pytest.raises(RefigureError, match=r"'net/leaf' of type \w+ cannot go into a checkpoint; store tensors"):
        flatten({"net": {"leaf": leaf}})
