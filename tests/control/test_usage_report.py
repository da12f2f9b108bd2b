"""Usage and costs: what the ledger tells, to whom, and that a new price leaves the past alone."""

import csv
import io
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.urls import reverse

from accounts.models import Member, User
from accounts.services import add_member, create_organization, set_time_zone
from apikeys.services import create_key
from common.request_outcomes import API, BROKEN, CANCELLED, FAILED, LEFT, UNTOLD
from deployments.models import Deployment, Price, Version
from deployments.services.deployments import delete_deployment
from gateway.books.meter import Meter
from monitoring import ingest, usage
from monitoring.models import DeploymentName, UsageDay, UsageMinute
from monitoring.usage import Question, Scope
from tests.conftest import sign_in, simulator
from tests.records import records

pytestmark = pytest.mark.django_db(transaction=True)
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
WEEK = Question((NOON - timedelta(days=6)).date(), (NOON + timedelta(days=1)).date())
_numbers = iter(range(1_000_000))


@pytest.fixture(autouse=True)
def _empty_tables(db):
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE monitoring_usage_minute, monitoring_usage_day")


@pytest.fixture
def deployment(deploy) -> Deployment:
    return deploy()


def used(deployment, *, at: datetime = NOON, **values) -> dict:
    """A row of a batch: a thousand tokens in, two thousand out, of nobody known."""
    outcomes = dict.fromkeys(("completed", "failed", "cancelled", "rejected", "expired"), 0) | {"completed": 1}
    return {
        "minute": int(at.timestamp()) // 60 * 60, "deployment_id": getattr(deployment, "pk", deployment), "organization_id": 0,
        "user_id": 0, "key_id": 0, "key_label": "", "source": "api", "input_tokens": 1000, "output_tokens": 2000,
        "estimated_tokens": 0, **outcomes, **values,
    }  # fmt: skip


def store(*rows: dict) -> None:
    ingest.store("gw", f"batch-{next(_numbers)}", [], list(rows), [])


def priced(deployment, currency: str, amounts: tuple[str, str], since: datetime) -> Price:
    return Price.objects.create(
        deployment=deployment, since=since, currency=currency, input_price=amounts[0], output_price=amounts[1]
    )


def test_costs_are_exact_and_of_the_minute_in_which_the_tokens_were_used(deployment):
    priced(deployment, "EUR", ("0.15", "0.6"), NOON)
    priced(deployment, "USD", ("99999999.999999", "0.000001"), NOON + timedelta(minutes=1))
    priced(deployment, "", ("0", "0"), NOON + timedelta(minutes=2))
    store(*[used(deployment, at=NOON + timedelta(seconds=seconds)) for seconds in (-1, 0, 59, 60, 119, 120)])
    by_minute = {(row.minute - NOON).total_seconds(): (row.currency, row.cost) for row in UsageMinute.objects.all()}
    assert by_minute == {
        -60.0: ("", 0),
        0.0: ("EUR", Decimal("0.0027")),
        60.0: ("USD", Decimal("199999.999999998") + Decimal("0.000000004")),
        120.0: ("", 0),
    }
    days = {row.currency: (row.completed, row.cost) for row in UsageDay.objects.all()}
    assert days["EUR"] == (2, Decimal("0.0027")) and days[""][0] == 2
    assert days["USD"] == (2, Decimal("200000.000000002") - Decimal("0.00000000")), "no digit of it is rounded away"


def test_cached_input_costs_its_own_price_and_as_other_input_where_it_has_none(deployment):
    priced(deployment, "EUR", ("10", "0"), NOON)
    Price.objects.create(
        deployment=deployment, since=NOON + timedelta(minutes=1), currency="EUR", input_price=10, cached_price=1
    )
    Price.objects.create(
        deployment=deployment, since=NOON + timedelta(minutes=2), currency="EUR", input_price=10, cached_price=0
    )
    store(*[used(deployment, at=NOON + timedelta(minutes=number), cached_tokens=600) for number in range(3)])
    costs = [row.cost for row in UsageMinute.objects.order_by("minute")]
    assert costs == [Decimal("0.01"), Decimal("0.0046"), Decimal("0.004")]
    assert [row.cached_tokens for row in UsageMinute.objects.all()] == [600] * 3


