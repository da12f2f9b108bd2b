"""The metric tables: batches once each, charts that add up, absences with their reason."""

import gc
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psutil
import psycopg
import pytest
from django.db import OperationalError, connection, transaction

from common import partitions
from common.request_outcomes import CANCELLED, COMPLETED, REJECTED
from common.stores import scratch
from gateway.books.meter import Meter
from monitoring import books, collect, ingest, panel, queries, rollup, series
from monitoring.models import IngestedBatch, MeteredInstance, UsageMinute
from monitoring.queries import Scope
from monitoring.question import Question
from monitoring.request_charts import statistics, whole
from monitoring.request_frame import RequestFrame
from monitoring.tiers import DAY, HOUR, TIERS, Tier
from monitoring.window import Window
from tests.control.test_reconcile import becomes
from tests.records import records

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _empty_tables(db):
    """Partitioned tables are not Django's to empty between tests."""
    with connection.cursor() as cursor:
        tables = ["monitoring_fresh", "monitoring_rollup", "monitoring_usage_minute", *(tier.table for tier in TIERS)]
        cursor.execute(f"TRUNCATE {', '.join(tables)}")


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
    return ingest.store("gw", batch_id, meter.series(batch_id), meter.usage(), meter.books(in_flight or {}))


def window(start: datetime, end: datetime, bar: int = 0, now: datetime = NOW) -> Window:
    return Window.of(int(start.timestamp()), int(end.timestamp()), int(now.timestamp()), UTC, bar)


AROUND = window(NOW - timedelta(minutes=1), NOW + timedelta(minutes=1), 60)


def stored(deployment, around: Window = AROUND, instance: str = "") -> RequestFrame:
    return queries.requests(Scope.of(deployment, instance_uid=instance), around, int(NOW.timestamp()))


def test_attempts_to_connect_that_fail_leave_no_socket_behind(db):
    """While the server hangs there is one every second, and when it goes on they would take all its places."""
    hanging = connection.copy()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        host, port = server.getsockname()
        hanging.settings_dict |= {"HOST": host, "PORT": str(port), "OPTIONS": {"connect_timeout": 2}}
        gc.collect()
        gc.disable()
        before = psutil.Process().num_fds()
        try:
            for _ in range(2):
                with pytest.raises(OperationalError):
                    hanging.ensure_connection()
            assert psutil.Process().num_fds() == before
        finally:
            gc.enable()


