"""Our layers against outputs of the official code, ``$REFIGURE_GOLDEN/survae/<family>*.npz``.

Batch sizes, widths, depths and the number of layers are read off the arrays, so that any file of a family
will do. What arrays cannot tell (attention heads) may be given as an array of that name.
"""

import re
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Arrays, Golden, agree

from papers.survae.bijections import (
    ActNorm,
    Affine,
    AffineCoupling,
    Conv1x1,
    Logit,
    Sigmoid,
    Softplus,
    SoftplusInverse,
)
from papers.survae.distributions import (
    Bernoulli,
    ConditionalNormal,
    Distribution,
    StandardNormal,
    StandardUniform,
)
from papers.survae.flow import Flow, importance_bound
from papers.survae.nets import MLP, DenseNet, DenseTransformer
from papers.survae.rearrangements import Permute, Reverse, Squeeze2d
from papers.survae.rounding import UniformDequantization, VariationalDequantization
from papers.survae.stochastic import VAE
from papers.survae.surjections import Abs, Augment, MaxPool2d, SignedAbs, Slice, Sort
from papers.survae.transforms import Transform

KEY = jax.random.key(0)
golden = Golden("survae")


# --- parameters of the official modules, into ours ---------------------------------------------------------


def natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def stacks(arrays: Arrays, prefix: str) -> list[str]:
    """The names, less ``weight``, of all layers under a prefix, in order."""
    return sorted(
        (n.removesuffix("weight") for n in arrays if n.startswith(prefix) and n.endswith(".weight")),
        key=natural,
    )


def outline(module: type[eqx.Module], *args: object, **kwargs: object) -> eqx.Module:
    """A module whose parameters are shapes only, to be filled in."""
    return eqx.filter_eval_shape(module, *args, **kwargs, key=KEY)


def load(module: eqx.Module, arrays: Arrays, name: str) -> eqx.Module:
    """A module with ``weight`` and ``bias`` from ``<name>weight`` and ``<name>bias``."""
    values = jnp.asarray(arrays[name + "weight"]), jnp.asarray(arrays[name + "bias"])
    assert [module.weight.shape, module.bias.shape] == [v.shape for v in values]
    return eqx.tree_at(lambda m: (m.weight, m.bias), module, values)


def mlp(arrays: Arrays, prefix: str) -> MLP:
    names = stacks(arrays, prefix)
    widths = [arrays[names[0] + "weight"].shape[1]] + [arrays[n + "weight"].shape[0] for n in names]
    net = outline(MLP, widths[0], widths[1:-1], widths[-1])
    return eqx.tree_at(lambda m: m.layers, net, tuple(map(load, net.layers, [arrays] * len(names), names)))


def count(arrays: Arrays, pattern: str) -> int:
    return len({m.group(1) for name in arrays if (m := re.match(pattern, name))})


def transformer(arrays: Arrays, prefix: str) -> DenseTransformer:
    [root] = [n.removesuffix("in_linear.weight") for n in stacked(arrays, prefix, "in_linear.weight")]
    d_model, inputs = arrays[f"{root}in_linear.weight"].shape
    depth = count(arrays, rf"{re.escape(root)}layers\.(\d+)\.")
    heads = int(arrays["heads"])
    positions = stacked(arrays, root + "encode", "")
    net = outline(
        DenseTransformer,
        inputs=inputs,
        outputs=arrays[f"{root}out_linear.weight"].shape[0],
        d_model=d_model,
        heads=heads,
        depth=depth,
        d_ff=arrays[f"{root}layers.0.linear1.weight"].shape[0],
        length=len(arrays[positions[0]]) if positions else None,
    )
    for name in ("in_linear", "out_norm", "out_linear"):
        loaded = load(getattr(net, name), arrays, f"{root}{name}.")
        net = eqx.tree_at(lambda m, name=name: getattr(m, name), net, loaded)
    if positions:
        value = jnp.asarray(arrays[positions[0]]).reshape(net.positions.shape)
        net = eqx.tree_at(lambda m: m.positions, net, value)
    places = {
        "norm1": "norm1.",
        "norm2": "norm2.",
        "linear1": "linear1.",
        "linear2": "linear2.",
        "in_proj": "self_attn.in_proj_",
        "out_proj": "self_attn.out_proj.",
    }
    for i in range(depth):
        for name, place in places.items():
            loaded = load(getattr(net.blocks[i], name), arrays, f"{root}layers.{i}.{place}")
            net = eqx.tree_at(lambda m, i=i, name=name: getattr(m.blocks[i], name), net, loaded)
    return net


