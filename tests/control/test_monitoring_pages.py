"""Pages of monitoring: the panel's answers, a moment, the table as CSV, and the fleet, worst first."""

import csv
import itertools
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from common.request_outcomes import FAILED
from common.stores import scratch
from deployments import log_store
from deployments.models import Event, Instance, Status, Version
from monitoring import fleet, ingest, series
from monitoring.fleet_columns import sparkline
from monitoring.instances import numbers_of
from monitoring.system_frame import NO_DEVICE, SystemFrame
from monitoring.tiers import TIERS
from runtimes.driver import LogLine
from tests.control.test_metrics import entry, folded

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _empty_tables(db):
    with connection.cursor() as cursor:
        tables = ["monitoring_fresh", "monitoring_rollup", "monitoring_usage_minute", *(tier.table for tier in TIERS)]
        cursor.execute(f"TRUNCATE {', '.join(tables)}")


def address(name: str) -> str:
    return reverse(f"monitoring:{name}", args=["acme", "chat"])


def store(batch: str, entries) -> None:
    meter = folded(entries)
    ingest.store("gw", batch, meter.series(batch), meter.usage(), meter.books({}))


def test_the_panel_answers_with_figures_and_statistics(client, people, deploy):
    deployment = deploy()
    now = datetime.now(UTC)
    store("b1", [entry(deployment, at=now - timedelta(minutes=minute), seconds=1.0 + minute) for minute in range(5)])
    client.force_login(people.member)
    panel = client.get(address("data"), {"range": "1h", "tz": "Asia/Tokyo", "compare": "previous"}).json()
    assert panel["statistics"]["requests"] == 5 and panel["statistics"]["before"] == {"requests": 0}
    assert panel["window"]["offset"] == 9 * 3600 and panel["charts"]["tokens"]["figure"]
    latency = panel["charts"]["end_to_end"]["figure"]["data"]
    assert [trace["meta"] for trace in latency][:7] == ["avg", "p50", "p75", "p90", "p95", "p99", "max"]
    # Time goes on where nothing was measured, and nothing is drawn there.
    values = latency[0]["y"]
    assert values.count(None) >= 4 and 0 not in values
    # An event stands where the curves have a point: hovering there tells of both.
    happened = Event.objects.create(
        deployment=deployment, kind="restart", message="gone", at=now - timedelta(seconds=71)
    )
    panel = client.get(address("data"), {"range": "1h", "tz": "Asia/Tokyo"}).json()
    mark = panel["charts"]["end_to_end"]["figure"]["data"][-1]
    assert mark["x"][-1] % (panel["window"]["width"] * 1000) == 0
    assert mark["text"][-1] == f"{happened.at.astimezone(ZoneInfo('Asia/Tokyo')):%H:%M:%S} gone"
    refused = client.get(address("data"), {"tz": "Nowhere"})
    assert refused.status_code == 422 and refused.json()["error"].startswith("Time zone:")
    assert client.get(address("monitoring"), {"from": "x", "to": "y"}).status_code == 422


def test_the_table_has_each_point_with_the_zones_offset(client, people, deploy):
    deployment = deploy()
    now = datetime.now(UTC)
    store("b1", [entry(deployment, at=now - timedelta(minutes=2), seconds=2.0)] * 3)
    client.force_login(people.member)
    answer = client.get(address("csv"), {"range": "1h", "tz": "Asia/Kolkata"})
    assert "attachment" in answer["Content-Disposition"]
    (row,) = csv.DictReader(answer.content.decode().splitlines())
    assert row["time"].endswith("+05:30") and row["2xx"] == "3" and row["5xx"] == "0"
    assert float(row["end_to_end_p95_s"]) == pytest.approx(2, rel=0.01) and row["output_tokens"] == "12"
    assert client.get(address("csv"), {"range": "never"}).status_code == 422


@pytest.mark.parametrize(("interval", "rows"), [("", 6), ("15m", 2), ("1h", 2), ("1d", 1)])
def test_the_table_has_a_row_for_each_bar_that_was_asked_for(client, people, deploy, interval, rows):
    deployment = deploy()
    # Two hours of one day in the zone, three points of a quarter in each.
    start = datetime.now(ZoneInfo("Asia/Kolkata")).replace(hour=1, minute=0, second=0, microsecond=0) - timedelta(
        days=1
    )
    for hour, minute in itertools.product((0, 1), (1, 4, 8)):
        at = start + timedelta(hours=hour, minutes=minute)
        store(f"b{hour}{minute}", [entry(deployment, at=at.astimezone(UTC))])
    client.force_login(people.member)
    asked = {
        "from": f"{start:%Y-%m-%dT%H:%M}",
        "to": f"{start + timedelta(hours=2):%Y-%m-%dT%H:%M}",
        "tz": "Asia/Kolkata",
    }
    answer = client.get(address("csv"), asked | {"interval": interval})
    found = list(csv.DictReader(answer.content.decode().splitlines()))
    assert len(found) == rows and sum(int(row["2xx"]) for row in found) == 6, found
    if interval:
        first = start.replace(hour=0) if interval == "1d" else start
        assert found[0]["time"] == first.isoformat()


