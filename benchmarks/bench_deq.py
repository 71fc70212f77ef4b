"""Cost of the solvers beyond that of the function they solve, beside torchdeq's in the same run; and training steps.

The function is the tutorial's convolutional cell, 48-64-48 channels on 16 x 16 maps, 32 samples, one thread; every
solver makes as many evaluations of it, without early stop. The residual shows what they buy. Training steps are of
untrained networks, beside the CPU seconds of the official code (MDEQ) and of a plain rewriting of it (copy memory).

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

import numpy

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
    for name, (step, reference) in steps().items():
        step()
        seconds = statistics.median(cpu_seconds(step) for _ in range(options.repeats))
        print(f"{name:44} {seconds:6.2f} CPU s, reference {reference:.2f}: {reference / seconds:.1f} times", flush=True)


def steps() -> dict[str, tuple[Callable[[], None], float]]:
    """Forward and backward passes, and the seconds of the reference."""
    import torch
    import torch.nn.functional as F

    from papers.deq.config import CopyMemory, Images
    from papers.deq.copy_memory import cross_entropy
    from papers.deq.images import classifier
    from papers.deq.models import build
    from papers.deq.tasks import draw_copies

    found: dict[str, tuple[Callable[[], None], float]] = {}
    images = torch.randn(16, 3, 32, 32)
    for layers, reference in ((None, 2.79), (10, 1.07)):
        network = classifier(Images())

        def classify(network: torch.nn.Module = network, layers: int | None = layers) -> None:
            F.cross_entropy(network(images, layers).logits, torch.zeros(16, dtype=torch.int64)).backward()

        kind = "19 + 21 evaluations" if layers is None else f"stack of {layers}"
        found[f"MDEQ-small, 16 images, {kind}"] = (classify, reference)
    for length, reference in ((50, 0.06), (400, 2.5)):
        x, y = draw_copies(numpy.random.default_rng(0), length, 32)
        model = build(CopyMemory(length=length, inner=100))

        def copy(model: torch.nn.Module = model, x: torch.Tensor = x, y: torch.Tensor = y) -> None:
            cross_entropy(model(x, 4).logits, y).backward()

        found[f"copy memory, T = {length}, 32 sequences, stack of 4"] = (copy, reference)
    return found


if __name__ == "__main__":
    main()
