"""What runs keeps running, what failed from outside starts again, and a look that sees nothing new writes nothing."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments import reconcile
from deployments.models import Cluster, Deployment, Event, Status, Version
from deployments.services import versions
from runtimes.specification import Specification
from tests.conftest import simulator
from tests.control.test_reconcile import becomes, follow, look
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
NO_ROOM = Specification("simulator", "a/b", gpu=1, memory=64 << 20)


@pytest.fixture
def failed(deploy) -> Version:
    """A version that found no room until its deadline."""
    version = deploy(specification=NO_ROOM).versions.get()
    look(version)
    long_ago = timezone.now() - timedelta(hours=1)
    Version.objects.update(start_requested_at=long_ago)
    Cluster.objects.update(seen_since=long_ago)
    return becomes(version, Status.ERROR)


def pause_is_over(version: Version) -> Version:
    Version.objects.filter(pk=version.pk).update(start_again_at=timezone.now())
    return look(version)


def test_a_start_that_found_no_room_is_tried_again_with_growing_pauses(failed):
    first = failed.start_again_at - timezone.now()
    assert failed.desired_state == "stopped" and timedelta(seconds=50) < first <= timedelta(minutes=1)
    pause_is_over(failed)
    assert (failed.status, failed.desired_state, failed.generation) == (Status.PREPARING, "running", 2)
    long_ago = timezone.now() - timedelta(hours=1)
    look(failed)
    Version.objects.update(start_requested_at=long_ago)
    Cluster.objects.update(seen_since=long_ago)
    becomes(failed, Status.ERROR)
    assert failed.failed_starts == 2 and failed.start_again_at - timezone.now() > first


def test_what_lies_in_the_version_is_not_tried_again(deploy):
    settings = {"command": "sleep 300", "health_path": "/", "start_deadline_s": 5}
    version = deploy(specification=Specification("custom_command", "a/b", engine_settings=settings)).versions.get()
    becomes(version, Status.ERROR)
    assert version.cause.code == "start_timeout" and version.start_again_at is None


def test_the_deployments_setting_and_people_have_the_last_word(failed, people):
    versions.stop_version(failed, actor=people.operator)
    assert failed.start_again_at is None
    assert Event.objects.filter(message__contains="won't retry", actor=people.operator).exists()
    Deployment.objects.update(starts_again=False)
    versions.start_version(failed, actor=people.operator)
    look(failed)
    Version.objects.update(start_requested_at=timezone.now() - timedelta(hours=1))
    Cluster.objects.update(seen_since=timezone.now() - timedelta(hours=1))
    becomes(failed, Status.ERROR)
    assert failed.start_again_at is None


def test_it_takes_nobodys_place(failed, people):
    second = versions.create_version(failed.deployment, simulator(), 1, actor=people.operator)
    becomes(second, Status.RUNNING)
    pause_is_over(failed)
    assert (failed.status, failed.start_again_at) == (Status.ERROR, None)
    second.refresh_from_db()
    assert (second.status, second.desired_state) == (Status.RUNNING, "running")


def test_one_that_hangs_is_started_again_and_stays_running(deploy, monkeypatch):
    """The simulator stops answering; after its time its keeper starts it again."""
    import psutil

    from deployments.drivers import driver_of
    from runtimes.launch_plan import LaunchPlan

    made = LaunchPlan.to_json
    monkeypatch.setattr(LaunchPlan, "to_json", lambda plan: made(plan) | {"hang_after_s": 3.0})
    version = becomes(deploy().versions.get(), Status.RUNNING)
    (state,) = [state for _, state in driver_of(version.deployment.endpoint.cluster).programs()]
    psutil.Process(state["program"]["pid"]).suspend()
    wait_for(lambda: look(version).unready_since, within_s=30, what="none ready")
    assert version.status == Status.RUNNING and version.desired_state == "running"

    def serves_again() -> bool:
        look(version)
        assert version.status == Status.RUNNING
        return version.unready_since is None and version.instances.get().restarts == 1

    wait_for(serves_again, within_s=40, what="another start of the same instance")
    said = " ".join(Event.objects.values_list("message", flat=True))
    assert "stopped serving" in said and "serves again" in said and "stopped answering" in said


def test_a_quiet_look_writes_nothing_and_asks_no_more_for_more_versions(deploy):
    def quiet(count: int) -> int:
        wait_for(lambda: all(look(item).status == Status.RUNNING for item in Version.objects.all()), within_s=60)
        follow()
        cluster = Cluster.objects.get()
        reconcile._reconcile_once(cluster)
        with CaptureQueriesContext(connection) as queries:
            reconcile._reconcile_once(cluster)
        asked = [item["sql"] for item in queries]
        assert not [sql for sql in asked if not sql.startswith("SELECT")], asked
        return len(asked)

    deploy("first")
    few = quiet(1)
    for name in ("second", "third", "fourth"):
        deploy(name)
    assert quiet(4) == few


def test_a_cause_and_its_evidence_come_back_from_the_database_as_they_went(failed):
    before = failed.cause
    again = Version.objects.get(pk=failed.pk).cause
    assert again == before and isinstance(again.evidence, tuple)
