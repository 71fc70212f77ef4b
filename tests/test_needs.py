"""Runs that begin from another run's parameters: keys, faults of the spec, finding the needed run, Snakemake."""

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rooms import ROOM, Repository, built_repository, copy_of, idle, jobs
from toy import Toy, fault_of

from common.cli.explain import explain_paper, explain_run
from common.cli.imports import import_all
from common.cli.status import superfluous, survey
from common.errors import RefigureError
from common.room import spec
from common.room.config import canonical
from common.room.identity import Deviation, Identity
from common.run import checkpoint
from common.run import record as runs
from common.verdict import claims

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
    needs: main
    deviations:
      - {what: "NumPy instead of Fortran", reason: "taste", touches: []}
      - {what: "goes on", reason: "why not", touches: [C-second]}
    variants:
      plain: {title: "plain"}
      other: {title: "other", needs: momentum}
    scales:
      smoke: {seeds: [0, 1], batch: true, variants: [plain, other], config: {rate: 0.5}, why: "haste"}
      cpu: {seeds: [0, 1, 2], batch: true}
figures:"""

CHILD = ("--experiment", "second", "--variant", "plain")


@pytest.fixture
def pair(toy: Toy) -> Toy:
    """The tiny repository with a second experiment, which needs the main one."""
    (toy.root / "papers/toy_paper/second.py").write_text(SECOND)
    toy.edit("papers/toy_paper/paper.yaml", "\nfigures:", ENTRY)
    return toy


def child(*assignments: str, variant: str = "plain") -> spec.PlannedRun:
    return spec.plan_run("toy_paper", "second", variant, "cpu", (0, 1, 2), assignments)


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


def needing(parent: Identity) -> Identity:
    return dataclasses.replace(PARENT, experiment="second", needs=parent.path.relative_to("paper").as_posix())


@given(IDENTITIES, IDENTITIES)
def test_the_key_changes_exactly_with_the_needed_one(one: Identity, other: Identity) -> None:
    assert (needing(one).key == needing(other).key) == (one.key == other.key)
    assert needing(one).key != dataclasses.replace(needing(one), needs="").key


def test_keys_of_runs_that_need_nothing_are_as_before_there_were_needs(toy: Toy) -> None:
    names = ("paper", "experiment", "variant", "config", "seeds", "data", "code")
    before = canonical({name: getattr(PARENT, name) for name in names})
    assert PARENT.key == hashlib.sha256(before.encode()).hexdigest()[:12]
    assert set(json.loads((toy.finished().folder / "config.json").read_text())) == {*names, "key", "manifest"}


@pytest.mark.parametrize("needs", ["first", "first/plain", "../up/x", "a/../b", "/etc/x", "a/b/c/d", "a/b/", "a/b/c d"])
def test_what_names_no_run_cannot_be_needed(needs: str) -> None:
    with pytest.raises(ValueError, match=r"is no run|is no name"):
        dataclasses.replace(PARENT, needs=needs)


def test_a_run_needs_the_one_of_its_scale_and_seeds(pair: Toy) -> None:
    planned = {str(plan.identity.group): plan for plan in spec.plan("toy_paper", "smoke")}
    for variant, needed in (("plain", "plain"), ("other", "momentum")):
        plan, parent = planned[f"toy_paper/second/{variant}"], planned[f"toy_paper/main/{needed}"]
        assert plan.needs == parent
        assert plan.identity.needs == f"main/{needed}/seeds0-1-{parent.identity.key}"
        assert [each.identity for each in plan.lineage] == [plan.identity, parent.identity]
    assert spec.plan_run("toy_paper", "second", "plain", "cpu", (7,)).needs == pair.plan(seeds=(7,))


def test_deviations_of_the_needed_run_are_taken_over(pair: Toy) -> None:
    plan = spec.plan("toy_paper", "smoke", "second")[1]
    assert plan.deviations == (
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
        ("paper.yaml", '"other", needs', '"other", config: {rate: 0.3}, needs', [False, False, False, True]),
        ("paper.yaml", "needs: momentum", "needs: plain", [False, False, False, True]),
        ("second.py", "config.rate *", "2 * config.rate *", [False, False, True, True]),
        ("method.py", "return 2", "return 3", [True] * 4),
    ],
)
def test_a_change_reaches_what_needs_it(pair: Toy, name: str, old: str, new: str, changed: list[bool]) -> None:
    def keys() -> list[str]:
        plans = [*spec.plan("toy_paper", "cpu", "main"), *spec.plan("toy_paper", "cpu", "second")]
        return [plan.identity.key for plan in plans]

    before = keys()
    pair.edit(f"papers/toy_paper/{name}", old, new)
    assert [one != other for one, other in zip(before, keys(), strict=True)] == changed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("needs: main", "needs: man", r"second\.needs: no experiment 'man'; did you mean 'main'\? Known: main, single"),
        ("needs: main", "needs: second", r"second\.needs: 'second' must be another experiment, listed before 'second'"),
        ("\n  single:\n", "\n  single:\n    needs: second\n", r"single\.needs: 'second' must be .* before 'single'"),
        ("    needs: main\n", "", r"variants\.other\.needs: experiments\.second\.needs must say whose variant"),
        ("needs: momentum", "needs: momentun", r"other\.needs: no variant 'momentun' in 'main'; did you mean 'momen"),
        (', needs: momentum', "", r"second\.variants\.other\.needs: no variant 'other' in 'main'; Known: mom"),
        ("needs: main", "needs: single", r"no variant 'momentum' in 'single'; Known: plain"),
        ("      smoke: {seeds: [0, 1], batch: true, config: {steps: 4}, why: \"seconds\"}\n", "",
         r"second\.scales\.smoke: 'main', which it needs, lacks it; Known: cpu, paper"),
        ("batch: true, config: {steps: 4}", "batch: true, variants: [plain], config: {steps: 4}",
         r"second\.scales\.smoke\.variants: 'other' needs variant 'momentum' of 'main', .* Known: plain"),
        ("[0, 1], batch: true, variants", "[0, 2], batch: true, variants",
         r"smoke: seeds \[0, 2\], but 'main', which it needs, has \[0, 1\]: give both"),
        ("[0, 1], batch: true, variants", "[0, 1], variants", r"smoke: seeds \[0\] \[1\], but .* has \[0, 1\]: give"),
    ],
)  # fmt: skip
def test_a_fault_in_the_spec_is_one_line(
    pair: Toy, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    pair.edit("papers/toy_paper/paper.yaml", old, new)
    with pytest.raises(RefigureError, match=message) as caught:
        spec.load("toy_paper")
    assert str(caught.value).startswith("papers/toy_paper/paper.yaml: experiments.")
    assert pair.main(*CHILD) == 1
    fault_of(capsys.readouterr().err)


# Training.


def test_a_missing_run_is_named_with_the_command_that_makes_it(pair: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    plan = spec.plan_run("toy_paper", "second", "other", "smoke", (0, 1))
    words = ("--experiment", "second", "--variant", "other", "--scale", "smoke")
    for _ in range(2):
        assert pair.main(*words) == 1
        told = fault_of(capsys.readouterr().err)
        assert f"{plan.identity} needs the run {plan.needs.identity}, which is not there or not finished" in told
        assert not list(pair.root.rglob("config.json"))
    start, command = told.split(": ")[-1].split(" --", 1)
    assert start == "python -m papers.toy_paper"
    assert pair.main(*shlex.split(f"--{command}")) == 0
    assert pair.main(*words) == 0
    found, parent = (runs.read(pair.folder(each), verify=True) for each in (plan, plan.needs))
    assert found.metrics["x"] == [0.5 * x for x in parent.metrics["x"]]
    assert found.identity == plan.identity
    assert found.provenance["needs"] == {"run": str(parent.identity), "provenance": parent.provenance["digest"]}
    assert "needs" not in parent.provenance
    shutil.rmtree(parent.folder)
    assert pair.main(*words) == 0, "done already, whether or not its beginning is kept"


def test_all_runs_of_a_scale_come_in_order(pair: Toy) -> None:
    assert pair.main() == 0
    assert all(runs.is_done(pair.folder(plan), plan.identity.key) for plan in spec.plan("toy_paper", "cpu"))


def test_settings_by_hand_are_not_the_needed_runs(pair: Toy) -> None:
    parent = pair.finished()
    assert child("rate=0.3").needs == pair.plan() == child().needs
    assert pair.main(*CHILD, "--set", "rate=0.3") == 0
    found = runs.read(pair.folder(child("rate=0.3")), verify=True)
    assert found.metrics["x"] == [0.3 * x for x in parent.metrics["x"]]


def test_the_needed_run_may_lie_elsewhere(pair: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    parent, wrong = pair.finished(), pair.finished("rate=0.2")
    shutil.move(parent.folder, "else")
    capsys.readouterr()
    for words, message in (
        ((*CHILD, "--parent", str(wrong.folder)), f"holds {wrong.identity}, but {child().identity} needs"),
        ((*CHILD, "--parent", "absent"), "absent: not a finished run"),
        (("--experiment", "second", "--parent", "else"), "--parent names one folder, but 2 runs were asked for"),
        (("--experiment", "main", "--variant", "plain", "--parent", "else"), "experiment 'main' needs no other run"),
    ):
        assert pair.main(*words) == 1
        assert message in fault_of(capsys.readouterr().err)
    assert pair.main(*CHILD, "--parent", "else") == 0
    assert runs.is_done(pair.folder(child()), child().identity.key)


@pytest.mark.parametrize("name", [*runs.FILES, runs.PROVENANCE, runs.DONE])
def test_a_damaged_needed_run_is_refused(pair: Toy, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = pair.finished().folder / name
    path.write_bytes(path.read_bytes()[:-5])
    capsys.readouterr()
    assert pair.main(*CHILD) == 1
    assert str(path) in fault_of(capsys.readouterr().err)


def test_parameters_are_those_of_the_very_run(pair: Toy) -> None:
    run = pair.finished()
    arrays, _ = checkpoint.load(run.folder / runs.FINAL)
    assert {name: array.tolist() for name, array in run.parameters.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    assert run.parameters["x"].tolist() == run.metrics["x"]
    checkpoint.save(run.folder / runs.FINAL, arrays, {"key": "0" * 12})
    with pytest.raises(RefigureError, match="belongs to another configuration"):
        _ = runs.read(run.folder).parameters


def test_a_needed_run_without_parameters_is_one_line(pair: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    pair.edit("papers/toy_paper/main.py", ", parameters=state)", ")")
    pair.finished()
    capsys.readouterr()
    assert pair.main(*CHILD) == 1
    assert "left no parameters" in fault_of(capsys.readouterr().err)


@pytest.mark.parametrize(("old", "new"), [(", parent)", ")"), ("def train(", "def trains("), ("run, p", "run, x, p")])
def test_a_train_that_does_not_fit_is_one_line(
    pair: Toy, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    pair.edit("papers/toy_paper/second.py", old, new)
    pair.finished()
    capsys.readouterr()
    assert pair.main(*CHILD) == 1
    assert "second.py has no function train(config, seeds, run, parent)" in fault_of(capsys.readouterr().err)


# What is told of them.


def test_explain_names_the_needed_run_and_what_changed_in_it(pair: Toy) -> None:
    pair.finished()
    assert pair.main(*CHILD) == 0
    before = child()
    assert f"{before.identity}: done, nothing changed" in list(explain_paper("toy_paper", "cpu"))
    yaml = "papers/toy_paper/paper.yaml"
    pair.edit(yaml, 'plain: {title: "plain"}\n      mom', 'plain: {title: "p", config: {rate: 0.3}}\n      mom')
    expected = [f"  needs: {before.identity.needs} -> {child().identity.needs}", "    config rate: 0.1 -> 0.3"]
    told = list(explain_paper("toy_paper", "cpu"))
    at = told.index(f"{child().identity}: runs again; against {pair.folder(before).name}:")
    assert told[at + 1 : at + 3] == expected
    assert not told[at + 3].startswith(" ")
    assert list(explain_run(str(before.identity), "cpu"))[1:] == expected
    shutil.rmtree(pair.folder(before.needs))
    assert list(explain_run(str(before.identity), "cpu"))[1:] == expected[:1]
    pair.edit(yaml, "    needs: main\n", "")
    pair.edit(yaml, ", needs: momentum", "")
    assert f"  needs: {before.identity.needs} -> nothing" in list(explain_run(str(before.identity), "cpu"))


def test_status_prune_and_import(pair: Toy) -> None:
    pair.finished()
    assert pair.main(*CHILD) == 0
    home = pair.folder(child())
    lines = {(line.experiment, line.scale): (line.done, len(line.missing), line.stale) for line in survey("toy_paper")}
    assert lines["second", "cpu"] == (1, 1, 0)
    assert superfluous("toy_paper") == []
    shutil.move(home, "away")
    shutil.rmtree(pair.folder(child().needs))
    assert list(import_all([Path("away")])) == [f"{child().identity}: imported, used at scale cpu"]
    assert runs.read(home, verify=True).identity == child().identity


def test_the_price_of_a_claim_has_the_needed_runs(pair: Toy) -> None:
    pair.edit("papers/toy_paper/claims.yaml", "experiment: main, variant: plain", "experiment: second, variant: plain")
    pair.edit("papers/toy_paper/claims.yaml", "seeds: 3}\n    ours: {", "seeds: 3}\n    scale: cpu\n    ours: {")
    pair.edit("papers/toy_paper/claims.yaml", "    scale: paper\n    tolerance", "    tolerance")
    assert claims.evaluate("toy_paper")[0].reason.startswith("needs 2 run(s) at scale cpu")
    pair.finished()
    assert claims.evaluate("toy_paper")[0].reason.startswith("needs 1 run(s) at scale cpu")


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
    needs: main
    variants:
      plain: {{title: "plain"}}
      other: {{title: "other", needs: momentum}}
    scales:
      smoke: {{seeds: [0, 1], batch: true}}

figures:"""


