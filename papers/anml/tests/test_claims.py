"""What the room registers: numbers that stand twice agree, and an unlike network is not judged as the same."""

import pytest

from common.room import claims, spec
from papers.anml import figures

REGISTERED = {claim.id: claim for claim in claims.load("anml")}


@pytest.mark.parametrize(("name", "variant"), figures.TRAINING)
def test_claims_of_drawings_learned_are_the_curves_that_figures_draw(name: str, variant: str) -> None:
    curve = [REGISTERED[f"{name}-train-{count}"] for count in (10, 50, 100, 200, 600)]
    assert tuple(claim.published.value for claim in curve if claim.published) == figures.TRAINING[name, variant]
    assert {claim.ours.variant for claim in curve if claim.ours} == {variant}


def test_claims_that_deviations_touch_exist() -> None:
    experiments = spec.load("anml").experiments.values()
    declared = [one for experiment in experiments for one in experiment.deviations]
    declared += [one for experiment in experiments for each in experiment.variants.values() for one in each.deviations]
    assert {claim for one in declared for claim in one.touches} <= {"all", *REGISTERED}


def test_a_network_with_a_dendritic_segment_is_no_comparison_at_equal_conditions() -> None:
    variant = spec.load("anml").experiments["short_train"].variants["anml"]
    assert any({"N7", "N7-train"} <= {*each.touches} for each in variant.deviations)