def test_a_moment_tells_events_instances_and_the_nearest_lines(client, people, deploy):
    deployment = deploy()
    version = deployment.versions.get()
    at = timezone.now() - timedelta(minutes=10)
    instance = Instance.objects.create(
        version=version, uid="ab" * 16, name="chat-v1-abc", generation=1, phase="ready", started_at=at - timedelta(hours=1)
    )  # fmt: skip
    Event.objects.create(
        deployment=deployment, version=version, kind="instance", severity="error", message="It <b>fell</b>."
    )
    Event.objects.update(at=at)
    begin = at.timestamp()
    lines = [LogLine(number, f"{begin - 100 + number / 10:.3f} line {number}") for number in range(1, 2001)]
    log_store.seal(instance, lines[:1040], complete=False, now=at + timedelta(seconds=50))
    log_store.publish_tail(instance.uid, lines[1000:])
    client.force_login(people.member)
    text = client.get(address("moment"), {"at": int(begin), "width": 10, "tz": "UTC"}).content.decode()
    assert "It &lt;b&gt;fell&lt;/b&gt;." in text and "chat-v1-abc" in text
    shown = [number for number in range(1, 2001) if f"line {number}\n" in text]
    # Around the middle of the point, not around its start.
    assert len(shown) == 200 and shown == list(range(shown[0], shown[0] + 200)) and 1038 <= shown[100] <= 1052
    assert "the 200 lines nearest to the moment" in text
    quiet = client.get(address("moment"), {"at": int(begin) - 100_000, "tz": "UTC"}).content.decode()
    assert "No instance lived then" in quiet and "Nothing happened" in quiet
    assert client.get(address("moment"), {"at": "x"}).status_code == 422
    scratch().delete(log_store.tail_key(instance.uid))


def test_the_fleet_shows_the_worst_first(client, people, deploy):
    names = ("fine", "failing", "broken", "full", "idle")
    made = {name: deploy(name) for name in names}
    Version.objects.update(status=Status.RUNNING)
    for deployment in made.values():
        Instance.objects.create(
            version=deployment.versions.get(), uid=f"{deployment.pk:032x}", name=deployment.name, generation=1, phase="ready",
            started_at=timezone.now(), ready_at=timezone.now(),
        )  # fmt: skip
    Version.objects.filter(deployment=made["broken"]).update(status=Status.ERROR)
    minute = datetime.fromtimestamp(int(time.time()) // 60 * 60 - 30, UTC)
    good = [entry(made[name], at=minute, seconds=0.5) for name in ("fine", "failing") for _ in range(8)]
    store("b1", [*good, *[entry(made["failing"], at=minute, outcome=FAILED, status=502, seconds=0.1)] * 2])
    sample_memory(made["full"], minute, 0.97)
    sample_memory(made["fine"], minute, 0.2)
    fleet.make(int(time.time()))
    found = fleet.read(people.member)
    assert [line.deployment.name for line in found.lines][:4] == ["broken", "failing", "full", "fine"]
    failing, full = found.lines[1], found.lines[2]
    assert failing.errors == pytest.approx(0.2) and failing.p95 == pytest.approx(0.5, rel=0.01)
    # Ten requests in the three minutes that were made.
    assert failing.rate == pytest.approx(10 / 3) and full.memory == pytest.approx(0.97)
    assert found.lines[3].gpu is None and found.ranks == {
        fleet.BROKEN: 1,
        fleet.DEGRADED: 1,
        fleet.STRAINED: 1,
        fleet.FINE: 2,
    }
    client.force_login(people.member)
    page = client.get(reverse("monitoring:fleet")).content.decode()
    assert page.index("/broken/") < page.index("/failing/") < page.index("/full/") and 'class="sparkline"' in page
    assert " style=" not in page
    client.force_login(people.stranger)
    assert "No deployments yet" in client.get(reverse("monitoring:fleet")).content.decode()


def sample_memory(deployment, at: datetime, share: float) -> None:
    version = deployment.versions.get()
    uid = f"{deployment.pk:032x}"
    number = numbers_of({uid: version.pk})[uid]
    series.ensure_fresh_partition()
    batch, arrived = series.add_batch(f"memory.{deployment.pk}")
    moment = int(at.timestamp())
    frame = SystemFrame.of_samples([(number, "memory_used", NO_DEVICE, moment, share * version.specification.memory)])
    series.add_fresh(batch, arrived, series.SYSTEM, [(version.pk, moment, frame.pack())])


def test_the_fleet_asks_the_same_of_the_tables_however_many_there_are(people, deploy):
    counts = []
    for number in range(3):
        for index in range(4):
            deploy(f"d{number}-{index}")
        fleet.make(int(time.time()))
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert fleet.read(people.admin, count=5).total == 4 * (number + 1)
        counts.append(len(queries))
    assert counts[0] == counts[2] and counts[2] <= 12


def test_a_minute_that_was_not_made_is_a_gap_in_the_line():
    assert sparkline([1.0, 2.0, float("nan"), 4.0, 4.0])[0].count(",") == 2
    assert len(sparkline([1.0, float("nan"), 2.0])) == 2
    assert sparkline([float("nan")] * 5) == [] and len(sparkline([0.0, 0.0])) == 1


@pytest.mark.parametrize("query", [{"version": "999999"}, {"version": "two"}, {"instance": "chat-v1-x"}])
def test_a_link_to_what_is_gone_says_so_instead_of_showing_all(client, people, deploy, query):
    deploy()
    client.force_login(people.member)
    path = ["acme", "chat"]
    for name in ("data", "csv", "monitoring"):
        answer = client.get(reverse(f"monitoring:{name}", args=path), query)
        assert answer.status_code == 422, name
    said = client.get(reverse("monitoring:data", args=path), query).json()["error"]
    assert "version" in said.lower() or "instance" in said.lower()
