"""Verdicts from numbers that leave no doubt, and claims that name what is not there."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import Toy

from common import atomic
from common.errors import RefigureError
from common.room.claims import Claim, Published, load
from common.room.config import build
from common.room.spec import forget
from common.run import record
from common.verdict.evidence import evaluate
from common.verdict.judge import (
    Evidence,
    Judged,
    Verdict,
    from_records,
    judge,
    regressions,
    to_records,
    tone,
    with_q_values,
)  # fmt: skip

BASE = {
    "id": "C",
    "statement": "s",
    "origin": "printed",
    "source": {"where": "Table 1", "how": "read exactly"},
    "ours": {"experiment": "main", "variant": "plain", "metric": "x"},
    "scale": "paper",
    "unit": "nats",
}
TOLERANCE = {"absolute": 0.1, "why": "w"}
VALUE = {
    "kind": "value",
    "published": {"value": 1.0, "error": 0.01, "error_is": "standard error", "seeds": 5},
    "better": "lower",
    "tolerance": TOLERANCE,
}
ORDER = {"kind": "order", "against": {"experiment": "main", "variant": "momentum", "metric": "x"}, "better": "lower"}
SHAPE = {"kind": "shape", "bound": {"condition": "<", "value": 1.0, "why": "w"}}
IDENTITY = {"kind": "identity", "published": {"value": 1.0}, "tolerance": {"absolute": 0.1, "why": "w"}}


def claim(kind: Mapping[str, Any], **changes: Any) -> Claim:
    return build(Claim, {**BASE, **kind, **changes}, "claims.yaml")


RUN = itertools.count()


def seen(values: Sequence[float], *deviations: str) -> Evidence:
    """Of a run of its own."""
    return Evidence(dict(enumerate(values)), (f"toy/run{next(RUN)}",), deviations)


def verdict(
    kind: Mapping[str, Any], ours: Sequence[float], other: Sequence[float] | None = None, **changes: Any
) -> str:
    against = None if other is None else seen(other)
    return judge("toy", claim(kind, **changes), seen(ours), against, "paper").verdict


def often(seeds: int, *values: float) -> Evidence:
    """Evaluations that are pooled: the values, again and again."""
    return dataclasses.replace(seen([sum(values) / len(values)] * seeds), pooled=values * seeds, of="lifetimes")


def published(value: float, seeds: int | None) -> dict[str, Any]:
    return {"value": value, "seeds": seeds}


NEAR, FAR, BELOW = [1.01, 0.99, 1.0], [1.29, 1.3, 1.31], [0.69, 0.7, 0.71]
HALF = {"relative": 0.5, "why": "w"}
FACTOR = {"tolerance": {"relative": 1.0, "why": "within a factor of two"}, "log": True}
SPREAD = {"tolerance": {"spread": True, "why": "w"}}


@pytest.mark.parametrize(
    ("ours", "changes", "expected"),
    [
        (NEAR, {}, "agrees"),
        (FAR, {}, "differs"),
        (BELOW, {}, "differs, better"),
        (FAR, {"better": "higher"}, "differs, better"),
        (BELOW, {"better": "higher"}, "differs"),
        (BELOW, {"better": "neither"}, "differs"),
        ([0.5, 1.0, 1.5], {}, "undecided"),  # too wide for the margin, and not apart
        ([1.05, 1.06, 1.07], {"tolerance": {"absolute": 0.07, "why": "w"}}, "undecided"),  # apart, at the margin
        (FAR, {"tolerance": HALF}, "agrees"),
        ([-1.31, -1.3, -1.29], {"tolerance": HALF, "published": published(-1.0, 3)}, "agrees"),
        ([0.9, 1.3, 1.7], SPREAD, "compatible"),
        (FAR, SPREAD, "differs"),
        ([1.0, 1.0], {}, "undecided"),  # two seeds, three are needed
        ([1.0], {"published": published(1.0, 1)}, "undecided"),  # one run on each side
        ([1.0, 1.001], {"published": published(1.0, 2)}, "agrees"),  # as many as the paper had
        (NEAR, {"published": published(1.0, 1)}, "agrees"),  # a single run, taken to scatter as ours
        ([1.3, 1.5, 1.7], {"published": published(1.0, 1)}, "undecided"),
        ([1.5e-6, 1.4e-6, 1.6e-6], {**FACTOR, "published": published(1e-6, None)}, "agrees"),
        ([4e-8, 5e-8, 4.5e-8], {**FACTOR, "published": published(1e-6, None)}, "differs, better"),
        ([1.05], {"exact": True}, "agrees"),
        ([1.05, 1.05, 1.05], {"published": published(1.0, 3)}, "undecided"),  # no side's error is known
        ([1.05, 1.05, 1.05], {}, "agrees"),  # the published error is
        ([1.2], {"exact": True}, "differs"),
    ],
)
def test_values(ours: list[float], changes: dict[str, Any], expected: str) -> None:
    assert verdict(VALUE, ours, **changes) == expected


@pytest.mark.parametrize(
    ("ours", "other", "changes", "expected"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], {}, "same direction"),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], {}, "opposite"),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], {"better": "higher"}, "same direction"),
        ([1.0, 2.0, 3.0], [1.1, 2.1, 3.1], {}, "undecided"),  # a gap that is noise
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], {"margin": 0.5}, "same direction"),
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], {"margin": 1.0}, "undecided"),
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], {"margin": 1.5}, "opposite"),  # it is smaller than what counts
        (NEAR, NEAR, {"margin": -0.1}, "same direction"),  # not behind by more than the margin
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], {}, "undecided"),
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], {}, "undecided"),  # no error is known
        ([1.0, 1.0, 1.0], [2.0], {}, "undecided"),
        ([1.0, 1.1], [2.0, 2.1], {}, "undecided"),
        ([1.0], [2.0], {"exact": True}, "same direction"),
        ([1e-6, 2e-6, 3e-6], [1e-3, 0.1, 1.0], {}, "undecided"),
        ([1e-6, 2e-6, 3e-6], [1e-3, 0.1, 1.0], {"log": True}, "same direction"),
        ([1e-3, 2e-3, 1.5e-3], [1e-3, 2e-3, 1.5e-3], {"log": True, "margin": -2.0}, "same direction"),
    ],
)
def test_orders(ours: list[float], other: list[float], changes: dict[str, Any], expected: str) -> None:
    assert verdict(ORDER, ours, other, **changes) == expected


def test_pooled_evaluations_are_the_draws() -> None:
    loose = {"tolerance": {"absolute": 0.05, "why": "w"}, "published": {"value": 1.0, "evaluations": 600}}
    pooled = judge("toy", claim(VALUE, **loose), often(3, *[0.9, 1.1] * 100), None, "paper")
    assert (pooled.verdict, pooled.n, list(pooled.seeds)) == ("agrees", "600 lifetimes", ["0", "1", "2"])
    assert pooled.interval is not None
    assert pooled.interval[1] - 1 == pytest.approx(1.9639 * 0.1 / 599**0.5, rel=1e-4)
    one = {"condition": "<", "value": 1.0, "why": "w"}
    for values, word in (((0.4, 1.2), "holds"), ((0.8, 1.6), "fails"), ((0.5, 1.5), "undecided")):  # by their mean
        shape = judge("toy", claim(SHAPE, bound=one), often(20, *values), None, "paper")
        assert (shape.verdict, shape.n) == (word, "40 lifetimes")


def test_evaluations_are_compared_in_pairs() -> None:
    """The tasks differ far more than the learners."""
    ours, baseline = often(20, 0.1, 1.0, 10.0), often(20, 0.1005, 1.01, 10.1)
    for log in (False, True):
        gap = judge("toy", claim(ORDER, log=log), ours, baseline, "paper")
        assert (gap.verdict, gap.n, "lifetimes in pairs" in gap.reason) == ("same direction", "60 lifetimes", True)
    mixed = judge("toy", claim(ORDER), seen([0.9, 1.0, 1.1]), baseline, "paper")
    assert (mixed.n, "the other side, 60 lifetimes," in mixed.reason) == ("3 seeds", True)
    with pytest.raises(RefigureError, match="C compares 60 lifetimes with 30 lifetimes in pairs"):
        judge("toy", claim(ORDER), ours, often(10, 0.1, 1.0, 10.0), "paper")


def test_trainings_are_paired_where_they_are_the_same_or_the_claim_says_so() -> None:
    ours, baseline = [1.0, 2.0, 3.0], [1.1, 2.1, 3.11]
    assert verdict(ORDER, ours, baseline) == "undecided"
    assert verdict(ORDER, ours, baseline, paired=True) == "same direction"
    first = seen(ours)
    same = dataclasses.replace(seen(baseline), runs=first.runs)
    assert judge("toy", claim(ORDER), first, same, "paper").verdict == "same direction"


@pytest.mark.parametrize(
    ("error_is", "draws", "expected"),
    [
        ("standard error", 4, 0.2), ("deviation", 4, 0.1), ("95 %", None, 0.2 / 1.96),
        ("95 %", 4, 0.2 / 3.182446), ("unstated", 4, 0.2), ("within one training", 4, None),
    ],
)  # fmt: skip
def test_what_a_published_error_is_decides_how_it_counts(
    error_is: Any, draws: int | None, expected: float | None
) -> None:
    number = Published(1.0, 0.2, error_is, seeds=draws)
    assert number.standard_error(draws) == (None if expected is None else pytest.approx(expected))
    known = {"value": 1.0, "error": 0.2, "error_is": error_is, "seeds": draws}
    reason = judge("toy", claim(VALUE, published=known), seen(NEAR), None, "paper").reason
    assert ("taken to scatter as ours" in reason) == (error_is == "within one training")
    assert ("its error is" in reason) == (error_is in ("unstated", "within one training"))


def test_a_logarithm_needs_positive_numbers() -> None:
    with pytest.raises(RefigureError, match="C is compared on logarithms, but a run has 0: leave out `log`"):
        verdict(ORDER, [0.0, 1.0, 2.0], [1.0, 2.0, 3.0], log=True)


@pytest.mark.parametrize(
    ("ours", "condition", "expected"),
    [
        ([0.5, 0.6, 0.9], "<", "holds"),
        ([0.5, 0.6, 1.0], "<", "fails"),  # every seed must
        ([0.5, 0.6, 1.0], "<=", "holds"),
        ([1.5, 1.6, 1.0], ">", "fails"),
        ([1.5, 1.6, 1.0], ">=", "holds"),
        ([1.5, 1.6], ">=", "undecided"),  # three are needed
        ([1.5, 0.6], ">=", "fails"),  # but one is enough to the contrary
    ],
)
def test_shapes(ours: list[float], condition: str, expected: str) -> None:
    assert verdict(SHAPE, ours, bound={"condition": condition, "value": 1.0, "why": "w"}) == expected


def test_what_is_counted_needs_one_run() -> None:
    assert verdict(SHAPE, [0.5], exact=True) == "holds"


def test_a_number_that_is_not_finite_is_refused() -> None:
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(RefigureError, match=r"papers/toy/claims\.yaml: C: a run has a number that is not finite"):
            verdict(VALUE, [1.0, wrong, 1.0])


def test_a_gap_below_its_margin_is_not_called_contrary_without_a_word() -> None:
    near = judge("toy", claim(ORDER, margin=1.5), seen([1.0, 1.1, 0.9]), seen([2.0, 2.1, 1.9]), "paper")
    assert "in the direction, by less than the margin" in near.reason
    far = judge("toy", claim(ORDER), seen([2.0, 2.1, 1.9]), seen([1.0, 1.1, 0.9]), "paper")
    assert "by less than" not in far.reason


@pytest.mark.parametrize(
    ("ours", "expected"),
    [([1.05, 0.95, 1.0], "holds"), ([1.2, 0.8, 1.0], "fails")],  # the mean is right, the seeds are not
)
def test_identities(ours: list[float], expected: str) -> None:
    assert verdict(IDENTITY, ours) == expected


EASY: list[tuple[Mapping[str, Any], list[float], list[float] | None, str]] = [
    (VALUE, [1.0] * 3, None, "not comparable"),
    (VALUE, [5.0], None, "not comparable"),
    (ORDER, [1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "same direction"),
    (ORDER, [2.0, 2.1, 1.9], [1.0, 1.1, 0.9], "opposite"),
    (ORDER, [2.0], [1.0, 1.1, 0.9], "undecided"),
    (SHAPE, [0.5] * 3, None, "holds"),
    (SHAPE, [1.5] * 3, None, "fails"),
    (IDENTITY, [1.0] * 3, None, "holds"),
]


@pytest.mark.parametrize(("kind", "ours", "other", "expected"), EASY)
def test_other_conditions_reduce_and_are_named(
    kind: Mapping[str, Any], ours: list[float], other: list[float] | None, expected: str
) -> None:
    against = seen(other) if other else None
    judged = judge("toy", claim(kind), seen(ours, "half the data", "b", "c"), against, "cpu")
    assert judged.verdict == f"smaller run: {expected}"
    assert "other conditions: b; c" in judged.reason
    assert "1 more deviations" in judged.reason
    assert judged.scale == "cpu"
    if other:
        there = judge("toy", claim(kind), seen(ours), seen(other, "half the data"), "cpu")
        assert (there.verdict, "half the data" in there.reason) == (f"smaller run: {expected}", True)


numbers = st.lists(st.floats(-10, 10), min_size=1, max_size=4)


@settings(max_examples=60)
@given(st.sampled_from([VALUE, ORDER, SHAPE, IDENTITY]), numbers, numbers, st.booleans())
def test_what_every_verdict_promises(
    kind: Mapping[str, Any], ours: list[float], other: list[float], same: bool
) -> None:
    evidence = seen(ours) if same else seen(ours, "else")
    judged = judge("toy", claim(kind), evidence, seen(other) if kind is ORDER else None, "paper")
    assert judged.verdict.startswith("smaller run: ") == (not same)
    assert judged.verdict in get_args(Verdict)
    assert tone(judged.verdict) in ("good", "better", "bad", "partly")
    assert judged.seeds == {str(seed): value for seed, value in enumerate(ours)}
    enough = min(len(ours), len(other) if kind is ORDER else 9) >= 3
    assert enough or kind not in (VALUE, ORDER) or judged.verdict.endswith(("undecided", "not comparable"))
    if kind in (VALUE, IDENTITY):
        assert judged.difference == pytest.approx(sum(ours) / len(ours) - 1.0)


def test_the_numbers_beside_a_verdict() -> None:
    judged = judge("toy", claim(VALUE), seen([1.0, 1.1, 1.2]), None, "paper")
    assert judged.ours == pytest.approx(1.1)
    assert judged.difference == pytest.approx(0.1)
    assert judged.interval is not None
    half = 4.302653 * 0.1 / 3**0.5  # Student's quantile of two degrees of freedom
    assert judged.interval == pytest.approx((1.1 - half, 1.1 + half))
    assert (judged.published, judged.published_error, judged.n, judged.unit) == (1.0, 0.01, "3 seeds", "nats")
    gap = judge("toy", claim(ORDER, published=published(0.8, 1)), seen([1.0] * 3), seen([2.0] * 3), "paper")
    assert gap.ours == pytest.approx(1.0)
    assert gap.difference == pytest.approx(0.2)
    assert len(gap.runs) == 2


BAD_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({**VALUE, "tolerance": None}, "a claim of kind value needs 'tolerance'"),
    ({**ORDER, "against": None}, "a claim of kind order needs 'against'"),
    ({**ORDER, "better": "neither"}, "needs 'better'"),
    ({**SHAPE, "bound": None}, "a claim of kind shape needs 'bound'"),
    ({**IDENTITY, "published": None}, "a claim of kind identity needs 'published'"),
    ({**VALUE, "tolerance": {"why": "w"}}, "exactly one of"),
    ({**VALUE, "tolerance": {"why": "w", "absolute": 1.0, "spread": True}}, "exactly one of"),
    ({**VALUE, "published": {"value": 1.0, "error": 0.1}}, "give 'error' and 'error_is' together"),
    ({**VALUE, "log": True}, "a claim on logarithms needs a relative tolerance"),
    ({**VALUE, "kind": "valu"}, "did you mean 'value'"),
    ({**VALUE, "published": {"value": 1.0, "error": -0.1, "error_is": "unstated"}}, "error must be 0 or positive"),
    ({**VALUE, "published": {"value": 1.0, "seeds": 0}}, "seeds and evaluations must be positive"),
    ({**VALUE, "published": {"value": 1.0, "seeds": -1}}, "seeds and evaluations must be positive"),
    ({**VALUE, "published": {"value": 1.0, "error": 0.1, "error_is": "deviation"}}, "say over how many"),
    ({**VALUE, "tolerance": {"absolute": -1.0, "why": "w"}}, "a margin must be 0 or positive"),
    ({**VALUE, "tolerance": {"absolute": 1.0, "why": ""}}, "say why that far"),
    ({**VALUE, "log": True, "tolerance": HALF, "published": {"value": 0.0}}, "needs a positive published value"),
    ({**VALUE, "bound": SHAPE["bound"]}, "a claim of kind value has no 'bound'"),
    ({**SHAPE, "margin": 0.1}, "a claim of kind shape has no 'margin'"),
    ({**IDENTITY, **SPREAD}, "an identity needs an absolute or a relative tolerance"),
    ({**ORDER, "statement": "with {T}"}, "is a name missing in `each`"),
]


@pytest.mark.parametrize(("kind", "message"), BAD_CLAIMS)
def test_a_claim_that_says_too_little_is_refused(kind: dict[str, Any], message: str) -> None:
    with pytest.raises(RefigureError, match=message):
        claim(kind)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("variant: plain,", "variant: plane,", "no variant 'plane'.*C-value; did you mean 'plain'"),
        ("experiment: main, variant: plain", "experiment: man, variant: plain", "'man'.*C-value; did you mean 'main'"),
        ("C-touched", "C-value", "C-value: the id stands there twice"),
        ("kind: shape", "kind: shap", "C-touched.kind: 'shap'.*did you mean 'shape'"),
        ("claims:\n", "claim:\n", "expected the key 'claims'"),
        ("claims:\n", "claims:\n  - 3\n", "0: expected a mapping"),
    ],
)
def test_a_fault_in_claims_names_file_claim_and_nearest(toy: Toy, old: str, new: str, message: str) -> None:
    toy.edit("papers/toy_paper/claims.yaml", old, new)
    with pytest.raises(RefigureError, match=message) as caught:
        load("toy_paper")
    assert "papers/toy_paper/claims.yaml" in str(caught.value)


def test_a_scale_that_the_experiment_lacks_is_named(toy: Toy) -> None:
    toy.edit("papers/toy_paper/claims.yaml", "experiment: main, variant: plain", "experiment: single, variant: plain")
    with pytest.raises(RefigureError, match=r"no scale 'paper' in papers/toy_paper/claims\.yaml: C-value"):
        load("toy_paper")


def test_an_unknown_metric_is_named_once_there_is_a_run(toy: Toy) -> None:
    toy.edit("papers/toy_paper/claims.yaml", "metric: square", "metric: sqare")
    assert [judged.verdict for judged in evaluate("toy_paper")] == ["not run", "not run"]
    toy.finished(variant="momentum")
    with pytest.raises(RefigureError, match=r"claims\.yaml: C-touched: .*'sqare'; did you mean 'square'"):
        evaluate("toy_paper")


def test_verdicts_from_runs_on_disk(toy: Toy) -> None:
    before = evaluate("toy_paper")
    assert [judged.verdict for judged in before] == ["not run", "not run"]
    assert before[0].reason == "needs 1 run(s) at scale paper, at a cost not measured yet"
    assert before[0].ours is before[0].scale is None
    plain, heavy = toy.finished(), toy.finished(variant="momentum")
    value, touched = evaluate("toy_paper")
    # The experiment's own deviation touches nothing, the variant's touches this claim.
    assert (value.verdict, value.scale) == ("agrees", "paper")
    assert value.seeds == dict(zip("012", plain.metrics["x"], strict=True))
    assert value.runs == (str(plain.identity),)
    assert touched.verdict == "smaller run: holds"
    assert "heavier ball" in touched.reason
    assert touched.runs == (str(heavy.identity),)


def test_smaller_runs_say_nothing_of_a_claim_with_a_price(toy: Toy) -> None:
    assert toy.main("--scale", "smoke", "--experiment", "main", "--variant", "plain") == 0
    assert evaluate("toy_paper")[0].verdict.startswith("smaller run: ")
    toy.edit("papers/toy_paper/claims.yaml", "metric: x}\n", 'metric: x}\n    needs: "a day of a core"\n')
    assert (evaluate("toy_paper")[0].verdict, evaluate("toy_paper")[0].reason) == ("not run", "needs a day of a core")
    toy.finished()
    assert evaluate("toy_paper")[0].verdict == "agrees"


def test_a_run_is_read_once_and_only_if_it_may_be(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = toy.finished()
    toy.edit("papers/toy_paper/claims.yaml", "variant: momentum, metric: square", "variant: plain, metric: square")
    read: list[Path] = []
    original = record.read
    monkeypatch.setattr(record, "read", lambda folder: read.append(folder) or original(folder))
    assert [judged.verdict for judged in evaluate("toy_paper")] == ["agrees", "holds"]
    assert read == [plain.folder]
    assert {judged.verdict for judged in evaluate("toy_paper", only=[])} == {"not run"}


def test_carried_runs_are_named(toy: Toy) -> None:
    path = toy.finished().folder / record.PROVENANCE
    toy.finished(variant="momentum")
    atomic.write_json(path, record.with_digest({**json.loads(path.read_text()), "carried": [{"from": "x"}]}))
    assert [judged.carried for judged in evaluate("toy_paper")] == [True, False]
    gap = judge("toy", claim(ORDER), seen([1.0] * 3), dataclasses.replace(seen([2.0] * 3), carried=True), "paper")
    assert gap.carried


def test_claims_are_read_once_until_the_spec_is_read_again(toy: Toy) -> None:
    before = load("toy_paper")
    assert load("toy_paper") is before
    toy.edit("papers/toy_paper/claims.yaml", "It ends at zero", "It comes to rest")
    assert [claim.statement for claim in load("toy_paper")] == ["It comes to rest", "So does momentum"]


KEPT = "    kept = np.random.default_rng(9).normal(1.0, 0.1, (len(seeds), 50, 2))\n    return Outcome({"


def with_evaluations(toy: Toy, evaluations: str, mean: str = "kept[..., 1].mean(1)") -> None:
    """Runs that keep fifty evaluations a seed, and C-value of their second entry."""
    main, claims = "papers/toy_paper/main.py", "papers/toy_paper/claims.yaml"
    toy.edit(main, "    return Outcome({", f'{KEPT}"loss_2": ({mean}).tolist(), ')
    toy.edit(main, 'arrays={"x"', 'arrays={"loss": kept, "x"')
    toy.edit(claims, "variant: plain, metric: x", "variant: plain, metric: loss_2")
    toy.edit(claims, "claims:\n", f"evaluations:\n  main: {evaluations}\nclaims:\n")
    toy.finished()


def test_evaluations_that_runs_keep_are_pooled(toy: Toy) -> None:
    with_evaluations(toy, "{of: lifetimes, pooled: true, arrays: {loss: 1}}")
    value = evaluate("toy_paper")[0]
    assert (value.n, value.verdict) == ("150 lifetimes", "differs")
    assert value.ours == pytest.approx(1.0, abs=0.03)
    assert value.interval is not None
    assert value.interval[1] - value.interval[0] == pytest.approx(2 * 1.976 * 0.1 / 150**0.5, rel=0.2)
    claims = "papers/toy_paper/claims.yaml"
    for old, new, message in (
        ("loss: 1}", "x: 1}", "C-value: a run of plain keeps no lifetimes for loss_2"),
        ("x: 1}", "loss: 5}", r"C-value: loss_2 has no place in array loss of .*\(3, 50, 2\)"),
        ("loss: 5}", "loss: 2}", "C-value: loss_2 of .* is not the mean of its lifetimes"),
        ("  main:", "  mein:", r"no experiment 'mein' in papers/toy_paper/claims\.yaml: evaluations"),
    ):
        toy.edit(claims, old, new)
        with pytest.raises(RefigureError, match=message):
            evaluate("toy_paper")


def test_evaluations_within_a_seed_are_shown(toy: Toy) -> None:
    with_evaluations(toy, "{of: sequences, arrays: {loss: 1}}")
    value = evaluate("toy_paper")[0]
    assert value.n == "3 seeds"
    assert "; each seed is a mean of 50 sequences, deviation 0.1" in value.reason.replace("0.099", "0.1")
    toy.edit("papers/toy_paper/claims.yaml", "{loss: 1}", "{loss: 1, square: 1}")
    toy.edit("papers/toy_paper/claims.yaml", "metric: loss_2", "metric: square")
    assert "each seed" not in evaluate("toy_paper")[0].reason  # it is no mean of sequences


def test_a_smaller_scale_stands_in_and_says_so(toy: Toy) -> None:
    assert toy.one("--scale", "smoke") == 0
    value = evaluate("toy_paper")[0]
    assert (value.verdict, value.scale, value.n) == ("smaller run: not comparable", "smoke", "2 seeds")
    assert "steps: 4 instead of 12" in value.reason
    assert value.too_few
    assert "2 seeds, 3 are needed" in value.reason


def test_only_a_fall_is_a_regression() -> None:
    good = ("agrees", "compatible", "differs, better", "same direction", "holds")
    sample = judge("toy", claim(VALUE), seen([1.0] * 3), None, "paper")
    verdicts = get_args(Verdict)
    for before, now in itertools.product(verdicts, verdicts):
        judged: Judged = dataclasses.replace(sample, verdict=now)
        fallen = regressions([judged], [{"id": "C", "verdict": before}])
        stood, stands = (verdict.removeprefix("smaller run: ") in good for verdict in (before, now))
        assert fallen == ([(judged, before)] if stood and not stands and now != "not run" else [])
    assert regressions([sample], []) == []
    smaller = dataclasses.replace(sample, verdict="smaller run: fails", scale="smoke")
    assert regressions([smaller], [{"id": "C", "verdict": "agrees", "scale": "paper"}]) == []


def test_orders_of_a_paper_have_q_values() -> None:
    sides = [seen([other, other + 0.1, other - 0.1]) for other in (1.1, 2.0)]
    near, far = (judge("toy", claim(ORDER), seen([1.0, 1.1, 0.9]), side, "paper") for side in sides)
    value = judge("toy", claim(VALUE), seen(NEAR), None, "paper")
    *orders, same = with_q_values([near, far, value])
    assert near.p_value is not None
    assert far.p_value is not None
    assert near.p_value > 2 * far.p_value
    assert [each.reason.rpartition("; q = ")[2] for each in orders] == [f"{near.p_value:.2g}", f"{2 * far.p_value:.2g}"]
    assert same == value


def test_partial_seeds_are_shown(toy: Toy) -> None:
    batch = "      paper: {seeds: [0, 1, 2], batch: true}\n"
    toy.edit("papers/toy_paper/paper.yaml", batch, batch.replace(", batch: true", ""))
    assert toy.main("--experiment", "main", "--variant", "plain", "--scale", "paper", "--seed", "1") == 0
    value = evaluate("toy_paper")[0]
    assert (value.verdict, value.ours, list(value.seeds), value.n) == ("not run", None, ["1"], "1 seed")
    assert value.reason.endswith(f"; there is {value.seeds['1']:.4g}")
    assert toy.one("--scale", "smoke") == 0  # two seeds say more than one
    assert evaluate("toy_paper")[0].scale == "smoke"
    assert toy.main("--experiment", "main", "--variant", "plain", "--scale", "paper", "--seed", "2") == 0
    begun = evaluate("toy_paper")[0]
    assert (begun.scale, begun.verdict, list(begun.seeds), begun.too_few) == ("paper", "undecided", ["1", "2"], True)


def test_a_class_is_named_as_the_document_names_it(toy: Toy) -> None:
    assert [each.origin for each in load("toy_paper")] == ["printed", "direction"]
    toy.edit("papers/toy_paper/claims.yaml", "class: printed", "class: prnted")
    with pytest.raises(RefigureError, match=r"C-value\.class: 'prnted' is not one .* did you mean 'printed'"):
        load("toy_paper")
    toy.edit("papers/toy_paper/claims.yaml", "    class: prnted\n", "")
    with pytest.raises(RefigureError, match="C-value: key 'class' is missing"):
        load("toy_paper")


FAMILY = """
  - id: F-{variant}-{step}
    each: {variant: [plain, momentum], step: [1, 2]}
    class: direction
    statement: "{variant} falls by step {step}"
    kind: shape
    source: {where: "Fig. {step}", how: unverified}
    ours: {experiment: main, variant: "{variant}", metric: x}
    bound: {condition: "<", value: 1.0, why: "w"}
  - id: U
    class: printed
    statement: "on a planet"
    kind: value
    source: {where: "Table 9", how: read exactly}
    published: {value: 3.0}
    needs: "an experiment on a planet, about 3 h of one GPU"
