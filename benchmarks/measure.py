"""How every benchmark measures: one pinned core, one thread, CPU seconds, medians; and the table that it prints.

The speed of the machine itself stands beside: a float32 matrix product and a copy, on the same core. What the official
code took comes from `papers/<paper>/reference/speed.yaml`, with machine and date, or from the same run.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common import atomic
from common.room.config import build, read_yaml
from common.run.runtime import describe, settle

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("what is timed", "unit", "ours per core", "official per core", "ratio", "of the matrix product")
LIBRARIES = ("jax", "numpy", "torch", "torchdeq", "numba", "mujoco", "pybullet", "envpool")


@dataclass(frozen=True)
class Measured:
    """What somebody else's program took, as it was recorded."""

    what: str
    """What was timed, with its shape."""
    unit: str
    """What is counted: a step, an example, a lifetime."""
    seconds: tuple[float, ...]
    """Of `count` units; several where several measurements were recorded."""
    count: int
    """Units in those seconds."""
    clock: Literal["cpu", "wall"]
    """Only CPU seconds are seconds of one core."""
    threads: int
    """That it ran with."""
    how: str
    """What the number holds and how it was taken."""
    by: str = "official code"
    """Whose program it was."""

    @property
    def each(self) -> float:
        """Seconds a unit; the median of the measurements."""
        return statistics.median(self.seconds) / self.count


@dataclass(frozen=True)
class SideBySide:
    """Ratios of one audit: both programs in one run, one core each. Its numbers alone were recorded."""

    machine: str
    date: str
    how: str
    output: str
    ratios: dict[str, str]
    """What is compared, and how many times as fast ours was."""


@dataclass(frozen=True)
class Reference:
    """`papers/<paper>/reference/speed.yaml`. What was not recorded says so."""

    code: str
    software: str
    machine: str
    date: str
    command: str
    output: str
    measurements: dict[str, Measured]
    side_by_side: SideBySide | None = None


@dataclass(frozen=True)
class Row:
    """One thing that was timed."""

    what: str
    unit: str
    ours: tuple[float, ...]
    """CPU seconds a unit, one value a repeat."""
    flops: float | None = None
    """Of the matrix products in one unit; `None` where they are not counted."""
    reference: str | None = None
    """The measurement of speed.yaml that stands beside it."""
    peer: tuple[float, ...] = ()
    """CPU seconds a unit of somebody else's program in the same run."""
    note: str = ""
    """A sentence below the table."""


def reference(paper: str) -> Reference:
    """The recorded speeds of the official code.

    Raises:
        RefigureError: A field is missing, unknown or of another type.
    """
    path = ROOT / "papers" / paper / "reference" / "speed.yaml"
    speeds: Reference = build(Reference, read_yaml(path), str(path.relative_to(ROOT)))
    return speeds


def cpu_seconds(run: Callable[[], object], repeats: int) -> tuple[float, ...]:
    """Of each repeat, after one call that is not counted, in which programs are compiled."""
    jax = sys.modules.get("jax")
    wait: Callable[[Any], Any] = jax.block_until_ready if jax else lambda value: value
    wait(run())
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        wait(run())
        seconds.append(time.process_time() - started)
    return tuple(seconds)


def per(seconds: Sequence[float], units: int) -> tuple[float, ...]:
    """Seconds a unit from seconds of so many."""
    return tuple(each / units for each in seconds)


