"""Speed of ANML's meta-training: a meta-iteration of 20 inner steps and 84 images at full width, 256 and 112 channels.

The official code is first order; second order is what the paper describes, and nobody published its speed.

    python benchmarks/bench_anml.py [--repeats N] [--json FILE]
"""

from collections.abc import Iterator

import jax
import optax
from measure import Row, cpu_seconds, flops, main, per

from papers.anml.config import MetaTrain
from papers.anml.fast_meta_learning import fast_meta_gradient
from papers.anml.meta_train import init_learner, scheme

ITERATIONS = 3
"""Meta-iterations of one compiled call."""
TREATMENTS: dict[str, tuple[dict, str | None]] = {
    "ANML, first order": ({"gradient": "first"}, "meta_iteration"),
    "ANML, second order (official: first order)": ({}, "meta_iteration"),
    "OML, one linear layer, second order": ({"neuromodulation": False, "plastic": "head"}, None),
}


def rows(repeats: int) -> Iterator[Row]:
    """One row a treatment."""
    for name, (changes, reference) in TREATMENTS.items():
        config = MetaTrain(channels=256, nm_channels=112, **changes)
        adam, rule, steps = optax.adam(config.outer_rate), scheme(config), config.inner_steps
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.uniform(keys[0], (config.remember + steps, config.side, config.side, 1))
        labels = jax.random.randint(keys[1], (len(x),), 0, config.classes).at[-steps:].set(0)
        learner = init_learner(config, keys[2])

        def advance(state: tuple, rule=rule, x=x, labels=labels, steps=steps, adam=adam) -> tuple:
            def iteration(state: tuple, _: None) -> tuple:
                learner, kept = state
                slope, metrics = fast_meta_gradient(learner, rule, x, labels, steps)
                updates, kept = adam.update(slope, kept)
                return (optax.apply_updates(learner, updates), kept), metrics["loss"]

            return jax.lax.scan(iteration, state, None, length=ITERATIONS)

        state, compiled = (learner, adam.init(learner)), jax.jit(advance)
        seconds = cpu_seconds(lambda compiled=compiled, state=state: compiled(state), repeats)
        count = flops(advance, state) / ITERATIONS
        yield Row(name, "meta-iteration", per(seconds, ITERATIONS), count, reference)


if __name__ == "__main__":
    main("anml", lambda repeats: list(rows(repeats)))
