"""Times in the queue and its size: on the charts is what the requests' own records say, once each."""

import math
import time
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.urls import reverse

from async_inference import queue_metrics, tasks
from async_inference.models import AsyncBacklog, AsyncPayload, AsyncRequest, AsyncResult, AsyncSettings, QueueClock
from monitoring import advice, request_charts, rollup, series
from monitoring.instances import numbers_of, uid_of_version
from monitoring.system_frame import NO_DEVICE, SystemFrame
from monitoring.tiers import TIERS
from tests.gateway.conftest import json_answer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _empty_tables(db):
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE monitoring_fresh, monitoring_rollup, {', '.join(tier.table for tier in TIERS)}")


def made(deployment, count: int, **values) -> list[AsyncRequest]:
    row = {
        "deployment": deployment, "api_id": deployment.api_id, "organization_id": 1, "user_id": 1, "priority": 1, "retries": 0, "queue_s": 600,
        "payload_bytes": 100, "fingerprint": b"", "expires_at": datetime.now(UTC) + timedelta(hours=1), "state": "queued",
    } | values  # fmt: skip
    import uuid

    return AsyncRequest.objects.bulk_create([AsyncRequest(uid=uuid.uuid4(), **row) for _ in range(count)])


def panel(client, **query):
    return client.get(reverse("monitoring:data", args=["acme", "chat"]), {"range": "1h", **query}).json()


def nearest_rank(values: list[float], share: float) -> float:
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def test_the_charts_percentiles_are_those_of_the_requests(client, people, deploy):
    deployment = deploy()
    now = int(time.time())
    QueueClock.objects.create(pk=1, measured_until=now - 1800)
    waited = []
    for number in range(300):
        seconds = 0.2 + (number * 37 % 300) ** 1.5 / 50
        end = datetime.fromtimestamp(now - 1700 + number * 5, UTC)
        waited.append(seconds)
        made(
            deployment, 1, state="completed", created_at=end - timedelta(seconds=seconds + 1),
            started_at=end - timedelta(seconds=1), finished_at=end, version_id=deployment.versions.get().pk,
        )  # fmt: skip
    # Those that were never begun have no time; and one that runs has none yet.
    made(deployment, 3, state="expired", finished_at=datetime.fromtimestamp(now - 900, UTC))
    made(deployment, 2, state="running", started_at=datetime.fromtimestamp(now - 900, UTC))
    for _ in range(3):
        queue_metrics.measure(now)
    client.force_login(people.member)
    charts = panel(client)["charts"]
    found = charts["async_queue"]
    assert found["facts"].startswith("300 ended:")
    assert charts["async_size"]["absent"].startswith("Nothing waited when it was counted")
    shown = {
        trace["name"]: trace for trace in found["figure"]["data"] if trace.get("meta") in ("p50", "p90", "p95", "p99")
    }
    assert set(shown) == {"p50", "p90", "p95", "p99"}
    words = dict(zip(("p50", "p90", "p95", "p99"), found["facts"].split(": ")[1].split(", "), strict=True))
    for label, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        told = float(words[label].split()[1])
        assert told == pytest.approx(nearest_rank(waited, share), rel=0.012), label
    # All of it stays as it is when it is rolled up.
    rollup.roll_up(now + 3600)
    assert panel(client)["charts"]["async_queue"]["facts"] == found["facts"]
    table = client.get(reverse("monitoring:csv", args=["acme", "chat"]), {"range": "1h"}).content.decode()
    assert "async_queue_p95_s" in table.splitlines()[0] and "async_queue_size_max" in table.splitlines()[0]


def test_after_an_outage_what_was_missed_is_measured_once(deploy, monkeypatch):
    deployment, now = deploy(), int(time.time()) // 10 * 10
    monkeypatch.setattr(queue_metrics, "MOST_S", 100)
    QueueClock.objects.create(pk=1, measured_until=now - 1000)
    for ago in range(10, 1000, 10):
        end = datetime.fromtimestamp(now - ago, UTC)
        made(deployment, 1, state="failed", created_at=end, started_at=end, finished_at=end)
    queue_metrics.measure(now)
    queue_metrics.measure(now)
    version = deployment.versions.get().pk
    frame = series.requests([version], now - 1000, now, TIERS[0], kind=series.QUEUE_TIMES)
    # The last bucket is left until all that ends in it has been committed.
    assert int(frame.measured("queue").sum()) == 98
    queue_metrics.measure(now + 20)
    frame = series.requests([version], now - 1000, now, TIERS[0], kind=series.QUEUE_TIMES)
    assert int(frame.measured("queue").sum()) == 99


