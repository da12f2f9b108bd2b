"""A flooding instance keeps its last lines of the day and no more, all logs together stay below their bound, and it is said."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.urls import reverse

from common import partitions
from deployments import log_bounds, log_store
from deployments.models import Instance, LogChunk
from runtimes.driver import LogLine

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.fixture
def instance(deploy) -> Instance:
    log_store._kept_today._kept.clear()
    return Instance.objects.create(
        version=deploy().versions.get(), uid="ab12", name="chat-v1-x", generation=1, phase="ready", started_at=NOON
    )


def write(instance: Instance, count: int, *, at: datetime = NOON, size: int = 1000) -> None:
    """Chunks of about `size` bytes that compress badly."""
    for _ in range(count):
        position = instance.log_position + size
        line = LogLine(position, f"{at.timestamp():.3f} {os.urandom(size // 2).hex()}")
        log_store.seal(instance, [line], complete=False, now=at)


def kept() -> int:
    return sum(len(bytes(chunk.data)) for chunk in LogChunk.objects.all())


def test_of_an_instance_the_last_of_a_day_is_kept(instance, settings, people):
    settings.LOG_INSTANCE_DAY_BYTES = 10_000
    write(instance, 5)
    assert not log_store.read_before(instance.uid, None, 100).is_cut
    write(instance, 60)
    assert kept() <= 10_000
    page = log_store.read_before(instance.uid, None, 100)
    assert page.is_cut and not page.has_earlier and page.lines[-1].position == 65_000
    # The next day has room of its own; another watcher counts what is there already.
    write(instance, 5, at=NOON + timedelta(days=1))
    assert kept() > 10_000 - 1500
    log_store._kept_today._kept.clear()
    write(instance, 30, at=NOON + timedelta(days=1))
    assert kept() <= 20_000
    client = Client()
    client.force_login(people.member)
    text = b"".join(client.get(reverse("deployments:log-download", args=[instance.uid])).streaming_content).decode()
    assert text.startswith("Earlier lines are no longer kept.\n")
    assert client.get(reverse("deployments:log-lines", args=[instance.uid]), {"before": "999999"}).json()["is_cut"]


def test_another_instance_loses_nothing(instance, settings):
    settings.LOG_INSTANCE_DAY_BYTES = 10_000
    quiet = Instance.objects.create(
        version=instance.version, uid="cd34", name="chat-v1-y", generation=1, phase="ready", started_at=NOON
    )
    write(quiet, 3)
    write(instance, 60)
    assert LogChunk.objects.filter(instance_uid="cd34").count() == 3


def test_of_all_logs_the_oldest_days_go_first(instance, settings):
    today = NOON.date()
    for back in (3, 2, 1, 0):
        write(instance, 40, at=NOON - timedelta(days=back))
    settings.LOG_BYTES = sum(log_bounds._sizes().values()) - 1
    log_bounds.bound_all(today)
    assert not LogChunk.objects.filter(sealed_at__lt=NOON - timedelta(days=2, hours=12)).exists()
    assert LogChunk.objects.filter(sealed_at__gte=NOON - timedelta(days=2)).count() == 120


def test_of_today_alone_the_oldest_chunks_go(instance, settings):
    settings.LOG_BYTES = 8_000
    partitions.ensure_day(log_bounds.TABLE, NOON.date())
    for minute in range(40):
        write(instance, 1, at=NOON + timedelta(minutes=minute))
    log_bounds.bound_all(NOON.date())
    assert kept() <= 8_000 and LogChunk.objects.order_by("sealed_at").last().sealed_at == NOON + timedelta(minutes=39)
