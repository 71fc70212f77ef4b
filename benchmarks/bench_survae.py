"""Speed of SurVAE's experiment A: a gradient step of one model, batch 128, of five seeds in one program.

python benchmarks/bench_survae.py [--repeats N] [--json FILE]
"""

import time
from collections.abc import Iterator, Mapping

import equinox as eqx
import jax
from measure import Row, flops, main

from papers.survae.config import Toy
from papers.survae.models import toy_absflow, toy_flow
from papers.survae.toy import CHUNK, nll, train

SEEDS = 5
CASES = (("flow", "corners", "flow"), ("absflow", "corners", None), ("absflow", "checkerboard", "classifier"))
"""Model, density, the measurement beside it."""


class Clock:
    """A recorder that keeps the CPU time of every chunk and nothing else."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def log(self, step: int, metrics: Mapping[str, object], state: str = "") -> None:
        self.times.append(time.process_time())

    def save(self, step: int, state: Mapping[str, object]) -> None:
        pass

    def restore(self) -> None:
        return None

    def progress(self, step: int, total: int) -> None:
        pass

    def due(self) -> bool:
        return False


def rows(repeats: int) -> Iterator[Row]:
    """One repeat is a chunk of 250 steps; the first two chunks, which compile, are not counted."""
    for kind, density, reference in CASES:
        size = 128 * CHUNK * (repeats + 2)
        config = Toy(density, kind, train_size=size, test_size=128, epochs=1, grid=8, quadrature=16)
        clock = Clock()
        train(config, range(SEEDS), clock)
        pairs = zip(clock.times[1:], clock.times[2:], strict=False)
        seconds = tuple((later - earlier) / CHUNK / SEEDS for earlier, later in pairs)
        build = toy_flow if kind == "flow" else toy_absflow
        arrays, static = eqx.partition(build(density, jax.random.key(0), hidden=config.hidden), eqx.is_array)
        x = jax.random.uniform(jax.random.key(1), (config.batch_size, 2))
        count = flops(jax.grad(lambda arrays, x, static=static: nll(eqx.combine(arrays, static), x)), arrays, x)
        yield Row(f"{kind} on {density}", "step of a model", seconds, count, reference)


if __name__ == "__main__":
    main("survae", lambda repeats: list(rows(repeats)))
