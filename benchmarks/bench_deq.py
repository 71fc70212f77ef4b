"""Solvers beside torchdeq's in the same run, and training steps of untrained networks.

The function is a convolutional cell, 48-64-48 channels on 16 x 16 maps, 32 samples; every solver makes 30 evaluations
of it, without early stop. The residual shows what they buy.

    pip install torchdeq==0.1.0
    python benchmarks/bench_deq.py [--repeats N] [--json FILE]
"""

import statistics
from collections.abc import Callable, Iterator

import numpy
import torch
import torch.nn.functional as F
from measure import Row, cpu_seconds, main, per
from torch.utils.flop_counter import FlopCounterMode

from papers.deq.cells import ConvCell
from papers.deq.config import CopyMemory, Images
from papers.deq.copy_memory import cross_entropy
from papers.deq.images import classifier
from papers.deq.models import build
from papers.deq.solvers import anderson, broyden, fixed_point
from papers.deq.tasks import draw_copies

EVALUATIONS = 30


def flops(run: Callable[[], object]) -> float:
    """Of the matrix products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def solvers(repeats: int) -> Iterator[Row]:
    """The bare loop, then each solver."""
    torch.manual_seed(0)
    f = ConvCell(48, 64).requires_grad_(False).bind(torch.randn(32, 48, 16, 16))
    z0 = torch.zeros(32, 48, 16, 16)

    def bare() -> torch.Tensor:
        z = z0
        for _ in range(EVALUATIONS):
            z = f(z)
        return z

    def ours(solver: Callable) -> Callable[[], torch.Tensor]:
        return lambda: solver(f, z0, max_evals=EVALUATIONS, tol=0.0, stop="abs").z

    cases = {"fixed point": ours(fixed_point), "Anderson, m = 6": ours(anderson), "Broyden": ours(broyden)}
    peers: dict[str, Callable[[], torch.Tensor]] = {}
    try:
        from torchdeq.solver import anderson_solver, broyden_solver, fixed_point_iter
    except ImportError:
        print("torchdeq is not installed: ours alone")
    else:
        peers = {
            "fixed point": lambda: fixed_point_iter(f, z0, max_iter=EVALUATIONS, tol=0)[0],
            "Anderson, m = 6": lambda: anderson_solver(f, z0, max_iter=EVALUATIONS, tol=0)[0],
            "Broyden": lambda: broyden_solver(f, z0, max_iter=EVALUATIONS - 1, tol=0)[0],
        }

    def told(run: Callable[[], torch.Tensor], seconds: tuple[float, ...]) -> str:
        z, share = run(), statistics.median(seconds) / statistics.median(cell)
        return f"{share - 1:+.0%} over the bare loop, relative residual {float((f(z) - z).norm() / f(z).norm()):.1e}"

    everything = {("", "bare loop"): bare}
    everything |= {("", name): run for name, run in cases.items()} | {("torchdeq", name): peers[name] for name in peers}
    seconds_of: dict[tuple[str, str], tuple[float, ...]] = dict.fromkeys(everything, ())
    with torch.no_grad():
        for _ in range(repeats):  # in turn: what else the machine does touches all alike
            seconds_of = {
                key: seconds_of[key] + per(cpu_seconds(run, 1), EVALUATIONS) for key, run in everything.items()
            }
        cell = seconds_of["", "bare loop"]
        yield Row("bare loop over the cell", "evaluation", cell, flops(bare) / EVALUATIONS)
        for name, run in cases.items():
            seconds, peer = seconds_of["", name], seconds_of.get(("torchdeq", name), ())
            note = told(run, seconds) + (f"; torchdeq {told(peers[name], peer)}" if peer else "")
            yield Row(name, "evaluation", seconds, flops(run) / EVALUATIONS, peer=peer, note=note)


def steps(repeats: int) -> Iterator[Row]:
    """Forward and backward passes."""
    images = torch.randn(16, 3, 32, 32)
    network = classifier(Images())
    for layers, name, reference in ((None, "equilibrium", "mdeq_equilibrium"), (10, "stack of 10", "mdeq_stack")):

        def classify(layers: int | None = layers) -> None:
            F.cross_entropy(network(images, layers).logits, torch.zeros(16, dtype=torch.int64)).backward()

        yield Row(f"MDEQ-small, 16 images, {name}", "step", cpu_seconds(classify, repeats), reference=reference)
    for length in (50, 400):
        x, y = draw_copies(numpy.random.default_rng(0), length, 32)
        model = build(CopyMemory(length=length, inner=100))

        def copy(model: torch.nn.Module = model, x: torch.Tensor = x, y: torch.Tensor = y) -> None:
            cross_entropy(model(x, 4).logits, y).backward()

        name = f"copy memory, T = {length}, 32 sequences, stack of 4"
        yield Row(name, "step", cpu_seconds(copy, repeats), flops(copy), f"copy_{length}")


if __name__ == "__main__":
    main("deq", lambda repeats: [*solvers(repeats), *steps(repeats)])
