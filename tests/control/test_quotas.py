"""Quotas of organizations and clusters hold, also when fifty ask at once, and are shown and refused at their field."""

import threading
from dataclasses import replace

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry
from apikeys.models import ApiKey
from apikeys.services import create_key, revoke_key
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Cluster, Deployment, DesiredState, Model, Rollout, Status, Version
from deployments.services import quotas, versions
from deployments.services.deployments import create_deployment, update_deployment
from tests.conftest import simulator

pytestmark = pytest.mark.django_db


def make(place, people, name: str, *, replicas: int = 1, **changes) -> Version:
    made = Deployment(organization=people.ours, model=place.model, endpoint=place.endpoint, name=name)
    return create_deployment(made, replace(simulator(), **changes), replicas, actor=people.operator).versions.get()


def bound(owner, people, **bounds) -> None:
    quotas.set_quota(owner, bounds, actor=people.operator)


@pytest.mark.parametrize(
    ("kind", "most", "changes", "field"),
    [
        ("instances", 4, {}, "replicas"),
        ("gpus", 8, {"gpu": 2}, "gpu"),
        ("cpu", 1.2, {"cpu": 0.3}, "cpu"),
        ("memory", 4 << 30, {"memory": 1 << 30}, "memory"),
    ],
)
@pytest.mark.parametrize("of_cluster", [False, True])
def test_what_is_wanted_stays_below(place, people, kind, most, changes, field, of_cluster):
    owner = place.cluster if of_cluster else people.ours
    bound(owner, people, **{kind: most})
    first = make(place, people, "one", replicas=2, **changes)
    make(place, people, "two", replicas=2, **changes)
    with pytest.raises(ServiceError, match="An operator can raise the quota") as refused:
        make(place, people, "three", **changes)
    assert (refused.value.field, refused.value.code) == (field, "quota_exceeded")
    assert not Deployment.objects.filter(name="three").exists(), "all or nothing"
    with pytest.raises(ServiceError) as refused:
        versions.scale_version(first, 3, actor=people.operator)
    assert refused.value.field == field
    # What is replaced makes room for what replaces it.
    versions.create_version(first.deployment, replace(simulator(), **changes), 2, actor=people.operator)
    versions.stop_version(first.deployment.versions.get(number=2), actor=people.operator)
    make(place, people, "three", replicas=2, **changes)
    first.refresh_from_db()
    Version.objects.filter(pk=first.pk).update(status="stopped")
    first.refresh_from_db()
    with pytest.raises(ServiceError) as refused:
        versions.start_version(first, actor=people.operator)
    assert refused.value.field == field


def test_a_stopped_version_is_scaled_freely_and_asked_when_it_starts(place, people):
    bound(people.ours, people, instances=2)
    version = make(place, people, "one")
    versions.stop_version(version, actor=people.operator)
    Version.objects.update(status="stopped", desired_state=DesiredState.STOPPED)
    version.refresh_from_db()
    versions.scale_version(version, 5, actor=people.operator)
    with pytest.raises(
        ServiceError, match="Instances of Acme: 2 allowed, 0 used by other deployments, 5 requested here"
    ):
        versions.start_version(version, actor=people.operator)


def test_deployments_and_keys_are_counted(place, people):
    bound(people.ours, people, deployments=1, keys=2)
    make(place, people, "one")
    with pytest.raises(
        ServiceError, match="The quota of Acme is 1 deployments, stopped ones included, and it has 1"
    ) as refused:
        make(place, people, "two")
    assert refused.value.field == "name"
    key, _ = create_key(people.member, people.ours, "a")
    create_key(people.member, people.ours, "b")
    with pytest.raises(ServiceError, match="The quota of Acme is 2 API keys, and it has 2") as refused:
        create_key(people.admin, people.ours, "c")
    assert refused.value.field == "name"
    revoke_key(key, actor=people.member)
    create_key(people.admin, people.ours, "c")
    create_key(people.stranger, people.theirs, "another organization's")


