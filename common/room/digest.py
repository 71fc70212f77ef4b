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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.errors import RefigureError

__all__ = ["Definition", "Manifest", "Reach", "Sources", "changed"]

PACKAGES = ("papers", "common")
LEAF = "common.data"
EFFECTS = "<module>"
"""Stands for the statements of a module that belong to no name."""
SILENT_FIELDS = {"ctx", "kind", "type_comment", "type_ignores", "type_params", "str", "returns"}
"""Fields of syntax nodes that repeat another field, differ between versions of Python, or decide no number."""
MARK = "\0"
"""Surrounds the number of a reference in the text of a statement."""

Definition = tuple[str, str]
"""Module, or its file, and name."""
Manifest = Mapping[str, Mapping[str, str]]
"""File to definition to 16 hex digits of its own meaning, in which a reference counts as its name."""
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class Reach:
    """All definitions that some roots reach."""

    digest: str
    """64 hex digits: what the roots mean, everything that they reach included."""
    manifest: Manifest
    statements: Mapping[Definition, Sequence[ast.stmt]]
    """The syntax trees."""


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
        self._modules: dict[str, Module | None] = {}

    def module(self, name: str) -> "Module | None":
        """A module of the repository by its dotted name; None where there is no such file."""
        if name not in self._modules:
            self._modules[name] = self._read(name) if name.partition(".")[0] in PACKAGES else None
        return self._modules[name]

    def reach(self, *roots: Definition) -> Reach:
        """Everything that the roots reach.

        Raises:
            RefigureError: A root does not exist, a file does not parse, or a name is imported in a circle.
        """
        for module_name, name in roots:
            source = self.module(module_name)
            if source is None:
                file = module_name.replace(".", "/")
                raise RefigureError(f"module {module_name}: no file {file}.py below the repository")
            if name not in source.bindings:
                raise RefigureError(f"{source.file} has no {name!r} at its top level")
        texts: dict[Definition, Text] = {}
        touched: dict[str, None] = {}
        todo = list(roots)
        while todo:
            definition = todo.pop()
            if definition in texts:
                continue
            texts[definition] = self._known(definition[0]).text(definition[1])
            todo += [reference.target for reference in texts[definition].references]
            todo += self._effects(definition[0], touched)
        digests = _meanings(texts)
        lines = [digests[root] for root in roots]
        lines += sorted(digests[key] for key in texts if key[1] == EFFECTS)
        manifest: dict[str, dict[str, str]] = {}
        for key in sorted(texts):
            manifest.setdefault(self._known(key[0]).file, {})[key[1]] = texts[key].own
        return Reach(
            hashlib.sha256("\n".join(lines).encode()).hexdigest(),
            manifest,
            {key: self._known(key[0]).nodes(key[1]) for key in texts},
        )

    def _known(self, name: str) -> "Module":
        module = self.module(name)
        assert module is not None, name
        return module

    def _effects(self, name: str, touched: dict[str, None]) -> Iterator[Definition]:
        """What importing a module executes that belongs to no name, in it and in the modules that it imports."""
        if name in touched or name == LEAF or name.startswith(LEAF + "."):
            return
        touched[name] = None
        module = self.module(name)
        if module is None:
            return
        if module.effects:
            yield name, EFFECTS
        for imported in (name.rpartition(".")[0], *module.imported):
            yield from self._effects(imported, touched)

    def _read(self, name: str) -> "Module | None":
        base = self.root.joinpath(*name.split("."))
        for file in (base / "__init__.py", base.with_suffix(".py")):
            try:
                text = file.read_text(encoding="utf-8")
                tree = ast.parse(text, filename=str(file))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except SyntaxError as error:
                raise RefigureError(f"{file}, line {error.lineno}: {error.msg}") from None
            except ValueError as error:  # not UTF-8; or a null byte, where this Python calls that no SyntaxError
                raise RefigureError(f"{file}: not a source file in UTF-8 ({error})") from None
            return Module(self, name, file.relative_to(self.root).as_posix(), file.name == "__init__.py", tree)
        return None


