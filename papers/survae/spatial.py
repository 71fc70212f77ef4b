"""Experiment B: digits as sets of 50 points, by SortFlow, PermuteFlow and the same flow that knows no symmetry."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray, UInt8

from common import data
from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key, numpy_rng
from common.train.trees import flatten_jax
from papers.survae.bijections import ActNorm, Affine, AffineCoupling
from papers.survae.config import Points
from papers.survae.distributions import StandardNormal
from papers.survae.flow import Flow, ppll
from papers.survae.nets import DenseTransformer
from papers.survae.rearrangements import Permute, Reverse, Shuffle
from papers.survae.stochastic import StochasticPermutation
from papers.survae.surjections import Sort
from papers.survae.training import bounds, draws, fit
from papers.survae.transforms import Compose, Stack, Transform

__all__ = ["SIDE", "point_flow", "point_sets", "spatial_mnist", "train"]

CHUNK = 50
"""Steps between two lines of the metrics stream."""
SIDE = 28
"""Coordinates lie in [0, 28]."""
TRAIN = 50_000
"""Training digits; the other 10,000 of MNIST's training set are for validation, its test set is for testing."""
DRAWN = 64
"""Samples that are kept."""
TEST_BATCH = 200
"""Sets that are evaluated at once."""


def point_sets(
    images: UInt8[np.ndarray, "n 28 28"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "n count 2"]:
    """Points in the ink of each image: a pixel with probability proportional to its intensity, uniform within it.

    Coordinates are x, to the right, and y, upwards.
    """
    height, width = images.shape[1:]
    sets = np.empty((len(images), count, 2), np.float32)
    for start in range(0, len(images), 1000):  # bounds the memory
        part = images[start : start + 1000]
        mass = part.reshape(len(part), -1).cumsum(1, dtype=np.float64)
        rows = np.arange(len(part))[:, None]
        ends = mass / mass[:, -1:] + rows  # all images in one sorted array
        u = rng.random((len(part), count))
        # u = 0 falls on the end of the first pixel, which may be blank: the end belongs to the next one.
        pixel = np.searchsorted(ends.ravel(), (u + rows).ravel(), side="right").reshape(u.shape) - rows * mass.shape[1]
        pixel = np.minimum(pixel, mass.shape[1] - 1)
        down, right = np.divmod(pixel, width)
        jitter = rng.random((2, *u.shape))
        sets[start : start + 1000] = np.stack((right + jitter[0], height - down - jitter[1]), -1)
    return sets


def spatial_mnist(part: str, sets: int, points: int) -> Float[np.ndarray, "n L 2"]:
    """The first sets of a part, `train` or `test`: one fixed draw for all seeds and models."""
    images = data.load("mnist", part)["images"][: min(sets, TRAIN)]
    return point_sets(np.asarray(images), points, numpy_rng(0, "SpatialMNIST", part))


def point_flow(config: Points, key: PRNGKeyArray) -> Flow:
    """The flow of section 4 on point sets (B, L, 2), in blocks of two couplings.

    SortFlow sorts the points by their first coordinate, PermuteFlow permutes them at random; the control does neither.
    Block: couple the coordinates, by a transformer over all points; turn them round; couple one half of the points to
    the other; shuffle the points, PermuteFlow at random; ActNorm. PermuteFlow's nets know no positions.
    """
    length, permuted = config.points, config.model == "permute"
    order: dict[str, list[Transform]] = {"sort": [Sort(element=0)], "permute": [StochasticPermutation()], "control": []}

    def net(inputs: int, outputs: int, positions: int | None, key: PRNGKeyArray) -> DenseTransformer:
        return DenseTransformer(
            inputs, outputs, config.width, config.heads, config.depth, config.feed_forward, config.dropout,
            length=positions, key=key,
        )  # fmt: skip

    def block(key: PRNGKeyArray) -> Compose:
        across, along, shuffle = jax.random.split(key, 3)
        return Compose([
            AffineCoupling(net(1, 2, None, across), "softplus", dim=1),
            Reverse(dim=1),
            AffineCoupling(net(2, 4, None if permuted else length // 2, along), "softplus", dim=2),
            StochasticPermutation() if permuted else Shuffle(length, dim=2, key=shuffle),
            ActNorm(2),
        ])  # fmt: skip

    start = [Permute(2, 1), Affine(1 / SIDE, -0.5), *order[config.model]]
    return Flow(StandardNormal((2, length)), [*start, Stack(block, config.blocks, key=key)])


def train(config: Points, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train one model per seed and give the log-likelihood a point of test sets, in nats and units of pixels."""
    sets = spatial_mnist("train", config.train_sets, config.points)
    models = fit(
        lambda key: point_flow(config, key),
        sets,
        optax.adam(learning_rate(config)),
        seeds,
        steps=config.steps,
        batch=config.batch,
        chunk=CHUNK,
        recorder=run,
    )
    models = eqx.nn.inference_mode(models)
    test = spatial_mnist("test", config.test_sets, config.points)
    order = np.stack([numpy_rng(0, "reordered", row).permutation(config.points) for row in range(len(test))])
    reordered = np.take_along_axis(test, order[..., None], 1)
    # PermuteFlow permutes at random in any case: its gap is that of two estimates.
    k = config.k if config.model == "permute" else 1
    keys = jnp.stack([jax_key(seed, "test") for seed in seeds])
    values, moved = (np.asarray(ppll(bounds(models, x, k, keys, TEST_BATCH), config.points)) for x in (test, reordered))
    one = values if k == 1 else np.asarray(ppll(bounds(models, test, 1, keys, TEST_BATCH), config.points))
    samples = draws(models, jnp.stack([jax_key(seed, "samples") for seed in seeds]), DRAWN)
    return Outcome(
        metrics={
            "ppll": values.mean(1, dtype=np.float64),
            "ppll_one_draw": one.mean(1, dtype=np.float64),
            "order_gap": np.abs(moved - values).mean(1, dtype=np.float64),
        },
        arrays={
            "samples": np.asarray(samples, np.float16),
            "data": np.repeat(test[None, :DRAWN], len(seeds), 0).astype(np.float16),
            "test_ppll": values.astype(np.float32),
        },
        parameters=flatten_jax(models),
    )


def learning_rate(config: Points) -> optax.Schedule:
    """Linear warm-up, then a constant factor an epoch."""
    per_epoch = max(1, round(config.train_sets / config.batch))

    def rate(step: jnp.ndarray) -> jnp.ndarray:
        warm = jnp.minimum(1, (step + 1) / max(1, config.warm_up))
        return config.rate * warm * config.decay ** jnp.floor(step / per_epoch)

    return rate
