"""Guards of the services, and what two people who click at once get."""

import threading
from dataclasses import replace

import pytest
from django.db import connection, transaction

from accounts.models import AuditEntry
from common.service_error import ForbiddenError, ServiceError
from deployments.launch import launch_plan
from deployments.models import DirectoryVersion, Event, Model, Rollout, Status, Version
from deployments.services import catalog, deployments, versions
from runtimes.specification import PodAffinity, Specification, Toleration
from tests.conftest import simulator


def set_status(version: Version, status: str) -> None:
    desired = "stopped" if status in (Status.STOPPED, Status.ERROR) else "running"
    Version.objects.filter(pk=version.pk).update(status=status, desired_state=desired)
    version.refresh_from_db()


def test_creating_starts_the_first_version(deploy, people):
    deployment = deploy()
    version = deployment.versions.get()
    assert (version.number, version.status, version.desired_state) == (1, Status.PREPARING, "running")
    assert Rollout.objects.get().new == version
    assert AuditEntry.objects.filter(actor=people.operator, object_type="deployment").exists()
    assert Event.objects.filter(kind="created").exists()


def test_names_are_unique_and_checked(deploy, place, people):
    deploy("chat")
    with pytest.raises(ServiceError) as caught:
        deploy("chat")
    assert (caught.value.code, caught.value.field) == ("duplicate", "name")
    for bad in ("Ünïcode", "with space", "x" * 300, ""):
        with pytest.raises(ServiceError) as caught:
            deploy(bad)
        assert caught.value.field == "name"
    assert Version.objects.count() == 1


def test_a_new_version_takes_the_running_ones_place(deploy, people):
    deployment = deploy()
    first = deployment.versions.get()
    set_status(first, Status.RUNNING)
    second = versions.create_version(deployment, simulator(), 1, actor=people.operator)
    first.refresh_from_db()
    assert (first.desired_state, second.desired_state) == ("stopped", "running")
    assert Rollout.objects.filter(finished_at=None).get().old == first


def test_only_inactive_versions_start_or_go(deploy, people):
    version = deploy().versions.get()
    for status in (Status.PREPARING, Status.RUNNING, Status.SHUTTING_DOWN):
        Version.objects.filter(pk=version.pk).update(status=status)
        for act in (versions.start_version, versions.delete_version):
            with pytest.raises(ServiceError) as caught:
                act(version, actor=people.operator)
            assert caught.value.code == "active"
    set_status(version, Status.ERROR)
    versions.start_version(version, actor=people.operator)
    version.refresh_from_db()
    assert (version.status, version.generation, version.desired_state) == (Status.PREPARING, 2, "running")


def test_a_deployment_goes_only_when_all_versions_are_inactive(deploy, people):
    deployment = deploy()
    with pytest.raises(ServiceError, match="Version 1 is Preparing"):
        deployments.delete_deployment(deployment, actor=people.operator)
    set_status(deployment.versions.get(), Status.STOPPED)
    deployments.delete_deployment(deployment, actor=people.operator)
    assert not Version.objects.exists()


@pytest.mark.parametrize("replicas", [0, -1, 101])
def test_replicas_have_bounds(deploy, people, replicas):
    version = deploy().versions.get()
    with pytest.raises(ServiceError) as caught:
        versions.scale_version(version, replicas, actor=people.operator)
    assert caught.value.field == "replicas"


def test_strangers_and_members_may_not(deploy, people):
    deployment = deploy()
    version = deployment.versions.get()
    # The local driver runs commands on Slipway's own machine: not even an organization's admin may.
    for actor in (people.stranger, people.member, people.admin):
        for call in (
            lambda actor=actor: versions.stop_version(version, actor=actor),
            lambda actor=actor: versions.create_version(deployment, simulator(), 1, actor=actor),
        ):
            with pytest.raises(ForbiddenError):
                call()


def test_what_is_used_can_not_be_deleted(deploy, place, people):
    deploy()
    for thing in (place.model, place.endpoint, place.cluster):
        with pytest.raises(ServiceError) as caught:
            catalog.delete(thing, actor=people.operator)
        assert caught.value.code == "in_use"


def test_endpoint_names_of_the_gateway_are_refused(place, people):
    place.endpoint.name = "v1"
    with pytest.raises(ServiceError) as caught:
        catalog.save_endpoint(place.endpoint, actor=people.operator)
    assert caught.value.field == "name"


