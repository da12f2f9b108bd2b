"""What becomes of a button that is pressed on a page from before one was signed out."""

from urllib.parse import urlencode

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from deployments.models import Version

pytestmark = pytest.mark.django_db
PASSWORD = "a-long-enough-one-42"


def test_a_page_from_before_the_sign_in_says_so(people):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(people.operator)
    answer = browser.post(reverse("accounts:tokens"), {"label": "x"})
    assert answer.status_code == 403 and "nothing was done. Go back, load it again" in answer.content.decode()


def test_who_was_signed_out_comes_back_to_the_page_that_he_pressed_on(client, people, deploy):
    deploy()
    stop = reverse("deployments:version-action", args=["acme", "chat", 1, "stop"])
    page = reverse("deployments:versions", args=["acme", "chat"])
    answer = client.post(stop, headers={"Referer": f"http://testserver{page}?x=1"})
    assert answer["Location"] == f"{reverse('account_login')}?{urlencode({'next': f'{page}?x=1'})}"
    client.force_login(people.operator)
    assert "so nothing was done. Repeat it." in client.get(page).content.decode()
    client.logout()
    elsewhere = client.post(stop, headers={"Referer": "https://evil.example/x"})
    assert elsewhere["Location"].endswith("?next=%2F")
    assert Version.objects.get().desired_state == "running"


def test_a_part_of_a_page_sends_the_page_itself_to_the_sign_in(client, people, deploy):
    deploy()
    page = reverse("deployments:detail", args=["acme", "chat"])
    headers = {"HX-Request": "true", "HX-Current-URL": f"http://testserver{page}?x=1"}
    answer = client.get(reverse("deployments:header", args=["acme", "chat"]), headers=headers)
    assert answer.status_code == 200 and not answer.content
    assert answer["HX-Redirect"] == f"{reverse('account_login')}?{urlencode({'next': f'{page}?x=1'})}"
    elsewhere = headers | {"HX-Current-URL": "https://evil.example/x"}
    assert client.get(reverse("deployments:rows"), headers=elsewhere)["HX-Redirect"].endswith("?next=%2F")


@pytest.fixture
def with_password(people):
    cache.clear()
    people.operator.set_password(PASSWORD)
    people.operator.save()
    yield people.operator
    cache.clear()


def sign_in(password: str, address: str, **headers: str) -> bool:
    browser = Client(REMOTE_ADDR=address, headers=headers)
    answer = browser.post(reverse("account_login"), {"login": "operator", "password": password})
    return answer.status_code == 302


def test_wrong_passwords_from_elsewhere_never_lock_the_right_one_out(with_password):
    for number in range(40):
        assert not sign_in("wrong", f"203.0.113.{number % 8}")
    assert sign_in(PASSWORD, "198.51.100.7")


def test_one_address_is_slowed_down_whatever_it_claims_to_be(with_password):
    for number in range(10):
        sign_in("wrong", "203.0.113.1", **{"X-Forwarded-For": f"10.0.0.{number}"})
    assert not sign_in(PASSWORD, "203.0.113.1", **{"X-Forwarded-For": "10.9.9.9"})


def test_an_ipv6_network_is_one_caller(with_password):
    for number in range(10):
        sign_in("wrong", f"2001:db8:1:2::{number:x}")
    assert not sign_in(PASSWORD, "2001:db8:1:2::ffff")
    assert sign_in(PASSWORD, "2001:db8:1:3::1")
