"""Runs that begin from another run's parameters: keys, faults of the spec, finding the parent, Snakemake."""

import dataclasses
import os
import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import ROOM, Repository, built_repository, copy_of, idle, jobs
from toy import Toy, fault_of

from common.cli.runs import explain_paper, explain_run, import_all, superfluous, survey
from common.errors import RefigureError
from common.room import plan, spec
from common.room.identity import Deviation, Identity
from common.room.plan import PlannedRun
from common.run import record
from common.train import recorder
from common.train.recorder import Outcome
from common.verdict.evidence import evaluate

SECOND = '''"""Goes on from where the descent ended."""

from common.train.recorder import Outcome
from papers.toy_paper.config import Descent


def train(config: Descent, seeds, run, parent) -> Outcome:
    """Scales what was trained."""
    x = config.rate * parent.parameters["x"]
    return Outcome({"x": x.tolist()}, parameters={"x": x})
'''

ENTRY = """
  second:
    summary: "Goes on"
    module: papers.toy_paper.second
    config_class: Descent
    parent: main
    deviations:
      - {what: "NumPy instead of Fortran", reason: "taste", touches: []}
      - {what: "goes on", reason: "why not", touches: [C-second]}
    variants:
      plain: {title: "plain"}
      other: {title: "other", parent: momentum}
    scales:
      smoke: {seeds: [0, 1], batch: true, variants: [plain, other], config: {rate: 0.5}, why: "haste"}
      cpu: {seeds: [0, 1, 2], batch: true}
figures:"""

CHILD = ("--experiment", "second", "--variant", "plain")


@pytest.fixture
def pair(toy: Toy) -> Toy:
    """The tiny repository with a second experiment, which begins from the main one."""
    (toy.root / "papers/toy_paper/second.py").write_text(SECOND)
    toy.edit("papers/toy_paper/paper.yaml", "\nfigures:", ENTRY)
    return toy


def child(*assignments: str, variant: str = "plain") -> PlannedRun:
    return plan.plan_run("toy_paper", "second", variant, "cpu", (0, 1, 2), assignments)


# Keys and plans.

PARENT = Identity("paper", "first", "plain", {"rate": 0.1}, (0, 1), {}, "c0de")
IDENTITIES = st.builds(
    Identity,
    st.just("paper"),
    st.sampled_from(["first", "other"]),
    st.sampled_from(["plain", "heavy"]),
    st.fixed_dictionaries({"rate": st.sampled_from([0.1, 0.2])}),
    st.sampled_from([(0,), (0, 1)]),
    st.just({}),
    st.sampled_from(["c0de", "c0de2"]),
)


def child_of(parent: Identity) -> Identity:
    return dataclasses.replace(PARENT, experiment="second", parent=parent.path.relative_to("paper").as_posix())


@given(IDENTITIES, IDENTITIES)
def test_the_key_changes_exactly_with_the_parents(first: Identity, second: Identity) -> None:
    assert (child_of(first).key == child_of(second).key) == (first.key == second.key)
    assert child_of(first).key != dataclasses.replace(child_of(first), parent="").key


@pytest.mark.parametrize(
    "parent", ["first", "first/plain", "../up/x", "a/../b", "/etc/x", "a/b/c/d", "a/b/", "a/b/c d"]
)
def test_what_names_no_run_is_no_parent(parent: str) -> None:
    with pytest.raises(ValueError, match=r"is no run|is no name"):
        dataclasses.replace(PARENT, parent=parent)


def test_the_parent_is_the_run_of_the_same_scale_and_seeds(pair: Toy) -> None:
    planned = {str(each.identity.group): each for each in plan.plan("toy_paper", "smoke")}
    for variant, begins_from in (("plain", "plain"), ("other", "momentum")):
        run, parent = planned[f"toy_paper/second/{variant}"], planned[f"toy_paper/main/{begins_from}"]
        assert run.parent == parent
        assert run.identity.parent == f"main/{begins_from}/seeds0-1-{parent.identity.key}"
        assert [each.identity for each in run.lineage] == [run.identity, parent.identity]
    assert plan.plan_run("toy_paper", "second", "plain", "cpu", (7,)).parent == pair.plan(seeds=(7,))


