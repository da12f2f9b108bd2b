"""A namespace for each organization: what the form and the API take, and what they say."""

import pytest
from django.test import Client
from django.urls import reverse

from common.service_error import ServiceError
from deployments.forms.catalog import ALLOWANCES
from deployments.models import Cluster
from deployments.services import catalog
from runtimes.kubernetes import access
from runtimes.kubernetes.places import TEMPLATE, Places
from tests.control.test_pages import KUBECONFIG
from tests.control.test_tenancy import pods

pytestmark = pytest.mark.django_db
assert pods


@pytest.fixture
def client(people) -> Client:
    found = Client()
    found.force_login(people.operator)
    return found


def form_data(**values: str) -> dict[str, str]:
    data = {"name": "here", "driver": "kubernetes", "namespace": "models", "reach": "address", "is_for_all": "on"}
    return data | dict.fromkeys(ALLOWANCES, "") | values


def test_a_new_cluster_is_offered_one_for_each_and_both_recipes(client):
    page = client.get(reverse("deployments:catalog-new", args=["clusters"])).content.decode()
    assert f'value="{TEMPLATE}"' in page
    assert "with a namespace for each organization" in page and "with one namespace for all" in page


def test_who_may_call_has_to_be_named(client, pods):
    url = reverse("deployments:catalog-edit", args=["clusters", pods.pk])
    asked = form_data(namespace_template=TEMPLATE, kubeconfig=KUBECONFIG)
    refused = client.post(url, asked)
    assert refused.status_code == 422 and "Name who may call instances" in refused.content.decode()
    assert client.post(url, asked | {"callers": "10.0.0.0/8\ngateways"}).status_code == 302
    pods.refresh_from_db()
    assert (pods.namespace_template, pods.callers) == (TEMPLATE, ["10.0.0.0/8", "gateways"])
    page = client.get(reverse("deployments:catalog-detail", args=["clusters", pods.pk])).content.decode()
    assert TEMPLATE in page and "10.0.0.0/8, gateways" in page
    assert "10.0.0.0/8\ngateways" in client.get(url).content.decode()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("namespace_template", "everyone", "holds {organization}"),
        ("namespace_template", "Models-{organization}", "lower-case"),
        ("namespace_template", "{organization}-{nobody}", "maybe {prefix}"),
        ("callers", ["10.0.0.1/8"], "is no network"),
        ("callers", ["Gateways"], "neither a network"),
    ],
)
def test_what_can_not_be_is_refused_at_its_field(people, pods, field, value, says):
    pods.namespace_template, pods.callers = TEMPLATE, ["0.0.0.0/0"]
    setattr(pods, field, value)
    with pytest.raises(ServiceError) as refused:
        catalog.save_cluster(pods, actor=people.operator)
    assert refused.value.field == field and says in str(refused.value)


def test_the_api_takes_them_too(client, pods):
    url = f"/api/v1/clusters/{pods.pk}/"
    changed = client.patch(url, {"namespace_template": TEMPLATE, "callers": ["tools"]}, "application/json")
    assert changed.status_code == 200, changed.content
    told = changed.json()
    assert (told["namespace_template"], told["callers"]) == (TEMPLATE, ["tools"])
    for wrong in ("tools", [7, {}], ["x" * 64], [""]):
        assert client.patch(url, {"callers": wrong}, "application/json").status_code == 400, wrong


def test_this_machine_has_none(client):
    data = form_data(name="there", driver="local", namespace="", reach="")
    suggested = client.post(
        reverse("deployments:catalog-new", args=["clusters"]), data | {"namespace_template": TEMPLATE}
    )
    assert suggested.status_code == 302, suggested.content
    assert Cluster.objects.get(name="there").namespace_template == ""


def test_one_namespace_needs_no_rights_beyond_it():
    alone, each = access.recipe(Places("models")), access.recipe(Places("models", TEMPLATE))
    everywhere = alone.partition("kind: ClusterRole\n")[2].partition("kind: ClusterRoleBinding")[0]
    assert "secrets" not in everywhere and "secrets" in each.partition("kind: ClusterRole\n")[2]
    assert "networkpolicies" in each and "networkpolicies" not in alone
