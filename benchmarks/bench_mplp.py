"""Speed of MPLP: meta-steps, and lifetimes without meta-gradient, with their measures.

python benchmarks/bench_mplp.py [--repeats N] [--json FILE]
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from measure import Row, cpu_seconds, flops, main, per

from common.train.jax import batch_seeds
from papers.mplp.lifetime import live
from papers.mplp.measurement import Learner, Setting, program
from papers.mplp.meta_train import begin, meta_step, spec_of
from papers.mplp.network import init_network
from papers.mplp.protocol import init_protocol, init_statistics
from papers.mplp.released import TRAINED
from papers.mplp.tasks import Images


def meta_training(name: str, config: object, steps: int, repeats: int, reference: str) -> Row:
    """Meta-steps, so many in one program."""
    state = batch_seeds(lambda key: begin(config, None, key), [0])
    state = jax.tree.map(lambda array: array[0], state)

    def many(state: object) -> object:
        return jax.lax.scan(lambda s, i: meta_step(config, None, s, i), state, jnp.arange(steps))[1]

    compiled = jax.jit(many)
    seconds = cpu_seconds(lambda: compiled(state), repeats)
    return Row(name, "meta-step", per(seconds, steps), flops(many, state) / steps, reference)


def lifetimes(name: str, config: object, count: int, repeats: int, reference: str) -> Row:
    """Lifetimes, so many of which are measured in one call."""
    spec, keys = spec_of(config), jax.random.split(jax.random.key(0), 3)
    split = Images(jax.random.normal(keys[1], (2000, spec.sizes[0])), jax.random.randint(keys[2], (2000,), 0, 10))
    params = init_protocol(keys[0], spec), init_statistics(spec)
    learner = Learner(
        lambda _, key: init_network(key, spec),
        lambda params, layers, x, y: live(*params, spec, layers, x, y),
    )
    setting = Setting(config.task, spec, config.steps, config.examples, count, tested=1000)
    every, together = program(setting, learner)
    order = jax.random.split(keys[0], count).reshape(-1, together)
    data = () if config.task == "sinusoid" else (split, split)
    seconds = cpu_seconds(lambda: every(params, order, data), repeats)
    return Row(name, "lifetime", per(seconds, count), flops(every, params, order, data) / count, reference)


def rows(repeats: int) -> Iterator[Row]:
    """Both kinds of meta-training, both kinds of lifetime."""
    yield meta_training("sinusoids: 4 tasks, 5 steps", TRAINED["sinusoid"], 5, repeats, "meta_sinusoid")
    yield meta_training("learned network: 4 tasks, 2 steps", TRAINED["maml"], 20, repeats, "meta_learned")
    yield lifetimes("a sinusoid, 5 steps", TRAINED["sinusoid"], 40, repeats, "life_sinusoid")
    yield lifetimes("MNIST, 20 steps", TRAINED["mnist"], 2, repeats, "life_mnist")


if __name__ == "__main__":
    main("mplp", lambda repeats: list(rows(repeats)))
