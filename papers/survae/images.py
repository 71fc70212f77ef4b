"""Experiment C: image flows that are equal but for what halves the images, max-pooling or slicing."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from common import data
from common.train.recorder import Outcome, Recorder
from common.train.seeding import jax_key
from common.train.trees import flatten_jax
from papers.survae.bijections import Affine, AffineCoupling, Conv1x1, Sigmoid
from papers.survae.config import Images
from papers.survae.distributions import DiagonalNormal, StandardNormal
from papers.survae.flow import Flow, InverseFlow, bits_per_dim
from papers.survae.nets import DenseNet
from papers.survae.rearrangements import Squeeze2d, Unsqueeze2d, space_to_depth
from papers.survae.rounding import Dequantization, UniformDequantization, VariationalDequantization
from papers.survae.surjections import MaxPool2d, Slice
from papers.survae.training import bounds, draws, fit
from papers.survae.transforms import Compose, Stack, Transform

__all__ = ["SIDE", "image_flow", "load_images", "train"]

CHUNK = 50
"""Steps between two lines of the metrics stream."""
SIDE = 32
"""Images are 32 x 32."""
DRAWN = 64
"""Samples that are kept."""
TEST_BATCH = 100
"""Images that are evaluated at once."""


def load_images(name: str, part: str, count: int) -> UInt8[np.ndarray, "n C 32 32"]:
    """Images of a part: the first `count` of `train`, or as many spread over `test`, with a border to 32 x 32."""
    images = data.load(name, part)["images"]
    count = min(count, len(images))
    rows = np.arange(count) if part == "train" else np.linspace(0, len(images), count, endpoint=False).astype(int)
    chosen = np.asarray(images[rows]).reshape(count, *images.shape[1:3], -1)
    border = (SIDE - chosen.shape[1]) // 2
    return np.pad(chosen, ((0, 0), (border, border), (border, border), (0, 0))).transpose(0, 3, 1, 2)


class ImageContext(eqx.Module):
    """From images (B, C, H, W) in [-1, 1] to what their noise depends on, (B, P, H / 2, W / 2)."""

    net: DenseNet

    def __call__(self, x: Float[Array, "B C H W"]) -> Float[Array, "B P H/2 W/2"]:
        return self.net(space_to_depth(x))


def image_flow(config: Images, channels: int, key: PRNGKeyArray) -> Flow:
    """The image flow of section 4 on bytes (B, C, 32, 32).

    Dequantize, centre, squeeze; in each scale 1x1 convolutions with couplings; between scales halve the images, by
    max-pooling, or by squeezing and slicing off three quarters of the channels. Both keep as many channels.
    """
    noise_key, *keys = jax.random.split(key, config.scales + 1)

    def net(inputs: int, outputs: int, key: PRNGKeyArray) -> DenseNet:
        return DenseNet(inputs, outputs, config.mid, 1, config.depth, config.growth, key=key)

    def layer(width: int, key: PRNGKeyArray) -> Compose:
        mix, couple = jax.random.split(key)
        coupling = AffineCoupling(net(width // 2, width, couple), "tanh_exp", order="sequential")
        return Compose([Conv1x1(width, key=mix), coupling])

    def halve(width: int, side: int) -> list[Transform]:
        if config.model == "maxpool":
            return [MaxPool2d()]
        return [Squeeze2d(), Slice(StandardNormal((3 * width, side, side)), width)]

    width, side = 4 * channels, SIDE // 2
    transforms: list[Transform] = [_dequantization(config, channels, noise_key), Affine(shift=-0.5), Squeeze2d()]
    for scale, scale_key in enumerate(keys):
        if scale:
            side //= 2
            transforms += halve(width, side)
        transforms.append(Stack(lambda key: layer(width, key), config.layers, key=scale_key))
    return Flow(DiagonalNormal((width, side, side)), transforms)


def _dequantization(config: Images, channels: int, key: PRNGKeyArray) -> Dequantization:
    """Uniform noise, or a flow of noise at half the resolution that sees the image."""
    if config.dequantization == "uniform":
        return UniformDequantization()
    context_key, key = jax.random.split(key)
    width, side = 4 * channels, SIDE // 2

    def layer(key: PRNGKeyArray) -> Compose:
        mix, couple = jax.random.split(key)
        net = DenseNet(width // 2 + config.context, width, config.mid, 1, config.depth, config.growth, key=couple)
        coupling = AffineCoupling(net, "tanh_exp", order="sequential", conditional=True)
        return Compose([Conv1x1(width, key=mix), coupling])

    layers = [Stack(layer, config.noise_layers, key=key), Unsqueeze2d(), Sigmoid()]
    context = ImageContext(DenseNet(width, config.context, config.mid, 1, config.depth, config.growth, key=context_key))
    return VariationalDequantization(InverseFlow(StandardNormal((width, side, side)), layers, context))


def train(config: Images, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train one model per seed and give bits a dimension of test images, all 32 x 32 pixels counted."""
    images = load_images(config.data, "train", config.train_images)
    models = fit(
        lambda key: image_flow(config, images.shape[1], key),
        images,
        optax.adamax(learning_rate(config)),
        seeds,
        steps=config.steps + config.extra_steps,
        batch=config.batch,
        chunk=CHUNK,
        recorder=run,
        vary=augmented if config.augment else None,
    )
    test = load_images(config.data, "test", config.test_images)
    dims = int(np.prod(test.shape[1:]))
    keys = jnp.stack([jax_key(seed, "test") for seed in seeds])
    tight, one = (np.asarray(bits_per_dim(bounds(models, test, k, keys, TEST_BATCH), dims)) for k in (config.k, 1))
    samples = draws(models, jnp.stack([jax_key(seed, "samples") for seed in seeds]), DRAWN)
    return Outcome(
        metrics={
            "bits_per_dim": tight.mean(1, dtype=np.float64),
            "bits_per_dim_one_draw": one.mean(1, dtype=np.float64),
        },
        arrays={"samples": np.asarray(samples, np.uint8)},
        parameters=flatten_jax(models),
    )


def augmented(images: Shaped[Array, "B C H W"], key: PRNGKeyArray) -> Shaped[Array, "B C H W"]:
    """Mirrors half of the images and shifts each by up to a pixel (4 % of 32) both ways, edges repeated."""
    mirror_key, shift_key = jax.random.split(key)
    mirrored = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
    padded = jnp.pad(jnp.where(mirrored, images[..., ::-1], images), ((0, 0), (0, 0), (1, 1), (1, 1)), "edge")
    shifts = jax.random.randint(shift_key, (len(images), 2), 0, 3)
    return jax.vmap(lambda image, shift: jax.lax.dynamic_slice(image, (0, *shift), images.shape[1:]))(padded, shifts)


def learning_rate(config: Images) -> optax.Schedule:
    """Linear warm-up, then a constant factor an epoch; a constant rate in the extra steps."""
    per_epoch = max(1, round(config.train_images / config.batch))

    def rate(step: jnp.ndarray) -> jnp.ndarray:
        warm = jnp.minimum(1, (step + 1) / max(1, config.warm_up))
        falling = config.rate * warm * config.decay ** jnp.floor(step / per_epoch)
        return jnp.where(step < config.steps, falling, config.extra_rate)

    return rate
