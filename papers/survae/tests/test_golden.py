"""Layers against outputs of the official code: every ``survae/<family>*.npz`` below REFIGURE_GOLDEN.

Sizes, depths and numbers of layers are read off the arrays, so files of other shapes are tested as they are.
Attention heads leave no trace in the parameters: a file may hold them as ``heads``, else one of the divisors
of the width must reproduce the file. The official code computed two families partly in single precision, so
that these bear no tighter tolerance: uniform_dequant and the Bernoulli decoder of vae_layer.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from papers.survae import bijections, distributions, nets, stochastic, surjections
from papers.survae.flow import Flow, importance_bound

pytestmark = pytest.mark.golden

Arrays = dict[str, Tensor]
Check = Callable[[Arrays], None]
CHECKS: dict[str, Check] = {}


def family(*names: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        for name in names:
            CHECKS[name] = check
        return check

    return register


def _cases() -> list:
    root = os.environ.get("REFIGURE_GOLDEN")
    folder = Path(root) / "survae" if root else None
    found: dict[str, list[Path]] = {name: [] for name in CHECKS}
    for path in sorted(folder.glob("*.npz")) if folder else []:
        # `sortflow_small` is a family of its own and no file of `sort`: the longest name counts.
        name = max((n for n in CHECKS if path.stem.startswith(n)), key=len, default=None)
        if name is not None:
            found[name].append(path)
    if folder is None:
        reason = "REFIGURE_GOLDEN is not set"
    elif not folder.is_dir():
        reason = f"no folder {folder}"
    else:
        reason = "no file of this family"
    cases = []
    for name, paths in found.items():
        cases += [pytest.param(name, path, id=path.stem) for path in paths]
        if not paths:
            cases.append(pytest.param(name, None, id=name, marks=pytest.mark.skip(reason=reason)))
    return cases


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


SINGLE = {"atol": 1e-6, "rtol": 1e-6}


def close(actual: Tensor, expected: Tensor, atol: float = 1e-10, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, check_dtype=False)


def part(d: Arrays, prefix: str) -> Arrays:
    """The arrays below a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in d.items() if k.startswith(prefix)}


def mlp(d: Arrays) -> nets.MLP:
    """The MLP with these parameters, ``<i>.weight`` and ``<i>.bias`` with i = 0, 2, 4, ..."""
    weights = [
        d[k] for k in sorted((k for k in d if k.endswith("weight")), key=lambda k: int(k.split(".")[0]))
    ]
    net = nets.MLP(weights[0].shape[1], [w.shape[0] for w in weights[:-1]], weights[-1].shape[0])
    net.load_state_dict(d)
    return net


def numbered(d: Arrays, prefix: str) -> list[Arrays]:
    """The parameters below ``<prefix>0.``, ``<prefix>1.``, ... as one dictionary each."""
    count = len({k[len(prefix) :].split(".")[0] for k in d if k.startswith(prefix)})
    return [part(d, f"{prefix}{i}.") for i in range(count)]


def transformer(d: Arrays, heads: int) -> nets.DenseTransformer:
    inputs, outputs = d["in_linear.weight"].shape[1], d["out_linear.weight"].shape[0]
    sizes = {
        "width": d["in_linear.weight"].shape[0],
        "heads": heads,
        "feed_forward": d["layers.0.linear1.weight"].shape[0],
        "layers": len(numbered(d, "layers.")),
    }
    if "encode.encode_l" in d:
        length = d["encode.encode_l"].shape[0]
        net = nets.PositionalDenseTransformer(length, inputs, outputs, **sizes)
        d = {"position" if k == "encode.encode_l" else k: v for k, v in d.items()}
        d["position"] = d["position"].reshape(length, -1)
    else:
        net = nets.DenseTransformer(inputs, outputs, **sizes)
    net.load_state_dict(d)
    return net


def some_heads(d: Arrays, width: int, check: Callable[[int], None]) -> None:
    """Passes if the check does for the recorded number of heads or else for any possible one."""
    recorded = next((int(d[k]) for k in ("heads", "num_heads", "nhead") if k in d), None)
    candidates = (
        [recorded] if recorded else [2, *(h for h in range(1, width + 1) if width % h == 0 and h != 2)]
    )
    failures = []
    for heads in candidates:
        if width % heads:
            continue
        try:
            return check(heads)
        except AssertionError as failure:
            failures.append(f"{heads} heads: {failure}")
    pytest.fail("\n".join(failures))


