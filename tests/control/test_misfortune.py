"""What a hostile or unlucky program, user or moment must not do to a version."""

import re

import pytest
from django.urls import reverse

from common.installation_keys import FixedKeys
from common.service_error import ServiceError
from deployments import reconcile
from deployments.models import DirectoryVersion, Event, Instance, Status, Version
from deployments.services import deployments, versions
from runtimes.specification import Specification
from tests.conftest import sign_in
from tests.control.test_reconcile import becomes, follow
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def command(text: str, **settings) -> Specification:
    return Specification(
        "custom_command", "a/b", memory=64 << 20, engine_settings={"command": text, "health_path": "/"} | settings
    )


def test_a_program_that_writes_nul_bytes_still_ends_in_error(deploy):
    version = deploy(specification=command(r"""sh -c 'printf "bad\000byte\n"; exit 3'""")).versions.get()
    becomes(version, Status.ERROR, within_s=40)
    assert any("bad�byte" in line for line in version.cause.evidence)


def test_a_version_that_no_plan_can_be_made_of_ends_in_error_and_can_be_stopped(deploy, people):
    version = deploy().versions.get()
    broken = version.specification_json | {"engine_settings": {"load_time_s": None}}
    Version.objects.update(specification_json=broken)
    becomes(version, Status.ERROR)
    assert version.cause.code == "bad_specification"
    Version.objects.update(status=Status.PREPARING, desired_state="running")
    version.refresh_from_db()
    versions.stop_version(version, actor=people.operator)
    becomes(version, Status.STOPPED)


def test_quiet_rounds_write_nothing(deploy):
    deployment = deploy(replicas=2)
    version = becomes(deployment.versions.get(), Status.RUNNING)
    wait_for(lambda: becomes(version, Status.RUNNING) and version.instances.filter(phase="ready").count() == 2)
    follow()
    reconcile.reconcile_cluster(deployment.endpoint.cluster_id)
    before = (Event.objects.count(), DirectoryVersion.objects.get().v)
    for _ in range(3):
        reconcile.reconcile_cluster(deployment.endpoint.cluster_id)
    assert (Event.objects.count(), DirectoryVersion.objects.get().v) == before


def test_a_failed_instance_whose_log_is_stored_is_no_news(deploy):
    version = deploy(replicas=2).versions.get()
    becomes(version, Status.RUNNING)
    failed = {
        "generation": 1,
        "phase": "failed",
        "started_at": "2026-01-01T00:00:00Z",
        "ended_at": "2026-01-01T00:00:01Z",
    }
    Instance.objects.create(version=version, uid="ee" * 16, name="x", log_complete=True, **failed)
    reconcile.reconcile_cluster(version.deployment.endpoint.cluster_id)
    assert not Event.objects.filter(instance_uid="ee" * 16).exists()


def test_who_comes_second_is_told(deploy, people):
    deployment = deploy()
    version = deployment.versions.get()
    Version.objects.update(status=Status.STOPPED, desired_state="stopped")
    deployments.delete_deployment(deployment, actor=people.operator)
    deployment.pk = version.deployment.pk = version.deployment_id
    for act in (
        lambda: versions.start_version(version, actor=people.operator),
        lambda: versions.stop_version(version, actor=people.operator),
        lambda: deployments.update_deployment(
            deployment, description="x", environment="staging", actor=people.operator
        ),
        lambda: deployments.delete_deployment(deployment, actor=people.operator),
    ):
        with pytest.raises(ServiceError) as caught:
            act()
        assert caught.value.code == "conflict"


