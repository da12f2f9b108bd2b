"""One version takes another's place without a pause, over the real local driver."""

import re
from datetime import timedelta

import pytest
from django.urls import reverse

from common.service_error import ServiceError
from deployments import rollouts
from deployments.models import Cluster, DesiredState, DirectoryVersion, Event, GatewayProcess, Rollout, Status, Version
from deployments.services import forget, versions
from gateway.routing.directory import read_snapshot
from runtimes.driver import ClusterUnreachableError, DriverError
from runtimes.specification import Specification
from tests.conftest import simulator
from tests.control.test_reconcile import becomes, live, look
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
ZERO = Rollout.Strategy.ZERO_DOWNTIME


def addresses() -> set[str]:
    (target,) = read_snapshot().targets
    return {address.uid for address in target.addresses}


@pytest.fixture
def first(deploy) -> Version:
    return becomes(deploy().versions.get(), Status.RUNNING)


def change(first: Version, people, specification: Specification | None = None, replicas: int = 1) -> Version:
    made = versions.create_version(first.deployment, specification or simulator(load_time_s=1), replicas, actor=people.operator, strategy=ZERO)  # fmt: skip
    return Version.objects.get(pk=made.pk)


def test_the_old_version_serves_until_the_new_one_is_ready(first, people):
    old = addresses()
    second = change(first, people, replicas=2)
    seen: list[set[str]] = []

    def done() -> bool:
        look(second)
        seen.append(addresses())
        first.refresh_from_db()
        second.refresh_from_db()
        return first.status == Status.STOPPED

    wait_for(done, within_s=60, what="the change")
    assert all(seen), "at no moment was there nobody to serve"
    assert seen[0] == old and len(seen[-1]) == 2 and not seen[-1] & old
    assert Rollout.objects.get(new=second).phase == Rollout.Phase.DONE
    assert second.status == Status.RUNNING and second.desired_state == DesiredState.RUNNING
    assert any("takes over the traffic" in event.message for event in Event.objects.all())


def test_the_old_version_waits_for_the_gateways(first, people):
    GatewayProcess.beat("gw", 1, address="x", version=0, in_flight=1)
    second = change(first, people)
    wait_for(
        lambda: look(second) and Rollout.objects.get(new=second).phase == Rollout.Phase.MOVED,
        within_s=60,
    )
    GatewayProcess.beat("gw", 1, address="x", version=0, in_flight=1)
    becomes(second, Status.RUNNING)
    first.refresh_from_db()
    assert first.status == Status.RUNNING and live(first)
    GatewayProcess.beat("gw", 1, address="x", version=DirectoryVersion.objects.get().v, in_flight=0)
    becomes(first, Status.STOPPED)


def test_a_gateway_that_is_gone_holds_nothing_up(first, people, monkeypatch):
    monkeypatch.setattr(rollouts, "ACKNOWLEDGED_WITHIN", timedelta(seconds=1))
    GatewayProcess.beat("gw", 1, address="x", version=0, in_flight=1)
    change(first, people)
    becomes(first, Status.STOPPED, within_s=60)


def test_when_the_new_one_fails_the_old_one_keeps_serving(first, people, client):
    old = addresses()
    broken = Specification(
        "custom_command", "acme/chat", memory=64 << 20, engine_settings={"command": "false", "health_path": "/"}
    )
    second = change(first, people, broken)
    becomes(second, Status.ERROR, within_s=90)
    first.refresh_from_db()
    assert (first.status, first.desired_state) == (Status.RUNNING, DesiredState.RUNNING)
    assert addresses() == old and Rollout.objects.get(new=second).phase == Rollout.Phase.FAILED
    assert any("version 1 keeps serving" in event.message for event in Event.objects.all())
    becomes(first, Status.RUNNING)
    assert live(first) == old
    client.force_login(people.operator)
    page = client.get(reverse("deployments:detail", args=["acme", "chat"])).content.decode()
    assert "Version 2 failed; version 1 goes on serving." in page


def test_stopping_the_new_one_takes_the_change_back(first, people):
    old = addresses()
    second = change(first, people, simulator(load_time_s=60))
    becomes(second, Status.PREPARING)
    versions.stop_version(second, actor=people.operator)
    becomes(second, Status.STOPPED)
    first.refresh_from_db()
    assert first.desired_state == DesiredState.RUNNING and addresses() == old


def test_without_room_it_falls_back_to_replace_and_says_so(first, people, monkeypatch):
    monkeypatch.setattr(rollouts, "ROOM_WITHIN", timedelta(0))
    second = change(first, people, Specification("simulator", "acme/chat", gpu=1, memory=64 << 20))
    becomes(first, Status.STOPPED, within_s=60)
    assert Rollout.objects.get(new=second).strategy == Rollout.Strategy.REPLACE
    assert any("no room for version 2" in event.message for event in Event.objects.all())


def test_a_third_version_amid_the_change_leaves_the_first_serving(first, people):
    old = addresses()
    second = change(first, people, simulator(load_time_s=60))
    becomes(second, Status.PREPARING)
    third = change(first, people)
    assert addresses() == old
    becomes(third, Status.RUNNING, within_s=60)
    becomes(first, Status.STOPPED)
    becomes(second, Status.STOPPED)
    assert len(addresses()) == 1 and not addresses() & old


