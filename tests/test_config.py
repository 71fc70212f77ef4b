"""Configurations from untrusted text: what is wrong is named with its place, what is right comes back the same."""

import contextlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import RefigureError
from common.room.config import build, canonical, override, parse_scalar, read_yaml, to_dict


@dataclass(frozen=True)
class Layer:
    """A part."""

    width: int
    """Units."""
    name: str = "dense"
    """What it is."""


@dataclass(frozen=True)
class Model:
    """Every type that a configuration may have."""

    rate: float
    """Learning rate."""
    kind: Literal["flow", "absflow"] = "flow"
    """Which one."""
    deep: bool = False
    """Or not."""
    hidden: tuple[int, ...] = (2, 3)
    """Widths."""
    box: tuple[float, float] = (0.0, 1.0)
    """Where."""
    layers: tuple[Layer, ...] = ()
    """Parts."""
    limits: dict[str, float] = field(default_factory=dict)
    """By name."""
    words: list[str] = field(default_factory=list)
    """Some."""
    stop: int | None = None
    """When."""
    size: int | Literal["all"] = "all"
    """How much."""

    def __post_init__(self) -> None:
        if self.rate == 13:
            raise ValueError("rate 13 is unlucky")


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"rate": 1, "hiden": [1]}, r"room\.yaml: unknown key 'hiden'; did you mean 'hidden'\?"),
    "unknown key, nothing near": ({"rate": 1, "zzz": 1}, r"unknown key 'zzz'; Known: .*rate"),
    "a key that is no text": ({"rate": 1, 3: 1}, "unknown key 3"),
    "missing key": ({}, r"room\.yaml: key 'rate' is missing"),
    "missing key below": (
        {"rate": 1, "layers": [{"width": 1}, {}]},
        r"room\.yaml\.layers\[1\]: key 'width' is missing",
    ),
    "text for a number": ({"rate": "fast"}, r"room\.yaml\.rate: expected a number, got 'fast' \(str\)"),
    "1e-3 in YAML": ({"rate": "1e-3"}, r"YAML reads 1e-3 as text: write 0\.001"),
    "NaN": ({"rate": math.nan}, r"room\.yaml\.rate: expected a finite number, got nan"),
    "infinity": ({"rate": 1, "limits": {"a": -math.inf}}, r"room\.yaml\.limits\.a: expected a finite number"),
    "an integer beyond floats": ({"rate": 10**400}, r"room\.yaml\.rate: expected a finite number"),
    "bool for a number": ({"rate": True}, r"room\.yaml\.rate: expected a number, got True"),
    "bool for an integer": ({"rate": 1, "layers": [{"width": True}]}, r"layers\[0\]\.width: expected an integer"),
    "float for an integer": ({"rate": 1, "hidden": [1, 2.0]}, r"hidden\[1\]: expected an integer, got 2\.0"),
    "number for a bool": ({"rate": 1, "deep": 1}, r"deep: expected true or false, got 1"),
    "number for a text": ({"rate": 1, "words": [1]}, r"words\[0\]: expected a text, got 1"),
    "text for a list": ({"rate": 1, "words": "word"}, r"words: expected a list, got 'word'"),
    "scalar for a list": ({"rate": 1, "hidden": 3}, r"hidden: expected a list, got 3"),
    "list for a mapping": ({"rate": 1, "limits": [1]}, r"limits: expected a mapping"),
    "wrong length": ({"rate": 1, "box": [1]}, r"box: expected 2 items, got 1"),
    "another choice": (
        {"rate": 1, "kind": "absfow"},
        r"kind: 'absfow' is not one of the choices; did you mean 'absflow'",
    ),
    "no member of a union": ({"rate": 1, "size": "few"}, r"size: expected an integer.*; or 'few' is not one of"),
    "nothing": ({"rate": None}, r"rate: expected a number, got None"),
    "text for an optional": ({"rate": 1, "stop": "x"}, r"stop: expected an integer"),
    "the class's own check": ({"rate": 13}, r"room\.yaml: rate 13 is unlucky"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_file_key_and_expectation(fault: str) -> None:
    value, message = FAULTS[fault]
    with pytest.raises(RefigureError, match=message) as caught:
        build(Model, value, "room.yaml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("room.yaml")


@pytest.mark.parametrize("value", [None, 3, "text", [1]])
def test_a_dataclass_needs_a_mapping(value: Any) -> None:
    with pytest.raises(RefigureError, match="room: expected a mapping, got"):
        build(Model, value, "room")


finite = st.floats(allow_nan=False, allow_infinity=False)
models = st.builds(
    Model,
    rate=finite.filter(lambda rate: rate != 13),
    kind=st.sampled_from(["flow", "absflow"]),
    deep=st.booleans(),
    hidden=st.lists(st.integers()).map(tuple),
    box=st.tuples(finite, finite),
    layers=st.lists(st.builds(Layer, width=st.integers(), name=st.text())).map(tuple),
    limits=st.dictionaries(st.text(), finite),
    words=st.lists(st.text()),
    stop=st.none() | st.integers(),
    size=st.integers() | st.just("all"),
)


@given(models)
def test_a_configuration_survives_plain_data(model: Model) -> None:
    plain = to_dict(model)
    assert build(Model, plain, "x") == model
    assert build(Model, json.loads(canonical(plain)), "x") == model
    assert canonical(to_dict(build(Model, plain, "x"))) == canonical(plain)


leaves = st.none() | st.booleans() | st.integers() | finite | st.text(max_size=5)
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


@given(st.dictionaries(st.sampled_from([*Model.__dataclass_fields__, "other"]), trees, max_size=4))
def test_any_document_is_built_or_refused_in_one_line(document: dict[str, Any]) -> None:
    with contextlib.suppress(RefigureError):  # and nothing else
        model = build(Model, document, "x")
        for key, value in document.items():
            assert to_dict(model)[key] == value


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_any_text_is_yaml_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(RefigureError):  # and nothing else
        read_yaml(path)


YAML_FAULTS = {
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "line 3, column 1: key 'a' stands here twice"),
    "duplicate key inside": ("x:\n  - {a: 1, 'a': 2}\n", "line 2, column 12: key 'a' stands here twice"),
    "unclosed": ("a: [1, 2\n", "line 2"),
    "tab": ("a:\n\tb: 1\n", "line 2"),
    "code": ("!!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    "aliases that multiply": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
        "its aliases repeat more than 100,000 values",
    ),
    "an alias of itself": ("a: &a [1, *a]\n", "its aliases repeat more than 100,000 values, or themselves"),
    "no such day": ("day: 2020-13-45\n", "not YAML: month"),
    "a mapping that is none": ("a: !!map [1, 2]\n", "mapping"),
}


@pytest.mark.parametrize("fault", YAML_FAULTS)
def test_faulty_yaml_is_one_line_with_its_place(tmp_path: Path, fault: str) -> None:
    text, message = YAML_FAULTS[fault]
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(RefigureError, match=message) as caught:
        read_yaml(tmp_path / "f.yaml")
    assert str(caught.value).startswith(str(tmp_path / "f.yaml"))


def test_missing_foreign_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RefigureError, match=r"f\.yaml: no such file"):
        read_yaml(tmp_path / "f.yaml")
    (tmp_path / "f.yaml").write_bytes(b"a: \xff")
    with pytest.raises(RefigureError, match=r"not UTF-8 text .*byte 3"):
        read_yaml(tmp_path / "f.yaml")
    with pytest.raises(RefigureError, match="cannot be read"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1", 1), ("1.5", 1.5), ("true", True), ("flow", "flow"), ("[1, 2]", [1, 2]), ("", None),
        ("null", None), ("2020-13-45", "2020-13-45"), ("[1, ", "[1, "), ("'1'", "1"), ('"1e3"', "1e3"), ("-2E+4", -2e4),
    ],
)  # fmt: skip
def test_typed_values(text: str, value: Any) -> None:
    assert (parse_scalar(text), type(parse_scalar(text))) == (value, type(value))


def test_overrides_leave_the_original_alone() -> None:
    before = {"rate": 0.1, "name": "a"}
    assert override(before, ["rate=1e-3", "name=b=c", " steps =3"]) == {"rate": 1e-3, "name": "b=c", "steps": 3}
    assert before == {"rate": 0.1, "name": "a"}


@pytest.mark.parametrize("text", ["rate", "=3", " =3", ""])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(RefigureError, match="expected key=value"):
        override({}, [text])


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans())
def test_numbers_typed_come_through(value: Any) -> None:
    assert override({}, [f"x={str(value).lower()}"])["x"] == value
