"""One experiment by hand: every fault is one line, nothing is done twice, no result is filed under another's key."""

import json
import subprocess
from pathlib import Path

import pytest
from toy import Toy, fault_of

from common import data
from common.data import store
from common.room import plan
from common.run import command, record

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
    (("--replay", "x"), "--replay names one folder, but 4 runs"),
    ((*ONE, "--seed", "-1"), "seeds: expected numbers from 0 up"),
    ((*ONE, "--threads", "0"), "--threads 0: expected 1 to 1024"),
    ((*ONE, "--key", "0123456789ab"), "not 0123456789ab: code or settings changed since this was planned"),
    ((*ONE, "--set", "fault=crash", "--set", "at=3"), "crashed at step 3, as was asked"),
    ((*ONE, "--set", "fault=bad end"), "final metric x is not finite"),
    ((*ONE, "--set", "fault=bad log", "--set", "at=2"), "norm, x is not finite at step 3"),
    ((*ONE, "--set", "fault=short"), "metric x has 2 values, not 3"),
    ((*ONE, "--out", "Snakefile"), "cannot write Snakefile"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), FAULTS, ids=lambda value: " ".join(value[-2:])[:30])
def test_a_fault_is_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert toy.main(*words) == 1
    shown = fault_of(capsys.readouterr().err)
    assert message in shown
    assert not list(toy.root.rglob(record.DONE))


RANGE = "expected a range such as 0-4 or a list such as 0,2,5"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seed", "one"), "--seed"),
        (("--seeed-list", "1"), "--seeed-list"),
        (("--seed",), "--seed"),
        (("x",), "x"),
        *(((f"--seeds={text}",), f"--seeds: {text}: {RANGE}") for text in ("0..4", "4-0", "1-2-3", "1,1", "-3", "")),
        (("--seed", "1", "--seeds", "1-2"), "--seeds: not allowed with argument --seed"),
        (("--seed", "0", "--seeds", "1-2"), "--seeds: not allowed with argument --seed"),
    ],
)
def test_arguments_that_are_none_are_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        toy.main(*words)
    assert caught.value.code == 2
    assert message in fault_of(capsys.readouterr().err)


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
    assert command._seed_range(text) == seeds


