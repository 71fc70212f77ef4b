"""The meta-objective: the loss on all classes after twenty steps of gradient descent on one class (algorithm 1).

The gradient of a dense layer for one image is an outer product, so after k steps the layer is its initial value plus
k such products. They are kept as pairs (`Trace`) and never multiplied out: the same numbers, without moving a matrix
of a thousand classes through memory at every step.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from papers.anml.networks import Block, Conv, Dense, gate, trunk

__all__ = [
    "Dense", "Fast", "Learner", "Scheme", "Trace", "adapt", "cross_entropy", "fast_layer", "gates", "logits",
    "mean_gradient", "meta_gradient", "modulated", "reset_row",
]  # fmt: skip

Tree = TypeVar("Tree")


class Scheme(NamedTuple):
    """The settings of a learner that are not arrays."""

    blocks: tuple[Block, ...]
    """Blocks of the trunk, and of the neuromodulatory trunk."""
    plastic: Literal["all", "head"] = "all"
    """What the inner loop changes: trunk and dense layers (ANML), or dense layers alone (OML)."""
    gradient: Literal["second", "first"] = "second"
    """Whether the meta-gradient goes through the inner steps (`second`) or treats them as constant (`first`)."""
    rate: float = 0.1
    """Learning rate of the inner steps."""

    def at_once(self, count: int) -> int:
        """How many of `count` images to differentiate at once: on a CPU so few that their maps stay in its cache."""
        if jax.default_backend() != "cpu":
            return count
        most = 12 if self.blocks[0].pool else 2
        return max(size for size in range(1, most + 1) if count % size == 0)


class Learner(NamedTuple):
    """All meta-learned parameters."""

    trunk: tuple[Conv, ...]
    """Trunk of the prediction network (ANML's PLN, OML's RLN)."""
    head: tuple[Dense, ...]
    """Dense layers of the prediction network, ReLU between them; the last gives the logits."""
    nm_trunk: tuple[Conv, ...] | None = None
    """Trunk of the neuromodulatory network; None without one."""
    nm_out: Dense | None = None
    """Dense layer of the neuromodulatory network; the sigmoid of its output is the gate."""


class Trace(NamedTuple):
    """The steps that a dense layer took; its weights are w - rate errors^T inputs, its biases b - rate sum(errors)."""

    errors: Float[Array, "k out"]
    """The loss's gradient in the layer's output, one row a step; zero for steps to come."""
    inputs: Float[Array, "k in"]
    """The layer's inputs."""


class Probe(NamedTuple):
    """Zeros that are added where the initial weights of a dense layer act in the inner loop.

    The meta-gradient in those weights is a sum of outer products with the gradients in these zeros. Computed so, the
    reverse pass need not add to a matrix of a thousand classes at every step.
    """

    forward: Float[Array, "k out"]
    """Added to the layer's output."""
    backward: Float[Array, "k in"]
    """Added to the gradient in the layer's input."""


Fast = tuple[tuple[Conv, ...] | None, tuple[Trace, ...]]
"""The result of the inner loop: the trunk (None if it did not change) and the steps of every dense layer."""


def gates(learner: Learner, scheme: Scheme, x: Float[Array, "N H W c"]) -> Float[Array, "N d"] | None:
    """The gate g(x), or None without a neuromodulatory network."""
    if learner.nm_trunk is None or learner.nm_out is None:
        return None
    return gate(learner.nm_trunk, learner.nm_out, scheme.blocks, x)


def modulated(h: Float[Array, "N d"], g: Float[Array, "N d"] | None) -> Float[Array, "N d"]:
    """The gated representation g(x) h(x)."""
    return h if g is None else g * h


def logits(
    head: tuple[Dense, ...], traces: tuple[Trace, ...] | None, h: Float[Array, "N d"], rate: float
) -> Float[Array, "N K"]:
    """Class scores of gated representations, after the steps that the layers took since `head`."""
    for index, layer in enumerate(head):
        h = jax.nn.relu(h) if index else h
        out = h @ layer.w.T + layer.b
        h = out if traces is None else out + _stepped(traces[index], h, rate)
    return h


def _stepped(trace: Trace, h: Float[Array, "N in"], rate: float) -> Float[Array, "N out"]:
    """The change of a layer's output that its steps cause."""
    return -rate * ((h @ trace.inputs.T + 1) @ trace.errors)


