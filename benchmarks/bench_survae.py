"""Training speed of SurVAE's experiment A in model-steps a second: gradient steps, times seeds, over all cores.

The reference is the official code: one flow and one seed at about 180 steps/s on two idle cores (10,000 steps in
55 s). As in a build, one single-threaded process a core trains one batch of seeds; the first chunks, which compile,
are not counted.

    python benchmarks/bench_survae.py [--processes N] [--seeds S] [--steps N]
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

REFERENCE = 180.0
VARIANTS = (("flow", "corners"), ("absflow", "corners"), ("absflow", "checkerboard"))


class Clock:
    """A recorder that keeps the time of every chunk and nothing else."""

    def __init__(self) -> None:
        self.times: list[tuple[int, float]] = []

    def log(self, step: int, metrics: Mapping[str, object], state: str = "") -> None:
        self.times.append((step, time.perf_counter()))

    def save(self, step: int, state: Mapping[str, object]) -> None:
        pass

    def restore(self) -> None:
        return None

    def progress(self, step: int, total: int) -> None:
        pass

    def due(self) -> bool:
        return False

    def rates(self) -> list[float]:
        """Steps a second of every chunk after the second."""
        pairs = zip(self.times[1:], self.times[2:], strict=False)
        return [(b - a) / (later - earlier) for (a, earlier), (b, later) in pairs]


def measure(model: str, density: str, seeds: int, steps: int) -> list[float]:
    """Model-steps a second of each chunk of one process."""
    from common.run.runtime import settle

    settle(1)
    from papers.survae.config import Toy
    from papers.survae.toy import train

    size = 128 * max(steps, 500)
    config = Toy(density, model, train_size=size, test_size=128, epochs=1, grid=8, quadrature=16)
    clock = Clock()
    train(config, range(seeds), clock)
    return [rate * seeds for rate in clock.rates()]


def main() -> None:
    """Measure every kind of model and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{options.processes} processes of one thread, {options.seeds} seeds each, {options.steps} steps")
    print(f"{'model':32}{'model-steps/s':>14}{'min':>8}{'max':>8}{'x reference':>13}")
    for model, density in VARIANTS:
        with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
            jobs = [
                pool.submit(measure, model, density, options.seeds, options.steps) for _ in range(options.processes)
            ]
            chunks = [job.result() for job in jobs]
        total = sum(statistics.median(rates) for rates in chunks)
        low, high = sum(map(min, chunks)), sum(map(max, chunks))
        name = f"{density} {model}"
        print(f"{name:32}{total:14.0f}{low:8.0f}{high:8.0f}{total / REFERENCE:13.1f}")
    print(f"reference: official code, one flow, two cores: {REFERENCE:.0f} steps/s")


if __name__ == "__main__":
    main()
