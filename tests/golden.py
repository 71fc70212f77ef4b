"""Outputs of the official code, against which the rooms compare: ``$REFIGURE_GOLDEN/<paper>/<family>*.npz``."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
import pytest

__all__ = ["Arrays", "Golden", "agree"]

Arrays = dict[str, np.ndarray]
Check = Callable[[Arrays], None]


class Golden:
    """The checks of a paper's families.

    A module registers its checks with `family` and ends with one test decorated with `files`, which calls `check` for
    every file.
    """

    def __init__(self, paper: str) -> None:
        self.paper = paper
        self.checks: dict[str, Check] = {}

    def family(self, check: Check) -> Check:
        """Register the check of the family that it is named after."""
        return self.families(check.__name__)(check)

    def families(self, *names: str) -> Callable[[Check], Check]:
        """Register a check of several families, or of one whose name is no name in Python."""

        def register(check: Check) -> Check:
            self.checks |= dict.fromkeys(names, check)
            return check

        return register

    def files(self, test: Callable) -> Callable:
        """Call a test with `name` and `file` of every file of a registered family."""
        return pytest.mark.golden(pytest.mark.parametrize(("name", "file"), _files_of(self.paper, self.checks))(test))

    def check(self, name: str, file: Path) -> None:
        """Compare one file."""
        with np.load(file, allow_pickle=False) as arrays:
            self.checks[name](dict(arrays))


def _files_of(paper: str, families: Iterable[str]) -> list:
    """(family, file) for each file of a family, or a skipped one for a family without a file.

    A file belongs to the family with the longest name that it begins with: `sortflow_small.npz` is not of `sort`.
    """
    root = os.environ.get("REFIGURE_GOLDEN")
    files: dict[str, list[Path]] = {name: [] for name in families}
    for file in sorted(Path(root, paper).glob("*.npz")) if root else []:
        names = [name for name in files if file.name.startswith(name)]
        if names:
            files[max(names, key=len)].append(file)
    parameters = []
    for name, its_files in files.items():
        for index, file in enumerate(its_files):  # one of each family takes part in `make test`
            parameters.append(pytest.param(name, file, id=file.stem, marks=[pytest.mark.slow] if index else []))
        if not its_files:
            lacking = f"no file {root}/{paper}/{name}*.npz" if root else f"REFIGURE_GOLDEN is not set ({name})"
            parameters.append(pytest.param(name, None, id=name, marks=pytest.mark.skip(reason=lacking)))
    return parameters


def agree(values: object, golden: object, tolerance: float = 1e-10) -> None:
    """Arrays, or trees of them, have the same structure and shapes and are equal up to an absolute tolerance."""
    assert jax.tree.structure(values) == jax.tree.structure(golden)
    for value, expected in zip(jax.tree.leaves(values), jax.tree.leaves(golden), strict=True):
        assert np.shape(value) == np.shape(expected)
        np.testing.assert_allclose(np.asarray(value), np.asarray(expected), rtol=0, atol=tolerance)
