"""Rules, lifetimes, encoder and evolution against arrays of the official code, ``$REFIGURE_GOLDEN/hebbian_abcd``."""

import itertools
from pathlib import Path
from types import MethodType

import jax.numpy as jnp
import numpy as np
from golden import Arrays, Golden
from jaxtyping import Float

from common.train.evolution import Params, centred_ranks
from papers.hebbian_abcd import evolution
from papers.hebbian_abcd.fast_encoder import encode_all
from papers.hebbian_abcd.fast_plasticity import live_step
from papers.hebbian_abcd.network import PlasticMLP, encode
from papers.hebbian_abcd.plasticity import RULES, hebbian_update, of_columns
from papers.hebbian_abcd.racing import controls

golden = Golden("hebbian_abcd")


def by_layer(coefficients: np.ndarray, sizes: list[int]) -> list[Float[np.ndarray, "K m n"]]:
    """From rows of synapses, pre-major in each layer, to an array (K, post, pre) of each layer."""
    rows, layers, start = coefficients.reshape(len(coefficients), -1), [], 0
    for n, m in itertools.pairwise(sizes):
        layers.append(rows[start : start + n * m].reshape(n, m, -1).transpose(2, 1, 0))
        start += n * m
    return layers


@golden.family
def rules(a: Arrays) -> None:
    """One update by every rule."""
    sizes = [len(a[f"o{layer}"]) for layer in range(4)]
    for rule in RULES:
        for layer, k in enumerate(by_layer(a[f"{rule}__coeffs"], sizes), 1):
            after = hebbian_update(a[f"w{layer}_before"], of_columns(rule, k), a[f"o{layer - 1}"], a[f"o{layer}"])
            np.testing.assert_allclose(after, a[f"{rule}__w{layer}_after"], rtol=0, atol=1e-12)


@golden.family
def episode(a: Arrays) -> None:
    """A lifetime, plainly and fast: with the quadruped's outputs, and with outputs and normalisation of other tasks."""
    steps, outputs = a["reward_weights"].shape
    sizes = [a["obs"].shape[1], 128, 64, outputs]
    k = by_layer(a["coeffs"], sizes)
    k_a, k_b, k_c, k_eta, k_d = a["coeffs"].T
    changes = (k_eta * np.stack([k_a, k_b, k_c, k_d]))[None].astype(np.float32)
    for kind, raw in (("tanh_nonorm", False), ("clip_norm", True)):
        parts = np.split(a["initial_weights"], np.cumsum([n * m for n, m in itertools.pairwise(sizes)])[:-1])
        weights = tuple(part.reshape(m, n) for part, (n, m) in zip(parts, itertools.pairwise(sizes), strict=True))
        network = PlasticMLP(tuple(sizes), "raw" if raw else "tanh", normalise=raw)
        packed = np.concatenate([layer.T.ravel() for layer in weights])[None].astype(np.float32)
        scales = np.ones((1, 3), np.float32)
        plain, fast = np.empty((2, steps, outputs), np.float32)
        for step, x in enumerate(a["obs"][:steps]):
            weights, plain[step] = network.step(weights, tuple(of_columns("ABCD_lr", layer) for layer in k), x)
            observations = x[None].astype(np.float32)
            live_step(
                packed, scales, changes, observations, np.array(sizes), raw, raw,
                fast[step : step + 1],
            )  # fmt: skip
        for actions in (plain.clip(-1, 1), fast.clip(-1, 1)):
            np.testing.assert_allclose(actions, a[f"{kind}__actions"], rtol=0, atol=1e-4)
            fitness = (actions * a["reward_weights"]).sum()
            np.testing.assert_allclose(fitness, a[f"{kind}__fitness"], rtol=0, atol=1e-3)


@golden.family
def cnn(a: Arrays) -> None:
    """The encoder, plainly and fast, and the controls of the car."""
    image, kernels = a["image_uint8"], a["cnn_params"]
    np.testing.assert_allclose(encode(kernels, image), a["features"], rtol=0, atol=1e-5)
    fast = encode_all(kernels[None].astype(np.float32), image[None])
    np.testing.assert_allclose(fast[0], a["features"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(controls(a["out_weights"] @ a["hidden2"]), a["action"], rtol=0, atol=1e-5)


@golden.family
def es(a: Arrays) -> None:
    """Generations; the kernels move after learning rate and deviation have shrunk."""
    generations, population = a["rewards"].shape
    search, params = evolution.strategy(population), Params(0.1, 0.2, **evolution.DECAYS)
    centre = {"plastic": jnp.asarray(a["coeffs0"]), "kernels": jnp.asarray(a["cnn0"])}
    state = search.init(jnp.zeros(()), centre, params)
    for generation in range(generations):
        drawn = {"plastic": a["eps_coeffs"][generation, ::2], "kernels": a["eps_cnn"][generation, ::2]}
        object.__setattr__(search, "noise", MethodType(lambda self, state, drawn=drawn: drawn, search))
        rewards = np.concatenate([a["rewards"][generation, ::2], a["rewards"][generation, 1::2]])
        state = search.tell(state, jnp.asarray(rewards), params)
        np.testing.assert_allclose(state.centre["plastic"], a["coeffs_after"][generation], rtol=0, atol=1e-5)
        np.testing.assert_allclose(state.centre["kernels"], a["cnn_after"][generation], rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            [state.lr, state.sigma], [a["lr_after"][generation], a["sigma_after"][generation]], rtol=1e-5
        )
    np.testing.assert_allclose(centred_ranks(jnp.asarray(a["ranks_in"])), a["centered_ranks"], rtol=0, atol=1e-6)
    penalty = -0.01 * evolution.mean_square(a["decay_in"][None])
    np.testing.assert_allclose(penalty, [a["decay_penalty"]], rtol=0, atol=1e-5)


@golden.files
def test_like_the_official_code(name: str, file: Path) -> None:
    golden.check(name, file)
