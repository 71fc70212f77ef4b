"""`snakemake results/<paper>` and DVC, on a room as `refigure new` makes it; every command is the real one."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import ROOM, Repository, built_repository, copy_of, descendants, idle, jobs, kill_all, until

pytestmark = pytest.mark.slow

PROMISED = {
    "index.html", "claims.csv", "claims.json", "metrics.json", "provenance.json",
    "figures/figure1.png", "figures/figure1.pdf", "figures/figure1.csv",
}  # fmt: skip
SMOKE = ("--config", "scale=smoke")
BUILD = (f"results/{ROOM}", *SMOKE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Built once, at scale smoke; read only."""
    return built_repository(tmp_path_factory)


@pytest.fixture
def room(built: Repository, tmp_path: Path) -> Iterator[Repository]:
    """A copy of it to change: a repository may be moved without building again."""
    repository = copy_of(built, tmp_path / "repository")
    yield repository
    repository.stop()


def test_a_new_room_builds_all_that_is_promised(built: Repository):
    log = (built.root.parent.parent / "built.log").read_text()
    assert jobs(log) == (2, 1)
    assert not re.search(r"(?m)Traceback|Exception|^error", log), log
    assert set(built.results()) == PROMISED
    assert built.provenance()["scale"] == "smoke"
    assert {Path("runs") / path for path in built.provenance()["runs"]} == built.folders()
    metrics = json.loads((built.root / "results" / ROOM / "metrics.json").read_text())
    assert all(isinstance(value, int | float) for value in metrics.values())


def test_what_is_there_is_not_built_again(room: Repository):
    before = room.results()
    for target in (f"results/{ROOM}", f"results/{ROOM}/", f"results/{ROOM}/figures/figure1.pdf", "all"):
        assert idle(room.snakemake(target=target)), target
    (room.root / "results" / ROOM / "figures" / "figure1.csv").unlink()
    assert jobs(room.snakemake("-n", target=f"results/{ROOM}/")) == (0, 1)
    assert "figures/figure1.csv" not in room.results(), "a dry run must not write"
    assert jobs(room.snakemake(target=f"results/{ROOM}/figures/figure1.csv")) == (0, 1)
    assert room.results() == before, "drawn again, other bytes"


def test_drawing_again_gives_the_same_bytes(room: Repository):
    before = room.results()
    shutil.rmtree(room.root / "results")
    assert jobs(room.snakemake()) == (0, 1)
    assert room.results() == before


def test_edits_without_meaning_build_nothing(room: Repository):
    for name in room.run("git", "ls-files").stdout.splitlines():
        os.utime(room.root / name)
    assert idle(room.snakemake())
    room.room("main.py", '"""Train one model per seed', '"""In other words: train one model per seed')
    room.room("main.py", "    def update(", "\n    # A remark.\n    def update(")
    room.room("figures.py", '"""Training error against steps', '"""Errors against steps')
    for name in ("common/train/jax.py", "common/run/record.py", "common/report/theme.py", "common/room/spec.py"):
        path = room.root / name
        path.write_text('"""Other words."""\n' + path.read_text().partition('"""\n')[2] + "\n\n# A remark.\n")
    for name in ("Snakefile", "workflow/rules/runs.smk", "workflow/lib/planning.py"):
        path = room.root / name
        path.write_text(path.read_text() + "\n# A remark.\n")
    room.room("paper.yaml", "\nfigures:", "\n# A remark.\nfigures:")
    assert idle(room.snakemake())
    room.commit("Remarks")
    room.run("git", "checkout", "-q", "HEAD~1")
    room.run("git", "checkout", "-q", "-")
    assert idle(room.snakemake())