def test_a_changed_secret_key_is_said_at_start_and_in_the_form(deploy, people, settings, client):
    specification = Specification(
        "simulator", "a/b", memory=64 << 20, secret_environment={"A": "b"}, engine_settings={}
    )
    version = deploy(specification=specification).versions.get()
    Version.objects.update(status=Status.STOPPED, desired_state="stopped")
    client.force_login(people.operator)
    page = client.get(reverse("deployments:new-version", args=["acme", "chat"])).context["specification_form"]
    settings.INSTALLATION_KEYS = FixedKeys.of("another one")
    client.force_login(people.operator)
    with pytest.raises(ServiceError) as caught:
        versions.start_version(version, actor=people.operator)
    assert caught.value.code == "secret_unreadable"
    data = {name: page[name].value() if page[name].value() is not None else "" for name in page.fields} | {
        "keep_secrets": "on"
    }
    response = client.post(reverse("deployments:new-version", args=["acme", "chat"]), data)
    assert response.status_code == 422 and "Untick this" in response.content.decode()


@pytest.mark.parametrize(
    "path",
    ["deployments/?model=²", "deployments/?model=" + "9" * 5000, "deployments/?after=x~²", "deployments/new/?model=²",
     "deployments/new/fields/?model=²", "deployments/acme/chat/versions/new/?from=²", "deployments/acme/chat/versions/new/?set_memory=²",
     "deployments/acme/chat/monitoring/?version=²", "deployments/acme/chat/monitoring/data/?version=²"],
)  # fmt: skip
def test_odd_numbers_do_no_harm(client, people, deploy, path):
    deploy()
    client.force_login(people.operator)
    assert client.get(f"/console/{path}").status_code in (200, 404, 422)


def test_deep_json_and_bad_cursors_are_refused(client, people, deploy):
    deploy()
    client.force_login(people.operator)
    for path in ("/api/v1/deployments/", "/console/deployments/acme/chat/testing/send/"):
        assert client.post(path, "[" * 100_000, content_type="application/json").status_code == 400
    assert client.get("/api/v1/deployments/?cursor=cD1hYmM=").status_code == 400


def test_an_organizations_admin_learns_nothing_of_the_host(client, people, place):
    client.force_login(people.admin)
    query = {"engine": "llama_cpp", "model": place.model.pk, "endpoint": place.endpoint.pk}
    assert client.get(reverse("deployments:specification-fields"), query).status_code == 404
    assert ">here<" not in client.get(reverse("deployments:catalog-new", args=["endpoints"])).content.decode()
    known = client.post(
        "/api/v1/endpoints/", {"name": "x", "organization": "acme", "cluster": "here"}, content_type="application/json"
    )
    unknown = client.post(
        "/api/v1/endpoints/", {"name": "x", "organization": "acme", "cluster": "nope"}, content_type="application/json"
    )
    assert known.status_code == unknown.status_code == 400


def test_the_engine_follows_model_and_endpoint_until_one_is_chosen(client, people, place):
    place.model.uri = "/models/tiny.gguf"
    place.model.save()
    client.force_login(people.operator)
    query = {"engine": "simulator", "model": place.model.pk, "endpoint": place.endpoint.pk}
    for touched, chosen in (("name,cpu,prompt_caching", "llama_cpp"), ("engine", "simulator")):
        page = client.get(reverse("deployments:specification-fields"), query | {"touched": touched}).content.decode()
        (checked,) = re.findall(r'<input[^>]*name="engine"[^>]*checked[^>]*>', page)
        assert f'value="{chosen}"' in checked
        # A box that was unticked, and so is not sent, stays so.
        assert not re.search(r'<input[^>]*name="prompt_caching"[^>]*checked', page)


def test_lists_of_the_api_need_a_fixed_number_of_queries(client, people, place, django_assert_max_num_queries):
    from deployments.models import Endpoint, Model

    for number in range(10):
        Model.objects.create(organization=people.ours, name=f"m{number}")
        Endpoint.objects.create(organization=people.ours, name=f"e{number}", cluster=place.cluster)
    sign_in(client, people.operator)
    for path in ("models", "endpoints"):
        with django_assert_max_num_queries(6):
            assert len(client.get(f"/api/v1/{path}/").json()["results"]) >= 10
