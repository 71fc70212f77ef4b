"""The code digest by reach: what means the same gives the same, what runs differently does not, on every Python."""

import ast
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import common
from common.errors import RefigureError
from common.room import plan, spec
from common.room.digest import PACKAGES, Definition, Manifest, Module, Sources, _bound_names

HOME = Path(common.__file__).resolve().parents[1]

PLAIN = """
from typing import TYPE_CHECKING

import numpy as np

from common.kit import scale, unused

RATE = 0.1
NAMES = {"a": 1, **{}}


def step(x, *, rate=RATE, other=None):
    y = scale(x) + 1
    z = y * rate
    if z is None:
        raise ValueError("no number", z)
    return f"{z:>{10}} {x!r}", b"raw", ..., None, True, 1j


class Model:
    width: int = 3

    def forward(self, x: int) -> int:
        match x:
            case None:
                return 0
            case {"a": 1, **rest}:
                return rest
        return [y async for y in x] if False else lambda a, /, *b, c=1, **d: a


def train(config, seeds, run):
    return step(Model(), other=NAMES)
"""
KIT = """
FACTOR = 2


def scale(x):
    return FACTOR * x


def unused(x):
    return x
"""

SAME_MEANING = {
    "comments": PLAIN.replace("z = y * rate", "z = y * rate  # next"),
    "blank lines": PLAIN.replace("    z =", "\n\n    z ="),
    "layout": PLAIN.replace("(x, *, rate=RATE, other=None)", "(\n    x,\n    *,\n    rate=RATE,\n    other=None,\n)"),
    "quotes": PLAIN.replace('"a"', "'a'").replace('f"{z:>{10}} {x!r}"', "f'''{z:>{10}} {x!r}'''"),
    "spelling of a number": PLAIN.replace("0.1", "1e-1"),
    "module docstring": '"""Says what it is."""\n' + PLAIN,
    "function docstring": PLAIN.replace("    y = scale", '    """Doc."""\n    y = scale'),
    "attribute docstring": PLAIN.replace("= 3\n", '= 3\n    """Units."""\n'),
    "imports for the type checker": PLAIN.replace(
        "import numpy as np", "import numpy as np\nif TYPE_CHECKING:\n    from common.plots import Plot"
    ),
    "windows line ends": PLAIN.replace("\n", "\r\n"),
    "words of an error": PLAIN.replace('"no number", z', 'f"{z} is no number, look at {NAMES}"'),
    "a function's annotations": PLAIN.replace("(self, x: int) -> int", "(self, x: float) -> object"),
    "import lines swapped": PLAIN.replace(
        "import numpy as np\n\nfrom common.kit import scale, unused",
        "from common.kit import unused, scale\nimport numpy as np",
    ),
    "an alias": PLAIN.replace("import scale, unused", "import scale as times").replace("scale(x)", "times(x)"),
    "the module instead of the name": PLAIN.replace(
        "from common.kit import scale, unused", "from common import kit"
    ).replace("scale(x)", "kit.scale(x)"),
    "a name": PLAIN.replace("def step", "def leap").replace("step(Model", "leap(Model"),
    "an unused definition": PLAIN + "\nSPARE = 1\n\n\ndef spare():\n    return SPARE\n",
    "definitions in another order": PLAIN.replace("RATE = 0.1\n", "").replace("def step", "RATE = 0.1\n\ndef step"),
}

