"""The command `refigure`, word by word, on a repository of its own."""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import Refigure, Toy, fault_of

from common import atomic
from common.report import history
from common.report.page import number
from common.room import plan as planning
from common.room import spec
from common.run import record

FIELDS = [
    "id", "paper", "statement", "headline", "class", "kind", "published", "published_error", "source", "provenance",
    "ours", "interval", "seeds", "n", "unit", "difference", "verdict", "reason", "scale", "carried", "runs",
    "p_value",
]  # fmt: skip


def git(*words: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@x.invalid", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit_verdicts(refigure: Refigure) -> None:
    """Commit what `diff` says now, as a build of the gallery does."""
    Path("docs/gallery/toy_paper").mkdir(parents=True, exist_ok=True)
    Path("docs/gallery/toy_paper/claims.json").write_text(refigure("diff", "--json")[1])
    git("init", "-q")
    git("add", "docs")
    git("commit", "-qm", "gallery")


def test_list_and_status(toy: Toy, refigure: Refigure) -> None:
    status, out, _ = refigure("list")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:6] == ["toy_paper", "main", "2", "smoke", "cpu", "paper"]
    assert lines[2][:4] == ["toy_paper", "single", "1", "cpu"]
    toy.finished()
    toy.edit("papers/toy_paper/method.py", "SCALE = 1.0", "SCALE = 1.1")
    toy.finished(variant="momentum")
    out = refigure("status", "toy_paper")[1]
    counts = [line.split()[:5] for line in out.splitlines()[1:]]
    assert counts == [  # experiment, scale, done, missing, stale
        ["main", "smoke", "0", "2", "0"],
        ["main", "cpu", "1", "1", "1"],
        ["main", "paper", "1", "1", "1"],
        ["single", "cpu", "0", "2", "0"],
    ]


def test_list_is_light(toy: Toy) -> None:
    program = (
        "import sys; sys.argv = ['refigure', 'list']\nfrom common.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'jax', 'scipy', 'matplotlib'} & {*sys.modules}))"
    )
    answer = toy.python("-c", program)
    assert "toy_paper" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "HEAVY []"


UNKNOWN = [
    (("status", "toy_papr"), "no paper 'toy_papr'; did you mean 'toy_paper'"),
    (("diff", "toy_papr"), "did you mean 'toy_paper'"),
    (("explain", "toy_papr"), "did you mean 'toy_paper'"),
    (("prune", "toy_papr"), "did you mean 'toy_paper'"),
    (("explain", "toy_paper", "--scale", "papr"), "no scale 'papr'; did you mean 'paper'"),
    (("explain", "runs/absent"), "no run here"),
    (("import", "absent"), "absent: no such folder"),
    (("import", "papers"), "papers: no run in it"),
    (("diff", "--rev", "absent"), "--rev absent: no such git revision"),
    (("data", "fetch", "absent_set"), "absent_set"),
    (("gallery",), "snakemake results/toy_paper makes it"),
]


@pytest.mark.parametrize(("words", "message"), UNKNOWN, ids=lambda value: " ".join(value)[:30])
def test_every_fault_is_one_line(refigure: Refigure, words: tuple[str, ...], message: str) -> None:
    status, out, err = refigure(*words)
    assert status == 1
    assert message in fault_of(err)
    assert out == ""


def test_faults_in_the_documents_are_one_line(toy: Toy, refigure: Refigure) -> None:
    toy.edit("papers/toy_paper/claims.yaml", "kind: shape", "kind: shap")
    assert "C-touched.kind" in fault_of(refigure("diff")[2])
    toy.edit("papers/toy_paper/paper.yaml", "venue:", "venu:")
    assert "unknown key 'venu'; did you mean 'venue'" in fault_of(refigure("list")[2])


