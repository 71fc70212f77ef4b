"""Streams depend on seed and purpose alone; the device layer says what is there and sets what is asked."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common import timing
from common.errors import RefigureError
from common.run import device
from common.train.seeding import deterministic, jax_key, numpy_rng, torch_generator

PARTS = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=4)), max_size=3).map(tuple)

STREAMS: dict[str, Callable[..., np.ndarray]] = {
    "numpy": lambda *names: numpy_rng(*names).random(50_000),
    "torch": lambda *names: torch.rand(50_000, generator=torch_generator(*names), dtype=torch.double).numpy(),
    "jax": lambda *names: np.asarray(jax.random.uniform(jax_key(*names), (50_000,))),
}


@given(one=st.tuples(st.integers(0, 5), PARTS), other=st.tuples(st.integers(0, 5), PARTS))
def test_different_purposes_are_different_streams(one: tuple, other: tuple) -> None:
    a, b = (numpy_rng(seed, *purpose).integers(2**63) for seed, purpose in (one, other))
    assert (a == b) == (one == other)


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_are_uniform_repeatable_and_uncorrelated(stream: str) -> None:
    draw = STREAMS[stream]
    names = [(0,), (1,), (0, "data"), (0, "data", 0), (0, "data", 1), (0, "data", "1"), (0, 1, "data")]
    samples = np.stack([draw(*name) for name in names])
    assert np.array_equal(samples[4], draw(0, "data", np.int64(1)))  # NumPy's integers are integers
    assert np.abs(samples.mean(axis=1) - 0.5).max() < 5 * 12**-0.5 / 50_000**0.5
    assert np.abs(np.corrcoef(samples) - np.eye(len(names))).max() < 5 / 50_000**0.5


def test_streams_never_change() -> None:
    """Published numbers rest on these values: a change of the derivation must be noticed."""
    assert numpy_rng(0, "data", 3).bit_generator.random_raw() == 18354679117806634936
    assert torch_generator(0, "data", 3).initial_seed() == 6128096781325343024
    assert jax.random.key_data(jax_key(0, "data", 3)).tolist() == [4030280289, 2853617435]


def test_keys_follow_jaxs_default_implementation() -> None:
    with jax.default_prng_impl("rbg"):
        key = jax_key(3, "init")
    assert jax.random.key_impl(key) == jax.random.key_impl(jax.random.key(0, impl="rbg"))
    assert len(set(jax.random.key_data(key).tolist())) == 4


@pytest.mark.parametrize("purpose", [0.5, None, b"data"])
def test_purposes_are_strings_and_integers(purpose: object) -> None:
    with pytest.raises(TypeError):
        numpy_rng(0, purpose)  # type: ignore[arg-type]


@pytest.fixture
def _restored() -> Iterator[None]:
    before = dict(os.environ)
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    algorithms, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    matmul = jax.config.jax_default_matmul_precision
    yield
    os.environ.clear()
    os.environ.update(before)
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(algorithms)
    torch.backends.cudnn.benchmark = benchmark
    jax.config.update("jax_default_matmul_precision", matmul)


@pytest.mark.usefixtures("_restored")
def test_deterministic_sets_and_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    done = deterministic()
    assert deterministic() == done
    assert done["torch"] is True
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_gpu_deterministic_ops=true",
    ]


@pytest.mark.parametrize(("name", "expected"), [
    ("", None), ("cpu", ("cpu", 0)), (" CUDA ", ("cuda", 0)), ("gpu", ("cuda", 0)), ("cuda:1", ("cuda", 1)),
    ("gpu:3", ("cuda", 3))])  # fmt: skip
def test_device_names(name: str, expected: tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFIGURE_DEVICE", name)
    assert device.requested() == expected == device.requested(name)


@pytest.mark.parametrize("name", ["cude", "tpu", "cuda:", "cuda:x", "cpu:1"])
def test_unknown_devices_are_refused(name: str) -> None:
    for pick in (device.requested, device.torch_device, device.jax_device):
        with pytest.raises(RefigureError, match=r"unknown device .* Known: cpu, cuda, cuda:1, gpu"):
            pick(name)


def test_absent_devices_are_refused_with_what_there_is() -> None:
    for pick in (device.torch_device, device.jax_device):
        with pytest.raises(RefigureError, match=r"cuda:99 was asked .* one of: cpu"):
            pick("cuda:99")


def test_the_cpu_can_always_be_had() -> None:
    assert device.torch_device("cpu") == torch.device("cpu")
    assert device.jax_device("cpu").platform == "cpu"


def test_description_is_json_and_true() -> None:
    found = json.loads(json.dumps(device.describe()))
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["jax"] == jax.__version__
    assert found["cpu"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["memory"] > 2**28


def test_nothing_is_imported_for_nothing() -> None:
    """A paper in one framework must not pay for the other."""
    source = (
        "import sys; from common import device, seeding, checkpoint, timing, trees; device.describe(); "
        "device.set_threads(1); device.set_precision('fp32'); device.peak_memory(); seeding.deterministic(); "
        "trees.flatten({'a': 1.0}); seeding.numpy_rng(0); device.peak_memory('device'); "
        "timing.measure(int); assert not {'jax', 'torch'} & sys.modules.keys()"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", source], cwd=root, check=True, timeout=60)


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(
    ("name", "of_torch", "of_jax"),
    [("fp32", "highest", "highest"), ("tf32", "high", "tensorfloat32"), ("bf16", "medium", "bfloat16")],
)
def test_precision(name: device.Precision, of_torch: str, of_jax: str) -> None:
    assert device.set_precision(name) == {"precision": name, "torch": of_torch, "jax": of_jax}
    assert torch.get_float32_matmul_precision() == of_torch
    assert jax.config.jax_default_matmul_precision == of_jax


@pytest.mark.usefixtures("_restored")
def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(RefigureError, match="did you mean 'fp32'"):
        device.set_precision("fp23")  # type: ignore[arg-type]
    with pytest.raises(RefigureError, match="at least 1"):
        device.set_threads(0)


@pytest.mark.usefixtures("_restored")
def test_threads() -> None:
    assert device.set_threads(1) == {"environment": 1, "torch": 1}
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == os.environ["NPROC"] == "1"


def test_compiled_programs_are_kept_for_later_processes(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from common.run.device import keep_compiled
keep_compiled(Path(sys.argv[1]))
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
print(jax.jit(lambda x: x * 2 + 1)(3.0), "/jax/compilation_cache/cache_hits" in events)
"""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}

    def run(**more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], env=environment | more, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own")) == "7.0 False"
    assert not list((tmp_path / "compiled").rglob("*-cache"))
    assert [run(), run()] == ["7.0 False", "7.0 True"]
    assert len(list((tmp_path / "compiled").iterdir())) == 1


def test_nothing_is_kept_where_nothing_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "file").touch()
    device.keep_compiled(tmp_path / "file")
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_peak_memory_sees_an_allocation_and_never_falls() -> None:
    before = device.peak_memory()
    block = np.ones(30 << 20, np.uint8)
    during = device.peak_memory()
    assert during >= before
    assert during > block.nbytes
    del block
    assert device.peak_memory() >= during
    assert device.peak_memory("device") >= 0


def test_calibration_is_brief_and_plausible() -> None:
    start = time.perf_counter()
    speed = device.calibrate()
    assert 0.1 < speed < 1e6
    assert time.perf_counter() - start < 3  # 0.15 s on a machine that is not crowded


def test_timing_counts_compilation_once_and_waits() -> None:
    calls: list[int] = []

    def run() -> jax.Array:
        calls.append(1)
        time.sleep(0.05 if len(calls) == 1 else 0.01)
        return jax.numpy.ones(3)

    found = timing.measure(run, repeats=5, warm_up=2)
    assert len(calls) == 7
    assert found.first >= 0.05
    assert found.median >= 0.01
    assert found.cpu_median >= 0
    assert found.spread >= 0