def test_without_a_version_that_serves_it_is_an_ordinary_start(deploy, people):
    deployment = deploy(specification=simulator(load_time_s=60))
    first = becomes(deployment.versions.get(), Status.PREPARING)
    second = change(first, people)
    assert Rollout.objects.get(new=second).strategy == Rollout.Strategy.REPLACE


def test_an_unknown_strategy_is_refused(first, people):
    with pytest.raises(ServiceError, match="strategy is one of"):
        versions.create_version(first.deployment, simulator(), 1, actor=people.operator, strategy="canary")


def test_pages_say_who_serves_while_a_change_goes_on(first, people, client):
    """By hand a third version could be made to end the one that serves, and calls were said to get 503 while they got 200."""
    client.force_login(people.operator)
    path = ["acme", "chat"]
    second = change(first, people, simulator(load_time_s=60))
    look(second)

    def page(name: str) -> str:
        return client.get(reverse(name, args=path)).content.decode()

    assert "Version 1 keeps serving" in page("deployments:detail")
    # As a status, not within a moment.
    assert not re.search(r"\b503\b", page("deployments:testing") + page("hub:deployment"))
    rows = page("deployments:versions")
    assert "serves until version 2 is ready" in rows and "version 1 goes on serving" in rows
    form = page("deployments:new-version")
    assert 'value="zero_downtime" checked' in form and "Version 2 is given up. This one starts beside version 1" in form
    third = change(first, people, simulator(load_time_s=0))
    wait_for(lambda: look(third) and addresses(), within_s=30)
    first.refresh_from_db()
    assert first.status == Status.RUNNING, "it serves on"
    becomes(third, Status.RUNNING)
    becomes(first, Status.STOPPED, within_s=60)


def test_going_back_by_the_start_button_spares_the_version_that_serves(first, people, client):
    client.force_login(people.operator)
    second = change(first, people, simulator(load_time_s=0))
    becomes(first, Status.STOPPED, within_s=60)
    rows = client.get(reverse("deployments:versions", args=["acme", "chat"])).content.decode()
    assert "Version 1 starts beside version 2" in rows and 'name="strategy" value="zero_downtime"' in rows
    start = reverse("deployments:version-action", args=["acme", "chat", 1, "start"])
    client.post(start, {"strategy": "zero_downtime"})
    assert Rollout.objects.get(new=first, finished_at=None).strategy == ZERO
    becomes(first, Status.RUNNING, within_s=60)
    becomes(second, Status.STOPPED, within_s=60)
    stop = reverse("deployments:version-action", args=["acme", "chat", 2, "stop"])
    assert "was to stop already: it is Stopped" in client.post(stop, follow=True).content.decode()


def test_a_refusal_ends_nothing_that_serves(first, people, monkeypatch):
    """No right to make one more, for example: to end the one that serves would not mend that."""
    monkeypatch.setattr(rollouts, "ROOM_WITHIN", timedelta(0))

    def refuse(*args, **kwargs):
        raise DriverError("admission webhook says no")

    monkeypatch.setattr("runtimes.local.driver.LocalDriver.run", refuse)
    second = change(first, people)
    for _ in range(3):
        look(second)
    second.refresh_from_db()
    assert second.cause.code == "driver_refused"
    assert Rollout.objects.get(new=second).strategy == ZERO and addresses() and live(first)


def test_no_step_is_taken_while_the_cluster_is_away(first, people, monkeypatch):
    second = change(first, people)
    Version.objects.filter(pk=second.pk).update(status=Status.RUNNING)
    monkeypatch.setattr(rollouts, "ready_instances", lambda *args, **kwargs: 5)

    def silent(*args, **kwargs):
        raise ClusterUnreachableError("Nobody answers.")

    monkeypatch.setattr("runtimes.local.driver.LocalDriver.observe", silent)
    look(second)
    assert Rollout.objects.get(new=second).phase == Rollout.Phase.STARTING_NEW


def test_traffic_goes_back_when_the_new_one_is_not_ready_any_more(first, people):
    GatewayProcess.beat("gw", 1, address="x", version=0, in_flight=1)
    second = change(first, people)
    wait_for(lambda: look(second) and Rollout.objects.get(new=second).phase == Rollout.Phase.MOVED, within_s=60)
    second.instances.update(phase="loading", ready_at=None)
    assert rollouts.advance(second.deployment.endpoint.cluster)
    rollout = Rollout.objects.get(new=second)
    assert (rollout.phase, rollout.moved_at) == (Rollout.Phase.STARTING_NEW, None)
    assert {uid for uid in addresses()} == {item.uid for item in first.instances.filter(ended_at=None)}


def test_forgetting_the_new_one_keeps_the_one_that_serves(first, people):
    second = change(first, people, simulator(load_time_s=60))
    becomes(second, Status.PREPARING)
    Cluster.objects.update(unreachable_reason="Nobody answers.")
    forget.forget(second, actor=people.operator)
    first.refresh_from_db()
    assert first.desired_state == DesiredState.RUNNING and not Rollout.objects.filter(finished_at=None).exists()