def test_a_dry_run_prints_folders_and_makes_none(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.main("--dry-run", "--scale", "smoke", "--experiment", "main") == 0
    folders = capsys.readouterr().out.split()
    assert folders == [str(toy.folder(each)) for each in plan.plan("toy_paper", "smoke", "main")]
    assert not (toy.root / "runs").exists()


def test_a_variant_alone_names_it_in_every_experiment_that_has_it(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.main("--dry-run", "--variant", "momentum") == 0
    (folder,) = map(Path, capsys.readouterr().out.split())
    assert folder.parent.parts[-2:] == ("main", "momentum")
    assert toy.main("--dry-run", "--variant", "momentun") == 1
    assert "no variant 'momentun' in toy_paper; did you mean 'momentum'?" in fault_of(capsys.readouterr().err)


def test_what_is_done_is_not_done_again(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy.finished()
    before = {path: path.stat().st_mtime_ns for path in run.folder.glob("[!.]*")}
    capsys.readouterr()
    assert toy.one("--key", run.identity.key) == 0
    assert capsys.readouterr().err == f"{run.identity}: done already\n"
    assert {path: path.stat().st_mtime_ns for path in run.folder.glob("[!.]*")} == before
    assert toy.one("--scale", "paper") == 0
    assert "done already" in capsys.readouterr().err


def test_other_threads_are_another_run(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for words in ((), ("--threads", "1"), ("--threads", "2")):
        assert toy.one("--dry-run", *words) == 0
        folders.append(capsys.readouterr().out)
    assert folders[0] == folders[1] != folders[2]


def test_without_a_name_experiments_that_lack_the_scale_are_passed_over(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy.main("--scale", "smoke", "--dry-run") == 0
    folders = capsys.readouterr().out.split()
    assert folders == [str(toy.folder(each)) for each in plan.plan("toy_paper", "smoke", "main")]
    assert toy.main("--scale", "smoke", "--dry-run", "--experiment", "single") == 1
    assert "no scale 'smoke' in toy_paper/single; Known: cpu" in fault_of(capsys.readouterr().err)
    toy.edit("papers/toy_paper/paper.yaml", "      paper: {seeds: [0, 1, 2], batch: true}\n", "")
    assert toy.main("--scale", "paper") == 1
    assert "no experiment of toy_paper has scale paper" in fault_of(capsys.readouterr().err)


def test_data_that_is_read_is_declared(
    toy: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "read_split", lambda *_: {})
    toy.edit("papers/toy_paper/main.py", "import time\n", "import time\n\nfrom common import data\n")
    toy.edit("papers/toy_paper/main.py", '    """One walker per seed."""\n', '    data.load("mnist")\n')
    assert toy.one() == 1
    place = "papers/toy_paper/paper.yaml: main"
    told = f"data set 'mnist' is read and not declared: add it to `data:` of {place}"
    assert told in fault_of(capsys.readouterr().err)
    assert not list(toy.root.rglob(record.DONE))
    assert data.load("mnist") == {}, "outside of runs all data may be read"
    undeclared = toy.plan().identity
    toy.edit("papers/toy_paper/paper.yaml", '"Descent on a parabola"\n', '"Descent on a parabola"\n    data: [mnist]\n')
    assert toy.finished().provenance["data"] == {"mnist": data.identity("mnist")}
    assert toy.plan().identity.key != undeclared.key


EDITING = '''
from pathlib import Path

from common.train.recorder import Outcome


def train(config, seeds, run):
    """Takes so long that somebody edits the next experiment meanwhile."""
    file = Path(__file__).with_name("late.py")
    file.write_text(file.read_text().replace("PATIENCE = 200", "PATIENCE = 3"))
    return Outcome({"x": [0.0] * len(seeds)})
'''
LATE = """
from common.train.recorder import Outcome

PATIENCE = 200


def train(config, seeds, run):
    return Outcome({"patience": [float(PATIENCE)] * len(seeds)})
"""


def test_code_edited_before_its_turn_files_nothing(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    toy.edit("papers/toy_paper/paper.yaml", "module: papers.toy_paper.main\n    config_class: Descent\n    variants",
             "module: papers.toy_paper.late\n    config_class: Descent\n    variants")  # fmt: skip
    (toy.root / "papers/toy_paper/main.py").write_text(EDITING)
    late = toy.root / "papers/toy_paper/late.py"
    late.write_text(LATE)
    planned = plan.plan("toy_paper", "cpu", "single")
    assert toy.main() == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error")] == lines[-1:]
    assert "papers/toy_paper/late.py: PATIENCE changed since this was planned: start again" in lines[-1]
    assert not list(toy.root.glob(f"runs/toy_paper/single/**/{record.DONE}"))
    late.write_text(LATE)
    assert toy.main() == 0
    assert [toy.verified(each).metrics for each in planned] == [{"patience": [200.0]}] * 2


def test_all_runs_of_a_scale(toy: Toy) -> None:
    assert toy.main("--experiment", "single") == 0
    for each in plan.plan("toy_paper", "cpu", "single"):
        assert toy.verified(each).identity == each.identity


def test_members_of_a_batch_do_not_touch_one_another(toy: Toy) -> None:
    batch = toy.finished(seeds=(0, 1, 2)).metrics["x"]
    assert [toy.finished(seeds=(seed,)).metrics["x"][0] for seed in (0, 1, 2)] == list(batch)


def test_out_names_the_folder(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.one("--out", "else/where") == 0
    assert record.read(Path("else/where")).identity == toy.plan().identity
    capsys.readouterr()
    assert toy.one("--out", "else/where", "--set", "rate=0.2") == 1
    assert "holds another run" in fault_of(capsys.readouterr().err)


def crashed(toy: Toy) -> tuple[Path, tuple[str, ...]]:
    """The folder of a run that stopped in step 6 with a checkpoint, and its arguments."""
    words = ("--set", "fault=crash", "--set", "at=6", "--checkpoint-every", "0")
    assert toy.one(*words) == 1
    folder = toy.folder(toy.plan("fault=crash", "at=6"))
    assert (folder / record.RESUME).is_file()
    return folder, words


def test_a_damaged_checkpoint_is_one_line(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = crashed(toy)
    content = (folder / record.RESUME).read_bytes()
    for damaged in (content[:-3], content[:-1] + bytes([content[-1] ^ 255]), b""):
        (folder / record.RESUME).write_bytes(damaged)
        capsys.readouterr()
        assert toy.one(*words) == 1
        assert record.RESUME in fault_of(capsys.readouterr().err)
        assert (folder / record.RESUME).read_bytes() == damaged
    assert toy.one(*words, "--no-resume") == 1  # starts afresh, and crashes where it is to
    assert "crashed at step 6" in fault_of(capsys.readouterr().err)


def test_the_checkpoint_of_another_configuration_is_refused(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = crashed(toy)
    target = toy.folder(toy.plan())
    (target / record.RESUME).parent.mkdir(parents=True)
    (target / record.RESUME).write_bytes((folder / record.RESUME).read_bytes())
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
