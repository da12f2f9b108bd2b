"""The reconciler over the real local driver, PostgreSQL and Valkey."""

import pytest
from django.utils import timezone

from common.installation_keys import FixedKeys
from common.service_error import ServiceError
from deployments import log_store, reconcile
from deployments.drivers import driver_of
from deployments.models import Cluster, Event, Instance, Status, Stranger, Version
from deployments.services import strangers, versions
from deployments.watching import LocalWatcher
from runtimes.specification import Specification
from tests.conftest import simulator
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def look(version: Version) -> Version:
    """One look of the reconciler at the version's cluster."""
    reconcile.reconcile_cluster(version.deployment.endpoint.cluster_id)
    version.refresh_from_db()
    return version


def becomes(version: Version, status: str, *, within_s: float = 30) -> Version:
    wait_for(lambda: look(version).status == status, within_s=within_s, what=f"status {status}")
    return version


def follow() -> None:
    """What the watcher process does: follow until all ended logs are stored."""
    watcher = LocalWatcher()
    wait_for(lambda: watcher.look() or not Instance.objects.exclude(ended_at=None).filter(log_complete=False).exists())
    watcher.look(final=True)


def live(version: Version) -> set[str]:
    return set(version.instances.filter(ended_at=None).values_list("uid", flat=True))


def test_from_preparing_to_running_scaled_stopped_and_gone(deploy, people):
    version = deploy().versions.get()
    becomes(version, Status.RUNNING)
    (first,) = live(version)
    versions.scale_version(version, 3, actor=people.operator)
    wait_for(
        lambda: becomes(version, Status.RUNNING) and version.instances.filter(phase="ready", ended_at=None).count() == 3
    )
    assert first in live(version)
    versions.scale_version(version, 1, actor=people.operator)
    wait_for(lambda: becomes(version, Status.RUNNING) and len(live(version)) == 1)
    assert live(version) == {first}, "the eldest stays"
    versions.stop_version(version, actor=people.operator)
    becomes(version, Status.STOPPED)
    follow()
    becomes(version, Status.STOPPED)
    reconcile.reconcile_cluster(version.deployment.endpoint.cluster_id)
    assert driver_of(version.deployment.endpoint.cluster).observe().instances == {}
    page = log_store.read_before(first, None, 500)
    assert any("this is a simulator" in line.text for line in page.lines)
    assert any("shutting down" in line.text for line in page.lines)


def test_replace_starts_the_new_one_after_the_old_one_is_gone(deploy, people):
    deployment = deploy()
    first = deployment.versions.get()
    becomes(first, Status.RUNNING)
    second = versions.create_version(deployment, simulator(), 1, actor=people.operator)
    becomes(second, Status.RUNNING)
    first.refresh_from_db()
    assert first.status == Status.STOPPED and not live(first)
    ended = first.instances.get().ended_at
    assert second.instances.get().started_at >= ended


def test_a_crash_loop_ends_in_error_with_the_evidence(deploy, people):
    settings = {"command": "sh -c 'echo out of luck; exit 3'", "health_path": "/"}
    specification = Specification("custom_command", "acme/chat", cpu=1, memory=64 << 20, engine_settings=settings)
    version = deploy(specification=specification).versions.get()
    becomes(version, Status.ERROR, within_s=40)
    assert version.desired_state == "stopped"
    assert version.cause.code == "crashed" and any("out of luck" in line for line in version.cause.evidence)
    assert Event.objects.filter(new_status=Status.ERROR, severity="error").exists()
    follow()
    becomes(version, Status.ERROR)
    (instance,) = version.instances.all()
    assert any("out of luck" in line.text for line in log_store.read_before(instance.uid, None, 50).lines)


def test_never_ready_is_an_error_at_the_deadline(deploy):
    settings = {"command": "sleep 300", "health_path": "/", "start_deadline_s": 5}
    version = deploy(specification=Specification("custom_command", "a/b", engine_settings=settings)).versions.get()
    becomes(version, Status.ERROR)
    assert version.cause.code == "start_timeout"
    wait_for(lambda: becomes(version, Status.ERROR) and not live(version))


def test_gpu_that_is_not_there_waits_then_fails(deploy):
    version = deploy(specification=Specification("simulator", "a/b", gpu=1, memory=64 << 20)).versions.get()
    reconcile.reconcile_cluster(version.deployment.endpoint.cluster_id)
    version.refresh_from_db()
    assert (version.status, version.cause.code) == (Status.PREPARING, "unschedulable")
    long_ago = timezone.now() - timezone.timedelta(hours=1)
    Version.objects.update(start_requested_at=long_ago)
    Cluster.objects.update(seen_since=long_ago)
    becomes(version, Status.ERROR)
    assert "no GPU" in version.cause.message


def test_what_no_version_accounts_for_is_listed_and_ended_by_people_alone(deploy, people):
    """As after a restore of an older copy of the database: it knows nothing of what was started since."""
    version = deploy().versions.get()
    becomes(version, Status.RUNNING)
    cluster = version.deployment.endpoint.cluster
    Version.objects.all().delete()
    for _ in range(3):
        reconcile.reconcile_cluster(cluster.pk)
    (stranger,) = Stranger.objects.all()
    assert (stranger.version_key, stranger.ready) == (version.key, 1)
    assert any(item.is_ready for item in driver_of(cluster).observe().instances[version.key]), "it goes on"
    with pytest.raises(ServiceError, match="Nothing says what it serves"):
        strangers.adopt(stranger, actor=people.operator)
    strangers.remove(stranger, actor=people.operator)
    wait_for(lambda: reconcile.reconcile_cluster(cluster.pk) or driver_of(cluster).observe().instances == {})
    assert not Stranger.objects.exists()


def test_a_start_that_was_cut_off_leaves_nothing_behind_a_stopped_version(deploy, people):
    version = deploy().versions.get()
    becomes(version, Status.RUNNING)
    cluster = version.deployment.endpoint.cluster
    Instance.objects.all().delete()
    Version.objects.update(status=Status.STOPPED, desired_state="stopped")
    wait_for(
        lambda: (
            reconcile.reconcile_cluster(cluster.pk)
            or not any(item.is_alive for items in driver_of(cluster).observe().instances.values() for item in items)
        )
    )
    assert not Stranger.objects.exists()


def test_a_lost_instance_is_replaced_and_the_version_keeps_running(deploy):
    version = deploy().versions.get()
    becomes(version, Status.RUNNING)
    (uid,) = live(version)
    driver = driver_of(version.deployment.endpoint.cluster)
    driver.end_instance(version.key, uid)
    wait_for(
        lambda: (
            becomes(version, Status.RUNNING)
            and live(version)
            and uid not in live(version)
            and version.instances.filter(phase="ready", ended_at=None).exists()
        )
    )


def test_changed_secret_key_is_said_not_raised(deploy, settings):
    specification = Specification("simulator", "a/b", memory=64 << 20, secret_environment={"A": "b"})
    version = deploy(specification=specification).versions.get()
    settings.INSTALLATION_KEYS = FixedKeys.of("another one")
    becomes(version, Status.ERROR)
    assert version.cause.code == "secret_unreadable"
