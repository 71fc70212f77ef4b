"""Speed of MPLP: meta-steps and lifetimes a CPU second, on one pinned core.

The reference is the official code (TensorFlow, two threads of a busy machine, another one than yours): 539 CPU-ms a
meta-step of the sinusoids (4 networks, 5 steps, 10 points), 97 of the experiment with a learned network; and wall time
of single lifetimes without meta-gradient: about 70 ms of a sinusoid, 1.1 s of MNIST. Compiling is not counted.

    python benchmarks/bench_mplp.py [--repeats N]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median of the repeats, after one that compiles."""
    import jax

    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        started = time.process_time()
        jax.block_until_ready(run())
        found.append(time.process_time() - started)
    return statistics.median(found)


def meta_step(config: object, steps: int, repeats: int) -> float:
    """CPU seconds of one meta-step, measured over so many in one program."""
    import jax
    import jax.numpy as jnp

    from common.train.jax import batch_seeds
    from papers.mplp.meta_train import begin, meta_step

    state = batch_seeds(lambda key: begin(config, None, key), [0])
    state = jax.tree.map(lambda array: array[0], state)
    many = jax.jit(lambda state: jax.lax.scan(lambda s, i: meta_step(config, None, s, i), state, jnp.arange(steps))[1])
    return cpu_seconds(lambda: many(state), repeats) / steps


def lifetime(config: object, count: int, repeats: int) -> float:
    """CPU seconds of one lifetime with its measures, of so many."""
    import jax

    from papers.mplp.evaluation import Learner, Setting, program
    from papers.mplp.lifetime import live
    from papers.mplp.meta_train import spec_of
    from papers.mplp.network import init_network
    from papers.mplp.protocol import init_protocol, init_statistics
    from papers.mplp.tasks import Images

    spec, keys = spec_of(config), jax.random.split(jax.random.key(0), 3)
    split = Images(jax.random.normal(keys[1], (2000, spec.sizes[0])), jax.random.randint(keys[2], (2000,), 0, 10))
    protocol, statistics_ = init_protocol(keys[0], spec), init_statistics(spec)
    learner = Learner(
        lambda _, key, number: init_network(key, spec, number),
        lambda params, layers, x, y: live(*params, spec, layers, x, y),
    )
    setting = Setting(config.task, spec, config.steps, config.examples, count, tested=1000)
    every, together = program(setting, learner)
    order = jax.random.split(keys[0], count).reshape(-1, together)
    data = () if config.task == "sinusoid" else (split, split)
    return cpu_seconds(lambda: every((protocol, statistics_), order, data), repeats) / count


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from common.run.runtime import settle

    settle(1)
    from papers.mplp.released import TRAINED

    for name, kind, steps, reference in (
        ("meta-step, sinusoids", "sinusoid", 5, 0.539),
        ("meta-step, learned network", "maml", 20, 0.097),
    ):
        seconds = meta_step(TRAINED[kind], steps, options.repeats)
        speed = f"{name}: {1e3 * seconds:.0f} CPU-ms, {1 / seconds:.1f} a CPU second"
        print(f"{speed}; {reference / seconds:.1f} times the official code", flush=True)
    for name, kind, count, reference in (
        ("lifetime, sinusoid", "sinusoid", 40, 70),
        ("lifetime, MNIST", "mnist", 2, 1100),
    ):
        seconds = lifetime(TRAINED[kind], count, options.repeats)
        speed = f"{name}: {1e3 * seconds:.1f} CPU-ms, {1 / seconds:.1f} a CPU second"
        print(f"{speed}; one by one the official code takes {reference} ms of wall time", flush=True)


if __name__ == "__main__":
    main()
