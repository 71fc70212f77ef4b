"""What all tests share: a thread each, kept compiled programs, the same examples each time, data out of reach."""

import functools
import os
from collections import Counter

import hypothesis
import pytest

from common import data
from common.errors import RefigureError

if "PYTEST_XDIST_WORKER" in os.environ:  # on small arrays more threads than cores wait for each other
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
        os.environ.setdefault(name, "1")

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(data.cache_folder("compiled-by-tests")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

BUDGET = 40
"""Seconds of a room's tests in `make test`, on a core of its own and with no program compiled before."""

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that reads data which cannot be had."""
    for mark in item.iter_markers("data"):
        for name in mark.args:
            if reason := _out_of_reach(name):
                pytest.skip(reason)


@functools.cache
def _out_of_reach(name: str) -> str:
    """Why a data set cannot be had here; empty where it can."""
    try:
        data.fetch(name)
    except RefigureError as error:
        return str(error)
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long each room's tests took, and which is above its budget of `make test`."""
    seconds: Counter[str] = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "nodeid", "").startswith("papers/"):
            seconds[report.nodeid.split("/")[1]] += getattr(report, "duration", 0)
    shown = (f"{room} {spent:.0f} s{' (above)' if spent > BUDGET else ''}" for room, spent in sorted(seconds.items()))
    if seconds:
        terminalreporter.write_line(f"rooms, of {BUDGET} s each: {', '.join(shown)}")
