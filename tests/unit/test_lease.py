"""Whose a cluster is: the decision, without a cluster."""

import pytest

from runtimes.claim import SILENT_S, Claimant
from runtimes.kubernetes.client import ForbiddenError
from runtimes.kubernetes.lease import LeaseKeeper, judge

ME = Claimant("here", "2", "c1", "https://here.example")


@pytest.mark.parametrize(
    ("holder", "earlier", "unchanged_s", "renewals", "verdict"),
    [
        ("me", "", 0, 0, "hold"),
        ("", "", 0, 0, "take"),
        ("other", "", 9999, 0, "step_back"),
        ("before", "before", 0, 0, "wait"),
        ("before", "before", SILENT_S, 0, "take"),
        ("before", "before", SILENT_S, 2, "step_back"),
    ],
)
def test_nobody_takes_over_by_what_a_clock_says(holder, earlier, unchanged_s, renewals, verdict):
    assert judge(holder, "me", earlier=earlier, unchanged_s=unchanged_s, renewals=renewals) == verdict


class Forbidding:
    host = "https://k.example"

    def get(self, path: str):
        raise ForbiddenError("leases are forbidden")


def test_who_has_stepped_back_does_not_act_for_want_of_a_look():
    keeper = LeaseKeeper(Forbidding(), "models", ME)
    assert not keeper.claim(earlier="", by_force=False, stepped_back=True).in_charge
    claim = keeper.claim(earlier="", by_force=False, stepped_back=False)
    assert claim.in_charge and not claim.is_told, "no claim that a restart could go by"
