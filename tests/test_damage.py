"""Damage and hostile input: each is one line that says what, where and how to mend it, and nothing is accepted.

A row is a name, what is done to a repository with a finished run, a command, and a pattern of its line.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import Refigure, Toy, fault_of

from common import atomic
from common.run import record

Damage = Callable[[Toy, Path], object]
IMPORT = ("import", "elsewhere")
TRAIN = ("train",)
DEEP = "[" * 100_000


def put(name: str, content: str | bytes) -> Damage:
    """Another content of a file of the run."""
    return lambda _, run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content)


def edit(name: str, old: str, new: str) -> Damage:
    """A change in a file of the run that leaves it well-formed."""

    def damage(_: Toy, run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return damage


def flipped(_: Toy, run: Path) -> None:
    content = bytearray((run / "arrays.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "arrays.npz").write_bytes(content)


def moved(then: Damage) -> Damage:
    """The run lies in a folder `elsewhere`, from which it is imported."""

    def damage(toy: Toy, run: Path) -> None:
        shutil.move(run, toy.root / "elsewhere")
        then(toy, toy.root / "elsewhere")

    return damage


def pipe(name: str) -> Damage:
    def damage(_: Toy, run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return damage


def endless(name: str) -> Damage:
    def damage(_: Toy, run: Path) -> None:
        (run / name).unlink()
        (run / name).symlink_to("/dev/zero")

    return damage


def bomb(_: Toy, run: Path) -> None:
    """Arrays that say to be 8 GiB, in a small file whose checksum is right."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x.npy", b"")
        archive.getinfo("x.npy").file_size = 8 << 30
    (run / "arrays.npz").write_bytes(content.getvalue())
    signed(run, lambda final: final["files"].update({"arrays.npz": record.sha256_of(run / "arrays.npz")}))


def signed(run: Path, change: Callable[[dict], object]) -> None:
    """A `metrics.json` whose digest is right."""
    final = json.loads((run / record.DONE).read_text())
    change(final)
    (run / record.DONE).write_text(json.dumps(record.with_digest(final)))


def no_files(_: Toy, run: Path) -> None:
    signed(run, lambda final: final["files"].clear())


def unfinished(name: str) -> Damage:
    """A folder where an unfinished run has the file."""

    def damage(_: Toy, run: Path) -> None:
        (run / record.DONE).unlink()
        (run / name).unlink()
        (run / name).mkdir()

    return damage


def nothing(*_: object) -> None:
    """The command itself is at fault."""


def spec_text(old: str, new: str) -> Damage:
    return lambda toy, _: toy.edit("papers/toy_paper/paper.yaml", old, new)


ROWS: list[tuple[str, Damage, tuple[str, ...], str]] = [
    ("a flipped bit of the arrays", flipped, ("report",), r"arrays\.npz is damaged \(its checksum differs\): delete"),
    ("a digit of the stream", edit("metrics.jsonl", "1", "2"), ("report",), r"metrics\.jsonl is damaged"),
    ("another device", edit("provenance.json", '"cpu"', '"gpu"'), ("report",), r"provenance\.json was changed"),
    ("another setting", edit("config.json", '"steps": 12', '"steps": 13'), ("report",), r"config.* key"),
    ("a final metric", edit(record.DONE, "0.", "1."), ("diff",), r"metrics\.json was changed"),
    ("a record without end", put("config.json", DEEP), ("diff",), r"config\.json cannot be read"),
    ("a record without end", put("provenance.json", DEEP), ("diff",), r"provenance\.json cannot be read"),
    ("a record without end", put("config.json", DEEP), ("check",), r"config\.json cannot be read"),
    ("a record without end", moved(put("config.json", DEEP)), IMPORT, r"config\.json cannot be read"),
    ("metrics without end", moved(put(record.DONE, DEEP)), IMPORT, r"metrics\.json cannot be read"),
    ("a stream that is a folder", unfinished("metrics.jsonl"), TRAIN, r"metrics\.jsonl.*[Ii]s a directory"),
    ("a record that is a folder", unfinished("config.json"), TRAIN, r"config\.json cannot be read"),
    ("a pipe", moved(pipe("config.json")), IMPORT, r"config\.json cannot be read \(no file\)"),
    ("a pipe", moved(pipe("arrays.npz")), IMPORT, r"arrays\.npz cannot be read \(no file\)"),
    ("an endless device", moved(endless("arrays.npz")), IMPORT, r"arrays\.npz cannot be read \(no file\)"),
    ("arrays of 8 GiB", moved(bomb), IMPORT, r"arrays\.npz cannot be read \(it unpacks to more than"),
    ("a list without files", moved(no_files), IMPORT, r"config\.json is damaged"),
    ("no folder", nothing, (*TRAIN, "--out="), r"--out: name a folder"),
    ("no number", nothing, (*TRAIN, "--checkpoint-every", "nan"), r"--checkpoint-every nan: .*seconds"),
    ("a negative number", nothing, (*TRAIN, "--checkpoint-every=-1"), r"--checkpoint-every -1\S*: .*seconds"),
    ("many threads", nothing, (*TRAIN, "--threads", "100000"), r"--threads 100000: .*1024"),
    ("many seeds", nothing, ("train", "--experiment", "main", "--variant", "plain", "--seeds", "0-99999999"),
     r"--seeds: 0-99999999: .*10,000"),
    ("a device's name", nothing, ("new", "con"), r"'con' cannot name a room"),
    ("a package's name", nothing, ("new", "numpy"), r"'numpy' cannot name a room"),
    ("our package's name", nothing, ("new", "common"), r"'common' cannot name a room"),
    ("the tests' name", nothing, ("new", "tests"), r"'tests' cannot name a room"),
    ("a seed that is none", spec_text("seeds: [0, 1]}", "seeds: [0, .nan]}"), ("status", "toy_paper"),
     r"seeds\[1\]: .*integer"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "words", "line"), [row[1:] for row in ROWS], ids=[f"{row[0]}: {' '.join(row[2])}"[:60] for row in ROWS]
)
def test_nothing_is_accepted(
    toy: Toy, refigure: Refigure, capsys: pytest.CaptureFixture[str], damage: Damage, words: tuple[str, ...], line: str
) -> None:
    run = toy.finished()
    toy.finished(variant="momentum")
    assert toy.main("--experiment", "single") == 0
    before = {path for path in toy.root.rglob("*") if ".lock" not in path.name}
    damage(toy, run.folder)
    capsys.readouterr()
    if words[0] == "train":
        one = () if "--experiment" in words else ("--experiment", "main", "--variant", "plain")
        with contextlib.suppress(SystemExit):  # of the parser of arguments
            assert toy.main(*one, *words[1:]) == 1
        status, err = 1, capsys.readouterr().err
    elif words[0] == "report":
        done = toy.python("-m", "common.report", "toy_paper", timeout=60)
        status, err = done.returncode, done.stderr
    else:
        status, _, err = refigure(*words)
    assert status == 1
    assert re.search(line, fault_of(err)), err
    assert set(toy.root.glob("papers/*")) <= before, "no room was made"
    assert not (toy.root / "results").exists()