@dataclass(frozen=True)
class Reference:
    """A use of a definition in a statement."""

    target: Definition
    name: str
    """The last part of how the statement calls it."""
    version: int
    """How many statements of the target came before, where it has several and is used at import; else -1."""


@dataclass
class Text:
    """The meaning of a definition, its references marked by their numbers."""

    text: str
    references: list[Reference]

    def filled(self, values: Sequence[str]) -> str:
        """The text with a value in place of each reference."""
        parts = self.text.split(MARK)
        parts[1::2] = [f"{values[int(number)]}@{self.references[int(number)].version}" for number in parts[1::2]]
        return "".join(parts)

    @cached_property
    def own(self) -> str:
        """16 hex digits of the meaning in which a reference counts as its name."""
        return _hash(self.filled([reference.name for reference in self.references]))[:16]


@dataclass
class Module:
    """A parsed file: which statements bind which name, and what its imports mean."""

    sources: Sources
    name: str
    file: str
    is_package: bool
    tree: ast.Module
    bindings: dict[str, list[int]] = field(default_factory=dict)
    """Name to the numbers of the statements that belong to it."""
    effects: list[int] = field(default_factory=list)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    """Local name to the dotted names that imports give it."""
    texts: dict[str, Text] = field(default_factory=dict)
    """Name to its meaning, where it was asked for."""

    def __post_init__(self) -> None:
        self.body = [part for statement in self.tree.body for part in _executed(statement)]
        free: list[tuple[int, ast.stmt]] = []
        for number, statement in enumerate(self.body):
            if isinstance(statement, ast.Import | ast.ImportFrom) or _is_text(statement):
                continue
            bound = _bound_names([statement])
            if bound == {"__all__"}:
                continue
            for name in bound:
                self.bindings.setdefault(name, []).append(number)
            if not bound:
                free.append((number, statement))
        for number, statement in free:
            mentioned = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} & set(self.bindings)
            for name in mentioned:
                self.bindings[name] = sorted([*self.bindings[name], number])
            if not mentioned:
                self.effects.append(number)
        for node in ast.walk(ast.Module(self.body, [])):
            for alias, target in self._imports(node):
                self.aliases.setdefault(alias, []).append(target)

    @cached_property
    def imported(self) -> list[str]:
        """Modules of the repository that this one imports, by name."""
        targets = dict.fromkeys(target for targets in self.aliases.values() for target in targets)
        names = [prefix for target in targets for prefix in (target, target.rpartition(".")[0])]
        return [name for name in dict.fromkeys(names) if self.sources.module(name) is not None]

    def nodes(self, name: str) -> list[ast.stmt]:
        """The statements of a name."""
        return [self.body[number] for number in (self.effects if name == EFFECTS else self.bindings[name])]

    def text(self, name: str) -> Text:
        """The meaning of a name."""
        if name not in self.texts:
            writer = _Writer(self, name)
            parts = []
            for number in self.effects if name == EFFECTS else self.bindings[name]:
                writer.position = number
                parts.append(writer.write(self.body[number]))
            self.texts[name] = Text("\n".join(parts), writer.references)
        return self.texts[name]

    def _imports(self, node: ast.AST) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds `a`, and makes `a.b` an attribute of it
                yield (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2
                if not alias.asname and "." in alias.name:
                    yield f"{alias.name} ", alias.name  # a key that no name equals: only that it is imported
        elif isinstance(node, ast.ImportFrom):
            parts = self.name.split(".") if self.is_package else self.name.split(".")[:-1]
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*parts, node.module] if node.module else parts)
            for alias in node.names:
                if alias.name == "*" and source.partition(".")[0] in PACKAGES:
                    raise RefigureError(f"{self.file}, line {node.lineno}: import * hides what is used: name it")
                yield alias.asname or alias.name, f"{source}.{alias.name}"


