"""Frozen dataclasses from untrusted mappings: every fault names the file, the key and what was expected."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from common.errors import RefigureError, suggest

__all__ = ["build", "canonical", "override", "parse_scalar", "read_yaml", "to_dict"]

SCALARS: dict[type, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
MOST_VALUES = 100_000
"""In a YAML document, each alias counted as what it repeats."""


def read_yaml(path: Path, where: str = "") -> Any:
    """The document in a YAML file; only plain data, a key given twice is an error.

    Arguments:
        where: What messages call it; its path when left out.

    Raises:
        RefigureError: The file is missing, is no UTF-8 or no YAML; the message has line and column.
    """
    where = where or str(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
        if _values(document, {}) > MOST_VALUES:
            raise RefigureError(f"{where}: its aliases repeat more than {MOST_VALUES:,} values, or themselves")
        return document
    except FileNotFoundError:
        raise RefigureError(f"{where}: no such file") from None
    except UnicodeDecodeError as error:
        raise RefigureError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RefigureError(f"{where}:{place}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        raise RefigureError(f"{where}: not YAML: {error}") from None
    except RecursionError:
        raise RefigureError(f"{where}: nested too deeply") from None
    except OSError as error:
        raise RefigureError(f"{where}: cannot be read ({error.strerror})") from None


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain YAML in which a repeated key is a fault, not a silent override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool):
                if key in seen:
                    message = f"key {key!r} stands here twice"
                    raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _values(document: Any, known: dict[int, float]) -> float:
    """How many values a document has where each alias counts as what it repeats; infinitely many in a circle."""
    if id(document) not in known:
        known[id(document)] = math.inf
        parts = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
        known[id(document)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(document)]


def build(kind: Any, value: Any, where: str) -> Any:
    """`value` as an instance of `kind`, checked all the way down.

    Arguments:
        kind: A dataclass or a type built from scalars, `Literal`, unions, tuples, lists, dicts, dataclasses.
        value: What YAML or JSON gave.
        where: File and key so far, for the message (`papers/x/paper.yaml: experiments.toy`).

    Raises:
        RefigureError: An unknown or missing key, or a value of another type.
    """
    if kind is Any:
        return value
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast(type, kind), value, where)
    if origin in (Union, types.UnionType):
        return _build_union(kind, value, where)
    if origin is Literal:
        if value not in get_args(kind) or isinstance(value, bool) is not isinstance(get_args(kind)[0], bool):
            raise RefigureError(
                f"{where}: {value!r} is not one of the choices; {suggest(str(value), map(str, get_args(kind)))}"
            )
        return value
    if origin in (list, tuple, Sequence):
        return _build_sequence(kind, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise RefigureError(f"{where}: expected a mapping, got {_shown(value)}")
        key_kind, item_kind = get_args(kind)
        return {
            build(key_kind, key, f"{where}: key {key!r}"): build(item_kind, item, f"{where}.{key}")
            for key, item in value.items()
        }
    if kind is type(None):
        if value is not None:
            raise RefigureError(f"{where}: expected nothing, got {_shown(value)}")
        return None
    return _build_scalar(kind, value, where)


def _build_scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise RefigureError(f"{where}: expected a finite number, got one too large") from None
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise RefigureError(f"{where}: expected a finite number, got {value}")
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    hint = ""
    if kind is float and isinstance(value, str) and _is_number(value):
        hint = f" (YAML reads {value} as text: write {float(value)!r})"
    raise RefigureError(f"{where}: expected {SCALARS.get(kind, kind.__name__)}, got {_shown(value)}{hint}")


def _build_sequence(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RefigureError(f"{where}: expected a list, got {_shown(value)}")
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise RefigureError(f"{where}: expected {len(arguments)} items, got {len(value)}")
        return tuple(build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(arguments, value, strict=True)))
    items = [build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    return tuple(items) if origin is tuple else items


def _build_union(kind: Any, value: Any, where: str) -> Any:
    members = get_args(kind)
    if value is None and type(None) in members:
        return None
    faults = []
    for member in (m for m in members if m is not type(None)):
        try:
            return build(member, value, where)
        except RefigureError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    tails = [str(fault).removeprefix(f"{where}: ") for fault in faults]
    raise RefigureError(f"{where}: " + "; or ".join(tails))


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise RefigureError(f"{where}: expected a mapping, got {_shown(value)}")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    hints = _hints(kind)
    for key in value:
        if key not in fields:
            raise RefigureError(f"{where}: unknown key {key!r}; {suggest(str(key), fields)}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in value:
            raise RefigureError(f"{where}: key {name!r} is missing")
    built = {name: build(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**built)
    except ValueError as error:
        raise RefigureError(f"{where}: {error}") from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 40 else text[:37] + "..."
    return f"{text} ({type(value).__name__})"


def to_dict(config: Any) -> Any:
    """A dataclass as plain data that JSON can hold; tuples become lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(item) for key, item in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(item) for item in config]
    return config


def parse_scalar(text: str) -> Any:
    """A value typed on the command line, read as YAML; also `1e-3`, which YAML alone reads as text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if isinstance(value, str) and value == text.strip() and _is_number(value):  # quotes make it a text
        return float(value)
    return value


def override(mapping: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `mapping` with `key=value` texts applied.

    Raises:
        RefigureError: A text without `=`.
    """
    out = dict(mapping)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RefigureError(f"--set {text}: expected key=value")
        out[key.strip()] = parse_scalar(value)
    return out


def canonical(value: Any) -> str:
    """The one JSON text of plain data: sorted keys, no spaces; what digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
