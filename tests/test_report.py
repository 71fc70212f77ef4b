"""`results/<paper>/`: decided by content, drawn of verified runs, the same bytes each time."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from toy import Toy, without_papers

from common import atomic
from common.errors import RefigureError
from common.report import gallery
from common.report.build import build, shown
from common.report.inputs import digest_of, inputs_of, is_current, output_names, runs_of
from common.room import spec
from common.run import record, runtime

FIGURES = '''"""Draws the fall."""

import matplotlib.pyplot as plt
import pandas as pd

from common.report.theme import Drawing


def draw(runs, claims=()):
    """Where each run ends."""
    table = pd.DataFrame({"run": [run.identity.variant for run in runs], "x": [run.metrics["x"][0] for run in runs]})
    figure, axes = plt.subplots()
    axes.plot(table["x"], "o")
    return Drawing(figure, table, [str(run.identity) for run in runs])
'''


@pytest.fixture
def drawn(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The tiny repository with results of its one figure."""
    facts = {"threads": {"environment": 1}, "precision": {"precision": "fp32"}}
    monkeypatch.setattr(runtime, "settle", lambda threads, precision: facts)
    (toy.root / "papers/toy_paper/figures.py").write_text(FIGURES)
    toy.edit("papers/toy_paper/paper.yaml", "experiment: main\n", "experiment: main\n    original: Figure 1\n")
    toy.edit("papers/toy_paper/paper.yaml", "      paper: {seeds: [0, 1, 2], batch: true}\n", PAPER)
    toy.edit(
        "papers/toy_paper/paper.yaml",
        "    scales:\n      cpu: {seeds: [0, 1]}\n",
        "    scales:\n      smoke: {seeds: [0]}\n",
    )
    toy.finished()
    toy.finished(variant="momentum")
    build("toy_paper", "cpu")
    return toy


PAPER = "      paper: {seeds: [0, 1, 2, 3], batch: true}\n"


def content(toy: Toy) -> dict[str, bytes]:
    folder = toy.root / "results/toy_paper"
    return {name: (folder / name).read_bytes() for name in output_names("toy_paper")}


