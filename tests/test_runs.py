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
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from toy import Toy, fault_of

from common.errors import RefigureError
from common.run import checkpoint
from common.run import command as experiment
from common.run import record as runs
from common.run.progress import Progress
from common.train.recorder import Outcome

SMALL = ("--seeds", "0,1", "--set", "steps=3", "--checkpoint-every", "0")


def recorder(toy: Toy, *assignments: str) -> runs.Run:
    """A run of two seeds that has begun."""
    plan = toy.plan(*assignments, seeds=(0, 1))
    run = runs.Run(plan, toy.folder(plan), Progress("test", quiet=True))
    run.begin()
    return run


def outcome(**metrics: Any) -> Outcome:
    return Outcome(metrics or {"x": [1.0, 2.0]}, arrays={"x": np.arange(3.0)}, parameters={"w": np.ones(2)})


def test_a_run_is_done_with_its_last_file(toy: Toy) -> None:
    run = recorder(toy)
    key = run.plan.identity.key
    run.log(1, {"x": [0.5, 0.25]})
    run.save(1, {"x": np.ones(2)})
    assert not runs.is_done(run.folder, key)
    with pytest.raises(RefigureError, match=r"not a finished run .*run it again"):
        runs.read(run.folder)
    run.finish(outcome(), {"started": "2020"})
    assert runs.is_done(run.folder, key)
    found = runs.read(run.folder, verify=True)
    assert found.metrics == {"x": [1.0, 2.0]}
    assert found.identity == run.plan.identity
    assert found.seeds == (0, 1)
    assert found.history() == [{"step": 1, "x": [0.5, 0.25]}]
    assert found.arrays["x"].tolist() == [0, 1, 2]
    assert found.provenance["scale"] == "cpu"
    assert {name for name in found.files if name != runs.DONE} == {*runs.FILES, runs.PROVENANCE}
    assert not (run.folder / runs.RESUME).exists()
    (run.folder / runs.DONE).unlink()
    assert not runs.is_done(run.folder, key)


def test_the_finished_run_of_another_key_is_not_this_one(toy: Toy) -> None:
    run = toy.finished()
    assert runs.is_done(run.folder, run.identity.key)
    assert not runs.is_done(run.folder, "0" * 12)
    shutil.copy(toy.finished("rate=0.2").folder / runs.DONE, run.folder / runs.DONE)
    assert not runs.is_done(run.folder, run.identity.key)
    with pytest.raises(RefigureError, match="its configuration has key"):
        runs.read(run.folder)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "3", '{"metrics": {"x": [NaN]}, "digest": null}', "\x00"])
def test_rubbish_for_metrics_is_not_done(toy: Toy, content: str) -> None:
    run = toy.finished()
    (run.folder / runs.DONE).write_text(content)
    assert not runs.is_done(run.folder, run.identity.key)
    with pytest.raises(RefigureError):
        runs.read(run.folder)


