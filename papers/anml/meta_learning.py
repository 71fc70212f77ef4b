"""Algorithm 1: learn one class by steps of gradient descent; differentiate the loss on all classes through the steps.

This is the method as the paper has it. Before a class is learned its row of the output layer is drawn anew
(`reset_row`), in the meta-parameters themselves as the official code does. Runs use `fast_meta_learning`, which gives
the same gradients sooner.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from papers.anml.networks import Block, Conv, Dense, gate, trunk

__all__ = [
    "Dense", "Learner", "Scheme", "cross_entropy", "dense", "gates", "inner_loop", "logits", "meta_gradient",
    "meta_loss", "metrics", "modulated", "representation", "reset_row", "scores",
]  # fmt: skip


class Scheme(NamedTuple):
    """The static settings of the method."""

    blocks: tuple[Block, ...]
    """Blocks of the trunk, and of the neuromodulatory trunk."""
    plastic: Literal["all", "head"] = "all"
    """What the inner loop changes: trunk and dense layers (ANML), or dense layers alone (OML); never
    the neuromodulatory network."""
    gradient: Literal["second", "first"] = "second"
    """Whether the meta-gradient goes through the inner steps (`second`) or treats them as constant (`first`)."""
    rate: float = 0.1
    """Learning rate of the inner steps, beta."""


class Learner(NamedTuple):
    """All meta-learned parameters, theta."""

    trunk: tuple[Conv, ...]
    """Trunk of the prediction network (ANML's PLN, OML's RLN)."""
    head: tuple[Dense, ...]
    """Dense layers of the prediction network, ReLU between them; the last gives the logits."""
    nm_trunk: tuple[Conv, ...] | None = None
    """Trunk of the neuromodulatory network; None without one."""
    nm_out: Dense | None = None
    """Dense layer of the neuromodulatory network; the sigmoid of its output is the gate."""


def gates(learner: Learner, scheme: Scheme, x: Float[Array, "N H W c"]) -> Float[Array, "N d"] | None:
    """The gate g(x), or None without a neuromodulatory network."""
    if learner.nm_trunk is None or learner.nm_out is None:
        return None
    return gate(learner.nm_trunk, learner.nm_out, scheme.blocks, x)


def modulated(h: Float[Array, "N d"], g: Float[Array, "N d"] | None) -> Float[Array, "N d"]:
    """The gated representation g(x) h(x), elementwise."""
    return h if g is None else g * h


def representation(learner: Learner, scheme: Scheme, x: Float[Array, "N H W c"]) -> Float[Array, "N d"]:
    """The gated representation of images."""
    return modulated(trunk(learner.trunk, scheme.blocks, x), gates(learner, scheme, x))


def dense(layer: Dense, h: Float[Array, "N in"]) -> Float[Array, "N out"]:
    """The output of a dense layer."""
    return h @ layer.w.T + layer.b


def logits(
    head: Sequence[Any], h: Float[Array, "N d"], output: Callable[[Any, Array], Array] = dense
) -> Float[Array, "N K"]:
    """Class scores of gated representations, by layers whose `output(layer, h)` is given; ReLU between them."""
    for index, layer in enumerate(head):
        h = output(layer, jax.nn.relu(h) if index else h)
    return h


def scores(learner: Learner, scheme: Scheme, x: Float[Array, "N H W c"]) -> Float[Array, "N K"]:
    """Class scores of images."""
    return logits(learner.head, representation(learner, scheme, x))


def cross_entropy(scores: Float[Array, "N K"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """Cross-entropy of each image, in nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)[:, 0]


def inner_loop(learner: Learner, scheme: Scheme, x: Float[Array, "k H W c"], label: Int[Array, ""]) -> Learner:
    """The learner after one step of gradient descent on each of k images of one class, in their order.

    The neuromodulatory network does not change, and where only the head is plastic (OML) neither does the trunk.
    """
    names = ("trunk", "head") if scheme.plastic == "all" else ("head",)

    def loss(plastic: dict[str, tuple], image: Array) -> Array:
        return cross_entropy(scores(learner._replace(**plastic), scheme, image[None]), label[None])[0]

    def step(plastic: dict[str, tuple], image: Array) -> tuple[dict[str, tuple], None]:
        gradient = jax.grad(loss)(plastic, image)
        if scheme.gradient == "first":
            gradient = jax.lax.stop_gradient(gradient)
        return jax.tree.map(lambda theta, slope: theta - scheme.rate * slope, plastic, gradient), None

    plastic, _ = jax.lax.scan(step, {name: getattr(learner, name) for name in names}, x)
    return learner._replace(**plastic)


def meta_loss(
    learner: Learner, scheme: Scheme, x: Float[Array, "R+k H W c"], labels: Int[Array, " R+k"], steps: int
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean cross-entropy over a meta-batch after its last `steps` images were learned, and `metrics`.

    The last images are the trajectory, all of one class; the other R, drawn from all classes, are the remember set and
    may hold the class just learned, too.
    """
    learned = inner_loop(learner, scheme, x[-steps:], labels[-1])
    class_scores = scores(learned, scheme, x)
    losses = cross_entropy(class_scores, labels)
    return losses.mean(), metrics(losses, (class_scores.argmax(1) == labels).astype(losses.dtype), steps)


def meta_gradient(
    learner: Learner, scheme: Scheme, x: Float[Array, "R+k H W c"], labels: Int[Array, " R+k"], steps: int
) -> tuple[Learner, dict[str, Float[Array, ""]]]:
    """Gradient of `meta_loss` in all initial parameters, and metrics.

    It is exact, or first-order (`Scheme.gradient`), with the gradients of the inner steps held constant.
    """
    return jax.grad(meta_loss, has_aux=True)(learner, scheme, x, labels, steps)


def metrics(losses: Float[Array, " R+k"], correct: Float[Array, " R+k"], steps: int) -> dict[str, Float[Array, ""]]:
    """The mean loss; loss and accuracy on the trajectory (`learned_`) and the remember set (`remember_`)."""
    return {
        "loss": losses.mean(),
        "remember_loss": losses[:-steps].mean(),
        "remember_accuracy": correct[:-steps].mean(),
        "learned_loss": losses[-steps:].mean(),
        "learned_accuracy": correct[-steps:].mean(),
    }


def reset_row(head: tuple[Dense, ...], key: Array, row: Int[Array, ""]) -> tuple[Dense, ...]:
    """The head with the weights of one class drawn anew (Kaiming, fan-in); its bias stays (official code)."""
    *hidden, last = head
    fan_in = last.w.shape[1]
    weights = jax.random.normal(key, (fan_in,), last.w.dtype) * (2 / fan_in) ** 0.5
    return (*hidden, last._replace(w=last.w.at[row].set(weights)))
