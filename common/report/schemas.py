"""JSON Schemas of `paper.yaml` and `claims.yaml`, for editors and other programs; the dataclasses decide."""

import json
from dataclasses import dataclass
from pathlib import Path

from common import atomic
from common.room.config import json_schema
from common.room.spec import Paper
from common.verdict.claims import Claim

__all__ = ["texts", "write"]


@dataclass(frozen=True)
class Claims:
    """The claims of a paper."""

    claims: list[Claim]
    """One entry a claim."""


def texts() -> dict[str, str]:
    """File name to content."""
    schemas = {
        "paper.schema.json": json_schema(Paper, "papers/<paper>/paper.yaml"),
        "claims.schema.json": json_schema(Claims, "papers/<paper>/claims.yaml"),
    }
    return {name: json.dumps(schema, indent=1) + "\n" for name, schema in schemas.items()}


def write(root: Path) -> list[Path]:
    """Write them to `workflow/schemas/`; returns the paths."""
    folder = root / "workflow" / "schemas"
    for name, text in texts().items():
        atomic.write_text(folder / name, text)
    return [folder / name for name in texts()]
