"""The functions f whose fixed points are sought.

`cell.bind(x)` gives z -> f(z; x). It computes once what does not change during a solve: normalised weights, injections,
and dropout masks (the same for all evaluations, or there would be no fixed point).

Sequences are (B, T, d); images (B, C, H, W); the states of MDEQ one vector, (B, D).
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from papers.deq.iteration import Function

__all__ = ["ConvCell", "MultiscaleCell", "TransformerCell", "TrellisCell", "frozen_dropout"]

BLOCK = {"cpu": 64}
"""Queries that attend at once, by device; all of them on devices that are not listed."""


def frozen_dropout(shape: Sequence[int], rate: float, like: Tensor) -> Tensor | None:
    """A factor on activations that drops whole features of a sample; None without dropout."""
    if rate == 0:
        return None
    return torch.empty(*shape, dtype=like.dtype, device=like.device).bernoulli_(1 - rate).div_(1 - rate)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


# --- sequences -----------------------------------------------------------------------------------------------


def _waves(length: int, features: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Sines and cosines of positions 0, 1, ..., each (length, features / 2); by float64, as positions may be large."""
    positions = torch.arange(length, dtype=torch.float64, device=like.device)
    exponents = torch.arange(0, features, 2, dtype=torch.float64, device=like.device)
    angles = positions[:, None] * 10_000 ** (-exponents / features)
    return angles.sin().to(like.dtype), angles.cos().to(like.dtype)