def test_a_folder_that_is_gone(toy: Toy) -> None:
    shutil.rmtree(toy.root / "runs", ignore_errors=True)
    code = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); from common import cli; cli.main()"
    done = toy.python("-c", code, "list", timeout=60)
    assert done.returncode == 1
    assert "the current folder" in fault_of(done.stderr)


def test_words_in_brackets_are_words(toy: Toy, refigure: Refigure) -> None:
    toy.edit("papers/toy_paper/paper.yaml", '"Descent on a parabola"', '"Descent [/red] on [bold] a parabola"')
    assert "Descent [/red] on [bold] a parabola" in refigure("list")[1]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_another_alphabet(toy: Toy, encoding: str) -> None:
    toy.edit("papers/toy_paper/paper.yaml", '"Descent on a parabola"', '"Descent σ → 0"')
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(toy.root)}
    words = [sys.executable, "-c", "from common.cli import main; main()", "list"]
    done = subprocess.run(words, cwd=toy.root, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"Descent" in done.stdout


def test_a_clone_of_another_user_has_no_revision_and_a_line_says_so(
    toy: Toy, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=toy.root, check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert toy.one() == 0
    assert "git does not tell the revision: " in capfd.readouterr().err


def test_prune_keeps_what_is_needed_made_by_hand_or_in_training(toy: Toy, refigure: Refigure) -> None:
    old = toy.finished()
    damaged = toy.finished(variant="momentum")
    toy.edit("papers/toy_paper/method.py", "SCALE = 1.0", "SCALE = 1.1")
    (damaged.folder / "config.json").write_text("{")
    by_hand = [toy.finished(), toy.finished("rate=0.05"), toy.finished(seeds=(7, 8))]
    before = set(toy.root.glob("runs/toy_paper/*/*/*"))
    assert toy.one("--threads", "2") == 0
    (threads,) = set(toy.root.glob("runs/toy_paper/*/*/*")) - before
    toy.edit("papers/toy_paper/paper.yaml", "      paper: {seeds: [0, 1, 2], batch: true}\n", "")
    listed = refigure("prune", "toy_paper")[1]
    assert [str(folder) in listed for folder in (old.folder, damaged.folder, threads)] == [True, True, False]
    with atomic.holding(old.folder):
        status, _, err = refigure("prune", "toy_paper", "--delete")
        assert (status, "is in work by another process" in fault_of(err)) == (1, True)
    assert old.folder.exists()
    status, out, _ = refigure("prune", "toy_paper", "--delete")
    assert (status, old.folder.exists(), str(old.folder) in out) == (0, False, True)
    assert all(run.folder.exists() for run in by_hand)
