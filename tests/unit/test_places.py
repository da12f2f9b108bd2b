"""Where an organization's instances run, and what is made for it there."""

import pytest

from runtimes.driver import DriverError
from runtimes.kubernetes.namespaces import caller_error, namespace, policy, prepare, quota
from runtimes.kubernetes.ownership import Owner, sort
from runtimes.kubernetes.places import HOME, TEMPLATE, Objects, Places, qualified
from runtimes.room import Room


@pytest.mark.parametrize(
    ("template", "organization", "found"),
    [
        ("", "acme", "slipway"),
        (TEMPLATE, "acme", "slipway-acme"),
        (TEMPLATE, "", "slipway"),
        ("ml-{organization}-prod", "acme", "ml-acme-prod"),
    ],
)
def test_a_template_names_the_namespace(template, organization, found):
    assert Places("slipway", template).of(organization) == found


def test_long_names_are_cut_and_stay_apart():
    places = Places("slipway", TEMPLATE)
    first, second = (places.of("a" * 62 + end) for end in "xy")
    assert first != second and len(first) <= 63 and first.rpartition("-")[2].isalnum()
    assert places.of("a" * 62 + "x") == first


class Listing:
    """A cluster's lists, from memory."""

    host = "https://listing.example"

    def __init__(self, **lists):
        self._lists = lists
        self.asked: list[str] = []

    def list(self, path, **query):
        self.asked.append(path)
        return [{"metadata": dict(item)} for item in self._lists[path.rpartition("/")[2]]]


def test_only_namespaces_that_carry_the_label_are_looked_at():
    pods = [{"name": "a", "namespace": "home"}, {"name": "b", "namespace": "home-acme"}, {"name": "c", "namespace": "evil"}]  # fmt: skip
    client = Listing(namespaces=[{"name": "home-acme"}], pods=pods)
    listed = Objects(client, Places("home", TEMPLATE), "v1", "pods").list()
    assert [qualified(item["metadata"]) for item in listed] == ["a", "home-acme/b"]
    assert client.asked == ["/api/v1/pods", "/api/v1/namespaces"]


def test_without_a_template_one_namespace_is_asked_for():
    client = Listing(deployments=[{"name": "a", "namespace": "home"}])
    objects = Objects(client, Places("home"), "apps/v1", "deployments")
    assert [qualified(item["metadata"]) for item in objects.list()] == ["a"]
    assert client.asked == ["/apis/apps/v1/namespaces/home/deployments"]
    assert objects.path("other/x") == "/apis/apps/v1/namespaces/other/deployments/x"


def test_names_that_hold_anything_stay_within_their_path():
    objects = Objects(Listing(), Places("home"), "v1", "pods")
    assert objects.path("../../secrets/x") == "/api/v1/namespaces/..%2F..%2Fsecrets/pods/x"


def test_a_quota_leaves_room_for_what_replaces():
    hard = quota(Room("acme", instances=3, cpu=1.5, memory=1 << 30))["spec"]["hard"]
    assert hard == {
        "pods": "6", "requests.nvidia.com/gpu": None, "requests.cpu": "3000m", "requests.memory": str(2 << 30),
    }  # fmt: skip


def test_nobody_calls_but_those_that_are_named():
    assert policy([])["spec"]["ingress"] == [], "an empty rule would let in everybody"
    (rule,) = policy(["10.1.0.0/16", "gateways"])["spec"]["ingress"]
    assert rule["from"] == [
        {"ipBlock": {"cidr": "10.1.0.0/16"}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}},
    ]
    labels = namespace("slipway-acme", "slipway", "acme")["metadata"]["labels"]
    assert labels[HOME] == "slipway" and labels["pod-security.kubernetes.io/enforce"] == "baseline"


@pytest.mark.parametrize("caller", ["10.0.0.0/8", "::/0", "fd00::/8", "10.0.0.7", "gateways", "a-1"])
def test_callers(caller):
    assert not caller_error(caller)


@pytest.mark.parametrize("caller", ["10.0.0.1/8", "10.0.0.999", "Gateways", "-a", "a_b", "a/b", "", "x" * 64, "é"])
def test_no_callers(caller):
    assert caller_error(caller)


def test_no_organization_runs_in_the_first_namespace_because_of_its_name():
    with pytest.raises(DriverError, match="Slipway's own namespace"):
        prepare(Listing(), Places("slipway", "{organization}"), Room("slipway"), ["10.0.0.0/8"])


def test_a_pod_is_selected_within_its_namespace_alone():
    labels = {"slipway.dev/version": "key", "slipway.dev/generation": "1", "slipway.dev/installation": "mine"}
    mine = {
        "metadata": {"name": "a", "namespace": "home-acme", "labels": labels},
        "spec": {"selector": {"matchLabels": {"slipway.dev/version": "key"}}},
    }
    strange = {"slipway.dev/version": "key", "slipway.dev/generation": "1", "slipway.dev/installation": "another"}
    pods = [
        {"metadata": {"name": f"a-{place}", "namespace": place, "labels": strange}}
        for place in ("home-acme", "home-other")
    ]
    found = sort(Owner("mine", "here"), [mine], pods)
    assert [pod["metadata"]["name"] for pod in found.pods] == ["a-home-acme"]