OTHER_MEANING = {
    "constant": PLAIN.replace("0.1", "0.2"),
    "type of a constant": PLAIN.replace("= 3", "= 3.0"),
    "bool for int": PLAIN.replace("= 3", "= True"),
    "sign": PLAIN.replace("0.1", "-0.1"),
    "default": PLAIN.replace("other=None", "other=0"),
    "body": PLAIN.replace("y * rate", "y / rate"),
    "what is raised": PLAIN.replace("raise ValueError(", "raise KeyError("),
    "order of statements": PLAIN.replace(
        "    y = scale(x) + 1\n    z = y * rate\n", "    z = 2\n    y = scale(x) + 1\n"
    ),
    "keyword becomes positional": PLAIN.replace("x, *, rate", "x, rate"),
    "decorator": PLAIN.replace("class Model", "@final\nclass Model"),
    "a field's annotation, which dataclasses read": PLAIN.replace("width: int", "width: float"),
    "text": PLAIN.replace('b"raw"', 'b"Raw"'),
    "format": PLAIN.replace("{10}", "{11}"),
    "conversion": PLAIN.replace("!r", "!s"),
    "pattern": PLAIN.replace("case None", "case True"),
    "unpacking": PLAIN.replace("{}", "{'b': 2}"),
    "another import": PLAIN.replace("import scale, unused", "import unused as scale"),
    "a statement that changes the name": PLAIN + "\nRATE += 1\n",
    "a statement that changes what a name holds": PLAIN + "\nNAMES.update(b=2)\n",
    "a method from outside": PLAIN + "\nModel.forward = lambda self, x: 0\n",
    "order under one name": PLAIN + "\nRATE = 1\nRATE = 2\n",
    "what importing executes": PLAIN + '\nnp.seterr(all="raise")\n',
    "else of the type checker's branch": PLAIN + "\nif TYPE_CHECKING:\n    pass\nelse:\n    RATE = 5\n",
}


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """Files below `root`, packages made importable."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(textwrap.dedent(text).encode())
    for folder in {path.parent for path in root.rglob("*.py")} | {root / "papers", root / "common"}:
        folder.mkdir(parents=True, exist_ok=True)
        if folder != root and not (folder / "__init__.py").exists():
            (folder / "__init__.py").write_text("")
    return root


def digest_of(root: Path, text: str, **files: str) -> str:
    """Of `train` in a module with this text, beside `common/kit.py`."""
    names = {f"common/{name}.py": content for name, content in files.items()}
    tree(root, {"common/kit.py": KIT, "papers/x/main.py": text, **names})
    return Sources(root).reach(("papers.x.main", "train")).digest


@pytest.mark.parametrize("change", SAME_MEANING)
def test_what_means_the_same_changes_nothing(tmp_path: Path, change: str) -> None:
    assert SAME_MEANING[change] != PLAIN, "the case changes no text"
    assert digest_of(tmp_path, SAME_MEANING[change]) == digest_of(tmp_path, PLAIN)


@pytest.mark.parametrize("change", OTHER_MEANING)
def test_meaning_changes_the_digest(tmp_path: Path, change: str) -> None:
    assert OTHER_MEANING[change] != PLAIN, "the case changes no text"
    assert digest_of(tmp_path, OTHER_MEANING[change]) != digest_of(tmp_path, PLAIN)


def test_all_changed_meanings_differ_from_one_another(tmp_path: Path) -> None:
    assert len({digest_of(tmp_path, text) for text in OTHER_MEANING.values()}) == len(OTHER_MEANING)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.binary() | st.booleans())
def test_every_constant_counts(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.getbasetemp() / "constants"
    text = "X = {}\n\n\ndef train():\n    return X\n"
    shown = repr(value).encode("utf-8", "backslashreplace").decode()
    assert digest_of(folder, text.format(shown)) == digest_of(folder, text.format(f"(\n    {shown}  # why\n)"))
    assert digest_of(folder, text.format(shown)) != digest_of(folder, text.format(f"('x', {shown})"))


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({"kit": KIT.replace("FACTOR = 2", "FACTOR = 3")}, True),
        ({"kit": KIT.replace("    return x", "    return -x")}, False),
        ({"kit": KIT + "\nprint(0)\n"}, True),
        ({"kit": "from common.more import scale\n\n\ndef unused(x):\n    return x\n", "more": KIT}, False),
        (
            {"kit": "from common.more import scale\n\n\ndef unused(x):\n    return x\n", "more": KIT + "print(0)\n"},
            True,
        ),
    ],
    ids=["what is reached", "what is not", "what its import executes", "moved to a neighbour", "whose import acts"],
)
def test_the_reach_ends_with_what_is_used(tmp_path: Path, change: Mapping[str, str], moves: bool) -> None:
    assert (digest_of(tmp_path / "new", PLAIN, **change) != digest_of(tmp_path / "old", PLAIN)) is moves


def test_the_order_of_assignments_that_read_one_another_counts(tmp_path: Path) -> None:
    use = "\n\ndef train():\n    return STEPS\n"
    before = digest_of(tmp_path, "RATE = 1\nSTEPS = RATE * 10\nRATE = 2\n" + use)
    assert digest_of(tmp_path, "RATE = 1\nRATE = 2\nSTEPS = RATE * 10\n" + use) != before
    assert digest_of(tmp_path, "RATE = 2\nSTEPS = RATE * 10\nRATE = 1\n" + use) != before
    assert digest_of(tmp_path, "OTHER = 3\nRATE = 1\nSTEPS = RATE * 10\nRATE = 2\n" + use) == before


def test_local_names_are_no_references(tmp_path: Path) -> None:
    text = "def train({0}):\n    {1}\n    return scale\n\n\ndef scale():\n    return 1\n"
    for parameter, line in (("scale", "pass"), ("x", "scale = x"), ("x", "(scale := x)"), ("x", "[scale] = [x]")):
        manifest = _manifest(tmp_path, text.format(parameter, line))
        assert list(manifest["papers/x/main.py"]) == ["train"], line
    for line in ("global scale\n    scale = 2", "[scale for scale in ()]", "(lambda scale: 0)"):
        assert list(_manifest(tmp_path, text.format("x", line))["papers/x/main.py"]) == ["scale", "train"], line


def test_a_module_by_itself_counts_as_all_of_it(tmp_path: Path) -> None:
    text = "from common import kit\n\n\ndef train(name):\n    return getattr(kit, name)\n"
    assert list(_manifest(tmp_path, text)["common/kit.py"]) == ["FACTOR", "scale", "unused"]
    used = text.replace("getattr(kit, name)", "kit.scale(name)")
    assert list(_manifest(tmp_path, used)["common/kit.py"]) == ["FACTOR", "scale"]


def test_data_is_a_leaf(tmp_path: Path) -> None:
    text = "from common import data\n\n\ndef train():\n    return data.load('mnist')\n"
    load = "def load(name):\n    return decode(name)\n\n\ndef decode(name):\n    return {}\n"
    tree(tmp_path, {"common/data/__init__.py": load.format(1)})
    before, manifest = digest_of(tmp_path, text), _manifest(tmp_path, text)
    tree(tmp_path, {"common/data/__init__.py": load.format(2)})
    assert digest_of(tmp_path, text) == before
    assert digest_of(tmp_path, text.replace("data.load", "data.verify")) != before
    assert list(manifest) == ["papers/x/main.py"]


def test_functions_that_call_one_another_in_a_circle(tmp_path: Path) -> None:
    text = (
        "def train(n):\n    return even(n)\n\n\ndef even(n):\n    return n == 0 or odd(n - 1)\n\n\n"
        "def odd(n):\n    return n != 0 and even(n - 1)\n"
    )
    before = digest_of(tmp_path, text)
    assert digest_of(tmp_path, text.replace("n != 0", "n != 1")) != before
    assert digest_of(tmp_path, text.replace("return even(n)", "return odd(n)")) != before
    assert digest_of(tmp_path, text.replace("odd", "uneven")) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def train(:\n", "papers/x/main.py, line 1:"),
        ("x = '\udcff'\n", "not a source file in UTF-8"),
        ("def other():\n    pass\n", "has no 'train'"),
        ("from common.kit import *\n\n\ndef train():\n    pass\n", "import * hides what is used"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    tree(tmp_path, {"papers/x/main.py": "", "common/kit.py": ""})
    (tmp_path / "papers/x/main.py").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RefigureError, match=message.replace("*", r"\*")):
        Sources(tmp_path).reach(("papers.x.main", "train"))
    with pytest.raises(RefigureError, match="no file papers/x/absent"):
        Sources(tmp_path).reach(("papers.x.absent", "train"))


def test_imports_in_a_circle(tmp_path: Path) -> None:
    """Harmless where another import binds the name; else one line that names the modules."""
    text = "from common.kit import scale\n\n\ndef train(x):\n    return scale(x)\n"
    straight = digest_of(tmp_path, text, kit="from common.more import scale\n", more=KIT)
    back = "from common.base import scale\n\n\ndef late():\n    from common.kit import scale\n"
    assert digest_of(tmp_path, text, more=back, base=KIT, kit="from common.more import scale\n") == straight
    with pytest.raises(RefigureError, match=r"in a circle: common\.kit\.scale -> common\.more\.scale$"):
        digest_of(tmp_path, text, kit="from common.more import scale\n", more="from common.kit import scale\n")


def test_nothing_is_executed(tmp_path: Path) -> None:
    text = "raise SystemExit('imported')\nimport common.absent_for_sure\n\n\ndef train():\n    pass\n"
    assert digest_of(tmp_path, text)


CHANGES = {"add", "append", "clear", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}
READERS = {"importlib", "__import__", "open", "exec", "eval", "globals"}
READING_ATTRIBUTES = {"import_module", "environ", "getenv", "read_text", "read_bytes"}


def unfollowed(sources: Sources, reached: Iterable[Definition]) -> Iterator[tuple[Definition, str]]:
    """What decides numbers beside the digest: in what is reached, and in all modules that importing it executes."""
    executed: set[Module] = set()
    for name, definition in reached:
        module = sources.known(name)
        executed |= module.executed
        nodes = [node for number in module.bindings[definition] for node in ast.walk(module.body[number])]
        used = {part for used in _names(nodes) for part in (used, *".".join(module.aliases.get(used, [])).split("."))}
        hidden = used & (READERS | READING_ATTRIBUTES)
        hidden |= {node.attr for node in nodes if isinstance(node, ast.Attribute)} & READING_ATTRIBUTES
        yield from (((name, definition), reader) for reader in hidden)
    for module in executed:
        own, aliases = set(module.bindings), module.aliases
        foreign = {name for name in aliases for target in aliases[name] if target.partition(".")[0] in PACKAGES}
        for statement in module.body:
            bound, nodes = _bound_names([statement]), list(ast.walk(statement))
            inner = {name for node in nodes[1:] for name, _ in module._imports(node)}
            decorators = [part for node in nodes for part in getattr(node, "decorator_list", [])]
            patterns = {
                "a name that an import binds too": bound & {*aliases},
                "an import that is not at the top level": inner & foreign,
                "import *": isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*",
                "_ at the top level": "_" in bound,
                "global": any(isinstance(node, ast.Global) for node in nodes),
                "a decorator of the repository": _names(decorators) & (own | foreign),
                "an import that receives a name": not bound and own & _names(nodes) and foreign & _names(nodes),
                "a comprehension that hides its source": any(map(_is_shadowed, nodes)),
                "a definition that changes another": bound and ({*map(_changed, nodes)} - bound) & (own | foreign),
            }
            yield from (((module.name, min(bound, default="")), pattern) for pattern in patterns if patterns[pattern])


@pytest.mark.parametrize("paper", spec.papers())
def test_nothing_that_a_run_reaches_hides_from_the_digest(paper: str) -> None:
    allowed = {
        ("common.run.runtime", "settle"),  # sets the environment
        ("papers.deq.iteration", "_warn_once"),  # remembers of what it has warned
        ("papers.hebbian_abcd.bullet", "ant"),  # reads the body that PyBullet ships
    }
    variants = [(name, each) for name, entry in spec.load(paper).experiments.items() for each in entry.variants]
    reached = {key for each in variants for key in _definitions(plan.reach(paper, *each).manifest)}
    assert [each for each in unfollowed(Sources(HOME), reached) if each[0] not in allowed] == []


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("try:\n    from common.kit import f\nexcept ImportError:\n    f = 1\n", "a name that an import binds too"),
        ("from common.kit import f\nf = id(f)\n", "a name that an import binds too"),
        ("FAST = 1\nif FAST:\n    from common.kit import f\n", "an import that is not at the top level"),
        ("def f(): pass\ndef g():\n    from common.kit import f\n", "an import that is not at the top level"),
        ("_, RATE = 1, 2\n", "_ at the top level"),
        ("RATE = 1\ndef f():\n    global RATE\n", "global"),
        ("from numpy import *\n", "import *"),
        ("from common import kit\n@kit.enter\ndef f(): pass\n", "a decorator of the repository"),
        ("from common.kit import enter\ndef f(): pass\nenter(f)\n", "an import that receives a name"),
        ("from common.kit import TABLE\ndef f(): pass\nTABLE['f'] = f\n", "an import that receives a name"),
        ("RATES = [1]\ndef train():\n    return [RATES for RATES in RATES]\n", "a comprehension that hides its source"),
        ("TABLE = {}\ndef enter(key):\n    TABLE[key] = 1\n", "a definition that changes another"),
        ("from common import kit\nRATE = kit.TABLE.pop('rate')\n", "a definition that changes another"),
        ("from importlib import import_module as load\nRATE = load('x')\n", "import_module"),
        ("import os\nRATE = os.environ['x']\n", "environ"),
        ("RATE = open('x')\n", "open"),
    ],
)
def test_what_the_digest_does_not_follow_is_noticed(tmp_path: Path, text: str, pattern: str) -> None:
    tree(tmp_path, {"common/kit.py": KIT, "papers/x/main.py": text + "\n\ndef train():\n    return RATE\n"})
    sources = Sources(tmp_path)
    reached = _definitions(sources.reach(("papers.x.main", "train")).manifest)
    assert pattern in {what for _, what in unfollowed(sources, reached)}


@pytest.mark.parametrize("version", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_other_versions_of_python_agree(version: str) -> None:
    python = shutil.which(version)
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{version} is not installed")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
        "from common.room.digest import Sources; "
        "print(Sources(Path(sys.argv[1])).reach(('papers.deq.copy_memory', 'train')).digest)"
    )
    outputs = {
        subprocess.run([each, "-c", code, str(HOME)], capture_output=True, text=True, check=True).stdout
        for each in (python, sys.executable)
    }
    assert len(outputs) == 1


def _manifest(root: Path, text: str) -> Manifest:
    digest_of(root, text)
    return Sources(root).reach(("papers.x.main", "train")).manifest


def _definitions(manifest: Manifest) -> set[Definition]:
    modules = {file: file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in manifest}
    return {(modules[file], name) for file in manifest for name in manifest[file]}


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _is_shadowed(node: ast.AST) -> bool:
    """Whether a node is a comprehension that hides its source itself, as `[v for v in v]`."""
    generators = getattr(node, "generators", [])
    bound = _bound_names([generator.target for generator in generators])
    return bool(generators) and bool(_names([generators[0].iter]) & bound)


def _changed(node: ast.AST) -> str:
    """The name of whose object a node sets a part, or calls a method that changes it; empty without one."""
    part: ast.AST | None = None
    if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
        part = node
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
        part = node.func
    while isinstance(part, ast.Attribute | ast.Subscript):
        part = part.value
    return part.id if isinstance(part, ast.Name) else ""
