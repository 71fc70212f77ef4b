"""What the tests of `common` share."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import common
from common import cli
from common.room import plan
from common.run import runtime

pytest.register_assert_rewrite("toy")
from toy import FILES, Refigure, Toy, without_papers  # noqa: E402


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """A repository in which `toy_paper` is the only paper; the modules of others are put aside meanwhile."""
    root = tmp_path / "repository"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "common").symlink_to(Path(common.__file__).resolve().parent, target_is_directory=True)
    aside = without_papers()
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files edited within a second are read anew
    # This process's settings belong to other tests; the real functions run in the subprocess tests.
    monkeypatch.setattr(runtime, "settle", lambda threads, precision: {"threads": threads, "precision": precision})
    for name in ("choose_device", "reuse_memory"):
        monkeypatch.setattr(runtime, name, lambda: None)
    monkeypatch.setattr(runtime, "keep_compiled", lambda cache: None)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", os.fspath(tmp_path))
    plan.forget()
    handler = signal.getsignal(signal.SIGTERM)
    yield Toy(root)
    signal.signal(signal.SIGTERM, handler)
    without_papers()
    sys.modules.update(aside)


@pytest.fixture
def refigure(toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refigure:
    """Calls the command in this process: (exit status, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["refigure", *words])
        status: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        if isinstance(status, str):  # the interpreter prints it at the end
            status, err = 1, err + status + "\n"
        return status, out, err

    return call
