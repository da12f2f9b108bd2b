"""Limits in the settings, what gateways read of them, and how much of them is used right now."""

import re
import time

import pytest
from django.urls import reverse

from accounts.models import AuditEntry
from apikeys.services import create_key
from common.limit_counters import key_of
from common.service_error import ForbiddenError, ServiceError
from common.stores import valkey
from deployments.models import Deployment, GatewayProcess, RateLimit
from deployments.services.limits import limits_of, set_limits
from gateway.routing.directory import read_snapshot

pytestmark = pytest.mark.django_db(transaction=True)
PATH = ["acme", "chat"]


@pytest.fixture
def deployment(deploy) -> Deployment:
    return deploy()


@pytest.fixture
def counted():
    """`counted(deployment, member, share)` notes that a share of a limit is used, as gateways do."""
    keys = set()

    def note(deployment: Deployment, member: str, share: float) -> None:
        key = key_of(deployment.pk)
        keys.add(key)
        valkey().zadd(key, {member: (time.time() + 60 * share) * 1e6})

    yield note
    if keys:
        valkey().delete(*keys)


def test_limits_are_set_in_the_settings_and_reach_the_gateways(client, people, deployment):
    client.force_login(people.admin)
    url = reverse("deployments:limits", args=PATH)
    answer = client.post(
        url, {"organization_requests": "600", "organization_tokens": "", "key_tokens": "90000"}, follow=True
    )
    assert "Gateways apply it within a second" in answer.content.decode()
    assert limits_of(deployment) == {"organization": (600, None), "key": (None, 90_000)}
    (target,) = read_snapshot().targets
    assert set(target.limits) == {("organization", 600, 0), ("key", 0, 90_000)}
    entry = AuditEntry.objects.latest("pk")
    assert entry.changes == {"organization_requests_per_minute": [None, 600], "key_tokens_per_minute": [None, 90_000]}
    page = client.get(reverse("deployments:settings", args=PATH)).content.decode()
    assert 'value="600"' in page and 'value="90000"' in page
    client.post(url, {})
    assert limits_of(deployment) == {} and read_snapshot().targets[0].limits == ()


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "many", "1000000001", "١٢", "9" * 400, "1\x00"])
def test_a_bad_limit_is_told_at_its_field_and_nothing_is_saved(client, people, deployment, value):
    client.force_login(people.admin)
    answer = client.post(reverse("deployments:limits", args=PATH), {"user_requests": "5", "key_tokens": value})
    page = answer.content.decode()
    if value == "١٢":
        # Digits of another script are digits.
        assert limits_of(deployment)["key"] == (None, 12)
        return
    assert answer.status_code == 422 and 'aria-describedby="id_key_tokens_error"' in page
    assert 'value="5"' in page, "what was typed stays"
    assert limits_of(deployment) == {}


def test_only_managers_set_limits(client, people, deployment):
    for user in (people.member, people.stranger):
        client.force_login(user)
        assert client.post(reverse("deployments:limits", args=PATH), {"key_tokens": "5"}).status_code == 404
        assert client.get(reverse("apikeys:limit-use", args=PATH)).status_code == 404
        with pytest.raises(ForbiddenError):
            set_limits(deployment, {"key": (5, None)}, actor=user)
    with pytest.raises(ServiceError, match="whole number"):
        set_limits(deployment, {"key": (0, 5)}, actor=people.admin)
    Deployment.objects.filter(pk=deployment.pk).delete()
    with pytest.raises(ServiceError, match="deleted meanwhile"):
        set_limits(deployment, {"key": (5, None)}, actor=people.operator)