def test_kinds_of_tokens_and_why_some_were_estimated(client, people, deployment):
    """From the gateway's records to the page and the CSV. The first batch is one of the release before."""
    store(used(deployment, estimated_tokens=300))
    meter = Meter()
    whose = {"deployment": deployment.pk, "organization": 0, "user": 0, "source": API, "at": NOON.timestamp()}
    meter.fold(
        records(
            whose | {"cached_tokens": 3, "reasoning_tokens": 4, "audio_tokens": 2, "search_units": 1},
            whose | {"estimated": UNTOLD},
            whose | {"estimated": LEFT, "outcome": CANCELLED},
            whose | {"estimated": BROKEN, "outcome": FAILED},
        )
    )
    ingest.store("gw", "kinds", [], meter.usage(), [])
    (row,) = UsageDay.objects.all()
    assert (row.input_tokens, row.output_tokens, row.estimated_tokens) == (1028, 2036, 348)
    assert (row.cached_tokens, row.reasoning_tokens, row.audio_tokens, row.search_units) == (3, 4, 2, 1)
    assert (row.estimated_untold, row.estimated_cancelled, row.estimated_failed) == (16, 16, 16)
    sign_in(client, people.operator)
    asked = {"since": str(WEEK.first), "until": str(WEEK.last), "by": "day"}
    page = client.get(reverse("monitoring:usage"), asked).content.decode()
    for text in ("11.4 %", "16: the caller disconnected early", "300: recorded before reasons were kept", "3 cached"):
        assert text in page, text
    head, *lines = client.get(reverse("monitoring:usage-csv"), asked).content.decode().splitlines()
    (day,) = [line for line in lines if line.startswith(str(NOON.date()))]
    told = dict(zip(head.split(","), day.split(","), strict=True))
    assert (told["cached_tokens"], told["search_units"], told["estimated_cancelled"]) == ("3", "1", "16")


def test_days_are_the_payers_and_sums_agree_for_every_range(people, deployment):
    """Kathmandu's midnight is 18:15 UTC, Apia's 11:00, Los Angeles' 8:00 of the next day; the owner's is public callers'."""
    zones = {people.ours: "America/Los_Angeles", people.theirs: "Asia/Kathmandu"}
    for organization, zone in zones.items():
        set_time_zone(organization, zone, actor=people.operator)
    start = datetime(2026, 3, 7, tzinfo=UTC)
    # Daylight saving time begins in Los Angeles on the eighth, a day of 23 hours.
    for quarter in range(4 * 24 * 4):
        at = start + timedelta(minutes=15 * quarter)
        pays = (0, people.ours.pk, people.theirs.pk)[quarter % 3]
        store(used(deployment, at=at, organization_id=pays, input_tokens=quarter, output_tokens=1))
    for organization, zone in ((0, zones[people.ours]), *((item.pk, zone) for item, zone in zones.items())):
        expected: dict[date, int] = {}
        for row in UsageMinute.objects.filter(organization_id=organization):
            day = row.minute.astimezone(ZoneInfo(zone)).date()
            expected[day] = expected.get(day, 0) + row.input_tokens
        booked = UsageDay.objects.filter(organization_id=organization).values_list("day", "input_tokens")
        assert dict(booked) == expected, zone
    whole = usage.report(Scope(), Question(date(2026, 3, 5), date(2026, 3, 12), "day"), people.operator)
    for first in range(5, 13):
        for last in range(first, 13):
            asked = Question(date(2026, 3, first), date(2026, 3, last), "deployment")
            by_day = [line.tokens for line in whole.lines if str(asked.first) <= line.name <= str(asked.last)]
            assert usage.report(Scope(), asked, people.operator).total.tokens == sum(by_day)
    assert whole.total.tokens == sum(range(384)) + 384