def test_diff_as_a_table_and_as_json(toy: Toy, refigure: Refigure) -> None:
    run = toy.finished()
    status, out, _ = refigure("diff", "toy_paper")
    assert status == 0
    assert "C-value" in out
    assert "agrees" in out
    status, out, _ = refigure("diff", "--json")
    value, touched = json.loads(out)
    assert status == 0
    assert list(value) == list(touched) == FIELDS
    assert (value["id"], value["paper"], value["kind"], value["headline"]) == ("C-value", "toy_paper", "value", True)
    assert (value["published"], value["published_error"], value["source"]) == (0.0, 0.1, "Table 1")
    assert (value["provenance"], value["verdict"], value["scale"]) == ("read exactly", "agrees", "paper")
    assert value["seeds"] == dict(zip("012", run.metrics["x"], strict=True))
    assert value["runs"] == [str(run.identity)]
    assert value["interval"][0] <= value["ours"] <= value["interval"][1]
    assert (touched["verdict"], touched["ours"], touched["interval"], touched["seeds"]) == ("not run", None, None, {})


def test_bisect_and_the_log_name_the_commit_that_changed_a_verdict(toy: Toy, refigure: Refigure) -> None:
    commit_verdicts(refigure)
    toy.finished()
    commit_verdicts(refigure)
    status, out, _ = refigure("bisect", "toy_paper/C-value")
    assert status == 0
    value = json.loads(refigure("diff", "--json")[1])[0]["ours"]
    assert re.fullmatch(rf"[0-9a-f]{{7,}} \S+ gallery: not run -> agrees \({number(value)}\)\n", out)
    assert refigure("bisect", "toy_paper/C-touched")[1] == "no commit changed toy_paper/C-touched\n"
    assert "did you mean 'C-value'" in fault_of(refigure("bisect", "toy_paper/C-valu")[2])
    lines = history.log(["toy_paper"]).splitlines()
    assert f"- toy_paper/C-value: not run → agrees ({number(value)})" in lines


@pytest.mark.parametrize(("form", "head"), [("md", "| claim |"), ("csv", "id,class,"), ("json", "[")])
def test_diff_in_other_forms(toy: Toy, refigure: Refigure, form: str, head: str) -> None:
    status, out, _ = refigure("diff", "--format", form)
    assert (status, out.startswith(head), "C-value" in out) == (0, True, True)


@pytest.mark.parametrize("wrong", [("--json", "--format", "csv"), ("--format", "md", "--rev", "HEAD")])
def test_diff_refuses_what_it_would_leave_out(toy: Toy, refigure: Refigure, wrong: tuple[str, ...]) -> None:
    assert "--format" in fault_of(refigure("diff", *wrong)[2])


def test_diff_exits_with_1_on_a_regression(toy: Toy, refigure: Refigure) -> None:
    toy.finished()
    commit_verdicts(refigure)
    assert refigure("diff")[0] == 0
    toy.edit("papers/toy_paper/claims.yaml", "value: 0.0,", "value: 9.0,")
    status, out, err = refigure("diff", "toy_paper")
    assert status == 1
    assert err == "no longer stands: toy_paper/C-value was 'agrees', is 'differs'\n"
    assert "differs" in out
    status, out, _ = refigure("diff", "--json")
    assert (status, json.loads(out)[0]["verdict"]) == (1, "differs")
    commit_verdicts(refigure)  # now it is known
    assert refigure("diff")[0] == 0
    status, out, _ = refigure("diff", "--rev", "HEAD~1")
    assert status == 1
    assert "at HEAD~1" in out
    assert "agrees" in out


@pytest.mark.parametrize("content", ["{", "3", "[3]", '[{"id": "C-value"}]'])
def test_damaged_verdicts_in_git_are_one_line(toy: Toy, refigure: Refigure, content: str) -> None:
    commit_verdicts(refigure)
    Path("docs/gallery/toy_paper/claims.json").write_text(content)
    git("commit", "-qam", "damaged")
    status, _, err = refigure("diff")
    assert status == 1
    assert "HEAD:docs/gallery/toy_paper/claims.json" in fault_of(err)


def test_another_scale_than_was_committed_is_no_regression(toy: Toy, refigure: Refigure) -> None:
    toy.finished()
    commit_verdicts(refigure)
    shutil.rmtree("runs")
    assert toy.one("--scale", "smoke") == 0
    assert json.loads(refigure("diff", "--json")[1])[0]["verdict"] == "smaller run: not comparable"
    assert refigure("diff")[0] == 0


def test_runs_that_are_gone_are_no_regression(toy: Toy, refigure: Refigure) -> None:
    toy.finished()
    commit_verdicts(refigure)
    shutil.rmtree("runs")
    assert refigure("diff")[0] == 0


