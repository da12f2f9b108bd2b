"""Which organizations may use a cluster, and what they may ask for there."""

import re
from dataclasses import replace

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry
from common.service_error import ForbiddenError, ServiceError
from deployments.forms.catalog import ALLOWANCES
from deployments.models import Cluster, Deployment, Endpoint
from deployments.selectors import deployable_endpoints, usable_clusters
from deployments.services import catalog, versions
from deployments.services.deployments import create_deployment
from runtimes.allowances import KINDS, Allowances, pattern_error
from runtimes.specification import Specification, Toleration
from tests.conftest import simulator

pytestmark = pytest.mark.django_db


@pytest.fixture
def pods(place) -> Cluster:
    """A cluster of pods, as its operators have just entered it."""
    Cluster.objects.filter(pk=place.cluster.pk).update(
        driver=Cluster.Driver.KUBERNETES, namespace="models", allowances=Allowances().to_json()
    )
    place.cluster.refresh_from_db()
    place.endpoint.refresh_from_db()
    return place.cluster


def deploy(place, people, specification: Specification, *, actor, name: str = "chat") -> Deployment:
    made = Deployment(organization=people.ours, model=place.model, endpoint=place.endpoint, name=name)
    return create_deployment(made, replace(specification, image="an/image"), 1, actor=actor)


ASKED = {
    "annotations": {"annotations": {"iam.amazonaws.com/role": "admin"}},
    "labels": {"labels": {"app": "somebody-elses"}},
    "tolerations": {"tolerations": (Toleration("node-role.kubernetes.io/control-plane", "Exists"),)},
    "node_selector": {"node_selector": {"kubernetes.io/hostname": "node1"}},
}


@pytest.mark.parametrize("field", ASKED)
def test_what_reaches_far_is_refused_at_its_field(pods, place, people, field):
    specification = replace(simulator(), **ASKED[field])
    with pytest.raises(ServiceError, match="An operator can allow more on the cluster's page") as refused:
        deploy(place, people, specification, actor=people.admin)
    assert refused.value.field == field and not Deployment.objects.exists()
    assert deploy(place, people, specification, actor=people.operator)


def test_a_toleration_of_everything_needs_everything():
    everything = replace(simulator(), tolerations=(Toleration("", "Exists"),))
    assert "tolerations" in Allowances(tolerations=("nvidia.com/*",)).errors(everything, "acme")
    assert not Allowances(tolerations=("*",)).errors(everything, "acme")


def test_a_pattern_is_matched_in_one_pass():
    cases = {
        "": [""],
        "a*": ["a", "ab"],
        "*a": ["a", "ba"],
        "a*a": ["aa", "aba"],
        "*": ["", "x"],
        "a*b*c": ["abc", "axbxc"],
    }
    for pattern, matching in cases.items():
        allowed = Allowances(claims=(pattern,))
        assert not any(allowed.errors(simulator(), "acme", value) for value in matching if value)
    for pattern, value in (("a*a", "a"), ("a*b*c", "acb"), ("ab*", "a"), ("*ab*ba", "aba")):
        assert Allowances(claims=(pattern,)).errors(simulator(), "acme", value)
    assert Allowances(claims=("*a" * 120,)).errors(simulator(), "acme", "a" * 119 + "b")


def test_images_and_claims_go_by_patterns():
    allowed = Allowances(images=("ghcr.io/{organization}/*", "vllm/vllm-openai:*"), claims=("{organization}-*",))
    for image, is_allowed in (("ghcr.io/acme/x:1", True), ("ghcr.io/other/x", False), ("vllm/vllm-openai:v1", True), ("vllm/vllm-openai-evil", False)):  # fmt: skip
        assert ("image" not in allowed.errors(replace(simulator(), image=image), "acme")) is is_allowed
    assert allowed.errors(replace(simulator(), cache_claim="other-cache"), "acme").keys() == {"cache_claim"}
    assert allowed.errors(simulator(), "acme", "other-weights").keys() == {"model"}
    assert not allowed.errors(replace(simulator(), cache_claim="acme-cache"), "acme", "acme-weights")


@pytest.mark.parametrize(
    ("pattern", "image", "is_allowed"),
    [
        ("docker.io/acme/*", "acme/x:1", True),
        ("acme/*", "docker.io/acme/x:1", True),
        ("acme/*", "index.docker.io/acme/x", True),
        ("acme/*", "evil.example/acme/x", False),
        ("nginx", "docker.io/library/nginx", True),
        ("*", "anything.example/at/all", True),
        ("registry:5000/*", "registry:5000/x", True),
        ("acme/*", "acme/../evil/x", False),
        ("acme/?", "acme/x", False),
    ],
)
def test_an_image_is_the_same_however_its_registry_is_written(pattern, image, is_allowed):
    allowed = Allowances(images=(pattern,))
    assert ("image" not in allowed.errors(replace(simulator(), image=image), "acme")) is is_allowed


