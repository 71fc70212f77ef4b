"""Our functions against arrays of the official code, ``$REFIGURE_GOLDEN/byol/<family>*.npz``; shapes and settings are
read off the arrays."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Arrays, Golden
from torch import Tensor, nn
from torch.nn import functional as F

from papers.byol import augmentations as plain
from papers.byol import fast_augmentations as fast
from papers.byol.config import Pretrain
from papers.byol.lars import Lars
from papers.byol.learner import family_loss, optimiser_of, update
from papers.byol.losses import regression_loss
from papers.byol.networks import BatchNorm, Byol
from papers.byol.pictures import normalise
from papers.byol.schedules import learning_rate, target_decay
from papers.byol.world import World

golden = Golden("byol")
NEAR = partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-4)


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


@golden.family
def loss(a: Arrays) -> None:
    p, z = torch.from_numpy(a["p"]).requires_grad_(), torch.from_numpy(a["z"])
    each = regression_loss(p, z)
    each.mean().backward()
    NEAR(each.detach(), a["per_sample"])
    NEAR(each.detach().mean(), a["mean"])
    assert p.grad is not None
    NEAR(p.grad, a["grad_p"])


@golden.family
def schedules(a: Arrays) -> None:
    total, warm_up, batch = int(a["K"]), int(a["warmup"]), int(a["batch"])
    rates = [learning_rate(int(step), total, warm_up, float(a["base_lr"]), batch) for step in a["steps"]]
    taus = [target_decay(int(step), total, float(a["base_ema"])) for step in a["steps"]]
    NEAR(rates, a["lr"])
    NEAR(taus, a["tau"])


@golden.family
def lars(a: Arrays) -> None:
    names = [name.removeprefix("p0:") for name in a if name.startswith("p0:")]
    values = {name: nn.Parameter(torch.from_numpy(a[f"p0:{name}"].copy())) for name in names}
    optimiser = Lars(
        values.values(), float(a.get("lr", 0.3)), float(a.get("weight_decay", 1e-2)), float(a.get("momentum", 0.9)),
        float(a.get("eta", 1e-3)),
    )  # fmt: skip
    steps = sum(name.endswith(f":{names[0]}") and name.startswith("g") for name in a)
    assert steps
    for step in range(steps):
        for name, value in values.items():
            value.grad = torch.from_numpy(a[f"g{step}:{name}"].copy())
        optimiser.step()
        for name, value in values.items():
            NEAR(value.detach(), a[f"p{step + 1}:{name}"], err_msg=f"{name} after step {step + 1}")


@golden.family
def augmentations(a: Arrays) -> None:
    x = torch.from_numpy(a["image"]).permute(2, 0, 1)

    def same(ours: Tensor, name: str) -> None:
        NEAR(ours.permute(1, 2, 0), a[name], err_msg=name)

    hsv = plain.rgb_to_hsv(x)
    same(hsv, "hsv")
    same(plain.hsv_to_rgb(hsv), "hsv_rgb")
    same(plain.brightness(x, float(a["bright_delta"])), "bright")
    same(plain.contrast(x, float(a["contrast_factor"])), "contrast")
    same(plain.saturation(x, float(a["sat_factor"])), "sat")
    same(plain.hue(x, float(a["hue_delta"])), "hue")
    same(plain.grey(x), "gray")
    same(plain.solarise(x), "solar")
    for name in ("blur", "blur3"):
        radius = int(float(a[f"{name}_kernel_size"]) / 2)
        same(plain.blur(x, float(a[f"{name}_sigma"]), radius), name)
        kernel = fast._toeplitz(plain.gaussian(torch.tensor([float(a[f"{name}_sigma"])]), radius), x.shape[-1])
        same(fast._separable(x[None], kernel, kernel)[0], name)
    for change, name, amount in (
        (fast._contrast, "contrast", "contrast_factor"), (fast._saturation, "sat", "sat_factor"),
        (fast._hue, "hue", "hue_delta"), (fast._brightness, "bright", "bright_delta"),
    ):  # fmt: skip
        same(change(x[None], torch.tensor([[[float(a[amount])]]]))[0], name)


class TinyEncoder(nn.Module):
    """The encoder of the golden steps: a convolution of stride 2 that pads at the bottom and right, as SAME does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, channels, 3, 2, bias=False), BatchNorm(channels)
        self.features = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.pad(x, (0, 1, 0, 1))))).mean((2, 3))


