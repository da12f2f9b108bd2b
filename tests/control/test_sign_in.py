"""What becomes of a button that is pressed on a page from before one was signed out."""

from urllib.parse import urlencode

import pytest
from django.test import Client
from django.urls import reverse

from deployments.models import Version

pytestmark = pytest.mark.django_db


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
