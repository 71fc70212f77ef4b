"""Runs under faults: whatever happens to process, disk and files, a done run is whole and its numbers are its own."""

import errno
import io
import itertools
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import Toy, fault_of

from common import atomic
from common.errors import RefigureError
from common.room import plan as planning
from common.run import checkpoint, command, record, runtime
from common.run.progress import Progress
from common.train.recorder import Outcome

SMALL = ("--seeds", "0,1", "--set", "steps=3", "--checkpoint-every", "0")
ONES = {"x": np.ones(2)}


def begun(toy: Toy, *assignments: str, folder: Path | None = None) -> record.Run:
    """A run of two seeds that has begun, or begun again."""
    plan = toy.plan(*assignments, seeds=(0, 1))
    run = record.Run(plan, folder or toy.folder(plan), Progress("test", quiet=True))
    run.begin()
    return run


def outcome(**metrics: Any) -> Outcome:
    return Outcome(metrics or {"x": [1.0, 2.0]}, arrays={"x": np.arange(3.0)}, parameters={"w": np.ones(2)})


def test_what_was_logged_without_a_checkpoint_is_not_logged_twice(toy: Toy) -> None:
    begun(toy).log(1, {"x": [0.5, 0.25]})
    run = begun(toy)  # after the first was killed
    run.log(1, {"x": [0.5, 0.25]})
    run.finish(outcome(), {"started": "2020"})
    assert len(toy.verified(run.plan).history()) == 1


def test_a_stream_altered_while_it_trains_is_refused(toy: Toy) -> None:
    run = begun(toy)
    run.log(1, {"x": [0.5, 0.25]})
    path = run.folder / record.STREAM
    path.write_text(path.read_text().replace("0.5", "0.6"))
    run.save(1, ONES)
    with pytest.raises(RefigureError, match="was changed while the run trained"):
        run.finish(outcome(), {})
    with pytest.raises(RefigureError, match="is not what the checkpoint beside it was written after"):
        begun(toy).restore()


def test_a_run_is_done_with_its_last_file(toy: Toy) -> None:
    run = begun(toy)
    key = run.plan.identity.key
    run.log(1, {"x": [0.5, 0.25]}, "0123456789abcdef")
    run.log(2, {"x": [0.5, 0.25]})
    run.save(2, ONES)
    assert not record.is_done(run.folder, key)
    with pytest.raises(RefigureError, match=r"not a finished run .*run it again"):
        record.read(run.folder)
    run.finish(outcome(), {"started": "2020"})
    assert record.is_done(run.folder, key)
    finished = toy.verified(run.plan)
    assert finished.metrics == {"x": [1.0, 2.0]}
    assert finished.identity == run.plan.identity
    assert finished.seeds == (0, 1)
    lines = [{"step": 1, "x": [0.5, 0.25], "state": "0123456789abcdef"}, {"step": 2, "x": [0.5, 0.25]}]
    assert finished.history() == lines
    assert finished.arrays["x"].tolist() == [0, 1, 2]
    assert finished.parameters["w"].tolist() == [1, 1]
    assert finished.provenance["scale"] == "cpu"
    assert set(finished.files) == {*record.FILES, record.PROVENANCE, record.DONE}
    assert not (run.folder / record.RESUME).exists()
    (run.folder / record.DONE).unlink()
    assert not record.is_done(run.folder, key)


def test_the_finished_run_of_another_key_is_not_this_one(toy: Toy) -> None:
    run = toy.finished()
    assert record.is_done(run.folder, run.identity.key)
    assert not record.is_done(run.folder, "0" * 12)
    shutil.copy(toy.finished("rate=0.2").folder / record.DONE, run.folder / record.DONE)
    assert not record.is_done(run.folder, run.identity.key)
    with pytest.raises(RefigureError, match="its configuration has key"):
        record.read(run.folder)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "3", '{"metrics": {"x": [NaN]}, "digest": null}', "\x00"])
def test_rubbish_for_metrics_is_not_done(toy: Toy, content: str) -> None:
    run = toy.finished()
    (run.folder / record.DONE).write_text(content)
    assert not record.is_done(run.folder, run.identity.key)
    with pytest.raises(RefigureError):
        record.read(run.folder)


USES: dict[str, Callable[[record.FinishedRun], object]] = {
    "config.json": lambda run: run.identity,
    record.STREAM: lambda run: run.history(),
    "arrays.npz": lambda run: run.arrays,
    record.FINAL: lambda run: run.parameters,
    record.PROVENANCE: lambda run: run.provenance,
    record.DONE: lambda run: run.metrics,
}


