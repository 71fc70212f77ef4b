"""`python workflow/lib/keys.py`: writes docs/keys.md, which says how many runs of scale cpu move with an edit.

Each edit is made in a scratch copy of the sources, and all runs are planned there by the copy's own code. Nothing is
trained.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAN = """
import json
from common.room import plan, spec
runs = [run for paper in spec.papers() for run in plan.plan(paper, "cpu")]
print(json.dumps({"/".join([*run.identity.group.parts, run.identity.seeds_name]): run.identity.key for run in runs}))
"""
Change = tuple[str, str, str]
"""File, a text that stands in it exactly once (empty: its end), and what takes its place."""


@dataclass(frozen=True)
class Edit:
    """One row of the table."""

    what: str
    changes: Sequence[Change]
    expected: Callable[[str], bool] | None
    """Whether a run, `<paper>/<experiment>/<variant>/<seeds>`, should move; None: at least one."""
    before: Sequence[Change] = ()
    """Changes that are there already before the edit."""


def nothing(_run: str) -> bool:
    """No run should move."""
    return False


def everything(_run: str) -> bool:
    """All runs should move."""
    return True


SEEDING, LOOP, TRAIN = "common/train/seeding.py", "common/train/loop.py", "papers/deq/training.py"
MODELS, TOY = "papers/deq/models.py", "papers/survae/toy.py"
RANDOM = 'random: {title: "cloned on random data"}'
MNIST = '\n      mnist: {title: "cloned on MNIST", config: {signals: mnist}}'
PARAMETERS_OF = """def parameters_of(model: nn.Module) -> dict[str, np.ndarray]:
    \"\"\"All weights by name.\"\"\"
    return flatten(model.state_dict())
"""

EDITS = [
    Edit(
        "the wording of an error (`loop.py`)", [(LOOP, "beyond the {total} steps", "after the {total} steps")], nothing
    ),
    Edit(
        "an unused helper added (`seeding.py`)",
        [(SEEDING, "", "\n\ndef spare(seed: int) -> int:\n    return seed + 1\n")],
        nothing,
    ),
    Edit(
        "a function's annotation (`seeding.py`)",
        [(SEEDING, "def _hash(seed: SupportsIndex", "def _hash(seed: int")],
        nothing,
    ),
    Edit(
        "the licence text of a data set", [("common/data/datasets.yaml", "copyright Y. LeCun", "by Y. LeCun")], nothing
    ),
    Edit("the retries of a download", [("common/data/fetching.py", "RETRIES = 2", "RETRIES = 4")], nothing),
    Edit(
        "two import lines swapped (`deq/training.py`)",
        [(TRAIN, "import numpy as np\nimport torch\n", "import torch\nimport numpy as np\n")],
        nothing,
    ),
    Edit(
        "a definition moved to another file of its folder (`deq`: `parameters_of`)",
        [
            (TRAIN, PARAMETERS_OF, "from papers.deq.models import parameters_of\n"),
            (
                MODELS,
                "import torch\nimport",
                "import numpy as np\nimport torch\nfrom common.train.trees import flatten\nimport",
            ),
            (MODELS, "", "\n\n" + PARAMETERS_OF),
        ],
        nothing,
    ),
    Edit(
        "one more setting in one experiment's config class (`deq/regression`)",
        [("papers/deq/config.py", "    noise: float = 0.05\n", "    noise: float = 0.05\n    spare: int = 0\n")],
        lambda run: run.startswith("deq/regression/"),
    ),
    Edit(
        "one setting of one variant (`vsml/clone/random`, with the runs that begin from it)",
        [("papers/vsml/paper.yaml", RANDOM + MNIST, RANDOM.replace("}", ", config: {ticks: 4}}") + MNIST)],
        lambda run: run.startswith(("vsml/clone/random/", "vsml/unroll/random")),
    ),
    Edit(
        "the compiled loop of JAX computes something else (`jax.py`: steps counted from 1)",
        [("common/train/jax.py", "first + jnp.arange(length", "first + 1 + jnp.arange(length")],
        None,
    ),
    Edit(
        "the loop driver computes something else (`loop.py`: means in single precision)",
        [(LOOP, "dtype=np.float64", "dtype=np.float32")],
        None,
    ),
    Edit(
        "TF32 where float32 was (`runtime.py`)",
        [
            (
                "common/run/runtime.py",
                '"fp32": {"torch": "highest", "jax": "highest"',
                '"fp32": {"torch": "high", "jax": "high"',
            )
        ],
        everything,
    ),
    Edit(
        "two threads declared where it was one (`deq/images`)",
        [("papers/deq/paper.yaml", "config_class: Images\n", "config_class: Images\n    threads: 2\n")],
        lambda run: run.startswith("deq/images/"),
    ),
    Edit(
        "`RATE = 1; STEPS = RATE * 10; RATE = 2` in another order (`survae/toy.py`)",
        [(TOY, "STEPS = RATE * 10\nRATE = 2\n", "RATE = 2\nSTEPS = RATE * 10\n")],
        lambda run: run.startswith("survae/toy/"),
        before=[(TOY, "CHUNK = 250\n", "RATE = 1\nSTEPS = RATE * 10\nRATE = 2\nCHUNK = 25 * STEPS\n")],
    ),
]


def make(tree: Path, changes: Sequence[Change]) -> None:
    """Edit files of a tree."""
    for name, old, new in changes:
        path = tree / name
        text = path.read_text(encoding="utf-8")
        if old and text.count(old) != 1:
            sys.exit(f"error: {name} holds {old!r} {text.count(old)} times: bring workflow/lib/keys.py up to date")
        path.write_text(text.replace(old, new) if old else text + new, encoding="utf-8")


def keys(tree: Path) -> dict[str, str]:
    """Run to key, planned by the sources in a tree."""
    environment = {**os.environ, "PYTHONPATH": os.fspath(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PLAN], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def scratch(folder: Path) -> Path:
    """A copy of the sources."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("common", "papers"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.copy(ROOT / "Snakefile", tree / "Snakefile")
    return tree


def rows() -> list[str]:
    """The table, a line an edit; ends the program where an edit moves other runs than it should."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for edit in EDITS:
            tree = scratch(Path(folder))
            make(tree, edit.before)
            before = keys(tree)
            make(tree, edit.changes)
            after = keys(tree)
            moved = {run for run in before if after[run] != before[run]}
            expected = None if edit.expected is None else {run for run in before if edit.expected(run)}
            if moved != expected if expected is not None else not moved:
                sys.exit(f"error: {edit.what}: moves {sorted(moved)}, should move {sorted(expected or [])}")
            rooms = ", ".join(
                f"{paper} {n}" for paper, n in sorted(Counter(run.partition("/")[0] for run in moved).items())
            )
            lines.append(f"| {edit.what} | {len(moved)} of {len(before)} | {rooms or '–'} |")
    return lines


def main() -> None:
    """Write the table between its marks."""
    path = ROOT / "docs" / "keys.md"
    head, begin, rest = path.read_text(encoding="utf-8").partition("<!-- table: written by workflow/lib/keys.py -->\n")
    _, end, tail = rest.partition("<!-- end of table -->")
    table = "\n".join(["| edit | runs that move | by room |", "|---|---:|---|", *rows()])
    path.write_text(f"{head}{begin}{table}\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
