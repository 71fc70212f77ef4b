"""Identity, planning, and one experiment by hand: every fault is one line, nothing is done twice."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Toy, fault_of

from common.errors import RefigureError
from common.room import spec
from common.room.identity import Identity
from common.run import command as experiment
from common.run import record as runs

SAMPLE = Identity("paper", "main", "plain", {"rate": 0.1, "steps": 3}, (0, 1), {"mnist": {"a.gz": "ff"}}, "c0de")


# Identity.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("paper", "other"),
        ("experiment", "other"),
        ("variant", "other"),
        ("config", {"rate": 0.2, "steps": 3}),
        ("config", {"rate": 0.1, "steps": 3.0}),
        ("config", {"rate": 0.1}),
        ("config", {"rate": 0.1, "steps": 3, "more": None}),
        ("seeds", (0, 1, 2)),
        ("seeds", (1, 0)),
        ("data", {"mnist": {"a.gz": "fe"}}),
        ("data", {}),
        ("code", "c0de2"),
        ("needs", "first/plain/seeds0-1-0123456789ab"),
    ],
)
def test_every_input_changes_the_key(field: str, value: Any) -> None:
    assert dataclasses.replace(SAMPLE, **{field: value}).key != SAMPLE.key
    assert {each.name for each in dataclasses.fields(Identity)} == {
        "paper", "experiment", "variant", "config", "seeds", "data", "code", "needs",
    }  # fmt: skip


def test_the_order_of_settings_does_not() -> None:
    assert dataclasses.replace(SAMPLE, config={"steps": 3, "rate": 0.1}).key == SAMPLE.key


@pytest.mark.parametrize(
    ("seeds", "name"), [((3,), "seed3"), ((0, 1, 2), "seeds0-2"), ((0, 2, 5), "seeds0_2_5"), ((1, 0), "seeds1_0")]
)
def test_names_of_seeds(seeds: tuple[int, ...], name: str) -> None:
    run = dataclasses.replace(SAMPLE, seeds=seeds)
    assert run.seeds_name == name
    assert run.path == Path("paper/main/plain") / f"{name}-{run.key}"
    assert str(run) == f"paper/main/plain/{name}-{run.key}"


@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 40), min_size=1))
def test_seeds_that_differ_have_names_that_differ(one: set[int], other: set[int]) -> None:
    names = {dataclasses.replace(SAMPLE, seeds=tuple(sorted(seeds))).seeds_name for seeds in (one, other)}
    assert len(names) == (1 if one == other else 2)


HOSTILE = ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a b", "a\n", "a\0", "é", "a\\b", "~", "$HOME", "*"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", ["paper", "experiment", "variant"])
def test_names_that_could_leave_their_folder_are_refused(field: str, name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        dataclasses.replace(SAMPLE, **{field: name})


@given(st.text(max_size=6))
def test_whatever_the_name_the_path_stays_inside(name: str) -> None:
    try:
        run = dataclasses.replace(SAMPLE, variant=name)
    except ValueError:
        return
    assert Path("/runs").joinpath(run.path).resolve().parent == Path("/runs/paper/main") / name


@pytest.mark.parametrize("seeds", [(), (-1,), (0, -1)])
def test_seeds_count_from_zero(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="from 0 up"):
        dataclasses.replace(SAMPLE, seeds=seeds)


# Planning.


def test_scales_that_resolve_to_the_same_settings_share_runs(toy: Toy) -> None:
    paths = {scale: [p.identity.path for p in spec.plan("toy_paper", scale, "main")] for scale in spec.SCALES}
    assert paths["cpu"] == paths["paper"]
    assert not set(paths["smoke"]) & set(paths["cpu"])
    assert len(paths["cpu"]) == 2
    assert [plan.identity.seeds for plan in spec.plan("toy_paper", "cpu", "single")] == [(0,), (1,)]


def test_deviations_are_the_settings_that_differ_from_the_published(toy: Toy) -> None:
    smoke = spec.plan("toy_paper", "smoke", "main")[1]
    assert [(d.what, d.reason, d.touches) for d in smoke.deviations] == [
        ("steps: 4 instead of 12", "seconds", ("all",)),
        ("NumPy instead of Fortran", "taste", ()),
        ("heavier ball", "no other at hand", ("C-touched",)),
    ]
    by_hand = toy.plan("rate=0.3", "steps=12")
    assert [(d.what, d.reason) for d in by_hand.deviations][:-1] == [("rate: 0.3 instead of 0.1", "set by hand")]
    assert [d.what for d in toy.plan().deviations] == ["NumPy instead of Fortran"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1], batch", "seeds: [0, 0], batch", r"experiments\.main\.scales\.smoke\.seeds: expected distinct"),
        ("seeds: [0, 1], batch", "seeds: [], batch", r"scales\.smoke\.seeds: expected distinct"),
        (', why: "seconds"', "", r"scales\.smoke\.why: say why"),
        ("experiment: main\n", "experiment: man\n", r"figures\.fall\.experiment: .* did you mean 'main'"),
        ("config_class: Descent\n    deviations", "config_class: Descend\n    deviations", "no dataclass 'Descend'"),
        ("config: {steps: 4}", "config: {step: 4}", "at scale smoke: unknown key 'step'; did you mean 'steps'"),
        ("config: {steps: 4}", "config: {steps: 0}", "steps must be at least 1"),
        ("plain: {title: \"plain\"}\n      m", "../up: {title: \"plain\"}\n      m", r"'\.\./up' is no name"),
        ("batch: true, config", "variants: [heavy], config", r"no variant 'heavy'; .*momentum, plain"),
        ("title: \"A toy\"", "title: \"A toy\"\ntitle: \"B\"", "line 2, column 1: key 'title' stands here twice"),
    ],
)  # fmt: skip
def test_a_fault_in_the_spec_is_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    toy.edit("papers/toy_paper/paper.yaml", old, new)
    with pytest.raises(RefigureError, match=message):
        spec.plan("toy_paper", "smoke")
    assert toy.main("--scale", "smoke", "--experiment", "main", "--dry-run") == 1
    fault_of(capsys.readouterr().err)


def test_unknown_papers_offer_the_nearest(toy: Toy) -> None:
    assert spec.root() == toy.root
    assert spec.papers() == ["toy_paper"]
    with pytest.raises(RefigureError, match="no paper 'toypaper'; did you mean 'toy_paper'"):
        spec.load("toypaper")


# The command.

ONE = ("--experiment", "main", "--variant", "plain")

FAULTS: list[tuple[tuple[str, ...], str]] = [
    (("--experiment", "mian"), "no experiment 'mian' in toy_paper; did you mean 'main'"),
    ((*ONE[:2], "--variant", "plane"), "no variant 'plane' in toy_paper/main; did you mean 'plain'"),
    ((*ONE, "--scale", "papr"), "no scale 'papr'; did you mean 'paper'"),
    (("--experiment", "single", "--scale", "paper"), "no scale 'paper' in toy_paper/single; Known: cpu"),
    ((*ONE, "--set", "rat=1"), "--set: unknown key 'rat'; did you mean 'rate'"),
    ((*ONE, "--set", "rate"), "--set rate: expected key=value"),
    ((*ONE, "--set", "rate=fast"), "--set.rate: expected a number, got 'fast'"),
    ((*ONE, "--set", "rate=nan"), "--set.rate: expected a finite number"),
    ((*ONE, "--set", "steps=0"), "--set: steps must be at least 1"),
    ((*ONE, "--set", "steps=1.5"), "--set.steps: expected an integer"),
    (("--experiment", "single", "--out", "x"), "--out names one folder, but 2 runs were asked for"),
    (("--out", "x"), "--out names one folder, but 4 runs"),
    ((*ONE, "--seeds", "0..4"), "--seeds 0..4: expected a range such as 0-4 or a list such as 0,2,5"),
    ((*ONE, "--seeds", "4-0"), "--seeds 4-0: expected"),
    ((*ONE, "--seeds", "1-2-3"), "--seeds 1-2-3: expected"),
    ((*ONE, "--seeds", "1,1"), "--seeds 1,1: expected"),
    ((*ONE, "--seeds=-3"), "--seeds -3: expected"),
    ((*ONE, "--seed", "-1"), "seeds: expected numbers from 0 up"),
    ((*ONE, "--seed", "1", "--seeds", "1-2"), "--seed and --seeds were both given"),
    ((*ONE, "--seed", "0", "--seeds", "1-2"), "--seed and --seeds were both given"),
    ((*ONE, "--threads", "0"), "--threads 0: at least 1 is needed"),
    ((*ONE, "--key", "0123456789ab"), "not 0123456789ab: code or settings changed since this was planned"),
    ((*ONE, "--set", "fault=crash", "--set", "at=3"), "crashed at step 3, as was asked"),
    ((*ONE, "--set", "fault=bad end"), "final metric x is not finite"),
    ((*ONE, "--set", "fault=bad log", "--set", "at=2"), "norm, x is not finite at step 3"),
    ((*ONE, "--set", "fault=short"), "metric x has 2 values, not 3"),
    ((*ONE, "--out", "Snakefile"), "cannot write to Snakefile"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), FAULTS, ids=lambda value: " ".join(value[-2:])[:30])
def test_every_fault_is_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert toy.main(*words) == 1
    shown = fault_of(capsys.readouterr().err)
    assert message in shown
    assert not list(toy.root.rglob(runs.DONE))


@pytest.mark.parametrize("words", [("--seed", "one"), ("--seeed-list", "1"), ("--seed",), ("x",)])
def test_arguments_that_are_none_are_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as caught:
        toy.main(*words)
    assert caught.value.code == 2
    assert words[0] in fault_of(capsys.readouterr().err)


def test_faults_in_a_process_of_its_own(toy: Toy) -> None:
    for words, expected in ((("--set", "fault=crash"), "crashed at step 0"), (("--scale", "x"), "no scale 'x'")):
        answer = toy.python("-m", "papers.toy_paper", *ONE, *words)
        assert answer.returncode == 1
        assert expected in fault_of(answer.stderr)
        assert answer.stdout == ""


@pytest.mark.parametrize("name", ["main", "method", "config"])
def test_a_syntax_error_is_one_line(toy: Toy, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (toy.root / f"papers/toy_paper/{name}.py").write_text("x = 1\ndef f(:\n")
    assert toy.one() == 1
    assert f"toy_paper/{name}.py, line 2" in fault_of(capsys.readouterr().err)


def test_a_room_without_settings_is_one_line(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    (toy.root / "papers/toy_paper/config.py").unlink()
    assert toy.one() == 1
    assert "papers/toy_paper/config.py cannot be imported" in fault_of(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", (0, 1, 2, 3, 4)), ("0,2,5", (0, 2, 5)), ("7", (7,)), ("3-3", (3,))]
)
def test_ranges_of_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert experiment._seed_range(text) == seeds


def test_a_dry_run_prints_folders_and_makes_none(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.main("--dry-run", "--scale", "smoke", "--experiment", "main") == 0
    folders = capsys.readouterr().out.split()
    plans = spec.plan("toy_paper", "smoke", "main")
    assert folders == [str(toy.root / "runs" / plan.identity.path) for plan in plans]
    assert not (toy.root / "runs").exists()


def test_what_is_done_is_not_done_again(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy.finished()
    before = {path: path.stat().st_mtime_ns for path in run.folder.glob("[!.]*")}
    capsys.readouterr()
    assert toy.one("--key", run.identity.key) == 0
    assert capsys.readouterr().err == f"{run.identity}: done already\n"
    assert {path: path.stat().st_mtime_ns for path in run.folder.glob("[!.]*")} == before
    assert toy.one("--scale", "paper") == 0
    assert "done already" in capsys.readouterr().err


def test_all_runs_of_a_scale(toy: Toy) -> None:
    assert toy.main("--experiment", "single") == 0
    for plan in spec.plan("toy_paper", "cpu", "single"):
        assert runs.read(toy.folder(plan), verify=True).identity == plan.identity


def test_members_of_a_batch_do_not_touch_one_another(toy: Toy) -> None:
    batch = toy.finished(seeds=(0, 1, 2)).metrics["x"]
    assert [toy.finished(seeds=(seed,)).metrics["x"][0] for seed in (0, 1, 2)] == list(batch)


def test_out_names_the_folder(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.one("--out", "else/where") == 0
    found = runs.read(Path("else/where"), verify=True)
    assert found.identity == toy.plan().identity
    capsys.readouterr()
    assert toy.one("--out", "else/where", "--set", "rate=0.2") == 1
    assert "holds another run" in fault_of(capsys.readouterr().err)


def crashed(toy: Toy) -> tuple[Path, tuple[str, ...]]:
    """The folder of a run that stopped in step 6 with a checkpoint, and its arguments."""
    words = ("--set", "fault=crash", "--set", "at=6", "--checkpoint-every", "0")
    assert toy.one(*words) == 1
    folder = toy.folder(toy.plan("fault=crash", "at=6"))
    assert (folder / runs.RESUME).is_file()
    return folder, words


def test_a_damaged_checkpoint_is_one_line(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = crashed(toy)
    content = (folder / runs.RESUME).read_bytes()
    for damaged in (content[:-3], content[:-1] + bytes([content[-1] ^ 255]), b""):
        (folder / runs.RESUME).write_bytes(damaged)
        capsys.readouterr()
        assert toy.one(*words) == 1
        assert runs.RESUME.as_posix() in fault_of(capsys.readouterr().err)
        assert (folder / runs.RESUME).read_bytes() == damaged
    assert toy.one(*words, "--no-resume") == 1  # starts afresh, and crashes where it is to
    assert "crashed at step 6" in fault_of(capsys.readouterr().err)


def test_the_checkpoint_of_another_configuration_is_refused(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = crashed(toy)
    other = toy.folder(toy.plan())
    (other / runs.RESUME).parent.mkdir(parents=True)
    (other / runs.RESUME).write_bytes((folder / runs.RESUME).read_bytes())
    capsys.readouterr()
    assert toy.one() == 1
    assert "belongs to another configuration" in fault_of(capsys.readouterr().err)


def test_provenance_says_where_numbers_come_from(toy: Toy) -> None:
    words = ["git", "-c", "user.name=n", "-c", "user.email=e@x.invalid"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "papers"], check=True)
    subprocess.run([*words, "commit", "-qm", "x"], check=True)
    clean, plan = toy.finished().provenance, toy.plan()
    (toy.root / "papers/__init__.py").write_text("# changed\n")
    dirty = toy.finished(seeds=(9,)).provenance
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert clean["revision"] == {"git": revision, "dirty": False}
    assert dirty["revision"] == {"git": revision, "dirty": True}
    assert clean["code"] == plan.identity.code
    assert [entry["what"] for entry in clean["deviations"]] == ["NumPy instead of Fortran"]
    assert {"machine", "device", "platform", "started", "seconds", "peak_memory", "threads", "data", "precision"} <= {
        *clean
    }
    json.dumps(clean, allow_nan=False)


def test_outside_of_git_there_is_no_revision(toy: Toy) -> None:
    assert toy.finished().provenance["revision"] == {}