def test_a_damaged_run_under_a_claim_is_one_line(toy: Toy, refigure: Refigure) -> None:
    path = toy.finished().folder / record.DONE
    path.write_text(path.read_text().replace('"x"', '"y"'))
    status, _, err = refigure("diff")
    assert status == 1
    assert "was changed after it was written" in fault_of(err)


def test_explain_names_what_changed(toy: Toy, refigure: Refigure) -> None:
    assert "plain/seeds0-2" in refigure("explain", "toy_paper")[1]
    assert refigure("explain", "toy_paper")[1].count("never run here") == 4
    run = toy.finished()
    assert f"{run.identity}: done, nothing changed" in refigure("explain", "toy_paper")[1]
    assert refigure("explain", str(run.identity))[1] == f"{run.identity}: current at scale cpu\n"
    toy.edit(
        "papers/toy_paper/paper.yaml",
        'plain: {title: "plain"}\n      m',
        'plain: {title: "p", config: {rate: 0.2}}\n      m',
    )
    toy.edit("papers/toy_paper/method.py", "return 2", "return 2.5")
    toy.edit("papers/toy_paper/main.py", "import time", "import time\nfrom common.train.seeding import numpy_rng")
    out = refigure("explain", "toy_paper")[1]
    assert "seeding" not in out, "an import that nothing uses decides nothing"
    toy.edit("papers/toy_paper/main.py", "0, run.restore()", "0 * bool(numpy_rng), run.restore()")
    toy.edit("papers/toy_paper/figures.py", '"""Nothing."""', "return 1")
    out = refigure("explain", "toy_paper")[1].splitlines()
    again = next(number for number, line in enumerate(out) if f"runs again; against {run.folder.name}:" in line)
    expected = [
        "  config rate: 0.1 -> 0.2",
        "  code common/train/seeding.py: numpy_rng is now reached",
        "  code papers/toy_paper/main.py: train changed",
        "  code papers/toy_paper/method.py: slope changed",
    ]
    told = list(itertools.takewhile(lambda line: line.startswith("  "), out[again + 1 :]))
    assert [line for line in told if "seeding" not in line or "numpy_rng" in line] == expected
    assert "figures" not in "".join(out)
    status, text, _ = refigure("explain", str(run.folder))
    assert status == 0
    assert text.splitlines()[1:] == told


def test_explain_of_a_damaged_run_is_one_line(toy: Toy, refigure: Refigure) -> None:
    run = toy.finished()
    record = json.loads((run.folder / "config.json").read_text())
    for broken in ("{", "[]", json.dumps({"key": 1, "manifest": {}}), json.dumps({**record, "config": None})):
        (run.folder / "config.json").write_text(broken)
        status, _, err = refigure("explain", str(run.folder))
        assert status == 1
        assert "config.json" in fault_of(err)


SLOPE = '    """Of the parabola."""\n    return 2 * SCALE * x\n'
READABLE = '    """The derivative of the parabola SCALE x^2."""\n    factor = 2 * SCALE\n    return factor * x\n'
OTHER = '    """Of the parabola."""\n    return 2.5 * SCALE * x\n'


def test_carry_files_equal_numbers_and_refuses_others(toy: Toy, refigure: Refigure) -> None:
    before = toy.finished()
    assert refigure("carry", "toy_paper") == (0, "", "")
    toy.edit("papers/toy_paper/method.py", SLOPE, OTHER)
    status, out, _ = refigure("carry", "toy_paper", "--experiment", "main")
    assert status == 1
    assert f"{before.identity}: not carried: it parts at step 1" in out
    toy.edit("papers/toy_paper/method.py", OTHER, READABLE)
    status, out, _ = refigure("carry", "toy_paper", "--jobs", "2", "--every-seed")
    assert (status, out) == (0, f"{toy.plan().identity}: carried from {before.folder.name} (1 of 12 steps replayed)\n")
    value, touched = json.loads(refigure("diff", "--json")[1])
    assert (value["verdict"], value["carried"], touched["carried"]) == ("agrees", True, False)
    assert "agrees, carried" in refigure("diff")[1]


