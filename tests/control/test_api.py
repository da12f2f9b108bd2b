"""The REST API as a script meets it."""

import json

import pytest
from django.urls import reverse

from accounts.models import ApiToken
from accounts.services import create_api_token
from deployments.models import Cluster, Endpoint, Model, Status, Version

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(client, people):
    _, token = create_api_token(people.operator, "test")

    def call(method: str, path: str, data=None, token=token):
        body = json.dumps(data) if data is not None else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return (
            getattr(client, method)(f"/api/v1/{path}", body, content_type="application/json", headers=headers)
            if method != "get"
            else client.get(f"/api/v1/{path}", headers=headers)
        )

    return call


def test_a_script_can_deploy_scale_stop_and_delete(api, place):
    specification = {
        "engine": "simulator",
        "engine_settings": {"load_time_s": 0},
        "secret_environment": {"T": "planted-2"},
    }
    made = api(
        "post",
        "deployments/",
        {"name": "api-made", "endpoint": "main", "model": "A model", "specification": specification},
    )
    assert made.status_code == 201, made.content
    assert (made.json()["id"], made.json()["status"]) == ("acme/api-made", "preparing")
    assert api("post", "deployments/acme/api-made/scale/", {"replicas": 2}).json()["replicas"] == 2
    versions = api("get", "deployments/acme/api-made/versions/")
    assert versions.json()[0]["specification"]["cpu"] == 0.5 and b"planted-2" not in versions.content
    refused = api("delete", "deployments/acme/api-made/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "active")
    assert api("post", "deployments/acme/api-made/versions/1/stop/").status_code == 200
    Version.objects.update(status=Status.STOPPED)
    assert api("delete", "deployments/acme/api-made/").status_code == 204
    assert api("get", "deployments/acme/api-made/").status_code == 404


def test_catalog(api, place):
    assert api("post", "models/", {"name": "M", "organization": "acme", "credential": "planted-3"}).status_code == 201
    listed = api("get", "models/")
    assert {item["name"] for item in listed.json()["results"]} == {
        "A model",
        "M",
    } and b"planted-3" not in listed.content
    assert api("post", "endpoints/", {"name": "metrics", "organization": "acme", "cluster": "here"}).json()["error"][
        "fields"
    ]["name"]
    assert api("post", "models/", {"name": "M", "organization": "acme"}).status_code == 409


@pytest.mark.parametrize(
    "changes",
    [{"name": "Bad Name"}, {"endpoint": "nope"}, {"model": "nope"}, {"specification": {"engine": "nope"}}, {"specification": {}}, {"specification": []}, {"replicas": 0},
     {"specification": {"engine": "simulator", "engine_settings": {"failure_rate": 7}}}, {"specification": {"engine": "simulator", "engine_settings": {"x": 1}}},
     {"specification": {"engine": "custom_command", "engine_settings": {"command": "no-such-thing", "health_path": "/"}}}],
)  # fmt: skip
def test_bad_input_names_the_field(api, place, changes):
    data = {
        "name": "ok",
        "endpoint": "main",
        "model": "A model",
        "specification": {"engine": "simulator"},
    } | changes
    response = api("post", "deployments/", data)
    assert response.status_code == 400, response.content
    assert response.json()["error"]["fields"]


def test_without_a_valid_token_nothing(api, people, deploy):
    deploy()
    assert api("get", "deployments/", token="").status_code == 401
    assert api("get", "deployments/", token="slt_wrong").status_code == 401
    _, strangers = create_api_token(people.stranger, "s")
    assert api("get", "deployments/", token=strangers).json()["results"] == []
    for path in (
        "deployments/acme/chat/",
        "deployments/acme/chat/versions/",
        "deployments/acme/chat/versions/1/instances/",
        "instances/ab12/log/",
    ):
        assert api("get", path, token=strangers).status_code == 404
    ApiToken.objects.all().delete()
    assert api("get", "deployments/").status_code == 401


def test_the_description_is_whole(client, people):
    client.force_login(people.operator)
    response = client.get(reverse("schema"))
    assert response.status_code == 200
    assert b"/api/v1/deployments/{organization}/{name}/" in response.content


@pytest.mark.parametrize(("gpu", "image"), [(0, "ghcr.io/ggml-org/llama.cpp:server"), (1, "ghcr.io/ggml-org/llama.cpp:server-cuda")])  # fmt: skip
def test_an_image_that_is_left_out_is_the_engines_own_for_the_device(api, place, gpu, image):
    lab = Cluster.objects.create(name="lab", driver="kubernetes", namespace="models")
    Endpoint.objects.create(organization=place.model.organization, name="pods", cluster=lab)
    Model.objects.create(organization=place.model.organization, name="tiny", uri="ggml-org/tiny-llamas")
    specification = {"engine": "llama_cpp", "gpu": gpu}
    made = api("post", "deployments/", {"name": "tiny", "endpoint": "pods", "model": "tiny", "specification": specification})  # fmt: skip
    assert made.status_code == 201, made.content
    assert Version.objects.get(deployment__name="tiny").specification.image == image
