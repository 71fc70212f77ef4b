"""Our functions against arrays of the official code, ``$REFIGURE_GOLDEN/anml/<family>*.npz``.

Widths, classes, steps, rates and image sizes are read off the arrays, so that any file of a family will do.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import Arrays, Golden, agree

from papers.anml import omniglot
from papers.anml.continual import Course, _advance, learn
from papers.anml.fast_meta_learning import fast_meta_gradient
from papers.anml.meta_learning import Dense, Learner, Scheme, cross_entropy, gates, inner_loop, meta_gradient, scores
from papers.anml.meta_test import _head_scores
from papers.anml.networks import ANML, OML, Conv

golden, slow_golden = Golden("anml"), Golden("anml")


# --- parameters of the official code, into ours --------------------------------------------------------------


def channel_last(size: int, channels: int) -> np.ndarray:
    """Where our flattened unit, its channel the fastest index, stands in theirs, its channel the slowest."""
    return np.arange(size).reshape(channels, -1).T.reshape(-1)


def convs(a: Arrays, prefix: str) -> tuple[Conv, ...]:
    """All convolutions under a prefix with their norms, [out, in, 3, 3] to [3, 3, in, out]."""
    layers = []
    while f"{prefix}.conv{len(layers) + 1}.w" in a:
        number = len(layers) + 1
        norm = [a.get(f"{prefix}.norm{number}.{part}") for part in ("scale", "shift")]
        w = a[f"{prefix}.conv{number}.w"].transpose(2, 3, 1, 0)
        layers.append(
            Conv(
                *(None if value is None else jnp.asarray(value) for value in (w, a[f"{prefix}.conv{number}.b"], *norm))
            )
        )
    return tuple(layers)


def dense(a: Arrays, name: str, rows: int = 0, columns: int = 0) -> Dense:
    """A dense layer; `rows` and `columns`: the channels of a representation that it gives or takes."""
    w, b = a[f"{name}.w"], a[f"{name}.b"]
    if columns:
        w = w[:, channel_last(w.shape[1], columns)]
    if rows:
        order = channel_last(len(w), rows)
        w, b = w[order], b[order]
    return Dense(jnp.asarray(w), jnp.asarray(b))


def learner(a: Arrays, prefix: str, channels: int) -> Learner:
    """The learner whose arrays' names begin so; what the file leaves out (of fast parameters) is None or empty."""
    a = {name.removeprefix(prefix): array for name, array in a.items() if name.startswith(prefix)}
    if "pln.fc1.w" in a:  # OML
        return Learner(convs(a, "rln"), (dense(a, "pln.fc1", columns=channels), dense(a, "pln.fc2")))
    ours = Learner(convs(a, "pln"), (dense(a, "pln.fc", columns=channels),))
    if "nm.fc.w" not in a:
        return ours
    nm = convs(a, "nm")
    return ours._replace(nm_trunk=nm, nm_out=dense(a, "nm.fc", rows=channels, columns=nm[-1].w.shape[-1]))


def images(x: np.ndarray) -> jax.Array:
    """[N, C, H, W] to ours, in double precision."""
    return jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float64)


# --- one check per family ------------------------------------------------------------------------------------


def initial(a: Arrays, scheme: Scheme) -> tuple[Learner, Scheme, int]:
    """The learner before the inner loop, how it learns, and the channels of its representation."""
    channels = len(a["param__pln.conv1.w" if scheme.plastic == "all" else "param__rln.conv1.w"])
    return learner(a, "param__", channels), scheme._replace(rate=float(a["inner_lr"])), channels


def agree_inner(a: Arrays, scheme: Scheme) -> None:
    """The forward pass and the inner loop."""
    start, scheme, channels = initial(a, scheme)
    x, labels, seen = images(a["x_meta"]), jnp.asarray(a["y_meta"]), images(a["x_traj"])
    [label] = set(a["y_traj"].tolist())

    @jax.jit
    def forward_and_fast(start: Learner) -> tuple:
        fast = inner_loop(start, scheme, seen, jnp.asarray(label))
        plastic = fast if scheme.plastic == "all" else fast._replace(trunk=())
        return gates(start, scheme, x), scores(start, scheme, x), plastic._replace(nm_trunk=None, nm_out=None)

    g, class_scores, fast = forward_and_fast(start)
    if g is not None:
        agree(g, a["gate"][:, channel_last(g.shape[1], channels)])
    agree(class_scores, a["logits"])
    agree(cross_entropy(class_scores, labels).mean(), a["loss"])
    agree(fast, learner(a, "fast__", channels))


