"""Speed of SurVAE: gradient steps of the planar models (five seeds in one program), of point and of image flows.

python benchmarks/bench_survae.py [--repeats N] [--json FILE]
"""

import time
from collections.abc import Iterator, Mapping

import equinox as eqx
import jax
from measure import Row, cpu_seconds, flops, main

from papers.survae.config import Images, Points, Toy
from papers.survae.flow import Flow
from papers.survae.images import image_flow
from papers.survae.models import toy_absflow, toy_flow
from papers.survae.spatial import point_flow
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
    for model, dropout in (("sort", 0.2), ("permute", 0.1)):
        flow = point_flow(Points(model, blocks=2, dropout=dropout), jax.random.key(0))
        x = 28 * jax.random.uniform(jax.random.key(1), (128, 50, 2))
        yield gradient(f"{model}flow, 2 of 32 blocks, batch 128", flow, x, repeats, f"{model}flow")
    small = Images("maxpool", layers=4, mid=16, depth=2, growth=8, dequantization="uniform")  # as at scale cpu
    x = jax.random.randint(jax.random.key(1), (small.batch, 3, 32, 32), 0, 256)
    flow = image_flow(small, 3, jax.random.key(0))
    yield gradient(f"small MaxPoolFlow, batch {small.batch}", flow, x, repeats, None)


def gradient(what: str, flow: Flow, x: jax.Array, repeats: int, reference: str | None) -> Row:
    """A gradient of the mean negative log-likelihood."""
    arrays, static = eqx.partition(flow, eqx.is_inexact_array)

    def loss(arrays: Flow, x: jax.Array) -> jax.Array:
        return -eqx.combine(arrays, static).log_prob(x, jax.random.key(2)).mean()

    program = jax.jit(jax.grad(loss))
    seconds = cpu_seconds(lambda: program(arrays, x), repeats)
    return Row(what, "gradient", seconds, flops(jax.grad(loss), arrays, x), reference)


if __name__ == "__main__":
    main("survae", lambda repeats: list(rows(repeats)))