"""


def test_families_and_claims_that_nothing_measures(toy: Toy) -> None:
    path = toy.root / "papers/toy_paper/claims.yaml"
    path.write_text(path.read_text() + FAMILY)
    *_, a, b, c, d, unmeasured = load("toy_paper")
    assert [each.id for each in (a, b, c, d)] == ["F-plain-1", "F-plain-2", "F-momentum-1", "F-momentum-2"]
    assert (d.statement, d.ours.variant, d.source.where) == ("momentum falls by step 2", "momentum", "Fig. 2")
    assert d.command("toy_paper").endswith("--experiment main --variant momentum --scale paper")
    assert unmeasured.command("toy_paper") == ""
    judged = evaluate("toy_paper")[-1]
    assert (judged.verdict, judged.published) == ("not run", 3.0)
    assert judged.reason == "needs an experiment on a planet, about 3 h of one GPU"
    path.write_text(path.read_text().replace("    needs:", "    #"))
    forget()
    with pytest.raises(RefigureError, match="U: give 'ours', or 'needs'"):
        load("toy_paper")


def test_records_come_back(toy: Toy) -> None:
    judged = evaluate("toy_paper")
    records = to_records(judged)
    assert records[0]["class"] == "printed"
    assert from_records(json.loads(json.dumps(records)), "claims.json") == judged
