"""Benchmarks find what they measure; what is written of them is what was measured. Nothing is timed here."""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

from common.errors import RefigureError

HOME = Path(__file__).resolve().parents[1]
FILES = sorted((HOME / "benchmarks").glob("bench_*.py"))
PAPERS = [path.stem.removeprefix("bench_") for path in FILES]
sys.path.append(str(HOME / "benchmarks"))
measure = importlib.import_module("measure")
publish = importlib.import_module("publish")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_all_that_a_benchmark_imports_is_there(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in nodes if str(node.module).startswith(("common.", "papers.", "measure"))]
    assert ours
    for node in ours:
        module = importlib.import_module(str(node.module))
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("paper", PAPERS)
def test_rows_name_recorded_speeds_in_the_same_unit(paper: str) -> None:
    known = measure.reference(paper).measurements
    path = HOME / f"docs/speed/{paper}.json"
    for row in json.loads(path.read_text())["rows"] if path.is_file() else []:
        if row["reference"]:
            assert known[row["reference"]].unit == row["unit"].split(" of ")[0]


@pytest.mark.parametrize("paper", PAPERS)
def test_readme_has_what_was_measured(paper: str) -> None:
    readme = (HOME / f"papers/{paper}/README.md").read_text()
    assert publish.with_speed(readme, publish.written(paper), paper) == readme


def test_page_has_what_was_measured() -> None:
    assert (HOME / "docs/speed.md").read_text() == publish.page()


def test_a_block_is_written_once() -> None:
    text = "a\n<!-- speed -->\nold\n<!-- end of speed -->\nb"
    assert publish.with_speed(text, "new\n", "x") == "a\n<!-- speed -->\nnew\n<!-- end of speed -->\nb"
    for wrong in ("a", text + text):
        with pytest.raises(RefigureError, match="x: one block"):
            publish.with_speed(wrong, "", "x")


def test_products_are_counted_through_loops() -> None:
    import jax
    import jax.numpy as jnp

    def looped(a: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.matmul)(c, a), None), a, None, length=5)[0]

    assert measure.flops(looped, jnp.ones((4, 4))) == 5 * 2 * 4**3
    assert measure.flops(jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), jnp.ones((2, 3)), jnp.ones((3, 4))) == 3 * 48


def test_ratios_are_of_one_run() -> None:
    row = {"what": "w", "unit": "step", "ours": [0.001], "flops": None, "peer": [], "reference": "classifier"}
    known = measure.reference("survae")
    assert measure._cells(row, known, 100.0)[3:5] == ["2.4 of wall time, 2 threads", "-"]
    assert measure._cells(row | {"reference": "flow"}, known, 100.0)[3:5] == ["6", "-"]
    assert measure._cells(row | {"peer": [0.003, 0.002, 0.004]}, known, 100.0)[4] == "3.00"
    assert measure._cells(row | {"flops": 2e7}, known, 100.0)[5] == "20%"
