"""How a run computes: threads, determinism, precision, device, memory; and what the machine is, for provenance.

`RUNTIME` and `settle`, which applies it, are part of every run's key. Frameworks are configured if they are imported:
`settle` is called before an experiment is imported, for what is read at import, and once more after it.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import threadpoolctl

from common.errors import RefigureError, suggest

__all__ = [
    "RUNTIME", "choose_device", "describe", "device_name", "keep_compiled", "peak_memory", "reuse_memory", "settle",
]  # fmt: skip

RUNTIME: dict[str, Any] = {
    "threads": ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"),
    "determinism": {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "XLA_FLAGS": "--xla_gpu_deterministic_ops=true"},
    "precision": {
        "fp32": {"torch": "highest", "jax": "highest", "cudnn_tf32": False},
        "tf32": {"torch": "high", "jax": "tensorfloat32", "cudnn_tf32": True},
        "bf16": {"torch": "medium", "jax": "bfloat16", "cudnn_tf32": True},
    },
}
"""Environment variables that hold the number of CPU threads; those that make CUDA libraries repeat themselves; and by
declared precision how float32 matrix products and convolutions are computed (storage stays float32)."""

VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES", "")
"""The GPUs that this process may see, before one of them is chosen."""


def settle(threads: int, precision: str = "fp32") -> dict[str, Any]:
    """Compute with so many CPU threads, repeatably, at a precision; returns what was set, for provenance.

    XLA and CUDA libraries read the environment when they start. On CUDA, PyTorch then raises for an operation that has
    no deterministic kernel.
    """
    if precision not in RUNTIME["precision"]:
        raise RefigureError(f"unknown precision {precision!r}; {suggest(precision, RUNTIME['precision'])}")
    chosen = RUNTIME["precision"][precision]
    os.environ.update(dict.fromkeys(RUNTIME["threads"], str(threads)))
    for name, value in RUNTIME["determinism"].items():
        present = os.environ.get(name, "")
        os.environ[name] = present if value in present else f"{present} {value}".strip()
    threadpoolctl.threadpool_limits(threads)
    record: dict[str, Any] = {
        "threads": {"environment": threads},
        "determinism": {name: os.environ[name] for name in RUNTIME["determinism"]},
        "precision": {"precision": precision},
    }
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = chosen["cudnn_tf32"]
        torch.set_float32_matmul_precision(chosen["torch"])
        record["threads"]["torch"] = torch.get_num_threads()
        record["determinism"]["torch"] = torch.are_deterministic_algorithms_enabled()
        record["precision"]["torch"] = torch.get_float32_matmul_precision()
    if (jax := sys.modules.get("jax")) is not None:
        jax.config.update("jax_default_matmul_precision", chosen["jax"])
        record["precision"]["jax"] = chosen["jax"]
    return record


def choose_device() -> None:
    """Let the environment say what `REFIGURE_DEVICE` asks for, for the frameworks imported after this.

    JAX gets only the memory that it uses, so that several runs can share a GPU. Without a wish both frameworks take
    the first GPU that they see, else the CPU.

    Raises:
        RefigureError: The name is no device.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    kind, index = _wish()
    if kind == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif kind == "cuda":
        visible = VISIBLE.split(",") if VISIBLE else [str(number) for number in range(index + 1)]
        if index >= len(visible):
            raise RefigureError(f"REFIGURE_DEVICE asks for GPU {index}, which CUDA_VISIBLE_DEVICES={VISIBLE} hides")
        os.environ["CUDA_VISIBLE_DEVICES"] = VISIBLE if VISIBLE and not index else visible[index]


def device_name() -> str:
    """Where the imported frameworks compute, in words.

    Raises:
        RefigureError: `REFIGURE_DEVICE` asks for a GPU that a framework does not see.
    """
    for framework, gpus in _gpus().items():
        if _wish()[0] == "cuda" and not gpus:
            raise RefigureError(
                f"device {os.environ['REFIGURE_DEVICE']} was asked for, but {framework} does not see it; set "
                "REFIGURE_DEVICE to cpu or to a device that is there"
            )
    return " and ".join(dict.fromkeys(gpus[0] if gpus else "cpu" for gpus in _gpus().values())) or "cpu"


