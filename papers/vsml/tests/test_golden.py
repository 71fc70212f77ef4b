"""Our functions against arrays of the official code, ``$REFIGURE_GOLDEN/vsml/<family>*.npz``.

Sizes, lengths and rates are read off the arrays, so that any file of a family will do.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import Arrays, Golden, agree

from common.train.evolution import OpenES, Params, raw
from papers.vsml.baselines import (
    FastWeightMemory,
    Hebbian,
    Linear,
    MetaRNN,
    fast_weight_memory,
    hebbian,
    meta_rnn,
    online_descent,
)
from papers.vsml.fast_lstm import gate_matrix, lstm
from papers.vsml.layers import Conv, Dense
from papers.vsml.meta_train import meta_loss
from papers.vsml.network import Network, learn_online
from papers.vsml.sub_rnn import GateOffsets, Norm, State, SubRNN
from papers.vsml.tests.conftest import dense

golden, slow_golden = Golden("vsml"), Golden("vsml")
EPISODES = {
    "episode_default": {},
    "episode_feed_label": {"feed_label": True},
    "episode_layernorm": {},
    "episode_bwdpass": {"backward_pass": True, "feed_label": True},
    "episode_deep": {},
    "episode_deep_bwdpass_ln": {"backward_pass": True, "feed_label": True},
    "episode_tightbound": {"logit_bound": 0.5},
    "episode_batch2": {"averaged": True},
}
"""Families of episodes and the options of their networks."""
QUICK = ("episode_default", "episode_batch2", "episode_deep_bwdpass_ln")
"""Families that have all of these options but the tight bound."""


# --- their arrays as ours ------------------------------------------------------------------------------------


def sub_rnn(a: Arrays, prefix: str = "param:") -> SubRNN:
    """Parameters, matched by the last parts of their paths."""

    def find(path: str) -> jax.Array | None:
        return next((jnp.asarray(a[k]) for k in a if k.startswith(prefix) and k.endswith(path)), None)

    def norm(name: str) -> Norm | None:
        return None if find(f".{name}:scale") is None else Norm(find(f".{name}:scale"), find(f".{name}:offset"))

    return SubRNN(
        find("custom_lstm.linear:w"), find("custom_lstm.linear:b"),
        find("sub_rnn.linear:w"), find("sub_rnn.linear:b"), find("sub_rnn.linear_1:w"), find("sub_rnn.linear_1:b"),
        norm("layer_norm"), norm("layer_norm_1"),
    )  # fmt: skip


def grid(x: np.ndarray) -> jax.Array:
    """(..., A, B, N) to (N, 1, ..., B, A)."""
    return jnp.asarray(np.moveaxis(x, -1, 0).swapaxes(-1, -2)[:, None])


def nodes(x: np.ndarray) -> jax.Array:
    """(..., M) to (M, 1, ...)."""
    return jnp.asarray(np.moveaxis(x, -1, 0)[:, None])


def linear(a: Arrays, path: str) -> Linear:
    return Linear(jnp.asarray(a[f"{path}:w"]), jnp.asarray(a[f"{path}:b"]))


# --- families ------------------------------------------------------------------------------------------------


@golden.family
def lstm_cell(a: Arrays) -> None:
    units = a["h"].shape[-1]
    cell = {"w": jnp.asarray(a["param:custom_lstm.linear:w"]), "b": jnp.asarray(a["param:custom_lstm.linear:b"])}
    message = a["x"].shape[-1] // 2
    maps = [jnp.zeros((units, message)), jnp.zeros(message)]
    matrix = gate_matrix(SubRNN(*cell.values(), *maps, *maps), GateOffsets(), message, message)
    columns = np.concatenate([a["h"], a["x"], np.ones((len(a["x"]), 1), np.float32)], -1)
    h, c = lstm(matrix, jnp.asarray(columns.T), jnp.asarray(a["c"].T))
    for name, state in (("out", h), ("h_new", h), ("c_new", c)):
        agree(state.T, a[name], 1e-6)


def layer(a: Arrays, module: Dense | Conv, compare_backward: bool = True) -> None:
    state, forward, backward = jax.jit(module.tick, static_argnums=5)(
        sub_rnn(a), GateOffsets(), State(grid(a["h"]), grid(a["c"])), nodes(a["fwd_msg"]), nodes(a["bwd_msg"]), 1
    )
    agree(state.h, grid(a["h_new"]), 1e-5)
    agree(state.c, grid(a["c_new"]), 1e-5)
    agree(forward, nodes(a["fwd_out"]), 1e-5)
    if compare_backward:
        agree(backward, nodes(a["bwd_out"]), 1e-5)


@golden.families("dense_layer", "dense_layer_ln")
def dense_layer(a: Arrays) -> None:
    layer(a, Dense(*a["h"].shape[:2]))


@golden.families("conv_layer_stride1", "conv_layer_stride2")
def conv_layer(a: Arrays) -> None:
    """The official code loses backward messages where the stride is 2."""
    side = len(a["fwd_msg"])
    stride = -(-side // len(a["bwd_msg"]))
    layer(a, Conv(side, *a["h"].shape[2:4], stride), compare_backward=stride == 1)


def cells_of(a: Arrays, batch: int) -> tuple[jax.Array, ...]:
    count = sum(name.startswith("init_cell_") for name in a)
    return tuple(jnp.repeat(grid(a[f"init_cell_{layer}"]), batch, 1) for layer in range(count))


def network_of(cells: tuple[jax.Array, ...], **options: object) -> Network:
    return dense(*(cell.shape[-1] for cell in cells), cells[-1].shape[-2], **options)


def loss_of(a: Arrays, network: Network, cells: tuple[jax.Array, ...], params: SubRNN) -> tuple[jax.Array, jax.Array]:
    """Meta-loss and logits of the episode in the file."""
    logits = learn_online(params, network, cells, jnp.asarray(a["inputs"]), jnp.asarray(a["labels_onehot"]))
    return meta_loss(logits, a["labels_onehot"].argmax(-1)), logits


def episode(options: dict, a: Arrays) -> None:
    cells = cells_of(a, a["inputs"].shape[1])
    loss = partial(loss_of, a, network_of(cells, **options), cells)
    (value, logits), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(sub_rnn(a))
    agree(logits, a["logits"], 1e-5)
    agree(value, a["meta_loss"], 1e-5)
    agree_slopes(slope, sub_rnn(a, "grad:"), 1e-7)  # the sum of all errors is zero but for rounding


def agree_slopes(slope: SubRNN, golden: SubRNN, rounding: float) -> None:
    """Every array within 1e-4 of its greatest entry."""
    assert jax.tree.structure(slope) == jax.tree.structure(golden)
    for value, expected in zip(jax.tree.leaves(slope), jax.tree.leaves(golden), strict=True):
        agree(value, expected, 1e-4 * float(jnp.abs(expected).max()) + rounding)


for name, options in EPISODES.items():
    slow_golden.families(name)(partial(episode, options))
for name in QUICK:
    golden.families(name)(partial(episode, EPISODES[name]))


@golden.family
def es_single_pair(a: Arrays) -> None:
    cells = cells_of(a, 1)
    network = network_of(cells)
    sigma = float(a["noise_std"])
    centre, noise = sub_rnn(a), sub_rnn(a, "noise:")
    pair = [jax.tree.map(lambda c, n, sign=sign: c + sign * sigma * n, centre, noise) for sign in (1, -1)]
    loss = jax.jit(lambda params: loss_of(a, network, cells, params)[0])
    losses = jnp.stack([loss(params) for params in pair])
    agree(losses, np.stack([a["loss_pos"], a["loss_neg"]]), 1e-5)
    agree(losses.mean(), a["mean_loss"], 1e-5)

    class Given(OpenES):
        """The strategy with the noise of the file."""

        def noise(self, state: object) -> SubRNN:
            return jax.tree.map(lambda n: n[None], noise)

    strategy, settings = Given(2, shape=raw), Params(sigma=sigma, lr=1.0)
    # the losses of the file, for their small difference has lost digits in single precision
    fitness = -jnp.asarray(np.stack([a["loss_pos"], a["loss_neg"]]))
    moved = strategy.tell(strategy.init(jax.random.key(0), centre, settings), fitness, settings).centre
    agree_slopes(jax.tree.map(jnp.subtract, centre, moved), sub_rnn(a, "esgrad:"), 2e-7)


def online(a: Arrays, logits: jax.Array) -> None:
    agree(logits, a["logits"], 1e-5)


def descent(optimiser: optax.GradientTransformation, a: Arrays) -> None:
    layers = tuple(linear(a, key[:-2]) for key in a if key.startswith("init_param:") and key.endswith(":w"))
    online(a, online_descent(layers, optimiser, a["inputs"][:, 0], a["labels_onehot"][:, 0])[:, None])


def hebbian_layer(rule: str, a: Arrays) -> None:
    names = [f"param:hebbian_fw.hebbian_linear:{name}" for name in ("w", "b", "coeff", "fw_lr")]
    params = Hebbian(*(jnp.asarray(a[name]) for name in names))
    online(a, hebbian(params, a["inputs"], a["labels_onehot"], rule))


golden.families("baseline_sgd_shallow")(partial(descent, optax.sgd(0.01)))
golden.families("baseline_sgd_deep_adam")(partial(descent, optax.adam(1e-3)))
golden.families("baseline_hebbian_hebb")(partial(hebbian_layer, "hebb"))
golden.families("baseline_hebbian_oja")(partial(hebbian_layer, "oja"))


@golden.family
def baseline_metarnn(a: Arrays) -> None:
    params = MetaRNN(linear(a, "param:meta_rnn.lstm.linear"), linear(a, "param:meta_rnn.linear"))
    online(a, meta_rnn(params, a["inputs"], a["labels_onehot"]))


@golden.family
def baseline_fwmemory(a: Arrays) -> None:
    names = ("lstm.linear", "linear_1", "linear_2", "linear_3", "linear")
    params = FastWeightMemory(*(linear(a, f"param:fw_memory.{name}") for name in names))
    online(a, fast_weight_memory(params, a["inputs"], a["labels_onehot"]))


@golden.files
def test_agrees_with_the_official_code(name: str, file: Path) -> None:
    golden.check(name, file)


@pytest.mark.slow
@slow_golden.files
def test_episodes_agree_with_the_official_code(name: str, file: Path) -> None:
    slow_golden.check(name, file)