class TransformerCell(nn.Module):
    """A transformer layer with relative positions (Transformer-XL), normalised after each residual sum without scale
    and offset (official code, second version). Weights are not normalised; the card's golden layer has none either.

    The score of a key at distance p contains a . sin(w p) + b . cos(w p), with a and b linear in the query. Sines and
    cosines of a difference i - j are sums of products of those of i and j, so this term is a scalar product of a vector
    of the query with a vector of the key. These vectors are appended to query and key, and no (T, T) array of distances
    is made or shifted.

    Arguments:
        features: d, even.
        heads: Attention heads.
        head: Features of each head.
        inner: Hidden units of the feed-forward network.
        pre_norm: Normalise before the attention and the feed-forward network instead; such cells tend to diverge.
        dropout: Rate at which features of attention, hidden units and output are dropped.
        deviation: Standard deviation of initial weights.
    """

    def __init__(
        self, features: int, heads: int, head: int, inner: int, pre_norm: bool = False, dropout: float = 0.0,
        deviation: float = 0.05,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.head, self.pre_norm, self.dropout = heads, head, pre_norm, dropout
        self.qkv = nn.Linear(features, 3 * heads * head, bias=False)
        self.distance = nn.Linear(features, heads * head, bias=False)
        self.out = nn.Linear(heads * head, features)
        self.widen = nn.Linear(features, inner)
        self.narrow = nn.Linear(inner, features)
        self.content_bias = nn.Parameter(torch.empty(heads, 1, head).uniform_(-0.05, 0.05))
        self.position_bias = nn.Parameter(torch.empty(heads, 1, head).uniform_(-0.05, 0.05))
        for layer in (self.qkv, self.distance, self.out, self.widen, self.narrow):
            nn.init.normal_(layer.weight, 0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def bind(self, u: Tensor, memory: Tensor | None = None) -> Function:
        """f for injections to queries, keys and values.

        Arguments:
            u: (B, M + T, 3 * heads * head).
            memory: Equilibria of the M preceding steps, (B, M, d).
        """
        batch, total = u.shape[:2]
        past = 0 if memory is None else memory.shape[1]
        features = self.qkv.in_features
        sines, cosines = _waves(total, features, u)
        position_keys = torch.cat([cosines, sines], 1).expand(batch, self.heads, -1, -1)
        sines, cosines = sines[past:], cosines[past:]
        distance = self.distance.weight.view(self.heads, self.head, features)
        causal_mask = u.new_full((total - past, total), -torch.inf).triu(1 + past)
        scale = self.head**-0.5
        remembered = None
        if memory is not None:
            remembered = self._heads(self.qkv(self._norm_input(memory)) + u[:, :past])[1:]
        u = u[:, past:]
        masks = [None] * 3
        if self.training and self.dropout:
            sizes = (self.out.out_features, self.widen.out_features, features)
            masks = [frozen_dropout((batch, 1, size), self.dropout, u) for size in sizes]

        def f(z: Tensor) -> Tensor:
            q, k, v = self._heads(self.qkv(self._norm_input(z)) + u)
            if remembered is not None:
                k, v = (torch.cat([old, new], 2) for old, new in zip(remembered, (k, v), strict=True))
            a, b = ((q + self.position_bias) @ distance).chunk(2, 3)
            queries = torch.cat([q + self.content_bias, a * sines + b * cosines, b * sines - a * cosines], 3)
            attended = _attention(queries * scale, torch.cat([k, position_keys], 3), v, causal_mask)
            attended = self.out(attended.transpose(1, 2).flatten(2))
            y = self._norm_output(z + _masked(attended, masks[0]))
            inner = _masked(F.relu(self.widen(self._norm_input(y))), masks[1])
            return self._norm_output(self._norm_input(y) + _masked(self.narrow(inner), masks[2]))

        return f

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, H, T, e)."""
        return tuple(part.unflatten(2, (self.heads, self.head)).transpose(1, 2) for part in x.chunk(3, 2))

    def _norm_input(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) if self.pre_norm else x

    def _norm_output(self, x: Tensor) -> Tensor:
        return x if self.pre_norm else F.layer_norm(x, x.shape[-1:])


def _attention(q: Tensor, k: Tensor, v: Tensor, causal_mask: Tensor) -> Tensor:
    """Causal attention of T queries to K keys, (B, H, T, e), in blocks of queries that read no later key.

    Arguments:
        causal_mask: -inf where a key comes after a query, else 0: (T, K).
    """
    batch, (length, total) = q.shape[:2], causal_mask.shape
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    attended = []
    block = BLOCK.get(q.device.type, length)
    for start in range(0, length, block):
        end = min(start + block, length)
        visible = total - length + end
        scores = torch.baddbmm(causal_mask[start:end, :visible], q[:, start:end], k[:, :visible].mT)
        attended.append(torch.bmm(scores.softmax(2), v[:, :visible]))
    return torch.cat(attended, 1).unflatten(0, batch)


class TrellisCell(nn.Module):
    """A layer of TrellisNet with an LSTM's gates: a causal convolution over two steps. The state is (h, c).

    Arguments:
        hidden: Features of h and of c.
        dropout: Rate at which features of the convolution's input are dropped.
        deviation: Standard deviation of initial weights.
    """

    def __init__(self, hidden: int, dropout: float = 0.0, deviation: float = 0.01) -> None:
        super().__init__()
        self.hidden, self.dropout = hidden, dropout
        self.conv = weight_norm(nn.Linear(2 * hidden, 4 * hidden))
        nn.init.normal_(self.conv.parametrizations.weight.original1, 0, deviation)
        nn.init.constant_(self.conv.parametrizations.weight.original0, deviation * math.sqrt(2 * hidden))
        nn.init.zeros_(self.conv.bias)

    def bind(self, u: Tensor, memory: Tensor | None = None) -> Function:
        """f for injections to the gates.

        Arguments:
            u: (B, T, 4 * hidden), for input gate, output gate, candidate and forget gate.
            memory: The state at the preceding step, (B, 1, 2 * hidden); zeros when left out.
        """
        weight, bias = self.conv.weight, self.conv.bias
        previous = u.new_zeros(len(u), 1, 2 * self.hidden) if memory is None else memory
        h0, c0 = previous.chunk(2, 2)
        mask = frozen_dropout((len(u), 1, self.hidden), self.dropout, u) if self.training else None
        injected = u + bias

        def f(z: Tensor) -> Tensor:
            h, c = z.chunk(2, 2)
            h = _masked(torch.cat([h0, h], 1), mask)
            gates = F.linear(torch.cat([h[:, :-1], h[:, 1:]], 2), weight) + injected
            i, o, candidate, forget = gates.chunk(4, 2)
            c = forget.sigmoid() * torch.cat([c0, c[:, :-1]], 1) + i.sigmoid() * candidate.tanh()
            return torch.cat([o.sigmoid() * c.tanh(), c], 2)

        return f


# --- images --------------------------------------------------------------------------------------------------


class ConvCell(nn.Module):
    """The cell of the tutorial: f = GN(relu(z + GN(x + conv(GN(relu(conv z)))))).

    Arguments:
        channels: Channels of the state.
        inner: Channels between the convolutions.
        groups: Groups of group normalisation.
        deviation: Standard deviation of initial weights.
    """

    def __init__(self, channels: int, inner: int, groups: int = 8, deviation: float = 0.01) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(groups, size) for size in (inner, channels, channels))
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, 0, deviation)

    def bind(self, x: Tensor) -> Function:
        """f for injections x, (B, C, H, W)."""

        def f(z: Tensor) -> Tensor:
            return self.norm3(F.relu(z + self.norm2(x + self.conv2(self.norm1(F.relu(self.conv1(z)))))))

        return f


class _Residual(nn.Module):
    """The residual block of one resolution; the injection enters before its second normalisation."""

    def __init__(self, channels: int, expansion: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv1 = weight_norm(nn.Conv2d(channels, expansion * channels, 3, padding=1, bias=False))
        self.conv2 = weight_norm(nn.Conv2d(expansion * channels, channels, 3, padding=1, bias=False))
        self.gn1 = nn.GroupNorm(groups, expansion * channels)
        self.gn2, self.gn3 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)

    def bind(self, injection: Tensor | None, like: Tensor) -> Function:
        first, second = self.conv1.weight, self.conv2.weight
        mask = frozen_dropout((len(like), len(second), 1, 1), self.dropout, like) if self.training else None

        def f(z: Tensor) -> Tensor:
            y = F.conv2d(F.relu(self.gn1(F.conv2d(z, first, padding=1))), second, padding=1)
            y = _masked(y, mask)
            y = self.gn2(y if injection is None else y + injection)
            return self.gn3(F.relu(y + z))

        return f


class _Down(nn.Sequential):
    """The path from a finer resolution: one strided convolution a halving; the last one changes the channels."""

    def __init__(self, source: int, target: int, halvings: int, groups: int) -> None:
        layers: list[nn.Module] = []
        for index in range(halvings):
            last = index == halvings - 1
            channels = target if last else source
            layers += [nn.Conv2d(source, channels, 3, 2, 1, bias=False), nn.GroupNorm(groups, channels)]
            layers += [] if last else [nn.ReLU()]
        super().__init__(*layers)


class _Up(nn.Sequential):
    """The path from a coarser resolution: a 1 x 1 convolution, then nearest-neighbour upsampling."""

    def __init__(self, source: int, target: int, doublings: int, groups: int) -> None:
        super().__init__(
            nn.Conv2d(source, target, 1, bias=False),
            nn.GroupNorm(groups, target),
            nn.Upsample(scale_factor=2**doublings),
        )


class MultiscaleCell(nn.Module):
    """The cell of MDEQ: a residual block at each resolution, then every resolution receives all others.

    Arguments:
        channels: Channels of each resolution, the finest first; each has half the side of the preceding one.
        expansion: Factor on the channels inside a residual block.
        groups: Groups of group normalisation; half as many after the fusion.
        dropout: Rate at which channels inside residual blocks are dropped.
        deviation: Standard deviation of initial weights.
    """

    def __init__(
        self, channels: Sequence[int], expansion: int = 5, groups: int = 8, dropout: float = 0.0,
        deviation: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels = tuple(channels)
        self.blocks = nn.ModuleList(_Residual(size, expansion, groups, dropout) for size in channels)
        self.fuse = nn.ModuleList(
            nn.ModuleList(_path(channels, source, target, groups) for source in range(len(channels)))
            for target in range(len(channels))
        )
        self.mix = nn.ModuleList(weight_norm(nn.Conv2d(size, size, 1, bias=False)) for size in channels)
        self.norm = nn.ModuleList(nn.GroupNorm(groups // 2, size, affine=False) for size in channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if hasattr(module, "parametrizations"):
                    weights = module.parametrizations.weight
                    nn.init.normal_(weights.original1, 0, deviation)
                    with torch.no_grad():
                        weights.original0.copy_(weights.original1.flatten(1).norm(dim=1).view_as(weights.original0))
                else:
                    nn.init.normal_(module.weight, 0, deviation)

    def sizes(self, side: int) -> list[tuple[int, int, int]]:
        """(channels, height, width) of each resolution; `side` is the side of the finest one in pixels."""
        return [(size, side >> index, side >> index) for index, size in enumerate(self.channels)]

    def bind(self, x: Tensor) -> Function:
        """f for injections x (B, C, H, W) at the finest resolution; states (B, D) are all resolutions, concatenated."""
        sizes = self.sizes(x.shape[-1])
        blocks = [block.bind(x if index == 0 else None, x) for index, block in enumerate(self.blocks)]
        mixes = [conv.weight for conv in self.mix]

        def f(z: Tensor) -> Tensor:
            parts = [block(part) for block, part in zip(blocks, self.split(z, sizes), strict=True)]
            fused = []
            for paths, mix, norm in zip(self.fuse, mixes, self.norm, strict=True):
                total = sum(path(part) for path, part in zip(paths, parts, strict=True))
                fused.append(norm(F.conv2d(F.relu(total), mix)))
            return self.join(fused)

        return f

    @staticmethod
    def split(z: Tensor, sizes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
        """The resolutions of a state, each (B, channels, height, width)."""
        parts = z.split([math.prod(size) for size in sizes], 1)
        return [part.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]

    @staticmethod
    def join(parts: Sequence[Tensor]) -> Tensor:
        """The state (B, D) of the given resolutions."""
        return torch.cat([part.flatten(1) for part in parts], 1)


def _path(channels: Sequence[int], source: int, target: int, groups: int) -> nn.Module:
    if source == target:
        return nn.Identity()
    make: Callable[..., nn.Module] = _Down if source < target else _Up
    return make(channels[source], channels[target], abs(target - source), groups)
