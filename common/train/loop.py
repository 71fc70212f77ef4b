"""The one loop driver: chunks of steps with checkpoint, resume, progress, and a guard against NaN.

`common.train.jax` gives it a compiled scan to advance by, `common.train.torch` an eager step, `parts` pieces of work
that have nothing to do with steps. Chunks end at multiples of the chunk's length whatever happened before, so that a
run that was killed and resumes executes the very programs of an uninterrupted one and ends in the same bits.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from common.errors import RefigureError
from common.train.recorder import Recorder

__all__ = ["State", "digest", "drive", "parts"]

State = Mapping[str, np.ndarray]
"""Flat: names to arrays."""


def drive(
    advance: Callable[[int, int, int], Mapping[str, np.ndarray]],
    snapshot: Callable[[], State],
    restore: Callable[[State], None],
    *,
    stages: Sequence[int],
    chunk: int,
    recorder: Recorder,
) -> None:
    """Advance a state to the end of the last stage, from the recorder's checkpoint if there is one.

    After each chunk the mean of each metric goes to `recorder.log`; after chunks 1, 2, 4, 8, ... with a digest of the
    state, by which `refigure carry` compares. The state is saved whenever the recorder says that a checkpoint is due,
    and at the end of each stage.

    Arguments:
        advance: (stage, finished steps, further steps) to metrics, each of shape (steps,) or (steps, members).
        snapshot: The present state.
        restore: Puts back a state that `snapshot` gave.
        stages: Finished steps at which each stage ends, rising.
        chunk: Steps between two lines of the metrics stream.

    Raises:
        RefigureError: A metric is not finite, or an array of the state lost its finiteness; the last checkpoint, which
            is a good one, stays.
    """
    total = stages[-1]
    if min(stages) < 0 or list(stages) != sorted(stages) or chunk < 1:
        raise RefigureError(f"a loop needs stages that rise from 0 and a chunk of 1 step at least: {stages}, {chunk}")
    finite = {name for name, array in snapshot().items() if _is_finite(array)}
    done = 0
    if (checkpoint := recorder.restore()) is not None:
        done = checkpoint[0]
        if done > total:
            raise RefigureError(f"the checkpoint is at step {done}, beyond the {total} steps asked for; delete it")
        restore(checkpoint[1])
    for stage, end in enumerate(stages):
        while done < end:
            length = min(chunk - done % chunk, end - done)
            metrics = advance(stage, done, length)
            _check_metrics(metrics, done, total)
            done += length
            number = -(-done // chunk)
            marked = digest(snapshot()) if number & (number - 1) == 0 else ""
            recorder.log(done, {name: _mean(name, values) for name, values in metrics.items()}, marked)
            if recorder.due() or done == end:
                state = snapshot()
                _check_state(state, finite, done)
                recorder.save(done, state)
            recorder.progress(done, total)


def parts(work: Mapping[str, Callable[[], State]], recorder: Recorder) -> dict[str, dict[str, np.ndarray]]:
    """What each piece of work gives, by its name; what an earlier session finished is not done again."""
    names = list(work)
    results: dict[str, np.ndarray] = {}

    def advance(_stage: int, done: int, _length: int) -> State:
        results.update({f"{names[done]}//{key}": np.asarray(value) for key, value in work[names[done]]().items()})
        return {}

    drive(advance, lambda: results, results.update, stages=[len(names)], chunk=1, recorder=recorder)
    by_name: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for place, value in results.items():
        name, _, key = place.partition("//")
        by_name[name][key] = value
    return by_name


def digest(state: State) -> str:
    """16 hex digits of names, types, shapes and bytes of all arrays."""
    table = [[name, state[name].dtype.name, list(state[name].shape)] for name in sorted(state)]
    summary = hashlib.sha256(json.dumps(table).encode())
    for name in sorted(state):
        summary.update(np.ascontiguousarray(state[name]).reshape(-1).view(np.uint8).data)
    return summary.hexdigest()[:16]


def _mean(name: str, values: np.ndarray) -> float | list[float]:
    if values.ndim > 2:
        raise RefigureError(f"metric {name!r} has shape {values.shape[1:]} a step; give a scalar or a vector")
    mean: float | list[float] = values.mean(axis=0, dtype=np.float64).tolist()
    return mean


def _check_metrics(metrics: Mapping[str, np.ndarray], done: int, total: int) -> None:
    first = [(tuple(bad[0]), name) for name, values in metrics.items() if len(bad := np.argwhere(~np.isfinite(values)))]
    if first:
        (offset, *member), name = min(first, key=lambda place: place[0][0])
        owner = f", member {', '.join(map(str, member))}" if member else ""
        raise RefigureError(
            f"metric {name!r} is {metrics[name][offset, *member]} at step {done + offset + 1} of {total}{owner}; "
            "training stopped and the last good checkpoint was kept; lower the learning rate or clip gradients"
        )


def _check_state(state: State, finite: set[str], done: int) -> None:
    for name in sorted(finite & state.keys()):
        if not _is_finite(state[name]):
            raise RefigureError(
                f"state {name!r} is no longer finite by step {done}; training stopped and the last good checkpoint was "
                "kept; lower the learning rate or clip gradients"
            )


def _is_finite(array: np.ndarray) -> bool:
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
