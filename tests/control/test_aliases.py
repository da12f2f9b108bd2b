"""Aliases: set by an organization's admins, good for its keys alone, gone with what they stand for."""

import concurrent.futures

import pytest
from django.db import connections
from django.urls import reverse
from rest_framework.test import APIClient

from accounts.models import AuditEntry
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Alias, Deployment, DirectoryVersion, Endpoint, Model
from deployments.services.access import set_access
from deployments.services.aliases import remove_alias, set_alias
from deployments.services.deployments import create_deployment
from gateway.access.callers import Caller
from gateway.errors import GatewayError
from gateway.routing.directory import read_snapshot
from tests.conftest import sign_in, simulator

pytestmark = pytest.mark.django_db(transaction=True)


def called(organization, name: str) -> str:
    """The API id of what a key of the organization gets by this name; the error's code where it gets none."""
    caller = Caller(organization.pk, 1, 1, organizations=frozenset({organization.pk}))
    try:
        return read_snapshot().by_model(name, caller).api_id
    except GatewayError as error:
        return error.code


@pytest.fixture
def private(people, deploy) -> Deployment:
    deployment = deploy()
    set_access(deployment, Deployment.Access.KEY_ONLY, Deployment.Sharing.NONE, actor=people.admin)
    return deployment


def test_an_alias_is_good_for_its_organization_and_only_while_it_may_call(people, private):
    before = DirectoryVersion.objects.get(pk=1).v
    set_alias(people.ours, "gpt-4o", private, actor=people.admin)
    assert DirectoryVersion.objects.get(pk=1).v > before, "gateways hear of it"
    assert called(people.ours, "gpt-4o") == "acme/chat"
    assert called(people.theirs, "gpt-4o") == "model_not_found"
    with pytest.raises(ServiceError, match="may not call"):
        set_alias(people.theirs, "gpt-4o", private, actor=people.operator)
    set_access(private, private.access, Deployment.Sharing.SPECIFIC, [people.theirs], actor=people.admin)
    set_alias(people.theirs, "gpt-4o", private, actor=people.operator)
    assert called(people.theirs, "gpt-4o") == "acme/chat"
    set_access(private, Deployment.Access.KEY_ONLY, Deployment.Sharing.NONE, actor=people.admin)
    assert called(people.theirs, "gpt-4o") == "model_not_found", "it opens nothing that the key doesn't"
    remove_alias(people.ours, "gpt-4o", actor=people.admin)
    remove_alias(people.ours, "gpt-4o", actor=people.admin)
    assert called(people.ours, "gpt-4o") == "model_not_found"
    told = AuditEntry.objects.filter(changes__has_key="alias gpt-4o").order_by("pk").values_list("changes", flat=True)
    assert [item["alias gpt-4o"] for item in told] == [[None, "acme/chat"], [None, "acme/chat"], ["acme/chat", None]]


def test_an_alias_never_hides_a_deployment_and_goes_before_a_bare_name(people, private, deploy):
    other = deploy("other")
    with pytest.raises(ServiceError, match="begin with acme/"):
        set_alias(people.ours, "acme/chat", other, actor=people.admin)
    set_alias(people.ours, "chat", other, actor=people.admin)
    assert (called(people.ours, "chat"), called(people.ours, "acme/chat")) == ("acme/other", "acme/chat")
    set_alias(people.ours, "chat", private, actor=people.admin)
    assert called(people.ours, "chat") == "acme/chat" and Alias.objects.count() == 1
    private.delete()
    assert not Alias.objects.exists()


@pytest.mark.parametrize("name", ["", " gpt", "gpt 4", "-gpt", "ключ", "a" * 121, "gpt\n", "<b>"])
def test_names_that_no_client_sends_are_refused(people, private, name):
    with pytest.raises(ServiceError, match="An alias has"):
        set_alias(people.ours, name, private, actor=people.admin)


def test_only_admins_and_operators_set_them(people, private):
    for actor in (people.member, people.stranger):
        with pytest.raises(ForbiddenError):
            set_alias(people.ours, "gpt-4o", private, actor=actor)
        with pytest.raises(ForbiddenError):
            remove_alias(people.ours, "gpt-4o", actor=actor)


def test_of_many_who_add_at_once_none_goes_beyond_the_bound(people, private, monkeypatch):
    monkeypatch.setattr(Alias, "MOST", 3)

    def add(number: int) -> str:
        try:
            set_alias(people.ours, f"name-{number}", private, actor=people.admin)
        except ServiceError as error:
            return str(error)
        finally:
            connections.close_all()
        return ""

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        refused = [text for text in pool.map(add, range(8)) if text]
    assert Alias.objects.count() == 3 and len(refused) == 5 and "at most 3 aliases" in refused[0]


def test_the_page(client, people, private):
    sign_in(client, people.admin)
    page = reverse("organization-aliases", args=["acme"])
    assert "No aliases yet" in client.get(page).content.decode()
    shown = client.post(page, {"name": "gpt-4o", "deployment": private.pk}, follow=True).content.decode()
    assert "gpt-4o now points to acme/chat" in shown and "<code>gpt-4o</code>" in shown
    hub = client.get(reverse("hub:deployment", args=["acme", "chat"])).content.decode()
    assert "Also called" in hub and "gpt-4o" in hub
    refused = client.post(page, {"name": "acme/x", "deployment": private.pk})
    assert refused.status_code == 422 and "Choose another alias" in refused.content.decode()
    gone = client.post(reverse("organization-alias-remove", args=["acme"]), {"name": "gpt-4o"}, follow=True)
    assert "The alias gpt-4o is removed" in gone.content.decode()


def test_a_deployment_of_others_is_not_there_in_the_form(client, people, place, deploy):
    model = Model.objects.create(organization=people.theirs, name="Theirs")
    endpoint = Endpoint.objects.create(organization=people.theirs, name="theirs", cluster=place.cluster)
    secret = Deployment(organization=people.theirs, model=model, endpoint=endpoint, name="secret", access="key_only")
    create_deployment(secret, simulator(), 1, actor=people.operator)
    sign_in(client, people.admin)
    page = reverse("organization-aliases", args=["acme"])
    assert "secret" not in client.get(page).content.decode()
    assert client.post(page, {"name": "x", "deployment": secret.pk}).status_code == 422


def test_the_api(people, private):
    client = APIClient()
    client.force_authenticate(people.admin)
    place = "/api/v1/organizations/acme/aliases/"
    made = client.post(place, {"name": "openai/gpt-4o", "deployment": "acme/chat"}, format="json")
    assert made.status_code == 200 and made.json() == [{"name": "openai/gpt-4o", "deployment": "acme/chat"}]
    unknown = client.post(place, {"name": "x", "deployment": "other/none"}, format="json")
    assert unknown.status_code == 400 and "may call" in str(unknown.json()["error"]["fields"]["deployment"])
    client.force_authenticate(people.member)
    assert client.get(place).json() == made.json()
    assert client.post(place, {"name": "y", "deployment": "acme/chat"}, format="json").status_code == 403
    assert client.delete(f"{place}openai/gpt-4o/").status_code == 403
    client.force_authenticate(people.admin)
    assert client.delete(f"{place}openai/gpt-4o/").status_code == 204
    assert client.get(place).json() == []
