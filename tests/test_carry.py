"""`refigure carry`: equal bits are filed under today's key with what was replayed; other bits are left and told."""

import json
from pathlib import Path
from typing import Any

import pytest
from toy import Toy

from common import atomic
from common.room import plan
from common.run import record
from common.run.carry import SUMMARY, carry, moves

SLOPE = '    """Of the parabola."""\n    return 2 * SCALE * x\n'
READABLE = '    """The derivative of the parabola SCALE x^2."""\n    factor = 2 * SCALE\n    return factor * x\n'
OTHER = '    """Of the parabola."""\n    return 2.5 * SCALE * x\n'


def rewrite(toy: Toy, text: str) -> None:
    """Other code for the slope."""
    toy.edit("papers/toy_paper/method.py", SLOPE, text)
    plan.forget()


def entries(folder: Path) -> list[dict[str, Any]]:
    """What a run's provenance says of its carrying."""
    carried: list[dict[str, Any]] = json.loads((folder / record.PROVENANCE).read_text())["carried"]
    return carried


def test_a_run_whose_numbers_stay_is_filed_under_todays_key(toy: Toy) -> None:
    before = toy.finished()
    arrays = before.arrays
    rewrite(toy, READABLE)
    today = toy.plan()
    assert today.identity.key != before.key
    assert [move.run.folder for move in moves("toy_paper", "main")] == [before.folder]
    (line,) = carry("toy_paper", "main")
    assert line == f"{today.identity}: carried from {before.folder.name} (1 of 12 steps replayed)"
    assert not before.folder.exists()
    run = record.read(toy.folder(today))
    run.verify()
    assert run.metrics == before.metrics
    assert run.parameters.keys() == {"x", "v"}
    assert (run.arrays["x"] == arrays["x"]).all()
    (entry,) = entries(run.folder)
    assert (entry["from"], entry["to"], entry["lines"], entry["whole"]) == (
        before.identity.path.as_posix(), today.identity.key, 2, False,
    )  # fmt: skip
    assert {"revision", "machine", "seconds", "steps", "of", "states"} <= entry.keys()
    assert not list(carry("toy_paper", "main")), "there is nothing more to carry"
    assert toy.one() == 0, "and nothing to train"


def test_where_numbers_change_it_says_where_and_leaves_the_run(toy: Toy) -> None:
    before = toy.finished()
    rewrite(toy, OTHER)
    (line,) = carry("toy_paper", "main")
    assert "not carried: it parts at step 1: x was [" in line
    assert record.read(before.folder).metrics == before.metrics
    assert not toy.folder(toy.plan()).exists()


def test_a_change_beyond_the_opening_is_found_where_all_of_a_run_is_replayed(toy: Toy) -> None:
    toy.edit(
        "papers/toy_paper/paper.yaml",
        "cpu: {seeds: [0, 1, 2], batch: true}",
        "cpu: {seeds: [0, 1, 2], batch: true, replay: 0}",
    )
    toy.finished()
    toy.edit("papers/toy_paper/main.py", '"square": (state["x"] ** 2)', '"square": (state["x"] ** 4)')
    plan.forget()
    (line,) = carry("toy_paper", "main")
    assert line.endswith("not carried: it parts at the end: metric 'square' differs")


POWERS = "\n\ndef powers(x):\n    return x ** int(get_args(Powers)[0])\n"
MEASURED = "\n\ndef measured(x):\n    return x ** 2\n"


def test_what_the_opening_does_not_execute_must_be_replayed_whole(toy: Toy) -> None:
    """A change in what is measured after training leaves the opening as it was."""
    toy.edit("papers/toy_paper/main.py", '(state["x"] ** 2).tolist()', 'measured(state["x"]).tolist()')
    path = toy.root / "papers" / "toy_paper" / "main.py"
    path.write_text(path.read_text() + MEASURED)
    plan.forget()
    before = toy.finished()
    toy.edit("papers/toy_paper/main.py", "return x ** 2", "return x ** 4")
    plan.forget()
    (line,) = carry("toy_paper", "main")
    assert "not carried: papers/toy_paper/main.py: measured changed, and the 2 lines that are replayed do not" in line
    assert record.read(before.folder).metrics == before.metrics


def test_a_method_that_the_opening_does_not_execute_must_be_replayed_whole(toy: Toy) -> None:
    path = toy.root / "papers" / "toy_paper" / "main.py"
    kit = "\n\nclass Kit:\n    def same(self, x):\n        return x\n\n    def last(self, x):\n        return x\n"
    path.write_text(path.read_text() + kit)
    toy.edit("papers/toy_paper/main.py", "    final = [", "    Kit().last(0)\n    final = [")
    plan.forget()
    toy.finished()
    toy.edit(
        "papers/toy_paper/main.py",
        "    def last(self, x):\n        return x",
        "    def last(self, x):\n        return 2 * x",
    )
    plan.forget()
    (line,) = carry("toy_paper", "main")
    assert "main.py: Kit changed, and the 2 lines that are replayed do not execute it" in line


