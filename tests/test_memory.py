"""Memory that was freed stays with the process, so that the next array does not fetch it from the kernel anew."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from common.run.memory import reuse_memory

if sys.argv[1] == "reuse":
    reuse_memory()

def fetch():
    np.ones(8 << 20)

fetch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fetch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Page faults of ten arrays of 64 MiB, after a first one."""

OTHERS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")

LIBRARY, VERSION = platform.libc_ver()
pytestmark = pytest.mark.skipif(
    LIBRARY != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35), reason="glibc from 2.35 on keeps 64 MiB"
)


def faults(how: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)} | variables
    words = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(words, env=environment, text=True, capture_output=True, check=True).stdout)


def test_arrays_come_from_memory_freed_before():
    """glibc itself keeps up to 32 MiB. Fetched anew, ten times 64 MiB are 163,840 pages, or 320 large ones."""
    assert faults("reuse") < 100 < faults("as it is")


@pytest.mark.parametrize(
    "variable", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_the_environment_has_the_last_word(variable):
    """In small pages or large ones, as the kernel has them at the moment: every array is fetched anew."""
    assert faults("reuse", **variable) > 100
