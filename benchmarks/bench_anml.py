"""Speed of ANML's meta-training: CPU seconds and meta-iterations a second, on one pinned core.

The reference is the official code at full width, first order as published: 2.3 CPU seconds a meta-iteration of 20
inner steps and 84 images, one thread. Second order is what the paper describes; nobody published its speed. Compiling
is not counted.

    python benchmarks/bench_anml.py [--channels 256 --nm-channels 112] [--iterations N] [--repeats N]
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

REFERENCE = 2.3
TREATMENTS = {
    "ANML, first order": {"gradient": "first"},
    "ANML, second order": {},
    "OML, one linear layer": {"neuromodulation": False, "plastic": "head"},
}


def measure(changes: dict, iterations: int, repeats: int) -> tuple[list[float], list[float]]:
    """CPU seconds and wall seconds of a meta-iteration, one value a repeat."""
    import jax
    import optax

    from papers.anml.config import MetaTrain
    from papers.anml.fast_meta_learning import fast_meta_gradient
    from papers.anml.meta_train import init_learner, scheme

    config = MetaTrain(**changes)
    adam, rule, steps = optax.adam(config.outer_rate), scheme(config), config.inner_steps
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(keys[0], (config.remember + steps, config.side, config.side, 1))
    labels = jax.random.randint(keys[1], (len(x),), 0, config.classes).at[-steps:].set(0)
    learner = init_learner(config, keys[2])

    @jax.jit
    def advance(state: tuple) -> tuple:
        def iteration(state: tuple, _: None) -> tuple:
            learner, kept = state
            slope, metrics = fast_meta_gradient(learner, rule, x, labels, steps)
            updates, kept = adam.update(slope, kept)
            return (optax.apply_updates(learner, updates), kept), metrics["loss"]

        return jax.lax.scan(iteration, state, None, length=iterations)

    state, _ = jax.block_until_ready(advance((learner, adam.init(learner))))
    cpu, wall = [], []
    for _ in range(repeats):
        started = time.process_time(), time.perf_counter()
        state, _ = jax.block_until_ready(advance(state))
        cpu.append((time.process_time() - started[0]) / iterations)
        wall.append((time.perf_counter() - started[1]) / iterations)
    return cpu, wall


def main() -> None:
    """Print one line a treatment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--nm-channels", type=int, default=112)
    parser.add_argument("--iterations", type=int, default=3, help="meta-iterations a compiled call")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from common.run.runtime import settle

    settle(1)
    width = {"channels": options.channels, "nm_channels": options.nm_channels}
    for name, changes in TREATMENTS.items():
        cpu, wall = measure(width | changes, options.iterations, options.repeats)
        seconds = statistics.median(cpu)
        full = options.channels == 256 and options.nm_channels == 112 and "ANML" in name
        times = f", {REFERENCE / seconds:.1f} times the official first-order code's {REFERENCE}" if full else ""
        print(
            f"{name} ({options.channels}/{options.nm_channels}): {seconds:.3f} CPU s a meta-iteration "
            f"({min(cpu):.3f} to {max(cpu):.3f}), {1 / statistics.median(wall):.2f} meta-iterations/s{times}",
            flush=True,
        )


if __name__ == "__main__":
    main()