def origin(folder: Path, **changes: Any) -> None:
    """Say in the provenance of a run that it comes from elsewhere."""
    path = folder / record.PROVENANCE
    path.write_text(json.dumps(record.with_digest({**json.loads(path.read_text()), **changes})))


def test_check_refuses_runs_whose_code_cannot_be_found(toy: Toy, refigure: Refigure) -> None:
    commit_verdicts(refigure)
    head, run = git("rev-parse", "HEAD").strip(), toy.finished()
    clean, dirty, unknown = (
        {"git": name, "dirty": flag} for name, flag in ((head, False), (head, True), ("0" * 40, 0))
    )
    assert refigure("check") == (0, "", "")
    for revision, fault in ((dirty, "not committed"), (unknown, "unknown to git"), ({}, "unknown to git")):
        origin(run.folder, revision=revision)
        status, out, _ = refigure("check", "toy_paper")
        assert status == 1
        (line,) = out.splitlines()
        assert line.startswith(f"{run.identity}: ")
        assert fault in line
        assert refigure("check", "--allow-unknown", "toy_paper") == (0, out, "")
    for last, expected in ((clean, 0), (dirty, 1), (unknown, 1)):
        origin(run.folder, revision=unknown, carried=[{"revision": unknown}, {"revision": last}])
        assert refigure("check")[0] == expected
    assert "did you mean 'toy_paper'" in fault_of(refigure("check", "toy_papr")[2])


def away(toy: Toy, *assignments: str) -> Path:
    """A finished run, moved out of the repository."""
    run = toy.finished(*assignments)
    target = toy.root.parent / "elsewhere" / run.folder.name
    target.parent.mkdir(exist_ok=True)
    shutil.move(run.folder, target)
    return target


def resign(folder: Path, **changes: Any) -> None:
    """Change `metrics.json` and make its digest fit, as an attacker would."""
    final = json.loads((folder / record.DONE).read_text()) | changes
    (folder / record.DONE).write_text(json.dumps(record.with_digest(final)))


def test_import_files_a_run(toy: Toy, refigure: Refigure) -> None:
    folder, home = away(toy), toy.folder(toy.plan())
    assert refigure("import", str(folder.parent))[:2] == (0, f"{toy.plan().identity}: imported, used at scale cpu\n")
    assert toy.verified(toy.plan()).identity == toy.plan().identity
    assert not list(home.parent.glob(".*.part"))
    assert refigure("import", str(folder))[1] == f"{toy.plan().identity}: there already, the same\n"
    assert refigure("import", str(home))[1] == f"{toy.plan().identity}: lies there already\n"
    assert "no scale needs it now" in refigure("import", str(away(toy, "rate=0.3")))[1]


def test_import_of_another_result_needs_replace(toy: Toy, refigure: Refigure) -> None:
    folder, here = away(toy), toy.finished()
    resign(folder, metrics={"x": [1.0, 2.0, 3.0]})
    status, _, err = refigure("import", str(folder))
    assert status == 1
    assert "--replace" in fault_of(err)
    assert record.read(here.folder).metrics == here.metrics
    assert refigure("import", "--replace", str(folder))[0] == 0
    assert toy.verified(toy.plan()).metrics == {"x": [1.0, 2.0, 3.0]}


def test_import_refuses_what_is_damaged_or_unfinished(toy: Toy, refigure: Refigure) -> None:
    good, folder = away(toy, "rate=0.3"), away(toy)
    content = (folder / "arrays.npz").read_bytes()
    for name, damaged in (("arrays.npz", content[:-1] + b"?"), ("arrays.npz", None), (record.DONE, None)):
        path = folder / name
        before = path.read_bytes()
        path.unlink() if damaged is None else path.write_bytes(damaged)
        status, _, err = refigure("import", str(good), str(folder))
        assert status == 1
        assert name in fault_of(err)
        assert not list(toy.root.glob("runs/**/metrics.json")), "one was filed before all were verified"
        path.write_bytes(before)
    assert refigure("import", str(good), str(folder))[0] == 0


