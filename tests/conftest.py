"""What the tests of `common` share."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import common
from common.run import command as experiment

pytest.register_assert_rewrite("toy")
from toy import FILES, Toy  # noqa: E402


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """A repository in which `toy_paper` is the only paper; the modules of others are put aside meanwhile."""
    root = tmp_path / "repository"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "common").symlink_to(Path(common.__file__).resolve().parent, target_is_directory=True)
    aside = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "papers"}
    for name in aside:
        del sys.modules[name]
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files edited within a second are read anew
    # This process's settings belong to other tests; the real functions run in the subprocess tests.
    monkeypatch.setattr(experiment, "set_threads", lambda count: {"environment": count})
    monkeypatch.setattr(experiment, "deterministic", dict)
    monkeypatch.setattr(experiment, "reuse_memory", lambda: None)
    monkeypatch.setattr(experiment, "set_precision", lambda precision: {"precision": precision})
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", os.fspath(tmp_path))
    handler = signal.getsignal(signal.SIGTERM)
    yield Toy(root)
    signal.signal(signal.SIGTERM, handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == "papers"]:
        del sys.modules[name]
    sys.modules.update(aside)
