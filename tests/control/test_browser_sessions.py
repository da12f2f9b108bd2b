"""Where one is signed in, and how that ends."""

import asyncio
import importlib

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse

from accounts import browser_sessions, open_sockets
from accounts.models import AuditEntry, BrowserSession, User
from tests.control.test_sockets import connect

pytestmark = pytest.mark.django_db
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile/15E148 Safari/604.1"  # fmt: skip


@pytest.fixture
def member(people) -> User:
    people.member.set_password("a-long-enough-one-42")
    people.member.save()
    return people.member


def signed_in(user: User, browser: str, address: str) -> Client:
    client = Client(headers={"User-Agent": browser}, REMOTE_ADDR=address)
    client.force_login(user)
    assert client.get("/account/").status_code == 200
    return client


def test_each_browser_is_listed_and_ends_alone(member, people):
    here, there = signed_in(member, FIREFOX, "203.0.113.7"), signed_in(member, SAFARI, "2001:db8::7")
    stranger = signed_in_stranger = Client()
    stranger.force_login(people.stranger)
    page = here.get("/account/").content.decode()
    assert "Firefox on Linux" in page and "Safari on iPhone" in page and "2001:db8::7" in page
    assert page.count("this one") == 1
    other = BrowserSession.objects.get(address="2001:db8::7")
    end = reverse("accounts:end-session", args=[other.pk])
    assert signed_in_stranger.post(end).status_code == 404
    here.post(end)
    assert there.get("/account/").status_code == 302 and here.get("/account/").status_code == 200
    assert not BrowserSession.objects.filter(pk=other.pk).exists()
    assert "Safari" not in here.get("/account/").content.decode()
    assert AuditEntry.objects.filter(action="end_session", actor=member).exists()


def test_signing_out_everywhere_ends_also_what_no_list_knows(member):
    here, there = signed_in(member, FIREFOX, "203.0.113.7"), signed_in(member, SAFARI, "203.0.113.8")
    BrowserSession.objects.exclude(address="203.0.113.7").delete()
    began = BrowserSession.objects.get().created_at
    here.post(reverse("accounts:end-other-sessions"))
    assert there.get("/account/").status_code == 302
    page = here.get("/account/")
    assert page.status_code == 200 and "everywhere but here" in page.content.decode()
    assert [item.address for item in browser_sessions.of_user(member)] == ["203.0.113.7"]
    assert BrowserSession.objects.get().created_at == began


def test_an_upgrade_signs_nobody_out(member):
    """Also not who sends several requests at once, and whatever becomes of SECRET_KEY afterwards."""
    client = signed_in(member, FIREFOX, "203.0.113.7")
    session = client.session
    session["_auth_user_hash"] = super(User, member).get_session_auth_hash()
    session.save()
    assert Session.objects.count() == 1
    importlib.import_module("accounts.migrations.0007_session_hashes").rewrite(apps, None)
    assert client.session["_auth_user_hash"] == member.get_session_auth_hash()
    assert client.get("/account/").status_code == 200
    session = client.session
    session["_auth_user_hash"] = "forged"
    session.save()
    importlib.import_module("accounts.migrations.0007_session_hashes").rewrite(apps, None)
    assert client.get("/account/").status_code == 302


def test_an_operator_signs_someone_out(member, people):
    theirs = signed_in(member, FIREFOX, "203.0.113.7")
    operator = Client()
    operator.force_login(people.operator)
    operator.post(reverse("user-change", args=[member.pk, "sign-out"]))
    assert theirs.get("/account/").status_code == 302
    assert not Session.objects.filter(pk__in=BrowserSession.objects.filter(user=member).values("session_key")).exists()


def test_requests_write_no_more_than_each_five_minutes(member, django_assert_num_queries):
    client = signed_in(member, FIREFOX, "203.0.113.7")
    before = BrowserSession.objects.get().seen_at
    client.get("/account/tokens/")
    assert BrowserSession.objects.get().seen_at == before


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_open_pages_end_when_all_sessions_do(member, people, monkeypatch):
    monkeypatch.setattr(open_sockets, "LOOK_S", 0.1)
    socket = await connect("/ws/live/", member)
    await sync_to_async(browser_sessions.end_all)(member, actor=people.operator)
    closed = await asyncio.wait_for(socket.receive_output(5), 5)
    assert closed["type"] == "websocket.close" and closed["code"] == 4401