def stacked(arrays: Arrays, prefix: str, suffix: str) -> list[str]:
    return [name for name in arrays if name.startswith(prefix) and name.endswith(suffix)]


def densenet(arrays: Arrays, prefix: str) -> DenseNet:
    names = stacks(arrays, prefix)  # in order: in, then per block its layers (1x1, 3x3) and its gate, then out
    depth = count(arrays, rf"{re.escape(prefix)}.*\.1\.dense\.(\d+)\.nn\.")
    blocks = (len(names) - 2) // (2 * depth + 1)
    mid, inputs = arrays[names[0] + "weight"].shape[:2]
    growth, outputs = arrays[names[2] + "weight"].shape[0], arrays[names[-1] + "weight"].shape[0]
    net = outline(DenseNet, inputs, outputs, mid, blocks, depth, growth)
    modules = lambda m: jax.tree.leaves(m, is_leaf=lambda n: hasattr(n, "weight"))  # noqa: E731
    loaded = [load(module, arrays, name) for module, name in zip(modules(net), names, strict=True)]
    return eqx.tree_at(modules, net, loaded, is_leaf=lambda n: hasattr(n, "weight"))


class Recorded(Distribution):
    """A distribution whose draw is on record."""

    law: Distribution
    value: jax.Array

    def log_prob(self, x, key=None, context=None):
        return self.law.log_prob(x, key, context)

    def sample(self, key, n, context=None):
        return self.value


# --- one check per family ----------------------------------------------------------------------------------