@pytest.mark.parametrize("name", USES)
def test_an_altered_file_is_refused_when_it_is_read(toy: Toy, name: str) -> None:
    folder = toy.finished().folder
    path = folder / name
    content = path.read_bytes()
    for altered in (content[:-2], content[:9] + bytes([content[9] ^ 1]) + content[10:], content + b"x", None):
        path.unlink() if altered is None else path.write_bytes(altered)
        with pytest.raises(RefigureError, match=path.name.partition(".")[0]):
            USES[name](record.read(folder))
        if altered is not None or name != record.FINAL:  # parameters need not be there
            with pytest.raises(RefigureError):
                record.read(folder).verify()
    path.write_bytes(content)
    assert USES[name](record.read(folder))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_flipped_or_lost_byte_gives_other_numbers(toy: Toy, data: st.DataObject) -> None:
    run = toy.finished()
    path = run.folder / record.DONE
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    cut, byte = data.draw(st.booleans()), data.draw(st.sampled_from(b'0123456789.-+eE"{}[]:, nNaA\xff\x00'))
    path.write_bytes(content[:at] if cut else content[:at] + bytes([byte]) + content[at + 1 :])
    try:
        again = record.read(run.folder)
    except RefigureError:
        pass
    else:
        assert (again.metrics, again.identity) == (run.metrics, run.identity)
    finally:
        path.write_bytes(content)


# Going on from a checkpoint.


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("tail", ["", '{"step": 2, "x"', "5\n", "\x00\x00\n", '{"step": 2}\n{"step": 3}\n'])
def test_what_the_stream_has_after_the_checkpoint_is_taken_back(toy: Toy, tail: str, saved: bool) -> None:
    run = begun(toy)
    run.log(0, {"x": 1.0})
    run.log(1, {"x": 1.0})
    stream = run.folder / record.STREAM
    whole = stream.read_text()
    if saved:
        run.save(1, ONES)
    stream.write_text(whole + tail)
    again = begun(toy)
    state = again.restore()
    assert (stream.read_text() if stream.exists() else "") == (whole if saved else "")
    if saved:
        assert state is not None
        assert state[0] == 1
        assert state[1]["x"].tolist() == [1, 1]
        again.log(2, {"x": 2.0})
        again.save(2, ONES)
        assert begun(toy).restore()[0] == 2, "the mark counts what an earlier session wrote"
    else:
        assert state is None


@pytest.mark.parametrize("alter", [lambda text: text.replace("1.0", "1.1"), lambda text: text[:-2], lambda text: ""])
def test_a_stream_altered_before_the_checkpoint_is_refused(toy: Toy, alter: Callable[[str], str]) -> None:
    run = begun(toy)
    run.log(1, {"x": 1.0})
    run.save(1, ONES)
    stream = run.folder / record.STREAM
    stream.write_text(alter(stream.read_text()))
    with pytest.raises(RefigureError, match=r"metrics\.jsonl is damaged .* delete the run's folder"):
        begun(toy).restore()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config", lambda config: {**config, "rate": 0.2}, "was changed (its configuration has key"),
        ("data", lambda data: {"mnist": {"train.images": "ff"}}, "was changed (its configuration has key"),
        ("threads", lambda threads: 2, "was changed (its configuration has key"),
        ("more", lambda absent: 1, "unknown key 'more'"),
    ],
)
def test_a_run_whose_record_differs_in_spite_of_its_key_is_not_resumed(
    toy: Toy, capsys: pytest.CaptureFixture[str], name: str, change: Callable[[Any], Any], message: str
) -> None:
    assert toy.one(*SMALL, "--set", "fault=crash", "--set", "at=1") == 1
    (path,) = toy.root.rglob("config.json")
    content = json.loads(path.read_text())
    atomic.write_json(path, {**content, name: change(content.get(name))})
    capsys.readouterr()
    assert toy.one(*SMALL, "--set", "fault=crash", "--set", "at=1") == 1
    shown = fault_of(capsys.readouterr().err)
    assert "config.json" in shown
    assert message in shown


def test_names_of_definitions_may_change_while_a_run_is_interrupted(toy: Toy) -> None:
    """A definition may be renamed or moved under an equal key."""
    run = begun(toy)
    run.save(1, ONES)
    path = run.folder / "config.json"
    content = json.loads(path.read_text())
    atomic.write_json(path, {**content, "manifest": {"papers/toy_paper/method.py": {"earlier_name": "0" * 16}}})
    assert begun(toy).restore()[0] == 1
    assert json.loads(path.read_text()) == content, "today's names are kept"