def test_a_changed_zone_leaves_what_is_booked_in_its_day(client, people, deployment):
    at = datetime(2026, 3, 7, 23, 30, tzinfo=UTC)
    mine = {"organization_id": people.ours.pk}
    store(used(deployment, at=at, **mine))
    sign_in(client, people.admin)
    change = reverse("organization-time-zone", args=["acme"])
    said = client.post(change, {"time_zone": "Europe/Berlin"}, follow=True).content.decode()
    assert "Billing days follow Europe/Berlin from now on" in said
    assert (
        "Choose a time zone from the list"
        in client.post(change, {"time_zone": "Mars/Olympus"}, follow=True).content.decode()
    )
    store(used(deployment, at=at, **mine))
    assert [(str(row.day), row.completed) for row in UsageDay.objects.order_by("day")] == [
        ("2026-03-07", 1),
        ("2026-03-08", 1),
    ]
    page = client.get(
        reverse("monitoring:usage"), {"since": "2026-03-07", "until": "2026-03-08", "by": "day"}
    ).content.decode()
    assert "2026-03-07 to 2026-03-08, days in Europe/Berlin" in page
    lines = (
        client.get(reverse("monitoring:usage-csv"), {"since": "2026-03-07", "until": "2026-03-08"})
        .content.decode()
        .splitlines()
    )
    assert lines[0].endswith("days_in") and all("Europe/Berlin" in line for line in lines[1:])


def test_a_new_price_changes_nothing_that_was(deployment):
    priced(deployment, "EUR", ("1", "1"), NOON - timedelta(days=3))
    store(used(deployment))
    before = UsageMinute.objects.get().cost
    priced(deployment, "USD", ("50", "50"), NOON + timedelta(minutes=1))
    # A gateway whose database was away comes late with what was used before.
    store(used(deployment))
    row = UsageMinute.objects.get()
    assert (row.currency, row.cost) == ("EUR", 2 * before)


def test_what_ran_when_a_deployment_was_deleted_is_booked_at_its_price_and_under_its_name(people, deployment):
    priced(deployment, "EUR", ("1", "0"), NOON - timedelta(days=1))
    store(used(deployment))
    Version.objects.update(status="stopped", desired_state="stopped")
    delete_deployment(deployment, actor=people.operator)
    store(
        used(
            deployment.pk or 1, at=NOON + timedelta(minutes=5), deployment_id=UsageMinute.objects.first().deployment_id
        )
    )
    found = usage.report(Scope.of_manager(people.admin), WEEK, people.admin)
    assert [(line.name, line.requests, line.costs["EUR"]) for line in found.lines] == [
        ("acme/chat", 2, Decimal("0.002"))
    ]


