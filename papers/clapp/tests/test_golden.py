"""Losses, gradients and the rule against arrays of the official code, `$REFIGURE_GOLDEN/clapp/<family>*.npz`."""

from pathlib import Path

import numpy as np
import torch
from golden import Arrays, Golden

from papers.clapp.encoder import Encoder
from papers.clapp.losses import Draw
from papers.clapp.patches import offset_pairs
from papers.clapp.rule import local_update
from papers.clapp.step import losses_of

SKIP = 1
"""Rows between a context and the target of offset 1 (official code)."""
STRIDE = 4
golden = Golden("clapp")


def encoder_of(a: Arrays) -> tuple[Encoder, list[int]]:
    """The network of a file, and the layers that have a loss."""
    depth = sum(name.endswith("_W") for name in a)
    losses = [layer for layer in range(depth) if f"L{layer}_loss" in a]
    modules = [1] * depth if len(losses) == depth else [depth]
    side, pools = int(a["patch"]), [layer + 1 for layer in range(depth) if layer % 2]
    separate = f"L{losses[0]}_Wk_mirror" in a
    encoder = Encoder(
        a["x"].shape[1], [len(a[f"L{layer}_W"]) for layer in range(depth)], pools, modules, (side, side),
        (STRIDE, STRIDE), heads="separate" if separate else "shared", offsets=len(a[f"L{losses[0]}_Wk"]), bias=True,
        classes=0,
    ).double()  # fmt: skip
    layers = [layer for stage in encoder.stages for layer in stage.layers]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight.copy_(torch.from_numpy(a[f"L{number}_W"]))
            layer.bias.copy_(torch.from_numpy(a[f"L{number}_b"]))
        for stage, number in zip(encoder.stages, losses, strict=True):
            stage.prediction.copy_(torch.from_numpy(a[f"L{number}_Wk"]))
            if separate:
                stage.retrodiction.copy_(torch.from_numpy(a[f"L{number}_Wk_mirror"]))
    return encoder, losses


def draws_of(a: Arrays, layer: int) -> tuple[Draw, ...]:
    """What chance decided, a draw a head."""
    index, offsets, batch = a[f"L{layer}_neg_index"], len(a[f"L{layer}_Wk"]), len(a["x"])
    fixates = a.get(f"L{layer}_is_pos")
    rows, columns = a[f"L{layer}_out"].shape[2:]
    draws = []
    for head in range(len(index) // offsets):
        others = []
        for row, pair in zip(
            index[head * offsets : (head + 1) * offsets], offset_pairs(rows, offsets, SKIP), strict=True
        ):
            row = torch.from_numpy(row[row >= 0].astype(np.int64))
            targets = (pair.target.stop - pair.target.start) * columns * batch
            same_place = index.shape[1] == batch
            others.append(row if same_place else row.view(-1, columns, batch, len(row) // targets))
        draws.append(Draw(None if fixates is None else torch.from_numpy(fixates[head]), others))
    return tuple(draws)


def close(ours: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(ours.detach(), torch.from_numpy(np.array(expected)), rtol=1e-9, atol=1e-12)


def agrees(a: Arrays, objective: str = "hinge") -> None:
    encoder, layers = encoder_of(a)
    x = torch.from_numpy(a["x"])
    draws = [draws_of(a, layer) for layer in layers]
    losses = losses_of(encoder, x, objective, draws, SKIP)
    for layer, loss in zip(layers, losses, strict=True):
        close(loss, a[f"L{layer}_loss"])
    sum(losses).backward()
    numbered = enumerate(layer for stage in encoder.stages for layer in stage.layers)
    activities, grid = encoder.activities(x)
    for number, layer in numbered:
        close(layer.weight.grad, a[f"L{number}_gW"])
        close(layer.bias.grad, a[f"L{number}_gb"])
        close(activities[number].mean.unflatten(0, grid).permute(2, 3, 0, 1), a[f"L{number}_out"])
    for stage, layer in zip(encoder.stages, layers, strict=True):
        close(stage.prediction.grad, a[f"L{layer}_gWk"])
        if len(draws[0]) == 2:
            close(stage.retrodiction.grad, a[f"L{layer}_gWk_mirror"])
    if objective == "hinge" and len(layers) == len(activities):  # layer-wise: the rule gives the same
        for stage, layer, activity, draw in zip(encoder.stages, layers, activities, draws, strict=True):
            changes, loss = local_update(stage, activity, grid, draw, SKIP)
            close(loss, a[f"L{layer}_loss"])
            names = {"layers.0.weight": "gW", "layers.0.bias": "gb", "prediction": "gWk", "retrodiction": "gWk_mirror"}
            for name, change in changes.items():
                close(-change, a[f"L{layer}_{names[name]}"])


@golden.family
def sync_symmetric(a: Arrays) -> None:
    agrees(a)


@golden.family
def clapp_async_asymmetric(a: Arrays) -> None:
    agrees(a)


@golden.family
def clapp_s_16neg(a: Arrays) -> None:
    agrees(a)


@golden.family
def hinge_cpc_e2e(a: Arrays) -> None:
    agrees(a)


@golden.family
def gim_multiclass(a: Arrays) -> None:
    agrees(a, "contrastive")


@golden.files
def test_agrees_with_the_official_code(name: str, file: Path) -> None:
    golden.check(name, file)
