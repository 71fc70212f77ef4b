"""`python workflow/lib/schemas.py`: writes workflow/schemas/, the JSON Schemas of a room's documents, for editors.

The dataclasses decide: pydantic reads them, and their docstrings become the descriptions.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from common import atomic
from common.room import claims, identity, spec
from common.room.claims import Evaluations

FOLDER = Path(__file__).resolve().parents[1] / "schemas"


@dataclasses.dataclass(frozen=True)
class Claims:
    """The claims of a paper."""

    claims: list[claims.Claim]
    """One entry a claim."""
    evaluations: dict[str, Evaluations] = dataclasses.field(default_factory=dict)
    """Experiment to the evaluations that its metrics are means of."""


DOCUMENTS: dict[str, type] = {"paper": spec.Paper, "claims": Claims}
"""Name of a document of `papers/<paper>/` to its type."""


def texts() -> dict[str, str]:
    """File name to content."""
    for kind in (Claims, *vars(spec).values(), *vars(claims).values(), *vars(identity).values()):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            kind.__pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    return {f"{name}.schema.json": _schema(name, kind) for name, kind in DOCUMENTS.items()}


def _schema(name: str, kind: type) -> str:
    schema = TypeAdapter(kind).json_schema()
    if claim := schema["$defs"].get("Claim"):  # as a document writes it
        claim["properties"]["class"] = claim["properties"].pop("origin")
        claim["required"] = ["class" if name == "origin" else name for name in claim["required"]]
        choices = {"type": "array", "items": {"type": ["string", "integer"]}}
        claim["properties"]["each"] = {
            "description": "Names and the values that each of them takes: a claim for every choice.",
            "type": "object", "additionalProperties": choices,
        }  # fmt: skip
    head = {"$schema": GenerateJsonSchema.schema_dialect, "title": f"papers/<paper>/{name}.yaml"}
    return json.dumps({**head, **_untitled(schema), **head}, indent=1) + "\n"


def _untitled(node: Any) -> Any:
    """A schema without the titles that pydantic makes of names."""
    if isinstance(node, list):
        return [_untitled(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _untitled(item) for key, item in node.items() if key != "title" or not isinstance(item, str)}


if __name__ == "__main__":
    for file, text in texts().items():
        atomic.write_text(FOLDER / file, text)
        print(f"written: {FOLDER / file}")