def test_deviations_of_the_parent_are_taken_over(pair: Toy) -> None:
    assert plan.plan("toy_paper", "smoke", "second")[1].deviations == (
        Deviation("rate: 0.5 instead of 0.1", "haste"),
        Deviation("NumPy instead of Fortran", "taste", ()),
        Deviation("goes on", "why not", ("C-second",)),
        Deviation("steps: 4 instead of 12", "seconds"),
        Deviation("heavier ball", "no other at hand", ("C-touched",)),
    )


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("paper.yaml", "config: {momentum: true}", "config: {momentum: true, rate: 0.3}", [False, True, False, True]),
        ("paper.yaml", 'plain: {title: "plain"}\n      mom', 'plain: {title: "p"}\n      mom', [False] * 4),
        ("paper.yaml", '"other", parent', '"other", config: {rate: 0.3}, parent', [False, False, False, True]),
        ("paper.yaml", "parent: momentum", "parent: plain", [False, False, False, True]),
        ("second.py", "config.rate *", "2 * config.rate *", [False, False, True, True]),
        ("method.py", "return 2", "return 3", [True] * 4),
    ],
)
def test_a_change_reaches_what_begins_from_it(pair: Toy, name: str, old: str, new: str, changed: list[bool]) -> None:
    def keys() -> list[str]:
        names = ("main", "second")
        return [each.identity.key for name in names for each in plan.plan("toy_paper", "cpu", name)]

    before = keys()
    pair.edit(f"papers/toy_paper/{name}", old, new)
    assert [key != present for key, present in zip(before, keys(), strict=True)] == changed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("parent: main", "parent: man", r"no experiment 'man' in .*second\.parent; did you mean 'main'"),
        ("parent: main", "parent: second", r"second\.parent: 'second' must be another experiment, before 'second'"),
        ("\n  single:\n", "\n  single:\n    parent: second\n", r"single\.parent: 'second' must be .* before 'single'"),
        ("    parent: main\n", "", r"variants\.other\.parent: experiments\.second\.parent must say whose variant"),
        ("parent: momentum", "parent: momentun",
         r"no variant 'momentun' in main .*other\.parent.; did you mean 'momentum'"),
        (', parent: momentum', "", r"no variant 'other' in main .*second\.variants\.other\.parent.; Known: mom"),
        ("parent: main", "parent: single", r"no variant 'momentum' in single .*; Known: plain"),
        ("      smoke: {seeds: [0, 1], batch: true, config: {steps: 4}, why: \"seconds\"}\n", "",
         r"no scale 'smoke' in the parent main .*second\.scales\.smoke.; Known: cpu, paper"),
        ("batch: true, config: {steps: 4}", "batch: true, variants: [plain], config: {steps: 4}",
         r"second\.scales\.smoke\.variants: 'other' begins from variant 'momentum' of 'main', .* Known: plain"),
        ("[0, 1], batch: true, variants", "[0, 2], batch: true, variants",
         r"smoke: seeds \[0, 2\], but its parent 'main' has \[0, 1\]: give both"),
        ("[0, 1], batch: true, variants", "[0, 1], variants", r"smoke: seeds \[0\] \[1\], but .* has \[0, 1\]: give"),
    ],
)  # fmt: skip
def test_a_fault_in_the_spec_is_one_line(
    pair: Toy, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    pair.edit("papers/toy_paper/paper.yaml", old, new)
    with pytest.raises(RefigureError, match=message) as caught:
        spec.load("toy_paper")
    assert "papers/toy_paper/paper.yaml: experiments." in str(caught.value)
    assert pair.main(*CHILD) == 1
    fault_of(capsys.readouterr().err)


# Training.


def test_a_missing_parent_is_named_with_the_command_that_makes_it(
    pair: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan.plan_run("toy_paper", "second", "other", "smoke", (0, 1))
    assert planned.parent is not None
    words = ("--experiment", "second", "--variant", "other", "--scale", "smoke")
    for _ in range(2):
        assert pair.main(*words) == 1
        told = fault_of(capsys.readouterr().err)
        assert f"{planned.identity} begins from the run {planned.parent.identity}, which is not there or not" in told
        assert not list(pair.root.rglob("config.json"))
    start, command = told.split(": ")[-1].split(" --", 1)
    assert start == "python -m papers.toy_paper"
    assert pair.main(*shlex.split(f"--{command}")) == 0
    assert pair.main(*words) == 0
    run, parent = pair.verified(planned), pair.verified(planned.parent)
    assert run.metrics["x"] == [0.5 * x for x in parent.metrics["x"]]
    assert run.identity == planned.identity
    assert run.provenance["parent"] == {"run": str(parent.identity), "provenance": parent.provenance["digest"]}
    assert "parent" not in parent.provenance
    shutil.rmtree(parent.folder)
    assert pair.main(*words) == 0, "done already, whether or not its beginning is kept"


def test_all_runs_of_a_scale_come_in_order(pair: Toy) -> None:
    assert pair.main() == 0
    assert all(pair.verified(each).metrics for each in plan.plan("toy_paper", "cpu"))


def test_settings_by_hand_are_not_the_parents(pair: Toy) -> None:
    parent = pair.finished()
    assert child("rate=0.3").parent == pair.plan() == child().parent
    assert pair.main(*CHILD, "--set", "rate=0.3") == 0
    assert pair.verified(child("rate=0.3")).metrics["x"] == [0.3 * x for x in parent.metrics["x"]]


def test_the_parent_may_lie_elsewhere(pair: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    parent, wrong = pair.finished(), pair.finished("rate=0.2")
    shutil.move(parent.folder, "else")
    capsys.readouterr()
    for words, message in (
        ((*CHILD, "--parent", str(wrong.folder)), f"holds {wrong.identity}, but {child().identity} begins from"),
        ((*CHILD, "--parent", "absent"), "absent: not a finished run"),
        (("--experiment", "second", "--parent", "else"), "--parent names one folder, but 2 runs were asked for"),
        (("--experiment", "main", "--variant", "plain", "--parent", "else"), "'main' begins from no other run"),
    ):
        assert pair.main(*words) == 1
        assert message in fault_of(capsys.readouterr().err)
    assert pair.main(*CHILD, "--parent", "else") == 0
    assert record.is_done(pair.folder(child()), child().identity.key)


@pytest.mark.parametrize("name", [*record.FILES, record.PROVENANCE, record.DONE])
def test_a_damaged_parent_is_refused(pair: Toy, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = pair.finished().folder / name
    path.write_bytes(path.read_bytes()[:-5])
    capsys.readouterr()
    assert pair.main(*CHILD) == 1
    assert str(path) in fault_of(capsys.readouterr().err)


def test_parameters_that_are_not_there_are_made_again(pair: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    parent = pair.finished()
    before = {path.name: path.read_bytes() for path in parent.folder.rglob("*.*")}
    (parent.folder / record.FINAL).unlink()
    parent.verify()  # they are no artifact
    assert pair.main(*CHILD) == 0
    assert "its parameters are not here, training it again" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in parent.folder.rglob("*.*")} == before
    assert pair.verified(child()).metrics["x"] == [0.1 * x for x in parent.metrics["x"]]


def test_parameters_that_come_out_otherwise_are_refused(
    pair: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = pair.finished()
    (parent.folder / record.FINAL).unlink()

    def on_another_machine(metrics, arrays, parameters):  # type: ignore[no-untyped-def]
        return Outcome(metrics, arrays, {name: value + 1e-12 for name, value in parameters.items()})

    monkeypatch.setattr(recorder, "Outcome", on_another_machine)
    capsys.readouterr()
    for _ in range(2):
        assert pair.main(*CHILD) == 1
        faults = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(faults) == 1
        assert "ends in other parameters than it recorded" in faults[0]
        assert not (parent.folder / record.FINAL).exists()
        assert not list(pair.root.glob(f"runs/toy_paper/second/**/{record.DONE}"))


def test_a_parent_without_parameters_is_one_line(pair: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    pair.edit("papers/toy_paper/main.py", ", parameters=state)", ")")
    pair.finished()
    capsys.readouterr()
    assert pair.main(*CHILD) == 1
    assert "left no parameters" in fault_of(capsys.readouterr().err)


@pytest.mark.parametrize(("old", "new"), [(", parent)", ")"), ("def train(", "def trains("), ("run, p", "run, x, p")])
def test_a_train_that_does_not_fit_is_one_line(
    pair: Toy, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    pair.finished()
    pair.edit("papers/toy_paper/second.py", old, new)
    capsys.readouterr()
    assert pair.main(*CHILD) == 1
    shown = fault_of(capsys.readouterr().err)
    assert "second.py has no" in shown
    assert "train" in shown


# What is told of them.


def test_explain_names_the_parent_and_what_changed_in_it(pair: Toy) -> None:
    pair.finished()
    assert pair.main(*CHILD) == 0
    before, yaml = child(), "papers/toy_paper/paper.yaml"
    assert before.parent is not None
    assert f"{before.identity}: done, nothing changed" in list(explain_paper("toy_paper", "cpu"))
    pair.edit(yaml, 'plain: {title: "plain"}\n      mom', 'plain: {title: "p", config: {rate: 0.3}}\n      mom')
    expected = [f"  parent: {before.identity.parent} -> {child().identity.parent}", "    config rate: 0.1 -> 0.3"]
    told = list(explain_paper("toy_paper", "cpu"))
    at = told.index(f"{child().identity}: runs again; against {pair.folder(before).name}:")
    assert told[at + 1 : at + 3] == expected
    assert list(explain_run(str(before.identity), "cpu"))[1:] == expected
    shutil.rmtree(pair.folder(before.parent))
    assert list(explain_run(str(before.identity), "cpu"))[1:] == expected[:1]
    pair.edit(yaml, "    parent: main\n", "")
    pair.edit(yaml, ", parent: momentum", "")
    assert f"  parent: {before.identity.parent} -> nothing" in list(explain_run(str(before.identity), "cpu"))


def test_status_prune_and_import(pair: Toy) -> None:
    pair.finished()
    assert pair.main(*CHILD) == 0
    rows = [row[:5] for row in survey("toy_paper")]
    assert ["second", "cpu", "1", "1", "0"] in rows
    assert superfluous("toy_paper") == []
    shutil.move(pair.folder(child()), "away")
    shutil.rmtree(pair.folder(pair.plan()))
    assert list(import_all([Path("away")])) == [f"{child().identity}: imported, used at scale cpu"]
    assert pair.verified(child()).identity == child().identity


def test_runs_of_an_experiment_that_is_gone_are_superfluous(toy: Toy) -> None:
    assert toy.main("--experiment", "single", "--seed", "0") == 0
    assert superfluous("toy_paper") == []
    toy.edit("papers/toy_paper/paper.yaml", "  single:\n", "  alone:\n")
    assert [folder.parts[-3] for folder in map(Path, superfluous("toy_paper"))] == ["single"]


def test_the_price_of_a_claim_has_the_parents(pair: Toy) -> None:
    file = "papers/toy_paper/claims.yaml"
    pair.edit(file, "experiment: main, variant: plain", "experiment: second, variant: plain")
    pair.edit(file, "metric: x}\n    scale: paper", "metric: x}\n    scale: cpu")
    assert evaluate("toy_paper")[0].reason.startswith("needs 2 run(s) at scale cpu")
    pair.finished()
    assert evaluate("toy_paper")[0].reason.startswith("needs 1 run(s) at scale cpu")


# Snakemake.

ROOM_SECOND = f'''"""Goes on from where the line fit ended."""

from common.train.recorder import Outcome
from papers.{ROOM}.config import Main


def train(config: Main, seeds, run, parent) -> Outcome:
    """Counts what was trained."""
    return Outcome({{"count": [float(len(parent.parameters))] * len(seeds)}})
'''

ROOM_ENTRY = f"""
  second:
    summary: "Goes on"
    module: papers.{ROOM}.second
    config_class: Main
    parent: main
    variants:
      plain: {{title: "plain"}}
      other: {{title: "other", parent: momentum}}
    scales:
      smoke: {{seeds: [0, 1], batch: true}}

figures:"""


@pytest.mark.slow
def test_a_build_trains_parents_first_and_looks_at_no_times(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    room: Repository = copy_of(built_repository(tmp_path_factory), tmp_path / "repository")
    (room.root / "papers" / ROOM / "second.py").write_text(ROOM_SECOND)
    room.room("paper.yaml", "\nfigures:", ROOM_ENTRY)
    assert jobs(room.snakemake("-n")) == (2, 1)
    shutil.rmtree(room.root / "runs")
    assert jobs(room.snakemake()) == (4, 1)
    assert idle(room.snakemake())

    (parent,) = room.root.glob(f"runs/{ROOM}/main/momentum/*/{record.DONE}")
    (begun_from_it,) = room.root.glob(f"runs/{ROOM}/second/other/*/{record.DONE}")
    for forgotten in (False, True):  # as in a clone, where Snakemake knows no checksums of what it made
        if forgotten:
            shutil.rmtree(room.root / ".snakemake")
        os.utime(parent)
        assert jobs(room.snakemake()) in {(0, 0), (0, 1)}, "no run is made again"
        assert idle(room.snakemake())

    # Without the parent, and with it made again, what began from it stays as it is: its key vouches for it.
    made = {path: path.read_bytes() for path in begun_from_it.parent.rglob("*.json")}
    shutil.rmtree(parent.parent)
    shutil.rmtree(room.root / "results")
    room.snakemake()
    assert parent.exists()
    assert {path: path.read_bytes() for path in made} == made
    assert idle(room.snakemake())
