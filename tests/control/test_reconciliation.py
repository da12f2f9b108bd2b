"""Gateways' tokens beside the engines' own: what is compared, what explains a difference, and who may see it."""

import csv
import io
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.db import connection
from django.urls import reverse

from common.request_outcomes import CANCELLED, LEFT, UNTOLD
from deployments.models import Instance
from gateway.books.meter import MOST_OF_ONE, Meter
from gateway.books.request_ids import request_id
from monitoring import engine_tokens, ingest, reconciliation
from monitoring.models import CpuReading, EngineHour, UsageMinute
from runtimes.engines.metrics import EngineSample, parse
from tests.conftest import sign_in
from tests.records import records

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
NOW = int(HOUR.timestamp()) + 1800


@pytest.fixture(autouse=True)
def _empty_tables(db):
    with connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE monitoring_usage_minute, monitoring_usage_day, monitoring_enginehour, monitoring_notable_request"
        )


def instance(deployment, uid: str = "a" * 32, *, age_s: float = 3600) -> Instance:
    started = datetime.fromtimestamp(NOW - age_s, UTC)
    return Instance.objects.create(
        version=deployment.versions.get(),
        uid=uid,
        name=uid[:8],
        generation=1,
        phase="ready",
        started_at=started - timedelta(minutes=5),
        ready_at=started,
    )


def read(found: Instance, told: tuple[float, float] | None, before: tuple[float, float] | None) -> list[int]:
    """[input, output] that the engine has counted since its last reading."""
    sample = EngineSample(input_tokens=told[0], output_tokens=told[1]) if told else EngineSample(running=1)
    last = (
        {found.uid: CpuReading(instance_uid=found.uid, input_tokens=before[0], output_tokens=before[1])}
        if before
        else {}
    )
    growth = engine_tokens.growths([(found, sample)], last, NOW).get(found)
    return [growth.input_tokens, growth.output_tokens] if growth else []


def test_what_an_engine_has_counted_since_its_last_reading(deploy):
    old, new = instance(deploy()), instance(deploy("other"), "b" * 32, age_s=20)
    assert read(old, (130, 55), (100, 50)) == [30, 5]
    assert read(old, (100, 50), (100, 50)) == []
    assert read(old, (7, 3), (100, 50)) == [7, 3], "it restarted and counts from zero"
    assert read(old, (900, 800), None) == [], "nobody knows in which hour"
    assert read(new, (9, 8), None) == [9, 8]
    starting = {new.uid: CpuReading(instance_uid=new.uid)}
    growth = engine_tokens.growths([(new, EngineSample(input_tokens=9, output_tokens=8))], starting, NOW)[new]
    assert (growth.input_tokens, growth.output_tokens) == (9, 8), "it was looked at while it loaded"
    assert read(old, (1e15, 50), (100, 50)) == [], "nothing counts like that"
    assert read(old, None, (100, 50)) == [], "an engine that tells no tokens"


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (
            'vllm:prompt_tokens_total{model_name="m"} 12.0\nvllm:generation_tokens_total{model_name="m"} 34.0\n',
            (12, 34),
        ),
        (
            'vllm:prompt_tokens_total{engine="0"} 1\nvllm:prompt_tokens_total{engine="1"} 2\nvllm:generation_tokens_total{engine="0"} 3\n',
            (3, 3),
        ),
        (
            "llamacpp:prompt_tokens_total 12\nllamacpp:tokens_predicted_total 34\nllamacpp:prompt_tokens_seconds 9\n",
            (12, 34),
        ),
        (
            'sglang:prompt_tokens_total{model_name="m"} 12\nsglang:generation_tokens_total{model_name="m"} 34\n',
            (12, 34),
        ),
        ("prompt_tokens_total 12\ngeneration_tokens_total 34\n", (12, 34)),
        ("vllm:num_requests_running 1\n", (None, None)),
    ],
)
def test_counters_of_each_engine(page, told):
    sample = parse(page)
    assert (sample.input_tokens, sample.output_tokens) == told


def test_what_was_counted_over_the_hours_bound_belongs_to_both():
    bound = NOW // 3600 * 3600
    assert engine_tokens.spread(100, bound - 6, bound + 4) == {bound - 3600: 60, bound: 40}
    assert engine_tokens.spread(7, bound + 1, bound + 11) == {bound: 7}
    assert engine_tokens.spread(5, None, bound + 11) == {bound: 5}
    for amount in range(40):
        assert sum(engine_tokens.spread(amount, bound - 7300, bound + 1111).values()) == amount
    assert len(engine_tokens.spread(1000, bound - 7300, bound + 10)) == 4


@pytest.mark.parametrize("value", ["1e30", "1e308", "-1", "NaN", "9007199254740993"])
def test_an_engine_that_makes_up_its_counters_stops_nobodys_figures(value):
    page = f"vllm:generation_tokens_total {value}\nvllm:generation_tokens_total {value}\nvllm:num_requests_running 2\n"
    assert parse(page) == EngineSample(running=2)


def booked(deployment, *changes: dict) -> None:
    """What the gateway has of these requests, from its records to the tables."""
    whose = {
        "deployment": deployment.pk,
        "version": deployment.versions.get().pk,
        "organization": 0,
        "user": 0,
        "source": 0,
    }
    meter = Meter()
    meter.fold(records(*({"at": NOW, **whose, **change} for change in changes)))
    notable = meter.notable(lambda sequence: request_id("gw", 5, sequence))
    ingest.store("gw", f"b{UsageMinute.objects.count()}", [], meter.usage(), [], notable)


def counted(deployment, input_tokens: int, output_tokens: int, *, leaves: bool = False) -> None:
    EngineHour.objects.create(
        hour=HOUR, deployment_id=deployment.pk, version_id=deployment.versions.get().pk, input_tokens=input_tokens,
        output_tokens=output_tokens, leaves_cached_out=leaves,
    )  # fmt: skip


