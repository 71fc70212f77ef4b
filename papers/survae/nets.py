"""Networks inside the couplings, encoders and decoders."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MLP", "DenseNet", "DenseTransformer", "PositionalDenseTransformer"]


class MLP(nn.Sequential):
    """Linear layers with ReLU between them, (B, D) to (B, E), in PyTorch's default initialisation.

    Arguments:
        inputs: D.
        hidden: The widths of the hidden layers.
        outputs: E.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([inputs, *hidden, outputs]):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        super().__init__(*layers[:-1])


def _dropout(p: float) -> nn.Module:
    # Without dropout no random number may be drawn, which vmap would refuse.
    return nn.Dropout(p) if p > 0 else nn.Identity()


class SelfAttention(nn.Module):
    r"""Multi-head self-attention, (B, L, M) to (B, L, M), with the parameters of ``nn.MultiheadAttention``.

    $$ \mathrm{softmax}(Q K^\top / \sqrt{M / h})\, V \text{ per head, then a linear map} $$

    Arguments:
        width: M.
        heads: $h$, a divisor of M.
        dropout: On the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    r"""$y = x + \mathrm{attn}(\mathrm{LN}\, x)$, then $y + W_2\, \mathrm{gelu}(W_1\, \mathrm{LN}\, y)$.

    The GELU is the approximation $x\, \sigma(1.702 x)$; both branches end in dropout.

    Arguments:
        width: The features M of (B, L, M).
        heads: Attention heads.
        feed_forward: The width of the hidden layer.
        dropout: On both branches and on the attention weights.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = SelfAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, feed_forward)
        self.linear2 = nn.Linear(feed_forward, width)
        self.dropout = _dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.self_attn(self.norm1(x)))
        h = self.linear1(self.norm2(x))
        return x + self.dropout(self.linear2(h * torch.sigmoid(1.702 * h)))


class DenseTransformer(nn.Module):
    r"""A transformer over the points of a set, (B, D, L) to (B, E, L); permutes its output with its input.

    Weights are drawn from $\mathcal N(0, 0.125^2 / \text{fan-in})$, those that end a residual branch divided
    by $\sqrt{2 \cdot \text{layers}}$; biases and the last linear map are zero, so that it starts as 0.

    Arguments:
        inputs: D.
        outputs: E.
        width: Features inside.
        heads: Attention heads.
        feed_forward: The width of the blocks' hidden layer.
        layers: The number of blocks.
        dropout: In the blocks.

    References:
        | Generating Long Sequences with Sparse Transformers (Child et al., 2019), section 6
        | https://arxiv.org/abs/1904.10509
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 64,
        heads: int = 8,
        feed_forward: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_linear = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(
            TransformerBlock(width, heads, feed_forward, dropout) for _ in range(layers)
        )
        self.out_norm = nn.LayerNorm(width)
        self.out_linear = nn.Linear(width, outputs)
        self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        for name, p in self.named_parameters():
            if p.dim() > 1:
                p.normal_(std=0.125 / math.sqrt(p.shape[1]))
            elif name.endswith("bias"):
                p.zero_()
        for block in self.layers:
            for ending in (block.linear2, block.self_attn.out_proj):
                ending.weight /= math.sqrt(2 * len(self.layers))
        self.out_linear.weight.zero_()

    def embed(self, x: Tensor) -> Tensor:
        """The first linear map, (B, L, D) to (B, L, M)."""
        return self.in_linear(x)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.transpose(1, 2))
        for block in self.layers:
            h = block(h)
        return self.out_linear(self.out_norm(h)).transpose(1, 2)


class PositionalDenseTransformer(DenseTransformer):
    r"""`DenseTransformer` with a learned embedding per position, drawn from $\mathcal N(0, 0.125^2 / M)$.

    Arguments:
        length: The number L of positions.
        inputs: D.
        outputs: E.
        width: Features inside, M.
        kwargs: As for `DenseTransformer`.
    """

    def __init__(self, length: int, inputs: int, outputs: int, width: int = 64, **kwargs: float) -> None:
        super().__init__(inputs, outputs, width, **kwargs)  # type: ignore[arg-type]
        self.position = nn.Parameter(torch.randn(length, width) * (0.125 / math.sqrt(width)))

    def embed(self, x: Tensor) -> Tensor:
        return self.in_linear(x) + self.position


class DenseLayer(nn.Sequential):
    """1 x 1 convolution, ReLU, 3 x 3 convolution, ReLU; the result is appended to the input.

    Arguments:
        channels: Channels of the input.
        growth: Channels appended.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, growth, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, super().forward(x)), 1)


class DenseNet(nn.Module):
    r"""The net of the image couplings, (B, C, H, W) to (B, E, H, W): one residual dense block.

    A 1 x 1 convolution to the width, `DenseLayer` times the depth, a gated 1 x 1 convolution
    $a + b \odot \sigma(c)$ back to the width that is added to the block's input, a 1 x 1 convolution to E.
    The last one is zero at the start.

    Arguments:
        inputs: C.
        outputs: E.
        width: Channels inside.
        depth: The number of dense layers.
        growth: Channels that each dense layer appends.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 64, depth: int = 10, growth: int = 64) -> None:
        super().__init__()
        self.in_conv = nn.Conv2d(inputs, width, 1)
        self.dense = nn.Sequential(*(DenseLayer(width + i * growth, growth) for i in range(depth)))
        self.gate = nn.Conv2d(width + depth * growth, 3 * width, 1)
        self.out_conv = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.out_conv.weight)
        nn.init.zeros_(self.out_conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.in_conv(x)
        a, b, c = self.gate(self.dense(h)).chunk(3, 1)
        return self.out_conv(h + a + b * torch.sigmoid(c))