def flops(function: Callable, *args: Any) -> float:
    """Of the matrix products that a JAX program computes, 2 m k n each, loops multiplied out. Nothing else is counted.

    XLA's own analysis counts the body of a loop once.
    """
    import jax

    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, []
        for value in equation.params.values():
            parts = value if isinstance(value, (tuple, list)) else (value,)
            inner += [_flops(getattr(part, "jaxpr", part)) for part in parts if hasattr(part, "jaxpr") or _is(part)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * np.prod([shape[axis] for axis in contracted])
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * kernel.size / features
        elif name == "while" and any(inner):
            raise ValueError("a loop of unknown length holds matrix products")
        else:
            times = equation.params["length"] if name == "scan" else 1
            total += times * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return float(total)


def _is(part: Any) -> bool:
    """Whether a parameter of a primitive is a program itself."""
    return hasattr(part, "eqns")


def machine(repeats: int) -> dict[str, Any]:
    """The processor, and what one core of it reaches: GFLOP/s of a float32 product of 1024 x 1024, GB/s of a copy.

    NumPy's and XLA's products differ by a factor of two on some machines: both are measured, the faster one counts. A
    copy of 256 MiB counts what it reads and what it writes.
    """
    import jax
    import jax.numpy as jnp

    square, long = np.ones((1024, 1024), np.float32), np.ones(2**26, np.float32)
    product, target = np.empty_like(square), np.empty_like(long)
    array, multiply = jnp.asarray(square), jax.jit(jnp.matmul)
    products = {
        "numpy": cpu_seconds(lambda: np.matmul(square, square, out=product), 4 * repeats),
        "xla": cpu_seconds(lambda: multiply(array, array), 4 * repeats),
    }
    copy = statistics.median(cpu_seconds(lambda: np.copyto(target, long), repeats))
    described = describe()
    return {
        "cpu": described["cpu"],
        "system": described["system"],
        "load": os.getloadavg()[0],
        "matmul_gflops": {name: 2 * 1024**3 / statistics.median(found) / 1e9 for name, found in products.items()},
        "copy_gbs": 2 * long.nbytes / copy / 1e9,
    }


def main(paper: str, rows: Callable[[int], Sequence[Row]]) -> None:
    """Measure on one core, print the table, and write what was measured with `--json`."""
    parser = argparse.ArgumentParser(description=f"Speed of {paper}: CPU seconds of one core.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--core", type=int, help="the core to stay on (the first that is allowed)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if options.core is None else options.core})
    settle(1)
    here = machine(options.repeats)
    measured = [asdict(row) for row in rows(options.repeats)]
    here["versions"] = {"python": platform.python_version()}
    here["versions"] |= {name: metadata.version(name) for name in LIBRARIES if name in sys.modules}
    record = {"paper": paper, "date": date.today().isoformat(), "machine": here, "rows": measured}
    record = json.loads(json.dumps(record))
    if options.json:
        atomic.write_text(options.json, json.dumps(record, indent=1) + "\n")
    print("\n".join(markdown(record)))


def markdown(record: dict[str, Any]) -> list[str]:
    """The table of a record and what a reader needs beside it; the official numbers are those of speed.yaml."""
    known, here = reference(record["paper"]), record["machine"]
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---:|---:|---:|---:|"]
    lines += ["| " + " | ".join(_cells(row, known, here["matmul_gflops"].get("xla"))) + " |" for row in record["rows"]]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    products = " and ".join(f"{value:.0f} ({name})" for name, value in here["matmul_gflops"].items())
    notes = [
        f"Ours: {record['date']}, one core of {here['cpu']}, which reaches {products} GFLOP/s in a"
        f" float32 matrix product and {here['copy_gbs']:.1f} GB/s in a copy (load average of the machine at the"
        f" start: {here['load']:.1f}); {versions}. Medians (least to greatest) of"
        f" {len(record['rows'][0]['ours'])} repeats; compiling is not counted.",
        *(f"{row['what']}: {row['note']}." for row in record["rows"] if row["note"]),
        *recorded(known),
    ]
    return [*lines, "", *(f"- {note}" for note in notes)]


def recorded(known: Reference) -> list[str]:
    """What was measured with the official code, in one or two sentences."""
    notes = [
        f"Official, where no other source is named: {known.code}; {known.software}; {known.machine}; date {known.date};"
        f" output {known.output}. It ran on another occasion than ours, so no ratio is given.",
    ]
    if audit := known.side_by_side:
        ratios = "; ".join(f"{what} {ratio}" for what, ratio in audit.ratios.items())
        notes.append(f"Side by side ({audit.how}; {audit.date}; {audit.machine}; output {audit.output}): {ratios}.")
    return notes


def _cells(row: dict[str, Any], known: Reference, gflops: float | None) -> list[str]:
    ours = statistics.median(row["ours"])
    official, ratio = "not recorded", "-"
    if row["peer"]:
        official, ratio = f"{_ms(row['peer'])}, same run", f"{statistics.median(row['peer']) / ours:.2f}"
    elif row["reference"]:
        measured = known.measurements[row["reference"]]
        official = _short(measured.each)
        if measured.by != "official code":
            official += f" ({measured.by})"
        if measured.clock == "wall":
            official += f" of wall time, {measured.threads} threads"
    share = "-" if row["flops"] is None or gflops is None else f"{row['flops'] / ours / gflops / 1e9:.0%}"
    return [row["what"], f"CPU ms per {row['unit']}", _ms(row["ours"]), official, ratio, share]


def _ms(seconds: Sequence[float]) -> str:
    """Milliseconds: median, least and greatest."""
    return f"{_short(statistics.median(seconds))} ({_short(min(seconds))} to {_short(max(seconds))})"


def _short(seconds: float) -> str:
    """Milliseconds with three digits."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"
