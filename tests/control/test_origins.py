"""Which pages may call an endpoint: what people type, and what gateways go by."""

import pytest
from django.urls import reverse
from rest_framework.test import APIClient

from accounts.models import AuditEntry
from common.service_error import ServiceError
from deployments.models import DirectoryVersion
from deployments.services.origins import checked
from gateway.routing.directory import read_snapshot
from tests.conftest import sign_in

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ([], []),
        (["https://App.example.com/", "HTTPS://app.example.com:443"], ["https://app.example.com"]),
        (["http://localhost:3000", "http://[::1]:80"], ["http://[::1]", "http://localhost:3000"]),
        (["chrome-extension://abcdefghij"], ["chrome-extension://abcdefghij"]),
        (["https://a.example", "*"], ["*"]),
    ],
)
def test_origins_are_kept_as_browsers_send_them(typed, kept):
    assert checked(typed) == kept


@pytest.mark.parametrize(
    "typed",
    ["app.example.com", "https://a.example/path", "https://*.example.com", "https://u@a.example", "https://a:x", "https://", "null",
     "https://a.example?x", "https://ä.example", "https://[", "https://a\r\nb", "x" * 999],
)  # fmt: skip
def test_what_no_browser_sends_is_refused(typed):
    with pytest.raises(ServiceError, match="is not an origin"):
        checked([typed])


def test_from_the_form_to_the_gateway(client, people, place, deploy):
    deploy()
    sign_in(client, people.operator)
    page = reverse("deployments:catalog-edit", args=["endpoints", place.endpoint.pk])
    fields = {"name": "main", "organization": people.ours.pk, "cluster": place.cluster.pk, "description": ""}
    refused = client.post(page, fields | {"origins": "app.example.com"})
    assert refused.status_code == 422 and "such as https://app.example.com" in refused.content.decode()
    before = DirectoryVersion.objects.get(pk=1).v
    shown = client.post(page, fields | {"origins": "https://app.example.com\nhttp://localhost:3000"}, follow=True)
    assert "https://app.example.com" in shown.content.decode()
    assert DirectoryVersion.objects.get(pk=1).v > before
    (target,) = read_snapshot().targets
    assert target.origins == ("http://localhost:3000", "https://app.example.com")
    assert AuditEntry.objects.filter(changes__has_key="origins").exists()


def test_from_the_api(people, place):
    client = APIClient()
    client.force_authenticate(people.operator)
    address = f"/api/v1/endpoints/{place.endpoint.pk}/"
    assert client.patch(address, {"origins": ["*"]}, format="json").json()["origins"] == ["*"]
    assert client.patch(address, {"description": "x"}, format="json").json()["origins"] == ["*"]
    refused = client.patch(address, {"origins": ["x"]}, format="json")
    assert refused.status_code == 400 and "origins" in refused.json()["error"]["fields"]
    for wrong in ("*", {"a": 1}, [1, None], [["*"]]):
        assert client.patch(address, {"origins": wrong}, format="json").status_code == 400, wrong
