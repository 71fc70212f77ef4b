"""The authors' released parameters in our implementation.

They are plain arrays with the names of the authors' code, `L<position>_<W|b>_<array>` and `shared_<W|b>_*`.
Positions count all operations of a network: each dense layer, its activation or softmax, and finally the loss.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from common import data
from common.train.recorder import Outcome, Recorder
from papers.mplp.agents import GRU, MLP, Standardiser, Stateless
from papers.mplp.config import MetaTrain, Released
from papers.mplp.evaluate import measure
from papers.mplp.meta_train import Learned, spec_of
from papers.mplp.network import Layer, Spec
from papers.mplp.protocol import Agents, LayerStatistics, Protocol, Statistics

__all__ = ["TRAINED", "gru_of", "network_of", "protocol_of", "train"]

Arrays = Mapping[str, np.ndarray]
TRAINED = {
    "sinusoid": MetaTrain(),
    "maml": MetaTrain(
        hidden=0, steps=2, pool=0, hint=0.0, held_out=20, train_messages=False, meta_steps=258_202,
    ),
    "mnist": MetaTrain(
        task="mnist", sizes=(144, 50, 10), activation="sigmoid", message=4, hidden=7, shared=True, steps=20,
        examples=8, networks=1, pool=16, held_out=8, rounds=5, blend=0.5, rate=5e-4, last_rate=5e-4,
        meta_steps=5000,
    ),
}  # fmt: skip
"""The settings by which each protocol was meta-trained."""


def train(config: Released, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Test the released parameters; seeds differ in networks and tasks."""
    trained = TRAINED[config.protocol]
    arrays, spec = data.load("mplp-released", config.protocol).arrays, spec_of(trained)
    start = None if trained.pool else network_of(arrays, spec)
    learned = Learned(*protocol_of(arrays, spec), start)
    return measure(config, trained, [learned] * len(seeds), seeds, run)


def _mlp(arrays: Arrays, prefix: str) -> MLP:
    names = ("w0", "b0", "w1", "b1", "w2", "b2")
    return MLP(*(jnp.asarray(arrays[prefix + name]) if prefix + name in arrays else None for name in names))


def gru_of(arrays: Arrays, prefix: str) -> GRU:
    names = ("Wux", "Wuc", "bu", "Wrx", "Wrc", "br", "bn")
    gates = [jnp.asarray(arrays[prefix + name]) for name in names]
    return GRU(*gates, _mlp(arrays, f"{prefix}nx_"), _mlp(arrays, f"{prefix}nc_"))


def _agent(arrays: Arrays, prefix: str) -> GRU | Stateless | None:
    if f"{prefix}Wux" in arrays:
        return gru_of(arrays, prefix)
    if f"{prefix}msg_w0" not in arrays:
        return None
    update = _mlp(arrays, f"{prefix}upd_") if f"{prefix}upd_w0" in arrays else None
    return Stateless(_mlp(arrays, f"{prefix}msg_"), update)


def _standardiser(arrays: Arrays, prefix: str) -> Standardiser | None:
    if f"{prefix}norm" not in arrays:
        return None
    return Standardiser(jnp.asarray(arrays[f"{prefix}norm"]), jnp.asarray(arrays[f"{prefix}shift"]))


def protocol_of(arrays: Arrays, spec: Spec) -> tuple[Protocol, Statistics]:
    """The protocol and its statistics for networks of a specification."""
    layers, statistics = [], []
    for index in range(spec.depth):
        dense, operation = f"L{2 * index}_", f"L{2 * index + 1}_"
        last = index == spec.depth - 1 and spec.loss == "l2"
        scale_w, scale_b, mean_w, mean_b = (
            jnp.asarray(arrays[f"{dense}{owner}_out{name}"]) for name in ("scale", "mean") for owner in "Wb"
        )
        owners = [_agent(arrays, f"{dense}{owner}_") for owner in "Wb"]
        layers.append(Agents(*owners, scale_w, scale_b, None if last else _agent(arrays, operation)))
        standardisers = [_standardiser(arrays, f"{dense}{owner}_") for owner in "Wb"]
        statistics.append(
            LayerStatistics(*standardisers, mean_w, mean_b, None if last else _standardiser(arrays, operation))
        )
    loss = f"L{2 * spec.depth - (spec.loss == 'l2')}_"
    shared = [_agent(arrays, f"shared_{owner}_") for owner in "Wb"]
    return (
        Protocol(tuple(layers), _agent(arrays, loss), *shared),
        Statistics(tuple(statistics), _standardiser(arrays, loss)),
    )


def network_of(arrays: Arrays, spec: Spec, prefix: str = "prior_") -> tuple[Layer, ...]:
    """A network's weights, with a leading axis of networks."""
    pairs = [(arrays[f"{prefix}L{2 * index}_W"], arrays[f"{prefix}L{2 * index}_b"]) for index in range(spec.depth)]
    return tuple(
        Layer(*(jnp.asarray(part if weight.ndim == 3 else part[None]) for part in (weight, bias)))
        for weight, bias in pairs
    )