def test_another_run_s_folder_is_refused(toy: Toy) -> None:
    run = begun(toy)
    before = (run.folder / "config.json").read_bytes()
    with pytest.raises(RefigureError, match=r"holds another run .*--out"):
        begun(toy, "rate=0.2", folder=run.folder)
    assert (run.folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"x": [1.0, float("nan")]}, "final metric x is not finite"),
        ({"x": [1.0, float("inf")]}, "final metric x is not finite"),
        ({"x": [1.0]}, "metric x has 1 values, not 2"),
        ({"x": [1.0, 2.0], "y": []}, "metric y has 0 values, not 2"),
    ],
)
def test_final_metrics_are_finite_and_one_a_seed(toy: Toy, metrics: dict[str, Any], message: str) -> None:
    run = begun(toy)
    run.save(3, ONES)
    with pytest.raises(RefigureError, match=message):
        run.finish(outcome(**metrics), {})
    assert not record.is_done(run.folder, run.plan.identity.key)
    assert begun(toy).restore() is not None


def test_a_metric_that_is_not_finite_is_named_and_not_written(toy: Toy) -> None:
    run = begun(toy)
    with pytest.raises(RefigureError, match="loss is not finite at step 7"):
        run.log(7, {"x": 1.0, "loss": [1.0, float("nan")]})
    assert not (run.folder / record.STREAM).exists()


def test_sessions_and_seconds_add_up_and_what_a_session_wrote_itself_counts_once(toy: Toy) -> None:
    first = begun(toy)
    first._seconds_before = 1000.0
    first.save(1, ONES)
    second = begun(toy)
    for step in (2, 3, 4):  # a run of several loops: each reads the checkpoint that the one before has written
        assert second.restore()[0] == step - 1
        second.save(step, ONES)
    third = begun(toy)
    third.restore()
    third.finish(outcome(), {})
    provenance = record.read(third.folder).provenance
    assert provenance["sessions"] == 3
    assert 1000 <= provenance["seconds"] < 2000


def test_the_same_run_made_twice_is_the_same_bytes(toy: Toy) -> None:
    first = begun(toy)
    first.finish(outcome(), {"started": "2020"})
    written = {name: (first.folder / name).read_bytes() for name in (record.DONE, "arrays.npz")}
    (first.folder / record.DONE).unlink()
    begun(toy).finish(outcome(), {"started": "2021"})
    assert {name: (first.folder / name).read_bytes() for name in written} == written
    changed = (first.folder / record.PROVENANCE).read_text().replace("2021", "2022")
    (first.folder / record.PROVENANCE).write_text(changed)
    with pytest.raises(RefigureError, match=r"provenance\.json was changed"):
        record.read(first.folder)


# Two processes, one folder.