class _Writer:
    """Writes statements of one name as a text that is the same in every version of Python."""

    def __init__(self, module: Module, name: str) -> None:
        self.module = module
        self.name = name
        self.position = 0
        """Number of the statement in its module."""
        self.references: list[Reference] = []
        self._scopes: list[set[str]] = []
        """Local names of the functions and comprehensions around the present node."""
        self._depth = 0
        """Functions around the present node: what they contain is not executed at import."""

    def write(self, node: object) -> str:
        if isinstance(node, list):
            return "[" + ",".join(self.write(item) for item in node if not _is_silent(item)) + "]"
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            return self._reference(node)
        if isinstance(node, ast.Constant):
            return f"{type(node.value).__name__}:{node.value!r}"
        if isinstance(node, FunctionNode):
            return self._function(node)
        if isinstance(node, ast.Raise):  # what is raised, not what it says
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            return f"Raise({self.write(raised) if raised else ''})"
        if isinstance(node, ast.Assert):
            return f"Assert({self.write(node.test)})"
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            self._scopes.append(_stored_names(node.generators))
            text = self._fields(node)
            self._scopes.pop()
            return text
        return self._fields(node)

    def _fields(self, node: ast.AST) -> str:
        parts = []
        for name in node._fields:
            value = getattr(node, name, None)
            if name in SILENT_FIELDS or value is None or value == []:
                continue
            if isinstance(node, ast.JoinedStr) and name == "values":
                # Python 3.12 ends a nested format with an empty text, other versions do not
                value = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
            if isinstance(node, ast.arg | ast.AnnAssign) and name == "annotation" and not self._in_class(node):
                continue
            if name in ("name", "id") and value == self.name and not self._depth:
                value = "_"  # what a definition is called does not matter
            parts.append(f"{name}={self.write(value)}")
        return f"{type(node).__name__}({','.join(parts)})"

    def _in_class(self, node: ast.AST) -> bool:
        """Whether an annotation is a field's, which dataclasses and named tuples read."""
        return isinstance(node, ast.AnnAssign) and not self._depth and node.col_offset > 0

    def _function(self, node: FunctionNode) -> str:
        outside = self.write(getattr(node, "decorator_list", []))
        defaults = self.write([*node.args.defaults, *filter(None, node.args.kw_defaults)])
        body = node.body if isinstance(node.body, list) else [node.body]
        self._scopes.append({argument.arg for argument in _arguments(node.args)} | _local_names(body))
        self._depth += 1
        text = self.write(body)
        self._depth -= 1
        self._scopes.pop()
        arguments = [argument.arg for argument in _arguments(node.args)]
        shape = [len(node.args.posonlyargs), len(node.args.args), len(node.args.kwonlyargs)]
        starred = [bool(node.args.vararg), bool(node.args.kwarg), [part is None for part in node.args.kw_defaults]]
        name = getattr(node, "name", "")
        name = "_" if name == self.name and not self._depth else name
        return f"{type(node).__name__}({name},{outside},{defaults},{arguments},{shape},{starred},{text})"

    def _reference(self, node: ast.Name | ast.Attribute) -> str:
        """A name, or a chain of attributes of a module, as what it stands for."""
        names: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            names.insert(0, base.attr)
            base = base.value
        if not isinstance(base, ast.Name):
            return self._fields(node)
        if any(base.id in scope for scope in self._scopes):
            return f"Name({base.id})" + "".join(f".{name}" for name in names)
        if base.id in self.module.bindings:
            return self._mark(self.module, base.id) + "".join(f".{name}" for name in names)
        trail: list[list[str]] = []
        meanings = [self._meaning(name, names, trail) for name in self.module.aliases.get(base.id, [base.id])]
        if not any(meanings):
            raise RefigureError(f"{self.module.file}: imports in a circle: {' -> '.join(map('.'.join, trail))}")
        return "|".join(filter(None, meanings))

    def _meaning(self, dotted: str, names: list[str], trail: list[list[str]]) -> str:
        """References to what a dotted name and attributes of it stand for, and the attributes left; "" in a circle."""
        full = [*dotted.split("."), *names]
        if full[0] not in PACKAGES:
            return f"Name({dotted})" + "".join(f".{name}" for name in names)
        if ".".join(full).startswith(LEAF + "."):
            return f"Leaf({'.'.join(full)})"
        if full in trail:
            return ""
        trail.append(full)
        sources = self.module.sources
        size = len(full)
        while size and sources.module(".".join(full[:size])) is None:
            size -= 1
        module, rest = sources.module(".".join(full[:size])), full[size:]
        if module is None:
            return f"Name({'.'.join(full)})"
        if not rest:  # the module itself, which may be asked for anything
            return "All(" + ",".join(self._mark(module, name) for name in sorted(module.bindings)) + ")"
        if rest[0] in module.bindings:
            return self._mark(module, rest[0]) + "".join(f".{name}" for name in rest[1:])
        exported = [self._meaning(name, rest[1:], trail) for name in module.aliases.get(rest[0], [])]
        return "|".join(filter(None, exported)) if exported else f"Name({'.'.join(full)})"

    def _mark(self, module: Module, name: str) -> str:
        numbers, version = module.bindings[name], -1
        if module is self.module and not self._depth and len(numbers) > 1:
            version = sum(number < self.position for number in numbers)
        self.references.append(Reference((module.name, name), name, version))
        return f"{MARK}{len(self.references) - 1}{MARK}"


