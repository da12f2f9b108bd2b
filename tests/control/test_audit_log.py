"""The audit log: what enters it, from where, and who may read it."""

import re

import pytest
from django.urls import reverse
from django.utils import timezone

from accounts import audit
from accounts.models import AuditEntry
from deployments.models import Deployment
from tests.conftest import sign_in

pytestmark = pytest.mark.django_db(transaction=True)
URL = "/console/audit/"


@pytest.fixture
def deployment(deploy) -> Deployment:
    return deploy()


def test_a_change_is_told_with_its_values_and_where_it_came_from(client, people, deployment):
    client.force_login(people.admin)
    access = reverse("deployments:access", args=["acme", "chat"])
    client.post(access, {"access": "key_only", "sharing": "specific", "shared_with": [people.theirs.pk]}, REMOTE_ADDR="10.1.2.3")  # fmt: skip
    entry = AuditEntry.objects.latest("pk")
    assert (entry.actor, entry.source, entry.organization) == (people.admin, "10.1.2.3", people.ours)
    page = client.get(URL).content.decode()
    for words in ("10.1.2.3", "public → key_only", "none → specific", "– → other", "admin", "Deployment"):
        assert words in page, words


def test_a_forged_header_is_not_where_it_came_from(client, people, deployment):
    client.force_login(people.admin)
    client.post(reverse("deployments:access", args=["acme", "chat"]), {"access": "key_only", "sharing": "none"}, headers={"x-forwarded-for": "6.6.6.6"})  # fmt: skip
    assert AuditEntry.objects.latest("pk").source == "127.0.0.1"


def test_what_slipway_does_by_itself_comes_from_nowhere(people):
    audit.record(actor=None, action="update", thing=people.ours)
    entry = AuditEntry.objects.latest("pk")
    assert (entry.actor_label, entry.source) == ("Slipway", "")


def test_admins_read_of_their_own_organizations_and_members_nothing(client, people, deployment):
    audit.record(actor=people.operator, action="update", thing=people.theirs, organization_id=people.theirs.pk)
    audit.record(actor=people.operator, action="update", thing=people.operator)
    client.force_login(people.operator)
    everything = client.get(URL).content.decode()
    assert "Other" in everything and "chat" in everything
    client.force_login(people.admin)
    own = client.get(URL).content.decode()
    assert "chat" in own and "Other" not in own
    client.force_login(people.stranger)
    assert "chat" not in client.get(URL).content.decode()
    client.force_login(people.member)
    assert client.get(URL).status_code == 404


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"search": "chat"}, True),
        ({"search": "operator"}, True),
        ({"search": "no such thing"}, False),
        ({"search": "100%_\0"[:5]}, False),
        ({"kind": "deployment"}, True),
        ({"kind": "apikey"}, False),
        ({"since": "today", "until": "today"}, True),
        ({"until": "2020-01-01"}, False),
        ({"since": "2026-99-99"}, True),
        ({"before": "9" * 30}, True),
        ({"before": "0"}, False),
        ({"until": "9999-12-31"}, True),
    ],
)
def test_the_log_is_searched_and_bad_filters_do_no_harm(client, people, deployment, query, found):
    client.force_login(people.operator)
    today = timezone.localdate().isoformat()
    answer = client.get(URL, {name: today if value == "today" else value for name, value in query.items()})
    rows = re.findall(r'class="cell-name">.*?chat', answer.content.decode(), re.DOTALL)
    assert answer.status_code == 200 and bool(rows) is found


def test_a_long_log_is_read_page_by_page(client, people, django_assert_max_num_queries):
    AuditEntry.objects.bulk_create(
        [AuditEntry(actor_label="script", action="update", object_type="model", object_id=str(number), object_label=f"model {number}") for number in range(130)]
    )  # fmt: skip
    sign_in(client, people.operator)
    seen, url = [], f"{URL}?search=script"
    while url:
        with django_assert_max_num_queries(7):
            page = client.get(url).content.decode()
        seen += re.findall(r"model (\d+)\b", page)
        older = re.search(r'href="(\?before=\d+[^"]*)"', page)
        url = URL + older[1].replace("&amp;", "&") if older else None
    assert [int(number) for number in seen] == list(range(129, -1, -1))