def test_edits_with_a_meaning_build_what_they_touch(room: Repository):
    before, drawn = room.finals(), room.results()
    room.room("figures.py", "gradient steps", "steps of descent")
    assert jobs(room.snakemake()) == (0, 1)
    assert room.results()["figures/figure1.png"] != drawn["figures/figure1.png"]
    assert room.finals() == before

    room.room("paper.yaml", "config: {momentum: heavy ball}", "config: {momentum: heavy ball, learning_rate: 0.04}")
    told = room.refigure("explain", ROOM, "--scale", "smoke")
    assert re.search(r"main/plain/\S+: done, nothing changed", told)
    assert re.search(r"main/momentum/\S+: runs again; against \S+:\n  config learning_rate: 0.05 -> 0.04\n", told)
    assert jobs(room.snakemake()) == (1, 1)
    (fresh,) = set(room.finals()) - set(before)
    assert fresh.parent.name == "momentum"
    assert fresh.name in " ".join(room.provenance()["runs"])
    assert before.items() <= room.finals().items(), "runs of earlier settings stay"

    room.room("paper.yaml", ", learning_rate: 0.04", "")
    assert jobs(room.snakemake("-n")) == (0, 1), "the earlier run is still there"

    room.room("paper.yaml", "smoke: {seeds: [0, 1]", "smoke: {seeds: [0, 1, 2]")
    assert jobs(room.snakemake("-n")) == (2, 1)
    assert "seeds: [0, 1] -> [0, 1, 2]" in room.refigure("explain", ROOM, "--scale", "smoke")
    room.room("paper.yaml", "smoke: {seeds: [0, 1, 2]", "smoke: {seeds: [0, 1]")

    room.room("main.py", "- points[:, 1]) ** 2)", "- points[:, 1]) ** 2 + 0.0)")
    told = room.refigure("explain", ROOM, "--scale", "smoke")
    assert told.count(f"code papers/{ROOM}/main.py: squared_error changed") == 2
    assert jobs(room.snakemake("-n")) == (2, 1)

    room.room("claims.yaml", "absolute: 0.002", "absolute: 0.003")
    room.room("main.py", "** 2 + 0.0)", "** 2)")
    assert jobs(room.snakemake("-n")) == (0, 1)


def test_results_changed_by_hand_are_drawn_again(room: Repository):
    before = room.results()
    (room.root / "results" / ROOM / "claims.csv").write_text("id,verdict\nC1,agrees\n")
    assert jobs(room.snakemake()) == (0, 1)
    assert room.results() == before


def test_a_broken_room_stops_nobody_else(room: Repository):
    room.refigure("new", "another")
    path = room.root / "papers" / "another" / "paper.yaml"
    for broken in (path.read_text().replace("variants:", "variantz:"), "title: [", ""):
        path.write_text(broken)
        assert idle(room.snakemake()), "it is not looked at"
        done = room.run("snakemake", *SMOKE, check=False)
        assert done.returncode != 0
        assert "error: papers/another/paper.yaml" in done.stdout
        assert "Traceback" not in done.stdout
        assert room.fails("results/another", *SMOKE).startswith("error: papers/another/paper.yaml")
    assert "papers/another" in room.run("snakemake", "all", f"results/{ROOM}", *SMOKE, check=False).stdout, (
        "it is in all"
    )