def _meanings(texts: Mapping[Definition, Text]) -> dict[Definition, str]:
    """The digest of each definition, references counting as the digests of what they name.

    Definitions that call one another in a circle are told apart by as many rounds as there are in the circle.
    """
    digests: dict[Definition, str] = {}
    for circle in _circles({key: [reference.target for reference in text.references] for key, text in texts.items()}):
        inside = dict.fromkeys(circle, "")
        for _ in circle:
            known = {**digests, **inside}
            inside = {
                key: _hash(texts[key].filled([known[reference.target] for reference in texts[key].references]))
                for key in circle
            }
        digests |= inside
    return digests


def _circles(graph: Mapping[Definition, Sequence[Definition]]) -> Iterator[list[Definition]]:
    """Strongly connected components, each after those that it refers to (Tarjan's algorithm without recursion)."""
    index: dict[Definition, int] = {}
    low: dict[Definition, int] = {}
    stack: list[Definition] = []
    waiting: set[Definition] = set()
    for start in sorted(graph):
        work = [(start, iter(graph[start]))] if start not in index else []
        while work:
            key, targets = work[-1]
            if key not in index:
                index[key] = low[key] = len(index)
                stack.append(key)
                waiting.add(key)
            target = next(targets, None)
            if target is None:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[key])
                if low[key] == index[key]:
                    place = stack.index(key)
                    waiting.difference_update(stack[place:])
                    yield stack[place:]
                    del stack[place:]
            elif target not in index:
                work.append((target, iter(graph[target])))
            elif target in waiting:
                low[key] = min(low[key], index[target])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _executed(statement: ast.stmt) -> list[ast.stmt]:
    """A statement of a module; of `if TYPE_CHECKING` the other branch, which is the one that runs."""
    if isinstance(statement, ast.If):
        name = getattr(statement.test, "id", getattr(statement.test, "attr", ""))
        if name == "TYPE_CHECKING":
            return [part for inner in statement.orelse for part in _executed(inner)]
    return [statement]


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_silent(node: object) -> bool:
    """Whether a statement decides no number: a docstring, an import."""
    return _is_text(node) or isinstance(node, ast.Import | ast.ImportFrom)


def _bound_names(statements: Iterable[ast.AST]) -> set[str]:
    """Names that statements bind in their own scope, imports left out."""
    names: set[str] = set()
    todo = list(statements)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            names |= {inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)}
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
                names.add(node.id)
            elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
                names.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest:
                names.add(node.rest)
            todo += ast.iter_child_nodes(node)
    return names


def _local_names(body: Sequence[ast.AST]) -> set[str]:
    """Names that belong to a function with this body, and not to its module."""
    declared = {
        name for node in body for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names
    }
    return _bound_names(body) - declared


def _stored_names(generators: Sequence[ast.comprehension]) -> set[str]:
    return {
        node.id
        for generator in generators
        for node in ast.walk(generator.target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument for argument in listed if argument is not None]