def test_drawing_again_gives_the_same_bytes(drawn: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(drawn)
    assert is_current("toy_paper", "cpu")
    monkeypatch.chdir(drawn.root / "papers")
    build("toy_paper", "cpu")
    assert content(drawn) == before
    provenance = json.loads(before["provenance.json"])
    assert provenance["drawing"] == digest_of(inputs_of("toy_paper", "cpu"))
    assert set(provenance["files"]) == {*before} - {"provenance.json"}
    assert len(provenance["runs"]) == 2


def altered(content: bytes) -> bytes:
    """Content of which one bit in the middle is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


MEANINGLESS = [
    ("papers/toy_paper/figures.py", '"""Where each run ends."""', "# Where each run ends."),
    ("papers/toy_paper/paper.yaml", "\nfigures:", "\n# A remark.\nfigures:"),
    ("papers/toy_paper/claims.yaml", "claims:\n", "claims:  # of the toy\n"),
    ("papers/toy_paper/figures.py", "import pandas as pd\n", "import pandas as pd\n\nUNUSED = 1\n"),
]
MEANT = [
    ("papers/toy_paper/figures.py", '"o"', '"s"'),
    ("papers/toy_paper/paper.yaml", "The fall", "The descent"),
    ("papers/toy_paper/claims.yaml", "generous", "lenient"),
    ("papers/toy_paper/method.py", "return 2", "return 2.5"),  # other runs
]


def test_only_edits_with_a_meaning_draw_again(drawn: Toy) -> None:
    for name, old, new in (*MEANINGLESS, *MEANT):
        drawn.edit(name, old, new)
        assert is_current("toy_paper", "cpu") == ((name, old, new) in MEANINGLESS), new
        drawn.edit(name, new, old)
    assert is_current("toy_paper", "cpu")


def test_runs_and_outputs_count_by_content(drawn: Toy) -> None:
    assert not is_current("toy_paper", "smoke")
    for name in output_names("toy_paper"):
        path = drawn.root / "results/toy_paper" / name
        before = path.read_bytes()
        path.write_bytes(altered(before))
        assert not is_current("toy_paper", "cpu"), name
        path.unlink()
        assert not is_current("toy_paper", "cpu"), name
        path.write_bytes(before)
    assert is_current("toy_paper", "cpu")
    for name in (record.DONE, record.PROVENANCE):
        path = drawn.folder(drawn.plan()) / name
        before = path.read_bytes()
        path.unlink()
        assert not is_current("toy_paper", "cpu"), name
        path.write_bytes(before)
    assert is_current("toy_paper", "cpu")


def test_a_run_under_published_settings_counts_once_it_is_done(drawn: Toy) -> None:
    names = {name for name in inputs_of("toy_paper", "cpu") if name.startswith("runs/")}
    assert len(names) == 2
    assert drawn.one("--scale", "paper") == 0
    (added,) = {name for name in inputs_of("toy_paper", "cpu") if name.startswith("runs/")} - names
    assert "main/plain/seeds0-3" in added
    assert not is_current("toy_paper", "cpu")
    build("toy_paper", "cpu")
    provenance = json.loads(content(drawn)["provenance.json"])
    assert sorted(run["scale"] for run in provenance["runs"].values()) == ["cpu", "cpu", "paper"]
    room, plans = spec.load("toy_paper"), runs_of("toy_paper", "cpu")

    def seeds(**changes: Any) -> list[tuple[str, int]]:
        figure = dataclasses.replace(room.figures["fall"], **changes)
        return sorted((run.identity.variant, len(run.identity.seeds)) for run in shown(room, figure, plans, "cpu"))

    assert seeds() == [("momentum", 3), ("plain", 3)]
    assert seeds(published=True) == [("momentum", 3), ("plain", 4)]
    fewer = [dataclasses.replace(run, identity=dataclasses.replace(run.identity, seeds=(0, 1))) for run in plans[-1:]]
    plans = [*plans[:-1], *fewer]
    assert seeds(published=True) == [("momentum", 3), ("plain", 3)]


EDIT = """    from pathlib import Path

    source = Path(__file__).read_text()
    Path(__file__).write_text(source.replace('"o"' + ")", '"x"' + ")"))
"""


def test_code_that_changes_while_it_draws_is_refused(drawn: Toy) -> None:
    drawn.edit("papers/toy_paper/figures.py", "    figure, axes", EDIT + "    figure, axes")
    without_papers()
    with pytest.raises(RefigureError, match=r"papers/toy_paper/figures\.py changed while results/toy_paper was drawn"):
        build("toy_paper", "cpu")
    assert not is_current("toy_paper", "cpu")


def test_a_damaged_file_of_a_run_is_never_drawn(drawn: Toy) -> None:
    before = content(drawn)
    for name in ("arrays.npz", "metrics.jsonl", "config.json", "provenance.json", "metrics.json"):
        path = drawn.folder(drawn.plan()) / name
        kept = path.read_bytes()
        path.write_bytes(altered(kept))
        with pytest.raises(RefigureError, match=path.parent.name):
            build("toy_paper", "cpu")
        path.unlink()
        with pytest.raises(RefigureError, match=f"{name} cannot be read|not there or not finished"):
            build("toy_paper", "cpu")
        path.write_bytes(kept)
    assert content(drawn) == before


def test_the_gallery_takes_over_nothing_that_was_altered(drawn: Toy) -> None:
    gallery.build()
    taken = {path: path.read_bytes() for path in Path("docs/gallery").rglob("*") if path.is_file()}
    assert (Path("docs/gallery/toy_paper/claims.json")).read_bytes() == content(drawn)["claims.json"]
    for name in ("claims.json", "figures/fall.png", "index.html", "provenance.json"):
        path = drawn.root / "results/toy_paper" / name
        before = path.read_bytes()
        path.write_bytes(altered(before))
        with pytest.raises(RefigureError, match=f"{name}.*makes it again"):
            gallery.build()
        path.write_bytes(before)
    assert {path: path.read_bytes() for path in Path("docs/gallery").rglob("*") if path.is_file()} == taken
    gallery.build()


def test_small_numbers_of_a_build_are_read_as_numbers(drawn: Toy) -> None:
    """YAML would take 6e-05, as Python writes it, for a text."""
    drawn.edit("papers/toy_paper/claims.yaml", "error: 0.1", "error: 0.00006")
    build("toy_paper", "cpu")
    assert b"6e-05" in content(drawn)["claims.json"]
    gallery.build()


REPLAY: dict[str, Any] = {"from": "toy_paper/main/plain/seeds0-2-0123456789ab", "steps": 5, "of": 12, "whole": False}


def test_the_page_says_what_was_carried_and_what_is_unknown(drawn: Toy) -> None:
    path = drawn.folder(drawn.plan()) / record.PROVENANCE
    provenance = json.loads(path.read_text())
    entries = [
        {**REPLAY, "revision": {"git": "c" * 40, "dirty": True}},
        {**REPLAY, "from": "toy_paper/main/plain/seeds0-2-ba9876543210", "whole": True, "revision": {}},
        {**REPLAY, "sibling": "seed1-aaaaaaaaaaaa", "revision": {"git": "d" * 40, "dirty": False}},
    ]
    changed = {**provenance, "revision": {"git": "a" * 40, "dirty": True}, "carried": entries}
    atomic.write_json(path, record.with_digest(changed))
    assert not is_current("toy_paper", "cpu")
    build("toy_paper", "cpu")
    page = content(drawn)["index.html"].decode()
    for text in (
        "carried from 0123456789ab: 5 of 12 steps replayed<",
        "carried from ba9876543210: whole run replayed<",
        "carried from 0123456789ab: 5 of 12 steps replayed, as sibling of seed1-aaaaaaaaaaaa<",
        ">aaaaaaaaaa with changes<",
        ">carried at cccccccccc with changes<",
        ">carried at unknown<",
        ">carried at dddddddddd<",
        ">unknown<",  # the other run, made outside of a checkout
    ):
        assert text in page, text
    runs = json.loads(content(drawn)["provenance.json"])["runs"]
    assert [len(run.get("carried", [])) for run in runs.values()] == [0, 3]
    judged = json.loads(content(drawn)["claims.json"])
    assert [claim["carried"] for claim in judged] == [True, False]
