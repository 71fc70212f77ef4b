"""The gradients of `meta_learning`, sooner: no dense layer is multiplied out, and images come in parts.

The gradient of a dense layer for one image is an outer product, so after k steps the layer is its initial value plus
k such products. They are kept as pairs (`Trace`) and never multiplied out: the same numbers, without moving a matrix
of a thousand classes through memory at every step. The gates of the images learned are computed once, and gradients
over a meta-batch are summed over parts that stay in the cache.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from papers.anml.meta_learning import (
    Learner,
    Scheme,
    cross_entropy,
    dense,
    gates,
    logits,
    metrics,
    modulated,
    representation,
)
from papers.anml.networks import Conv, Dense, trunk

__all__ = ["Trace", "fast_inner_loop", "fast_meta_gradient", "images_at_once", "mean_gradient", "probes"]

Tree = TypeVar("Tree")


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


def fast_meta_gradient(
    learner: Learner, scheme: Scheme, x: Float[Array, "R+k H W c"], labels: Int[Array, " R+k"], steps: int
) -> tuple[Learner, dict[str, Float[Array, ""]]]:
    """`meta_gradient`: the gradient of the meta-loss in all initial parameters, and metrics."""

    def learn(learner: Learner, zeros: tuple[Probe, ...]) -> Fast:
        trajectory = x[-steps:]
        source = trunk(learner.trunk, scheme.blocks, trajectory) if scheme.plastic == "head" else trajectory
        return fast_inner_loop(learner, scheme, source, gates(learner, scheme, trajectory), labels[-1], zeros)

    def output(stepped: tuple[Dense, Trace], h: Array) -> Array:
        layer, trace = stepped
        return dense(layer, h) + _change(trace, h, scheme.rate)

    def scores(parameters: tuple[Learner, Fast], x: Array) -> Array:
        learner, (convs, traces) = parameters
        learned = learner if convs is None else learner._replace(trunk=convs)
        return logits(list(zip(learner.head, traces, strict=True)), representation(learned, scheme, x), output)

    at_once = images_at_once(scheme, len(x))
    zeros = probes(learner.head, steps)
    if scheme.gradient == "second":
        fast, pullback = jax.vjp(learn, learner, zeros)
        (direct, fast_gradient), losses, correct = mean_gradient(scores, (learner, fast), x, labels, at_once)
        through_steps, probe_gradients = pullback(fast_gradient)
        through_head = tuple(
            Dense(slopes.forward.T @ trace.inputs + trace.errors.T @ slopes.backward, slopes.forward.sum(0))
            for trace, slopes in zip(fast[1], probe_gradients, strict=True)
        )
        gradient = jax.tree.map(jnp.add, direct, through_steps._replace(head=through_head))
    else:  # the steps count as constants, so the gradient after the steps is the gradient before them
        fast = learn(learner, zeros)
        (gradient, (convs, _)), losses, correct = mean_gradient(scores, (learner, fast), x, labels, at_once)
        gradient = gradient if convs is None else gradient._replace(trunk=convs)
    return gradient, metrics(losses, correct, steps)


def fast_inner_loop(
    learner: Learner,
    scheme: Scheme,
    source: Float[Array, "k H W c"] | Float[Array, "k d"],
    g: Float[Array, "k d"] | None,
    label: Int[Array, ""],
    zeros: tuple[Probe, ...],
) -> Fast:
    """`inner_loop`, with the steps of dense layers kept as traces.

    Differentiable in everything but `learner.head`, whose gradient comes from the probes.

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
            h = _probed(layer.w, h, zero.backward) + layer.b + _change(trace, h, scheme.rate) + offset
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


def probes(head: tuple[Dense, ...], steps: int) -> tuple[Probe, ...]:
    """Zeros for every dense layer and inner step."""
    sizes = [(layer.w.shape, layer.w.dtype) for layer in head]
    return tuple(Probe(jnp.zeros((steps, out), dtype), jnp.zeros((steps, size), dtype)) for (out, size), dtype in sizes)


def _change(trace: Trace, h: Float[Array, "N in"], rate: float) -> Float[Array, "N out"]:
    """The change of a layer's output that its steps cause."""
    return -rate * ((h @ trace.inputs.T + 1) @ trace.errors)


_probed = jax.custom_vjp(lambda w, h, backward: h @ w.T)
"""The product w h; the reverse pass adds `backward`, a zero, to the gradient in h and leaves out that in w."""


def _probed_forward(w: Array, h: Array, backward: Array) -> tuple[Array, tuple[Array, Array]]:
    return h @ w.T, (w, backward)


def _probed_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    w, backward = saved
    return jnp.zeros_like(w), gradient @ w + backward, jnp.zeros_like(backward)


_probed.defvjp(_probed_forward, _probed_backward)


def images_at_once(scheme: Scheme, count: int) -> int:
    """How many of `count` images to differentiate at once: on a CPU so few that their maps stay in its cache."""
    if jax.default_backend() != "cpu":
        return count
    most = 12 if scheme.blocks[0].pool else 2
    return max(size for size in range(1, most + 1) if count % size == 0)


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