@eqx.filter_jit
def forward(layer: Transform, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return layer.forward(x, key=KEY)


@eqx.filter_jit
def inverse(layer: Transform, z: jax.Array) -> jax.Array:
    return layer.inverse(z)


@eqx.filter_jit
def log_prob(flow: Flow, x: jax.Array) -> jax.Array:
    return flow.log_prob(x)


@eqx.filter_jit
def apply(net: eqx.Module, x: jax.Array) -> jax.Array:
    return net(x)


def agree_layer(layer: Transform, a: Arrays, *, invert: bool = True, tolerance: float = 1e-10) -> None:
    """z, V and, for a bijection, the way back."""
    z, ladj = forward(layer, jnp.asarray(a["x"]))
    agree(z, a["z"])
    agree(ladj, a["ldj"] if "ldj" in a else np.zeros(len(a["x"])), tolerance)
    if invert:
        agree(inverse(layer, jnp.asarray(a["z"])), a.get("x_back", a["x"]))


@golden.family
def abs_simple(a: Arrays) -> None:
    agree_layer(Abs(), a, invert=False)


@golden.family
def abs_learned_sign(a: Arrays) -> None:
    layer = SignedAbs(mlp(a, "mlp."), elements=(0,))
    agree_layer(layer, a, invert=False)
    agree(apply(layer.classifier, jnp.asarray(a["z"]))[:, 0], a["sign_logit"].reshape(-1))


@golden.family
def checkerboard_absflow(a: Arrays) -> None:
    layers = [SignedAbs(mlp(a, "mlp."), (0,)), Affine((1 / 4, 1 / 8), (0, 1 / 2))]
    agree(log_prob(Flow(StandardUniform((2,)), layers), jnp.asarray(a["x"])), a["log_prob"])


@golden.family
def sort(a: Arrays) -> None:
    agree_layer(Sort(), {"x": a["x_flat"], "z": a["z_flat"], "ldj": a["ldj_flat"]}, invert=False)
    agree_layer(Sort(element=0), a, invert=False)


@golden.family
def maxpool2d(a: Arrays) -> None:
    agree_layer(MaxPool2d(), a, invert=False)
    _, d, k = eqx.filter_jit(MaxPool2d().split)(jnp.asarray(a["x"]))
    agree(d, a["xd"])
    agree(k, a["k"])
    agree(eqx.filter_jit(MaxPool2d().merge)(*(jnp.asarray(a[name]) for name in ("z", "xd", "k"))), a["x"])


@golden.family
def slice(a: Arrays) -> None:
    keep = int(a["num_keep"])
    agree_layer(Slice(StandardNormal(a["x"][0, keep:].shape), keep), a, invert=False)


@golden.family
def uniform_dequant(a: Arrays) -> None:
    recorded = Recorded(StandardUniform(a["u"].shape[1:]), jnp.asarray(a["u"]))
    layer = VariationalDequantization(recorded)
    z, ladj = forward(layer, jnp.asarray(a["x"]))
    single = 1e-6 * max(1.0, np.abs(a["ldj"]).max())  # recorded in single precision
    agree(z, a["z"], 1e-6)
    agree(ladj, a["ldj"], single)
    dequantized, ladj = forward(UniformDequantization(), jnp.asarray(a["x"]))
    agree(ladj, a["ldj"], single)
    for back in (inverse(UniformDequantization(), dequantized), inverse(layer, jnp.asarray(a["z"]))):
        agree(back, a["x_back"])


@golden.family
def augment(a: Arrays) -> None:
    size = a["x"].shape[1]
    noise = jnp.asarray(a["z"][:, size:])
    agree_layer(Augment(Recorded(StandardNormal(noise.shape[1:]), noise), size), a)


@golden.family
def squeeze2d(a: Arrays) -> None:
    agree_layer(Squeeze2d(), a)


@golden.family
def affine_coupling_exp(a: Arrays) -> None:
    agree_layer(AffineCoupling(mlp(a, "net."), "exp"), a)


@golden.family
def affine_coupling_softplus(a: Arrays) -> None:
    agree_layer(AffineCoupling(mlp(a, "net."), "softplus"), a)


@golden.family
def affine_coupling_tanh_exp(a: Arrays) -> None:
    agree_layer(AffineCoupling(mlp(a, "net."), "tanh_exp"), a)


def agree_toy(a: Arrays, first: list[Transform]) -> None:
    """log p, the loss and its gradient."""
    layers = list(first)
    depth = count(a, r"net(\d+)\.")
    for i in range(depth):
        layers += [AffineCoupling(mlp(a, f"net{i}."), "softplus"), Reverse()]
    flow = Flow(StandardNormal(a["x"].shape[1:]), layers[:-1])
    x = jnp.asarray(a["x"])
    agree(log_prob(flow, x), a["log_prob"])
    loss, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda f: -f.log_prob(x).mean()))(flow)
    agree(loss, a["loss"])
    graded = [i for i in range(depth) if stacks(a, f"grad_net{i}.")]
    assert graded
    for i in graded:
        net = gradient.transforms[len(first) + 2 * i].net
        for layer, name in zip(net.layers, stacks(a, f"grad_net{i}."), strict=True):
            agree(layer.weight, a[name + "weight"], 1e-8)
            agree(layer.bias, a[name + "bias"], 1e-8)


@golden.family
def toy_flow(a: Arrays) -> None:
    agree_toy(a, [])


@golden.family
def toy_absflow(a: Arrays) -> None:
    agree_toy(a, [Abs(), Affine(scale=1 / 4), Logit()])


@golden.family
def elementwise(a: Arrays) -> None:
    logit = {"x": a["p"], "z": a["logit"], "ldj": a["logit_ldj"]}
    softplus = {"x": a["q"], "z": a["softplus_inv"], "ldj": a["softplus_inv_ldj"]}
    sigmoid = {"x": a["s_in"], "z": a["sigmoid"], "ldj": a["sigmoid_ldj"]}
    # Read backwards, the same numbers are golden for the inverses. Far out, rounding undoes the way back.
    for layer, reverse, numbers, unbounded in (
        (Logit(), Sigmoid(), logit, "z"),
        (SoftplusInverse(), Softplus(), softplus, "z"),
        (Sigmoid(), Logit(), sigmoid, "x"),
    ):
        near = bool(np.abs(numbers[unbounded]).max() < 10)
        agree_layer(layer, numbers, invert=near)
        if near:
            agree_layer(reverse, {"x": numbers["z"], "z": numbers["x"], "ldj": -numbers["ldj"]})