def test_an_import_that_the_disk_is_too_full_for_leaves_what_was_there(
    toy: Toy, refigure: Refigure, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = away(toy)
    again = toy.finished()
    resign(folder, metrics={"x": [1.0, 2.0, 3.0]})
    before = {path.name: path.read_bytes() for path in again.folder.iterdir() if path.is_file()}
    written = []

    def full(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_bytes(content)

    monkeypatch.setattr(atomic, "write_bytes", full)
    assert refigure("import", "--replace", str(folder))[0] == 1
    assert {path.name: path.read_bytes() for path in again.folder.iterdir() if path.is_file()} == before


def test_import_passes_over_hidden_folders(toy: Toy, refigure: Refigure) -> None:
    folder = away(toy)
    (folder / ".again.part").mkdir()
    (folder / ".again.part" / "config.json").write_text("{")
    assert refigure("import", str(folder.parent))[0] == 0


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "checkpoint/../../outside.txt", ".lock", "more.txt"])
def test_import_refuses_hostile_names_of_files(toy: Toy, refigure: Refigure, name: str) -> None:
    folder = away(toy)
    (folder.parent / "outside.txt").write_text("x")
    final = json.loads((folder / record.DONE).read_text())
    resign(folder, files={**final["files"], name: hashlib.sha256(b"x").hexdigest()})
    status, _, err = refigure("import", str(folder))
    assert status == 1
    assert "which no run writes" in fault_of(err)
    assert not list(toy.root.glob("runs/**/metrics.json"))
    assert not list(toy.root.rglob("outside.txt"))


@pytest.mark.parametrize(
    "changes",
    [{"files": []}, {"files": None}, {"metrics": None}, {"metrics": {"x": [1.0]}}, {"metrics": {"x": "abc"}}],
)
def test_import_refuses_content_that_no_run_writes(toy: Toy, refigure: Refigure, changes: dict[str, Any]) -> None:
    folder = away(toy)
    resign(folder, **changes)
    status, _, err = refigure("import", str(folder))
    assert status == 1
    assert record.DONE in fault_of(err)


def test_import_refuses_hostile_identities(toy: Toy, refigure: Refigure) -> None:
    folder = away(toy)
    record = json.loads((folder / "config.json").read_text())
    for field, value in (("paper", "../../up"), ("variant", "/etc"), ("seeds", [-1]), ("key", "0" * 12)):
        (folder / "config.json").write_text(json.dumps({**record, field: value}))
        status, _, err = refigure("import", str(folder))
        assert status == 1
        fault_of(err)
    assert not list(toy.root.glob("runs/**/metrics.json"))


def test_import_leaves_a_run_in_work_alone(toy: Toy, refigure: Refigure) -> None:
    folder = away(toy)
    with atomic.holding(toy.folder(toy.plan())):
        status, _, err = refigure("import", str(folder))
    assert status == 1
    assert f"in work by another process (pid {os.getpid()})" in fault_of(err)


@pytest.mark.slow
def test_a_new_room_runs_tests_and_is_entered(toy: Toy, refigure: Refigure) -> None:
    status, out, _ = refigure("new", "my_paper2")
    assert status == 0
    written = {line.partition(": ")[2] for line in out.splitlines() if line.startswith("written")}
    assert {"papers/my_paper2/paper.yaml", "papers/my_paper2/tests/test_main.py"} <= written
    assert spec.papers() == ["my_paper2", "toy_paper"]
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text())
    assert pipeline["stages"]["reproduce"]["matrix"]["paper"] == ["toy_paper", "my_paper2"]
    assert "results/my_paper2/metrics.json" in pipeline["metrics"]
    assert refigure("diff", "my_paper2")[0] == 0
    answer = toy.python("-m", "papers.my_paper2", "--scale", "smoke")
    assert answer.returncode == 0, answer.stderr
    for plan in planning.plan("my_paper2", "smoke"):
        assert set(toy.verified(plan).metrics) == {"test_error"}
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "papers/my_paper2")
    answer = toy.python(*words)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("name", ["../up", "a b", "3d", "Upper", "class", "é", "", "a-b", "a.b", "a\n", "toy_paper"])
def test_bad_names_for_rooms_are_refused(toy: Toy, refigure: Refigure, name: str) -> None:
    before = sorted(toy.root.parent.rglob("*"))
    status, _, err = refigure("new", "--", name)
    assert status == 1
    fault_of(err)
    assert sorted(toy.root.parent.rglob("*")) == before
