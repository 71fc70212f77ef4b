"""Drawings: grey levels, sizes, and what is refused."""

import numpy as np
import pytest

from common import data
from common.errors import RefigureError
from papers.anml import omniglot
from papers.anml.config import MetaTest, MetaTrain


def ink(*shape: int) -> np.ndarray:
    """Thick random strokes, 1 = ink."""
    coarse = np.random.default_rng(0).random((*shape, 15, 15)) < 0.2
    return np.kron(coarse, np.ones((7, 7))).astype(np.uint8)


def test_paper_is_white_and_ink_black():
    blank, full = (
        omniglot.resize(np.zeros((1, 105, 105), np.uint8), 28),
        omniglot.resize(np.ones((1, 105, 105), np.uint8), 28),
    )
    np.testing.assert_array_equal(blank, 255)
    np.testing.assert_array_equal(full, 0)


@pytest.mark.parametrize("side", [28, 84])
def test_small_drawings_keep_shape_and_shade(side):
    drawings = ink(2, 3)
    small = omniglot.resize(drawings, side)
    assert small.shape == (2, 3, side, side)
    assert small.dtype == np.uint8
    np.testing.assert_allclose(small.mean((-2, -1)), 255 * (1 - drawings.mean((-2, -1))), atol=4)
    np.testing.assert_array_equal(small[1, 2], omniglot.resize(drawings[1, 2], side))
    np.testing.assert_array_equal(omniglot.resize(drawings[..., ::-1], side)[..., ::-1], small)
    np.testing.assert_array_equal(omniglot.resize(drawings[..., ::-1, :], side)[..., ::-1, :], small)


def test_full_size_is_the_drawing_itself():
    drawing = ink(1)
    np.testing.assert_array_equal(omniglot.resize(drawing, 105), 255 * (1 - drawing))


def test_scales():
    levels = np.arange(256, dtype=np.uint8)
    unit, published = omniglot.scale(levels, "unit"), omniglot.scale(levels, "published")
    assert unit.dtype == published.dtype == np.float32
    np.testing.assert_allclose(unit, np.linspace(0, 1, 256), atol=1e-7)
    expected = (np.arange(256) - 0.92206 * 256) / (0.08426 * 256 * 256)
    np.testing.assert_allclose(published, expected, atol=1e-7)
    assert published.min() == pytest.approx(-0.043, abs=5e-4)
    assert published.max() == pytest.approx(0.0034, abs=5e-5)


@pytest.mark.parametrize("split", ["background", "evaluation"])
@pytest.mark.parametrize("fault", [(-1, 0), (1, 0), (0, -1)])
def test_a_split_of_another_size_is_refused(split, fault, monkeypatch):
    shape = (omniglot.CLASSES[split] + fault[0], 20 + fault[1], 1, 1)
    monkeypatch.setattr(data, "load", lambda name, split: {"images": np.zeros(shape, np.uint8)})
    with pytest.raises(
        RefigureError, match=f"omniglot/{split} has {shape[0]} characters with {shape[1]} drawings"
    ) as fault:
        omniglot.load(split, 28)
    assert "\n" not in str(fault.value)


@pytest.mark.data("omniglot")
@pytest.mark.parametrize("split", [pytest.param("background", marks=pytest.mark.slow), "evaluation"])
def test_real_drawings(split):
    drawings = omniglot.load(split, 28)
    assert drawings.shape == (omniglot.CLASSES[split], omniglot.DRAWINGS, 28, 28)
    assert drawings.dtype == np.uint8
    lightness = drawings.mean((-2, -1))
    assert lightness.min() > 127  # more paper than ink everywhere
    assert lightness.max() < 255  # and some ink
    assert drawings.min((-2, -1)).max() < 200
    original = np.asarray(data.load("omniglot", split)["images"][-1])
    np.testing.assert_array_equal(drawings[-1], omniglot.resize(original, 28))


# --- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"channels": 0}, "channels must be positive"),
        ({"iterations": 0}, "iterations must be positive"),
        ({"inner_steps": 0}, "inner_steps must be positive"),
        ({"remember": 0}, "remember must be positive"),
        ({"inner_rate": 0.0}, "inner_rate must be positive"),
        ({"inner_rate": float("nan")}, "inner_rate must be positive"),
        ({"outer_rate": -1e-3}, "outer_rate must be positive"),
        ({"classes": 1}, "classes must lie in 2 to 964"),
        ({"classes": 965}, "classes must lie in 2 to 964"),
        ({"outputs": 962}, "963 classes need as many outputs"),
        ({"inner_steps": 21}, "inner_steps must be at most 20"),
        ({"classes": 3, "remember": 61}, "remember must be at most 60"),
        ({"nm_channels": 0}, "nm_channels must be positive"),
        ({"hidden": -1}, "hidden must be 0 or a width"),
        ({"plastic": "head"}, "plastic: a neuromodulated network"),
        ({"side": 84}, "side must be 28 for network anml"),
        ({"side": 27}, "side must be 28"),
        ({"network": "oml84"}, "side must be 84 for network oml84"),
        ({"objective": "iid", "classes": 2, "remember": 21}, "remember must be at most 20"),
    ],
)
def test_impossible_meta_training_is_refused(changes, line):
    with pytest.raises(ValueError, match=line) as fault:
        MetaTrain(**changes)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nm_channels": 0, "neuromodulation": False},
        {"plastic": "head", "neuromodulation": False, "hidden": 1024, "network": "oml"},
        {"network": "oml84", "side": 84},
        {"classes": 964},
        {"inner_steps": 20, "classes": 3, "remember": 60},
    ],
)
def test_possible_meta_training_is_not(changes):
    MetaTrain(**changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"trajectories": 0}, "trajectories must be positive"),
        ({"trials": 0}, "trials must be positive"),
        ({"neighbours": 0}, "neighbours must be positive"),
        ({"pool": 0}, "pool must be positive"),
        ({"iid_epochs": 0}, "iid_epochs must be positive"),
        ({"pool": 660}, "pool"),
        ({"tasks": ()}, "tasks must rise from at least 1"),
        ({"tasks": (0, 10)}, "tasks must rise from at least 1"),
        ({"tasks": (50, 10)}, "tasks must rise"),
        ({"iid_tasks": (10, 10)}, "iid_tasks must rise"),
        ({"tasks": (10, 651)}, "tasks: 651 classes, but there are 650"),
        ({"tasks": (10, 660), "pool": 700}, "pool must be at most 659"),
        ({"iid_tasks": (10, 20)}, "iid_tasks must be among tasks"),
        ({"rates": ()}, "rates must be positive"),
        ({"rates": (1e-3, 0.0)}, "rates must be positive"),
    ],
)
def test_impossible_meta_testing_is_refused(changes, line):
    with pytest.raises(ValueError, match=line) as fault:
        MetaTest(**changes)
    assert "\n" not in str(fault.value)


def test_possible_meta_testing_is_not():
    MetaTest()
    MetaTest(tasks=(659,), iid_tasks=(659,), pool=659)
