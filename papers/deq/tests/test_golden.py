"""Our functions against arrays of the official code and of torchdeq, ``$REFIGURE_GOLDEN/deq/<family>*.npz``.

Sizes, settings and numbers of resolutions are read off the arrays, so that any file of a family will do.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Golden
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from papers.deq.cells import ConvCell, MultiscaleCell, TransformerCell, TrellisCell
from papers.deq.implicit import implicit, jacobian_penalty, spectral_radius
from papers.deq.iteration import Function
from papers.deq.solvers import anderson, broyden, fixed_point

Arrays = dict[str, Tensor]
golden = Golden("deq")
EXACT = partial(torch.testing.assert_close, rtol=0, atol=1e-9)
NEAR = partial(torch.testing.assert_close, rtol=0, atol=1e-8)
EARLY = 9
"""Points that rounding has not yet driven apart (README of the golden files)."""


def recorded(a: Arrays) -> tuple[Function, list[Tensor]]:
    """The problem of the solvers, and where it will have been evaluated."""
    points: list[Tensor] = []

    def f(z: Tensor) -> Tensor:
        points.append(z.clone())
        return torch.tanh(z @ a["W"].T + a["x"] @ a["U"].T + a["b"])

    return f, points


def follows(solver: Callable, a: Arrays, settings: dict, most: str, tol: str, **options: object) -> None:
    """The points of evaluation, the residuals and the result agree."""
    f, points = recorded(a)
    stop = settings.get("arg_stop_mode", "abs")
    solution = solver(
        f, torch.zeros_like(a["evaluated_at"][0]), max_evals=int(settings[most]) + 1, tol=float(settings[tol]),
        stop=stop, per_sample="tdeq" in settings["name"], **options,
    )  # fmt: skip
    count = min(len(points), len(a["evaluated_at"]), EARLY)
    assert count >= 5
    assert abs(len(points) - len(a["evaluated_at"])) <= 1
    torch.testing.assert_close(torch.stack(points)[:count], a["evaluated_at"][:count], rtol=0, atol=1e-7)
    trace = a[f"{stop}_trace"]
    trace = trace[trace < 1e7].reshape(len(trace), -1).T if trace.ndim == 2 else trace[:, None]
    known = min(len(trace), count - 2)
    offsets = [
        shift for shift in range(3) if np.allclose(solution.trace[shift : shift + known], trace[:known], atol=1e-4)
    ]
    assert offsets, "the residuals do not appear in ours"
    # torchdeq's fixed points and Anderson give the image of the best point
    best = [solution.z, f(solution.z)]
    assert min(float((z - a["result"]).abs().max()) for z in best) < max(1e-7, 10 * float(solution.info.residual.max()))


@golden.families("solver_broyden", "solver_broyden_rel")
def solver_broyden(a: Arrays, s: dict) -> None:
    follows(broyden, a, s, "arg_threshold", "arg_eps")


def ridge(s: dict) -> dict:
    return {"window": int(s.get("arg_m", 6)), "ridge": float(s.get("arg_lam", 1e-4)), "absolute": True}


@golden.families("solver_anderson", "solver_anderson_default")
def solver_anderson(a: Arrays, s: dict) -> None:
    follows(anderson, a, s, "arg_threshold", "arg_eps", **ridge(s))


@golden.family
def solver_tdeq_fixed_point_iter(a: Arrays, s: dict) -> None:
    follows(fixed_point, a, s, "arg_max_iter", "arg_tol")


@golden.family
def solver_tdeq_anderson(a: Arrays, s: dict) -> None:
    follows(anderson, a, s, "arg_max_iter", "arg_tol", **ridge(s))


@golden.family
def solver_tdeq_broyden(a: Arrays, s: dict) -> None:
    follows(broyden, a, s, "arg_max_iter", "arg_tol")


@golden.family
def implicit_gradient(a: Arrays, _: dict) -> None:
    w, x = a["W"].clone().requires_grad_(), a["x"].clone().requires_grad_()

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ w.T + x @ a["U"].T + a["b"])

    solve = partial(broyden, max_evals=60, tol=1e-14)
    solution = implicit(f, torch.zeros_like(a["z_star"]), solve, solve)
    EXACT(solution.z.detach(), a["z_star"])
    slopes = torch.autograd.grad(solution.z, [w, x], a["dl_dz"])
    NEAR(slopes[0], a["grad_W"])
    NEAR(slopes[1], a["grad_x"])
    radius = spectral_radius(f, a["z_star"], 4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(radius, a["spectral_radius"], rtol=2e-3, atol=0)
    probes = jacobian_penalty(f, a["z_star"], 20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(probes, a["frobenius_sq"].mean() / a["z_star"].shape[1], rtol=0.03, atol=0)


@golden.family
def jacobian_loss(a: Arrays, _: dict) -> None:
    f, _ = recorded(a)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "normal_", lambda self, generator: self.copy_(a["eps"]))
        EXACT(jacobian_penalty(f, a["z"]), a["jac_loss"])


@golden.families("weight_norm")
def normed_weights(a: Arrays, _: dict) -> None:
    layer = weight_norm(nn.Linear(a["x"].shape[1], a["y"].shape[1])).double()
    fill(layer, {
        "bias": a["lin.bias"], "parametrizations.weight.original0": a["lin.weight_g"],
        "parametrizations.weight.original1": a["lin.weight_v"],
    })  # fmt: skip
    EXACT(layer.weight, a["weight"])
    EXACT(layer(a["x"]), a["y"])


def fill(module: nn.Module, values: Arrays) -> None:
    """Every parameter, none left over."""
    parameters = dict(module.named_parameters())
    assert set(parameters) == set(values)
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value.reshape(parameters[name].shape))


def transformer(a: Arrays, pre_norm: bool) -> None:
    heads, head = a["layer.dec_attn.r_w_bias"].shape
    features, inner = a["z"].shape[1], len(a["layer.pos_ff.ff1_net.bias"])
    cell = TransformerCell(features, heads, head, inner, pre_norm).double()
    names = {
        "qkv.weight": "dec_attn.qkv_net.weight", "distance.weight": "dec_attn.r_net.weight",
        "out.weight": "dec_attn.o_net.weight", "out.bias": "dec_attn.o_net.bias",
        "content_bias": "dec_attn.r_w_bias", "position_bias": "dec_attn.r_r_bias",
        "widen.weight": "pos_ff.ff1_net.weight", "widen.bias": "pos_ff.ff1_net.bias",
        "narrow.weight": "pos_ff.ff2_net.weight", "narrow.bias": "pos_ff.ff2_net.bias",
    }  # fmt: skip
    fill(cell, {ours: a[f"layer.{theirs}"] for ours, theirs in names.items()})
    f = cell.bind(a["u"].mT, a["mem"].mT)  # pos_emb is of sines and cosines, as ours
    # the official code masks its scores in single precision
    torch.testing.assert_close(f(a["z"].mT).mT.detach(), a["y"], rtol=0, atol=2e-7)


@golden.family
def transformer_layer_postln(a: Arrays, _: dict) -> None:
    transformer(a, pre_norm=False)


@golden.family
def transformer_layer_preln(a: Arrays, _: dict) -> None:
    transformer(a, pre_norm=True)


@golden.family
def trellis_lstm_layer(a: Arrays, _: dict) -> None:
    hidden = a["z"].shape[1] // 2
    cell = TrellisCell(hidden).double()
    kernel = a["layer.full_conv.weight"]
    weight = torch.cat([kernel[:, :, 0], kernel[:, :, 1]], 1)
    fill(cell, {
        "conv.bias": a["layer.full_conv.bias"], "conv.parametrizations.weight.original1": weight,
        "conv.parametrizations.weight.original0": weight.norm(dim=1, keepdim=True),
    })  # fmt: skip
    EXACT(cell.bind(a["u"].mT, a["z0"].mT)(a["z"].mT).mT.detach(), a["y"])


@golden.family
def tutorial_cell(a: Arrays, _: dict) -> None:
    inner, channels = a["cell.conv1.weight"].shape[:2]
    groups = 4
    cell = ConvCell(channels, inner, groups).double()
    fill(cell, {name.removeprefix("cell."): value for name, value in a.items() if name.startswith("cell.")})
    x = a["x"].clone().requires_grad_()
    f = cell.bind(x)
    EXACT(f(a["z"]).detach(), a["f_zx"])
    solve = partial(anderson, max_evals=1000, tol=1e-13)
    solution = implicit(f, torch.zeros_like(a["z"]), solve, solve)
    NEAR(solution.z.detach(), a["z_star"])
    parameters = dict(cell.named_parameters())
    slopes = torch.autograd.grad(solution.z, [x, *parameters.values()], a["dl_dz"])
    NEAR(slopes[0], a["grad_x"])
    for name, slope in zip(parameters, slopes[1:], strict=True):
        NEAR(slope, a[f"grad_cell.{name}"])


@golden.family
def mdeq_module(a: Arrays, _: dict) -> None:
    count = sum(name.startswith("z") for name in a)
    channels = [a[f"z{index}"].shape[1] for index in range(count)]
    groups = 2
    expansion = len(a["mdeq.branches.0.blocks.0.gn1.bias"]) // channels[0]
    cell = MultiscaleCell(channels, expansion, groups).double()
    fill(cell, {renamed(name.removeprefix("mdeq.")): value for name, value in a.items() if name.startswith("mdeq.")})
    z = cell.join([a[f"z{index}"] for index in range(count)])
    y = cell.bind(a["x0"])(z)
    for index, part in enumerate(cell.split(y, cell.sizes(a["x0"].shape[-1]))):
        EXACT(part.detach(), a[f"y{index}"])


def renamed(name: str) -> str:
    """A parameter's name in our cell: (convolution, normalisation, ReLU) of a path stand in one sequence."""
    name = re.sub(r"branches\.(\d+)\.blocks\.0", r"blocks.\1", name)
    name = re.sub(r"post_fuse_layers\.(\d+)\.conv", r"mix.\1", name)
    name = re.sub(r"fuse_layers\.(\d+)\.(\d+)\.net\.(?=[cg])", r"fuse_layers.\1.\2.net.0.", name)

    def place(match: re.Match) -> str:
        target, source, step, kind = match.groups()
        return f"fuse.{target}.{source}.{3 * int(step) + (kind == 'gnorm')}."

    name = re.sub(r"fuse_layers\.(\d+)\.(\d+)\.net\.(\d+)\.(conv|gnorm)\.", place, name)
    name = name.replace("weight_g", "parametrizations.weight.original0")
    return name.replace("weight_v", "parametrizations.weight.original1")


@golden.files
def test_agrees_with_the_official_code(name: str, file: Path) -> None:
    with np.load(file, allow_pickle=False) as arrays:
        numbers = {key: torch.as_tensor(array) for key, array in arrays.items() if array.dtype.kind == "f"}
        settings = {key: arrays[key].item() for key in arrays if key.startswith("arg_")}
    golden.checks[name](numbers, {**settings, "name": name})
