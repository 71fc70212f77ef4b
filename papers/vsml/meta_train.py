"""Meta-training: by backpropagation through episodes or by evolution strategies, small images first."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Int32

from common.train.evolution import OpenES, Params, State, raw
from common.train.jax import batch_seeds, scan_stages, shard
from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key
from common.train.trees import flatten_jax
from papers.vsml import tasks
from papers.vsml.config import MetaTrain
from papers.vsml.learners import OUTPUTS, Learner, make_learner
from papers.vsml.tasks import Episodes

__all__ = ["accuracy", "draw_episodes", "meta_loss", "train", "untrained"]

CHUNK = 25
"""Meta-iterations between two lines of the metrics stream."""


class Trained(NamedTuple):
    """The state of meta-training by backpropagation; every array has a leading axis of seeds."""

    params: Any
    optimiser: optax.OptState
    key: Array


def train(config: MetaTrain, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Meta-train one learner a seed, stage after stage; each stage continues with the parameters of the one before."""

    @cache
    def sources_of(side: int) -> tuple[Episodes, ...]:
        return tuple(tasks.load(name, "train", side) for name in config.tasks)

    def make_stage(side: int, length: int, rate: float) -> Any:
        return eqx.Partial(make_step(config, make_learner(config, side**2), length, rate), sources_of(side))

    begin, make_step = (_begin_es, _es_step) if config.optimiser == "es" else (_begin_backprop, _backprop_step)
    stages = [
        (end, partial(make_stage, *stage))
        for end, *stage in zip(accumulate(config.iterations), config.sides, config.lengths, config.rates, strict=True)
    ]
    state = begin(config, make_learner(config, config.sides[0] ** 2), seeds)
    state = scan_stages(stages, state, chunk=CHUNK, recorder=run)
    side = config.sides[-1]
    sources = sources_of(side)
    params = _params(state)
    metrics = _final_metrics(config, make_learner(config, side**2), sources, params, seeds)
    metrics["parameters"] = [sum(array[0].size for array in jax.tree.leaves(params))] * len(seeds)
    return Outcome(metrics=metrics, parameters=flatten_jax(params))


def _final_metrics(
    config: MetaTrain, learner: Learner, sources: Sequence[Episodes], params: Any, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Meta-loss and accuracy on fresh training episodes of the last stage."""

    @jax.jit
    def member(params: Any, key: Array) -> dict[str, Array]:
        keys = jax.random.split(key)
        x, labels = draw_episodes(config, sources, keys[0], config.episodes, config.lengths[-1])
        starts = jax.random.split(keys[1], config.episodes)
        logits = learner.learn(params, starts, x, jax.nn.one_hot(labels, OUTPUTS))
        return {"loss": meta_loss(logits, labels), "accuracy": accuracy(logits, labels)}

    seed_params = [jax.tree.map(lambda array, index=index: array[index], params) for index in range(len(seeds))]
    seed_metrics = [member(params, jax_key(seed, "last")) for params, seed in zip(seed_params, seeds, strict=True)]
    return {name: [float(values[name]) for values in seed_metrics] for name in seed_metrics[0]}


def meta_loss(logits: Float[Array, "T E B"], labels: Int[Array, "T E"]) -> Float[Array, ""]:
    """Mean cross-entropy of predictions that are made before their label is seen."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Float[Array, "T E B"], labels: Int[Array, "T E"]) -> Float[Array, ""]:
    """Share of such predictions that are right."""
    return (logits.argmax(-1) == labels).mean()


def draw_episodes(
    config: MetaTrain, sources: Sequence[Episodes], key: Array, count: int, length: int
) -> tuple[Float[Array, "T E A"], Int[Array, "T E"]]:
    """`count` episodes, which take the tasks in turn; the first episodes of each task's share are projected.

    The matrix of a projected episode is one of a fixed set; it is computed again wherever it is used.
    """
    inputs, labels = [], []
    for task, (source, share) in enumerate(tasks.mixture(sources, count)):
        if not share:
            continue
        drawing, choosing = jax.random.split(jax.random.fold_in(key, task))
        x, label = jax.vmap(lambda key, source=source: source.draw(key, length))(jax.random.split(drawing, share))
        projected = round(share * config.projected)
        if projected:
            chosen = jax.random.randint(choosing, (projected,), 0, config.projections)
            matrices = jax.vmap(lambda index: jax.random.fold_in(jax_key(0, "projection"), index))(chosen)
            x = jnp.concatenate([jax.vmap(tasks.project)(matrices, x[:projected]), x[projected:]])
        inputs.append(x)
        labels.append(label)
    return jnp.concatenate(inputs).swapaxes(0, 1), jnp.concatenate(labels).swapaxes(0, 1)


# --- backpropagation through the episode ---------------------------------------------------------------------


def _begin_backprop(config: MetaTrain, learner: Learner, seeds: Sequence[int]) -> Trained:
    def init(key: Array) -> Trained:
        params = learner.init(jax.random.fold_in(key, 0))
        return Trained(params, optax.scale_by_adam().init(params), jax.random.fold_in(key, 1))

    return batch_seeds(init, seeds)


def _backprop_step(config: MetaTrain, learner: Learner, length: int, rate: float) -> Any:
    adam = optax.scale_by_adam()

    def loss(params: Any, starts: Array, x: Array, labels: Array) -> tuple[Array, Array]:
        logits = learner.learn(params, starts, x, jax.nn.one_hot(labels, OUTPUTS))
        return meta_loss(logits, labels), logits

    def member(sources: Sequence[Episodes], state: Trained, index: Int32[Array, ""]) -> tuple[Trained, Mapping]:
        keys = jax.random.split(jax.random.fold_in(state.key, index))
        x, labels = draw_episodes(config, sources, keys[0], config.episodes, length)
        starts = jax.random.split(keys[1], config.episodes)
        (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, starts, x, labels)
        norm = optax.tree.norm(gradient)
        if config.clip:
            gradient = jax.tree.map(lambda s: s * jnp.minimum(1, config.clip / norm), gradient)
        update, optimiser = adam.update(gradient, state.optimiser)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, update)
        return Trained(params, optimiser, state.key), {
            "loss": value,
            "slope": norm,
            "accuracy": accuracy(logits, labels),
        }

    return _for_each_seed(member)


