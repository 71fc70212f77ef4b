"""What names a run: each input moves the key; what a scale needs; a faulty spec is one line."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Toy, fault_of, without_papers

from common.errors import RefigureError
from common.room import plan, spec
from common.room.identity import Identity

SAMPLE = Identity("paper", "main", "plain", {"rate": 0.1, "steps": 3}, (0, 1), {"mnist": {"images": "ff"}}, "c0de")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("paper", "other"),
        ("experiment", "other"),
        ("variant", "other"),
        ("config", {"rate": 0.2, "steps": 3}),
        ("config", {"rate": 0.1, "steps": 3.0}),
        ("config", {"rate": 0.1}),
        ("config", {"rate": 0.1, "steps": 3, "more": None}),
        ("seeds", (0, 1, 2)),
        ("seeds", (1, 0)),
        ("data", {"mnist": {"images": "fe"}}),
        ("data", {}),
        ("code", "c0de2"),
        ("threads", 2),
        ("parent", "first/plain/seeds0-1-0123456789ab"),
    ],
)
def test_each_input_changes_the_key(field: str, value: Any) -> None:
    assert dataclasses.replace(SAMPLE, **{field: value}).key != SAMPLE.key
    assert {each.name for each in dataclasses.fields(Identity)} == {
        "paper", "experiment", "variant", "config", "seeds", "data", "code", "threads", "parent",
    }  # fmt: skip


def test_the_order_of_settings_does_not() -> None:
    assert dataclasses.replace(SAMPLE, config={"steps": 3, "rate": 0.1}).key == SAMPLE.key


@pytest.mark.parametrize(
    ("seeds", "name"), [((3,), "seed3"), ((0, 1, 2), "seeds0-2"), ((0, 2, 5), "seeds0_2_5"), ((1, 0), "seeds1_0")]
)
def test_names_of_seeds(seeds: tuple[int, ...], name: str) -> None:
    run = dataclasses.replace(SAMPLE, seeds=seeds)
    assert run.seeds_name == name
    assert run.path == Path("paper/main/plain") / f"{name}-{run.key}"
    assert str(run) == f"paper/main/plain/{name}-{run.key}"


@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 40), min_size=1))
def test_seeds_that_differ_have_names_that_differ(first: set[int], second: set[int]) -> None:
    names = {dataclasses.replace(SAMPLE, seeds=tuple(sorted(seeds))).seeds_name for seeds in (first, second)}
    assert len(names) == (1 if first == second else 2)


HOSTILE = ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a b", "a\n", "a\0", "é", "a\\b", "~", "$HOME", "*"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", ["paper", "experiment", "variant"])
def test_names_that_could_leave_their_folder_are_refused(field: str, name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        dataclasses.replace(SAMPLE, **{field: name})


@given(st.text(max_size=6))
def test_whatever_the_name_the_path_stays_inside(name: str) -> None:
    try:
        run = dataclasses.replace(SAMPLE, variant=name)
    except ValueError:
        return
    assert Path("/runs").joinpath(run.path).resolve().parent == Path("/runs/paper/main") / name


@pytest.mark.parametrize("seeds", [(), (-1,), (0, -1)])
def test_seeds_count_from_zero(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="from 0 up"):
        dataclasses.replace(SAMPLE, seeds=seeds)


# Planning.


def test_scales_that_resolve_to_the_same_settings_share_runs(toy: Toy) -> None:
    paths = {scale: [each.identity.path for each in plan.plan("toy_paper", scale, "main")] for scale in spec.SCALES}
    assert paths["cpu"] == paths["paper"]
    assert not set(paths["smoke"]) & set(paths["cpu"])
    assert len(paths["cpu"]) == 2
    assert [each.identity.seeds for each in plan.plan("toy_paper", "cpu", "single")] == [(0,), (1,)]


def test_deviations_are_the_settings_that_differ_from_the_published(toy: Toy) -> None:
    smoke = plan.plan("toy_paper", "smoke", "main")[1]
    assert [(d.what, d.reason, d.touches) for d in smoke.deviations] == [
        ("steps: 4 instead of 12", "seconds", ("all",)),
        ("NumPy instead of Fortran", "taste", ()),
        ("heavier ball", "no other at hand", ("C-touched",)),
    ]
    by_hand = toy.plan("rate=0.3", "steps=12")
    assert [(d.what, d.reason) for d in by_hand.deviations][:-1] == [("rate: 0.3 instead of 0.1", "set by hand")]
    assert [d.what for d in toy.plan().deviations] == ["NumPy instead of Fortran"]


def keys(**options: Any) -> list[str]:
    """Keys of all runs at scale cpu."""
    return [
        plan.plan_run("toy_paper", name, variant, "cpu", seeds, **options).identity.key
        for name, experiment in spec.load("toy_paper").experiments.items()
        for variant in experiment.variants
        for seeds in experiment.scales["cpu"].batches()
    ]


def moved(before: list[str], after: list[str]) -> list[bool]:
    return [old != new for old, new in zip(before, after, strict=True)]


def test_threads_other_than_declared_are_another_run(toy: Toy) -> None:
    before = keys()
    assert keys(threads=1) == before
    assert all(moved(before, keys(threads=2)))
    toy.edit("papers/toy_paper/paper.yaml", "module: papers.toy_paper.main\n    config_class: Descent\n    variants",
             "threads: 2\n    module: papers.toy_paper.main\n    config_class: Descent\n    variants")  # fmt: skip
    assert moved(before, keys()) == [False, False, True, True]


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        ('"fp32": {"torch": "highest", "jax": "highest", "cudnn_tf32": False}',
         '"fp32": {"torch": "high", "jax": "tensorfloat32", "cudnn_tf32": True}', True),
        ("torch.use_deterministic_algorithms(True)", "torch.use_deterministic_algorithms(False)", True),
        ("unknown device", "no such device", False),
    ],
    ids=["fp32 as TF32", "not repeatable", "words of an error elsewhere"],
)  # fmt: skip
def test_how_numbers_are_computed_is_in_all_keys(toy: Toy, old: str, new: str, moves: bool) -> None:
    before, shared = keys(), (toy.root / "common").resolve()
    (toy.root / "common").unlink()
    shutil.copytree(shared, toy.root / "common", ignore=shutil.ignore_patterns("__pycache__"))
    plan.forget()
    assert keys() == before
    toy.edit("common/run/runtime.py", old, new)
    assert moved(before, keys()) == [moves] * len(before)


def test_sources_are_read_again_only_when_told(toy: Toy) -> None:
    before, path = keys(), toy.root / "papers/toy_paper/method.py"
    path.write_text(path.read_text().replace("return 2", "return 3"))
    assert keys() == before
    plan.forget()
    assert all(moved(before, keys()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1], batch", "seeds: [0, 0], batch", r"experiments\.main\.scales\.smoke\.seeds: expected distinct"),
        ("seeds: [0, 1], batch", "seeds: [], batch", r"scales\.smoke\.seeds: expected distinct"),
        (', why: "seconds"', "", r"scales\.smoke\.why: say why"),
        ("experiment: main\n", "experiment: man\n", r"no experiment 'man' in .*figures\.fall; did you mean 'main'"),
        ("config_class: Descent\n    deviations", "config_class: Descend\n    deviations", "no dataclass 'Descend'"),
        ("config: {momentum: true}", "config_class: Descend", "no dataclass 'Descend'"),
        ("config: {steps: 4}", "config: {step: 4}", "at scale smoke: unknown key 'step'; did you mean 'steps'"),
        ("config: {steps: 4}", "config: {steps: 0}", "steps must be at least 1"),
        ("plain: {title: \"plain\"}\n      m", "../up: {title: \"plain\"}\n      m", r"'\.\./up' is no name"),
        ("batch: true, config", "variants: [heavy], config", r"no variant 'heavy' in .*smoke; Known: momentum, plain"),
        ("title: \"A toy\"", "title: \"A toy\"\ntitle: \"B\"", "line 2, column 1: key 'title' stands here twice"),
    ],
)  # fmt: skip
def test_a_fault_in_the_spec_is_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    toy.edit("papers/toy_paper/paper.yaml", old, new)
    with pytest.raises(RefigureError, match=message):
        plan.plan("toy_paper", "smoke")
    assert toy.main("--scale", "smoke", "--experiment", "main", "--dry-run") == 1
    fault_of(capsys.readouterr().err)


def test_a_variant_may_have_a_class_of_settings_of_its_own(toy: Toy) -> None:
    before = keys()
    path = toy.root / "papers/toy_paper/config.py"
    path.write_text(path.read_text() + "\n\n@dataclass(frozen=True)\nclass Heavy(Descent):\n    mass: float = 2.0\n")
    toy.edit(
        "papers/toy_paper/paper.yaml", "config: {momentum: true}", "config_class: Heavy\n        config: {mass: 3.0}"
    )
    without_papers()  # config.py is imported once a process
    runs = [run for run in plan.plan("toy_paper", "smoke") if run.identity.variant == "momentum"]
    assert runs
    assert all(run.config.mass == 3 and not run.config.momentum for run in runs)
    assert [old == new for old, new in zip(before, keys(), strict=True)].count(False) == len(runs)


def test_unknown_papers_offer_the_nearest(toy: Toy) -> None:
    assert spec.root() == toy.root
    assert spec.papers() == ["toy_paper"]
    with pytest.raises(RefigureError, match="no paper 'toypaper'; did you mean 'toy_paper'"):
        spec.load("toypaper")


def test_a_scale_may_read_another_data_set_under_the_declared_name(toy: Toy) -> None:
    scale = "cpu: {seeds: [0, 1, 2], batch: true}"
    toy.edit(
        "papers/toy_paper/paper.yaml", '"Descent on a parabola"\n', '"Descent on a parabola"\n    data: [cifar10]\n'
    )
    toy.edit("papers/toy_paper/paper.yaml", scale, scale[:-1] + ", instead: {cifar10: cifar10-jpeg}}")
    plan.forget()
    (run, *_), (official, *_) = (plan.plan("toy_paper", size, "main") for size in ("cpu", "paper"))
    assert run.data_sets == {"cifar10": "cifar10-jpeg"}
    assert [*run.identity.data, *official.identity.data] == ["cifar10-jpeg as cifar10", "cifar10"]
    assert "data set cifar10-jpeg" in [each.what for each in run.deviations]
    toy.edit("papers/toy_paper/paper.yaml", "instead: {cifar10:", "instead: {cifar100:")
    plan.forget()
    with pytest.raises(RefigureError, match=r"no declared data set 'cifar100' in .*scales\.cpu\.instead; did you mean"):
        plan.plan("toy_paper", "cpu", "main")
    toy.edit("papers/toy_paper/paper.yaml", "instead: {cifar100: cifar10-jpeg}", "instead: {cifar10: mnist}")
    with pytest.raises(RefigureError, match="neither cifar10 nor mnist stands in for the other"):
        plan.plan("toy_paper", "cpu", "main")