def _gpus() -> dict[str, list[str]]:
    """The names of the GPUs that each of the imported frameworks sees."""
    gpus = {}
    if (jax := sys.modules.get("jax")) is not None:
        gpus["JAX"] = [str(device.device_kind) for device in jax.local_devices() if device.platform != "cpu"]
    if (torch := sys.modules.get("torch")) is not None:
        gpus["PyTorch"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return gpus


def _wish() -> tuple[Literal["", "cpu", "cuda"], int]:
    """What `REFIGURE_DEVICE` asks for: kind and index."""
    name = os.environ.get("REFIGURE_DEVICE", "").strip().lower()
    match = re.fullmatch(r"(cpu)|(?:cuda|gpu)(?::(\d+))?|", name)
    if match is None:
        raise RefigureError(
            f"unknown device {name!r} (REFIGURE_DEVICE); {suggest(name, ['cpu', 'cuda', 'cuda:1', 'gpu'])}"
        )
    if not name:
        return "", 0
    return ("cpu", 0) if match[1] else ("cuda", int(match[2] or 0))


def keep_compiled(cache: Path) -> None:
    """Have JAX keep in a cache folder what it compiles, so that a like run starts at once.

    To be called before JAX is imported; where `JAX_COMPILATION_CACHE_DIR` is set, that holds. Machines with the same
    instructions share what is kept. A folder that cannot be written is left alone, and nothing is kept.
    """
    instructions = f"{platform.machine()} {_cpu_info('model name')} {_cpu_info('flags|Features')}"
    folder = cache / "compiled" / hashlib.sha256(instructions.encode()).hexdigest()[:12]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def reuse_memory() -> None:
    """Have the process keep the memory of arrays that it frees, for the next ones.

    glibc gives that of large arrays back to the kernel, which hands it out again page by page, each cleared: a tenth to
    a fifth of the time of some training steps in PyTorch. Other C libraries are left alone, and so is a glibc that the
    environment tells what to do (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    trim_threshold, mmap_threshold = -1, -3  # parameters of mallopt(3)
    largest, largest_before_2_35 = 1 << 30, 1 << 25
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # The second parameter ends glibc's own adapting of the first, so it is set only where that was taken.
        if mallopt(mmap_threshold, largest) or mallopt(mmap_threshold, largest_before_2_35):
            mallopt(trim_threshold, largest)


def peak_memory(place: Literal["host", "device"] = "host") -> int:
    """The largest memory in use so far, in bytes: resident in this process, or on its first GPU (else 0).

    On the GPU the sum of what PyTorch's and JAX's allocators handed out at most, for those that are imported.
    """
    if place == "host":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    total = 0
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        total += torch.cuda.max_memory_allocated()
    if jax is not None and jax.default_backend() == "gpu":
        total += (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return total


def describe() -> dict[str, Any]:
    """The hardware and the imported frameworks, ready for JSON. Memory in bytes.

    Keys: system, cpu, cores, memory, gpus (a list of names), python, versions (name to version).
    """
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1,
        "memory": psutil.virtual_memory().total,
        "gpus": max(_gpus().values(), key=len, default=[]),
        "python": platform.python_version(),
        "versions": {
            name: getattr(sys.modules[name], "__version__", None) or metadata.version(name)  # PyTorch's tells its build
            for name in ("numpy", "scipy", "torch", "jax", "jaxlib", "optax", "equinox", "safetensors")
            if name in sys.modules
        },
    }


def _cpu_info(names: str) -> str:
    """The first line of /proc/cpuinfo of one of some names; empty where there is none."""
    with contextlib.suppress(OSError):
        line = re.search(rf"^(?:{names})\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return line[1].strip() if line else ""
    return ""