# --- evolution strategies ------------------------------------------------------------------------------------


def _strategy(config: MetaTrain) -> OpenES:
    return OpenES(2 * config.episodes, optax.scale_by_adam(), raw)


def _begin_es(config: MetaTrain, learner: Learner, seeds: Sequence[int]) -> State:
    settings = Params(sigma=config.sigma, lr=config.rates[0])

    def init(key: Array) -> State:
        return _strategy(config).init(jax.random.fold_in(key, 1), learner.init(jax.random.fold_in(key, 0)), settings)

    return batch_seeds(init, seeds)


def _es_step(config: MetaTrain, learner: Learner, length: int, rate: float) -> Any:
    strategy, settings = _strategy(config), Params(sigma=config.sigma, lr=rate)

    def member(sources: Sequence[Episodes], state: State, index: Int32[Array, ""]) -> tuple[State, Mapping]:
        state = eqx.tree_at(lambda s: s.lr, state, jnp.float32(rate))
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, 2**31), index))
        x, labels = draw_episodes(config, sources, keys[0], config.episodes, length)
        starts = jax.random.split(keys[1], config.episodes)

        def live(params: Any, key: Array, x: Array, label: Array) -> tuple[Array, Array]:
            """Loss and accuracy of one episode; both members of a pair see its data and start in its state."""
            logits = learner.learn(params, key[None], x[:, None], jax.nn.one_hot(label[:, None], OUTPUTS))
            return meta_loss(logits, label[:, None]), accuracy(logits, label[:, None])

        paired = [jnp.concatenate([array, array]) for array in (starts, x.swapaxes(0, 1), labels.T)]
        loss, correct = jax.vmap(live)(shard(strategy.ask(state)), *(shard(array) for array in paired))
        return strategy.tell(state, -loss, settings), {"loss": loss.mean(), "accuracy": correct.mean()}

    return _for_each_seed(member)


def _for_each_seed(member: Any) -> Any:
    """The step for states with a leading axis of seeds; all seeds draw from the same sources."""
    return eqx.filter_vmap(member, in_axes=(None, eqx.if_array(0), None))


def _params(state: Trained | State) -> Any:
    return state.params if isinstance(state, Trained) else state.centre


def untrained(config: MetaTrain, seeds: Sequence[int]) -> Any:
    """Untrained parameters with the structure that a run of this configuration ends with."""
    learner = make_learner(config, config.sides[0] ** 2)
    begin = _begin_es if config.optimiser == "es" else _begin_backprop
    return _params(begin(config, learner, seeds))
