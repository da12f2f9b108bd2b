"""What pages say of versions that don't serve, of clusters that others lead or that are gone, and of strangers."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from deployments import disturbances, last_words
from deployments.models import Cluster, Deployment, Instance, LastWords, LeftBehind, Status, Stranger, Version
from runtimes.cause import Cause
from runtimes.observation import InstanceObservation

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(client, people):
    client.force_login(people.operator)
    return client


@pytest.fixture
def version(deploy) -> Version:
    made = deploy().versions.get()
    Version.objects.update(status=Status.RUNNING, ready_at=timezone.now())
    return made


def text(client, *address) -> str:
    answer = client.get(reverse(address[0], args=address[1:]))
    assert answer.status_code == 200
    return answer.content.decode()


def test_none_ready_is_said_in_red_with_since_when_and_why(operator, version):
    cause = Cause("unschedulable", "No node takes it.").to_json()
    Version.objects.update(unready_since=timezone.now() - timedelta(minutes=4), cause_json=cause)
    for page in (text(operator, "deployments:detail", "acme", "chat"), text(operator, "deployments:list")):
        assert "4 min" in page and "No node takes it." in page and "status-red" in page
    assert "Slipway keeps trying until someone stops version 1." in text(operator, "deployments:detail", "acme", "chat")


def test_a_start_that_is_tried_again_says_when_and_can_be_called_off(operator, version, people):
    cause = Cause("quota_exceeded", "The quota is used up.").to_json()
    later = timezone.now() + timedelta(minutes=5)
    Version.objects.update(status=Status.ERROR, desired_state="stopped", cause_json=cause, start_again_at=later)
    page = text(operator, "deployments:detail", "acme", "chat")
    assert "Slipway retries in 5 min." in page and "Don't retry" in page
    answer = operator.post(reverse("deployments:version-action", args=["acme", "chat", 1, "stop"]), follow=True)
    assert "won&#x27;t retry version 1" in answer.content.decode()
    version.refresh_from_db()
    assert version.start_again_at is None


def test_the_setting_is_on_the_settings_page(operator, version):
    address = reverse("deployments:settings", args=["acme", "chat"])
    assert "Retry failed starts" in operator.get(address).content.decode()
    operator.post(address, {"environment": "staging", "description": ""})
    assert Deployment.objects.get().starts_again is False


@pytest.mark.parametrize("charge", ["others", "same", "another", "challenged"])
def test_whose_charge_it_is_stands_on_every_page_that_depends_on_it(operator, version, charge):
    Cluster.objects.update(
        driver="kubernetes", charge=charge, charge_of="someone", charge_address="https://other.example",
        charge_since=timezone.now(), namespace="models",
    )  # fmt: skip
    cluster = Cluster.objects.get()
    assert 'data-testid="charge"' in text(operator, "deployments:catalog-detail", "clusters", cluster.pk)
    assert cluster.get_charge_display() in text(operator, "deployments:catalog", "clusters")
    for page in (text(operator, "deployments:detail", "acme", "chat"), text(operator, "deployments:list")):
        assert (cluster.get_charge_display() in page) is not cluster.is_ours


def test_strangers_are_listed_with_what_they_say_and_what_is_known(operator, version, place):
    left = {"cluster_name": "here", "description": "1 instance of version 7 of acme/gone", "forgotten_by": "ann"}
    LeftBehind.objects.create(version_key="vforgotten", **left)
    Stranger.objects.create(cluster=place.cluster, name="gone-v7", version_key="vforgotten", replicas=1)
    Stranger.objects.create(cluster=place.cluster, name="mute", version_key="vmute", replicas=2, description="{")
    page = text(operator, "deployments:catalog-detail", "clusters", place.cluster.pk)
    assert "1 instance of version 7 of acme/gone, forgotten" in page and "by ann" in page and "it doesn't say" in page.replace("&#x27;", "'")  # fmt: skip
    Cluster.objects.update(unreachable_reason="It is away.", seen_at=timezone.now())
    page = text(operator, "deployments:catalog-detail", "clusters", place.cluster.pk)
    assert 'data-testid="forgotten"' in page


def test_forgetting_says_first_what_goes_and_what_may_be_left(operator, version, place):
    address = reverse("deployments:catalog-forget", args=["clusters", place.cluster.pk])
    assert "answers. Stop what runs there" in operator.get(address).content.decode()
    Cluster.objects.update(unreachable_reason="It is gone.")
    page = operator.get(address).content.decode()
    assert "deployment acme/chat" in page and "endpoint /main" in page and "instances of version 1 of acme/chat" in page
    answer = operator.post(address, follow=True)
    assert "Cluster here was forgotten." in answer.content.decode()
    assert not Cluster.objects.exists() and not Deployment.objects.exists() and LeftBehind.objects.count() == 1


def test_evictions_are_counted_on_the_overview(operator, version):
    began = timezone.now() - timedelta(minutes=10)
    for number in range(8):
        ended = began + timedelta(seconds=30 * number)
        Instance.objects.create(
            version=version, uid=f"{number:032x}", name=f"chat-{number}", generation=1, phase="gone", started_at=began,
            ended_at=ended, cause_json=Cause("evicted", "Thrown out.", evidence=("DiskPressure",)).to_json(),
        )  # fmt: skip
    (told,) = disturbances.recent(version)
    assert (told.count, told.name, told.span_s) == (8, "evictions", 210.0)
    page = text(operator, "deployments:detail", "acme", "chat")
    assert "8 evictions in 3 min" in page and "DiskPressure" in page


def test_last_lines_are_kept_once_for_each_end_and_shown(operator, version):
    instance = Instance.objects.create(
        version=version, uid="ab" * 16, name="chat-x", generation=1, phase="ready", started_at=timezone.now()
    )
    for end in range(1, last_words.KEPT_PER_INSTANCE + 3):
        item = InstanceObservation(instance.uid, "chat-x", "backing_off", 1, ends=end, exit_code=3)
        for _ in range(2):
            last_words.keep(last_words.Heard(item, ("first", f"end {end} <b>")))
    assert LastWords.objects.count() == last_words.KEPT_PER_INSTANCE
    page = text(operator, "deployments:logs", "acme", "chat")
    assert f"end {last_words.KEPT_PER_INSTANCE + 2}" in page
    answer = operator.get(reverse("deployments:last-words", args=[instance.uid, 10]))
    assert answer.content.decode() == "first\nend 10 <b>\n" and answer["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "Version 1 is shutting down."),
        ({"unreachable_reason": "Nobody answers."}, "Version 1 will shut down once the cluster"),
        ({"charge": "others"}, "Version 1 will shut down once this Slipway is in charge of"),
    ],
)
def test_a_click_says_when_it_takes_effect(operator, version, state, said):
    Version.objects.update(desired_state="running")
    Cluster.objects.update(**state)
    answer = operator.post(reverse("deployments:version-action", args=["acme", "chat", 1, "stop"]), follow=True)
    assert said in answer.content.decode()


def test_the_list_of_clusters_counts_what_is_in_no_record(operator, version):
    cluster = Cluster.objects.get()
    for name in ("a", "b"):
        Stranger.objects.create(cluster=cluster, name=name, replicas=1, ready=1, version_key=name, generation=1)
    page = text(operator, "deployments:catalog", "clusters")
    assert "2 workloads not in this Slipway's records" in page and '<td data-label="Deployments">1</td>' in page
