"""Who may import whom (DESIGN 2): the folders of `common` are a chain, experiments see its first links alone."""

import ast
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

import common
from common.room import spec

HOME = Path(common.__file__).resolve().parents[1]
CHAIN = [{"errors"}, {"atomic"}, {"train", "data"}, {"room"}, {"run"}, {"verdict"}, {"report"}, {"cli"}]
EXPERIMENTS_SEE = ("common.train.", "common.data.", "common.errors.", "common.room.config.build.")


def imports(file: Path) -> list[str]:
    """Dotted names in `common` and `papers` that a module imports, wherever it does, except for the type checker."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    checks = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")]
    silent = set(chain.from_iterable(ast.walk(inner) for node in checks for inner in node.body))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node not in silent:
            names += [f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.startswith((".", "common.", "papers."))]


def test_a_folder_of_common_imports_what_stands_before_it() -> None:
    for file in HOME.glob("common/**/*.py"):
        folder = file.relative_to(HOME / "common").with_suffix("").parts[0]
        place = next((place for place, folders in enumerate(CHAIN) if folder in folders), 0)
        allowed = {("common", name) for name in {folder}.union(*CHAIN[:place])}
        assert {tuple(name.split(".")[:2]) for name in imports(file)} <= allowed, file


@pytest.mark.parametrize("paper", spec.papers())
def test_a_paper_imports_no_other_and_its_experiments_see_little_of_common(paper: str) -> None:
    files = {file.relative_to(HOME).with_suffix(""): file for file in HOME.glob(f"papers/{paper}/**/*.py")}
    modules = {".".join(place.parts): imports(file) for place, file in files.items()}
    for module, names in modules.items():
        assert all(name.startswith(("common.", f"papers.{paper}.")) for name in names), module
    todo = [f"papers.{paper}.config", *(entry.module for entry in spec.load(paper).experiments.values())]
    reached: set[str] = set()
    while todo:
        module = todo.pop()
        if module in modules and module not in reached:
            reached.add(module)
            todo += [part for name in modules[module] for part in (name, name.rpartition(".")[0])]
            shared = [name for name in modules[module] if name.startswith("common.")]
            assert all(f"{name}.".startswith(EXPERIMENTS_SEE) for name in shared), (module, shared)
    assert len(reached) > 1


def test_dvc_looks_at_all_code_that_its_stages_depend_on() -> None:
    files = [
        path for folder in ("common", "workflow") for path in (HOME / folder).rglob("*.*") if path.suffix != ".pyc"
    ]
    words = [sys.executable, "-m", "dvc", "check-ignore", *(path.relative_to(HOME).as_posix() for path in files)]
    ignored = subprocess.run(words, cwd=HOME, capture_output=True, text=True, check=False)
    assert ignored.returncode == 1, ignored.stdout
