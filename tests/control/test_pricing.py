"""Prices: dated, never changed once they have begun, refused with the reason when they make no sense."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.urls import reverse
from django.utils import timezone

from accounts.models import AuditEntry
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Deployment, Price
from deployments.services.pricing import current_price, set_price, withdraw_price
from gateway.routing.directory import read_snapshot

pytestmark = pytest.mark.django_db(transaction=True)
PATH = ["acme", "chat"]


@pytest.fixture
def deployment(deploy) -> Deployment:
    return deploy()


def later(**ahead) -> str:
    return (timezone.now() + timedelta(**ahead)).strftime("%Y-%m-%dT%H:%M")


def test_a_price_begins_with_the_next_minute_and_is_shown(client, people, deployment):
    version = read_snapshot().version
    assert not read_snapshot().targets[0].counts_tokens
    client.force_login(people.admin)
    url = reverse("deployments:pricing", args=PATH)
    before = timezone.now()
    answer = client.post(url, {"currency": "EUR", "input_price": "0.15", "output_price": "0.6"}, follow=True)
    price = Price.objects.get()
    assert read_snapshot().targets[0].counts_tokens and read_snapshot().version > version
    assert before < price.since <= timezone.now() + timedelta(seconds=66) and price.since.second == 0
    page = answer.content.decode()
    assert "to come" in page and "0.15" in page and f"{price.since:%Y-%m-%d %H:%M}" in page
    assert current_price(deployment) is None, "not yet"
    assert current_price(deployment, price.since) == price
    assert AuditEntry.objects.latest("pk").changes["price"][1].startswith("0.15 / 0.6 EUR")
    Price.objects.update(since=before - timedelta(minutes=1))
    page = client.get(reverse("deployments:settings", args=PATH)).content.decode()
    assert "in force" in page and "Now 0.15 EUR a million input tokens, 0.6 EUR" in page
    assert '<option value="EUR" selected>' in page


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"currency": "EUR", "input_price": "123456789012"}, "input_price", "8 digits before"),
        ({"currency": "EUR", "input_price": "0.0000001"}, "input_price", "6 decimal places"),
        ({"currency": "EUR", "output_price": "-1"}, "output_price", "greater than or equal to 0"),
        ({"currency": "EUR", "output_price": "NaN"}, "output_price", "Enter a number"),
        ({"currency": "EUR", "output_price": "1e400"}, "output_price", "digits"),
        ({"currency": "EUR", "input_price": "a lot"}, "input_price", "Enter a number"),
        ({"currency": "DOGE", "input_price": "1"}, "currency", "Select a valid choice"),
        ({"currency": "XAU", "input_price": "1"}, "currency", "Select a valid choice"),
        ({"currency": "", "input_price": "1"}, "currency", "Choose the currency"),
        ({"currency": "EUR", "input_price": "1", "since": "2020-01-01T00:00"}, "since", "has passed"),
        ({"currency": "EUR", "input_price": "1", "since": "2999-01-01T00:00"}, "since", "five years"),
        ({"currency": "EUR"}, "input_price", "at least one amount"),
        ({"currency": "EUR", "since": "tomorrow"}, "since", "Enter a valid date"),
    ],
)
def test_a_bad_price_is_told_at_its_field_and_nothing_is_saved(client, people, deployment, values, field, message):
    client.force_login(people.admin)
    answer = client.post(reverse("deployments:pricing", args=PATH), values)
    page = answer.content.decode()
    assert answer.status_code == 422 and message in page
    assert f'id="id_{field}_error"' in page
    assert not Price.objects.exists()


def test_one_that_has_not_begun_is_replaced_or_withdrawn_and_one_that_has_is_neither(client, people, deployment):
    client.force_login(people.admin)
    url = reverse("deployments:pricing", args=PATH)
    moment = later(days=1)
    for amount in ("1", "2"):
        client.post(url, {"currency": "USD", "input_price": amount, "since": moment})
    price = Price.objects.get()
    assert price.input_price == 2, "two clicks, one price"
    client.post(reverse("deployments:withdraw-price", args=[*PATH, price.pk]))
    assert not Price.objects.exists()
    client.post(url, {"currency": "USD", "input_price": "3"})
    Price.objects.update(since=timezone.now() - timedelta(seconds=1))
    price = Price.objects.get()
    refused = client.post(reverse("deployments:withdraw-price", args=[*PATH, price.pk]), follow=True)
    assert "It has begun" in refused.content.decode() and Price.objects.get() == price


def test_free_of_charge_is_a_price_too(people, deployment):
    past = timezone.now() - timedelta(hours=1)
    Price.objects.create(deployment=deployment, since=past, currency="EUR", input_price=5)
    set_price(deployment, "", Decimal(0), Decimal(0), actor=people.admin)
    free = Price.objects.first()
    assert current_price(deployment, free.since).currency == "" and current_price(deployment).currency == "EUR"


def test_only_managers_set_and_withdraw_prices(client, people, deployment):
    price = set_price(deployment, "EUR", Decimal(1), Decimal(1), actor=people.admin)
    for user in (people.member, people.stranger):
        client.force_login(user)
        assert client.post(reverse("deployments:pricing", args=PATH), {"currency": "EUR"}).status_code == 404
        assert client.post(reverse("deployments:withdraw-price", args=[*PATH, price.pk])).status_code == 404
        with pytest.raises(ForbiddenError):
            set_price(deployment, "EUR", Decimal(1), Decimal(1), actor=user)
        with pytest.raises(ForbiddenError):
            withdraw_price(price, actor=user)
    with pytest.raises(ServiceError, match="no currency"):
        set_price(deployment, "QQQ", Decimal(1), Decimal(1), actor=people.admin)
    with pytest.raises(ServiceError, match="at most"):
        set_price(deployment, "EUR", Decimal(10**9), Decimal(1), actor=people.admin)


def test_a_price_outlives_its_deployment(people, deployment):
    set_price(deployment, "EUR", Decimal(1), Decimal(1), actor=people.admin)
    deployment.versions.all().delete()
    deployment.delete()
    assert Price.objects.count() == 1, "what was running is booked after the deletion"


def test_gateways_tell_the_price_in_force_and_what_serves(people, deployment):
    (before,) = read_snapshot().targets
    assert (
        before.price == () and before.served_name == "acme/chat" and before.kinds == ("chat", "completion", "embedding")
    )
    Price.objects.create(
        deployment=deployment, since=timezone.now() - timedelta(days=2), currency="EUR", input_price=1, output_price=2
    )
    Price.objects.create(
        deployment=deployment, since=timezone.now() - timedelta(days=1), currency="USD", input_price="0.50"
    )
    Price.objects.create(deployment=deployment, since=timezone.now() + timedelta(days=1), currency="JPY", input_price=9)
    (target,) = read_snapshot().targets
    assert target.price == ("USD", "0.5", "0") and target.version_number == 1