def test_what_starts_by_itself_is_not_asked(place, people):
    version = make(place, people, "one", replicas=2)
    bound(people.ours, people, instances=1)
    Version.objects.update(status="error", desired_state=DesiredState.STOPPED, start_again_at="2026-01-01T00:00Z")
    version.refresh_from_db()
    versions.start_again(version)
    version.refresh_from_db()
    assert version.desired_state == DesiredState.RUNNING


def test_what_will_start_again_by_itself_keeps_its_place(place, people):
    """Else one could fail, another take its place, and both run in the end."""
    bound(people.ours, people, instances=3)
    version = make(place, people, "one", replicas=3)
    Version.objects.update(status="error", desired_state=DesiredState.STOPPED, start_again_at="2099-01-01T00:00Z")
    with pytest.raises(ServiceError, match="3 allowed, 3 used by other deployments"):
        make(place, people, "two")
    version.refresh_from_db()
    versions.stop_version(version, actor=people.operator)
    make(place, people, "two", replicas=3)


def test_what_nobody_retries_has_no_place_and_gets_none_by_being_retried_again(place, people):
    bound(people.ours, people, instances=3)
    version = make(place, people, "one", replicas=3)
    Version.objects.update(status="error", desired_state=DesiredState.STOPPED, start_again_at="2099-01-01T00:00Z")
    update_deployment(version.deployment, starts_again=False, actor=people.operator)
    make(place, people, "two", replicas=3)
    update_deployment(version.deployment, starts_again=True, actor=people.operator)
    version.refresh_from_db()
    assert version.start_again_at is None and quotas.use_of(people.ours).instances == 3


def test_a_version_that_serves_until_its_successor_is_ready_keeps_its_place(place, people):
    """It stays when the successor fails, however small that was."""
    bound(people.ours, people, instances=4, memory=4 << 30)
    first = make(place, people, "one", replicas=4)
    Version.objects.update(status=Status.RUNNING)
    first.refresh_from_db()
    second = versions.create_version(
        first.deployment, replace(simulator(), memory=2 << 30), 1, actor=people.operator, strategy="zero_downtime"
    )
    use = quotas.use_of(people.ours)
    assert (use.instances, use.memory) == (4, 2 << 30), "the most of either, of each kind"
    with pytest.raises(ServiceError, match="4 allowed, 4 used by other deployments"):
        make(place, people, "two")
    Rollout.objects.filter(new=second).update(phase="done", finished_at="2026-01-01T00:00Z")
    make(place, people, "two", replicas=3)


def test_a_failed_start_is_not_repeated_where_its_organization_may_not_be_any_more(place, people):
    make(place, people, "one", image="acme/chat:1")
    Version.objects.update(status="error", desired_state=DesiredState.STOPPED, start_again_at="2026-01-01T00:00Z")
    Cluster.objects.update(driver=Cluster.Driver.KUBERNETES, is_for_all=False)
    version = Version.objects.select_related("deployment__endpoint__cluster", "deployment__organization").get()
    with pytest.raises(ForbiddenError, match="may not use the cluster"):
        versions.start_again(version)


def test_all_that_is_too_much_is_told_at_once(place, people):
    bound(people.ours, people, instances=1, gpus=0, cpu=0.0001)
    with pytest.raises(ServiceError) as refused:
        make(place, people, "one", replicas=2, gpu=1)
    assert list(refused.value.fields) == ["replicas", "gpu", "cpu"]
    assert "0.0001 allowed, 0 used" in refused.value.fields["cpu"], "small, but not nothing"


def at_once(ask) -> list[str]:
    """What comes of fifty that ask in threads of their own: "made", or the refusal's code."""
    outcomes: list[str] = []

    def run(number: int) -> None:
        try:
            ask(number)
            outcomes.append("made")
        except ServiceError as error:
            outcomes.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return sorted(outcomes)


