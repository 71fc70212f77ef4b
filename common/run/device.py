"""The machine a run sits on, in one vocabulary for PyTorch and JAX: device, threads, precision, memory.

Frameworks are used where a caller asks for one by name and otherwise only if they are already imported.
"""

import contextlib
import hashlib
import os
import platform
import re
import resource
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from common.errors import RefigureError, suggest

if TYPE_CHECKING:
    import jax
    import torch

__all__ = [
    "calibrate",
    "choose_device",
    "cores",
    "describe",
    "device_name",
    "jax_device",
    "keep_compiled",
    "peak_memory",
    "requested",
    "set_precision",
    "set_threads",
    "torch_device",
]

Precision = Literal["fp32", "tf32", "bf16"]

MATMUL = {"fp32": ("highest", "highest"), "tf32": ("high", "tensorfloat32"), "bf16": ("medium", "bfloat16")}
"""Precision to PyTorch's and JAX's names for how float32 matrix products are computed."""


def requested(name: str | None = None) -> tuple[str, int] | None:
    """What `name` (default: the environment's `REFIGURE_DEVICE`) asks for: ("cpu" or "cuda", index), or None.

    None (unset or empty) means: CUDA where the framework sees it, else the CPU. Raises RefigureError for a
    name other than cpu, cuda, gpu (the same as cuda) and cuda:<index>.
    """
    name = os.environ.get("REFIGURE_DEVICE", "") if name is None else name
    if not name:
        return None
    match = re.fullmatch(r"(cpu)|(?:cuda|gpu)(?::(\d+))?", name.strip().lower())
    if match is None:
        raise RefigureError(
            f"unknown device {name!r} (REFIGURE_DEVICE); {suggest(name, ['cpu', 'cuda', 'cuda:1', 'gpu'])}"
        )
    return ("cpu", 0) if match[1] else ("cuda", int(match[2] or 0))


def torch_device(name: str | None = None) -> "torch.device":
    """The PyTorch device that `requested(name)` means. Raises RefigureError where PyTorch does not see it."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, index = requested(name) or ("cuda" if count else "cpu", 0)
    _check(kind, index, count, "PyTorch")
    return torch.device(kind, index) if kind == "cuda" else torch.device("cpu")


def jax_device(name: str | None = None) -> "jax.Device":
    """The JAX device that `requested(name)` means; use it as `with jax.default_device(jax_device()):`.

    Raises RefigureError where JAX does not see it.
    """
    import jax

    gpus: list[Any] = []
    wish = requested(name)
    if wish is None or wish[0] == "cuda":  # asking for the CPU must not start CUDA
        with contextlib.suppress(RuntimeError):
            gpus = jax.local_devices(backend="gpu")
    kind, index = wish or ("cuda" if gpus else "cpu", 0)
    _check(kind, index, len(gpus), "JAX")
    return gpus[index] if kind == "cuda" else jax.local_devices(backend="cpu")[0]


def choose_device() -> None:
    """Let the environment say what `REFIGURE_DEVICE` asks for, for the frameworks imported after this.

    JAX gets only the memory that it uses, so that several runs can share a GPU. Raises RefigureError for a name
    that is no device.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    wish = requested()
    if wish is not None and wish[0] == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif wish is not None:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(wish[1]))


