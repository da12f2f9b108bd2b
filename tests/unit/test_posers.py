"""What says that it is somebody's, in another organization's namespace."""

import orjson

from accounts.models import Organization
from deployments.models import Deployment, Version
from deployments.strangers import serving, without_posers
from runtimes.observation import InstanceObservation, Observation, StrangerObservation, WorkloadObservation

KEY = "a" * 8


class Namespaces:
    """As much of a driver as says where an organization's instances are."""

    def namespace_of(self, organization: str) -> str:
        return f"home-{organization}"


def described(organization: str) -> str:
    return orjson.dumps({"organization": organization, "deployment": "chat"}).decode()


def stranger(place: str) -> StrangerObservation:
    return StrangerObservation(f"{place}x", "k", 1, 1, 0, description=described("acme"))


def test_a_claim_counts_at_home_and_in_the_organizations_own_namespace():
    for place, believed in (("", True), ("home-acme/", True), ("home-other/", False)):
        found = serving(Namespaces(), Observation(0, strangers=(stranger(place),)), {})
        assert bool(found) is believed, place


def test_instances_in_another_organizations_namespace_are_nobodys():
    version = Version(key=KEY, deployment=Deployment(organization=Organization(name="acme"), name="chat"))
    places = ("", "home-acme", "home-other")
    seen = Observation(
        0,
        instances={
            KEY: [InstanceObservation(f"{n}", "x", "ready", 1, namespace=place) for n, place in enumerate(places)]
        },
        workloads={KEY: [WorkloadObservation(f"{place}/x".lstrip("/"), 1, 1) for place in places]},
    )
    found = without_posers(Namespaces(), seen, [version])
    assert [item.namespace for item in found.instances[KEY]] == ["", "home-acme"]
    assert [item.name for item in found.workloads[KEY]] == ["x", "home-acme/x"]
    assert [item.name for item in found.strangers] == ["home-other/x"], "people are told"