class Recorded(distributions.Distribution):
    """An encoder whose draw is on record; densities are those of the true encoder."""

    def __init__(self, draw: Tensor, encoder: distributions.Distribution) -> None:
        super().__init__()
        self.draw = draw
        self.encoder = encoder

    def sample_with_log_prob(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.draw, self.encoder.log_prob(self.draw, context)


def check_layer(layer: nn.Module, d: Arrays, **tolerance: float) -> None:
    z, ladj = layer(d["x"])
    close(z, d["z"], **tolerance)
    if "ldj" in d:
        close(ladj, d["ldj"], **tolerance)
    if "x_back" in d:
        close(layer.inverse(d["z"]), d["x_back"])


@family("abs_simple")
def abs_simple(d: Arrays) -> None:
    check_layer(surjections.Abs(), d)


@family("abs_learned_sign")
def abs_learned_sign(d: Arrays) -> None:
    net = mlp(part(d, "mlp."))
    check_layer(surjections.SignedAbs(net, [0]), d)
    close(net(d["z"]).flatten(), d["sign_logit"].flatten())


@family("checkerboard_absflow")
def checkerboard_absflow(d: Arrays) -> None:
    to_unit = bijections.Affine((1 / 4, 1 / 8), (0, 1 / 2))
    layers = [surjections.SignedAbs(mlp(part(d, "mlp.")), [0]), to_unit]
    close(Flow(distributions.StandardUniform((2,)), layers).log_prob(d["x"]), d["log_prob"])


@family("sort")
def sort(d: Arrays) -> None:
    check_layer(surjections.Sort(), {k.removesuffix("_flat"): v for k, v in d.items() if "_flat" in k})
    check_layer(surjections.Sort(channel=0), d)


@family("maxpool2d")
def maxpool2d(d: Arrays) -> None:
    layer = surjections.MaxPool2d()
    check_layer(layer, d)
    _, k, distances = layer.split(d["x"])
    close(distances, d["xd"])
    assert torch.equal(k, d["k"])
    close(layer.join(d["z"], d["k"], d["xd"]), d["x"])


@family("slice")
def slice_(d: Arrays) -> None:
    keep = int(d["num_keep"])
    discarded = (d["x"].shape[1] - keep, *d["x"].shape[2:])
    check_layer(surjections.Slice(distributions.StandardNormal(discarded), keep), d)


@family("uniform_dequant")
def uniform_dequant(d: Arrays) -> None:
    u = Recorded(d["u"], distributions.StandardUniform(d["u"].shape[1:]))
    check_layer(surjections.VariationalDequantization(u), d, **SINGLE)
    close(surjections.UniformDequantization(d["x"].shape[1:])(d["x"])[1], d["ldj"], **SINGLE)


@family("augment")
def augment(d: Arrays) -> None:
    size = d["x"].shape[1]
    noise = d["z"][:, size:]
    layer = surjections.Augment(Recorded(noise, distributions.StandardNormal(noise.shape[1:])), size)
    check_layer(layer, d)
    close(layer.inverse(d["z"]), d["x"])


@family("squeeze2d")
def squeeze2d(d: Arrays) -> None:
    check_layer(bijections.Squeeze2d(), d)
    close(bijections.Squeeze2d().inverse(d["z"]), d["x"])


@family("affine_coupling_exp", "affine_coupling_softplus", "affine_coupling_tanh_exp")
def affine_coupling(d: Arrays) -> None:
    scale_fn = str(d["family"]).removeprefix("affine_coupling_")
    check_layer(bijections.AffineCoupling(mlp(part(d, "net.0.")), scale_fn), d)


@family("toy_flow", "toy_absflow")
def toy(d: Arrays) -> None:
    layers = []
    for arrays in numbered(d, "net"):
        layers += [bijections.AffineCoupling(mlp(part(arrays, "0.")), "softplus"), bijections.Reverse()]
    first = layers[0].net
    if d["family"] == "toy_absflow":
        layers = [surjections.Abs(), bijections.Affine(1 / 4), bijections.Logit(), *layers]
    log_prob = Flow(distributions.StandardNormal((d["x"].shape[1],)), layers[:-1]).log_prob(d["x"])
    close(log_prob, d["log_prob"])
    loss = -log_prob.mean()
    close(loss, d["loss"])
    loss.backward()
    for name, p in first.named_parameters():
        close(p.grad, d[f"grad_net0.0.{name}"], atol=1e-8)


@family("elementwise")
def elementwise(d: Arrays) -> None:
    check_layer(bijections.Logit(), {"x": d["p"], "z": d["logit"], "ldj": d["logit_ldj"], "x_back": d["p"]})
    inverse = {"x": d["q"], "z": d["softplus_inv"], "ldj": d["softplus_inv_ldj"], "x_back": d["q"]}
    check_layer(bijections.SoftplusInverse(), inverse)
    check_layer(bijections.Softplus(), {"x": d["softplus_inv"], "z": d["q"], "ldj": -d["softplus_inv_ldj"]})
    check_layer(bijections.Sigmoid(), {"x": d["s_in"], "z": d["sigmoid"], "ldj": d["sigmoid_ldj"]})


@family("actnorm", "actnorm1d")
def actnorm(d: Arrays) -> None:
    layer = bijections.ActNorm(d["x"].shape[1])
    close(layer.initialise(d["x"]), d["z"])
    close(layer.shift, d["shift"].flatten())
    close(layer.log_scale, d["log_scale"].flatten())
    check_layer(layer, {**d, "x_back": d["x"]})


@family("conv1x1")
def conv1x1(d: Arrays) -> None:
    layer = bijections.Conv1x1(d["x"].shape[1])
    layer.weight.data = d["conv.weight"].reshape(layer.weight.shape)
    check_layer(layer, d)


@family("dense_transformer", "positional_dense_transformer")
def dense_transformer(d: Arrays) -> None:
    parameters = part(d, "net.")
    width = parameters["in_linear.weight"].shape[0]
    some_heads(d, width, lambda heads: close(transformer(parameters, heads)(d["x"]), d["y"]))


@family("sortflow_small")
def sortflow_small(d: Arrays) -> None:
    points, dims = d["x"].shape[1:]
    width = d["net0.0.in_linear.weight"].shape[0]

    def check(heads: int) -> None:
        layers = [bijections.Permute(2, 1), bijections.Affine(1 / 28, -0.5), surjections.Sort(channel=0)]
        for arrays in numbered(d, "net"):
            net = transformer(part(arrays, "0."), heads)
            # The dimension-wise net sees a part of the coordinates and is followed by their reversal, the
            # length-wise one sees all of them.
            if net.in_linear.in_features < dims:
                layers += [bijections.AffineCoupling(net, "softplus", dim=1), bijections.Reverse(1)]
            else:
                layers.append(bijections.AffineCoupling(net, "softplus", dim=2))
        flow = Flow(distributions.StandardNormal((dims, points)), layers)
        close(flow.log_prob(d["x"]), d["log_prob"])
        close(flow.log_prob(d["x"][:, d["perm"]]), d["log_prob"])

    some_heads(d, width, check)


@family("densenet_coupling")
def densenet_coupling(d: Arrays) -> None:
    p = part(d, "coupling.coupling_net.0.")
    blocks = numbered(p, "1.dense.")
    net = nets.DenseNet(
        inputs=p["0.weight"].shape[1],
        outputs=p["2.weight"].shape[0],
        width=p["0.weight"].shape[0],
        depth=len(blocks) - 1,
        growth=blocks[0]["nn.2.weight"].shape[0],
    )
    names = {"in_conv": part(p, "0."), "gate": part(blocks[-1], "conv."), "out_conv": part(p, "2.")}
    names |= {f"dense.{i}": part(block, "nn.") for i, block in enumerate(blocks[:-1])}
    net.load_state_dict({f"{name}.{k}": v for name, arrays in names.items() for k, v in arrays.items()})
    layer = bijections.AffineCoupling(net, "tanh_exp", order="sequential")
    check_layer(layer, {**d, "x_back": d["x"]})


@family("vae_layer")
def vae_layer(d: Arrays) -> None:
    encoder = distributions.ConditionalNormal(mlp(part(d, "enc.net.")))
    decoder = distributions.Bernoulli(mlp(part(d, "dec.net.")))
    check_layer(stochastic.VAE(Recorded(d["z"], encoder), decoder), d, **SINGLE)


@family("iwbo")
def iwbo(d: Arrays) -> None:
    close(importance_bound(d["ll"]), d["iwbo"])


@pytest.mark.parametrize(("name", "path"), _cases())
def test_golden(name: str, path: Path) -> None:
    with np.load(path) as arrays:
        d = {k: torch.from_numpy(np.asarray(arrays[k])) for k in arrays.files}
    kept = {k: v.clone() for k, v in d.items()}
    CHECKS[name]({**d, "family": name})
    for key, value in d.items():
        assert torch.equal(value, kept[key]), f"{key} was written to"
