"""Small networks and made-up images, so that every path runs in milliseconds."""

import numpy as np
import pytest
import torch

from common import data
from common.data import Split
from papers.clapp import learning
from papers.clapp.config import Learner
from papers.clapp.encoder import Encoder
from papers.clapp.learning import encoder_of


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets of 60 examples: images of one colour a class, digits, recordings of one pitch a digit."""

    def load(name: str, split: str) -> Split:
        rng = np.random.default_rng(len(split))
        labels = (np.arange(60) % 3).astype(np.uint8)
        if name == "fsdd":
            times = np.arange(1500) / 8000
            samples = [4000 * np.sin(2 * np.pi * (300 + 500 * label) * times) for label in labels.tolist()]
            return Split({
                "samples": np.concatenate(samples).astype(np.int16), "offsets": np.arange(61) * 1500,
                "digit": labels, "speaker": (labels + 1) % 3,
            }, {})  # fmt: skip
        size = (28, 28) if name == "mnist" else (12, 12, 3)
        noise = rng.integers(0, 60, (60, *size))
        return Split(
            {"images": (noise + 60 * labels.reshape(-1, *[1] * len(size))).astype(np.uint8), "labels": labels}, {}
        )

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(learning, "CHUNK", 2)


SMALL = {
    "widths": (3, 4, 5), "pools": (2,), "modules": (1, 1, 1), "patch": (4, 4), "stride": (2, 2), "offsets": 2,
    "skip": 1, "epochs": 1, "batch": 6, "probed": (1, 2, 3), "probe_epochs": 2, "probe_batch": 10, "probe_draws": 1,
    "l2": 0.1, "rate": 1e-3,
}  # fmt: skip
"""Settings of a network of three layers on images of 12 x 12, five rows of patches."""


def scaled(config: Learner, by: float = 6.0, seed: int = 0) -> Encoder:
    """A network in double precision whose matrices are so large that a good share of its hinges is inactive."""
    torch.manual_seed(seed)
    encoder = encoder_of(config, 1, 3).double()
    with torch.no_grad():
        for stage in encoder.stages:
            for layer in stage.layers:
                layer.weight.mul_(2)
            for name in ("prediction", "retrodiction"):
                if hasattr(stage, name):
                    getattr(stage, name).mul_(by)
    return encoder