def test_a_version_from_before_is_asked_again_when_it_starts(pods, place, people):
    made = deploy(place, people, replace(simulator(), labels={"app": "x"}), actor=people.operator)
    version = made.versions.get()
    versions.Version.objects.update(status="stopped", desired_state="stopped")
    version.refresh_from_db()
    with pytest.raises(ServiceError, match="The label “app” is not allowed"):
        versions.start_version(version, actor=people.admin)
    # By itself it starts again whatever has changed: what has run is wanted until a person says otherwise.
    versions.start_version(version, actor=None)


def test_only_chosen_organizations_use_a_cluster(pods, place, people):
    catalog.save_cluster(pods, actor=people.operator, organizations=[people.theirs], only={"is_for_all"})
    Cluster.objects.update(is_for_all=False)
    assert not usable_clusters(people.admin).exists() and usable_clusters(people.stranger).exists()
    assert not deployable_endpoints(people.admin).exists()
    pods.refresh_from_db()
    with pytest.raises(ForbiddenError, match="Acme may not use the cluster here") as refused:
        catalog.save_endpoint(Endpoint(organization=people.ours, name="more", cluster=pods), actor=people.operator)
    assert refused.value.field == "cluster"
    place.endpoint.cluster.refresh_from_db()
    with pytest.raises(ForbiddenError, match="Acme may not use"):
        deploy(place, people, simulator(), actor=people.operator)


def test_what_runs_where_one_may_no_longer_goes_on_and_grows_no_more(pods, place, people):
    version = deploy(place, people, simulator(), actor=people.operator).versions.get()
    Cluster.objects.update(is_for_all=False)
    version = versions.Version.objects.get(pk=version.pk)
    with pytest.raises(ForbiddenError, match="Acme may not use"):
        versions.scale_version(version, 2, actor=people.admin)
    versions.stop_version(version, actor=people.admin)


def test_the_form_sets_both_and_the_audit_log_tells(pods, people, settings):
    client = Client()
    client.force_login(people.operator)
    url = reverse("deployments:catalog-edit", args=["clusters", pods.pk])
    page = client.get(url).content.decode()
    assert "Annotations that organizations may set" in page and "nvidia.com/*" in page
    data = {
        "name": "here",
        "driver": "kubernetes",
        "namespace": "models",
        "reach": "address",
        "organizations": [people.ours.pk],
    }
    data |= dict.fromkeys(ALLOWANCES, "") | {"annotations": "acme.example/*\nprometheus.io/scrape"}
    assert client.post(url, data).status_code == 302
    pods.refresh_from_db()
    assert not pods.is_for_all and list(pods.organizations.all()) == [people.ours]
    assert (
        pods.allowances["annotations"] == ["acme.example/*", "prometheus.io/scrape"] and pods.allowances["images"] == []
    )
    assert "organizations" in str(AuditEntry.objects.filter(object_type="cluster").values_list("changes", flat=True))
    refused = client.post(url, data | {"labels": "two words"})
    assert refused.status_code == 422 and "is no pattern" in refused.content.decode()


def test_a_page_from_before_another_change_undoes_nothing(pods, people):
    client = Client()
    client.force_login(people.operator)
    url = reverse("deployments:catalog-edit", args=["clusters", pods.pk])
    seen = re.search(r'name="seen" value="(\w+)"', client.get(url).content.decode())[1]
    client.patch(f"/api/v1/clusters/{pods.pk}/", {"allowances": {"tolerations": ["tight-only"]}}, "application/json")
    data = {
        "name": "here",
        "driver": "kubernetes",
        "namespace": "models",
        "reach": "address",
        "description": "mine",
        "seen": seen,
    }
    refused = client.post(url, data | {kind: "\n".join(lines) for kind, lines in Allowances().to_json().items()})
    assert refused.status_code == 422 and "Someone else changed this" in refused.content.decode()
    pods.refresh_from_db()
    assert pods.allowances["tolerations"] == ["tight-only"] and not pods.description
    seen = re.search(r'name="seen" value="(\w+)"', client.get(url).content.decode())[1]
    assert client.post(url, data | {"seen": seen, "is_for_all": "on"}).status_code == 302


def test_the_api_changes_one_kind_and_leaves_the_others(pods, people):
    client = Client()
    client.force_login(people.operator)
    url = f"/api/v1/clusters/{pods.pk}/"
    answer = client.patch(
        url, {"allowances": {"labels": ["*"]}, "organizations": ["acme"], "is_for_all": False}, "application/json"
    )
    assert answer.status_code == 200, answer.content
    told = answer.json()
    assert told["allowances"] == Allowances().to_json() | {"labels": ["*"]} and told["organizations"] == ["acme"]
    wrong = client.patch(url, {"allowances": {"label": ["*"]}}, "application/json")
    assert wrong.status_code == 400 and "There is no such field" in wrong.content.decode()


def test_every_kind_has_its_words():
    assert set(ALLOWANCES) == set(KINDS)
    assert pattern_error(["x"] * 101) and pattern_error(["a b"]) and not pattern_error(["*", "a/b*"])
