"""A second factor beside the password: set up, asked for, required, and removed for who has lost it."""

import io
import re
import time

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from accounts import browser_sessions
from accounts.models import AuditEntry, User
from accounts.passwords import make_link
from accounts.services import create_api_token
from common.encryption import Cipher
from common.installation_keys import FixedKeys
from dashboard import key_rotation
from tests.control.test_sockets import connect

pytestmark = pytest.mark.django_db
PASSWORD = "a-long-enough-one-42"


@pytest.fixture
def operator(people) -> User:
    cache.clear()
    people.operator.set_password(PASSWORD)
    people.operator.save()
    yield people.operator
    cache.clear()


def sign_in(password: str = PASSWORD, **extra: str) -> tuple[Client, str]:
    """The browser and where it is sent."""
    browser = Client(**extra)
    answer = browser.post(reverse("account_login"), {"login": "operator", "password": password})
    return browser, answer.get("Location", "")


def code_of(secret: str, *, periods: int = 0) -> str:
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + periods))


def page_with_secret(browser: Client) -> HttpResponse:
    """Where a second factor is set up, which asks for the password first."""
    page = browser.get(reverse("mfa_activate_totp"), follow=True)
    if "Confirm that it is you" in page.content.decode():
        page = browser.post(page.request["PATH_INFO"] + f"?next={reverse('mfa_activate_totp')}", {"password": PASSWORD}, follow=True)  # fmt: skip
    return page


def secret_of(page: HttpResponse) -> str:
    return re.search(r'data-testid="totp-secret">(\w+)<', page.content.decode())[1]


def set_up(browser: Client) -> tuple[str, list[str]]:
    """(the app's secret, recovery codes)."""
    secret = secret_of(page_with_secret(browser))
    browser.used = code_of(secret)
    done = browser.post(reverse("mfa_activate_totp"), {"code": browser.used}, follow=True)
    codes = re.search(r'data-testid="recovery-codes">([\d\s]+)<', done.content.decode())[1].split()
    return secret, codes


def test_signing_in_takes_a_code_too(operator, django_capture_on_commit_callbacks):
    browser, _ = sign_in()
    with django_capture_on_commit_callbacks(execute=True):
        secret, codes = set_up(browser)
    assert len(codes) == 10
    stored = Authenticator.objects.get(type="totp").data["secret"]
    assert secret not in stored, "encrypted at rest"
    other, sent_to = sign_in()
    assert sent_to.startswith(reverse("mfa_authenticate"))
    assert other.get("/console/deployments/").status_code == 302, "the password alone opens nothing"
    wrong = other.post(sent_to, {"code": "000000"})
    assert "This code is not right" in wrong.content.decode()
    assert "not right" in other.post(sent_to, {"code": browser.used}).content.decode(), "it was used to set it up"
    used = code_of(secret, periods=1)
    assert other.post(sent_to, {"code": used}).status_code == 302
    assert other.get("/console/deployments/").status_code == 200
    third, sent_to = sign_in()
    assert "not right" in third.post(sent_to, {"code": used}).content.decode(), "each code works once"
    assert third.post(sent_to, {"code": codes[0]}).status_code == 302
    assert third.get("/console/deployments/").status_code == 200
    fourth, sent_to = sign_in()
    assert "not right" in fourth.post(sent_to, {"code": codes[0]}).content.decode()
    actions = set(AuditEntry.objects.values_list("action", flat=True))
    assert "set_up_second_factor" in actions


def test_codes_can_t_be_guessed(operator):
    secret, _ = set_up(sign_in()[0])
    browser, sent_to = sign_in()
    for number in range(5):
        browser.post(sent_to, {"code": f"{number:06}"})
    refused = browser.post(sent_to, {"code": code_of(secret, periods=1)})
    assert refused.status_code == 200 and "Too many" in refused.content.decode()


def test_a_link_for_a_new_password_does_not_go_around_it(operator):
    set_up(sign_in()[0])
    browser = Client()
    operator.refresh_from_db()
    page = browser.get(make_link(operator, actor=operator), follow=True)
    done = browser.post(
        page.request["PATH_INFO"], {"password1": "another-long-one-43", "password2": "another-long-one-43"}
    )
    assert done["Location"].startswith(reverse("mfa_authenticate"))
    assert browser.get("/console/deployments/").status_code == 302


