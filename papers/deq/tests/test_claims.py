"""Claims and the deviations that speak of them."""

from common.room.claims import load
from common.room.spec import load as room


def test_deviations_name_claims_that_are_there() -> None:
    claims = {claim.id for claim in load("deq")}
    for name, experiment in room("deq").experiments.items():
        for variant, entry in experiment.variants.items():
            for deviation in entry.deviations:
                assert {*deviation.touches} <= claims, f"{name}.{variant}: {deviation.what}"


def test_a_value_far_below_the_published_one_is_no_match() -> None:
    for claim in load("deq"):
        if claim.kind == "value" and claim.tolerance and claim.published and not claim.tolerance.spread:
            allowed = claim.tolerance.absolute or claim.published.value * (claim.tolerance.relative or 0)
            assert allowed < claim.published.value, claim.id