@pytest.mark.django_db(transaction=True)
def test_fifty_at_once_get_what_is_left_and_no_more(place, people):
    bound(people.ours, people, instances=7)
    bound(place.cluster, people, cpu=100)
    assert at_once(lambda number: make(place, people, f"d{number}")) == ["made"] * 7 + ["quota_exceeded"] * 43
    assert Deployment.objects.count() == 7


@pytest.mark.django_db(transaction=True)
def test_fifty_keys_at_once(place, people):
    bound(people.ours, people, keys=5)
    assert (
        at_once(lambda number: create_key(people.member, people.ours, f"k{number}"))
        == ["made"] * 5 + ["quota_exceeded"] * 45
    )
    assert ApiKey.objects.count() == 5


def test_operators_set_them_and_admins_see_them(place, people):
    operator, admin, stranger = Client(), Client(), Client()
    operator.force_login(people.operator)
    admin.force_login(people.admin)
    stranger.force_login(people.stranger)
    url = reverse("organization-quota", args=["acme"])
    saved = operator.post(
        url, {"instances": "4", "memory": "8 GiB", "gpus": "", "cpu": "2.5", "deployments": "", "keys": "0"}
    )
    assert saved.status_code == 302
    make(place, people, "one", replicas=2)
    card = {"HX-Request": "true"}
    page = admin.get(url, headers=card).content.decode()
    assert "2 of 4" in page and "0.50 of 8" in page and "Change" not in page and "An operator can raise a quota" in page
    assert admin.get(f"{url}?edit").status_code == 404 and admin.post(url, {"instances": "99"}).status_code == 404
    assert stranger.get(url, headers=card).status_code == 404
    member = Client()
    member.force_login(people.member)
    assert "2 of 4" in member.get(url, headers=card).content.decode(), "who uses it up may see it"
    assert member.get(url).status_code == 302 and member.get(f"{url}?edit").status_code == 404
    assert url in member.get(reverse("monitoring:own-usage")).content.decode()
    assert "8 GiB" in operator.get(f"{url}?edit").content.decode()
    assert AuditEntry.objects.filter(action="set_quota", actor=people.operator).exists()
    bad = operator.post(url, {"instances": "-1", "memory": "lots"})
    assert bad.status_code == 422 and "for example" in bad.content.decode()
    of_cluster = reverse("cluster-quota", args=[place.cluster.pk])
    assert (
        operator.get(of_cluster, headers=card).status_code == 200
        and admin.get(of_cluster, headers=card).status_code == 404
    )
    with pytest.raises(ForbiddenError):
        quotas.set_quota(people.ours, {"instances": 99}, actor=people.admin)


def test_the_api_reads_and_changes_them(place, people):
    operator, admin = Client(), Client()
    operator.force_login(people.operator)
    admin.force_login(people.admin)
    url = "/api/v1/organizations/acme/quota/"
    assert operator.patch(url, {"gpus": 8, "cpu": 2.5}, "application/json").status_code == 200
    told = operator.patch(url, {"gpus": None, "instances": 4}, "application/json").json()
    assert told["bounds"] == dict.fromkeys(quotas.KINDS) | {"cpu": 2.5, "instances": 4}
    make(place, people, "one", replicas=2)
    assert admin.get(url).json()["used"]["instances"] == 2
    assert admin.patch(url, {"instances": 99}, "application/json").status_code == 403
    assert operator.patch(url, {"instance": 99}, "application/json").status_code == 400
    assert operator.patch(url, {"instances": -1}, "application/json").status_code == 400
    of_cluster = f"/api/v1/clusters/{place.cluster.pk}/quota/"
    assert operator.get(of_cluster).status_code == 200 and admin.get(of_cluster).status_code == 404


def test_the_form_says_it_at_the_field(place, people):
    bound(people.ours, people, instances=1)
    client = Client()
    client.force_login(people.operator)
    answer = client.post(
        "/api/v1/deployments/",
        {"name": "x", "endpoint": "main", "model": Model.objects.get().name, "replicas": 2, "specification": {"engine": "simulator"}},
        "application/json",
    )  # fmt: skip
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "quota_exceeded", answer.content
    assert "replicas" in str(answer.json())