def test_reloading_keeps_the_secret_and_pages_with_secrets_are_not_kept(operator):
    browser, _ = sign_in()
    pages = [page_with_secret(browser) for _ in range(2)]
    assert secret_of(pages[0]) == secret_of(pages[1]) and all(page["Cache-Control"] == "no-store" for page in pages)


def test_whoever_must_have_one_can_do_nothing_before(operator, people, settings):
    settings.SECOND_FACTOR = "operators"
    browser, _ = sign_in()
    assert browser.get("/console/deployments/")["Location"] == reverse("mfa_index")
    refused = browser.get("/api/v1/deployments/")
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "second_factor_missing"
    page = browser.get("/console/deployments/", follow=True).content.decode()
    assert "it is required for your account here" in page
    member = Client()
    member.force_login(people.member)
    assert member.get("/console/deployments/").status_code == 200
    set_up(browser)
    assert browser.get("/console/deployments/").status_code == 200
    kept = browser.post(reverse("mfa_deactivate_totp"), {}, follow=True)
    assert "required for your account" in kept.content.decode() and Authenticator.objects.filter(type="totp").exists()
    settings.SECOND_FACTOR = "everyone"
    assert member.get("/console/deployments/").status_code == 302
    _, token = create_api_token(people.member, "script")
    script = Client(headers={"Authorization": f"Bearer {token}"})
    assert script.get("/api/v1/deployments/").status_code == 200, "scripts have no phone; their tokens expire"


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_a_websocket_is_refused_too(people, settings):
    settings.SECOND_FACTOR = "operators"
    for user, refused in ((people.operator, True), (people.member, False)):
        socket = await connect("/ws/live/", user)
        if refused:
            assert (await socket.receive_output(5))["code"] == 4401
        else:
            assert await socket.receive_nothing(0.3)
            await socket.disconnect()


def test_an_operator_helps_who_has_lost_it(operator, people):
    set_up(sign_in()[0])
    helper = User.objects.create(username="helper", is_operator=True)
    browser = Client()
    browser.force_login(helper)
    page = browser.get(reverse("users")).content.decode()
    assert page.count("Remove second factor") == 1
    browser.post(reverse("user-change", args=[operator.pk, "remove-second-factor"]))
    assert not Authenticator.objects.exists()
    assert sign_in()[1] == "/console/deployments/"
    assert AuditEntry.objects.filter(action="remove_second_factor", actor=helper).exists()
    browser.force_login(people.admin)
    assert browser.post(reverse("user-change", args=[operator.pk, "remove-second-factor"])).status_code == 404


def test_what_was_begun_with_a_password_ends_with_it(operator):
    """Whoever has stolen it may wait at the code's page."""
    browser = sign_in()[0]
    _, codes = set_up(browser)
    for change in ("password", "sessions", "factor"):
        waiting, sent_to = sign_in("a-new-long-one-43" if change == "sessions" else PASSWORD)
        if change == "password":
            operator.set_password("a-new-long-one-43")
            operator.save()
        elif change == "sessions":
            operator.refresh_from_db()
            browser_sessions.end_all(operator, actor=operator)
            operator.set_password(PASSWORD)
            operator.save()
        else:
            call_command("remove_second_factor", "Operator", stdout=io.StringIO())
        refused = waiting.post(sent_to, {"code": codes.pop()})
        assert refused["Location"] == reverse("account_login"), change
        assert waiting.get(sent_to)["Location"].startswith(reverse("account_login"))
        assert waiting.get("/console/deployments/").status_code == 302
    assert "has changed meanwhile" in waiting.get(reverse("account_login")).content.decode()
    assert sign_in()[1] == "/console/deployments/"
    with pytest.raises(CommandError, match="no second factor"):
        call_command("remove_second_factor", "operator")


def test_it_survives_new_keys(operator, settings):
    browser, _ = sign_in()
    secret, codes = set_up(browser)
    old = settings.INSTALLATION_KEYS.encryption
    settings.INSTALLATION_KEYS = FixedKeys.of("brand-new", *old)
    assert key_rotation.bring_up(settings.INSTALLATION_KEYS).secrets == 2
    settings.INSTALLATION_KEYS = FixedKeys.of("brand-new")
    for item in Authenticator.objects.all():
        Cipher(["brand-new"]).decrypt(item.data.get("secret") or item.data["seed"])
    for code in (code_of(secret, periods=1), codes[3]):
        other, sent_to = sign_in()
        assert other.post(sent_to, {"code": code}).status_code == 302