def hour_of(deployment) -> SimpleNamespace:
    (found,) = reconciliation.hours([deployment.pk], HOUR, HOUR + timedelta(hours=1))
    return found


def test_cached_input_is_left_out_where_the_engine_leaves_it_out(deploy):
    one, other, silent = deploy(), deploy("other"), deploy("silent")
    for deployment in (one, other, silent):
        booked(deployment, {"input_tokens": 100, "cached_tokens": 60, "output_tokens": 7})
    counted(one, 40, 7, leaves=True)
    counted(other, 100, 9)
    assert hour_of(one).agrees and hour_of(one).compared_input == 40
    assert (hour_of(other).input_difference, hour_of(other).output_difference) == (0, -2) and not hour_of(other).agrees
    assert hour_of(silent).engine_output is None and hour_of(silent).agrees, "nothing to compare with"


def test_the_requests_that_explain_a_difference(client, people, deploy):
    deployment = deploy()
    booked(
        deployment,
        {"sequence": 1},
        {"sequence": 2, "estimated": LEFT, "outcome": CANCELLED, "output_tokens": 90},
        {"sequence": 3, "at": HOUR.timestamp() + 5, "end_to_end": 60.0, "output_tokens": 50},
        {"sequence": 4, "outcome": CANCELLED, "input_tokens": 0, "output_tokens": 0},
    )
    counted(deployment, 14, 60)
    found = hour_of(deployment)
    assert (found.crossing, found.broken, found.output_difference) == (1, 1, 89)
    told = reconciliation.requests(deployment.pk, HOUR, HOUR + timedelta(hours=1))
    assert [(item.request_id, item.why) for item in told] == [
        (request_id("gw", 5, 2), "cancelled"), (request_id("gw", 5, 3), "crosses_hour"),
    ]  # fmt: skip
    sign_in(client, people.admin)
    place = reverse("monitoring:reconciliation")
    asked = {"since": f"{HOUR:%Y-%m-%dT%H:%M}", "until": f"{HOUR:%Y-%m-%dT%H:%M}"}
    page = client.get(place, asked | {"deployment": deployment.pk, "hour": f"{HOUR:%Y-%m-%dT%H:%M}"}).content.decode()
    for text in (
        "1 of 1 hour differs",
        "acme/chat",
        request_id("gw", 5, 2),
        "the caller disconnected early",
        "it started in an earlier hour",
    ):
        assert text in page, text
    (row,) = csv.DictReader(io.StringIO(client.get(reverse("monitoring:reconciliation-csv"), asked).content.decode()))
    assert (row["engine_output"], row["output_difference"], row["kept_requests_over_the_hour"]) == ("60", "89", "1")
    assert "Nothing differs" not in client.get(place, asked | {"differing": "on"}).content.decode()


def test_others_deployments_are_not_there(client, people, deploy):
    deployment = deploy()
    booked(deployment, {})
    sign_in(client, people.stranger)
    place = reverse("monitoring:reconciliation")
    assert "No tokens in this time" in client.get(place).content.decode()
    asked = {"deployment": deployment.pk, "hour": f"{HOUR:%Y-%m-%dT%H:%M}"}
    assert client.get(place, asked).status_code == 404
    sign_in(client, people.member)
    assert (
        client.get(place).status_code == 404 and client.get(reverse("monitoring:reconciliation-csv")).status_code == 404
    )


@pytest.mark.parametrize(
    ("since", "until", "says"),
    [("x", "", "is a day and an hour"), ("2026-02-01T00:00", "2026-01-01T00:00", "Swap them"), ("2020-01-01", "2026-01-01", "At most 31 days"),
     ("", "9999-12-31T23:00", "is a day and an hour"), ("2026-02-30T00:00", "", "is a day and an hour")],
)  # fmt: skip
def test_what_makes_no_sense_is_told(client, people, since, until, says):
    sign_in(client, people.operator)
    for name in ("reconciliation", "reconciliation-csv"):
        answer = client.get(reverse(f"monitoring:{name}"), {"since": since, "until": until})
        assert answer.status_code == 422 and says in answer.content.decode()


def test_a_batch_tells_of_so_many_of_each_and_no_more(deploy):
    many, few = deploy(), deploy("few")
    left = {"estimated": LEFT, "outcome": CANCELLED}
    booked(many, *({"sequence": number, "output_tokens": number, **left} for number in range(MOST_OF_ONE + 50)))
    booked(few, {"sequence": 9, "output_tokens": 1, **left}, {"sequence": 10, "estimated": UNTOLD})
    told = reconciliation.requests(many.pk, HOUR, HOUR + timedelta(hours=1))
    assert len(told) == MOST_OF_ONE and told[0].output_tokens == MOST_OF_ONE + 49
    assert hour_of(many).estimated_tokens == sum(7 + number for number in range(MOST_OF_ONE + 50)), "all are summed"
    assert len(reconciliation.requests(few.pk, HOUR, HOUR + timedelta(hours=1))) == 1, (
        "an engine that never tells is no news"
    )


def test_too_much_at_once_is_told(client, people, deploy, monkeypatch):
    booked(deploy(), {})
    monkeypatch.setattr(reconciliation, "_WITHIN", "1ms")
    monkeypatch.setattr(reconciliation, "LEDGER", "(SELECT *, pg_sleep(1) FROM monitoring_usage_minute) AS slow")
    sign_in(client, people.operator)
    for name in ("reconciliation", "reconciliation-csv"):
        answer = client.get(reverse(f"monitoring:{name}"))
        assert answer.status_code == 422 and "Choose fewer days" in answer.content.decode()
