"""Networks of clones that learn MNIST and Fashion-MNIST by ticks alone, and true gradient descent (figure 4)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Int32

from common.room.config import build
from common.train.jax import batch_seeds, batch_step, scan_train
from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key
from common.train.trees import unflatten_jax
from papers.vsml import tasks
from papers.vsml.cloning import Layers, Rule, clone_network, descend, draw_network, fresh, logits
from papers.vsml.config import Clone, CloneOnPolicy, Unroll
from papers.vsml.network import Memory, Network, begin, learn_example, predict
from papers.vsml.sub_rnn import SubRNN
from papers.vsml.tasks import Episodes
from papers.vsml.train_clones import init_clone

if TYPE_CHECKING:
    from common.run.record import FinishedRun

__all__ = ["train"]

KINDS = ("clone", "true")


class Unrolled(NamedTuple):
    """Networks of clones and networks of real weights that learn the same streams, one of each kind a data set."""

    params: SubRNN
    order: Int[Array, "T E"]
    """Which images come, one stream a data set."""
    clone: Memory
    true: Layers
    loss: Float[Array, "2 W E"]
    """Means over windows, of both kinds."""
    accuracy: Float[Array, "2 W E"]


def train(config: Unroll, seeds: Sequence[int], run: Recorder, parent: "FinishedRun") -> Outcome:
    """Let networks of the clones of a training run learn, and measure them on test images afterwards."""
    settings = dict(parent.identity.config)
    trained: Clone = build(CloneOnPolicy if "networks" in settings else Clone, settings, "the cloning run")
    clones = unflatten_jax(batch_seeds(lambda key: init_clone(trained, key), seeds), parent.parameters)
    streams, unseen = ([tasks.load(name, split, config.side) for name in config.tasks] for split in ("train", "test"))
    sizes = [streams[0].inputs, *config.hidden, 10]
    network = clone_network(sizes, trained.units, trained.ticks)
    rule = Rule(trained.rate, trained.bias_rate)

    def step(streams: Sequence[Episodes], state: Unrolled, index: Int32[Array, ""]) -> tuple[Unrolled, Mapping]:
        chosen = list(zip(streams, state.order[index], strict=True))
        x = jnp.stack([stream.images[i] for stream, i in chosen])
        labels = jnp.stack([stream.labels[i] for stream, i in chosen])
        label = jax.nn.one_hot(labels, 10)
        clone, z_clone = learn_example(state.params, network, state.clone, x, label)
        true, z_true = descend(rule, state.true, x, label)
        z, window = jnp.stack([z_clone, z_true]), index // config.window
        measured = {"loss": optax.softmax_cross_entropy(z, label), "accuracy": (z.argmax(-1) == labels).astype(z.dtype)}
        metrics = {
            f"{name}_{kind}_{measure}": values[k, e]
            for measure, values in measured.items()
            for k, kind in enumerate(KINDS)
            for e, name in enumerate(config.tasks)
        }
        curves = {
            name: getattr(state, name).at[:, window].add(values / config.window) for name, values in measured.items()
        }
        return state._replace(clone=clone, true=true, **curves), metrics

    begun = [_begin(config, network, sizes, streams, clones, *member) for member in enumerate(seeds)]
    states = scan_train(
        batch_step(eqx.Partial(step, streams)),
        jax.tree.map(lambda *arrays: jnp.stack(arrays), *begun),
        steps=config.length, chunk=config.window, recorder=run,
    )  # fmt: skip
    tested = _test(config, network, unseen, states)
    metrics: dict[str, list[float]] = {}
    arrays = {}
    for e, name in enumerate(config.tasks):
        for k, kind in enumerate(KINDS):
            metrics[f"{name}_{kind}_test_accuracy"] = tested[:, k, e].tolist()
            arrays[f"{name}_{kind}_loss"] = np.asarray(states.loss[:, k, :, e])
            arrays[f"{name}_{kind}_accuracy"] = np.asarray(states.accuracy[:, k, :, e])
        metrics[f"{name}_behind"] = (tested[:, 1, e] - tested[:, 0, e]).tolist()
    return Outcome(metrics=metrics, arrays=arrays)


def _begin(
    config: Unroll, network: Network, sizes: Sequence[int], streams: Sequence[Episodes], clones: SubRNN,
    index: int, seed: int,
) -> Unrolled:  # fmt: skip
    """The streams and initial networks of a seed; both kinds of networks have the same weights."""
    params = jax.tree.map(lambda array: array[index], clones)
    orders, networks = [], []
    for stream in streams:
        keys = jax.random.split(jax_key(seed, "stream", stream.name))
        orders.append(jnp.resize(jax.random.permutation(keys[0], len(stream.images)), config.length))
        networks.append(draw_network(keys[1], sizes, 1))
    layers: Layers = jax.tree.map(lambda *each: jnp.concatenate(each), *networks)
    cells = tuple(fresh(*layer, params.units).c for layer in layers)
    curve = jnp.zeros((len(KINDS), config.length // config.window, len(streams)))
    memory = begin(params, network, cells, sizes[-1], curve.dtype)
    return Unrolled(params, jnp.stack(orders, 1), memory, layers, curve, curve)


def _test(config: Unroll, network: Network, unseen: Sequence[Episodes], states: Unrolled) -> Float[np.ndarray, "S 2 E"]:
    """Accuracy of all networks on test images."""
    images = jnp.stack([source.images[: config.tested] for source in unseen], 1)
    labels = jnp.stack([source.labels[: config.tested] for source in unseen], 1)

    @jax.jit
    def test(state: Unrolled, images: Float[Array, "n E A"], labels: Int[Array, "n E"]) -> Float[Array, "2 E"]:
        def classify(x: Array) -> Array:
            return jnp.stack([
                predict(state.params, network, state.clone, x).argmax(-1), logits(state.true, x).argmax(-1)
            ])  # fmt: skip

        return (jax.lax.map(classify, images) == labels[:, None]).mean(0)

    members = [jax.tree.map(lambda array, index=index: array[index], states) for index in range(len(states.order))]
    return np.stack([np.asarray(test(member, images, labels)) for member in members])
