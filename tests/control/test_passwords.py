"""Passwords: changed by their owners, chosen anew by links of operators."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import AuditEntry, User
from accounts.passwords import make_link
from accounts.services import set_active
from common.service_error import ForbiddenError, ServiceError

pytestmark = pytest.mark.django_db

OLD, NEW = "the-old-password-1", "a-brand-new-password-2"


@pytest.fixture
def member(people) -> User:
    cache.clear()
    people.member.set_password(OLD)
    people.member.save()
    return people.member


def signed_in(name: str, password: str) -> Client | None:
    browser = Client()
    answer = browser.post(reverse("account_login"), {"login": name, "password": password})
    return browser if answer.status_code == 302 else None


def change(browser: Client, old: str = OLD, new: str = NEW, again: str = NEW):
    values = {"oldpassword": old, "password1": new, "password2": again}
    return browser.post(reverse("account_change_password"), values)


def test_who_changes_his_password_stays_and_his_other_browsers_go(member):
    here, there = signed_in("member", OLD), signed_in("member", OLD)
    assert change(here).status_code == 302
    page = here.get(reverse("account_change_password"))
    assert page.status_code == 200 and "Signed in as member" in page.content.decode()
    assert there.get(reverse("account_change_password")).status_code == 302
    assert signed_in("member", OLD) is None and signed_in("member", NEW)
    assert AuditEntry.objects.filter(actor=member, action="change_password").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"old": "not it"}, "current password"),
        ({"new": "short", "again": "short"}, "at least 10 characters"),
        ({"new": "password123", "again": "password123"}, "too common"),
        ({"again": "another-password-3"}, "same password"),
        ({"new": "", "again": ""}, "required"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(member, wrong, said):
    page = change(signed_in("member", OLD), **wrong).content.decode()
    assert said in page and 'aria-invalid="true"' in page
    assert signed_in("member", OLD)


def test_guessing_the_current_password_is_slowed_down(member):
    browser = signed_in("member", OLD)
    answers = [change(browser, old=f"guess {number}") for number in range(7)]
    assert answers[-1].status_code == 429 and "Try again in a minute" in answers[-1].content.decode()


def link_of(client: Client, member: User) -> str:
    page = client.post(reverse("user-change", args=[member.pk, "password-link"])).content.decode()
    return re.search(r'data-testid="link">http://testserver([^<]+)<', page)[1]


def test_an_operators_link_sets_a_password_once(client, people, member):
    client.force_login(people.operator)
    path = link_of(client, member)
    visitor = Client()
    form = visitor.get(path, follow=True)
    assert "A new password for member" in form.content.decode()
    shown = form.request["PATH_INFO"]
    assert path.split("-", 1)[1] not in shown, "the key has left the address"
    assert "at least 10" in visitor.post(shown, {"password1": "short", "password2": "short"}).content.decode()
    assert visitor.post(shown, {"password1": NEW, "password2": NEW}).status_code == 302
    assert visitor.get(reverse("deployments:list")).status_code == 200, "signed in"
    assert signed_in("member", NEW) and signed_in("member", OLD) is None
    again = Client().get(path, follow=True)
    assert "not good any more" in again.content.decode()
    noted = AuditEntry.objects.filter(action__contains="password", object_label="member").order_by("pk")
    assert list(noted.values_list("actor__username", "action")) == [
        ("operator", "make_password_link"),
        ("member", "change_password_by_link"),
    ]


def test_a_link_dies_with_its_account_and_its_day(client, people, member, monkeypatch):
    client.force_login(people.operator)
    path = link_of(client, member)
    set_active(member, False, actor=people.operator)
    assert "not good any more" in Client().get(path, follow=True).content.decode()
    with pytest.raises(ServiceError, match="Activate the account first"):
        make_link(User.objects.get(pk=member.pk), actor=people.operator)
    set_active(member, True, actor=people.operator)
    assert "A new password" in Client().get(path, follow=True).content.decode()
    later = timezone.now().replace(tzinfo=None) + timedelta(hours=25)
    monkeypatch.setattr(PasswordResetTokenGenerator, "_now", lambda self: later)
    assert "not good any more" in Client().get(path, follow=True).content.decode()


def test_only_operators_make_links(client, people, member):
    for person in (people.admin, people.member):
        client.force_login(person)
        assert client.post(reverse("user-change", args=[people.operator.pk, "password-link"])).status_code == 404
        with pytest.raises(ForbiddenError):
            make_link(people.operator, actor=person)


def test_who_forgot_is_told_the_way(client):
    assert reverse("account_reset_password") in client.get(reverse("account_login")).content.decode()
    assert "Ask an operator" in client.get(reverse("account_reset_password")).content.decode()
