"""Cost of the solvers beyond that of the function they solve, beside torchdeq's in the same run.

The function is the tutorial's convolutional cell, 48-64-48 channels on 16 x 16 maps, 32 samples, one thread; every
solver makes as many evaluations of it, without early stop. The residual shows what they buy.

    pip install torchdeq==0.1.0
    python benchmarks/bench_deq.py [--evaluations N] [--repeats N]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    """Print one line a solver."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch

    from papers.deq.cells import ConvCell
    from papers.deq.solvers import anderson, broyden, fixed_point

    torch.set_num_threads(1)
    torch.manual_seed(0)
    f = ConvCell(48, 64).requires_grad_(False).bind(torch.randn(32, 48, 16, 16))
    z0, count = torch.zeros(32, 48, 16, 16), options.evaluations

    def bare() -> torch.Tensor:
        z = z0
        for _ in range(count):
            z = f(z)
        return z

    def ours(solver: Callable) -> torch.Tensor:
        return solver(f, z0, max_evals=count, tol=0.0, stop="abs").z

    cases: dict[str, Callable[[], torch.Tensor]] = {
        "bare loop": bare,
        "fixed point": lambda: ours(fixed_point),
        "Anderson, m = 6": lambda: ours(anderson),
        "Broyden": lambda: ours(broyden),
    }
    try:
        from torchdeq.solver import anderson_solver, broyden_solver, fixed_point_iter
    except ImportError:
        print("torchdeq is not installed: ours alone")
    else:
        cases |= {
            "torchdeq fixed point": lambda: fixed_point_iter(f, z0, max_iter=count, tol=0)[0],
            "torchdeq Anderson, m = 6": lambda: anderson_solver(f, z0, max_iter=count, tol=0)[0],
            "torchdeq Broyden": lambda: broyden_solver(f, z0, max_iter=count - 1, tol=0)[0],
        }
    found: dict[str, list[float]] = {name: [] for name in cases}
    with torch.no_grad():
        for _ in range(options.repeats + 1):  # in turn: what else the machine does touches all alike
            for name, run in cases.items():
                found[name].append(cpu_seconds(run))
        cost = statistics.median(found["bare loop"][1:])
        for name, run in cases.items():
            seconds, z = statistics.median(found[name][1:]), run()
            residual = float((f(z) - z).norm() / f(z).norm())
            print(
                f"{name:26} {1e3 * seconds / count:6.2f} ms an evaluation, {100 * (seconds / cost - 1):+5.0f} %, "
                f"relative residual {residual:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