def test_a_lost_database_is_told_in_words_that_pages_understand(db):
    """A page answers to Django's own error with a friendly 503; to a driver's with a stack trace."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    with pytest.raises(OperationalError), series.binary_cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    with series.binary_cursor() as cursor:
        assert cursor.execute("SELECT 1").fetchone() == (1,)


def test_a_batch_that_comes_twice_counts_once(deploy):
    deployment = deploy()
    entries = [entry(deployment)] * 3
    assert store("b1", entries) is True
    assert store("b1", entries) is False
    assert stored(deployment).column("completed").tolist() == [3]
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
    found = statistics(whole(stored(deployment)), AROUND)
    assert (found["requests"], found["2xx"], found["4xx"], found["5xx"]) == (4, 2, 1, 1)
    assert found["end_to_end"]["avg"] == pytest.approx(2.0) and found["end_to_end"]["max"] == 3.0
    assert found["end_to_end"]["p50"] == pytest.approx(2.0, rel=0.01)
    assert found["end_to_end"]["p99"] == pytest.approx(3.0, rel=0.01)
    assert statistics(whole(stored(deployment, instance="01" * 16)), AROUND)["requests"] == 3
    assert statistics(whole(stored(deployment, instance="ff" * 16)), AROUND)["requests"] == 0


def test_the_open_bucket_shows_at_once_and_is_not_counted_twice(deploy):
    deployment = deploy()
    scratch().delete(f"slipway:open-bucket:{deployment.versions.get().pk}")
    entries = [entry(deployment)] * 2
    ingest.publish_open_bucket("gw.1", folded(entries).series("b1"))
    assert stored(deployment).column("status_2xx").sum() == 2
    assert stored(deployment, instance="01" * 16).column("status_2xx").sum() == 2
    store("b1", entries)
    assert stored(deployment).column("status_2xx").sum() == 2
    rollup.roll_up(int(NOW.timestamp()))
    assert stored(deployment).column("status_2xx").sum() == 2
    # The next batch's rows of the same bucket are news.
    ingest.publish_open_bucket("gw.1", folded(entries).series("b2"))
    assert stored(deployment).column("status_2xx").sum() == 4
    assert stored(deployment, instance="01" * 16).column("status_2xx").sum() == 4


def test_what_a_killed_gateway_had_open_is_not_counted_beside_its_replay(deploy):
    """Its successor stores the same requests under another name, while other gateways keep the open rows alive."""
    deployment = deploy()
    scratch().delete(f"slipway:open-bucket:{deployment.versions.get().pk}")
    entries = [entry(deployment)] * 3
    ingest.publish_open_bucket("gw.7.", folded(entries).series("gw.7.00000004"))
    assert stored(deployment).column("completed").sum() == 3
    store("gw.7.replay", entries)
    assert stored(deployment).column("completed").sum() == 3


def test_two_gateways_of_which_one_refused_in_the_same_bucket_add_up(deploy):
    """What all did is left out where it is the sum of what instances did: in one batch, and not in the other."""
    deployment = deploy()
    store("a1", [entry(deployment)] * 4)
    refused = entry(deployment, outcome=REJECTED, status=503, instance=b"\0" * 16)
    store("b1", [entry(deployment, instance=b"\2" * 16), refused])
    expected = (5, 1)
    for step in range(4):
        if step:
            rollup.roll_up(int(NOW.timestamp()) + (step - 1) * 5 * DAY)
        if step == 2:
            # Late, into what is closed.
            store("c1", [refused])
            expected = (5, 2)
        for tier in TIERS:
            start = int(NOW.timestamp()) // tier.seconds * tier.seconds - tier.seconds
            frame = series.requests([deployment.versions.get().pk], start, start + 3 * tier.seconds, tier)
            assert (frame.column("status_2xx").sum(), frame.column("status_5xx").sum()) == expected, (step, tier)


def test_rolled_up_rows_tell_the_same_in_every_tier_however_late_they_come(deploy):
    deployment = deploy()
    now = int(NOW.timestamp())
    scope = [deployment.versions.get().pk]
    rng = np.random.default_rng(3)
    moments = [NOW - timedelta(seconds=int(age)) for age in (*range(0, 3000, 37), 5 * HOUR, 30 * HOUR, 20 * DAY)]
    seconds = rng.lognormal(0, 1, len(moments))
    random_order = rng.permutation(len(moments))
    batches = np.array_split(random_order, 7)
    for number, indexes in enumerate(batches):
        store(
            f"b{number}",
            [entry(deployment, at=moments[i], seconds=seconds[i], instance=bytes([i % 3 + 1]) * 16) for i in indexes],
        )
        if number in (2, 5):
            # The second one closes all that is over; the last batch comes late.
            assert rollup.roll_up(now + (number - 2) * 2 * DAY) == 3
    assert set(series.closed_until()) == {tier.seconds for tier in TIERS[1:]}
    for tier in (*TIERS, *TIERS):
        start = now - 21 * DAY
        frame = series.requests(scope, start // tier.seconds * tier.seconds, now + 10, tier)
        assert frame.column("completed").sum() == len(moments), tier
        assert (frame.at % tier.seconds == 0).all() and len(set(frame.at)) == len(frame)
        expected = np.quantile(seconds, [0.5, 0.99], method="inverted_cdf")
        total = frame.regroup(np.zeros(len(frame), np.int64))
        np.testing.assert_allclose(total.quantiles("end_to_end", [0.5, 0.99])[0], expected, rtol=0.01)
        number = MeteredInstance.objects.get(uid="02" * 16).number
        own = series.requests(scope, start, now + 10, tier, (number,))
        assert own.column("completed").sum() == sum(index % 3 == 1 for index in range(len(moments)))
        # Once more when the late ones are rolled up, too.
        rollup.roll_up(now)


def test_a_rollup_that_dies_halfway_is_done_again_and_once(deploy, monkeypatch):
    deployment = deploy()
    store("b1", [entry(deployment)] * 5)
    whole = rollup._write

    def dies(tier: Tier, rows: Any) -> None:
        if tier.seconds == HOUR:
            raise ConnectionError("killed")
        whole(tier, rows)

    monkeypatch.setattr(rollup, "_write", dies)
    later = int(NOW.timestamp()) + 2 * DAY
    with pytest.raises(ConnectionError):
        rollup.roll_up(later)
    monkeypatch.undo()
    assert stored(deployment).column("completed").sum() == 5
    rollup.roll_up(later)
    for tier in TIERS:
        now = int(NOW.timestamp())
        start = now // tier.seconds * tier.seconds - tier.seconds
        frame = series.requests([deployment.versions.get().pk], start, now + 10, tier)
        assert frame.column("completed").sum() == 5, tier


def test_a_gateway_whose_clock_is_ahead_books_nothing_in_the_future(deploy):
    deployment = deploy()
    store("b1", [entry(deployment, at=datetime.now(UTC) + timedelta(days=3))])
    now = int(time.time())
    frame = series.requests([deployment.versions.get().pk], now - 60, now + 60, TIERS[0])
    assert frame.column("completed").tolist() == [1]
    # One that is behind: the row stands where its clock says, days ago, and counts there once.
    store("b2", [entry(deployment, at=NOW - timedelta(days=30))])
    rollup.roll_up(int(NOW.timestamp()))
    old = int((NOW - timedelta(days=30)).timestamp())
    assert (
        series.requests([deployment.versions.get().pk], old - DAY, old + DAY, TIERS[3]).column("completed").sum() == 1
    )


def test_readers_see_each_row_once_while_it_is_rolled_up(deploy):
    """The moment when fresh rows become blocks: a reader's snapshot has them in one place or in the other."""
    deployment = deploy()
    store("b1", [entry(deployment)] * 5)
    version = deployment.versions.get().pk
    now = int(NOW.timestamp())
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        assert series.requests([version], now - 60, now + 60, TIERS[0]).column("completed").sum() == 5
        _in_another_connection(lambda: rollup.roll_up(now + 5 * DAY))
        assert series.requests([version], now - 60, now + 60, TIERS[0]).column("completed").sum() == 5
    assert series.requests([version], now - 60, now + 60, TIERS[0]).column("completed").sum() == 5
    assert not IngestedBatch.objects.filter(is_rolled_up=False).exists()


