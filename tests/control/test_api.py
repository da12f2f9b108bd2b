"""The REST API as a script meets it."""

import json

import pytest
from django.db import connections
from django.urls import reverse

from accounts.models import ApiToken
from accounts.services import create_api_token
from common.service_error import ServiceError
from deployments.models import Cluster, Deployment, Endpoint, Model, Status, Version
from deployments.services import catalog
from deployments.services.deployments import create_deployment, update_deployment
from tests.conftest import simulator

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


@pytest.mark.parametrize(
    ("method", "path", "data", "field"),
    [
        ("post", "models/", {"name": "M", "organization": "acme", "url": "x"}, "url"),
        ("post", "models/", {"name": "M", "organization": "nope"}, "organization"),
        ("patch", "models/{model}/", {"organization": "zzz"}, "organization"),
        ("patch", "deployments/acme/chat/", {"name": "other"}, "name"),
        ("post", "deployments/acme/chat/scale/", {"replica": 2}, "replica"),
        ("get", "deployments/?status=walking", None, "status"),
    ],
)
def test_what_the_api_does_not_know_is_refused_by_name(api, deploy, method, path, data, field):
    deployment = deploy()
    answer = api(method, path.format(model=deployment.model_id), data)
    assert answer.status_code == 400 and list(answer.json()["error"]["fields"]) == [field], answer.content


def test_a_field_of_the_specification_is_named_where_it_lies(api, place):
    specification = {"engine": "simulator", "replicas": 3}
    data = {"name": "ok", "endpoint": "main", "model": "A model", "specification": specification}
    fields = api("post", "deployments/", data).json()["error"]["fields"]
    assert "There is no such field" in fields["specification"]["replicas"][0]


def test_a_change_leaves_alone_what_it_does_not_name(api, deploy, people, monkeypatch):
    """Two scripts change different fields at once: the second has read before the first one wrote."""
    deployment = deploy()
    model = deployment.model
    save = catalog.save_model

    def interrupted(thing, **values):
        catalog.save_model = save
        save(Model.objects.get(pk=model.pk), actor=people.operator, credential="planted-4", only=())
        Model.objects.filter(pk=model.pk).update(uri="org/from-elsewhere")
        return save(thing, **values)

    monkeypatch.setattr("deployments.api.views.ModelViewSet.save", staticmethod(interrupted))
    answer = api("patch", f"models/{model.pk}/", {"description": "new"})
    assert answer.status_code == 200 and answer.json()["uri"] == "org/from-elsewhere"
    model.refresh_from_db()
    assert (model.description, model.uri, model.credential_token()) == ("new", "org/from-elsewhere", "planted-4")
    update_deployment(deployment, environment="production", actor=people.operator)
    update_deployment(deployment, description="d", actor=people.operator)
    deployment.refresh_from_db()
    assert (deployment.environment, deployment.description) == ("production", "d")


def test_the_list_is_narrowed_and_the_short_lists_are_what_the_description_says(api, deploy, client, people):
    deploy()
    deploy("other")
    assert [item["name"] for item in api("get", "deployments/?search=oth").json()["results"]] == ["other"]
    assert len(api("get", "deployments/?status=preparing&organization=acme").json()["results"]) == 2
    assert api("get", "deployments/?environment=production").json()["results"] == []
    client.force_login(people.operator)
    paths = client.get(reverse("schema"), headers={"Accept": "application/vnd.oai.openapi+json"}).json()["paths"]
    for path, said in paths.items():
        if path.endswith(("/events/", "/versions/", "/instances/")):
            shape = said["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            assert shape.get("type") == "array", (path, shape)


def test_a_post_without_the_last_slash_is_sent_on_as_a_post(api, place):
    assert api("post", "models", {"name": "M", "organization": "acme"}).status_code == 308


def test_an_endpoint_in_use_keeps_its_name(api, deploy):
    endpoint = deploy().endpoint
    refused = api("patch", f"endpoints/{endpoint.pk}/", {"name": "other"})
    assert refused.status_code == 400 and "/main/…" in refused.json()["error"]["fields"]["name"][0]
    assert api("patch", f"endpoints/{endpoint.pk}/", {"description": "d"}).status_code == 200


def test_a_number_is_given_once(api, deploy):
    deploy()
    Version.objects.update(status=Status.STOPPED, desired_state="stopped")
    specification = {"engine": "simulator"}
    assert api("post", "deployments/acme/chat/versions/", {"specification": specification}).json()["number"] == 2
    Version.objects.update(status=Status.STOPPED, desired_state="stopped")
    assert api("delete", "deployments/acme/chat/versions/2/").status_code == 204
    assert api("post", "deployments/acme/chat/versions/", {"specification": specification}).json()["number"] == 3


def test_what_is_to_stop_is_not_scaled(api, deploy):
    deploy()
    Version.objects.update(status=Status.SHUTTING_DOWN, desired_state="stopped")
    refused = api("post", "deployments/acme/chat/scale/", {"replicas": 2})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")


def test_a_body_that_is_too_large_is_told_so(api, place):
    answer = api("post", "models/", {"name": "M", "organization": "acme", "description": "x" * (13 << 20)})
    assert answer.status_code == 413 and "12 MiB" in answer.json()["error"]["message"]


@pytest.mark.django_db(transaction=True)
def test_what_was_deleted_at_the_same_moment_is_not_called_a_duplicate(place, people, monkeypatch):
    def deleted_first(*args, **values):
        with connections["default"].cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
            cursor.execute("DELETE FROM deployments_model WHERE id = %s", [place.model.pk])

    monkeypatch.setattr("deployments.services.deployments.create_version", deleted_first)
    deployment = Deployment(organization=people.ours, model=place.model, endpoint=place.endpoint, name="late")
    with pytest.raises(ServiceError, match="deleted meanwhile") as caught:
        create_deployment(deployment, simulator(), 1, actor=people.operator)
    assert caught.value.code == "conflict"