@golden.family
def actnorm(a: Arrays) -> None:
    layer = ActNorm(a["x"].shape[1]).initialise(jnp.asarray(a["x"]))
    agree(layer.shift, a["shift"].reshape(-1))
    agree(layer.log_scale, a["log_scale"].reshape(-1))
    agree_layer(layer, a)


@golden.family
def actnorm1d(a: Arrays) -> None:
    actnorm(a)


@golden.family
def conv1x1(a: Arrays) -> None:
    channels = a["x"].shape[1]
    [name] = [name for name in a if name.startswith("conv.")]
    weight = jnp.asarray(a[name]).reshape(channels, channels)
    layer = eqx.tree_at(lambda m: m.weight, outline(Conv1x1, channels), weight)
    agree_layer(layer, a)


def with_any_heads(check: Callable[[Arrays], None]) -> Callable[[Arrays], None]:
    """A check that holds for the recorded number of attention heads, or for some divisor of the width.

    Heads leave no trace in the parameters; a wrong number gives another output.
    """

    def checked(a: Arrays) -> None:
        named = [n for n in ("heads", "num_heads", "nhead", "n_heads") if n in a]
        [width] = {array.shape[0] for name, array in a.items() if name.endswith("out_proj.weight")}
        candidates = [int(a[named[0]])] if named else [n for n in range(1, width + 1) if width % n == 0]
        faults = []
        for heads in sorted(candidates, key=lambda n: n != 2):  # the golden README's number first
            try:
                return check({**a, "heads": np.array(heads)})
            except AssertionError as fault:
                faults.append(fault)
        raise faults[0]

    checked.__name__ = check.__name__
    return checked


@golden.family
@with_any_heads
def dense_transformer(a: Arrays) -> None:
    agree(apply(transformer(a, "net."), jnp.asarray(a["x"])), a["y"])


@golden.family
@with_any_heads
def positional_dense_transformer(a: Arrays) -> None:
    net = transformer(a, "net.")
    assert net.positions is not None
    agree(apply(net, jnp.asarray(a["x"])), a["y"])


@golden.family
@with_any_heads
def sortflow_small(a: Arrays) -> None:
    x = jnp.asarray(a["x"])
    # The official block turns the coordinates round after the dimension-wise coupling.
    layers = [
        Permute(2, 1),
        Affine(1 / 28, -0.5),
        Sort(element=0),
        AffineCoupling(transformer(a, "net0."), "softplus", dim=1),
        Reverse(dim=1),
        AffineCoupling(transformer(a, "net1."), "softplus", dim=2),
    ]
    flow = Flow(StandardNormal(x.shape[:0:-1]), layers)
    agree(log_prob(flow, x), a["log_prob"])
    agree(log_prob(flow, jnp.asarray(a["x"][:, a["perm"]])), a["log_prob"])


@golden.family
def densenet_coupling(a: Arrays) -> None:
    agree_layer(AffineCoupling(densenet(a, "coupling."), "tanh_exp", order="sequential"), a)


@golden.family
def vae_layer(a: Arrays) -> None:
    encoder = Recorded(ConditionalNormal(mlp(a, "enc.")), jnp.asarray(a["z"]))
    # The official code sums log p(x|z) of this layer in single precision (V + log q is a float32 exactly).
    single = 1e-6 * max(1.0, np.abs(a["ldj"]).max())
    agree_layer(VAE(encoder, Bernoulli(mlp(a, "dec."))), a, invert=False, tolerance=single)


@golden.family
def iwbo(a: Arrays) -> None:
    agree(importance_bound(jnp.asarray(a["ll"])), a["iwbo"])


@pytest.mark.usefixtures("x64")
@golden.files
def test_agrees_with_the_official_code(name: str, file: Path) -> None:
    golden.check(name, file)