@jax.custom_vjp
def _probed(w: Float[Array, "out in"], h: Float[Array, "1 in"], backward: Float[Array, " in"]) -> Float[Array, "1 out"]:
    """The product w h; in the reverse pass `backward`, a zero, is added to the gradient in h."""
    return h @ w.T


def _probed_forward(w: Array, h: Array, backward: Array) -> tuple[Array, tuple[Array, Array]]:
    return h @ w.T, (w, backward)


def _probed_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    w, backward = saved
    return jnp.zeros_like(w), gradient @ w + backward, jnp.zeros_like(backward)


_probed.defvjp(_probed_forward, _probed_backward)


def fast_layer(layer: Dense, trace: Trace, rate: float) -> Dense:
    """The layer after its steps, as full arrays of weights and biases."""
    return Dense(layer.w - rate * trace.errors.T @ trace.inputs, layer.b - rate * trace.errors.sum(0))


def cross_entropy(scores: Float[Array, "N K"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """Cross-entropy of each image, in nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)[:, 0]


def probes(head: tuple[Dense, ...], steps: int) -> tuple[Probe, ...]:
    """Zeros for every dense layer and inner step."""
    sizes = [(layer.w.shape, layer.w.dtype) for layer in head]
    return tuple(Probe(jnp.zeros((steps, out), dtype), jnp.zeros((steps, size), dtype)) for (out, size), dtype in sizes)


def adapt(
    learner: Learner,
    scheme: Scheme,
    source: Float[Array, "k H W c"] | Float[Array, "k d"],
    g: Float[Array, "k d"] | None,
    label: Int[Array, ""],
    zeros: tuple[Probe, ...],
) -> Fast:
    """The inner loop: one step of plain gradient descent for each of k images of one class.

    Differentiable in everything but `learner.head`, whose gradient comes from the probes (`head_gradient`).

    Arguments:
        source: The images; where only the head is plastic, their representations.
        g: Gates of the images. The neuromodulatory network is fixed, so they are computed once.
        zeros: The probes.

    Returns:
        The trunk after the steps (None where only the head is plastic), and the steps of the dense layers.
    """
    head = jax.lax.stop_gradient(learner.head)

    def loss(
        convs: tuple[Conv, ...] | None, offsets: tuple[Array, ...], x: Array, g: Array | None,
        traces: tuple[Trace, ...], zeros: tuple[Probe, ...],
    ) -> tuple[Array, tuple[Array, ...]]:  # fmt: skip
        h = modulated(x if convs is None else trunk(convs, scheme.blocks, x), g)
        inputs = []
        for index, (layer, trace, zero, offset) in enumerate(zip(head, traces, zeros, offsets, strict=True)):
            h = jax.nn.relu(h) if index else h
            inputs.append(h[0])
            h = _probed(layer.w, h, zero.backward) + layer.b + _stepped(trace, h, scheme.rate) + offset
        return cross_entropy(h, label[None])[0], tuple(inputs)

    def step(carry: Fast, example: tuple[Array, Array, Array | None, tuple[Probe, ...]]) -> tuple[Fast, None]:
        (convs, traces), (i, x, g, zeros) = carry, example
        (gradients, errors), inputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(
            convs, tuple(zero.forward for zero in zeros), x[None], None if g is None else g[None], traces, zeros
        )
        convs = jax.tree.map(lambda parameter, gradient: parameter - scheme.rate * gradient, convs, gradients)
        traces = tuple(
            Trace(trace.errors.at[i].set(error), trace.inputs.at[i].set(h))
            for trace, error, h in zip(traces, errors, inputs, strict=True)
        )
        return (convs, traces), None

    start = learner.trunk if scheme.plastic == "all" else None
    empty = tuple(Trace(*map(jnp.zeros_like, zero)) for zero in zeros)
    fast, _ = jax.lax.scan(step, (start, empty), (jnp.arange(len(source)), source, g, zeros))
    return fast


def head_gradient(traces: tuple[Trace, ...], probe_gradients: tuple[Probe, ...]) -> tuple[Dense, ...]:
    """The gradient in the initial dense layers through the inner loop, computed from the gradients in the probes."""
    return tuple(
        Dense(gradient.forward.T @ trace.inputs + trace.errors.T @ gradient.backward, gradient.forward.sum(0))
        for trace, gradient in zip(traces, probe_gradients, strict=True)
    )


def meta_gradient(
    learner: Learner,
    scheme: Scheme,
    x: Float[Array, "R+k H W c"],
    labels: Int[Array, " R+k"],
    steps: int,
) -> tuple[Learner, dict[str, Float[Array, ""]]]:
    """Gradient of the meta-loss in all parameters: the mean cross-entropy over a meta-batch, after learning.

    The inner loop learns the last `steps` images of the batch, all of one class.

    Returns:
        The gradient; and metrics: `loss`, the loss and accuracy on the learned images (`learned_`) and on all other
        images (`remember_`).
    """

    def learn(learner: Learner, zeros: tuple[Probe, ...]) -> Fast:
        trajectory = x[-steps:]
        source = trunk(learner.trunk, scheme.blocks, trajectory) if scheme.plastic == "head" else trajectory
        return adapt(learner, scheme, source, gates(learner, scheme, trajectory), labels[-1], zeros)

    def scores(parameters: tuple[Learner, Fast], x: Array) -> Array:
        learner, (convs, traces) = parameters
        h = trunk(learner.trunk if convs is None else convs, scheme.blocks, x)
        return logits(learner.head, traces, modulated(h, gates(learner, scheme, x)), scheme.rate)

    at_once = scheme.at_once(len(x))
    zeros = probes(learner.head, steps)
    if scheme.gradient == "second":
        fast, pullback = jax.vjp(learn, learner, zeros)
        (direct, fast_gradient), losses, correct = mean_gradient(scores, (learner, fast), x, labels, at_once)
        through_steps, probe_gradients = pullback(fast_gradient)
        through_steps = through_steps._replace(head=head_gradient(fast[1], probe_gradients))
        gradient = jax.tree.map(jnp.add, direct, through_steps)
    else:  # the steps count as constants, so the gradient after the steps is the gradient before them
        fast = learn(learner, zeros)
        (gradient, (convs, _)), losses, correct = mean_gradient(scores, (learner, fast), x, labels, at_once)
        gradient = gradient if convs is None else gradient._replace(trunk=convs)
    return gradient, {
        "loss": losses.mean(),
        "remember_loss": losses[:-steps].mean(),
        "remember_accuracy": correct[:-steps].mean(),
        "learned_loss": losses[-steps:].mean(),
        "learned_accuracy": correct[-steps:].mean(),
    }


def mean_gradient(
    scores: Callable[[Tree, Array], Array],
    parameters: Tree,
    x: Float[Array, "N H W c"],
    labels: Int[Array, " N"],
    at_once: int,
) -> tuple[Tree, Float[Array, " N"], Float[Array, " N"]]:
    """Gradient of the mean cross-entropy of `scores(parameters, images)`; each image's loss and whether it is correct.

    The gradient is summed over parts of `at_once` images, one after the other.
    """

    def loss(parameters: Tree, x: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
        class_scores = scores(parameters, x)
        losses = cross_entropy(class_scores, labels)
        return losses.sum(), (losses, class_scores.argmax(1) == labels)

    def add(total: Tree, part: tuple[Array, Array]) -> tuple[Tree, tuple[Array, Array]]:
        part_gradient, outputs = jax.grad(loss, has_aux=True)(parameters, *part)
        return jax.tree.map(jnp.add, total, part_gradient), outputs

    parts = (x.reshape(-1, at_once, *x.shape[1:]), labels.reshape(-1, at_once))
    total, (losses, correct) = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, parameters), parts)
    gradient = jax.tree.map(lambda array: array / len(x), total)
    return gradient, losses.reshape(-1), correct.reshape(-1).astype(losses.dtype)


def reset_row(head: tuple[Dense, ...], key: Array, row: Int[Array, ""]) -> tuple[Dense, ...]:
    """The head with the weights of one class drawn anew (Kaiming, fan-in); its bias stays (official code)."""
    *hidden, last = head
    fan_in = last.w.shape[1]
    weights = jax.random.normal(key, (fan_in,), last.w.dtype) * (2 / fan_in) ** 0.5
    return (*hidden, last._replace(w=last.w.at[row].set(weights)))
