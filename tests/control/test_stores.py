"""Two Valkeys: what is large never pushes out what counts, and a full one is told."""

import pytest
import redis
from django.core.cache import cache
from django.urls import reverse

from common.stores import scratch, valkey
from deployments import log_store
from deployments.models import Deployment
from runtimes.driver import LogLine
from tests.conftest import simulator

pytestmark = pytest.mark.django_db


@pytest.fixture
def full(request):
    """The named server takes no more than it holds now."""
    server = {"valkey": valkey, "scratch": scratch}[request.param]()
    before = server.config_get("maxmemory")["maxmemory"]
    server.config_set("maxmemory", server.info()["used_memory"] - 1)
    yield server
    server.config_set("maxmemory", before)
    server.config_resetstat()


def test_log_tails_push_out_log_tails_alone():
    """Chatty instances write three times what their store holds: counters, throttles and the queue are elsewhere and stay."""
    valkey().set("test:counter", 1, ex=30)
    cache.set("test-throttle", 1, 30)
    before = scratch().config_get("maxmemory")["maxmemory"]
    most = scratch().info()["used_memory"] + (24 << 20)
    scratch().config_set("maxmemory", most)
    try:
        for number in range(40):
            log_store.publish_tail(f"chatty{number}", [LogLine(place, "x" * 16_000) for place in range(1, 130)])
        assert scratch().info()["used_memory"] < most + (4 << 20)
        assert scratch().info()["evicted_keys"] > 0
        assert scratch().xlen(log_store.tail_key("chatty39"))
    finally:
        scratch().config_set("maxmemory", before)
    assert valkey().get("test:counter") == b"1" and cache.get("test-throttle") == 1
    assert valkey().info()["evicted_keys"] == 0


def test_one_tail_holds_so_many_characters_however_long_its_lines_are():
    for start in range(0, 1000, 100):
        log_store.publish_tail("long", [LogLine(place + 1, "x" * 16_000) for place in range(start, start + 100)])
    # Streams are trimmed by whole nodes of a hundred entries.
    assert scratch().xlen(log_store.tail_key("long")) <= (log_store.TAIL_CHARACTERS // 16_000) + 100


@pytest.mark.parametrize("full", ["valkey"], indirect=True)
def test_a_full_valkey_is_told_and_loses_nothing(full, client, people, deploy):
    client.force_login(people.operator)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        full.set("test:more", "x")
    page = client.get(reverse("administration"))
    assert page.status_code == 200 and "It is nearly full: soon it takes nothing new." in page.content.decode()
    # Whatever a person decides is in PostgreSQL, and found by the next sweep without a wake-up.
    assert deploy("while-full", specification=simulator()).pk == Deployment.objects.get().pk
    assert client.get(reverse("deployments:list")).status_code == 200


@pytest.mark.parametrize("full", ["valkey"], indirect=True)
def test_signing_in_says_so(full, client):
    answer = client.post(reverse("account_login"), {"login": "x", "password": "y"})
    assert answer.status_code == 503 and "Valkey is full" in answer.content.decode()


def test_a_wrong_policy_is_told(client, people):
    client.force_login(people.operator)
    valkey().config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert (
            "Its maxmemory-policy is allkeys-lru. Set noeviction."
            in client.get(reverse("administration")).content.decode()
        )
    finally:
        valkey().config_set("maxmemory-policy", "noeviction")
    assert "text-red" not in client.get(reverse("administration")).content.decode()


def test_one_server_for_everything_is_told(client, people, settings):
    settings.SCRATCH_REDIS_URL = settings.REDIS_URL
    client.force_login(people.operator)
    assert "Set SLIPWAY_SCRATCH_REDIS_URL to another one" in client.get(reverse("administration")).content.decode()