def test_secrets_are_encrypted_and_absent_from_audit(people):
    model = catalog.save_model(
        Model(organization=people.ours, name="gated"), actor=people.operator, credential="hf_planted"
    )
    assert model.encrypted_credentials and "hf_planted" not in model.encrypted_credentials
    assert not [entry for entry in AuditEntry.objects.all() if "hf_planted" in str(entry.changes)]


def test_each_change_takes_a_directory_version(deploy, people):
    before = DirectoryVersion.objects.get().v
    versions.stop_version(deploy().versions.get(), actor=people.operator)
    assert DirectoryVersion.objects.get().v >= before + 2


@pytest.mark.django_db(transaction=True)
def test_two_starts_at_once_leave_one_wanted(deploy, people):
    deployment = deploy()
    first = deployment.versions.get()
    second = versions.create_version(deployment, simulator(), 1, actor=people.operator)
    for version in (first, second):
        set_status(version, Status.STOPPED)
    barrier = threading.Barrier(2)

    def start(version: Version) -> None:
        try:
            fresh = Version.objects.select_related("deployment__endpoint__cluster").get(pk=version.pk)
            barrier.wait()
            versions.start_version(fresh, actor=people.operator)
        finally:
            connection.close()

    threads = [threading.Thread(target=start, args=(version,)) for version in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Version.objects.filter(desired_state="running").count() == 1
    assert Rollout.objects.filter(finished_at=None).count() == 1


@pytest.mark.django_db(transaction=True)
def test_services_and_the_reconcilers_events_do_not_lock_each_other_out(deploy, people):
    """The reconciler holds a version's row and adds an event while a service holds the deployment's."""
    deployment = deploy()
    version = deployment.versions.get()
    reached, go_on = threading.Event(), threading.Event()

    def reconciler() -> None:
        try:
            with transaction.atomic():
                Version.objects.filter(pk=version.pk).update(cause_json=None)
                reached.set()
                go_on.wait(10)
                Event.objects.create(deployment=deployment, version=version, kind="test", message="x")
        finally:
            connection.close()

    thread = threading.Thread(target=reconciler)
    thread.start()
    reached.wait(10)
    timer = threading.Timer(0.3, go_on.set)
    timer.start()
    versions.stop_version(version, actor=people.operator)
    thread.join()
    assert Event.objects.filter(kind="test").exists()


@pytest.mark.parametrize(
    ("name", "source", "variables"),
    [
        ("nim", Model.Source.NGC, {"NGC_API_KEY", "NGC_CLI_API_KEY"}),
        ("nim", Model.Source.HUGGING_FACE, set()),
        ("tei", Model.Source.HUGGING_FACE, {"HF_TOKEN"}),
        ("tei", Model.Source.NGC, set()),
    ],
)
def test_a_token_reaches_engines_of_its_own_vendor_only(people, deploy, name, source, variables):
    version = deploy().versions.get()
    model = version.deployment.model
    model.source = source
    catalog.save_model(model, actor=people.operator, credential="planted-token")
    version.specification_json |= Specification(name, "acme/chat", "org/m", "nvcr.io/nim/m:1", gpu=1).to_json()
    plan, cause = launch_plan(version)
    assert cause is None and set(plan.secret_environment) == variables


def test_a_stores_key_is_not_sent_to_a_hub_by_an_earlier_version(people, deploy):
    version = deploy().versions.get()
    version.specification_json |= Specification("vllm", "acme/chat", "org/m", "vllm:v1", gpu=1).to_json()
    model = version.deployment.model
    model.uri = "s3://weights/m"
    catalog.save_model(model, actor=people.operator, credential="id:planted-token")
    plan, _ = launch_plan(version)
    assert "planted-token" not in str(plan.secret_environment)
    version.specification_json |= {"model_uri": "s3://weights/other"}
    plan, _ = launch_plan(version)
    assert list(plan.fetch.secret_environment.values()) == ["id", "planted-token"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"tolerations": (Toleration("gpu", "Exists", "true", ""),)}, "tolerations"),
        ({"tolerations": (Toleration("gpu", "Equal", "two words", ""),)}, "tolerations"),
        ({"pod_affinity": (PodAffinity("app", "my batch"),)}, "pod_affinity"),
        ({"pod_affinity": (PodAffinity("app", "batch", "away", "bad key"),)}, "pod_affinity"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused_at_its_field(values, field):
    assert set(versions.specification_errors(replace(simulator(), **values), "local")) == {field}
