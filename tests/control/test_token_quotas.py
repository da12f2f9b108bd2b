"""Tokens of a month: what the ledger holds, whom gateways refuse, and when they stop."""

from datetime import UTC, date, datetime

import pytest
from django.test import Client
from django.urls import reverse

from accounts.services import set_time_zone
from deployments.models import DirectoryVersion, Quota
from deployments.services.quotas import set_quota
from gateway.routing.directory import read_snapshot
from gateway.routing.snapshot import Snapshot
from monitoring import token_quotas
from monitoring.ledger import SUMS
from monitoring.models import UsageDay

pytestmark = pytest.mark.django_db
TODAY = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _empty_ledger(db):
    UsageDay.objects.all().delete()


def used(organization, day: date, tokens: int, *, deployment: int = 1) -> None:
    sums = dict.fromkeys(SUMS, 0) | {"input_tokens": tokens // 2, "output_tokens": tokens - tokens // 2}
    UsageDay.objects.create(
        deployment_id=deployment, organization_id=organization.pk, user_id=1, key_id=1, source="api", currency="", day=day,
        key_label="", cost=0, **sums,
    )  # fmt: skip


def version() -> int:
    return DirectoryVersion.objects.get(pk=1).v


def test_an_organization_is_refused_once_its_tokens_are_used_up(people):
    set_quota(people.ours, {"tokens": 1000}, actor=people.operator)
    used(people.ours, TODAY.date().replace(day=1), 999)
    used(people.theirs, TODAY.date().replace(day=1), 5000)
    token_quotas.look(TODAY)
    assert read_snapshot().metered == {people.ours.pk} and not read_snapshot().spent
    used(people.ours, TODAY.date().replace(day=1), 1, deployment=2)
    before = version()
    token_quotas.look(TODAY)
    assert read_snapshot().spent == {people.ours.pk} and version() == before + 1
    token_quotas.look(TODAY)
    assert version() == before + 1, "nothing is written while nothing changes"


def test_what_another_month_used_does_not_count_and_a_new_month_begins_with_none(people):
    set_quota(people.ours, {"tokens": 1000}, actor=people.operator)
    used(people.ours, date(2026, 1, 31), 5000)
    token_quotas.look(datetime(2026, 1, 31, 23, 59, tzinfo=UTC))
    assert Quota.objects.get().tokens_spent_in == date(2026, 1, 1)
    assert not read_snapshot().spent, "nobody waits for the next look"
    token_quotas.look(datetime(2026, 2, 1, 0, 0, 1, tzinfo=UTC))
    assert Quota.objects.get().tokens_spent_in is None


def test_months_are_those_of_the_organizations_time_zone(people):
    set_quota(people.ours, {"tokens": 1000}, actor=people.operator)
    set_time_zone(people.ours, "Pacific/Kiritimati", actor=people.operator)
    used(people.ours, date(2026, 1, 31), 5000)
    token_quotas.look(datetime(2026, 1, 31, 9, 59, tzinfo=UTC))
    assert Quota.objects.get().tokens_spent_in == date(2026, 1, 1)
    token_quotas.look(datetime(2026, 1, 31, 10, 0, tzinfo=UTC))
    assert Quota.objects.get().tokens_spent_in is None, "it is February there"


def test_a_raised_quota_lets_go_on_at_once(people):
    set_quota(people.ours, {"tokens": 10}, actor=people.operator)
    used(people.ours, TODAY.date().replace(day=1), 11)
    token_quotas.look(TODAY)
    before = version()
    set_quota(people.ours, {"tokens": 20}, actor=people.operator)
    assert not read_snapshot().spent and version() == before + 1
    set_quota(people.ours, {"tokens": None}, actor=people.operator)
    token_quotas.look(TODAY)
    assert not read_snapshot().spent


def test_none_at_all(people):
    set_quota(people.ours, {"tokens": 0}, actor=people.operator)
    token_quotas.look(TODAY)
    assert read_snapshot().spent == {people.ours.pk}


def test_a_restarted_gateway_remembers(people, tmp_path):
    Snapshot.of(3, [], metered=[5, 7, 9], spent=[7, 9]).save(tmp_path / "snapshot")
    assert Snapshot.load(tmp_path / "snapshot", ()).spent == {7, 9}


def test_the_page_shows_them(people):
    set_quota(people.ours, {"tokens": 1000, "async_requests": 5}, actor=people.operator)
    used(people.ours, TODAY.date().replace(day=1), 250)
    client = Client()
    client.force_login(people.admin)
    card = {"HX-Request": "true"}
    page = client.get(reverse("organization-quota", args=["acme"]), headers=card).content.decode()
    assert "by calendar month (UTC)" in page and "250 of 1,000" in page and "0 of 5" in page
