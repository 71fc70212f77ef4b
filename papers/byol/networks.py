"""Online and target network: encoder f, projector g, predictor q (section 3.1 and 3.3)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import RefigureError
from papers.byol.world import world

if TYPE_CHECKING:
    from papers.byol.config import Pretrain

__all__ = ["BatchNorm", "Byol", "ResNet", "SmallEncoder", "encoder", "load_encoder", "mlp"]


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the second: decay 0.9, ε = 1e-5, one batch of all processes.

    A pass holds one view, so statistics are those of a view. Where several processes share the batch, sums of values
    and of squared distances from the mean are added over processes, and so are their gradients.
    """

    DECAY, EPSILON = 0.9, 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        together = world()
        count = x.numel() // x.shape[1] * together.size
        if self.training and count < 2:
            raise RefigureError(
                "batch normalisation needs two values a channel at least, and got a batch of one: set batch and micro "
                "to 2 or more"
            )
        if not self.training or together.size == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 1 - self.DECAY,
                self.EPSILON,
            )  # fmt: skip
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean = together.sum(x.float().sum(axes)) / count
        centred = x - mean.view(shape)
        variance = together.sum(centred.float().square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, 1 - self.DECAY)
            self.running_var.lerp_(variance * count / (count - 1), 1 - self.DECAY)
        scale = self.weight * (variance + self.EPSILON).rsqrt()
        return centred * scale.view(shape) + self.bias.view(shape)


def _initialise(module: nn.Module) -> nn.Module:
    """Weights of all layers: normal, cut at two deviations, deviation 1/√fan-in; biases 0 (Haiku's defaults)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            deviation = layer.weight[0].numel() ** -0.5
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def mlp(source: int, hidden: int, target: int, depth: int = 2) -> nn.Sequential:
    """A projector or predictor: `depth` linear layers, batch normalisation and ReLU between; no bias at the end."""
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(source, hidden), BatchNorm(hidden), nn.ReLU()]
        source = hidden
    return nn.Sequential(*layers, nn.Linear(source, target, bias=False))


def _conv(source: int, target: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(source, target, size, stride, size // 2, bias=False)


class SmallEncoder(nn.Module):
    """3 x 3 convolutions, all but the first of stride 2, with batch normalisation and ReLU; a mean over positions."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place, (source, target) in enumerate(zip((3, *widths), widths, strict=False)):
            layers += [_conv(source, target, 3, 1 if place == 0 else 2), BatchNorm(target), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """A block of ResNet v1: basic (3 x 3 twice) or a bottleneck (1 x 1, 3 x 3, 1 x 1, four times as wide)."""

    def __init__(self, source: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        target = 4 * width if bottleneck else width
        sizes = (
            [(source, width, 1, 1), (width, width, 3, stride), (width, target, 1, 1)]
            if bottleneck
            else [(source, width, 3, stride), (width, target, 3, 1)]
        )
        layers: list[nn.Module] = []
        for place, (inner, outer, size, step) in enumerate(sizes):
            layers += [nn.ReLU()] * bool(place) + [_conv(inner, outer, size, step), BatchNorm(outer)]
        self.path = nn.Sequential(*layers)
        changed = stride > 1 or source != target
        self.skip = nn.Sequential(_conv(source, target, 1, stride), BatchNorm(target)) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.path(x) + self.skip(x))


class ResNet(nn.Module):
    """ResNet v1 (post-activation) without its classifier; a mean over positions.

    Arguments:
        blocks: Blocks of each stage.
        bottleneck: Which kind of block.
        width: Multiple of 64 channels in the first stage.
        small: Whether images are 32 x 32: the stem is a 3 x 3 convolution without pooling.
    """

    def __init__(self, blocks: Sequence[int], bottleneck: bool, width: int, small: bool) -> None:
        super().__init__()
        channels = 64 * width
        stem: list[nn.Module] = [_conv(3, channels, 3 if small else 7, 1 if small else 2), BatchNorm(channels)]
        self.stem = nn.Sequential(*stem, nn.ReLU(), *([] if small else [nn.MaxPool2d(3, 2, 1)]))
        stages: list[nn.Module] = []
        source = channels
        for stage, count in enumerate(blocks):
            inner = channels * 2**stage
            for place in range(count):
                stages.append(_Residual(source, inner, 2 if stage and not place else 1, bottleneck))
                source = 4 * inner if bottleneck else inner
        self.stages = nn.Sequential(*stages)
        self.features = source

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)).mean((2, 3))  # type: ignore[no-any-return]


def encoder(config: "Pretrain") -> nn.Module:
    """The encoder f of a configuration, with its number of features as `features`."""
    if config.encoder == "small":
        return SmallEncoder(config.widths)
    if config.encoder == "resnet18":
        return ResNet((2, 2, 2, 2), False, config.multiple, small=config.side <= 64)
    return ResNet((3, 4, 6, 3), True, config.multiple, small=False)


class Byol(nn.Module):
    """All networks of a run. `online` and `predictor` learn, `target` follows, `classifier` watches.

    Attributes:
        online: Encoder f_θ and projector g_θ.
        predictor: q_θ, or nothing where there is none.
        target: f_ξ and g_ξ, which are averages; nothing where the other branch is the online network itself.
        classifier: A linear layer on y_θ without a gradient to it: the online probe.
    """

    def __init__(self, config: "Pretrain", classes: int) -> None:
        super().__init__()

        def branch() -> nn.ModuleDict:
            f = encoder(config)
            head = mlp(f.features, config.hidden, config.projection, config.projector_depth)  # type: ignore[arg-type]
            return nn.ModuleDict({"encoder": f, "projector": head})

        self.online = branch()
        self.predictor = (
            mlp(config.projection, config.hidden, config.projection, config.predictor_depth)
            if config.predictor
            else nn.Identity()
        )
        self.target = branch().requires_grad_(False) if config.target == "average" else None
        self.classifier = nn.Linear(self.online["encoder"].features, classes)  # type: ignore[arg-type]
        _initialise(self)

    @torch.no_grad()
    def follow(self, tau: float) -> None:
        """ξ ← τ ξ + (1 - τ) θ for all parameters, biases and scales among them, and for no running statistics."""
        if self.target is not None:
            torch._foreach_lerp_(list(self.target.parameters()), list(self.online.parameters()), 1 - tau)


def load_encoder(network: nn.Module, parameters: dict[str, Tensor]) -> None:
    """Put parameters into an encoder.

    Raises:
        RefigureError: They belong to an encoder of another width or depth.
    """
    state = network.state_dict()
    if wrong := state.keys() ^ parameters.keys():
        raise RefigureError(
            f"the checkpoint is of another encoder: {sorted(wrong)[0]} stands in one alone; use the settings "
            "encoder, multiple and widths that it was trained with"
        )
    for name, value in state.items():
        if value.shape != parameters[name].shape:
            raise RefigureError(
                f"the checkpoint is of an encoder of another width: {name} is {[*parameters[name].shape]}, expected "
                f"{[*value.shape]}; use the settings encoder, multiple and widths that it was trained with"
            )
    network.load_state_dict(parameters)
