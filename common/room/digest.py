"""What code decides a run's numbers: the definitions that its experiment reaches, by meaning and not by layout.

Nothing is imported: files are parsed. From `train` and its config class every reference is followed, definition by
definition, through `papers/` and `common/`. A definition's digest is of its syntax tree without comments, docstrings,
function annotations, the arguments of `raise`, the message of `assert` and import lines; a reference in it counts as
the digest of what it names, so that neither the place nor the name of a definition matters. `common.data` is a leaf:
data is named by its content.

What is executed when a module is imported counts as follows.
- All statements that bind one name belong to that name, in their order. So does a statement that binds nothing and
  mentions the name (`dense.defvjp(forward, backward)`).
- A statement that uses a name at import counts how many of the name's statements came before it.
- A statement that mentions no name of its module (`jax.config.update(...)`) counts for all that reach the module.
"""

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from common.errors import RefigureError

__all__ = ["Definition", "Manifest", "Reach", "Sources", "changed"]

PACKAGES = ("papers", "common")
LEAF = "common.data"
EFFECTS = "<module>"
"""Stands for the statements of a module that belong to no name."""
SILENT_FIELDS = {"ctx", "kind", "type_comment", "type_ignores", "type_params", "str", "returns"}
"""Fields of syntax nodes that repeat another field, differ between versions of Python, or decide no number."""
MARK = "\0"
"""Surrounds the module and name of a reference in what `_Writer` writes."""

Definition = tuple[str, str]
"""Module, or its file, and name."""
Manifest = Mapping[str, Mapping[str, str]]
"""File to definition to 16 hex digits of its own meaning, in which a reference counts as its name."""
Node = TypeVar("Node")


@dataclass(frozen=True)
class Reach:
    """All definitions that some roots reach."""

    digest: str
    """64 hex digits: what the roots mean, everything that they reach included."""
    manifest: Manifest


def changed(before: Manifest, now: Manifest) -> list[Definition]:
    """File and name of each definition of `now` that had another meaning before, or was not reached."""
    return [
        (file, name)
        for file, definitions in now.items()
        for name, digest in definitions.items()
        if before.get(file, {}).get(name) != digest
    ]


