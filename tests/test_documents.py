"""The documents of the rooms: their schemas for editors and the dataclasses that read them agree."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import common
from common.errors import RefigureError
from common.report.gallery import with_claims
from common.room import claims, spec
from common.room.config import build, read_yaml
from common.verdict.judge import from_records

HOME = Path(common.__file__).resolve().parents[1]
KINDS = ("paper", "claims")
REAL = [(path, name) for name in KINDS for path in sorted(HOME.glob(f"papers/*/{name}.yaml"))]


@pytest.fixture(scope="module")
def checkers() -> dict[str, jsonschema.Draft202012Validator]:
    schemas = {name: json.loads((HOME / f"workflow/schemas/{name}.schema.json").read_text()) for name in KINDS}
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    return {name: jsonschema.Draft202012Validator(schema) for name, schema in schemas.items()}


def read(name: str, document: Any, where: str) -> None:
    """As a room reads it."""
    list(claims.parse(document, where)) if name == "claims" else build(spec.Paper, document, where)


def test_what_every_room_made_is_among_the_artifacts() -> None:
    rooms = {path.parent.name for path, name in REAL if name == "paper"}
    stage = read_yaml(HOME / "dvc.yaml")
    kept = yaml.safe_load((HOME / "dvc.lock").read_text())["stages"]
    assert set(stage["stages"]["reproduce"]["matrix"]["paper"]) == rooms
    published = {path.parent.name for path in HOME.glob("docs/gallery/*/claims.json")}
    assert {name.removeprefix("reproduce@") for name in kept} >= published
    assert set(stage["metrics"]) == {f"results/{room}/metrics.json" for room in rooms}


@pytest.mark.parametrize(("path", "name"), REAL, ids=lambda value: str(getattr(value, "parent", value))[-12:])
def test_documents_fit_schema_and_dataclass(checkers: dict[str, Any], path: Path, name: str) -> None:
    document = read_yaml(path)
    checkers[name].validate(document)
    read(name, document, path.name)


BROKEN: list[tuple[str, tuple[Any, ...], Any]] = [
    ("paper", ("titel",), "x"),
    ("paper", ("title",), 3),
    ("paper", ("experiments", "toy", "threads"), "two"),
    ("paper", ("experiments", "toy", "scales", "tiny"), {"seeds": [0]}),
    ("paper", ("experiments", "toy", "scales", "cpu", "seeds"), [0, "1"]),
    ("paper", ("experiments", "toy", "scales", "cpu", "seed"), [0]),
    ("paper", ("figures", "figure4"), []),
    ("claims", ("claims", 0, "kind"), "guess"),
    ("claims", ("claims", 0, "source", "how"), "heard"),
    ("claims", ("claims", 0, "published"), {"error": 1}),
    ("claims", ("claims", 0, "better"), None),
    ("claims", ("claims", 4, "tolerance", "absolut"), 1),
]


@pytest.mark.parametrize(("name", "place", "value"), BROKEN, ids=lambda value: str(value)[:40])
def test_schema_and_dataclass_refuse_the_same(
    checkers: dict[str, Any], name: str, place: tuple[Any, ...], value: Any
) -> None:
    document = yaml.safe_load((HOME / f"papers/survae/{name}.yaml").read_text())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert not checkers[name].is_valid(document)
    with pytest.raises(RefigureError, match=str(place[-1])):
        read(name, document, "document")


@pytest.mark.parametrize("paper", [path.parent.name for path in sorted(HOME.glob("papers/*/claims.yaml"))])
def test_the_numbers_in_a_readme_are_those_of_the_gallery(paper: str) -> None:
    """What stands in marked tables was written by the last `make gallery`, from runs."""
    path, verdicts = HOME / f"papers/{paper}/README.md", HOME / f"docs/gallery/{paper}/claims.json"
    judged = from_records(json.loads(verdicts.read_text()), str(verdicts))
    assert with_claims(path.read_text(), judged, path) == path.read_text()


def test_a_marked_table_that_names_nothing_is_refused() -> None:
    with pytest.raises(RefigureError, match=r"x: no claim .S1.; None is known"):
        with_claims("<!-- claims: S1 -->\n<!-- end of claims -->", [], Path("x"))
    with pytest.raises(RefigureError, match=r"x: 1 marks `<!-- claims: \.\.\. -->`, but 0"):
        with_claims("<!-- claims: S1 -->", [], Path("x"))


def test_a_marked_table_holds_each_claim_once() -> None:
    verdicts = HOME / "docs/gallery/survae/claims.json"
    judged = from_records(json.loads(verdicts.read_text()), str(verdicts))
    text = with_claims("a\n<!-- claims: S1a-flow S1a-* -->\nold\n<!-- end of claims -->\nb", judged, Path("x"))
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["`S1a-flow`", "`S1a-absflow`"]
    assert text.startswith("a\n<!-- claims: S1a-flow S1a-* -->\n| claim |")
    assert "old" not in text
