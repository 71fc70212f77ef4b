"""What code decides a run's numbers: the static import closure of its experiment, by meaning and not by layout.

Nothing is imported: files are parsed. Comments, layout, docstrings, annotations-only imports (`if TYPE_CHECKING`)
and the version of Python that parses do not change a digest.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import RefigureError

__all__ = ["closure", "code_digest", "code_manifest"]

PACKAGES = ("papers", "common")
SILENT_FIELDS = {"ctx", "kind", "type_comment", "type_ignores", "type_params", "str"}
"""Fields of syntax nodes that differ between versions of Python or repeat what another field says."""


def closure(root: Path, module: str) -> tuple[str, ...]:
    """Files that importing `module` reads, directly or not, inside `papers/` and `common/`.

    Arguments:
        root: The repository (or the folder that holds both packages).
        module: A dotted name such as `papers.survae.toy`.

    Returns:
        Paths relative to `root`, sorted; packages' `__init__.py` files run first and count.

    Raises:
        RefigureError: The module has no file, or a file of the closure does not parse.
    """
    if _file_of(root, module) is None:
        raise RefigureError(f"module {module}: no file {module.replace('.', '/')}.py below the repository")
    found: set[str] = set()
    todo = [module]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or name.partition(".")[0] not in PACKAGES:
            continue
        seen.add(name)
        file = _file_of(root, name)
        if file is None:  # a name inside a module (`from common.x import f`), found with the module
            continue
        found.add(file.relative_to(root).as_posix())
        if "." in name:
            todo.append(name.rpartition(".")[0])
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        todo += _imports(_parse(file), package)
    return tuple(sorted(found))


def code_manifest(root: Path, module: str) -> dict[str, dict[str, str]]:
    """The digest of every definition of every file in the closure: `{file: {definition: 16 hex digits}}`.

    A definition is a top-level function, class or assigned name; all other statements are `<module>`.
    """
    return {file: _definitions(root / file) for file in closure(root, module)}


def code_digest(manifest: dict[str, dict[str, str]]) -> str:
    """One digest (64 hex digits) of a manifest."""
    lines = [f"{file}:{name}:{manifest[file][name]}" for file in sorted(manifest) for name in sorted(manifest[file])]
    text = "\n".join(lines)
    return hashlib.sha256(text.encode()).hexdigest()


def _file_of(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@cache
def _parse_text(text: str, path: str) -> ast.Module:
    try:
        return ast.parse(text, filename=path)
    except SyntaxError as error:
        raise RefigureError(f"{path}, line {error.lineno}: {error.msg}") from None


def _parse(file: Path) -> ast.Module:
    try:
        return _parse_text(file.read_text(encoding="utf-8"), str(file))
    except ValueError as error:  # not UTF-8; or a null byte, where this Python calls that no SyntaxError
        raise RefigureError(f"{file}: not a source file in UTF-8 ({error})") from None


def _imports(tree: ast.AST, package: str) -> list[str]:
    names: list[str] = []
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join(parts + ([node.module] if node.module else []))
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return names


def _executed(node: ast.AST) -> list[ast.AST]:
    """All nodes below, without the bodies of `if TYPE_CHECKING:`, which never run."""
    out: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_type_checking(child.test):
            for statement in child.orelse:
                out += [statement, *_executed(statement)]
            continue
        out += [child, *_executed(child)]
    return out


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _definitions(file: Path) -> dict[str, str]:
    """Top-level names of a file and the digest of what each means, in the order of the file."""
    tree = _parse(file)
    groups: dict[str, list[str]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.If) and _is_type_checking(statement.test) and not statement.orelse:
            continue
        text = _meaning(statement)
        if text is not None and _name_of(statement) != "__all__":
            groups.setdefault(_name_of(statement), []).append(text)
    return {name: hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] for name, parts in groups.items()}


def _name_of(statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name
    target = None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    return target.id if isinstance(target, ast.Name) else "<module>"


def _meaning(node: Any) -> str | None:
    """A text of the syntax tree that is the same in every version of Python; None for a bare text.

    Python 3.12 ends a nested format (`f"{x:{width}}"`) with an empty text, others do not: it is left out.
    """
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return None
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__}:{node.value!r}"
    if isinstance(node, ast.AST):
        parts = []
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(node, ast.JoinedStr) and field == "values":
                value = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
            if field in SILENT_FIELDS or value is None or value == []:
                continue
            text = _meaning(value)
            if text is not None:
                parts.append(f"{field}={text}")
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        texts = [_meaning(item) for item in node]
        return "[" + ",".join(text for text in texts if text is not None) + "]"
    return repr(node)