def test_rewritten_settings_of_the_same_values_are_executed_in_an_opening(toy: Toy) -> None:
    """Their checks run before the training does, and an alias for names is not executed at all."""
    toy.finished()
    toy.edit("papers/toy_paper/config.py", 'Literal["none", "crash", "bad end", "bad log", "short"]', "Fault")
    toy.edit(
        "papers/toy_paper/config.py",
        "@dataclass",
        'Fault = Literal["none", "crash", "bad end", "bad log", "short"]\n\n\n@dataclass',
    )
    toy.edit("papers/toy_paper/config.py", "if self.steps < 1:", "if not self.steps >= 1:")
    plan.forget()
    (line,) = carry("toy_paper", "main")
    assert "carried from" in line


def test_an_alias_outside_of_the_settings_is_code_like_any_other(toy: Toy) -> None:
    """What is done after the opening may depend on it."""
    path = toy.root / "papers" / "toy_paper" / "main.py"
    path.write_text(path.read_text() + '\n\nfrom typing import Literal, get_args\n\nPowers = Literal["2"]\n' + POWERS)
    toy.edit("papers/toy_paper/main.py", '(state["x"] ** 2).tolist()', 'powers(state["x"]).tolist()')
    plan.forget()
    toy.finished()
    toy.edit("papers/toy_paper/main.py", 'Literal["2"]', 'Literal["4"]')
    plan.forget()
    (line,) = carry("toy_paper", "main")
    assert "main.py: Powers changed, and the 2 lines that are replayed do not execute it" in line


def test_a_replay_of_another_time_is_made_again(toy: Toy) -> None:
    before = toy.finished()
    rewrite(toy, READABLE)
    for content in ("{", '{"key": "0123456789ab"}'):
        (before.folder / SUMMARY).write_text(content)
    (line,) = carry("toy_paper", "main")
    assert "carried from" in line


def test_what_was_not_replayed_to_its_end_is_named(toy: Toy) -> None:
    toy.finished()
    toy.edit("papers/toy_paper/main.py", "    final = [", "    unused = 3\n    final = [")
    plan.forget()
    (line,) = carry("toy_paper", "main")
    assert line.endswith("(1 of 12 steps replayed; not to its end: papers/toy_paper/main.py: train)")
    assert entries(toy.folder(toy.plan()))[0]["not to their end"] == ["papers/toy_paper/main.py: train"]


def test_a_stream_that_grew_is_not_the_same(toy: Toy) -> None:
    cpu = "cpu: {seeds: [0, 1, 2], batch: true"
    toy.edit("papers/toy_paper/paper.yaml", cpu + "}", cpu + ", replay: 0}")
    toy.finished()
    toy.edit("papers/toy_paper/main.py", "    final = [", '    run.log(99, {"x": 0.0})\n    final = [')
    plan.forget()
    (line,) = carry("toy_paper", "main")
    assert line.endswith("not carried: it parts at step 99: the run logged nothing there")


def test_a_run_that_was_begun_under_todays_key_gives_way(toy: Toy) -> None:
    before = toy.finished()
    rewrite(toy, READABLE)
    target = toy.folder(toy.plan())
    target.mkdir(parents=True)
    (target / "config.json").write_text("{}")
    list(carry("toy_paper", "main"))
    assert record.read(target).metrics == before.metrics
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == [target.name]


@pytest.mark.parametrize("setting", ["rate=0.2", "steps=13"])
def test_other_settings_are_another_run(toy: Toy, setting: str) -> None:
    toy.finished(setting)
    rewrite(toy, READABLE)
    assert not list(moves("toy_paper"))


def test_of_each_variant_a_run_is_replayed_and_siblings_are_declared(toy: Toy) -> None:
    for variant in ("plain", "momentum"):
        toy.finished(variant=variant)
    assert toy.main("--experiment", "single") == 0
    rewrite(toy, READABLE)
    lines = list(carry("toy_paper", jobs=2))
    assert len(lines) == 4
    assert sum("as sibling of seed" in line for line in lines) == 1
    siblings = [
        entry.get("sibling") for file in toy.root.glob("runs/*/*/*/*/metrics.json") for entry in entries(file.parent)
    ]
    assert sorted(map(bool, siblings)) == [False, False, False, True]


def test_a_replay_is_not_made_twice(toy: Toy) -> None:
    before = toy.finished()
    rewrite(toy, READABLE)
    words = ("--replay", str(before.folder))
    assert toy.one(*words) == 0
    result = json.loads((before.folder / SUMMARY).read_text())
    atomic.write_json(before.folder / SUMMARY, {**result, "seconds": 12345.0})
    list(carry("toy_paper", "main"))
    assert entries(toy.folder(toy.plan()))[0]["seconds"] == 12345.0


def test_a_damaged_run_is_not_carried(toy: Toy) -> None:
    before = toy.finished()
    rewrite(toy, READABLE)
    (before.folder / "metrics.jsonl").write_text("")
    (line,) = carry("toy_paper", "main")
    assert "metrics.jsonl is damaged" in line
    assert before.folder.exists()
