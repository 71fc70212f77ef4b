"""The committed JSON Schemas are those of the dataclasses."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "import json, schemas; print(json.dumps(schemas.texts()))"


def test_committed_schemas_are_current() -> None:
    """In a process of its own: pydantic's settings are put on the dataclasses themselves."""
    folders = [str(ROOT), str(ROOT / "workflow" / "lib")]
    program = f"import sys; sys.path[:0] = {folders}; {PROGRAM}"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    texts = json.loads(answer.stdout)
    assert texts == {path.name: path.read_text() for path in (ROOT / "workflow" / "schemas").iterdir()}
    claim = json.loads(texts["claims.schema.json"])["$defs"]["Claim"]
    assert claim["additionalProperties"] is False
    assert claim["properties"]["unit"]["description"] == "Unit of the metric."
