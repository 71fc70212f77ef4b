"""Speed of VSML: examples a CPU second, on one pinned core, of episodes and of meta-training.

The reference is the official code (one process, CPU seconds): 4700, 1540 and 390 examples a CPU second in evolution
strategies at 8 x 8, 14 x 14 and 28 x 28 pixels, and 175 in backpropagation at 14 x 14. It was measured on a busy
machine, another one than yours. An example costs two ticks of all sub-RNNs; backpropagation is ours with one tick
before and one after the label, theirs with two before. Compiling is not counted.

    python benchmarks/bench_vsml.py [--repeats N]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CASES = {
    "episodes, 8 x 8": (8, 100, 16, False, 4700),
    "episodes, 14 x 14": (14, 100, 8, False, 1540),
    "episodes, 28 x 28": (28, 100, 4, False, 390),
    "backpropagation, 14 x 14": (14, 50, 4, True, 175),
    "backpropagation, 7 x 7": (7, 100, 16, True, None),
}
"""Pixels a side, examples, episodes, whether with the gradient, reference in examples a CPU second."""
MULTIPLIES, TANHS, BYTES = 1024 + 3 * 64, 80, 4 * (4 * 16 + 2 * 64 + 19)
"""Of a sub-RNN's tick forwards: multiply-adds of the gates, tanh or sigmoid, and bytes that states, gates and columns
move to and from memory where nothing stays in a cache."""


def cpu_seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """Of each repeat, after one that compiles."""
    import jax

    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        started = time.process_time()
        jax.block_until_ready(run())
        found.append(time.process_time() - started)
    return found


def measure(side: int, length: int, episodes: int, backward: bool, repeats: int) -> list[float]:
    """CPU seconds of `episodes` episodes of `length` examples."""
    import jax
    import jax.numpy as jnp

    from papers.vsml.layers import Dense
    from papers.vsml.meta_train import meta_loss
    from papers.vsml.network import Network, initial_cells, learn_online
    from papers.vsml.sub_rnn import init_sub_rnn

    network = Network((Dense(side**2, 10),), micro_ticks=1 if backward else 2, backward_pass=backward)
    keys = jax.random.split(jax.random.key(0), 4)
    params = init_sub_rnn(keys[0], 16, 8)
    # members of a population have parameters of their own; episodes of backpropagation share them
    x = jax.random.normal(keys[1], (episodes, length, side**2))
    labels = jax.random.randint(keys[2], (episodes, length), 0, 10)

    def loss(params: object, x: jax.Array, labels: jax.Array) -> jax.Array:
        cells = initial_cells(jax.random.split(keys[3], x.shape[1]), network, 16)
        return meta_loss(learn_online(params, network, cells, x, jax.nn.one_hot(labels, 10)), labels)

    if backward:
        slope = jax.jit(jax.grad(loss))
        return cpu_seconds(lambda: slope(params, x.swapaxes(0, 1), labels.T), repeats)
    members = jax.tree.map(lambda array: jnp.stack([array] * episodes), params)
    every = jax.jit(jax.vmap(lambda params, x, labels: loss(params, x[:, None], labels[:, None])))
    return cpu_seconds(lambda: every(members, x, labels), repeats)


def roof(repeats: int) -> tuple[float, float]:
    """What one core reaches: multiply-adds a second in a large matrix product, bytes a second in a large copy."""
    import jax
    import jax.numpy as jnp

    matrix, long = jnp.ones((1024, 1024)), jnp.ones(2**26)
    product, add = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1)
    return (
        1024**3 / min(cpu_seconds(lambda: product(matrix), repeats)),
        2 * 4 * 2**26 / min(cpu_seconds(lambda: add(long), repeats)),
    )


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from common.run.runtime import settle

    settle(1)
    flops, bandwidth = roof(options.repeats)
    print(f"one core: {flops / 1e9:.0f} G multiply-adds/s in a matrix product, {bandwidth / 1e9:.1f} GB/s in a copy")
    for name, (side, length, episodes, backward, reference) in CASES.items():
        seconds = measure(side, length, episodes, backward, options.repeats)
        rate = episodes * length / statistics.median(seconds)
        ticks = rate * 2 * side**2 * 10
        line = (
            f"{name}: {rate:,.0f} examples/CPU s, {ticks / 1e6:.1f} M sub-RNN ticks/CPU s ({1e9 / ticks:.0f} ns each)"
        )
        if not backward:
            line += (
                f"; {ticks * MULTIPLIES / flops:.0%} of the core's multiply-adds, {ticks * TANHS / 1e9:.2f} G tanh/s, "
                f"memory traffic {ticks * BYTES / bandwidth:.0%} of a copy's if nothing stayed in cache"
            )
        print(
            line + (f"; {rate / reference:.1f} times the official code's {reference}" if reference else ""), flush=True
        )


if __name__ == "__main__":
    main()