class TestReport:
    @pytest.fixture(autouse=True)
    def _ledger(self, people, deploy):
        self.chat = deploy(specification=_labelled("search"))
        self.embed = deploy("embed", specification=_labelled("ads"))
        self.friends = create_organization("friends", "Friends")
        self.friend = User.objects.create(username="friend")
        add_member(self.friends, self.friend, Member.Role.ADMIN)
        key, _ = create_key(people.member, people.ours, "notebook")
        self.key = key
        priced(self.chat, "EUR", ("1", "1"), NOON - timedelta(days=5))
        priced(self.embed, "USD", ("2", "0"), NOON - timedelta(days=5))
        mine = {
            "organization_id": people.ours.pk,
            "user_id": people.member.pk,
            "key_id": key.pk,
            "key_label": "notebook",
        }
        theirs = {"organization_id": self.friends.pk, "user_id": self.friend.pk, "key_id": 999_999, "key_label": "gone"}
        store(
            used(self.chat, **mine), used(self.chat, at=NOON - timedelta(days=1), **mine), used(self.embed, **theirs),
            used(self.chat, completed=0, rejected=7, input_tokens=0, output_tokens=0), used(self.chat, source="console"),
        )  # fmt: skip

    def lines(self, by: str, reader, scope: Scope | None = None, **question) -> dict[str, usage.Line]:
        asked = Question(WEEK.first, WEEK.last, by, **question)
        return {line.name: line for line in usage.report(scope or Scope.of_manager(reader), asked, reader).lines}

    def test_by_everything_each_currency_apart(self, people):
        chat = self.lines("deployment", people.operator)["acme/chat"]
        assert (chat.requests, chat.refused, chat.input_tokens, chat.output_tokens) == (3, 7, 3000, 6000)
        assert dict(chat.costs) == {"EUR": Decimal("0.009")}
        total = usage.report(Scope(), WEEK, people.operator)
        assert total.currencies == ["EUR", "USD"] and total.total.costs["USD"] == Decimal("0.002")
        assert set(self.lines("model", people.operator)) == {"A model"}
        assert {name: line.tokens for name, line in self.lines("label", people.operator, label="team").items()} == {
            "search": 9000, "ads": 3000,
        }  # fmt: skip
        assert set(self.lines("label", people.operator, label="other")) == {"without “other”"}
        assert set(self.lines("organization", people.operator)) == {"Acme", "Friends", "public"}
        assert set(self.lines("user", people.operator)) == {"member", "friend", "public"}
        assert set(self.lines("key", people.operator)) == {
            f"notebook (no. {self.key.pk})", "gone (no. 999999)", "without a key",
        }  # fmt: skip
        days = self.lines("day", people.operator)
        assert len(days) == 8 and days[str(NOON.date())].requests == 3 and days[str(WEEK.first)].requests == 0

    def test_who_sees_what(self, people):
        assert self.lines("deployment", people.stranger) == {}
        assert set(self.lines("organization", people.admin)) == {"Acme", "Friends", "public"}, (
            "of their deployments: all callers"
        )
        assert set(self.lines("user", people.admin)) == {"member", usage.FOREIGN, "public"}
        assert set(self.lines("deployment", self.friend)) == {"acme/embed"}, (
            "what the friend's organization used elsewhere"
        )
        assert set(self.lines("deployment", people.member, Scope.of_user(people.member))) == {"acme/chat"}

    def test_two_of_the_same_name_stay_two(self, people):
        twins = [create_organization(f"twin-{number}", "Research") for number in (1, 2)]
        for twin in twins:
            store(used(self.chat, organization_id=twin.pk, completed=2))
        lines = self.lines("organization", people.operator)
        assert {f"Research (no. {twin.pk})" for twin in twins} <= set(lines)
        asked = Question(WEEK.first, WEEK.last, "organization")
        assert set(usage.by_day(Scope(), asked, people.operator, "tokens")) == set(lines)

    def test_foreign_keys_and_labels_are_not_told(self, client, people):
        store(
            used(
                self.chat, organization_id=self.friends.pk, user_id=self.friend.pk, key_id=888, key_label="Ada's laptop"
            )
        )
        assert "a key of Friends (no. 888)" in self.lines("key", people.admin)
        assert "Ada's laptop (no. 888)" in self.lines("key", people.operator)
        assert usage.label_keys(Scope.of_user(people.member)) == []
        assert usage.label_keys(Scope.of_manager(people.admin)) == ["team"]
        assert usage.label_keys(Scope.of_manager(people.stranger)) == []
        client.force_login(people.stranger)
        assert "team" not in client.get(reverse("monitoring:own-usage")).content.decode()

    def test_a_deployment_that_is_deleted_before_its_first_batch_is_its_owners(self, people):
        pk = self.embed.pk
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM monitoring_deploymentname")
        Version.objects.update(status="stopped", desired_state="stopped")
        delete_deployment(self.embed, actor=people.operator)
        store(used(pk, organization_id=self.friends.pk))
        assert "acme/embed" in self.lines("deployment", people.admin)

    def test_an_upgrade_names_the_deployments_that_are_there(self):
        migration = import_module("monitoring.migrations.0004_costs").Migration
        (fill,) = [
            item for item in migration.operations if "INSERT INTO monitoring_deploymentname" in getattr(item, "sql", "")
        ]
        known = list(DeploymentName.objects.values_list())
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM monitoring_deploymentname")
            cursor.execute(fill.sql)
        assert sorted(DeploymentName.objects.values_list(), key=str) == sorted(known, key=str) and len(known) == 2

    def test_curves_of_the_chart_add_up_to_the_table(self, people):
        for by in usage.BY:
            asked = Question(WEEK.first, WEEK.last, by, "team")
            lines = usage.report(Scope(), asked, people.operator).total
            for measure, expected in (("requests", lines.requests), ("tokens", lines.tokens), ("EUR", 0.009)):
                curves = usage.by_day(Scope(), asked, people.operator, measure)
                assert sum(map(sum, curves.values())) == pytest.approx(expected), (by, measure)
                assert all(len(curve) == 8 for curve in curves.values())

    def test_many_are_drawn_as_others(self, people):
        store(*[used(self.chat, key_id=1000 + number, key_label=f"k{number}") for number in range(20)])
        curves = usage.by_day(Scope(), Question(WEEK.first, WEEK.last, "key"), people.operator, "tokens")
        assert len(curves) == usage.CURVES + 1 and list(curves)[-1] == usage.OTHERS
        assert sum(map(sum, curves.values())) == 12_000 + 20 * 3000

    def test_the_pages(self, client, people):
        client.force_login(people.admin)
        page = client.get(reverse("monitoring:usage"), {"by": "key"}).content.decode()
        assert "notebook (no." in page and "0.009 EUR" in page and "0.002 USD" in page and "and 7 refused" in page
        chart = client.get(reverse("monitoring:usage-chart"), {"by": "key", "measure": "EUR"}).json()
        assert chart["charts"]["usage"]["figure"]["data"]
        client.force_login(people.member)
        assert client.get(reverse("monitoring:usage")).status_code == 404
        own = client.get(reverse("monitoring:own-usage")).content.decode()
        assert "acme/chat" in own and "acme/embed" not in own and "0.006 EUR" in own
        absent = client.get(reverse("monitoring:own-usage-chart"), {"measure": "USD"}).json()
        assert absent["charts"]["usage"] == {"absent": "Nothing was used in this time."}

    def test_csv_has_everything_and_no_formulas(self, client, people):
        self.key.name = "=HYPERLINK(1)"
        store(used(self.chat, key_id=77, key_label="=HYPERLINK(1)"))
        client.force_login(people.operator)
        answer = client.get(reverse("monitoring:usage-csv"), {"by": "key"})
        rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
        assert "attachment" in answer["Content-Disposition"]
        assert {row["key"] for row in rows} >= {"'=HYPERLINK(1) (no. 77)", f"notebook (no. {self.key.pk})"}
        mine = next(row for row in rows if row["key"].startswith("notebook"))
        assert Decimal(mine["cost_EUR"]) == Decimal("0.006") and mine["cost_USD"] == ""

    @pytest.mark.parametrize(
        ("question", "message"),
        [
            ({"since": "yesterday"}, "“From” is a day"),
            ({"until": "2026-02-30"}, "“To” is a day"),
            ({"since": "2026-03-02", "until": "2026-03-01"}, "Swap them"),
            ({"since": "2020-01-01", "until": "2026-01-01"}, "At most 366 days"),
            ({"since": "0001-01-01"}, "“From” is a day"),
            ({"until": "9999-12-31"}, "“To” is a day"),
        ],
    )
    def test_a_bad_question_is_told(self, client, people, question, message):
        client.force_login(people.operator)
        answer = client.get(reverse("monitoring:usage"), question)
        assert answer.status_code == 422 and message in answer.content.decode()
        assert client.get(reverse("monitoring:usage-csv"), question).status_code == 422
        assert client.get(reverse("monitoring:usage-chart"), question | {"measure": "\0"}).status_code == 200

    def test_odd_choices_are_harmless(self, client, people):
        client.force_login(people.operator)
        for question in ({"by": "secret"}, {"by": "label", "label": "\0' OR 1"}, {"measure": "GOLD"}):
            assert client.get(reverse("monitoring:usage"), question).status_code == 200

    def test_a_report_takes_a_fixed_number_of_queries(self, client, people, django_assert_max_num_queries):
        store(
            *[used(10_000 + number, organization_id=number, user_id=number, key_id=number) for number in range(1, 600)]
        )
        sign_in(client, people.operator)
        for by in usage.BY:
            with django_assert_max_num_queries(8):
                page = client.get(reverse("monitoring:usage"), {"by": by})
            assert page.status_code == 200


def _labelled(team: str):
    specification = simulator()
    return type(specification)(**{**specification.__dict__, "labels": {"team": team}})
