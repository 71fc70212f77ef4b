"""Meta-training of agents by gradient descent through whole lifetimes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Int32

from common.train.jax import batch_seeds, batch_step, scan_train
from common.train.recorder import Outcome, Recorder
from common.train.trees import flatten_jax
from papers.mplp import tasks
from papers.mplp.agents import Stateless
from papers.mplp.config import MetaTrain
from papers.mplp.lifetime import collect_statistics, live, meta_loss, normalised
from papers.mplp.measurement import side_of
from papers.mplp.network import Layer, Spec, init_network
from papers.mplp.protocol import Protocol, Statistics, init_protocol, init_statistics

__all__ = [
    "Learned",
    "begin",
    "meta_step",
    "spec_of",
    "train",
    "trained_part",
    "untrained",
]

CHUNKS = {"sinusoid": 100, "mnist": 5, "fashion-mnist": 5}
"""Meta-steps between two lines of the metrics stream."""


class Learned(NamedTuple):
    """Everything that an evaluation needs."""

    protocol: Protocol
    statistics: Statistics
    start: tuple[Layer, ...] | None
    """The initial network, if it is meta-learned."""


class Training(NamedTuple):
    """The state of meta-training and the pool of networks; every array has a leading axis of seeds."""

    learned: Learned
    optimiser: optax.OptState
    pool: tuple[Layer, ...] | None
    key: Array


def spec_of(config: MetaTrain) -> Spec:
    """The networks and agents of a configuration."""
    loss = "l2" if config.task == "sinusoid" else "ce"
    return Spec(config.sizes, config.activation, loss, config.message, config.hidden, config.shared, config.widths)


def train(config: MetaTrain, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Meta-train one protocol for each seed."""
    images = None if config.task == "sinusoid" else tasks.load_images(config.task, "train", side_of(spec_of(config)))
    state = batch_seeds(lambda key: begin(config, images, key), seeds)
    step = eqx.Partial(meta_step, config, images)
    state = scan_train(batch_step(step), state, steps=config.meta_steps, chunk=CHUNKS[config.task], recorder=run)
    counts = [sum(array[0].size for array in jax.tree.leaves(trained_part(config, state.learned)))] * len(seeds)
    return Outcome(metrics={"parameters": counts}, parameters=flatten_jax(state.learned))


def untrained(config: MetaTrain, seeds: Sequence[int]) -> Learned:
    """Untrained parameters with the structure that a run of this configuration ends with."""
    spec = spec_of(config)

    def begin(key: Array) -> Learned:
        return Learned(
            init_protocol(key, spec), init_statistics(spec), None if config.pool else init_network(key, spec)
        )

    return batch_seeds(begin, seeds)


def begin(config: MetaTrain, images: tasks.Images | None, key: Array) -> Training:
    """The initial state: untrained agents, statistics, and a pool of networks or one network to be learned."""
    spec = spec_of(config)
    keys = jax.random.split(key, 4)
    protocol = init_protocol(keys[0], spec)
    networks = init_network(keys[1], spec, config.pool or 1)

    def lifetime(key: Array) -> tuple[tuple[Layer, ...], Array, Array]:
        starting, drawing = jax.random.split(key)
        batches, _ = draw_lifetimes(config, images, drawing, 1)
        return init_network(starting, spec) if config.pool else networks, *batches

    rounds = jax.vmap(lifetime)(jax.random.split(keys[2], config.rounds))
    statistics = collect_statistics(protocol, spec, *rounds, config.blend)
    learned = Learned(protocol, statistics, None if config.pool else networks)
    adam = _adam().init(trained_part(config, learned))
    return Training(learned, adam, networks if config.pool else None, keys[3])


def _choose(networks: tuple[Layer, ...], key: Array, count: int) -> tuple[Layer, ...]:
    chosen = jax.random.choice(key, len(networks[0].w), (count,), replace=False)
    return jax.tree.map(lambda array: array[chosen], networks)


def draw_lifetimes(
    config: MetaTrain, images: tasks.Images | None, key: Array, count: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Batches (T, E, B, ...) and held-out examples (E, n, ...) for E = `count` networks."""
    keys = jax.random.split(key, 3)
    batch_shape, held_out_shape = (max(config.steps, config.longest), count, config.examples), (count, config.held_out)
    if images is None:
        sinusoids = tasks.draw_sinusoids(keys[0], count)
        return tasks.draw_points(keys[1], sinusoids, batch_shape), tasks.draw_points(keys[2], sinusoids, held_out_shape)
    return tasks.draw_batches(keys[1], images, batch_shape), tasks.draw_batches(keys[2], images, held_out_shape)


def trained_part(config: MetaTrain, learned: Learned) -> Any:
    """The parameters that the optimiser changes: agents, factors on changes, and a meta-learned initial network."""
    protocol = learned.protocol
    if not config.train_messages:
        protocol = jax.tree.map(
            lambda node: node._replace(message=None) if isinstance(node, Stateless) else node,
            protocol,
            is_leaf=lambda node: isinstance(node, Stateless),
        )
    return protocol, learned.start


def _with_trained(config: MetaTrain, learned: Learned, part: Any) -> Learned:
    protocol, start = part
    if not config.train_messages:
        protocol = jax.tree.map(
            lambda new, old: new._replace(message=old.message) if isinstance(new, Stateless) else new,
            protocol,
            learned.protocol,
            is_leaf=lambda node: isinstance(node, Stateless),
        )
    return Learned(protocol, learned.statistics, start)


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam(eps=1e-7)


def meta_step(
    config: MetaTrain, images: tasks.Images | None, state: Training, index: Int32[Array, ""]
) -> tuple[Training, Mapping[str, Array]]:
    """One step of the optimiser on `networks` lifetimes."""
    spec = spec_of(config)
    keys = jax.random.split(jax.random.fold_in(state.key, index), 3)
    batches, held_out = draw_lifetimes(config, images, keys[0], config.networks)
    length = jax.random.randint(keys[2], (), config.steps, config.longest + 1) if config.longest else None

    def loss(part: Any) -> Array:
        learned = _with_trained(config, state.learned, part)
        if config.pool:
            start = _choose(state.pool, keys[1], config.networks)
        else:
            start = jax.tree.map(lambda array: array.repeat(config.networks, 0), learned.start)
        after = live(learned.protocol, learned.statistics, spec, start, *batches)
        return meta_loss(spec, after, batches, held_out, config.hint, length)

    part = trained_part(config, state.learned)
    value, gradient = jax.value_and_grad(loss)(part)
    update, optimiser = _adam().update(normalised(gradient), state.optimiser)
    rate = config.rate * (config.last_rate / config.rate) ** (index / config.meta_steps)
    part = jax.tree.map(lambda p, u: p - rate * u, part, update)
    learned = _with_trained(config, state.learned, part)
    return Training(learned, optimiser, state.pool, state.key), {"loss": value}