class TestUse:
    @pytest.fixture(autouse=True)
    def _limits(self, people, deployment):
        set_limits(
            deployment, {"organization": (600, None), "user": (None, 1000), "key": (10, None)}, actor=people.admin
        )

    def test_the_fullest_come_first_with_names_that_the_reader_may_know(self, client, people, deployment, counted):
        key, _ = create_key(people.member, people.ours, "notebook")
        theirs, _ = create_key(people.stranger, people.theirs, "hidden name")
        counted(deployment, f"organization:{people.ours.pk}:requests", 0.5)
        counted(deployment, f"key:{key.pk}:requests", 0.9)
        counted(deployment, f"key:{theirs.pk}:requests", 0.2)
        counted(deployment, f"user:{people.stranger.pk}:tokens", 0.4)
        counted(deployment, f"user:{people.member.pk}:requests", 0.99)
        client.force_login(people.admin)
        page = client.get(reverse("apikeys:limit-use", args=PATH)).content.decode()
        assert page.index("notebook") < page.index("Acme") < page.index("a user of another organization")
        assert "a key of Other" in page and "hidden name" not in page and "stranger" not in page
        # Buckets refill while the page is made.
        used = [(int(limit), int(count)) for count, limit in re.findall(r"(\d+) of (\d+) requests", page)]
        assert any(limit == 10 and 8 <= count <= 9 for limit, count in used) and "needs-attention" in page
        assert any(limit == 600 and 200 <= count <= 300 for limit, count in used)
        assert "of 1,000 requests" not in page, "users have no limit of requests"

    def test_a_developer_sees_his_own_alone(self, client, people, deployment, counted):
        mine, _ = create_key(people.member, people.ours, "mine")
        other, _ = create_key(people.admin, people.ours, "not mine")
        for key in (mine, other):
            counted(deployment, f"key:{key.pk}:requests", 0.5)
        client.force_login(people.member)
        page = client.get(reverse("apikeys:own-limit-use", args=PATH)).content.decode()
        assert "mine (" in page and "not mine" not in page
        client.force_login(people.stranger)
        assert client.get(reverse("apikeys:own-limit-use", args=PATH)).status_code == 404

    def test_absence_is_told_with_its_reason(self, client, people, deployment, settings, monkeypatch):
        client.force_login(people.admin)
        url = reverse("apikeys:limit-use", args=PATH)
        assert "Nothing in this minute" in client.get(url).content.decode()
        for name in ("one", "two"):
            GatewayProcess.beat(name, 1, address="a:1", version=1, in_flight=0, is_alone=name == "two")
        page = client.get(url).content.decode()
        assert "1 of 2 gateways can" in page and "of 2 parts" in page
        client.force_login(people.operator)
        assert "keeps to its share of each limit" in client.get(reverse("monitoring:gateways")).content.decode()
        GatewayProcess.beat("two", 1, address="a:1", version=1, in_flight=0, is_alone=False)
        assert "reach Valkey" not in client.get(url).content.decode()
        set_limits(deployment, {}, actor=people.admin)
        assert "There is no limit" in client.get(url).content.decode()

    def test_it_is_told_when_valkey_is_away(self, client, people, deployment, monkeypatch, free_port):
        import redis

        gone = redis.Redis(port=free_port)
        monkeypatch.setattr("apikeys.limit_use.valkey", lambda: gone)
        client.force_login(people.admin)
        page = client.get(reverse("apikeys:limit-use", args=PATH))
        assert page.status_code == 200 and "Not known" in page.content.decode()


def test_since_when_a_gateway_counts_alone_is_kept():
    from deployments.models import DirectoryVersion

    DirectoryVersion.objects.get_or_create(id=1)
    for _ in range(2):
        GatewayProcess.beat("one", 1, address="a:1", version=1, in_flight=0, is_alone=True)
    first = GatewayProcess.objects.get().alone_since
    GatewayProcess.beat("one", 1, address="a:1", version=1, in_flight=0, is_alone=True)
    assert GatewayProcess.objects.get().alone_since == first
    GatewayProcess.beat("one", 1, address="a:1", version=1, in_flight=0)
    assert GatewayProcess.objects.get().alone_since is None
    assert GatewayProcess.living().count() == 1


def test_limits_go_with_their_deployment(people, deployment):
    set_limits(deployment, {"key": (5, None)}, actor=people.admin)
    Deployment.objects.filter(pk=deployment.pk).delete()
    assert not RateLimit.objects.exists()