def test_what_changes_while_dvc_builds_is_refused(room: Repository):
    room.close_gate()
    log = room.root.parent / "reproduce.log"
    with log.open("w") as stream:
        build = subprocess.Popen(
            ["python", "workflow/lib/reproduce.py", ROOM], cwd=room.root, env=room.environment, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    room.builds.append(build)
    until(lambda: "Building DAG" in log.read_text())
    room.room("figures.py", '"""The figures', '"""Meanwhile, the figures')
    room.open_gate()
    assert build.wait(120) == 1
    assert f"error: papers/{ROOM}/figures.py changed while results/{ROOM} was built" in log.read_text()


def test_each_scale_draws_its_own_runs(room: Repository):
    picture = "figures/figure1.png"
    smoke = room.results()
    assert jobs(room.snakemake(scale="cpu")) == (2, 1)
    assert room.provenance()["scale"] == "cpu"
    cpu = room.results()
    assert cpu[picture] != smoke[picture]
    assert idle(room.snakemake(scale="cpu"))
    assert jobs(room.snakemake(scale="smoke")) == (0, 1)
    assert room.provenance()["scale"] == "smoke"
    assert room.results()[picture] == smoke[picture]
    scales = [run["scale"] for run in room.provenance()["runs"].values()]
    assert scales == ["smoke", "smoke", "paper"], "a claim is judged by the run under published settings"
    judged = json.loads((room.root / f"results/{ROOM}/claims.json").read_text())
    assert {claim["scale"] for claim in judged} == {"paper"}
    assert jobs(room.snakemake("-n", scale="cpu")) == (0, 1)
    assert idle(room.snakemake(scale="smoke")), "a dry run of another scale changes nothing"
    assert jobs(room.snakemake("-n", scale="paper")) == (0, 1), "the settings of cpu: it shares the runs"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["results/tinyrom"], "no paper 'tinyrom'; did you mean 'tinyroom'? Known: tinyroom"),
        (["results/tinyrom/"], "no paper 'tinyrom'; did you mean 'tinyroom'? Known: tinyroom"),
        ([f"results/{ROOM}/indx.html"], f"results/{ROOM} has no 'indx.html'; did you mean 'index.html'? Known: "),
        ([f"./results/{ROOM}"], f"type it as results/{ROOM}"),
        ([f"results/{ROOM}", "--config", "scale=smok"], "--config scale: no scale 'smok'; did you mean 'smoke'?"),
        ([f"results/{ROOM}", "--config", "scal=smoke"], "--config scal: unknown key; did you mean 'scale'?"),
        (
            [f"runs/{ROOM}/fit/plain/seed0-000000000000/metrics.json"],
            f"runs/{ROOM}/fit/plain/seed0-000000000000 is no run",
        ),
        (["--config", "papers=tinyrom"], "--config papers: no paper 'tinyrom'; did you mean 'tinyroom'?"),
    ],
)
def test_wrong_words_are_one_line_with_the_nearest_right_one(built: Repository, words: list[str], told: str):
    assert built.fails(*words).startswith(f"error: {told}")


def test_a_fault_in_the_spec_or_the_code_is_one_line(room: Repository):
    room.room("paper.yaml", "config: {momentum: none}", "config: {momentun: none}")
    assert f"papers/{ROOM}/paper.yaml" in room.fails(*BUILD)
    room.room("paper.yaml", "momentun", "momentum")
    room.room("paper.yaml", "    experiment: main\n", "    experiment: main\n    also: [mian]\n")
    assert "no experiment 'mian' in papers/tinyroom/paper.yaml: figures.figure1; did you mean 'main'?" in room.fails(
        *BUILD
    )
    room.room("paper.yaml", "    also: [mian]\n", "")
    room.room("claims.yaml", "kind: value", "kind: valeu")
    assert f"papers/{ROOM}/claims.yaml" in room.fails(*BUILD)
    room.room("claims.yaml", "valeu", "value")
    room.room("main.py", "def train(", "def train((")
    assert f"papers/{ROOM}/main.py, line " in room.fails(*BUILD)


