"""CIFAR-10: networks, what is fed to them, training."""

import dataclasses

import numpy as np
import pytest
import torch
from memory_recorder import resumes

from common import data
from common.data import Split
from papers.deq import images
from papers.deq.config import Images
from papers.deq.images import classifier

SMALL = Images(
    channels=(4, 8), heads=(2, 3), final=5, expansion=2, groups=2, layers=2, warm_up=2, side=8, batch=5, steps=5,
    train=12, tested=20, forward_evaluations=5, backward_evaluations=5,
)  # fmt: skip
SINGLE = {"model": "single", "channels": (4,), "heads": (), "inner": 6}
KINDS = {"deq": {}, "tied": {"depth": "tied"}, "single": SINGLE, "varied": {"varied": True}}


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one colour, a class each; the test images stand class by class."""

    def load(name: str, split: str) -> Split:
        assert name == "cifar10-jpeg"
        labels = np.arange(40) % 10 if split == "train" else np.repeat(np.arange(10), 4)
        colours = np.stack([25 * labels, 255 - 25 * labels, 100 + 0 * labels], 1).astype(np.uint8)
        return Split({"images": np.tile(colours[:, None, None], (1, 32, 32, 1)), "labels": labels.astype(np.uint8)}, {})

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(images, "CHUNK", 2)
    monkeypatch.setattr(images, "TEST_BATCH", 7)


def count(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_networks_have_the_official_numbers_of_parameters() -> None:
    small = classifier(Images())
    assert (count(small), count(small.cell)) == (158_890, 111_696)
    large = classifier(Images(channels=(32, 64, 128, 256), heads=(14, 28, 56, 112), final=1680))
    assert count(large) == pytest.approx(11.10e6, abs=5e3)
    assert count(large.cell) == pytest.approx(8.72e6, abs=5e3)


def test_the_tutorials_network_pools_to_768_numbers() -> None:
    network = classifier(Images(model="single", channels=(48,), heads=()))
    assert network.out.in_features == 768
    assert network(torch.zeros(2, 3, 32, 32), 1).logits.shape == (2, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_do_not_hear_each_other_when_tested(kind: str) -> None:
    torch.manual_seed(0)
    network = classifier(dataclasses.replace(SMALL, **KINDS[kind], forward_evaluations=5)).eval()
    x = torch.randn(4, 3, 8, 8)
    layers = 2 if kind == "tied" else None
    with torch.no_grad():
        torch.testing.assert_close(network(x, layers).logits[1:2], network(x[1:2], layers).logits)


def test_a_few_images_are_of_all_classes_and_of_their_colours() -> None:
    x, y = images._load(SMALL, "test", 20, torch.device("cpu"))
    assert y.tolist() == sorted(2 * list(range(10)))
    expected = (25 * y / 255 - images.MEAN[0]) / images.DEVIATION[0]
    torch.testing.assert_close(x[:, 0], expected.view(20, 1, 1).expand(20, 8, 8), rtol=0, atol=1e-5)
    raw, _ = images._load(dataclasses.replace(SMALL, normalised=False), "test", 20, torch.device("cpu"))
    assert float(raw.min()) >= 0
    assert float(raw.max()) <= 1


def test_varied_images_are_moved_and_mirrored() -> None:
    x = torch.arange(1.0, 1 + 3 * 64).view(1, 3, 8, 8).repeat(200, 1, 1, 1)
    moved = images._augmented(x, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x[0], (4, 4, 4, 4))
    windows = {(down, right): padded[:, down : down + 8, right : right + 8] for down in range(9) for right in range(9)}
    changes = []
    for image in moved:
        plain = [place for place, window in windows.items() if torch.equal(image, window)]
        mirrored = [place for place, window in windows.items() if torch.equal(image, window.flip(2))]
        assert len(plain) + len(mirrored) == 1
        changes += [(*place, 0) for place in plain] + [(*place, 1) for place in mirrored]
    assert {down for down, _, _ in changes} == {right for _, right, _ in changes} == set(range(9))
    assert {side for _, _, side in changes} == {0, 1}


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_it_ends_the_same(kind: str) -> None:
    config = dataclasses.replace(SMALL, **KINDS[kind])
    resumes(lambda recorder: images.train(config, [3], recorder), stop_at=4)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param({"channels": (8, 8), "heads": (4, 4), "final": 20}, marks=pytest.mark.slow),
        SINGLE | {"channels": (8,)},
    ],
)
def test_training_learns_colours(kind: dict, memory: type) -> None:
    config = dataclasses.replace(SMALL, **kind, steps=160, warm_up=20, batch=20, train=0, rate=3e-3, dropout=0.0)
    run = memory()
    metrics = images.train(config, [0], run).metrics
    assert metrics["test_loss"][0] < 1
    assert metrics["test_accuracy"][0] > 70
    assert run.lines[0][1]["evaluations"] == 0
    assert run.lines[-1][1]["evaluations"] > 0


@pytest.mark.parametrize(("settings", "told"), [
    ({"heads": (8,)}, "channels for 1 resolutions"),
    ({"model": "single"}, "channels for 1 resolutions"),
    ({"channels": (24, 20)}, "multiples of it"),
    ({"groups": 1}, "groups must be even"),
    ({"inner": 60}, "multiples of it"),
    ({"tested": 20_000}, "10000 test images"),
    ({"side": 5}, "side must be"),
    ({"dropout": 1.0}, "share below 1"),
    ({"warm_up": 30_000}, "must leave steps"),
    ({"decay": -1.0}, "0 or positive"),
])  # fmt: skip
def test_settings_that_make_no_sense(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Images(**settings)
