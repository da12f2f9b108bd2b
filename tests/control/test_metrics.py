"""The metric tables: batches once each, charts that add up, absences with their reason."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from common import partitions, sketch
from common.broadcast import valkey
from gateway.meter import CANCELLED, COMPLETED, REJECTED, Meter
from monitoring import books, collect, ingest, panel, queries
from monitoring.models import RequestSeries, SystemSamples, UsageMinute
from monitoring.queries import Window
from tests.records import records

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _empty_tables(db):
    """Partitioned tables are not Django's to empty between tests."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE monitoring_request_series, monitoring_system_samples, monitoring_usage_minute")


def entry(
    deployment,
    *,
    at: datetime = NOW,
    outcome: int = COMPLETED,
    status: int = 200,
    seconds: float = 0.5,
    instance: bytes = b"\x01" * 16,
) -> dict[str, Any]:
    return {
        "deployment": deployment.pk, "version": deployment.versions.get().pk, "instance": instance, "organization": 0, "user": 0,
        "source": 0, "outcome": outcome, "status": status, "at": at.timestamp(), "end_to_end": seconds, "inference": seconds,
        "queue": 0.0, "first_token": seconds / 2, "input_tokens": 3, "output_tokens": 4,
    }  # fmt: skip


def folded(entries: list[dict[str, Any]]) -> Meter:
    meter = Meter()
    meter.fold(records(*entries))
    return meter


def store(batch_id: str, entries: list[dict[str, Any]], in_flight: dict[int, int] | None = None) -> bool:
    meter = folded(entries)
    return ingest.store("gw", batch_id, meter.series("gw.1"), meter.usage(), meter.books(in_flight or {}))


def test_a_batch_that_comes_twice_counts_once(deploy):
    entries = [entry(deploy())] * 3
    assert store("b1", entries) is True
    assert store("b1", entries) is False
    assert RequestSeries.objects.get(instance_uid="").completed == 3
    assert UsageMinute.objects.get().output_tokens == 12
    later = [entry(deploy("other"), at=NOW + timedelta(seconds=10))]
    store("b2", later)
    store("b3", [entry(deploy("third"), at=NOW)])
    assert sum(row.completed for row in UsageMinute.objects.all()) == 5


def test_the_books_add_up_batch_by_batch_and_once_each(deploy):
    deployment = deploy()
    store("b1", [entry(deployment)] * 3 + [entry(deployment, outcome=CANCELLED)])
    line = books.over_all()
    assert (line.counts["admitted"], line.counts["completed"], line.counts["cancelled"], line.missing) == (4, 3, 1, 0)
    meter = Meter()
    meter.fold(records(entry(deployment))[:1])
    store_books = ("gw", "b2", [], [], meter.books({deployment.pk: 1}))
    assert ingest.store(*store_books) and not ingest.store(*store_books)
    assert (books.over_all().counts["in_flight"], books.over_all().missing) == (1, 0)
    meter = Meter()
    meter.fold(records(entry(deployment), admitted=False))
    ingest.store("gw", "b3", [], [], meter.books({}))
    (line,) = books.by_deployment(limit=5)
    assert (line.api_id, line.counts["admitted"], line.counts["in_flight"], line.missing) == ("acme/chat", 5, 0, 0)


def test_bars_count_by_class_and_latency_leaves_out_what_was_never_served(deploy):
    deployment = deploy()
    entries = [
        entry(deployment, seconds=1.0),
        entry(deployment, seconds=3.0),
        entry(deployment, outcome=REJECTED, status=503, seconds=0.0, instance=b"\0" * 16),
    ]
    entries += [entry(deployment, outcome=CANCELLED, status=499, seconds=2.0)]
    store("b1", entries)
    version_ids = [deployment.versions.get().pk]
    window = Window(NOW - timedelta(minutes=1), NOW + timedelta(minutes=1), 60)
    (bar,) = queries.request_bars(deployment, version_ids, window)
    assert (bar.status["status_2xx"], bar.status["status_4xx"], bar.status["status_5xx"]) == (2, 1, 1)
    assert (bar.average, bar.latency_max) == (pytest.approx(2.0), 3.0)
    row = RequestSeries.objects.get(instance_uid="")
    assert sketch.quantiles(bytes(row.end_to_end_sketch), [0.5, 1.0]) == [
        pytest.approx(2.0, rel=0.01),
        pytest.approx(3.0, rel=0.01),
    ]
    (one,) = queries.request_bars(deployment, version_ids, window, "01" * 16)
    assert sum(one.status.values()) == 3


def test_the_open_bucket_shows_at_once_and_is_not_counted_twice(deploy):
    deployment = deploy()
    version_ids = [deployment.versions.get().pk]
    window = Window(NOW - timedelta(minutes=1), NOW + timedelta(minutes=1), 60)
    valkey().delete(f"slipway:open-bucket:{version_ids[0]}")
    entries = [entry(deployment)] * 2
    ingest.publish_open_bucket("gw.1", folded(entries).series("gw.1"))
    assert queries.request_bars(deployment, version_ids, window)[0].status["status_2xx"] == 2
    store("b1", entries)
    assert queries.request_bars(deployment, version_ids, window)[0].status["status_2xx"] == 2


def test_a_panel_without_data_says_why(deploy):
    charts = panel.build(deploy(), panel.Question(), NOW)["charts"]
    assert all("absent" in chart and "figure" not in chart for chart in charts.values())


def test_samples_grow_one_row_an_hour_and_are_drawn(deploy):
    from tests.control.test_reconcile import becomes

    deployment = deploy()
    version = becomes(deployment.versions.get(), "running")
    for _ in range(2):
        assert collect.collect_local() == 1
        time.sleep(1.1)
    row = SystemSamples.objects.latest("hour")
    assert len(row.offsets) == len(row.cpu_user) == len(row.memory_used) >= 1
    assert row.memory_used[0] > 5 << 20 and row.memory_total == version.specification.memory
    assert row.gpu_indexes == [] and row.gpu_reason
    charts = panel.build(deployment, panel.Question(), datetime.now(UTC) + timedelta(seconds=1))["charts"]
    names = [trace["name"] for trace in charts["cpu"]["figure"]["data"]]
    assert [name.split()[-1] for name in names] == ["user", "system"]
    assert "1 cores" in charts["cpu"]["facts"]
    assert charts["gpu"]["absent"].startswith("Not available: ")


def test_old_partitions_are_dropped_whole():
    table = "monitoring_usage_minute"
    partitions.ensure_day(table, (NOW - timedelta(days=500)).date())
    dropped = partitions.drop_before(table, NOW.date())
    assert f"{table}_{NOW - timedelta(days=500):%Y%m%d}" in dropped
    assert partitions.drop_before(table, NOW.date()) == []
