"""Networks of the couplings, encoders and decoders, on batches; only dropout uses ``key``."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from papers.survae.transforms import Key, demand_key

__all__ = ["MLP", "Conv2d", "DenseNet", "DenseTransformer", "LayerNorm", "Linear"]


class Linear(eqx.Module):
    r"""$y = x W^\top + b$ on the last axis, in PyTorch's layout.

    Arguments:
        inputs: D.
        outputs: E.
        key: Draws the parameters.
        std: The weights start as $\mathcal N(0, \mathrm{std}^2)$ and the biases at 0; by default both start
            as in PyTorch, $\mathcal U(-1 / \sqrt D, 1 / \sqrt D)$.
    """

    weight: Float[Array, "E D"]
    bias: Float[Array, " E"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray, std: float | None = None) -> None:
        if std is None:
            self.weight, self.bias = _torch_uniform((outputs, inputs), key)
        else:
            self.weight = std * jax.random.normal(key, (outputs, inputs))
            self.bias = jnp.zeros(outputs)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        return x @ self.weight.T + self.bias


def _torch_uniform(shape: tuple[int, ...], key: PRNGKeyArray) -> tuple[Array, Array]:
    r"""Weights and biases as in PyTorch, $\mathcal U(-1 / \sqrt n, 1 / \sqrt n)$ with $n$ the fan-in."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    weight_key, bias_key = jax.random.split(key)
    weight = jax.random.uniform(weight_key, shape, minval=-bound, maxval=bound)
    return weight, jax.random.uniform(bias_key, shape[:1], minval=-bound, maxval=bound)


class MLP(eqx.Module):
    """Linear layers with ReLU between them, (..., D) to (..., E).

    Arguments:
        inputs: D.
        hidden: The widths of the hidden layers.
        outputs: E.
        key: Draws the parameters.
    """

    layers: tuple[Linear, ...]

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, *, key: PRNGKeyArray) -> None:
        sizes = [inputs, *hidden, outputs]
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = tuple(Linear(*size, key=k) for *size, k in zip(sizes, sizes[1:], keys, strict=False))

    def __call__(self, x: Float[Array, "... D"], *, key: Key = None) -> Float[Array, "... E"]:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class LayerNorm(eqx.Module):
    """Standardises the last axis (biased variance, plus $10^{-5}$), then scales and shifts."""

    weight: Float[Array, " D"]
    bias: Float[Array, " D"]

    def __init__(self, size: int) -> None:
        self.weight, self.bias = jnp.ones(size), jnp.zeros(size)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-5) * self.weight + self.bias


def gelu(x: Array) -> Array:
    r"""$x \sigma(1.702 x)$, the approximation of the official code."""
    return x * jax.nn.sigmoid(1.702 * x)


