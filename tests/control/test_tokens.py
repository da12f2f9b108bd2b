"""API tokens: what they may, until when; and pages that show a secret once."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.urls import reverse
from django.utils import timezone

from accounts.models import ApiToken, AuditEntry, Invitation
from accounts.services import create_api_token
from apikeys.models import ApiKey

pytestmark = pytest.mark.django_db(transaction=True)


def call(client, secret: str, method: str = "get", address: str = "/api/v1/models/", **data):
    return getattr(client, method)(
        address, data, content_type="application/json", headers={"authorization": f"Bearer {secret}"}
    )


def test_a_token_is_good_for_its_lifetime_and_can_be_renewed(client, people):
    client.force_login(people.member)
    page = client.post(reverse("accounts:tokens"), {"label": "nightly", "scope": "deploy", "days": "30"})
    secret = re.search(r'data-testid="new-token">(slt_[^<]+)<', page.content.decode())[1]
    token = ApiToken.objects.get()
    assert timedelta(days=29) < token.expires_at - timezone.now() < timedelta(days=30)
    client.logout()
    assert call(client, secret).status_code == 200
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(days=1))
    refused = call(client, secret)
    assert refused.status_code == 401 and "expired on" in refused.json()["error"]["message"]
    client.force_login(people.member)
    assert "expired" in client.get(reverse("accounts:tokens")).content.decode()
    answer = client.post(reverse("accounts:renew-token", args=[token.pk]), follow=True)
    assert "nightly is good until" in answer.content.decode()
    assert AuditEntry.objects.latest("pk").changes["expires_at"][1] == f"{timezone.now() + timedelta(days=30):%Y-%m-%d}"
    client.logout()
    assert call(client, secret).status_code == 200


def test_one_that_may_only_read_changes_nothing(client, people):
    _, secret = create_api_token(people.admin, "dashboard", scope="read")
    assert call(client, secret).status_code == 200
    refused = call(client, secret, "post", name="m", organization="acme", source="custom")
    assert refused.status_code == 403 and "may only read" in refused.json()["error"]["message"]
    assert call(client, create_api_token(people.admin, "b")[1], "post", name="m", organization="acme", source="custom").status_code == 201  # fmt: skip


@pytest.mark.parametrize("values", [{"scope": "all"}, {"days": "0"}, {"days": "9999999"}, {"days": "x"}, {"label": ""}])
def test_what_makes_no_sense_is_told(client, people, values):
    client.force_login(people.member)
    answer = client.post(reverse("accounts:tokens"), {"label": "x", "scope": "read", "days": "7"} | values)
    assert answer.status_code == 422 and not ApiToken.objects.exists()


def test_reloading_what_shows_a_secret_makes_no_other_one(client, people, deploy):
    """The form is sent again as it was; the next form, and one that was refused, are others."""
    deploy()
    client.force_login(people.admin)
    key = {"name": "k", "organization": people.ours.pk, "scope": "user", "expires": "30", "csrfmiddlewaretoken": "a"}
    for address, values, kind in (
        (reverse("accounts:tokens"), {"label": "x", "csrfmiddlewaretoken": "a"}, ApiToken),
        (
            reverse("organization-invite", args=["acme"]),
            {"label": "Ada", "role": "member", "csrfmiddlewaretoken": "a"},
            Invitation,
        ),
        (reverse("apikeys:new"), key, ApiKey),
    ):
        first = client.post(address, values)
        assert (first.status_code, first["Cache-Control"]) == (200, "no-store"), first.content.decode()
        again = client.post(address, values, follow=True)
        assert "was done when the page was first shown" in again.content.decode()
        assert kind.objects.count() == 1
        assert client.post(address, values | {"csrfmiddlewaretoken": "b"}).status_code == 200
        assert kind.objects.count() == 2
    refused = {"label": "", "csrfmiddlewaretoken": "c"}
    assert [client.post(reverse("accounts:tokens"), refused).status_code for _ in range(2)] == [422, 422]


def test_tokens_of_earlier_builds_end_ninety_days_after_the_upgrade(transactional_db):
    executor = MigrationExecutor(connection)
    executor.migrate([("accounts", "0003_invitation")])
    apps = MigrationExecutor(connection).loader.project_state([("accounts", "0003_invitation")]).apps
    user = apps.get_model("accounts", "User").objects.create(username="ann")
    apps.get_model("accounts", "ApiToken").objects.create(user=user, label="old", digest=b"x", prefix="slt_x")
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    token = ApiToken.objects.get()
    assert timedelta(days=89) < token.expires_at - timezone.now() < timedelta(days=90) and token.scope == "deploy"


def test_what_failed_in_between_was_not_done(client, people, monkeypatch):
    """The form can be sent again: nothing was made when the page broke off."""
    client.force_login(people.member)
    client.raise_request_exception = False
    form = {"label": "x", "csrfmiddlewaretoken": "a"}
    with monkeypatch.context() as broken:
        broken.setattr("accounts.services.create_api_token", lambda *args, **kwargs: 1 / 0)
        assert client.post(reverse("accounts:tokens"), form).status_code == 500
    assert client.post(reverse("accounts:tokens"), form).status_code == 200 and ApiToken.objects.count() == 1
