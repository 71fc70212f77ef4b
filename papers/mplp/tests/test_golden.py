"""Our functions against arrays of the official code, ``$REFIGURE_GOLDEN/mplp/<family>*.npz``.

Sizes, steps and kinds of agents are read off the arrays, so that any file of a family will do.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Arrays, Golden, agree

from common import data
from papers.mplp import released
from papers.mplp.agents import Standardiser, fit_standardiser, gru
from papers.mplp.lifetime import collect_statistics, live, mean_loss, meta_loss
from papers.mplp.network import Layer, Spec, elementwise_loss, predict
from papers.mplp.protocol import Protocol, State, Statistics, init_state, inner_update
from papers.mplp.tasks import resize

golden, slow_golden = Golden("mplp"), Golden("mplp")


def near(values: Any, golden: np.ndarray, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(np.asarray(values), golden, rtol=tolerance, atol=tolerance)


def features_first(array: np.ndarray) -> jax.Array:
    return jnp.moveaxis(jnp.asarray(array), -1, 0)


@golden.family
def gru_cell(a: Arrays) -> None:
    neutral = Standardiser(jnp.ones(1), jnp.zeros(1))
    after = gru(released.gru_of(a, ""), neutral, [features_first(a["x"])], features_first(a["carry"]))
    near(after, features_first(a["out"]))


@golden.family
def standardizer(a: Arrays) -> None:
    blocks = [features_first(a["message"]), *(jnp.asarray(a[name])[None] for name in "az")]
    measured = fit_standardiser(blocks)
    near(measured.shift, a["shift"])
    near(measured.norm, a["norm"])
    standardised = [norm * (block + shift) for block, norm, shift in zip(blocks, *measured, strict=True)]
    near(standardised[0], features_first(a["message_out"]), 1e-5)
    near(standardised[1][0], a["a_out"], 1e-5)
    near(0.5 * measured.norm + 0.5, a["ema_norm"])
    near(0.5 * measured.shift, a["ema_shift"])


@golden.family
def resize_28_to_12(a: Arrays) -> None:
    near(resize(a["image_u8"].astype(np.float32) / 255, 12), a["resized"])


def case(a: Arrays) -> tuple[Spec, Protocol, Statistics]:
    """What a network case is made of."""
    depth = sum(name.startswith("state0_L") and name.endswith("_W") for name in a)
    kernels = [a[f"state0_L{2 * layer}_W"] for layer in range(depth)]
    shared, classes = "shared_W_Wux" in a, f"L{2 * depth}_norm" in a
    first = a["L1_norm"].size
    message = a["L1_msg_w2" if "L1_msg_w2" in a else "L1_Wux"].shape[-1 if "L1_msg_w2" in a else 0]
    message -= 0 if "L1_msg_w2" in a else first - 1
    hidden = a["L1_Wux"].shape[1] - message if "L1_Wux" in a else 0
    spec = Spec(
        (kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels)),
        "sigmoid" if classes else "relu", "ce" if classes else "l2", message, hidden, shared,
    )  # fmt: skip
    return (spec, *released.protocol_of(a, spec))


def same_state(spec: Spec, state: State, a: Arrays, prefix: str, tolerance: float) -> None:
    for index, layer in enumerate(state.layers):
        name = f"{prefix}L{2 * index}_"
        near(layer.w[0], a[f"{name}W"], tolerance)
        near(layer.b[0], a[f"{name}b"], tolerance)
        if state.carries is None:
            continue
        carries = state.carries[index]
        near(carries.w[:, 0], features_first(a[f"{name}carryW"]), tolerance)
        near(carries.b[:, 0], features_first(a[f"{name}carryb"]), tolerance)
        if carries.operation is not None:
            near(carries.operation[:, 0], features_first(a[f"{prefix}L{2 * index + 1}_carry"]), tolerance)
    if state.loss is not None:
        position = 2 * spec.depth - (spec.loss == "l2")
        near(state.loss[:, 0], features_first(a[f"{prefix}L{position}_carry"]), tolerance)


@golden.families("stateless_l2", "shared_ce")
def network_case(a: Arrays) -> None:
    spec, protocol, statistics = case(a)
    start = released.network_of(a, spec, "state0_")
    x, y = (jnp.asarray(a[name])[:, None] for name in "xy")
    state = init_state(spec, start, x.shape[2])

    @jax.jit
    def learn(state: State, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, State]:
        prediction = predict(spec, state.layers, x)
        after, _ = inner_update(protocol, statistics, spec, state, x, y)
        return prediction, elementwise_loss(spec, prediction, y), after

    for step in range(len(x)):
        prediction, loss, state = learn(state, x[step], y[step])
        near(prediction[0], a[f"pred{step}"], 1e-5)
        near(loss[0], a[f"loss_elem{step}"], 1e-5)
        same_state(spec, state, a, f"state{step + 1}_", 1e-5)

    lifetimes = jax.tree.map(lambda array: array[None], (start, x, y))
    collected = jax.jit(collect_statistics, static_argnums=1)(protocol, spec, *lifetimes, 1.0)
    for value, official in zip(jax.tree.leaves(collected), jax.tree.leaves(statistics), strict=True):
        near(value, official, 1e-5)


@slow_golden.families("stateful_l2", "stateless_l2", "shared_ce")
def network_and_meta_gradient(a: Arrays) -> None:
    network_case(a)
    spec, protocol, statistics = case(a)
    start = released.network_of(a, spec, "state0_")
    x, y = (jnp.asarray(a[name])[:, None] for name in "xy")
    held_out = tuple(jnp.asarray(a[f"{name}_heldout"])[None] for name in "xy")
    hint = 0.7 if spec.hidden else 0.0

    def objective(protocol: Protocol, layers: tuple[Layer, ...]) -> jax.Array:
        return meta_loss(spec, live(protocol, statistics, spec, layers, x, y), (x, y), held_out, hint)

    value, (slope, slope_start) = jax.jit(jax.value_and_grad(objective, (0, 1)))(protocol, start)
    near(value, a["meta_loss"], 1e-6)
    theirs = {name: np.full(array.shape, np.nan) for name, array in a.items()}
    theirs |= {name.removeprefix("grad_"): array for name, array in a.items() if name.startswith("grad_")}
    expected, compared = released.protocol_of(theirs, spec)[0], 0
    for gradient, official in zip(jax.tree.leaves(slope), jax.tree.leaves(expected), strict=True):
        if not np.isnan(official).any():  # the official code has no gradient of the stateless agents' messages
            compared += gradient.size
            agree(gradient, official, 1e-4 * max(float(jnp.abs(official).max()), 1e-6))
    assert compared == int(a["trainable_n"]) if "trainable_n" in a else compared > 1000
    agree(slope_start[0].w[0], a["grad_state0_L0_W"], 1e-4 * np.abs(a["grad_state0_L0_W"]).max())


def released_case(kind: str, a: Arrays, x: jax.Array, y: jax.Array, unseen: jax.Array) -> tuple[Any, Any]:
    """Predictions after each step, and the last networks, under released parameters."""
    arrays, spec = data.load("mplp-released", kind).arrays, released.spec_of(released.TRAINED[kind])
    if kind == "maml":
        start = jax.tree.map(lambda array: array.repeat(x.shape[1], 0), released.network_of(arrays, spec))
    elif kind == "mnist":
        kernels = [jnp.asarray(a[f"init_L{position}_W"])[None] for position in (0, 2)]
        start = tuple(Layer(kernel, jnp.zeros(kernel.shape[::2])) for kernel in kernels)
    else:
        start = released.network_of(a, spec, "init_")
    protocol, statistics = released.protocol_of(arrays, spec)

    @jax.jit
    def learn() -> tuple[Any, Any]:
        networks = live(protocol, statistics, spec, start, x, y)
        return jax.vmap(lambda layers: predict(spec, layers, unseen))(networks), networks

    return learn()


def sinusoids(kind: str, a: Arrays) -> None:
    x, y = (jnp.asarray(a[name]).swapaxes(0, 1) for name in "xy")
    grid = jnp.broadcast_to(jnp.asarray(a["x_grid"]), (x.shape[1], *a["x_grid"].shape))
    predictions, networks = released_case(kind, a, x, y, grid)
    near(predictions[..., 0].swapaxes(0, 1), a["pred_grid"][:, 1:], 1e-5)
    spec = released.spec_of(released.TRAINED[kind])
    target = a["A"][:, None, None] * np.sin(np.asarray(grid) + a["phase"][:, None, None])
    loss = jax.vmap(lambda layers: mean_loss(spec, layers, grid, jnp.asarray(target, jnp.float32)))
    losses = jax.jit(loss)(networks)
    near(losses.T, a["eval_loss"][:, 1:], 1e-5)


@golden.family
def traj_sinusoid_5x10(a: Arrays) -> None:
    sinusoids("sinusoid", a)


@golden.family
def traj_maml_2x10(a: Arrays) -> None:
    sinusoids("maml", a)


@slow_golden.family
def traj_mnist_sigmoid(a: Arrays) -> None:
    x, y = (jnp.asarray(a[name])[:, None] for name in "xy")
    predictions, networks = released_case("mnist", a, x, y, jnp.asarray(a["x_test"])[None])
    near(predictions[:, 0], a["pred_test"][1:], 1e-5)
    near(networks[1].w[-1, 0], a["final_L2_W"], 1e-5)
    near(networks[0].b[-1, 0], a["final_L0_b"], 1e-5)


@golden.files
def test_agrees_with_the_official_code(name: str, file: Path) -> None:
    golden.check(name, file)


@pytest.mark.slow
@slow_golden.files
def test_agrees_with_the_official_code_at_length(name: str, file: Path) -> None:
    slow_golden.check(name, file)
