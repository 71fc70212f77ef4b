"""What the room registers: deviations touch claims that exist, and an unlike network is not judged as the same."""

from common.room import claims, spec

REGISTERED = {claim.id: claim for claim in claims.load("anml")}


def test_claims_that_deviations_touch_exist() -> None:
    experiments = spec.load("anml").experiments.values()
    declared = [one for experiment in experiments for one in experiment.deviations]
    declared += [one for experiment in experiments for each in experiment.variants.values() for one in each.deviations]
    assert {claim for one in declared for claim in one.touches} <= {"all", *REGISTERED}


def test_a_network_with_a_dendritic_segment_is_no_comparison_at_equal_conditions() -> None:
    variant = spec.load("anml").experiments["short_train"].variants["anml"]
    assert any({"N7", "N7-train"} <= {*each.touches} for each in variant.deviations)
