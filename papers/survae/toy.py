"""Experiment A: Flow and AbsFlow on four planar densities, all seeds trained as one batched program."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from common.errors import RefigureError
from common.train.jax import batch_seeds, scan_train
from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key, numpy_rng
from common.train.trees import flatten_jax
from papers.survae.config import Toy
from papers.survae.densities import DENSITIES, Density
from papers.survae.flow import Flow
from papers.survae.models import toy_absflow, toy_flow

__all__ = ["train"]

CHUNK = 250
"""Steps between two lines of the metrics stream."""
EXTENT = 4.0
"""Figure 4 shows the square [-4, 4]^2."""
EVALUATION_BATCH = 4_000
"""Points that are evaluated at once; few enough for the activations to stay in a CPU's cache."""
TAIL = 1e-3
"""True probability outside the region that counts as the support of a density with tails."""


class State(NamedTuple):
    """The state of training; every array has a leading axis of seeds."""

    model: Flow
    optimiser: optax.OptState


def train(config: Toy, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train one model per seed and evaluate it on fresh test points.

    Models of the batch share nothing: each has its own initial weights, data and order of data.
    """
    density = DENSITIES[config.density]
    points = np.stack([density.sample(config.train_size, numpy_rng(seed, "train")) for seed in seeds])
    orders = np.stack([_order(config, seed) for seed in seeds])
    model = partial(toy_flow if config.model == "flow" else toy_absflow, config.density, hidden=config.hidden)
    adam = optax.adam(config.learning_rate)

    def init(key: Array) -> State:
        flow = model(jax.random.fold_in(key, 0))
        return State(flow, adam.init(eqx.filter(flow, eqx.is_array)))

    def update(state: State, batch: Float[Array, "B 2"]) -> tuple[State, Float[Array, ""]]:
        loss, gradient = eqx.filter_value_and_grad(nll)(state.model, batch)
        updates, optimiser = adam.update(gradient, state.optimiser)
        return State(eqx.apply_updates(state.model, updates), optimiser), loss

    def step(points: Array, orders: Array, state: State, index: Int32[Array, ""]) -> tuple[State, dict[str, Array]]:
        chosen = jax.lax.dynamic_slice_in_dim(orders, index * config.batch_size, config.batch_size, axis=1)
        batches = jnp.take_along_axis(points, chosen[..., None], axis=1)
        state, loss = eqx.filter_vmap(update)(state, batches)
        return state, {"nll": loss}

    state = scan_train(
        eqx.Partial(step, jnp.asarray(points), jnp.asarray(orders)),
        batch_seeds(init, seeds),
        steps=config.steps,
        chunk=CHUNK,
        recorder=run,
    )
    return _evaluate(config, density, state.model, seeds)


def nll(model: Flow, x: Float[Array, "B 2"]) -> Float[Array, ""]:
    """Mean negative log-likelihood in nats."""
    return -model.log_prob(x).mean()


def _order(config: Toy, seed: int) -> np.ndarray:
    """Indices of the training points in the order of the steps, epoch after epoch, int32."""
    epochs = [numpy_rng(seed, "order", epoch).permutation(config.train_size) for epoch in range(config.epochs)]
    return np.concatenate(epochs).astype(np.int32)


def _evaluate(config: Toy, density: Density, models: Flow, seeds: Sequence[int]) -> Outcome:
    """Test likelihood, errors of mass and symmetry, and the drawn density of each model."""
    test = np.stack([density.sample(config.test_size, numpy_rng(seed, "test")) for seed in seeds])
    test_log_prob = _log_prob(models, test)
    axis = (np.arange(config.grid) + 0.5) / config.grid * 2 * EXTENT - EXTENT
    square = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    drawn = np.exp(_log_prob(models, square)).reshape(len(seeds), config.grid, config.grid)
    nodes, weights = _quadrature(config.quadrature)
    # Far from the data an exponential scale overflows float32: the latent is infinite and the density zero there.
    on_nodes = _log_prob(models, nodes, overflow=(np.abs(nodes) > EXTENT).any(-1))
    mass = np.nan_to_num(np.exp(on_nodes, dtype=np.float64), nan=0.0) @ weights
    keys = jnp.stack([jax_key(seed, "samples") for seed in seeds])
    samples = np.asarray(
        eqx.filter_jit(eqx.filter_vmap(lambda flow, key: flow.sample(key, config.test_size)))(models, keys)
    )
    outside = [_share_outside(density, member, points) for member, points in zip(samples, test, strict=True)]
    asymmetry = [_asymmetry(density, member, (2 * EXTENT / config.grid) ** 2) for member in drawn]
    return Outcome(
        metrics={
            "test_nll": -test_log_prob.mean(1, dtype=np.float64),
            "gap_to_entropy": -test_log_prob.mean(1, dtype=np.float64) - density.entropy,
            "mass_outside_support": outside,
            "asymmetry": asymmetry,
            "normalisation_error": np.abs(mass - 1),
            "overflowed_nodes": np.isnan(on_nodes).mean(1),
        },
        arrays={"density": drawn.astype(np.float16)},
        parameters=flatten_jax(models),
    )


def _log_prob(models: Flow, x: np.ndarray, overflow: np.ndarray | bool = False) -> np.ndarray:
    """Log-density (S, n), float32, under each of S models, of points (S, n, 2), or of points (n, 2) for all models.

    Where `overflow` (n,) allows it, a log-density may be NaN.

    Raises:
        RefigureError: A log-density is NaN elsewhere.
    """

    def member(model: Flow, x: Float[Array, "n 2"]) -> Float[Array, " n"]:
        return jax.lax.map(lambda point: model.log_prob(point[None])[0], x, batch_size=EVALUATION_BATCH)

    shared = x.ndim == 2
    evaluate = eqx.filter_jit(eqx.filter_vmap(member, in_axes=(eqx.if_array(0), None if shared else 0)))
    log_densities = np.asarray(evaluate(models, jnp.asarray(x, jnp.float32)))
    if (np.isnan(log_densities) & ~np.asarray(overflow)).any():
        raise RefigureError("a trained model has a log-density that is NaN; the last checkpoint is kept")
    return log_densities


def _quadrature(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (n, 2) and weights (n,) of a midpoint rule on the plane, `count` nodes a side.

    Three quarters of the nodes lie in [-4, 4], crowded quadratically towards 0 and the edges, where densities of
    absolute values have creases and poles; the rest covers the tails out to 24, ever coarser.
    """
    inner = count * 3 // 8
    u = (np.arange(inner) + 0.5) / inner
    x, dx = EXTENT * (3 * u**2 - 2 * u**3), EXTENT * 6 * u * (1 - u) / inner
    outer = count // 8
    v = (np.arange(outer) + 0.5) / outer
    tail, dtail = EXTENT + 20 * v**2, 40 * v / outer
    half, weight = np.concatenate([x, tail]), np.concatenate([dx, dtail])
    axis, weights = np.concatenate([-half[::-1], half]), np.concatenate([weight[::-1], weight])
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return nodes.astype(np.float32), np.outer(weights, weights).reshape(-1)


def _share_outside(density: Density, samples: np.ndarray, test: np.ndarray) -> float:
    """The share of a model's samples (n, 2) outside of the support.

    The support of a density with tails is its smallest region of probability 1 - `TAIL`, found from the test points.
    """
    threshold = np.quantile(density.log_density(test), TAIL) if density.has_tails else np.finfo(float).min
    return float(np.mean(density.log_density(samples) < threshold))


def _asymmetry(density: Density, drawn: np.ndarray, area: float) -> float:
    """Total variation between a drawn density (G, G) and its image under the true symmetry; the largest over axes.

    For mirror axes the image is the mirror image. The checkerboard's mirror image is its complement in the
    square, so there the density plus its mirror image along x1 is compared with the uniform one.
    """
    if density.mirror_axes:
        return max(float(0.5 * np.abs(drawn - np.flip(drawn, axis)).sum() * area) for axis in density.mirror_axes)
    uniform = 2 / (2 * EXTENT) ** 2
    return float(0.5 * np.abs(drawn + np.flip(drawn, 0) - uniform).sum() * area)
