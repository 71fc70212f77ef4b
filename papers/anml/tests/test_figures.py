"""The figures, drawn from made-up runs: what they show is what the runs hold."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from memory_recorder import finished_run

from common.report import theme
from common.room import claims
from common.room.identity import Identity
from common.run.record import FinishedRun
from common.verdict.statistics import mean_interval
from papers.anml import figures

FEW, MANY = (10, 50, 100, 200), (10, 50, 75, 100, 150, 200, 300, 400, 500, 600)
LEVEL = {
    "anml": 0.66, "anml_first_order": 0.63, "oml_linear": 0.62, "oml": 0.18, "oml_olft": 0.42, "pretrain": 0.02,
    "scratch": 0.004, "anml_kept_head": 0.64, "anml_sgd": 0.5, "anml_published": 0.58, "oml84_linear": 0.6,
    "anml_20_epochs": 0.66, "untitled": 0.3,
}  # fmt: skip
"""Testing accuracy at 600 classes."""
TRAIN = ("anml", "anml_first_order", "oml_linear", "oml", "pretrain", "scratch")
TEST_FIGURES = ("accuracy", "oracles", "activations", "representations", "order", "readings", "sparsity")


def made_up_test(
    folder: Path, variant: str, seeds: Sequence[int], tasks: Sequence[int] = FEW, iid: Sequence[int] | None = None
) -> FinishedRun:
    """A run of meta-testing: 3 trajectories, 36 units."""
    rng = np.random.default_rng([*map(ord, variant), *seeds])
    epochs = 20 if variant == "anml_20_epochs" else 1
    iid = tasks[-1:] if epochs > 1 else tasks[1:] if iid is None else iid
    level, count = LEVEL[variant], len(seeds)
    metrics = {}
    for number in tasks:
        share = level ** (np.sqrt(number / 600))
        metrics[f"test_{number}"] = np.clip(share + 0.01 * rng.standard_normal(count), 0, 1)
        metrics[f"train_{number}"] = np.clip(share**0.2 + 0.01 * rng.standard_normal(count), 0, 1)
    for number in iid:
        metrics[f"iid_test_{number}"] = np.clip(0.9 - 0.2 * number / 600 + 0.01 * rng.standard_normal(count), 0, 1)
        metrics[f"drop_{number}"] = 1 - metrics[f"test_{number}"] / metrics[f"iid_test_{number}"]
    gated = variant.startswith("anml")
    arrays = {"by_order": rng.random((count, 3, tasks[-1])) < level}
    for kind in ("representation", "gate", "gated") if gated else ("representation",):
        arrays[f"activations_{kind}"] = (rng.random((count, 4, 36)) ** 3).astype(np.float16)
        points = np.repeat(rng.standard_normal((count, 10, 2)), 15, axis=1)
        arrays[f"map_{kind}"] = (points + 0.1 * rng.standard_normal((count, 150, 2))).astype(np.float32)
        for name in ("active", "dead", "knn"):
            metrics[f"{name}_{kind}"] = rng.random(count) * (0.02 if name == "dead" else 0.8)
    if gated:
        metrics["knn_random_gate"] = 0.2 + 0.05 * rng.random(count)
    config = {"tasks": list(tasks), "iid_tasks": list(iid), "trajectories": 3, "neighbours": 5, "iid_epochs": epochs}
    return _run(folder, "meta_test", variant, seeds, config, metrics, arrays)


def made_up_train(folder: Path, variant: str, seeds: Sequence[int], iterations: int = 2000) -> FinishedRun:
    """A run of meta-training."""
    rng = np.random.default_rng([*map(ord, variant), *seeds])
    prefix, lines = "" if variant == "pretrain" else "remember_", []
    for step in range(50, 1 if variant == "scratch" else iterations + 1, 50):
        noise = 1 + 0.03 * rng.standard_normal((2, len(seeds)))
        values = (
            (9 * np.exp(-step / 700) + 1 - LEVEL[variant]) * noise[0],
            LEVEL[variant] * step / iterations * noise[1],
        )
        names = f"{prefix}loss", f"{prefix}accuracy"
        lines.append({"step": step, **{name: list(value) for name, value in zip(names, values, strict=True)}})
    return _run(folder, "meta_train", variant, seeds, {"classes": 963}, {"parameters": [1.0] * len(seeds)}, {}, lines)


def _run(
    folder: Path, experiment: str, variant: str, seeds: Sequence[int], config: dict, metrics: dict, arrays: dict,
    lines: Sequence[dict] = (),
) -> FinishedRun:  # fmt: skip
    parents = {"oml_olft": "oml", "anml_sgd": "anml", "anml_kept_head": "anml", "anml_20_epochs": "anml"}
    parent = f"meta_train/{parents.get(variant, variant)}/seeds-0" if experiment == "meta_test" else ""
    identity = Identity("anml", experiment, variant, config, tuple(seeds), {}, "code", parent=parent)
    return finished_run(folder, identity, metrics, arrays, lines)


Case = tuple[str, Callable[[Path], list[FinishedRun]]]
CASES: list[Case] = [
    ("all, to 600, two runs each", lambda at: [made_up_test(at, v, s, MANY) for v in LEVEL for s in ((2,), (0, 1))]),
    ("two of one seed", lambda at: [made_up_test(at, name, (0,), iid=(50, 200)) for name in ("pretrain", "anml")]),
    ("two without a gate", lambda at: [made_up_test(at, name, (0, 1, 2)) for name in ("scratch", "oml_linear")]),
    ("one reading", lambda at: [made_up_test(at, "untitled", (0, 1, 2), (10,), (10,))]),
]


@pytest.fixture(autouse=True, scope="module")
def look() -> None:
    theme.apply()


def draw(name: str, runs: list[FinishedRun]) -> theme.Drawing:
    return getattr(figures, name)(runs, claims.load("anml"))


def tabled(name: str, runs: list[FinishedRun]) -> pd.DataFrame:
    """Draw, and return the numbers behind it."""
    drawing = draw(name, runs)
    assert set(drawing.runs) <= {str(run.identity) for run in runs}
    assert drawing.runs
    assert drawing.notes
    drawing.figure.draw_without_rendering()
    plt.close(drawing.figure)
    assert not plt.get_fignums()
    return drawing.table


def saved(name: str, runs: list[FinishedRun], stem: Path) -> list[bytes]:
    """The bytes of the picture, the PDF and the CSV."""
    theme.save(draw(name, runs), stem)
    return [stem.with_suffix(f".{kind}").read_bytes() for kind in ("png", "pdf", "csv")]


@pytest.mark.parametrize("name", TEST_FIGURES)
@pytest.mark.parametrize("make", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_it_draws_whatever_variants_there_are(
    name: str, make: Callable[[Path], list[FinishedRun]], tmp_path: Path
) -> None:
    assert len(tabled(name, make(tmp_path))) > 0


@pytest.mark.parametrize("variants", [TRAIN, ("anml", "pretrain"), ("scratch",)])
def test_meta_training_draws_every_seed_that_was_trained(variants: Sequence[str], tmp_path: Path) -> None:
    runs = [made_up_train(tmp_path, name, seeds) for name in variants for seeds in ((2,), (0, 1))]
    table = tabled("meta_training", runs)
    lines = table.groupby(["variant", "seed"]).ngroups if len(table) else 0
    assert lines == 3 * len(set(variants) - {"scratch"})


def test_meta_training_has_the_streams_numbers(tmp_path: Path) -> None:
    runs = [made_up_train(tmp_path, name, (0, 1)) for name in ("anml", "pretrain")]
    table = tabled("meta_training", runs)
    for run, prefix in zip(runs, ("remember_", ""), strict=True):
        course = table[(table.variant == run.identity.variant) & (table.seed == 1)]
        for kind in ("accuracy", "loss"):
            np.testing.assert_allclose(course[kind], [line[f"{prefix}{kind}"][1] for line in run.history()], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEST_FIGURES, "meta_training"])
def test_the_same_runs_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    if name == "meta_training":
        runs = [made_up_train(tmp_path, variant, (0, 1, 2)) for variant in TRAIN]
    else:
        runs = [made_up_test(tmp_path, variant, (0, 1, 2)) for variant in LEVEL]
    png, pdf, csv = saved(name, runs, tmp_path / "first")
    assert saved(name, runs[::-1], tmp_path / "second") == [png, pdf, csv]
    table = tabled(name, runs).reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(BytesIO(csv)), table, check_dtype=False, rtol=1e-5)


def test_accuracy_pools_runs_and_brackets_the_mean_over_seeds(tmp_path: Path) -> None:
    parts = [made_up_test(tmp_path, "anml", seeds) for seeds in ((2, 3), (0, 1))]
    table = tabled("accuracy", parts)
    measured = table[table.source.isna()].set_index(["panel", "classes"])
    for kind, tasks in (("train", 10), ("test", 200)):
        values = [*parts[1].metrics[f"{kind}_{tasks}"], *parts[0].metrics[f"{kind}_{tasks}"]]
        row = measured.loc[(kind, tasks)]
        assert row.value == pytest.approx(np.mean(values), rel=1e-5)
        assert (row.low, row.high) == pytest.approx(mean_interval(values), rel=1e-5)
        assert row.seeds == 4


@pytest.mark.parametrize("tasks", [FEW, MANY])
def test_published_values_stand_where_ours_end_or_beyond(tasks: Sequence[int], tmp_path: Path) -> None:
    runs = [made_up_test(tmp_path, name, (0, 1), tasks) for name in ("anml", "oml_linear", "oml")]
    table = tabled("accuracy", runs)
    published = table[table.source.notna()].set_index(["panel", "variant", "classes"]).value
    assert published["test", "oml_linear", 50] == 0.86
    assert published["train", "anml", 600] == 0.93
    assert ("test", "oml", 600) in published.index
    assert table[table.source.isna()].classes.max() == tasks[-1]


def test_main_figures_leave_readings_out_and_readings_the_rest(tmp_path: Path) -> None:
    runs = [made_up_test(tmp_path, variant, (0, 1)) for variant in LEVEL]
    main = list(LEVEL)[:7]
    for name in ("accuracy", "oracles", "order"):
        table = tabled(name, runs)
        assert list(dict.fromkeys(table.variant)) == main
    table = tabled("readings", runs)
    assert set(table.variant) == {"anml", *LEVEL} - set(main[1:])
    assert set(table[table.variant == "anml_20_epochs"].panel) == {"iid_test"}


def test_oracles_have_the_drop_with_the_published_one(tmp_path: Path) -> None:
    run = made_up_test(tmp_path, "oml", (0, 1, 2))
    table = tabled("oracles", [run])
    drop = table[table.panel == "drop"]
    measured = drop[drop.source.isna()].set_index("classes")
    assert measured.value[100] == pytest.approx(np.mean(run.metrics["drop_100"]), rel=1e-5)
    assert sorted(drop[drop.source.notna()].value) == [0.47, 0.7032]
    assert len(table[table.panel == "iid_test"]) == 3


def test_order_bins_ten_classes(tmp_path: Path) -> None:
    run = made_up_test(tmp_path, "anml", (0, 1, 2))
    table = tabled("order", [run])
    assert list(table["first"]) == list(range(1, 200, 10))
    assert table.value[1] == pytest.approx(run.arrays["by_order"][:, :, 10:20].mean(), rel=1e-5)


def test_activations_and_maps_are_of_the_first_seed(tmp_path: Path) -> None:
    parts = [made_up_test(tmp_path, "anml", seeds) for seeds in ((2, 3), (0, 1))]
    table = tabled("activations", parts)
    expected = parts[1].arrays["activations_gated"][0, 3].astype(float)
    np.testing.assert_allclose(table["gated, mean over all drawings"], expected, rtol=1e-5)
    table = tabled("representations", parts)
    np.testing.assert_allclose(
        table[table.kind == "gated"][["x", "y"]], parts[1].arrays["map_gated"][0].astype(float), rtol=1e-4
    )
    assert list(table["class"][:16]) == [1] * 15 + [2]


def test_sparsity_shows_a_representation_once(tmp_path: Path) -> None:
    runs = [made_up_test(tmp_path, name, (0, 1, 2)) for name in ("anml", "oml", "oml_olft", "anml_sgd")]
    table = tabled("sparsity", runs)
    assert set(table.variant) == {"anml", "oml"}
    measured = table[table.source.isna()].set_index(["variant", "panel", "kind"]).value
    assert measured["anml", "knn", "random_gate"] == pytest.approx(
        np.mean(runs[0].metrics["knn_random_gate"]), rel=1e-5
    )
    published = table[table.source.notna()].set_index(["variant", "panel", "kind"]).value
    assert published["oml", "active", "representation"] == 0.0389
    assert published["anml", "knn", "gate"] == 0.709
