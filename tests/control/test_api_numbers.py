"""What scripts send for numbers and choices, and what they are told where it makes no sense."""

import pytest
from rest_framework.test import APIClient

from deployments.models import Cluster, Deployment, Model
from deployments.services import quotas
from tests.control.test_pages import KUBECONFIG

pytestmark = pytest.mark.django_db
SURROGATE = '"\\ud800"'


@pytest.fixture
def client(people) -> APIClient:
    found = APIClient()
    found.force_authenticate(people.operator)
    return found


@pytest.mark.parametrize("value", ["1_0", "٣", True, "0x10", " 3 4", [3], {"a": 1}, "1e3", 10**30, -1, 2.5, "NaN"])
@pytest.mark.parametrize("kind", ["instances", "gpus", "memory", "deployments", "keys"])
def test_whole_numbers_have_one_spelling_and_a_bound(client, people, kind, value):
    answer = client.patch("/api/v1/organizations/acme/quota/", {kind: value}, format="json")
    assert answer.status_code == 400 and kind in answer.json()["error"]["fields"], answer.content
    assert quotas.quota_of(people.ours) is None


@pytest.mark.parametrize("value", ["1_0.5", "٣", True, "inf", 1e306, 1e7, "1e306", -0.5])
def test_amounts_too(client, people, value):
    answer = client.patch("/api/v1/organizations/acme/quota/", {"cpu": value}, format="json")
    assert answer.status_code == 400 and "cpu" in answer.json()["error"]["fields"], answer.content
    for good in (2, 0.5, "0.5", 1e3):
        assert client.patch("/api/v1/organizations/acme/quota/", {"cpu": good}, format="json").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", "deployments/", '{"environment":%s}'),
        ("post", "deployments/", '{"access":%s}'),
        ("post", "deployments/", '{"specification":{%s:1}}'),
        ("post", "deployments/", "{%s:1}"),
        ("post", "models/", '{"source":%s}'),
        ("patch", "clusters/{cluster}/", '{"reach":%s}'),
        ("patch", "clusters/{cluster}/", '{"driver":%s}'),
        ("post", "organizations/acme/aliases/", '{"name":"x","deployment":%s}'),
    ],
)
def test_half_of_a_surrogate_pair_is_told_and_not_a_fault_of_ours(client, place, method, path, body):
    answer = getattr(client, method)(
        f"/api/v1/{path}".replace("{cluster}", str(place.cluster.pk)), body % SURROGATE, content_type="application/json"
    )
    assert answer.status_code == 400 and answer.json()["error"]["fields"], answer.content


@pytest.mark.parametrize("credential", ["abc\r\nX: y", "abcé", "a\tb", "\x7f"])
def test_credentials_are_what_a_header_takes(client, people, credential):
    body = {"name": "m", "organization": "acme", "source": "hugging_face", "uri": "hf://a/b", "credential": credential}
    answer = client.post("/api/v1/models/", body, format="json")
    assert answer.status_code == 400 and "credential" in answer.json()["error"]["fields"]
    assert not Model.objects.filter(name="m").exists() and credential not in answer.content.decode()


def test_a_cluster_that_is_made_without_a_word_of_it_keeps_organizations_apart(client, people, monkeypatch):
    for name in ("_check_namespace", "_identity"):
        monkeypatch.setattr(f"deployments.services.catalog.{name}", lambda cluster: "")
    body = {"name": "lab", "driver": "kubernetes", "namespace": "models", "kubeconfig": KUBECONFIG}
    refused = client.post("/api/v1/clusters/", body, format="json")
    assert refused.status_code == 400 and "callers" in refused.json()["error"]["fields"]
    made = client.post("/api/v1/clusters/", body | {"callers": ["10.0.0.0/8"]}, format="json")
    assert made.json()["namespace_template"] == "{prefix}-{organization}", made.content
    changed = client.patch(f"/api/v1/clusters/{made.json()['id']}/", {"namespace_template": ""}, format="json")
    assert changed.json()["namespace_template"] == ""
    plain = client.post("/api/v1/clusters/", body | {"name": "one", "namespace_template": ""}, format="json")
    assert plain.status_code == 201 and Cluster.objects.get(name="one").namespace_template == ""


def test_all_that_is_too_much_is_told_by_field(client, people, place):
    quotas.set_quota(people.ours, {"instances": 1, "cpu": 0.5}, actor=people.operator)
    specification = {"engine": "simulator", "cpu": 1, "memory": 256 << 20}
    body = {"name": "big", "endpoint": "main", "model": "A model", "replicas": 2, "specification": specification}
    refused = client.post("/api/v1/deployments/", body, format="json").json()["error"]
    assert refused["code"] == "quota_exceeded" and set(refused["fields"]) == {"replicas", "cpu"}
    assert not Deployment.objects.exists()