@pytest.mark.parametrize("name", [*runs.FILES, runs.DONE])
def test_tampering_with_any_file_is_found(toy: Toy, name: str) -> None:
    path = toy.finished().folder / name
    content = path.read_bytes()
    for other in (content[:-2], content + b" ", content[:9] + bytes([content[9] ^ 1]) + content[10:], None):
        if other is None:
            path.unlink()
        else:
            path.write_bytes(other)
        if name == runs.DONE and other == content + b" ":  # the same numbers
            assert runs.read(path.parent, verify=True).metrics
            continue
        folder = path.parent.parent if "/" in name else path.parent
        with pytest.raises(RefigureError):
            runs.read(folder, verify=True)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_flipped_or_lost_byte_gives_other_numbers(toy: Toy, data: st.DataObject) -> None:
    run = toy.finished()
    path = run.folder / data.draw(st.sampled_from([runs.DONE, "config.json"]))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    cut, byte = data.draw(st.booleans()), data.draw(st.sampled_from(b'0123456789.-+eE"{}[]:, nNaA\xff\x00'))
    path.write_bytes(content[:at] if cut else content[:at] + bytes([byte]) + content[at + 1 :])
    try:
        found = runs.read(run.folder)
    except RefigureError:
        pass
    else:
        assert (found.metrics, found.identity) == (run.metrics, run.identity)
    finally:
        path.write_bytes(content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
@example(at=8, byte=99)  # a compression that does not exist
@example(at=6, byte=1)  # "encrypted"
def test_damaged_arrays_and_histories_are_one_line(toy: Toy, at: int, byte: int) -> None:
    run = toy.finished()
    for name, use in (
        ("arrays.npz", lambda found: found.arrays["x"].tolist()),
        ("metrics.jsonl", runs.FinishedRun.history),
    ):
        path = run.folder / name
        content = path.read_bytes()
        path.write_bytes(content[: at % len(content)] + bytes([byte]) + content[at % len(content) + 1 :])
        try:
            before = use(runs.read(run.folder))
        except RefigureError:
            before = None
        path.write_bytes(content)
        if name == "arrays.npz" and before is not None:
            assert before == use(run)


def test_a_resumed_stream_goes_back_to_the_checkpoint(toy: Toy) -> None:
    run = recorder(toy)
    for step in range(6):
        run.log(step, {"x": [float(step)] * 2})
        if step == 3:
            run.save(step, {"x": np.full(2, 3.0)})
    stream = run.folder / "metrics.jsonl"
    stream.write_text(stream.read_text() + '{"step": 6, "x"')
    again = recorder(toy)
    found = again.restore()
    assert found is not None
    assert found[0] == 3
    assert found[1]["x"].tolist() == [3, 3]
    assert [json.loads(line)["step"] for line in stream.read_text().splitlines()] == [0, 1, 2, 3]


@pytest.mark.parametrize("tail", ["", '{"step": 1, "x"', "5\n", "\x00\x00\n", '{"step": 1}'])
def test_without_a_checkpoint_nothing_of_the_stream_is_kept(toy: Toy, tail: str) -> None:
    run = recorder(toy)
    run.log(0, {"x": 1.0})
    run.log(1, {"x": 1.0})
    stream = run.folder / "metrics.jsonl"
    stream.write_text(stream.read_text() + tail)
    assert recorder(toy).restore() is None
    assert stream.read_text() == ""


@pytest.mark.parametrize("tail", ['{"step": 2, "x"', "5\n", "\x00\x00\n", '{"step": 2}', '{"x": 2}\n'])
def test_a_line_cut_short_is_dropped(toy: Toy, tail: str) -> None:
    run = recorder(toy)
    run.log(1, {"x": 1.0})
    run.save(2, {"x": np.ones(2)})
    stream = run.folder / "metrics.jsonl"
    whole = stream.read_text()
    stream.write_text(whole + tail)
    recorder(toy).restore()
    assert stream.read_text() == whole


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
    run = recorder(toy)
    run.save(3, {"x": np.ones(2)})
    with pytest.raises(RefigureError, match=message):
        run.finish(outcome(**metrics), {})
    assert not runs.is_done(run.folder, run.plan.identity.key)
    assert recorder(toy).restore() is not None


def test_a_metric_that_is_not_finite_is_named_and_not_written(toy: Toy) -> None:
    run = recorder(toy)
    with pytest.raises(RefigureError, match="loss is not finite at step 7"):
        run.log(7, {"x": 1.0, "loss": [1.0, float("nan")]})
    assert not (run.folder / "metrics.jsonl").exists()


def test_another_run_s_folder_is_refused(toy: Toy) -> None:
    run = recorder(toy)
    other = runs.Run(toy.plan("rate=0.2", seeds=(0, 1)), run.folder, Progress("test", quiet=True))
    before = (run.folder / "config.json").read_bytes()
    with pytest.raises(RefigureError, match=r"holds another run .*--out"):
        other.begin()
    assert (run.folder / "config.json").read_bytes() == before


def test_sessions_and_seconds_add_up(toy: Toy) -> None:
    first = recorder(toy)
    first.save(1, {"x": np.ones(2)})
    second = recorder(toy)
    second.restore()
    second._before = 1000.0
    second.save(2, {"x": np.ones(2)})
    third = recorder(toy)
    third.restore()
    third.finish(outcome(), {})
    provenance = runs.read(third.folder).provenance
    assert provenance["sessions"] == 3
    assert 1000 <= provenance["seconds"] < 1100


def test_what_a_session_wrote_itself_is_counted_once(toy: Toy) -> None:
    """A run of two loops: the second reads the checkpoint that the first has just written."""
    first = recorder(toy)
    first._before = 1000.0
    first.save(1, {"x": np.ones(2)})
    second = recorder(toy)
    for step in (2, 3, 4):
        assert second.restore()[0] == step - 1
        second.save(step, {"x": np.ones(2)})
    second.restore()
    second.finish(outcome(), {})
    provenance = runs.read(second.folder).provenance
    assert provenance["sessions"] == 2
    assert 1000 <= provenance["seconds"] < 1100


def test_the_same_run_made_twice_is_the_same_bytes(toy: Toy) -> None:
    first = recorder(toy)
    first.finish(outcome(), {"started": "2020"})
    written = (first.folder / runs.DONE).read_bytes()
    (first.folder / runs.DONE).unlink()
    recorder(toy).finish(outcome(), {"started": "2021"})
    assert (first.folder / runs.DONE).read_bytes() == written
    changed = (first.folder / runs.PROVENANCE).read_text().replace("2021", "2022")
    (first.folder / runs.PROVENANCE).write_text(changed)
    with pytest.raises(RefigureError, match=r"provenance\.json was changed"):
        runs.read(first.folder, verify=True)


# Two processes, one folder.


def test_the_second_process_is_told_who_holds_the_run(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    holder = toy.start("-m", "papers.toy_paper", "--experiment", "main", "--variant", "plain", "--set", "sleep=20")
    folder = toy.folder(toy.plan("sleep=20"))
    try:
        wait_for(lambda: (folder / "metrics.jsonl").exists())
        assert toy.one("--set", "sleep=20") == 1
        assert f"is in work by another process (pid {holder.pid})" in fault_of(capfd.readouterr().err)
    finally:
        holder.kill()
        holder.communicate()
    with (  # free at once, although the holder could not tidy up
        runs.holding(folder),
        pytest.raises(RefigureError, match=f"pid {os.getpid()}"),
        runs.holding(folder),
    ):
        pass
    with runs.holding(folder):
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

    def tick(self) -> None:
        self.calls += 1
        if self.calls == self.at or (self.lasting and self.calls > self.at):
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
        try:
            self._sabotage.tick()
        except BaseException:
            self._stream.write(content[: len(content) // 2])
            raise
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
    monkeypatch.setattr(experiment, "_revision", dict)  # processes of their own, slow and no part of this
    monkeypatch.setattr(experiment, "describe", dict)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # counted, not waited for
    plan = toy.plan("steps=3", seeds=(0, 1))
    folder, key = toy.folder(plan), plan.identity.key
    assert toy.one(*SMALL) == 0
    expected = runs.read(folder, verify=True)
    numbers, history = expected.metrics, expected.history()
    assert [line["step"] for line in history] == [0, 1, 2, 3]

    def check_aftermath() -> None:
        if runs.is_done(folder, key):
            assert runs.read(folder, verify=True).metrics == numbers
        elif (folder / "metrics.jsonl").exists():
            steps = re.findall(r'"step": (\d)', (folder / "metrics.jsonl").read_text())
            begun = max(map(int, steps), default=0)
            if begun >= 2:  # the step before was saved, and that is still there
                assert int(checkpoint.load(folder / runs.RESUME)[1]["step"]) >= begun - 1
        assert not list(folder.rglob("*.part"))
        assert toy.one(*SMALL) == 0
        again = runs.read(folder, verify=True)
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

TRAIN = ("-m", "papers.toy_paper", "--experiment", "main", "--variant", "plain", "--seeds", "0,1")


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_in_the_same_numbers(toy: Toy) -> None:
    settled = ("--set", "steps=30", "--set", "sleep=0.01", "--checkpoint-every", "0.03", "--quiet")
    plan = toy.plan("steps=30", "sleep=0.01", seeds=(0, 1))
    folder = toy.folder(plan)
    assert toy.python(*TRAIN, *settled).returncode == 0
    expected = runs.read(folder, verify=True)
    numbers, history = expected.metrics, expected.history()
    shutil.rmtree(folder)
    rng, killed = np.random.default_rng(0), 0
    for _ in range(5):
        process = toy.start(*TRAIN, *settled)
        wait_for(lambda process=process: (folder / "metrics.jsonl").exists() or process.poll() is not None)
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if runs.is_done(folder, plan.identity.key):
            break
    assert killed >= 2
    assert toy.python(*TRAIN, *settled).returncode == 0
    again = runs.read(folder, verify=True)
    assert (again.metrics, again.history()) == (numbers, history)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_run_with_one_line(toy: Toy, number: int) -> None:
    process = toy.start(*TRAIN, "--set", "sleep=0.02", "--set", "steps=5000", "--checkpoint-every", "0", "--quiet")
    folder = toy.folder(toy.plan("sleep=0.02", "steps=5000", seeds=(0, 1)))
    wait_for(lambda: (folder / runs.RESUME).exists())
    process.send_signal(number)
    shown = process.communicate(timeout=30)[1]
    lines = [line for line in shown.splitlines() if " steps" not in line]
    assert process.returncode == 130
    assert lines == ["interrupted: the same command goes on from the last checkpoint"]
    assert not runs.is_done(folder, toy.plan("sleep=0.02", "steps=5000", seeds=(0, 1)).identity.key)