def test_a_run_that_fails_leaves_the_others_and_is_not_taken_for_done(room: Repository):
    shutil.rmtree(room.root / "runs")
    shutil.rmtree(room.root / "results")
    room.room("paper.yaml", "config: {momentum: heavy ball}", "config: {momentum: heavy ball, learning_rate: 1.0e+30}")
    done = room.run("snakemake", *BUILD, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert re.search(r"(?m)^error: metric 'error' is (inf|nan) at step \d+ of 100", done.stdout), done.stdout
    assert [path.parent.name for path in room.finals()] == ["plain"]
    assert not (room.root / "results" / ROOM / "index.html").exists()
    assert jobs(room.snakemake("-n")) == (1, 1)
    assert re.search(r"main/momentum/\S+: begun", room.refigure("explain", ROOM, "--scale", "smoke"))
    room.room("paper.yaml", ", learning_rate: 1.0e+30", "")
    assert jobs(room.snakemake()) == (1, 1)
    assert set(room.results()) == PROMISED


def test_killed_builds_go_on_to_the_same_bits(room: Repository, tmp_path: Path):
    room.close_gate()
    quiet = copy_of(room, tmp_path / "undisturbed")
    quiet.open_gate()
    log = tmp_path / "log"

    def begun() -> bool:
        folders = [path for path in room.folders() if not (room.root / path / "metrics.json").exists()]
        return len([path for path in folders if (room.root / path / "checkpoint/resume.safetensors").exists()]) == 2

    build = room.start(*BUILD, log=log)
    undisturbed = quiet.start(*BUILD, log=tmp_path / "undisturbed.log")
    until(begun)
    # While it works, a second build is told to wait and leaves the first alone.
    told = room.fails(*BUILD)
    assert re.fullmatch(r"error: this folder is in work by another process \(pid (\d+)\): wait for it, .*", told)
    assert f"(pid {build.pid})" in told
    assert build.poll() is None

    kill_all(build.pid)  # the power goes
    assert build.wait(10) == -signal.SIGKILL
    unfinished = room.folders() - set(room.finals())  # those that were built before the gate are done
    assert len(unfinished) == 2

    again = room.start(*BUILD, log=log)
    until(lambda: len(descendants(again.pid)) >= 4 and begun())
    orphans = descendants(again.pid)
    again.kill()  # only Snakemake: its runs go on without it
    again.wait(10)
    assert any(Path(f"/proc/{pid}").exists() for pid in orphans)
    room.open_gate()
    output = room.snakemake()
    assert "--unlock" not in output
    assert set(room.results()) == PROMISED
    assert idle(room.snakemake())

    assert undisturbed.wait(120) == 0, (tmp_path / "undisturbed.log").read_text()
    assert room.finals() == quiet.finals()
    sessions = [json.loads((room.root / path / "provenance.json").read_text())["sessions"] for path in unfinished]
    assert min(sessions) >= 2, "it went on from a checkpoint"
    name = "figures/figure1.png"
    assert room.results()[name] == quiet.results()[name]


def test_dvc_brings_a_clone_all_it_needs(room: Repository, tmp_path: Path):
    output = room.run("dvc", "repro").stdout
    assert jobs(output) == (2, 1), output  # scale cpu
    room.run("dvc", "push")
    room.commit("Artifacts")
    assert (
        not room.run("git", "ls-files", "runs", "results")
        .stdout.replace("runs/.gitignore", "")
        .replace("results/.gitignore", "")
        .strip()
    )
    room.run("git", "clone", "-q", os.fspath(room.root), os.fspath(tmp_path / "clone"))
    shutil.copytree(tmp_path / "clone", tmp_path / "tampered")

    clone = Repository(tmp_path / "clone")
    clone.run(*offline(), "dvc", "pull")
    assert clone.finals() == room.finals()
    assert clone.results() == room.results()
    assert idle(clone.run("snakemake", f"results/{ROOM}").stdout), "pulled results are as they would be drawn"
    for path in clone.run("git", "ls-files").stdout.splitlines():
        os.utime(clone.root / path)
    (clone.root / "results" / ROOM / "index.html").unlink()
    assert jobs(clone.run("snakemake", f"results/{ROOM}").stdout) == (0, 1)
    assert clone.results() == room.results(), "drawn again, other bytes"
    assert "up to date" in clone.run("dvc", "status").stdout
    assert not clone.run("git", "status", "--porcelain").stdout
    assert jobs(clone.snakemake("-n")) == (0, 1), "the runs of scale smoke came, too"
    assert re.search(r"(?m)^C1\s", clone.refigure("diff", ROOM))

    tampered = Repository(tmp_path / "tampered")
    index = hashlib.md5((room.root / "results" / ROOM / "index.html").read_bytes(), usedforsecurity=False).hexdigest()
    stored = tampered.root / "artifacts" / "files" / "md5" / index[:2] / index[2:]
    stored.chmod(0o644)
    stored.write_text("<p>We matched everything.</p>")
    done = tampered.run("dvc", "pull", check=False)
    assert done.returncode != 0
    assert f"results/{ROOM}" in done.stdout
    assert "index.html" not in tampered.results()


def offline() -> list[str]:
    """Words before a command that take the network away from it, where the system lets us."""
    words = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if allowed else []
