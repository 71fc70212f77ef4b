"""The loop driver: killed anywhere it goes on to the same bits, a bad state is never kept, digests mark its way."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_recorder import Memory

from common.errors import RefigureError
from common.train.loop import State, digest, drive, parts


class Killed(Exception):
    """Ends a loop as the death of its process does."""


class Mortal(Memory):
    """A recorder that dies in the n-th call of one of its methods; a checkpoint is due at each `every`-th chunk."""

    def __init__(self, method: str = "", at: int = 0, every: int = 1, before: Memory | None = None) -> None:
        super().__init__()
        self.method, self.at, self.every, self.calls, self.chunks = method, at, every, 0, 0
        self.saved: list[int] = []
        if before is not None:
            self.lines, self.states, self.kept = list(before.lines), dict(before.states), before.kept

    def log(self, step: int, metrics: Any, state: str = "") -> None:
        self._count("log")
        super().log(step, metrics, state)

    def save(self, step: int, state: State) -> None:
        self._count("save")
        super().save(step, state)
        self.saved.append(step)

    def progress(self, step: int, total: int) -> None:
        self._count("progress")
        super().progress(step, total)

    def due(self) -> bool:
        self.chunks += 1
        return self.chunks % self.every == 0

    def _count(self, method: str) -> None:
        self.calls += method == self.method
        if method == self.method and self.calls == self.at:
            raise Killed


class Walk:
    """Two members that move by a rule that depends on step and stage."""

    def __init__(self) -> None:
        self.state = {"x": np.array([0.5, -0.5]), "steps": np.zeros((), np.int64)}
        self.advances: list[tuple[int, int, int]] = []

    def advance(self, stage: int, done: int, length: int) -> dict[str, np.ndarray]:
        self.advances.append((stage, done, length))
        rows = []
        for index in range(done, done + length):
            x = self.state["x"] * (0.9 + 0.3 * stage) + np.sin(index)
            self.state = {"x": x, "steps": self.state["steps"] + 1}
            rows.append(x)
        return {"x": np.stack(rows), "norm": np.abs(rows).sum(axis=1)}

    def drive(self, recorder: Memory, stages: list[int], chunk: int) -> None:
        drive(self.advance, lambda: self.state, self.restore, stages=stages, chunk=chunk, recorder=recorder)

    def restore(self, state: State) -> None:
        self.state = dict(state)


@given(
    stages=st.lists(st.integers(0, 25), min_size=1, max_size=3).map(sorted),
    chunk=st.integers(1, 8),
    every=st.integers(1, 4),
    method=st.sampled_from(["log", "save", "progress"]),
)
def test_killed_at_each_chunk_it_ends_in_the_same_bits(stages: list[int], chunk: int, every: int, method: str) -> None:
    whole, expected = Walk(), Mortal(every=every)
    whole.drive(expected, stages, chunk)
    assert whole.state["steps"] == stages[-1]
    for at in range(1, len(whole.advances) + 1):
        broken = Mortal(method, at, every)
        try:
            Walk().drive(broken, stages, chunk)
        except Killed:
            again, recorder = Walk(), Mortal(every=every, before=broken)
            again.drive(recorder, stages, chunk)
            assert digest(again.state) == digest(whole.state)
            assert dict(recorder.lines) == dict(expected.lines)
            assert recorder.states == expected.states
            begun = broken.kept[0] if broken.kept else 0
            assert again.advances == [advance for advance in whole.advances if advance[1] >= begun]


def test_each_chunk_logs_its_mean_and_stages_end_where_they_say() -> None:
    walk, recorder = Walk(), Mortal(every=99)
    walk.drive(recorder, [7, 7, 12], 5)
    assert walk.advances == [(0, 0, 5), (0, 5, 2), (2, 7, 3), (2, 10, 2)]
    alone = Walk()
    stage_of = [0] * 7 + [2] * 5
    rows = [alone.advance(stage, index, 1)["x"][0] for index, stage in enumerate(stage_of)]
    assert dict(recorder.lines)[10]["x"] == np.mean(rows[7:10], axis=0).tolist()
    assert dict(recorder.lines)[12]["norm"] == np.abs(rows[10:]).sum(axis=1).mean()
    assert recorder.shown == [(5, 12), (7, 12), (10, 12), (12, 12)]
    assert recorder.saved == [7, 12], "at the end of a stage, also where no checkpoint is due"


def test_states_are_digested_after_chunks_1_2_4_8() -> None:
    recorder = Memory()
    Walk().drive(recorder, [33], 3)
    assert list(recorder.states) == [3, 6, 12, 24]
    for step, marked in recorder.states.items():
        walk = Walk()
        walk.drive(Memory(), [step], 3)
        assert digest(walk.state) == marked


def test_a_digest_is_of_names_types_shapes_and_bytes() -> None:
    state = {"a": np.arange(6, dtype=np.float32), "b": np.zeros(2)}
    changed: list[State] = [
        {"a": state["a"], "c": state["b"]},
        {"a": state["a"].astype(np.float64), "b": state["b"]},
        {"a": state["a"].view(np.int32), "b": state["b"]},
        {"a": state["a"].reshape(2, 3), "b": state["b"]},
        {"a": state["a"], "b": -state["b"]},
        {"a": state["a"]},
    ]
    assert len({digest(each) for each in [state, *changed]}) == 1 + len(changed)
    strided = {"b": np.zeros((2, 2))[:, 0], "a": np.arange(12, dtype=np.float32)[::2] / 2}
    assert digest(strided) == digest(state)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_step_that_is_not_finite_is_named_and_the_last_good_state_kept(bad: float) -> None:
    recorder, state = Memory(), {"done": np.array(0)}

    def advance(_stage: int, done: int, length: int) -> State:
        state["done"] = np.array(done + length)
        steps = np.arange(done, done + length)
        member = np.where(steps[:, None] == [99, 12], bad, 1.0)
        return {"late": np.where(steps == 14, bad, 1.0), "early": member}

    with pytest.raises(RefigureError, match=r"'early' is (nan|inf) at step 13 of 40, member 1; .*checkpoint was kept"):
        drive(advance, lambda: state, state.update, stages=[20, 40], chunk=5, recorder=recorder)
    assert [step for step, _ in recorder.lines] == [5, 10]
    assert recorder.kept == (10, {"done": 10})


def test_a_state_gone_bad_after_a_finite_metric_is_not_kept() -> None:
    """The loss of a step is computed before its update: the update may be what breaks the state."""
    recorder = Memory()
    state = {"weights": np.ones(3), "best": np.array(np.inf)}  # an infinity that means something may stay

    def advance(_stage: int, done: int, length: int) -> State:
        state["weights"] = np.full(3, np.nan if done + length == 10 else 1.0)
        return {"loss": np.ones(length)}

    with pytest.raises(RefigureError, match=r"'weights' is no longer finite by step 10; .*checkpoint was kept"):
        drive(advance, lambda: state, state.update, stages=[20], chunk=5, recorder=recorder)
    assert recorder.kept is not None
    assert recorder.kept[0] == 5


def test_what_is_finished_makes_no_step() -> None:
    recorder, walk = Memory(), Walk()
    walk.drive(recorder, [4, 12], 5)
    again = Walk()
    again.drive(recorder, [4, 12], 5)
    assert again.advances == []
    assert digest(again.state) == digest(walk.state)
    with pytest.raises(RefigureError, match="at step 12, beyond the 10 steps"):
        Walk().drive(recorder, [10], 5)


@pytest.mark.parametrize(("stages", "chunk"), [([5, 3], 1), ([-1], 1), ([5], 0)])
def test_stages_rise_and_chunks_have_steps(stages: list[int], chunk: int) -> None:
    with pytest.raises(RefigureError, match="stages that rise from 0 and a chunk of 1 step"):
        Walk().drive(Memory(), stages, chunk)


def test_metrics_are_scalars_or_vectors() -> None:
    with pytest.raises(RefigureError, match=r"'m' has shape \(2, 2\) a step"):
        drive(
            lambda *_: {"m": np.ones((1, 2, 2))}, dict, lambda _: None, stages=[1], chunk=1, recorder=Memory()
        )  # fmt: skip


@pytest.mark.parametrize("stop", [None, 1, 2])
def test_parts_are_done_once(stop: int | None) -> None:
    made: list[str] = []

    def piece(name: str, **arrays: Any) -> Callable[[], State]:
        return lambda: made.append(name) or arrays  # type: ignore[func-returns-value]

    work = {
        "first": piece("first", a=np.arange(3), b=np.float32(0.5)),
        "none": piece("none"),
        "a/b": piece("a/b", a=np.array([np.nan])),
    }
    recorder = Memory(stop_at=stop)
    if stop is not None:
        with pytest.raises(KeyboardInterrupt):
            parts(work, recorder)
        recorder.stop_at = None
    results = parts(work, recorder)
    assert made == list(work)
    assert {name: list(arrays) for name, arrays in results.items()} == {"first": ["a", "b"], "none": [], "a/b": ["a"]}
    assert results["first"]["a"].tolist() == [0, 1, 2]
    assert results["first"]["b"].dtype == np.float32
    assert np.isnan(results["a/b"]["a"]).all()