class Dropout(eqx.Module):
    """Sets a share of all entries to zero and scales up the others, so that means stay.

    Sixteen random bits decide on an entry: the share is the rate to within $2^{-17}$, and
    the scale is that of the share.

    Arguments:
        rate: The share, from 0 to less than 1.
    """

    rate: float = eqx.field(static=True)
    inference: bool = False

    @property
    def active(self) -> bool:
        """Whether it does anything."""
        return self.rate > 0 and not self.inference

    def __call__(self, x: Array, key: Key) -> Array:
        if not self.active:
            return x
        dropped = round(self.rate * 2**16)
        words = jax.random.bits(demand_key(key, self), (-(-x.size // 2),))
        # Two decisions a word: drawing the words is what costs.
        bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
        return jnp.where(bits >= dropped, x / (1 - dropped / 2**16), 0)


class TransformerBlock(eqx.Module):
    r"""Pre-norm attention and feed-forward, (B, L, d) to (B, L, d).

    $$ x \leftarrow x + \operatorname{drop}(\operatorname{attn}(\mathrm{LN}\,x)), \qquad
    x \leftarrow x + \operatorname{drop}(W_2 \operatorname{gelu}(W_1 \mathrm{LN}\,x)) $$

    Arguments:
        d_model: d.
        heads: The number of attention heads, a divisor of d.
        d_ff: The width between $W_1$ and $W_2$.
        dropout: The dropout rate, also of the attention weights.
        depth: The number of blocks in the whole network; scales the initialisation.
        key: Draws the parameters.
    """

    norm1: LayerNorm
    in_proj: Linear
    out_proj: Linear
    norm2: LayerNorm
    linear1: Linear
    linear2: Linear
    dropout: Dropout
    heads: int = eqx.field(static=True)

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float, depth: int, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 4)
        std, residual = 0.125 / math.sqrt(d_model), 1 / math.sqrt(2 * depth)
        self.norm1, self.norm2 = LayerNorm(d_model), LayerNorm(d_model)
        self.in_proj = Linear(d_model, 3 * d_model, key=keys[0], std=std)
        self.out_proj = Linear(d_model, d_model, key=keys[1], std=std * residual)
        self.linear1 = Linear(d_model, d_ff, key=keys[2], std=std)
        self.linear2 = Linear(d_ff, d_model, key=keys[3], std=0.125 / math.sqrt(d_ff) * residual)
        self.dropout = Dropout(dropout)
        self.heads = heads

    def _attention(self, x: Float[Array, "B L d"], key: Key) -> Float[Array, "B L d"]:
        b, length, d = x.shape
        heads = self.in_proj(x).reshape(b, length, 3, self.heads, d // self.heads)
        # Heads before points: products of small matrices that lie together take a quarter of the time on a CPU.
        q, k, v = heads.transpose(2, 0, 3, 1, 4)
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(d // self.heads)
        e = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        # Softmax divides by the sum, which is left until the values are summed.
        attended = self.dropout(e, key) @ v / e.sum(-1, keepdims=True)
        return self.out_proj(attended.transpose(0, 2, 1, 3).reshape(b, length, d))

    def __call__(self, x: Float[Array, "B L d"], *, key: Key = None) -> Float[Array, "B L d"]:
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        x = x + self.dropout(self._attention(self.norm1(x), keys[0]), keys[1])
        return x + self.dropout(self.linear2(gelu(self.linear1(self.norm2(x)))), keys[2])


class DenseTransformer(eqx.Module):
    r"""A transformer over the points of a set, (B, C, L) to (B, P, L).

    Without positions it is equivariant: permuting the points of the input permutes those of the output.
    Weights start as in the Sparse Transformer, $\mathcal N(0, 0.125^2 / n)$ with $n$ the fan-in (and $W_2$
    and the attention's output smaller by $\sqrt{2 \cdot \mathrm{depth}}$), biases and the output layer at
    zero.

    Dropout acts whenever its rate is not zero; ``equinox.nn.inference_mode(model)`` turns it off.

    Arguments:
        inputs: C.
        outputs: P.
        d_model: The width.
        heads: The number of attention heads.
        depth: The number of blocks.
        d_ff: The width of the feed-forward part.
        dropout: The dropout rate.
        length: L, if points have a learned positional embedding; without it any L will do.
        key: Draws the parameters.

    References:
        | Attention Is All You Need (Vaswani et al., 2017)
        | https://arxiv.org/abs/1706.03762
        | Generating Long Sequences with Sparse Transformers (Child et al., 2019)
        | https://arxiv.org/abs/1904.10509
    """

    in_linear: Linear
    positions: Float[Array, "L d"] | None
    blocks: tuple[TransformerBlock, ...]
    out_norm: LayerNorm
    out_linear: Linear

    def __init__(
        self,
        inputs: int,
        outputs: int,
        d_model: int = 64,
        heads: int = 8,
        depth: int = 2,
        d_ff: int = 256,
        dropout: float = 0.0,
        length: int | None = None,
        *,
        key: PRNGKeyArray,
    ) -> None:
        in_key, position_key, *keys = jax.random.split(key, depth + 2)
        self.in_linear = Linear(inputs, d_model, key=in_key, std=0.125 / math.sqrt(inputs))
        scale = 0.125 / math.sqrt(d_model)
        self.positions = None if length is None else scale * jax.random.normal(position_key, (length, d_model))
        self.blocks = tuple(TransformerBlock(d_model, heads, d_ff, dropout, depth, key=k) for k in keys)
        self.out_norm = LayerNorm(d_model)
        self.out_linear = Linear(d_model, outputs, key=key, std=0.0)

    def __call__(self, x: Float[Array, "B C L"], *, key: Key = None) -> Float[Array, "B P L"]:
        """Applies the net.

        Raises:
            RefigureError: Dropout is active and ``key`` is missing.
        """
        if any(block.dropout.active for block in self.blocks):
            demand_key(key, self)
        keys = [None] * len(self.blocks) if key is None else jax.random.split(key, len(self.blocks))
        h = self.in_linear(x.swapaxes(1, 2))
        if self.positions is not None:
            h = h + self.positions
        for block, block_key in zip(self.blocks, keys, strict=True):
            h = block(h, key=block_key)
        return self.out_linear(self.out_norm(h)).swapaxes(1, 2)


class Conv2d(eqx.Module):
    """Convolution that keeps H and W, (B, C, H, W) to (B, P, H, W), in PyTorch's layout and initialisation.

    Arguments:
        inputs: C.
        outputs: P.
        size: The side of the kernel, odd.
        key: Draws the parameters.
        zero: Whether the parameters start at zero.
    """

    weight: Float[Array, "P C k k"]
    bias: Float[Array, " P"]

    def __init__(self, inputs: int, outputs: int, size: int = 1, *, key: PRNGKeyArray, zero: bool = False) -> None:
        self.weight, self.bias = _torch_uniform((outputs, inputs, size, size), key)
        if zero:
            self.weight, self.bias = jnp.zeros_like(self.weight), jnp.zeros_like(self.bias)

    def __call__(self, x: Float[Array, "B C H W"]) -> Float[Array, "B P H W"]:
        return jax.lax.conv(x, self.weight, (1, 1), "SAME") + self.bias[:, None, None]


class ResidualDenseBlock(eqx.Module):
    r"""$x + a + b\,\sigma(c)$, where $(a, b, c)$ is computed from $x$ and the outputs of densely connected layers.

    Each layer (1x1, ReLU, 3x3, ReLU) receives the input and the outputs of all preceding layers.

    Arguments:
        channels: C, of input and output.
        depth: The number of layers.
        growth: The channels that each layer adds.
        key: Draws the parameters.
    """

    layers: tuple[tuple[Conv2d, Conv2d], ...]
    gate: Conv2d

    def __init__(self, channels: int, depth: int, growth: int, *, key: PRNGKeyArray) -> None:
        gate_key, *keys = jax.random.split(key, 2 * depth + 1)
        widths = [channels + i * growth for i in range(depth + 1)]
        self.layers = tuple(
            (Conv2d(width, width, key=first), Conv2d(width, growth, 3, key=second))
            for width, first, second in zip(widths[:-1], keys[::2], keys[1::2], strict=True)
        )
        self.gate = Conv2d(widths[-1], 3 * channels, key=gate_key)

    def __call__(self, x: Float[Array, "B C H W"]) -> Float[Array, "B C H W"]:
        h = x
        for first, second in self.layers:
            h = jnp.concatenate((h, jax.nn.relu(second(jax.nn.relu(first(h))))), 1)
        a, b, c = jnp.split(self.gate(h), 3, axis=1)
        return x + a + b * jax.nn.sigmoid(c)


class DenseNet(eqx.Module):
    """Residual dense blocks between 1x1 convolutions, (B, C, H, W) to (B, P, H, W); it starts at zero.

    Arguments:
        inputs: C.
        outputs: P.
        mid: The channels inside the net.
        blocks: The number of blocks.
        depth: The layers in each block.
        growth: The channels that each layer adds.
        key: Draws the parameters.

    References:
        | Densely Connected Convolutional Networks (Huang et al., 2016)
        | https://arxiv.org/abs/1608.06993
    """

    in_conv: Conv2d
    blocks: tuple[ResidualDenseBlock, ...]
    out_conv: Conv2d

    def __init__(
        self,
        inputs: int,
        outputs: int,
        mid: int = 64,
        blocks: int = 1,
        depth: int = 10,
        growth: int = 64,
        *,
        key: PRNGKeyArray,
    ) -> None:
        in_key, out_key, *keys = jax.random.split(key, blocks + 2)
        self.in_conv = Conv2d(inputs, mid, key=in_key)
        self.blocks = tuple(ResidualDenseBlock(mid, depth, growth, key=k) for k in keys)
        self.out_conv = Conv2d(mid, outputs, key=out_key, zero=True)

    def __call__(self, x: Float[Array, "B C H W"], *, key: Key = None) -> Float[Array, "B P H W"]:
        h = self.in_conv(x)
        for block in self.blocks:
            h = block(h)
        return self.out_conv(h)
