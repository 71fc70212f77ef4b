"""The code digest: what means the same gives the same, what runs differently does not, on every Python."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Toy

import common
from common.errors import RefigureError
from common.room import digest, spec
from common.room.digest import closure, code_digest, code_manifest

HOME = Path(common.__file__).resolve().parents[1]

PLAIN = """
from typing import TYPE_CHECKING

import numpy as np

RATE = 0.1
NAMES = {"a": 1, **{}}


def step(x, *, rate=RATE, other=None):
    y = x + 1
    z = y * rate
    return f"{z:>{10}} {x!r}", b"raw", ..., None, True, 1j


class Model:
    width: int = 3

    def forward(self, x):
        match x:
            case None:
                return 0
            case {"a": 1, **rest}:
                return rest
        return [y async for y in x] if False else lambda a, /, *b, c=1, **d: a
"""

SAME_MEANING = {
    "comments": PLAIN.replace("y = x + 1", "y = x + 1  # next"),
    "blank lines": PLAIN.replace("    z =", "\n\n    z ="),
    "layout": PLAIN.replace("(x, *, rate=RATE, other=None)", "(\n    x,\n    *,\n    rate=RATE,\n    other=None,\n)"),
    "parentheses": PLAIN.replace("z = y * rate", "z = ((y) * (rate))"),
    "quotes": PLAIN.replace('"a"', "'a'").replace('f"{z:>{10}} {x!r}"', "f'''{z:>{10}} {x!r}'''"),
    "spelling of a number": PLAIN.replace("0.1", "1e-1"),
    "module docstring": '"""Says what it is."""\n' + PLAIN,
    "function docstring": PLAIN.replace("    y = x", '    """Doc."""\n    y = x'),
    "attribute docstring": PLAIN.replace("= 3\n", '= 3\n    """Units."""\n'),
    "imports for the type checker": PLAIN.replace(
        "import numpy as np", "import numpy as np\nif TYPE_CHECKING:\n    from common.plots import Plot"
    ),
    "windows line ends": PLAIN.replace("\n", "\r\n"),
}

OTHER_MEANING = {
    "constant": PLAIN.replace("0.1", "0.2"),
    "type of a constant": PLAIN.replace("= 3", "= 3.0"),
    "bool for int": PLAIN.replace("= 3", "= True"),
    "sign": PLAIN.replace("0.1", "-0.1"),
    "default": PLAIN.replace("other=None", "other=0"),
    "body": PLAIN.replace("y * rate", "y / rate"),
    "order of statements": PLAIN.replace("    y = x + 1\n    z = y * rate\n", "    z = y * rate\n    y = x + 1\n"),
    "name": PLAIN.replace("def step", "def leap"),
    "keyword becomes positional": PLAIN.replace("x, *, rate", "x, rate"),
    "decorator": PLAIN.replace("class Model", "@final\nclass Model"),
    "annotation, which dataclasses read": PLAIN.replace("width: int", "width: float"),
    "text": PLAIN.replace('b"raw"', 'b"Raw"'),
    "format": PLAIN.replace("{10}", "{11}"),
    "conversion": PLAIN.replace("!r", "!s"),
    "pattern": PLAIN.replace("case None", "case True"),
    "unpacking": PLAIN.replace("{}", "{'b': 2}"),
    "another import": PLAIN.replace("numpy as np", "jax.numpy as np"),
    "new statement": PLAIN + "\nRATE += 1\n",
    "order of definitions under one name": PLAIN + "\nRATE = 1\nRATE = 2\n",
    "else of the type checker's branch": PLAIN + "\nif TYPE_CHECKING:\n    pass\nelse:\n    RATE = 5\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
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


def digest_of(root: Path, text: str) -> str:
    tree(root, {"papers/x/main.py": text})
    return code_digest(code_manifest(root, "papers.x.main"))


@pytest.mark.parametrize("change", SAME_MEANING)
def test_layout_changes_nothing(tmp_path: Path, change: str) -> None:
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
    text = f"X = {value!r}\n".encode("utf-8", "backslashreplace").decode()
    other = ("x", value)
    assert digest_of(folder, text) == digest_of(folder, f"X = (\n    {value!r}  # why\n)\n")
    assert digest_of(folder, text) != digest_of(folder, f"X = {other!r}\n")


def test_closure_follows_every_form_of_import(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "papers/x/main.py": """
                import numpy
                import common.a.b as b
                import common.whole
                from common import sub
                from common.names import f
                from . import near
                from .deep import inner
                from ..x.sideways import g
                if TYPE_CHECKING:
                    from common.plots import Plot
                else:
                    import common.otherwise
                def late():
                    from common.inside import h
                    if numpy.x:
                        import common.guarded
            """,
            "papers/x/near.py": "from papers.x import main\n",  # a cycle
            "papers/x/deep/__init__.py": "",
            "papers/x/deep/inner.py": "from .. import up\n",
            "papers/x/up.py": "",
            "papers/x/sideways.py": "",
            "papers/x/figures.py": "from common import plots\n",
            "common/a/b.py": "import common.c\n",
            "common/c.py": "import common.a.b\n",
            "common/whole.py": "",
            "common/sub.py": "",
            "common/names.py": "",
            "common/inside.py": "",
            "common/guarded.py": "",
            "common/otherwise.py": "",
            "common/plots.py": "",
        },
    )
    assert closure(root, "papers.x.main") == (
        "common/__init__.py", "common/a/__init__.py", "common/a/b.py", "common/c.py", "common/guarded.py",
        "common/inside.py", "common/names.py", "common/otherwise.py", "common/sub.py", "common/whole.py",
        "papers/__init__.py", "papers/x/__init__.py", "papers/x/deep/__init__.py", "papers/x/deep/inner.py",
        "papers/x/main.py", "papers/x/near.py", "papers/x/sideways.py", "papers/x/up.py",
    )  # fmt: skip


def test_only_the_closure_counts(toy: Toy) -> None:
    before = toy.plan().identity.key
    toy.edit("papers/toy_paper/figures.py", '"""Nothing."""', "return 1")
    toy.edit("papers/toy_paper/__main__.py", "import sys\n", "import sys\nimport os\n")
    assert toy.plan().identity.key == before
    toy.edit("papers/toy_paper/method.py", "SCALE = 1.0", "SCALE = 1.5")
    assert toy.plan().identity.key != before


def test_a_manifest_names_what_changed(tmp_path: Path) -> None:
    files = {"papers/x/main.py": PLAIN}
    before = code_manifest(tree(tmp_path, files), "papers.x.main")["papers/x/main.py"]
    after = code_manifest(tree(tmp_path, {"papers/x/main.py": OTHER_MEANING["body"]}), "papers.x.main")
    assert set(before) == {"RATE", "NAMES", "step", "Model", "<module>"}
    assert [name for name in before if before[name] != after["papers/x/main.py"][name]] == ["step"]


def test_nothing_is_imported(tmp_path: Path) -> None:
    text = "raise SystemExit('imported')\nimport common.absent_for_sure\n"
    assert len(digest_of(tmp_path, text)) == 64
    assert "papers.x.main" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [b"def broken(:\n", b"x = 1\0\n", "x = 'é'\n".encode("latin-1")],
    ids=["syntax", "null byte", "not UTF-8"],
)
def test_an_unreadable_source_is_one_line(tmp_path: Path, content: bytes) -> None:
    tree(tmp_path, {"papers/x/main.py": ""})
    (tmp_path / "papers/x/main.py").write_bytes(content)
    with pytest.raises(RefigureError, match=r"papers/x/main\.py") as caught:
        code_manifest(tmp_path, "papers.x.main")
    assert "\n" not in str(caught.value)


def test_a_module_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RefigureError, match=r"papers/x/absent\.py"):
        closure(tree(tmp_path, {"papers/x/main.py": ""}), "papers.x.absent")


def _interpreters() -> list[str]:
    """Python 3.11 and later on this machine, one each."""
    versions = Path.home() / ".pyenv" / "versions"
    candidates = [
        *(shutil.which(f"python3.{minor}") for minor in range(11, 20)),
        *(str(path) for path in sorted(versions.glob("3.*/bin/python"))),
    ]
    found: dict[str, str] = {}
    for path in filter(None, candidates):
        answer = subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        version = answer.stdout.strip()
        if answer.returncode == 0 and int(version.partition(".")[2]) >= 11:
            found.setdefault(version, path)
    return list(found.values())


def test_every_python_agrees(tmp_path: Path) -> None:
    interpreters = _interpreters()
    if len(interpreters) < 2:
        pytest.skip("only one Python of 3.11 or later here")
    tree(tmp_path, {f"papers/x/m{number}.py": text for number, text in enumerate(OTHER_MEANING.values())})
    odd = r'''
        def f(x, y: "int" = 1, *a: int, **k) -> "str":
            """Doc"""
            return f"a{x:}{x=}{y!r:^{x}.{y}}" "b" f'{"n" "m"}' rf"\d{x}", -1, 1e400, "\ud800", 0x10, (yield), -0.0
        try:
            del X, (Y)
        except* ValueError as e: pass
        with (open(1) as a, open(2)): global_ = [*a, *(b for b in a if b if not b)]
        while (n := 1): break
        else: assert f, "no"
        async def g():
            async with f as x: await x
            async for i in x: nonlocal_ = x[1:2, ..., ::3]
        @f
        class C(f, metaclass=f): "doc"; x: int; y: int = 2; (z): int = 3
        match f:
            case [1, *_] | (2 as q) | f.a | C(1, b=2) | -1.5 | "s" | None | {**r} if r: pass
        lambda: (yield from f)
    '''
    tree(tmp_path, {"papers/x/main.py": "".join(f"import papers.x.m{i}\n" for i in range(len(OTHER_MEANING)))})
    tree(tmp_path, {"papers/x/odd.py": odd})
    program = (
        f"import sys; sys.path.insert(0, {str(HOME)!r}); sys.dont_write_bytecode = True\n"
        "from pathlib import Path; from common.room.digest import code_digest, code_manifest\n"
        f"for root, name in (({str(tmp_path)!r}, 'papers.x.main'), ({str(tmp_path)!r}, 'papers.x.odd'),"
        f" ({str(HOME)!r}, 'common.run.command'), ({str(HOME)!r}, 'papers.survae.toy')):\n"
        "    print(code_digest(code_manifest(Path(root), name)))\n"
    )
    answers = {
        path: subprocess.run([path, "-S", "-c", program], capture_output=True, text=True, check=True).stdout
        for path in interpreters
    }
    assert len(set(answers.values())) == 1, answers
    assert len(next(iter(answers.values())).split()) == 4


@pytest.mark.slow
def test_what_an_experiment_imports_is_in_its_closure() -> None:
    """A dynamic import would escape the static closure."""
    for paper in sorted(path.parent.name for path in HOME.glob("papers/*/paper.yaml")):
        for experiment in spec.load(paper).experiments.values():
            program = (
                f"import sys, {experiment.module}\n"
                "print(*(m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] in ('papers', 'common')))"
            )
            answer = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HOME
            )
            loaded = {Path(name).resolve().relative_to(HOME).as_posix() for name in answer.stdout.split()}
            assert loaded <= set(closure(HOME, experiment.module))


def test_the_digest_needs_the_standard_library_only() -> None:
    for name in closure(HOME, digest.__name__):
        lines = (HOME / name).read_text().splitlines()
        modules = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))}
        assert modules <= {*sys.stdlib_module_names, "common"}
