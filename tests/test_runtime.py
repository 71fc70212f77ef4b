"""How a run computes: what is declared is set and reported, and nothing is imported for it."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import threadpoolctl
import torch

from common.errors import RefigureError
from common.run import runtime

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def _restored() -> Iterator[None]:
    before, matmul = dict(os.environ), jax.config.jax_default_matmul_precision
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    algorithms, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn
    benchmark, tf32 = cudnn.benchmark, cudnn.allow_tf32
    yield
    os.environ.clear()
    os.environ.update(before)
    threadpoolctl.threadpool_limits(threads)
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(algorithms)
    cudnn.benchmark, cudnn.allow_tf32 = benchmark, tf32
    jax.config.update("jax_default_matmul_precision", matmul)


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(
    ("precision", "of_torch", "of_jax", "tf32"),
    [
        ("fp32", "highest", "highest", False),
        ("tf32", "high", "tensorfloat32", True),
        ("bf16", "medium", "bfloat16", True),
    ],
)
def test_what_is_declared_is_set_and_reported(
    monkeypatch: pytest.MonkeyPatch, precision: str, of_torch: str, of_jax: str, tf32: bool
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for _ in range(2):  # before the experiment is imported, and after it
        record = json.loads(json.dumps(runtime.settle(1, precision)))
    assert record["threads"] == {"environment": 1, "torch": 1}
    assert os.environ["OMP_NUM_THREADS"] == os.environ["NPROC"] == "1"
    assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} <= {1}
    assert torch.get_num_threads() == 1
    assert record["precision"] == {"precision": precision, "torch": of_torch, "jax": of_jax}
    assert torch.get_float32_matmul_precision() == of_torch
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert jax.config.jax_default_matmul_precision == of_jax
    assert record["determinism"]["torch"] is torch.are_deterministic_algorithms_enabled() is True
    assert torch.backends.cudnn.benchmark is False
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_an_unknown_precision_offers_the_nearest() -> None:
    with pytest.raises(RefigureError, match="did you mean 'fp32'"):
        runtime.settle(1, "fp23")


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", {}),
        ("cpu", {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}),
        (" CUDA ", {"CUDA_VISIBLE_DEVICES": "0"}),
        ("gpu:3", {"CUDA_VISIBLE_DEVICES": "3"}),
    ],
)
def test_the_environment_says_which_device(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: dict[str, str]
) -> None:
    for variable in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("REFIGURE_DEVICE", name)
    runtime.choose_device()
    present = {key: os.environ[key] for key in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES") if key in os.environ}
    assert present == expected


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(("name", "expected"), [("", "4,7"), ("cuda", "4,7"), ("cuda:1", "7"), ("cpu", "")])
def test_a_device_is_one_of_the_visible_ones(monkeypatch: pytest.MonkeyPatch, name: str, expected: str) -> None:
    monkeypatch.setattr(runtime, "VISIBLE", "4,7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("REFIGURE_DEVICE", name)
    for _ in range(2):  # each run of a process chooses again
        runtime.choose_device()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    monkeypatch.setenv("REFIGURE_DEVICE", "cuda:2")
    with pytest.raises(RefigureError, match="asks for GPU 2, which CUDA_VISIBLE_DEVICES=4,7 hides"):
        runtime.choose_device()


@pytest.mark.parametrize("name", ["cude", "tpu", "cuda:", "cuda:x", "cpu:1"])
def test_unknown_devices_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("REFIGURE_DEVICE", name)
    for use in (runtime.choose_device, runtime.device_name):
        with pytest.raises(RefigureError, match=r"unknown device .* Known: cpu, cuda, cuda:1, gpu"):
            use()


def test_a_device_that_is_not_seen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="cpu")])
    assert runtime.device_name() == "cpu"
    monkeypatch.setenv("REFIGURE_DEVICE", "cuda:1")
    with pytest.raises(RefigureError, match=r"cuda:1 was asked for, but JAX does not see it"):
        runtime.device_name()
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="gpu", device_kind="Big One")])
    with pytest.raises(RefigureError, match="PyTorch does not see it"):
        runtime.device_name()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Big One")
    assert runtime.device_name() == "Big One"


def test_the_description_is_json_and_true() -> None:
    machine = json.loads(json.dumps(runtime.describe()))
    assert machine["versions"]["torch"] == torch.__version__
    assert machine["versions"]["jax"] == jax.__version__
    assert machine["cpu"]
    assert 1 <= machine["cores"] <= (os.cpu_count() or 1)
    assert machine["memory"] > 2**28


def test_a_paper_in_one_framework_does_not_import_the_other() -> None:
    source = """
import sys
from common.run import checkpoint, command, runtime
from common.train import loop, seeding, trees
runtime.settle(1), runtime.choose_device(), runtime.device_name(), runtime.reuse_memory(), runtime.describe()
runtime.peak_memory("device"), seeding.numpy_rng(0)
assert not {"jax", "torch"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=True)


def test_compiled_programs_are_kept_for_later_processes(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from common.run.runtime import keep_compiled
keep_compiled(Path(sys.argv[1]))
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
print(jax.jit(lambda x: x * 2 + 1)(3.0), "/jax/compilation_cache/cache_hits" in events)
"""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}

    def run(**more: str) -> str:
        words = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(words, cwd=ROOT, env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own")) == "7.0 False"
    assert not list((tmp_path / "compiled").rglob("*-cache"))
    assert [run(), run()] == ["7.0 False", "7.0 True"]
    assert len(list((tmp_path / "compiled").iterdir())) == 1


def test_nothing_is_kept_where_nothing_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "file").touch()
    runtime.keep_compiled(tmp_path / "file")
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_peak_memory_sees_an_allocation_and_never_falls() -> None:
    before = runtime.peak_memory()
    block = np.ones(30 << 20, np.uint8)
    during = runtime.peak_memory()
    assert during >= max(before, block.nbytes)
    del block
    assert runtime.peak_memory() >= during
    assert runtime.peak_memory("device") >= 0


# Memory that was freed stays with the process: what glibc is told.


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What a C library was told, one that takes thresholds for mapped memory up to 32 MiB, as glibc did before 2.35."""
    calls: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        calls.append((parameter, value))
        return int(parameter != -3 or value <= 1 << 25)

    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    return calls


def test_the_largest_thresholds_that_are_taken_are_set(told: list[tuple[int, int]]) -> None:
    runtime.reuse_memory()
    assert told == [(-3, 1 << 30), (-3, 1 << 25), (-1, 1 << 30)]


def test_without_the_first_threshold_the_second_is_left_alone(
    told: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *words: told.append(words)))
    runtime.reuse_memory()
    assert [parameter for parameter, _ in told] == [-3, -3]


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_environment_has_the_last_word(
    told: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    runtime.reuse_memory()
    assert told == []


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch, told: list[tuple[int, int]]) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # musl has no mallopt
    runtime.reuse_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("looked for glibc"))
    runtime.reuse_memory()