def official(model: Byol, branch: str) -> dict[str, Tensor]:
    """Official names and our values, of the online or of the target network."""
    ours = model.online if branch == "online" else model.target
    assert ours is not None
    named = {
        "encoder/conv/w": ours["encoder"].conv.weight, "encoder/norm_0/scale": ours["encoder"].norm.weight,
        "encoder/norm_0/offset": ours["encoder"].norm.bias,
    }  # fmt: skip
    heads = {"projector": ours["projector"]} | ({"predictor": model.predictor} if branch == "online" else {})
    for name, head in heads.items():
        named |= {
            f"{name}/linear/w": head[0].weight, f"{name}/linear/b": head[0].bias,
            f"{name}/batch_norm/scale": head[1].weight, f"{name}/batch_norm/offset": head[1].bias,
            f"{name}/linear_1/w": head[3].weight,
        }  # fmt: skip
    if branch == "online":
        named |= {"classifier/w": model.classifier.weight, "classifier/b": model.classifier.bias}
    return named


def as_ours(name: str, array: np.ndarray) -> np.ndarray:
    """An official array in our layout."""
    if name.endswith("conv/w"):
        return array.transpose(3, 2, 0, 1)
    return array.T if name.endswith("/w") else array.reshape(-1)


@golden.family
def training_steps(a: Arrays) -> None:
    classes, size = a["online0:classifier/b"].size, a["online0:projector/linear_1/w"].shape[1]
    config = Pretrain(
        encoder="small", widths=(a["online0:encoder/conv/w"].shape[3],), hidden=a["online0:projector/linear/b"].size,
        projection=size, tau=float(a["base_ema"]), base_rate=float(a["base_lr"]), batch=int(a["batch"]),
        weight_decay=float(a["weight_decay"]), momentum=float(a["momentum"]), eta=float(a["eta"]),
    )  # fmt: skip
    model = Byol(config, classes)
    for branch in (model.online, model.target):
        branch["encoder"] = TinyEncoder(config.widths[0])
    model.predictor[0] = nn.Linear(size, a["online0:predictor/linear/b"].size)
    model.predictor[1] = BatchNorm(model.predictor[0].out_features)
    model.predictor[3] = nn.Linear(model.predictor[0].out_features, size, bias=False)
    model.target.requires_grad_(False)
    for branch in ("online", "target"):
        for name, value in official(model, branch).items():
            value.data = torch.from_numpy(as_ours(name, a[f"{branch}0:{name}"]).copy())
    steps = sum(name.startswith("view1_") for name in a)
    views = [
        [normalise(torch.from_numpy(a[f"view{number}_{step}"]).permute(0, 3, 1, 2)) for number in (1, 2)]
        for step in range(steps)
    ]
    _, parts = family_loss(model, *views[0], config, World(0, 1))
    NEAR(parts["projection"].detach(), a["projection_view1"])
    NEAR(parts["prediction"].detach(), a["prediction_view1"])
    NEAR(parts["target"], a["target_projection_view2"])
    optimiser = optimiser_of(model, config)
    for step, (view1, view2) in enumerate(views):
        labels = torch.from_numpy(a[f"labels_{step}"]).long()
        logged = update(
            model, optimiser, view1, view2, labels, step, config, steps=int(a["max_steps"]), warm_up=int(a["warmup"])
        )
        NEAR(logged["loss"], a[f"repr_loss_{step}"])
        NEAR(logged["rate"], a[f"learning_rate_{step}"])
        NEAR(logged["tau"], a[f"tau_{step}"])
        if step == 0:
            for name, value in official(model, "online").items():
                NEAR(value.grad, as_ours(name, a[f"grad0:{name}"]), err_msg=name)
    for branch in ("online", "target"):
        for name, value in official(model, branch).items():
            NEAR(value.detach(), as_ours(name, a[f"{branch}{steps}:{name}"]), err_msg=f"{branch} {name}")


@golden.files
def test_golden(name: str, file: Path) -> None:
    golden.check(name, file)


def test_the_files_are_looked_for() -> None:
    assert set(golden.checks) == {"loss", "schedules", "lars", "augmentations", "training_steps"}


pytestmark = pytest.mark.filterwarnings("ignore:.*non-writable.*")