class Sources:
    """The source files of a repository, each read once.

    Arguments:
        root: The folder that holds `papers/` and `common/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.module: Callable[[str], Module | None] = cache(self._read)
        """A module of the repository by its dotted name; None where there is no such file."""
        self.text: Callable[[Definition], Text] = cache(self._write)
        """The meaning of a definition."""
        self._digests: dict[Definition, str] = {}

    def reach(self, *roots: Definition) -> Reach:
        """Everything that the roots reach.

        Raises:
            RefigureError: A root does not exist, a file does not parse, or a name is imported in a circle.
        """
        for name, definition in roots:
            if definition not in self.known(name).bindings:
                raise RefigureError(f"{self.known(name).file} has no {definition!r} at its top level")
        reached = sorted(_closure(roots, lambda key: [*self.text(key).references, *self.known(key[0]).effects]))
        self._digest(reached)
        manifest: dict[str, dict[str, str]] = {}
        for key in reached:
            manifest.setdefault(self.known(key[0]).file, {})[key[1]] = self.text(key).own
        effects = sorted(self._digests[key] for key in reached if key[1] == EFFECTS)
        return Reach(_hash("\n".join([*(self._digests[root] for root in roots), *effects])), manifest)

    def known(self, name: str) -> "Module":
        """A module that must be there."""
        module = self.module(name)
        if module is None:
            raise RefigureError(f"module {name}: no file {name.replace('.', '/')}.py below the repository")
        return module

    def _digest(self, definitions: Iterable[Definition]) -> None:
        """Find the digest of each definition, references counting as the digests of what they name.

        Definitions that call one another in a circle reach the same, and more than all that they call outside of it.
        They are told apart by as many rounds as there are in the circle.
        """
        digests = self._digests
        new = [key for key in definitions if key not in digests]
        following = {key: [each for each in self.text(key).references if each not in digests] for key in new}
        for closure in sorted({frozenset(_closure([key], following.__getitem__)) for key in new}, key=len):
            circle = closure - digests.keys()
            digests |= dict.fromkeys(circle, "")
            for _ in circle:
                digests |= {key: _hash(self.text(key).filled(digests.__getitem__)) for key in circle}

    def _write(self, definition: Definition) -> "Text":
        module, name = self.known(definition[0]), definition[1]
        texts = [_Writer(module, name, number).write(module.body[number]) for number in module.bindings[name]]
        parts = "\n".join(texts).split(MARK)
        return Text(parts[::2], [(module, name) for module, name in map(str.split, parts[1::2])])

    def _read(self, name: str) -> "Module | None":
        base = self.root.joinpath(*name.split("."))
        file = next(filter(Path.is_file, (base / "__init__.py", base.with_suffix(".py"))), None)
        if name.partition(".")[0] not in PACKAGES or file is None:
            return None
        try:
            return Module(self, name, file, ast.parse(file.read_text(encoding="utf-8"), filename=str(file)))
        except SyntaxError as error:
            raise RefigureError(f"{file}, line {error.lineno}: {error.msg}") from None
        except ValueError as error:  # not UTF-8; or a null byte, where this Python calls that no SyntaxError
            raise RefigureError(f"{file}: not a source file in UTF-8 ({error})") from None


@dataclass(frozen=True)
class Text:
    """The meaning of a definition: what stands around its references, and what these name."""

    pieces: Sequence[str]
    references: Sequence[Definition]

    def filled(self, value: Callable[[Definition], str]) -> str:
        """The text with a value in place of each reference."""
        values = [*map(value, self.references), ""]
        return "".join(part for pair in zip(self.pieces, values, strict=True) for part in pair)

    @cached_property
    def own(self) -> str:
        """16 hex digits of the meaning in which a reference counts as its name."""
        return _hash(self.filled(lambda reference: reference[1]))[:16]


class Module:
    """A parsed file: which statements bind which name, and what its imports mean."""

    def __init__(self, sources: Sources, name: str, file: Path, tree: ast.Module) -> None:
        self.sources, self.name = sources, name
        self.file = file.relative_to(sources.root).as_posix()
        self.package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        self.body = [part for statement in tree.body for part in _executed(statement)]
        self.bindings: dict[str, list[int]] = {}
        """Name to the numbers of the statements that belong to it."""
        self.aliases: dict[str, list[str]] = {}
        """Local name to the dotted names that imports give it."""
        bound = {n: _bound_names([each]) for n, each in enumerate(self.body) if not _is_silent(each)}
        bound = {number: names for number, names in bound.items() if names != {"__all__"}}
        owners = set().union(*bound.values())
        for number, names in bound.items():
            if not names:
                names = {node.id for node in ast.walk(self.body[number]) if isinstance(node, ast.Name)} & owners
            for name in names or {EFFECTS}:
                self.bindings.setdefault(name, []).append(number)
        for node in ast.walk(ast.Module(self.body, [])):
            for alias, target in self._imports(node):
                self.aliases.setdefault(alias, []).append(target)

    @cached_property
    def executed(self) -> "set[Module]":
        """The modules whose statements importing this one executes, those of data left out."""
        return _closure([self], Module._imported)

    @cached_property
    def effects(self) -> list[Definition]:
        """What importing this module executes that belongs to no name."""
        return [(module.name, EFFECTS) for module in self.executed if EFFECTS in module.bindings]

    def _imported(self) -> "list[Module]":
        targets = [self.name, *(target for targets in self.aliases.values() for target in targets)]
        names = {name for target in targets for name in (target, target.rpartition(".")[0])}
        modules = [self.sources.module(name) for name in names if not f"{name}.".startswith(f"{LEAF}.")]
        return [module for module in modules if module]

    def _imports(self, node: ast.AST) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds `a`, and makes `a.b` an attribute of it
                head = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (head, head)
                yield f"{alias.name} ", alias.name  # a key that no name equals: only that it is imported
        elif isinstance(node, ast.ImportFrom):
            parts = self.package.split(".")
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*parts, node.module] if node.module else parts)
            for alias in node.names:
                if alias.name == "*" and source.partition(".")[0] in PACKAGES:
                    raise RefigureError(f"{self.file}, line {node.lineno}: import * hides what is used: name it")
                yield alias.asname or alias.name, f"{source}.{alias.name}"


@dataclass(frozen=True)
class _Writer:
    """Writes a statement as a text that is the same in every version of Python."""

    module: Module
    name: str
    """The name that the statement belongs to."""
    position: int
    """Number of the statement in its module."""
    local: frozenset[str] = frozenset()
    """Local names of the functions and comprehensions around the present node."""
    inside: bool = False
    """Whether a function is around the present node: what it contains is not executed at import."""

    def write(self, node: object) -> str:
        match node:
            case list():
                return "[" + ",".join(self.write(item) for item in node if not _is_silent(item)) + "]"
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
                return self._reference(node)
            case ast.Constant(value=value):
                return f"{type(value).__name__}:{value!r}"
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                return self._function(node)
            case ast.Raise(exc=ast.Call(func=raised)) | ast.Raise(exc=raised):  # what is raised, not what it says
                return f"Raise({self.write(raised) if raised else ''})"
            case ast.Assert(test=test):
                return f"Assert({self.write(test)})"
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                stored = _bound_names([generator.target for generator in node.generators])
                return replace(self, local=self.local | stored)._fields(node)
            case ast.AST():
                return self._fields(node)
        return repr(node)

    def _fields(self, node: ast.AST) -> str:
        parts = []
        for name in node._fields:
            value: Any = getattr(node, name, None)
            if name in SILENT_FIELDS or value is None or value == []:
                continue
            if isinstance(node, ast.JoinedStr):
                # Python 3.12 ends a nested format with an empty text, other versions do not
                value = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
            if isinstance(node, ast.AnnAssign) and name == "annotation" and (self.inside or not node.col_offset):
                continue  # no field of a class, which dataclasses and named tuples read
            parts.append(f"{name}={self.write(self._called(value) if name in ('name', 'id') else value)}")
        return f"{type(node).__name__}({','.join(parts)})"

    def _called(self, name: str) -> str:
        """A name in the statement; what a definition itself is called does not matter."""
        return "_" if name == self.name and not self.inside else name

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> str:
        given = node.args
        listed = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        arguments = [argument.arg for argument in listed if argument]
        body = node.body if isinstance(node.body, list) else [node.body]
        nodes = [node for statement in body for node in ast.walk(statement)]
        declared = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
        local = self.local.union(arguments, _bound_names(body) - declared)
        parts = [
            self._called(getattr(node, "name", "")),
            self.write(getattr(node, "decorator_list", [])),
            self.write([*given.defaults, *filter(None, given.kw_defaults)]),
            arguments,
            [len(given.posonlyargs), len(given.args), len(given.kwonlyargs)],
            [bool(given.vararg), bool(given.kwarg), [default is None for default in given.kw_defaults]],
            replace(self, local=local, inside=True).write(body),
        ]
        return f"{type(node).__name__}({','.join(map(str, parts))})"

    def _reference(self, node: ast.Name | ast.Attribute) -> str:
        """A name, or a chain of attributes of a module, as what it stands for."""
        names: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            names.insert(0, base.attr)
            base = base.value
        if not isinstance(base, ast.Name):
            return self._fields(node)
        trail: list[str] = []
        meaning = None if base.id in self.local else self._named(self.module, base.id, names, trail)
        if meaning == "":
            raise RefigureError(f"{self.module.file}: imports in a circle: {' -> '.join(trail)}")
        return meaning or ".".join([f"Name({base.id})", *names])

    def _named(self, module: Module, name: str, names: list[str], trail: list[str]) -> str | None:
        """What a name at the top level of a module and attributes of it stand for; "" in a circle, None if unknown."""
        if name in module.bindings:
            return ".".join([self._mark(module, name), *names])
        meanings = [self._imported(dotted, names, trail) for dotted in module.aliases.get(name, [])]
        return "|".join(filter(None, meanings)) if meanings else None

    def _imported(self, dotted: str, names: list[str], trail: list[str]) -> str:
        """What a dotted name of an import and attributes of it stand for; "" in a circle."""
        full = ".".join([dotted, *names])
        parts = full.split(".")
        if parts[0] not in PACKAGES:
            return ".".join([f"Name({dotted})", *names])
        if full.startswith(LEAF + "."):
            return f"Leaf({full})"
        if full in trail:
            return ""
        trail.append(full)
        prefixes = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
        module = next(filter(None, map(self.module.sources.module, prefixes)), None)
        if module is None:
            return f"Name({full})"
        rest = parts[module.name.count(".") + 1 :]
        if not rest:  # the module itself, which may be asked for anything
            return f"All({','.join(self._mark(module, name) for name in sorted(module.bindings) if name != EFFECTS)})"
        meaning = self._named(module, rest[0], rest[1:], trail)
        return f"Name({full})" if meaning is None else meaning

    def _mark(self, module: Module, name: str) -> str:
        """A reference; where its target has several statements and is used at import, with how many came before."""
        numbers, version = module.bindings[name], -1
        if module is self.module and not self.inside and len(numbers) > 1:
            version = sum(number < self.position for number in numbers)
        return f"{MARK}{module.name} {name}{MARK}@{version}"


def _closure(starts: Iterable[Node], following: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """The starts, what follows them, what follows that, and so on."""
    reached: set[Node] = set()
    todo = list(starts)
    while todo:
        node = todo.pop()
        if node not in reached:
            reached.add(node)
            todo += following(node)
    return reached


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _executed(statement: ast.stmt) -> list[ast.stmt]:
    """A statement of a module; of `if TYPE_CHECKING` the other branch, which is the one that runs."""
    match statement:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return [part for inner in statement.orelse for part in _executed(inner)]
    return [statement]


def _is_silent(node: object) -> bool:
    """Whether a statement decides no number: a docstring, an import."""
    text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
    return isinstance(text, str) or isinstance(node, ast.Import | ast.ImportFrom)


def _bound_names(statements: Iterable[ast.AST]) -> set[str]:
    """Names that statements bind in their own scope, imports left out."""
    names: set[str | None] = set()
    for node in statements:
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            names |= {inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        else:
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                names.add(node.id)
            elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar | ast.MatchMapping):
                names.add(node.rest if isinstance(node, ast.MatchMapping) else node.name)
            names |= _bound_names(ast.iter_child_nodes(node))
    return {name for name in names if name}