def agree_meta(a: Arrays, scheme: Scheme, *functions: Callable) -> None:
    """The meta-loss, the meta-gradients of both orders by each function, and a step of Adam."""
    start, scheme, channels = initial(a, scheme)
    x, labels, steps = images(a["x_meta"]), jnp.asarray(a["y_meta"]), len(a["x_traj"])
    np.testing.assert_array_equal(a["x_meta"][-steps:], a["x_traj"])

    @jax.jit
    def both_orders(start: Learner) -> list:
        orders = (scheme._replace(gradient=order) for order in ("first", "second"))
        return [[function(start, order, x, labels, steps) for function in functions] for order in orders]

    for order, by_function in zip(("first", "second"), both_orders(start), strict=True):
        for gradient, metrics in by_function:
            agree(metrics["loss"], a["meta_loss"])
            agree(gradient, learner(a, f"meta_grad_{order}__", channels))

    adam, after = optax.adam(float(a["outer_lr"])), learner(a, "adam1__", channels)
    golden = learner(a, "meta_grad_second__", channels)
    step = jax.jit(lambda g: optax.apply_updates(start, adam.update(g, adam.init(start))[0]))
    ours, theirs = (step(g) for g in (gradient, golden))
    agree(theirs, after)
    agree(without_noise(ours), without_noise(after))


def without_noise(learner: Learner) -> Learner:
    """Less the biases before a norm: their gradient is zero, and Adam divides the rounding of it by 1e-8."""

    def strip(convs: tuple[Conv, ...] | None) -> tuple[Conv, ...] | None:
        return convs and tuple(conv if conv.scale is None else conv._replace(b=None) for conv in convs)

    return learner._replace(trunk=strip(learner.trunk), nm_trunk=strip(learner.nm_trunk))


@golden.family
def anml_small(a: Arrays) -> None:
    agree_inner(a, Scheme(ANML, "all"))


@slow_golden.families("anml_small")
def anml_small_meta_gradient(a: Arrays) -> None:
    agree_meta(a, Scheme(ANML, "all"), meta_gradient, fast_meta_gradient)


@golden.family
def oml_small(a: Arrays) -> None:
    agree_inner(a, Scheme(OML, "head"))
    agree_meta(a, Scheme(OML, "head"), fast_meta_gradient)


@slow_golden.families("oml_small")
def oml_small_meta_gradient(a: Arrays) -> None:
    agree_meta(a, Scheme(OML, "head"), meta_gradient)


@golden.family
def meta_test_head(a: Arrays) -> None:
    """Every step's loss, the layer after all of them, and the accuracy that `learn` measures."""
    n, rate = len(a["labels"]), float(a["lr"])
    inputs, labels = jnp.asarray(a["features"]), jnp.asarray(a["labels"])
    start = (Dense(jnp.asarray(a["w0"]), jnp.asarray(a["b0"])),)
    course = Course(_head_scores, start, inputs, labels, optax.adam)
    order = np.arange(n)[None]

    def fresh() -> tuple:
        return jax.tree.map(lambda array: jnp.array(array)[None], (start, optax.adam(rate).init(start)))

    state, losses = fresh(), []
    for step in range(n):
        head = jax.tree.map(lambda array: array[0], state[0])
        losses.append(cross_entropy(course.scores(head, inputs[step])[None], labels[step][None])[0])
        state = _advance((course, jnp.array([rate])), state, jnp.asarray(order[:, step : step + 1]))
    agree(jnp.stack(losses), a["losses"])
    at_once = _advance((course, jnp.array([rate])), fresh(), jnp.asarray(order))
    for head, _ in (state, at_once):
        agree((head[0].w[0], head[0].b[0]), (a["w"], a["b"]))
    assert learn(course, order, np.array([rate]), order, [n]).mean() == pytest.approx(float(a["train_accuracy"]))


@golden.family
def preprocess(a: Arrays) -> None:
    """Within a grey level, and exact in the grey levels that the official code got."""
    side = a["raw105"].shape[1]
    ink = 1 - np.unpackbits(a["raw105"], axis=-1, count=side)
    small = omniglot.resize(ink, a["resized28"].shape[-1])
    assert small.shape == a["resized28"].shape
    assert np.abs(small.astype(int) - a["resized28"]).max() <= 1
    agree(omniglot.scale(a["resized28"], "published"), a["normalised"], 1e-7)
    level = np.ptp(omniglot.scale(np.array([0, 1], np.uint8), "published"))
    agree(omniglot.scale(small, "published"), a["normalised"], level + 1e-7)


@pytest.mark.usefixtures("x64")
@golden.files
def test_agrees_with_the_official_code(name: str, file: Path) -> None:
    golden.check(name, file)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@slow_golden.files
def test_agrees_with_the_official_code_at_length(name: str, file: Path) -> None:
    slow_golden.check(name, file)