def device_name() -> str:
    """Where the imported frameworks compute, in words. Raises RefigureError where that is not what was asked for."""
    names = []
    if "jax" in sys.modules:
        names.append(str(jax_device(_first_visible()).device_kind))
    if (torch := sys.modules.get("torch")) is not None:
        device = torch_device(_first_visible())
        names.append(torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu")
    return " and ".join(dict.fromkeys(names)) or "cpu"


def _first_visible() -> str | None:
    """`REFIGURE_DEVICE` after `choose_device` left one GPU visible, which then has the index 0."""
    wish = requested()
    return None if wish is None else wish[0]


def cores() -> int:
    """CPU cores this process may use: its affinity, and its container's quota if smaller. At least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit ("max")
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def describe() -> dict[str, Any]:
    """The hardware and the imported frameworks, ready for JSON. Memory in bytes.

    Keys: system, cpu, cores, memory, gpus (a list of name and memory), python, versions (name to version).
    """
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory": _host_memory(),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "versions": {
            name: metadata.version(name)
            for name in ("numpy", "scipy", "torch", "jax", "jaxlib", "optax", "equinox", "safetensors")
            if name in sys.modules
        },
    }


def set_threads(count: int) -> dict[str, Any]:
    """Let each framework compute with `count` CPU threads; returns what was set, for provenance.

    PyTorch follows at once. NumPy's BLAS reads the environment when it is imported and XLA (`NPROC`) when JAX
    makes its first array: for those, call this before. XLA cannot be changed afterwards, and its loops over
    small operations use about one thread whatever this says; a command's children inherit the setting.
    """
    if count < 1:
        raise RefigureError(f"threads must be at least 1, not {count}")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
        os.environ[variable] = str(count)
    done: dict[str, Any] = {"environment": count}
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)
        done["torch"] = torch.get_num_threads()
    return done


def keep_compiled(cache: Path) -> None:
    """Have JAX keep in a cache folder what it compiles, so that a like run starts at once.

    To be called before JAX is imported; where `JAX_COMPILATION_CACHE_DIR` is set, that holds. Machines with the same
    instructions share what is kept. A folder that cannot be written is left alone, and nothing is kept.
    """
    folder = cache / "compiled" / hashlib.sha256(_instructions().encode()).hexdigest()[:12]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


def set_precision(precision: Precision) -> dict[str, str]:
    """Set how float32 matrix products (and cuDNN convolutions) are computed; returns it, for provenance.

    Storage stays float32. Covers the frameworks that are imported at the time of the call: one imported later
    keeps its own default, which on a GPU is TF32 for JAX and full float32 for PyTorch's products.
    Raises RefigureError for a precision other than fp32, tf32 and bf16.
    """
    if precision not in MATMUL:
        raise RefigureError(f"unknown precision {precision!r}; {suggest(precision, MATMUL)}")
    torch_name, jax_name = MATMUL[precision]
    done = {"precision": str(precision)}
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_float32_matmul_precision(torch_name)
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
        done["torch"] = torch.get_float32_matmul_precision()
    if (jax := sys.modules.get("jax")) is not None:
        jax.config.update("jax_default_matmul_precision", jax_name)
        done["jax"] = jax_name
    return done


def peak_memory(where: Literal["host", "device"] = "host") -> int:
    """The largest memory in use so far, in bytes: resident in this process, or on its first GPU (else 0).

    On the GPU the sum of what PyTorch's and JAX's allocators handed out at most, for those that are imported.
    """
    if where == "host":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    total = 0
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        total += torch.cuda.max_memory_allocated()
    if jax is not None and jax.default_backend() == "gpu":
        total += (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return total


def calibrate(budget: float = 0.15) -> float:
    """The speed of this machine now, in GFLOP/s: the best float32 product of two 512 x 512 matrices in NumPy.

    Takes about `budget` seconds, of which time estimates make their unit.
    """
    n = 512
    left = np.full((n, n), 0.5, np.float32)
    out = left @ left  # starts the BLAS threads
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        np.matmul(left, left, out=out)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * n**3 / best


def _check(kind: str, index: int, count: int, framework: str) -> None:
    if kind == "cuda" and index >= count:
        known = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        asked = os.environ.get("REFIGURE_DEVICE") or f"cuda:{index}"
        raise RefigureError(
            f"device {asked} was asked for, but {framework} sees {count} CUDA devices; "
            f"set REFIGURE_DEVICE to one of: {known}"
        )


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _instructions() -> str:
    """The kind of CPU and the extensions that it says it has."""
    found = None
    with contextlib.suppress(OSError):
        found = re.search(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{platform.machine()} {_cpu_model()} {found[0] if found else ''}"


def _host_memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit ("max")
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def _gpus() -> list[dict[str, Any]]:
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return [{"name": gpu.name, "memory": gpu.total_memory} for gpu in found]
    if jax is not None and jax.default_backend() == "gpu":
        return [
            {"name": gpu.device_kind, "memory": (gpu.memory_stats() or {}).get("bytes_limit", 0)}
            for gpu in jax.local_devices()
        ]
    return []
