"""A namespace for each organization: what the form and the API take, and what they say."""

import threading
from dataclasses import replace

import pytest
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from common.database_lock import hold
from common.service_error import ServiceError
from deployments import rooms
from deployments.forms.catalog import ALLOWANCES
from deployments.models import Cluster, Deployment, Instance, Stranger, Version
from deployments.services import catalog, organization_namespaces, versions
from deployments.services.deployments import create_deployment
from deployments.services.quotas import set_quota
from runtimes.driver import ClusterUnreachableError, DriverError
from runtimes.kubernetes import access
from runtimes.kubernetes.places import TEMPLATE, Places
from runtimes.observation import Observation, WorkloadObservation
from runtimes.room import Room
from tests.conftest import simulator
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


def test_a_new_cluster_is_offered_one_for_each_and_a_recipe_that_follows_the_form(client):
    page = client.get(reverse("deployments:catalog-new", args=["clusters"])).content.decode()
    assert f'value="{TEMPLATE}"' in page and "namespace=slipway" in page and "over the whole cluster" in page
    asked = {"namespace": "models", "namespace_template": "", "reach": "api_server"}
    recipe = client.get(reverse("deployments:cluster-recipe"), asked).content.decode()
    assert "namespace=models" in recipe and "pods/proxy" in recipe and "over the whole cluster" not in recipe
    for nonsense in ("$(reboot)", "a b", "\n", "x" * 200):
        recipe = client.get(reverse("deployments:cluster-recipe"), asked | {"namespace": nonsense}).content.decode()
        assert "namespace=slipway" in recipe and "reboot" not in recipe
        client.get(reverse("deployments:cluster-recipe"), asked | {"namespace_template": nonsense})


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


def test_a_quota_below_what_is_wanted_leaves_room_for_it(people, running):
    Version.objects.update(replicas=3)
    set_quota(people.ours, {"instances": 1, "gpus": 2, "memory": None}, actor=people.operator)
    assert rooms.room_of("acme", people.ours.pk) == Room("acme", instances=3, gpus=2)
    set_quota(people.ours, {"instances": 8}, actor=people.operator)
    assert rooms.room_of("acme", people.ours.pk) == Room("acme", instances=8)
    assert rooms.room_of("other", people.theirs.pk) == Room("other")


class Preparing:
    """As much of a driver as is asked for an organization's namespace."""

    def __init__(self, *refusals: DriverError | None) -> None:
        self._refusals = list(refusals)
        self.prepared: list[Room] = []

    def prepare(self, room: Room) -> None:
        self.prepared.append(room)
        if self._refusals and (refusal := self._refusals.pop(0)) is not None:
            raise refusal


@pytest.fixture
def running(place, people) -> Observation:
    """One workload in acme's namespace without a single pod, as after a quota of 0."""
    rooms._seen_to.clear()
    Cluster.objects.filter(pk=place.cluster.pk).update(namespace_template=TEMPLATE)
    place.cluster.refresh_from_db()
    made = Deployment(organization=people.ours, model=place.model, endpoint=place.endpoint, name="chat")
    version = create_deployment(made, simulator(), 1, actor=people.operator).versions.get()
    return Observation(0, workloads={version.key: [WorkloadObservation("models-acme/chat-v1", 1, 1)]})


def test_a_namespace_without_pods_is_looked_after_too(place, people, running):
    driver, versions = Preparing(), list(Version.objects.all())
    for _ in range(3):
        rooms.keep(place.cluster, driver, running, versions)
    assert driver.prepared == [Room("acme")], "once, until something changes"
    set_quota(people.ours, {"instances": 5}, actor=people.operator)
    rooms.keep(place.cluster, driver, running, versions)
    assert driver.prepared[1:] == [Room("acme", instances=5)]


def test_what_is_refused_is_asked_again_later_and_a_silent_cluster_at_the_next_look(place, running):
    versions = list(Version.objects.all())
    driver = Preparing(DriverError("no right"))
    for _ in range(2):
        rooms.keep(place.cluster, driver, running, versions)
    assert len(driver.prepared) == 1
    rooms._seen_to.clear()
    driver = Preparing(ClusterUnreachableError("silent"))
    for _ in range(2):
        rooms.keep(place.cluster, driver, running, versions)
    assert len(driver.prepared) == 2


def test_looking_after_namespaces_takes_a_fixed_number_of_statements(place, people, running, django_assert_num_queries):
    set_quota(people.ours, {"instances": 5}, actor=people.operator)
    versions = list(Version.objects.select_related("deployment__organization"))
    with django_assert_num_queries(2):
        rooms.keep(place.cluster, Preparing(), running, versions)


@pytest.mark.django_db(transaction=True)
def test_a_template_doesnt_change_under_what_is_just_being_started(place, people, deploy, monkeypatch):
    """The cluster is asked for seconds between the first check and the writing: what is started then is not left behind."""
    cluster = place.cluster
    Cluster.objects.filter(pk=cluster.pk).update(
        driver=Cluster.Driver.KUBERNETES, namespace="models", callers=["0.0.0.0/0"], namespace_template=TEMPLATE
    )
    cluster.refresh_from_db()
    monkeypatch.setattr(
        catalog, "_check_namespace", lambda cluster: deploy(specification=replace(simulator(), image="acme/chat:1"))
    )
    cluster.namespace_template = ""
    with pytest.raises(ServiceError, match="1 version runs or starts"):
        catalog.save_cluster(cluster, actor=people.operator)
    assert Cluster.objects.get(pk=cluster.pk).namespace_template == TEMPLATE


@pytest.mark.django_db(transaction=True)
def test_a_start_waits_for_a_change_of_the_template(place, deploy):
    deployment = deploy()
    done = threading.Event()

    def start() -> None:
        try:
            versions.create_version(deployment, simulator(), 1, actor=deployment.created_by)
        finally:
            done.set()
            connection.close()

    with transaction.atomic():
        hold(organization_namespaces.lock_of(place.cluster.pk))
        thread = threading.Thread(target=start)
        thread.start()
        assert not done.wait(0.5)
    assert done.wait(20)
    thread.join()
    assert deployment.versions.count() == 2


def test_a_template_stays_while_something_of_it_is_left(place, people, running):
    cluster = place.cluster
    Cluster.objects.filter(pk=cluster.pk).update(
        driver=Cluster.Driver.KUBERNETES, namespace="models", callers=["0.0.0.0/0"]
    )
    cluster.refresh_from_db()
    version = Version.objects.get()
    now = timezone.now()
    instance = Instance.objects.create(
        version=version, uid="a" * 32, name="x", generation=1, phase="ready", started_at=now
    )

    def refusal(template: str) -> str:
        cluster.namespace_template = template
        try:
            catalog.save_cluster(cluster, actor=people.operator)
        except ServiceError as error:
            assert error.field == "namespace_template"
            return str(error)
        Cluster.objects.filter(pk=cluster.pk).update(namespace_template=TEMPLATE)
        return ""

    other = "ml-{organization}"
    assert not refusal("") and not refusal(other), "it runs in the first namespace"
    Instance.objects.update(namespace="models-acme")
    assert "1 version runs" in refusal("") and "1 version runs" in refusal(other)
    assert not refusal(TEMPLATE)
    instance.delete()
    assert "1 version runs" in refusal(""), "an instance may be there at any moment"
    Version.objects.update(desired_state="stopped")
    Stranger.objects.create(cluster=cluster, name="models-acme/x", version_key="k", generation=1, replicas=1, ready=1)
    assert "Strangers" in refusal("")
    Stranger.objects.all().delete()
    assert not refusal("")