def test_the_second_process_is_told_who_holds_the_run(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    holder = toy.start("--experiment", "main", "--variant", "plain", "--set", "sleep=20")
    folder = toy.folder(toy.plan("sleep=20"))
    try:
        wait_for(lambda: (folder / "metrics.jsonl").exists())
        assert toy.one("--set", "sleep=20") == 1
        assert f"is in work by another process (pid {holder.pid})" in fault_of(capfd.readouterr().err)
    finally:
        holder.kill()
        holder.communicate()
    with (  # free at once, although the holder could not tidy up
        atomic.holding(folder),
        pytest.raises(RefigureError, match=f"pid {os.getpid()}"),
        atomic.holding(folder),
    ):
        pass
    with atomic.holding(folder):
        pass


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


# Faults at every write.


class Sabotage:
    """Counts the calls that touch the disk and raises in the n-th; `lasting` in all later ones too."""

    def __init__(self, fault: Callable[[], BaseException], at: int, lasting: bool) -> None:
        self.fault, self.at, self.lasting, self.calls = fault, at, lasting, 0

    def tick(self, half: Callable[[], object] = lambda: None) -> None:
        self.calls += 1
        if self.calls == self.at or (self.lasting and self.calls > self.at):
            half()
            raise self.fault()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.tick()
            return function(*arguments, **options)

        return call

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("fsync", "replace", "open", "pwrite", "ftruncate", "mkdir"):
            patch.setattr(os, name, self.wrap(getattr(os, name)))
        real = io.open

        def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real(path, mode, *arguments, **options)
            self.tick()
            return _Stream(real(path, mode, *arguments, **options), self)

        patch.setattr(io, "open", opened)


class _Stream:
    """A file that gets half of what is written when the fault comes."""

    def __init__(self, stream: Any, sabotage: Sabotage) -> None:
        self._stream, self._sabotage = stream, sabotage

    def write(self, content: Any) -> int:
        def half() -> None:
            self._stream.write(content[: len(content) // 2])
            self._stream.flush()

        self._sabotage.tick(half)
        return int(self._stream.write(content))

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def at_every_write(
    toy: Toy,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: Callable[[], BaseException],
    lasting: bool,
) -> Iterator[tuple[int, str]]:
    """Exit status and standard error of a run with the fault in its 1st, 2nd, ... write; checks the aftermath."""
    monkeypatch.setattr(command, "revision", dict)  # processes of their own, slow and no part of this
    monkeypatch.setattr(runtime, "describe", dict)
    monkeypatch.setattr(planning, "forget", lambda: None)  # sources stay as they are
    monkeypatch.setattr(os, "fsync", lambda _: None)  # counted, not waited for
    plan = toy.plan("steps=3", seeds=(0, 1))
    folder, key = toy.folder(plan), plan.identity.key
    assert toy.one(*SMALL) == 0
    expected = toy.verified(plan)
    numbers, history = expected.metrics, expected.history()
    assert [line["step"] for line in history] == [0, 1, 2, 3]

    def check_aftermath() -> None:
        if record.is_done(folder, key):
            assert toy.verified(plan).metrics == numbers
        elif (folder / "metrics.jsonl").exists():
            steps = re.findall(r'"step": (\d)', (folder / "metrics.jsonl").read_text())
            reached = max(map(int, steps), default=0)
            if reached >= 2:  # the step before was saved, and that is still there
                assert int(checkpoint.load(folder / record.RESUME)[1]["step"]) >= reached - 1
        assert not list(folder.rglob("*.part"))
        assert toy.one(*SMALL) == 0
        again = toy.verified(plan)
        assert (again.metrics, again.history()) == (numbers, history)

    for at in itertools.count(1):
        shutil.rmtree(toy.root / "runs")
        sabotage = Sabotage(fault, at, lasting)
        with monkeypatch.context() as patch:
            sabotage.install(patch)
            capfd.readouterr()
            status = toy.one(*SMALL)
        if sabotage.calls < at:
            assert status == 0
            assert at > 30, "the sabotage misses most writes"
            return
        yield status, capfd.readouterr().err
        check_aftermath()


@pytest.mark.parametrize("lasting", [True, False])
def test_a_disk_that_fills_up_at_any_write_costs_nothing(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], lasting: bool
) -> None:
    statuses = []
    for status, shown in at_every_write(toy, monkeypatch, capfd, no_space, lasting):
        if status:
            assert "disk full" in fault_of(shown)
        statuses.append(status)
    assert set(statuses) == {0, 1}  # 0: a folder that could not be synced, after the rename
    assert statuses.count(1) > 20


def test_an_interrupt_at_any_write_costs_nothing(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for status, shown in at_every_write(toy, monkeypatch, capfd, KeyboardInterrupt, False):
        lines = [line for line in shown.splitlines() if " steps" not in line]
        assert status == 130
        assert lines == ["interrupted: the same command goes on from the last checkpoint"]


# Killed processes.

KILLS = """
import itertools, os, shutil, signal
from pathlib import Path
import pytest
from common.run import command, record
from test_runs import SMALL, Sabotage

def trained():
    assert command.main("toy_paper", ["--quiet", "--experiment", "main", "--variant", "plain", *SMALL]) == 0
    (path,) = Path("runs").rglob(record.DONE)
    run = record.read(path.parent)
    run.verify()
    return run.metrics, run.history()

expected = trained()
os.fsync = command.planning.forget = lambda *_: None
command.revision = dict  # a process of its own
for at in itertools.count(1):
    shutil.rmtree("runs")
    child = os.fork()
    if child == 0:
        Sabotage(lambda: os.kill(os.getpid(), signal.SIGKILL), at, False).install(pytest.MonkeyPatch())
        trained()
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    assert trained() == expected, at
print(at)
"""


@pytest.mark.slow
def test_a_run_killed_at_any_write_ends_in_the_same_numbers(toy: Toy) -> None:
    path = os.pathsep.join([str(toy.root), os.path.dirname(__file__)])
    done = toy.python("-c", KILLS, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30, "most writes were not among those at which it was killed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_run_with_one_line(toy: Toy, number: int) -> None:
    words = ("--set", "sleep=0.02", "--set", "steps=5000", "--checkpoint-every", "0")
    process = toy.start("--experiment", "main", "--variant", "plain", "--seeds", "0,1", *words)
    plan = toy.plan("sleep=0.02", "steps=5000", seeds=(0, 1))
    folder = toy.folder(plan)
    wait_for(lambda: (folder / record.RESUME).exists())
    process.send_signal(number)
    shown = process.communicate(timeout=30)[1]
    lines = [line for line in shown.splitlines() if " steps" not in line]
    assert process.returncode == 130
    assert lines == ["interrupted: the same command goes on from the last checkpoint"]
    assert not record.is_done(folder, plan.identity.key)