def test_sizes_are_what_waited_at_that_moment(client, people, deploy):
    deployment, now = deploy(), int(time.time()) // 10 * 10
    sizes = [5, 12, 3, 0]
    for index, size in enumerate(sizes):
        AsyncRequest.objects.all().delete()
        made(deployment, size)
        made(deployment, 4, state="running")
        queue_metrics.measure(now - 40 + index * 10)
    client.force_login(people.member)
    found = panel(client, range="5m")["charts"]["async_size"]
    (trace,) = [item for item in found["figure"]["data"] if item.get("meta") == "size"]
    assert [value for value in trace["y"] if value is not None] == sizes and found["facts"] == "now 0, peak 12"
    assert AsyncBacklog.objects.get().waiting == 0
    # What has ended takes room until it is deleted, its result too.
    AsyncRequest.objects.all().delete()
    made(deployment, 2, state="completed", result_bytes=50)
    queue_metrics.measure(now)
    assert AsyncBacklog.objects.get().kept_bytes == 300
    AsyncRequest.objects.all().delete()
    queue_metrics.forget_unused()
    assert not AsyncBacklog.objects.exists()


def test_without_asynchronous_requests_the_charts_say_so(client, people, deploy):
    deploy()
    client.force_login(people.member)
    charts = panel(client)["charts"]
    assert "No asynchronous requests" in charts["async_queue"]["absent"] == charts["async_size"]["absent"]


def test_the_advice_is_reckoned_from_what_comes_and_what_is_worked_off(client, people, deploy):
    # 120 a minute are worked off by 2 replicas, 180 come: 300 more wait after five minutes.
    text = advice.async_queue(60.0, 600, (0, 300), 2.0, 300)
    assert text.startswith("180 come a minute, 120 are worked off, 300 wait. 4 replicas instead of 2 would keep up")
    assert "1.8 times as many at once" in text
    assert "start a version" in advice.async_queue(0.0, 0, (10, 10), 0.0, 300)
    assert advice.async_queue(0.2, 600, (3, 3), 2.0, 300) == ""
    assert advice.async_queue(0.2, 600, (5, 0), 2.0, 300) == ""
    # It empties by itself, or waits no longer than what was sent to wait may.
    assert advice.async_queue(12.0, 449, (310, 23), 1.0, 30) == ""
    assert advice.async_queue(2.0, 4500, (23, 23), 1.0, 300) == ""
    # On the page, from samples.
    deployment, now = deploy(), int(time.time()) // 10 * 10
    version = deployment.versions.get()
    uid = uid_of_version(version.pk)
    number = numbers_of({uid: version.pk})[uid]
    QueueClock.objects.create(pk=1, measured_until=now - 300)
    for ago in range(280, 0, -20):
        at = now - ago
        rows = [
            (number, "replicas_active", NO_DEVICE, at, 2.0),
            (number, "async_queue_size", NO_DEVICE, at, 1000.0 - ago),
        ]
        added = series.add_batch(f"test.{at}")
        series.ensure_fresh_partition()
        series.add_fresh(*added, series.SYSTEM, [(version.pk, at, SystemFrame.of_samples(rows).pack())])
        end = datetime.fromtimestamp(at, UTC)
        made(
            deployment,
            10,
            state="completed",
            created_at=end - timedelta(seconds=90),
            started_at=end,
            finished_at=end,
            version_id=version.pk,
        )
    made(deployment, 1000)
    queue_metrics.measure(now)
    client.force_login(people.member)
    words = panel(client, range="5m")["charts"]["async_queue"]["advice"]
    assert "replicas instead of 2" in words and "wait" in words


def test_what_is_past_its_days_goes_with_payload_and_result(deploy):
    deployment = deploy()
    now = datetime.now(UTC)
    rows = [
        *made(deployment, 2, state="completed", finished_at=now - timedelta(days=8)),
        *made(deployment, 2, state="completed", finished_at=now - timedelta(days=6)),
        *made(deployment, 1, state="queued", created_at=now - timedelta(days=30)),
    ]
    for row in rows:
        AsyncPayload.objects.create(request=row, method="POST", path="/", headers="", body=b"x")
        AsyncResult.objects.create(request=row, content_type="", body=b"y")
    tasks.forget()
    assert AsyncRequest.objects.count() == AsyncPayload.objects.count() == AsyncResult.objects.count() == 3
    AsyncSettings.objects.create(deployment=deployment, result_days=5)
    tasks.forget()
    assert AsyncRequest.objects.get().state == "queued"


@pytest.mark.asyncio
async def test_real_requests_are_on_the_chart(queue, upstream):
    """Through gateway and dispatcher: the time that the chart tells is the one that the sender could see."""
    await queue.start(await upstream(json_answer(b"{}")), concurrency=2)
    ids = [await queue.queued() for _ in range(10)]
    before = int(time.time()) // 10 * 10
    await sync_to_async(QueueClock.objects.create)(pk=1, measured_until=before)
    queue.dispatch()
    records = []
    for uid in ids:
        told = await queue.ended(uid)
        moments = [datetime.fromisoformat(told[name]) for name in ("created_at", "started_at")]
        records.append((moments[1] - moments[0]).total_seconds())
    await sync_to_async(queue_metrics.measure)(before + 40)
    read = sync_to_async(series.requests)
    frame = request_charts.whole(await read([queue.version_id], before, before + 60, TIERS[0], kind=series.QUEUE_TIMES))
    assert int(frame.measured("queue").sum()) == 10
    assert float(frame.sums[:, 2].sum()) == pytest.approx(sum(records), rel=0.001)
    assert float(frame.quantiles("queue", [0.9])[0, 0]) == pytest.approx(nearest_rank(records, 0.9), rel=0.012)