def _in_another_connection(action) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connections

    def act() -> None:
        try:
            action()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(act).result(timeout=20)


def test_old_blocks_go_whole_and_fresh_rows_only_when_they_are_rolled_up(deploy):
    deployment = deploy()
    store("b1", [entry(deployment)])
    later = int(time.time()) + 500 * DAY
    # Nothing before the next coarser tier has it.
    assert {name.rpartition("_n")[0] for name in series.drop_old(later)} <= {TIERS[-1].table}
    rollup.roll_up(later)
    dropped = series.drop_old(later)
    assert {name.rpartition("_n")[0] for name in dropped} == {"monitoring_fresh", *(tier.table for tier in TIERS)}
    store("b2", [entry(deployment)])
    assert not any(name.startswith("monitoring_fresh") for name in series.drop_old(later))
    assert stored(deployment).column("completed").sum() == 1


def test_a_panel_without_data_says_why(deploy):
    charts = panel.build(deploy(), Question(), int(NOW.timestamp()))["charts"]
    assert set(charts) == {chart[0] for chart in panel.CHARTS}
    assert all(chart["absent"] and "figure" not in chart for chart in charts.values())


def test_samples_become_curves_with_their_gaps_and_reasons(deploy):
    deployment = deploy()
    version = becomes(deployment.versions.get(), "running")
    assert collect.collect_local() == 1
    time.sleep(1.1)
    IngestedBatch.objects.update(id="system.earlier")
    assert collect.collect_local() == 1
    # The same ten seconds once more: a second beat is harmless.
    assert collect.collect_local() == 0
    now = int(time.time())
    frame = series.system([version.pk], now - 60, now + 10, TIERS[0])
    assert frame.of("memory_used").average.min() > 5 << 20
    assert frame.of("replicas_active").average.max() == 1 and frame.of("requests_running").average.max() == 0
    charts = panel.build(deployment, Question(), now)["charts"]
    names = [trace["name"] for trace in charts["cpu"]["figure"]["data"] if trace["meta"] != "marks"]
    assert [name.split()[-1] for name in names] == ["user", "system", "core"]
    assert "of 1 core each" in charts["cpu"]["facts"]
    assert charts["gpu"]["absent"] == "Not available: this version asks for no GPU."
    assert [trace["name"] for trace in charts["engine"]["figure"]["data"]][:2] == ["running", "waiting"]
    averaged = panel.build(deployment, Question(instances="average"), now)["charts"]["memory"]["figure"]["data"]
    assert averaged[0]["name"] == "average"


def test_old_partitions_are_dropped_whole():
    table = "monitoring_usage_minute"
    partitions.ensure_day(table, (NOW - timedelta(days=500)).date())
    dropped = partitions.drop_before(table, NOW.date())
    assert f"{table}_{NOW - timedelta(days=500):%Y%m%d}" in dropped
    assert partitions.drop_before(table, NOW.date()) == []