@pytest.mark.slow
def test_a_build_trains_needed_runs_first_and_looks_at_no_times(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    room: Repository = copy_of(built_repository(tmp_path_factory), tmp_path / "repository")
    (room.root / "papers" / ROOM / "second.py").write_text(ROOM_SECOND)
    room.room("paper.yaml", "\nfigures:", ROOM_ENTRY)
    assert jobs(room.snakemake("-n")) == (2, 1)
    shutil.rmtree(room.root / "runs")
    assert jobs(room.snakemake()) == (4, 1)
    assert idle(room.snakemake())

    (parent,) = room.root.glob(f"runs/{ROOM}/main/momentum/*/{runs.DONE}")
    (needing,) = room.root.glob(f"runs/{ROOM}/second/other/*/{runs.DONE}")
    for forgotten in (False, True):  # as in a clone, where Snakemake knows no checksums of what it made
        if forgotten:
            shutil.rmtree(room.root / ".snakemake")
        os.utime(parent)
        assert jobs(room.snakemake()) in {(0, 0), (0, 1)}, "no run is made again"
        assert idle(room.snakemake())

    # Without the needed run, and with it made again, what began from it stays as it is: its key vouches for it.
    made = {path: path.read_bytes() for path in needing.parent.rglob("*.json")}
    shutil.rmtree(parent.parent)
    shutil.rmtree(room.root / "results")
    room.snakemake()
    assert parent.exists()
    assert {path: path.read_bytes() for path in made} == made
    assert idle(room.snakemake())
