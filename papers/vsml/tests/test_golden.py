"""Our functions against arrays of the official code, ``$REFIGURE_GOLDEN/vsml/<family>*.npz``.

Sizes, lengths and rates are read off the arrays, so that any file of a family will do.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import golden_files

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
from papers.vsml.layers import Conv, Dense
from papers.vsml.meta_train import meta_loss
from papers.vsml.network import Network, learn_online
from papers.vsml.sub_rnn import GateOffsets, Norm, State, SubRNN, gate_matrix, lstm
from papers.vsml.tests.conftest import dense

Arrays = dict[str, np.ndarray]
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
"""Families of episodes and the options of each."""
FAMILIES = [
    *EPISODES, "lstm_cell", "dense_layer", "dense_layer_ln", "conv_layer_stride1", "conv_layer_stride2",
    "es_single_pair", "baseline_metarnn", "baseline_hebbian_hebb", "baseline_hebbian_oja", "baseline_fwmemory",
    "baseline_sgd_shallow", "baseline_sgd_deep_adam",
]  # fmt: skip


@pytest.mark.golden
@pytest.mark.parametrize(("name", "file"), golden_files("vsml", FAMILIES))
def test_agrees_with_the_official_code(name: str, file: Path) -> None:
    arrays = dict(np.load(file, allow_pickle=False))
    CHECKS.get(name, lambda a: episode(a, EPISODES[name]))(arrays)


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


def near(ours: object, theirs: object, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=tolerance)


# --- families ------------------------------------------------------------------------------------------------


def lstm_cell(a: Arrays) -> None:
    units = a["h"].shape[-1]
    cell = {"w": jnp.asarray(a["param:custom_lstm.linear:w"]), "b": jnp.asarray(a["param:custom_lstm.linear:b"])}
    message = a["x"].shape[-1] // 2
    maps = [jnp.zeros((units, message)), jnp.zeros(message)]
    matrix = gate_matrix(SubRNN(*cell.values(), *maps, *maps), GateOffsets(), message, message)
    columns = np.concatenate([a["h"], a["x"], np.ones((len(a["x"]), 1), np.float32)], -1)
    h, c = lstm(matrix, jnp.asarray(columns.T), jnp.asarray(a["c"].T))
    for name, ours in (("out", h), ("h_new", h), ("c_new", c)):
        near(ours.T, a[name], 1e-6)


def layer(a: Arrays, ours: Dense | Conv, compare_backward: bool = True) -> None:
    state, forward, backward = ours.tick(
        sub_rnn(a), GateOffsets(), State(grid(a["h"]), grid(a["c"])), nodes(a["fwd_msg"]), nodes(a["bwd_msg"]), 1
    )
    near(state.h, grid(a["h_new"]), 1e-5)
    near(state.c, grid(a["c_new"]), 1e-5)
    near(forward, nodes(a["fwd_out"]), 1e-5)
    if compare_backward:
        near(backward, nodes(a["bwd_out"]), 1e-5)


def conv(stride: int) -> Callable[[Arrays], None]:
    """The official code loses backward messages where the stride is 2."""
    return lambda a: layer(
        a, Conv(a["fwd_msg"].shape[0], a["h"].shape[2], a["h"].shape[3], stride), compare_backward=stride == 1
    )


def cells_of(a: Arrays, batch: int) -> tuple[jax.Array, ...]:
    found = []
    while f"init_cell_{len(found)}" in a:
        found.append(jnp.repeat(grid(a[f"init_cell_{len(found)}"]), batch, 1))
    return tuple(found)


def network_of(cells: tuple[jax.Array, ...], **options: object) -> Network:
    return dense(*(cell.shape[-1] for cell in cells), cells[-1].shape[-2], **options)


def episode(a: Arrays, options: dict) -> None:
    cells = cells_of(a, a["inputs"].shape[1])
    network = network_of(cells, **options)

    def loss(params: SubRNN) -> tuple[jax.Array, jax.Array]:
        logits = learn_online(params, network, cells, jnp.asarray(a["inputs"]), jnp.asarray(a["labels_onehot"]))
        return meta_loss(logits, a["labels_onehot"].argmax(-1)), logits

    (value, logits), slope = jax.value_and_grad(loss, has_aux=True)(sub_rnn(a))
    near(logits, a["logits"], 1e-5)
    near(value, a["meta_loss"], 1e-5)
    theirs = sub_rnn(a, "grad:")
    assert jax.tree.structure(slope) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(slope), jax.tree.leaves(theirs), strict=True):
        near(one, other, 1e-4 * float(jnp.abs(other).max()) + 1e-7)  # the sum of all errors is zero but for rounding


def es_single_pair(a: Arrays) -> None:
    cells = cells_of(a, 1)
    network = network_of(cells)
    sigma = float(a["noise_std"])
    centre, noise = sub_rnn(a), sub_rnn(a, "noise:")

    def loss(params: SubRNN) -> jax.Array:
        logits = learn_online(params, network, cells, jnp.asarray(a["inputs"]), jnp.asarray(a["labels_onehot"]))
        return meta_loss(logits, a["labels_onehot"].argmax(-1))

    pair = [jax.tree.map(lambda c, n, sign=sign: c + sign * sigma * n, centre, noise) for sign in (1, -1)]
    losses = jnp.stack([loss(params) for params in pair])
    near(losses, np.stack([a["loss_pos"], a["loss_neg"]]), 1e-5)
    near(losses.mean(), a["mean_loss"], 1e-5)

    class Given(OpenES):
        """The strategy with the noise of the file."""

        def noise(self, state: object) -> SubRNN:
            return jax.tree.map(lambda n: n[None], noise)

    strategy, settings = Given(2, shape=raw), Params(sigma=sigma, lr=1.0)
    # the losses of the file, for their small difference has lost digits in single precision
    theirs = -jnp.asarray(np.stack([a["loss_pos"], a["loss_neg"]]))
    moved = strategy.tell(strategy.init(jax.random.key(0), centre, settings), theirs, settings).centre
    for before, after, slope in zip(
        jax.tree.leaves(centre), jax.tree.leaves(moved), jax.tree.leaves(sub_rnn(a, "esgrad:")), strict=True
    ):
        near(before - after, slope, 1e-4 * float(jnp.abs(slope).max()) + 2e-7)


def online(a: Arrays, ours: jax.Array) -> None:
    near(ours, a["logits"], 1e-5)


def descent(optimiser: optax.GradientTransformation) -> Callable[[Arrays], None]:
    def check(a: Arrays) -> None:
        layers = tuple(linear(a, key[:-2]) for key in a if key.startswith("init_param:") and key.endswith(":w"))
        online(a, online_descent(layers, optimiser, a["inputs"][:, 0], a["labels_onehot"][:, 0])[:, None])

    return check


def hebbian_layer(rule: str) -> Callable[[Arrays], None]:
    def check(a: Arrays) -> None:
        names = [f"param:hebbian_fw.hebbian_linear:{name}" for name in ("w", "b", "coeff", "fw_lr")]
        params = Hebbian(*(jnp.asarray(a[name]) for name in names))
        online(a, hebbian(params, a["inputs"], a["labels_onehot"], rule))

    return check


def metarnn(a: Arrays) -> None:
    params = MetaRNN(linear(a, "param:meta_rnn.lstm.linear"), linear(a, "param:meta_rnn.linear"))
    online(a, meta_rnn(params, a["inputs"], a["labels_onehot"]))


def fwmemory(a: Arrays) -> None:
    names = ("lstm.linear", "linear_1", "linear_2", "linear_3", "linear")
    params = FastWeightMemory(*(linear(a, f"param:fw_memory.{name}") for name in names))
    online(a, fast_weight_memory(params, a["inputs"], a["labels_onehot"]))


def dense_layer(a: Arrays) -> None:
    layer(a, Dense(*a["h"].shape[:2]))


CHECKS: dict[str, Callable[[Arrays], None]] = {
    "lstm_cell": lstm_cell,
    "dense_layer": dense_layer,
    "dense_layer_ln": dense_layer,
    "conv_layer_stride1": conv(1),
    "conv_layer_stride2": conv(2),
    "es_single_pair": es_single_pair,
    "baseline_metarnn": metarnn,
    "baseline_hebbian_hebb": hebbian_layer("hebb"),
    "baseline_hebbian_oja": hebbian_layer("oja"),
    "baseline_fwmemory": fwmemory,
    "baseline_sgd_shallow": descent(optax.sgd(0.01)),
    "baseline_sgd_deep_adam": descent(optax.adam(1e-3)),
}
