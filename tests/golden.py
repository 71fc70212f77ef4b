"""Where the tests of all rooms find outputs of the official code: ``$REFIGURE_GOLDEN/<paper>/<family>*.npz``."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

__all__ = ["golden_files"]


def golden_files(paper: str, families: Iterable[str]) -> list:
    """(family, file) for each file of a family, or a skipped one for a family without a file.

    A file belongs to the family with the longest name that it begins with: `sortflow_small.npz` is not of `sort`.
    """
    root = os.environ.get("REFIGURE_GOLDEN")
    found: dict[str, list[Path]] = {name: [] for name in families}
    for file in sorted(Path(root, paper).glob("*.npz")) if root else []:
        names = [name for name in found if file.name.startswith(name)]
        if names:
            found[max(names, key=len)].append(file)
    parameters = []
    for name, files in found.items():
        parameters += [pytest.param(name, file, id=file.stem) for file in files]
        if not files:
            lacking = f"no file {root}/{paper}/{name}*.npz" if root else f"REFIGURE_GOLDEN is not set ({name})"
            parameters.append(pytest.param(name, None, id=name, marks=pytest.mark.skip(reason=lacking)))
    return parameters
