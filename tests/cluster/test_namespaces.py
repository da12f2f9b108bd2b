"""A namespace for each organization: made with its bounds, seen beside the others, and nobody else's."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from common.service_error import ServiceError
from deployments import kubernetes_watching, rooms, strangers
from deployments.drivers import kubernetes_driver
from deployments.models import Cluster, Deployment, Endpoint, Instance, Model, Status, Stranger, Version
from deployments.services import catalog, versions
from deployments.services import strangers as decisions
from deployments.services.deployments import create_deployment
from deployments.services.quotas import set_quota
from gateway.routing.directory import read_snapshot
from monitoring import collect
from monitoring.models import MeteredInstance
from runtimes.allowances import Allowances
from runtimes.kubernetes.client import KubernetesClient, NotFoundError
from runtimes.kubernetes.nodes import quantity
from runtimes.kubernetes.places import HOME, NAMESPACES, TEMPLATE
from tests.cluster.conftest import PODS_END_S, admin_kubeconfig, apply_recipe, clear
from tests.cluster.test_pods import IMAGE, cause_is, simulator
from tests.control.test_reconcile import becomes, live, look
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
GIB = 1 << 30


@pytest.fixture(scope="module")
def account(api: KubernetesClient, namespace: str) -> str:
    """A kubeconfig with the recipe's rights and no others."""
    config = yaml.safe_load(admin_kubeconfig() or "")
    config["users"][0]["user"] = {"token": apply_recipe(api, namespace, "tenants", proxied=True, template=TEMPLATE)}
    return str(yaml.safe_dump(config))


@pytest.fixture
def cluster(people: SimpleNamespace, api: KubernetesClient, namespace: str, account: str) -> Iterator[Cluster]:
    found = Cluster(name="pods", driver=Cluster.Driver.KUBERNETES, namespace=namespace, namespace_template=TEMPLATE)
    found.callers, found.reach = ["10.0.0.0/8", "tools"], Cluster.Reach.API_SERVER
    found.allowances = Allowances.everything().to_json()
    yield catalog.save_cluster(found, actor=people.operator, kubeconfig=account)
    for name in (f"{namespace}-acme", f"{namespace}-other"):
        clear(api, name)
        with contextlib.suppress(NotFoundError):
            api.delete(f"{NAMESPACES}/{name}")
    clear(api, namespace)
    wait_for(
        lambda: not api.list(NAMESPACES, labelSelector=f"{HOME}={namespace}"), within_s=PODS_END_S, what="their end"
    )


@pytest.fixture
def deploy(people: SimpleNamespace, cluster: Cluster, day_partitions: None) -> Callable[..., Version]:
    def make(specification: Any = None, *, organization: Any = None, replicas: int = 1) -> Version:
        owner = organization or people.ours
        model = catalog.save_model(Model(organization=owner, name="A model"), actor=people.operator)
        endpoint = Endpoint(organization=owner, name=f"to-{owner.name}", cluster=cluster)
        endpoint = catalog.save_endpoint(endpoint, actor=people.operator)
        deployment = Deployment(organization=owner, model=model, endpoint=endpoint, name="chat")
        made = create_deployment(deployment, specification or simulator(), replicas, actor=people.operator)
        return made.versions.get()

    return make


def test_each_organizations_instances_run_in_its_own(deploy, people, cluster, api, namespace):
    set_quota(people.ours, {"instances": 3, "memory": 4 * GIB}, actor=people.operator)
    mine = deploy(simulator(secret_environment={"TOKEN": "planted"}), replicas=2)
    theirs = deploy(organization=people.theirs)
    for version in (mine, theirs):
        becomes(version, Status.RUNNING, within_s=90)
    wait_for(lambda: look(mine).instances.filter(phase="ready").count() == 2, within_s=60)
    place = f"{namespace}-acme"
    assert {item.namespace for item in mine.instances.all()} == {place}
    assert theirs.instances.get().namespace == f"{namespace}-other"

    labels = api.get(f"{NAMESPACES}/{place}")["metadata"]["labels"]
    assert labels["slipway.dev/organization"] == "acme" and labels[HOME] == namespace
    hard = api.get(f"{NAMESPACES}/{place}/resourcequotas/slipway")["spec"]["hard"]
    assert hard["pods"] == "6" and quantity(hard["requests.memory"]) == 8 * GIB and len(hard) == 2
    policy = api.get(f"/apis/networking.k8s.io/v1/namespaces/{place}/networkpolicies/slipway")["spec"]
    assert policy["podSelector"] == {} and policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    assert rule["from"][0] == {"ipBlock": {"cidr": "10.0.0.0/8"}} and "namespaceSelector" in rule["from"][1]

    prefixes = {address.prefix for target in read_snapshot().targets for address in target.addresses}
    assert all(f"/namespaces/{namespace}-" in prefix for prefix in prefixes) and len(prefixes) == 3
    driver = kubernetes_driver(cluster)
    instance = mine.instances.first()
    assert "slipway" in driver.page(instance.qualified_name, "8000", "/v1/models", limit=1 << 20, within_s=5).lower()
    assert list(driver.read_log(mine.key, instance.uid, after=0))
    collect.collect_kubernetes(cluster)
    uids = Instance.objects.values_list("uid", flat=True)
    assert MeteredInstance.objects.filter(uid__in=list(uids)).count() == 3
    wait_for(lambda: instance.name in {sample.pod for sample in driver.usage()}, within_s=60, what="what it uses")

    before = live(mine)
    versions.scale_version(mine, 1, actor=people.operator)
    wait_for(lambda: look(mine) and len(live(mine)) == 1, within_s=PODS_END_S, what="one instance")
    assert live(mine) < before
    versions.stop_version(mine, actor=people.operator)
    becomes(mine, Status.STOPPED, within_s=PODS_END_S)
    for path in ("/apis/apps/v1/namespaces/{}/deployments", "/api/v1/namespaces/{}/secrets", "/api/v1/namespaces/{}/pods"):  # fmt: skip
        found = api.list(path.format(place), labelSelector="app.kubernetes.io/managed-by=slipway")
        assert not [item for item in found if item["metadata"].get("deletionTimestamp") is None], path
    assert look(theirs).status == Status.RUNNING


def test_what_operators_change_reaches_the_namespace_while_it_serves(
    deploy, people, cluster, api, namespace, monkeypatch
):
    version = deploy()
    becomes(version, Status.RUNNING, within_s=90)
    before = live(version)
    policy = f"/apis/networking.k8s.io/v1/namespaces/{namespace}-acme/networkpolicies/slipway"
    quota = f"{NAMESPACES}/{namespace}-acme/resourcequotas/slipway"
    assert api.get(quota)["spec"].get("hard", {}) == {}
    cluster.refresh_from_db()
    cluster.callers = ["10.1.0.0/16"]
    catalog.save_cluster(cluster, actor=people.operator)
    set_quota(people.ours, {"instances": 2, "cpu": 1.5}, actor=people.operator)
    look(version)
    assert api.get(policy)["spec"]["ingress"] == [{"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]
    hard = api.get(quota)["spec"]["hard"]
    assert hard["pods"] == "4" and quantity(hard["requests.cpu"]) == 3
    set_quota(people.ours, {}, actor=people.operator)
    look(version)
    assert api.get(quota)["spec"].get("hard", {}) == {}
    # Nothing is written while nothing changes; what somebody took away is made again.
    stamp = api.get(policy)["metadata"]["resourceVersion"]
    monkeypatch.setattr(rooms, "LOOK_S", 0.0)
    look(version)
    assert api.get(policy)["metadata"]["resourceVersion"] == stamp
    api.delete(policy)
    look(version)
    assert api.get(policy)["spec"]["ingress"] and live(version) == before


def test_its_log_is_followed(deploy, cluster):
    version = deploy()
    becomes(version, Status.RUNNING, within_s=90)
    watcher = kubernetes_watching.KubernetesWatcher(cluster)
    watcher.start()
    try:
        instance = version.instances.get()
        wait_for(lambda: Instance.objects.get(pk=instance.pk).log_position, within_s=30, what="its first lines")
    finally:
        watcher.stop()
        watcher.finish()


def test_a_namespace_of_somebody_else_is_refused_until_it_is_given(deploy, api, namespace):
    name = f"{namespace}-acme"
    api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    version = deploy()
    cause = cause_is(version, "driver_refused")
    assert f"The namespace {name} is not acme's" in cause.message and "kubectl label namespace" in cause.message
    assert not api.list(f"{NAMESPACES}/{name}/pods") and not api.list(f"{NAMESPACES}/{name}/resourcequotas")
    api.patch(f"{NAMESPACES}/{name}", {"metadata": {"labels": {HOME: namespace, "slipway.dev/organization": "acme"}}})
    becomes(version, Status.RUNNING, within_s=90)


def test_who_poses_as_an_instance_in_another_namespace_is_none(deploy, cluster, api, namespace):
    """Else whoever may make pods anywhere in the cluster could have callers' requests sent to them."""
    version = deploy()
    becomes(version, Status.RUNNING, within_s=90)
    (real,) = api.list(f"{NAMESPACES}/{namespace}-acme/pods")
    labels = real["metadata"]["labels"] | {HOME: namespace}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "poses", "labels": labels},
            "spec": {"containers": [{"name": "engine", "image": IMAGE, "command": ["sleep", "600"]}]}}  # fmt: skip
    path = f"{NAMESPACES}/default/pods"
    api.create(path, body)
    try:
        wait_for(lambda: (api.get(f"{path}/poses").get("status") or {}).get("podIP"), within_s=60, what="its address")
        look(version)
        assert [item.name for item in version.instances.all()] == [real["metadata"]["name"]]
        assert "poses" not in str(kubernetes_driver(cluster).observe())
    finally:
        api.delete(f"{path}/poses", grace_s=0)


def test_what_runs_stays_where_it_is_when_namespaces_come_later(people, api, namespace, account, deploy, cluster):
    Cluster.objects.update(namespace_template="")
    cluster.refresh_from_db()
    version = deploy()
    becomes(version, Status.RUNNING, within_s=90)
    before = live(version)
    cluster.namespace_template = TEMPLATE
    catalog.save_cluster(cluster, actor=people.operator)
    assert look(version).status == Status.RUNNING and live(version) == before
    assert version.instances.get().namespace == ""
    versions.scale_version(version, 2, actor=people.operator)
    wait_for(lambda: look(version) and len(live(version)) == 2, within_s=90, what="two instances")
    assert live(version) > before and {item.namespace for item in version.instances.all()} == {""}
    versions.stop_version(version, actor=people.operator)
    becomes(version, Status.STOPPED, within_s=PODS_END_S)
    versions.start_version(version, actor=people.operator)
    becomes(version, Status.RUNNING, within_s=90)
    assert {item.namespace for item in version.instances.filter(ended_at=None)} == {f"{namespace}-acme"}
    cluster.refresh_from_db()
    cluster.namespace_template = ""
    with pytest.raises(ServiceError, match="Stop them first") as refused:
        catalog.save_cluster(cluster, actor=people.operator)
    assert refused.value.field == "namespace_template"


def test_a_stranger_there_is_listed_and_adopted(deploy, people, cluster, namespace):
    version = deploy(simulator(secret_environment={"TOKEN": "planted"}))
    becomes(version, Status.RUNNING, within_s=90)
    instances = live(version)
    key = version.key
    version.deployment.delete()
    seen = kubernetes_driver(cluster).observe()
    strangers.look(cluster, kubernetes_driver(cluster), seen, {})
    stranger = Stranger.objects.get()
    assert stranger.name.startswith(f"{namespace}-acme/chat-v1")
    adopted = decisions.adopt(stranger, actor=people.operator)
    assert adopted.key == key and adopted.specification_with_secrets().secret_environment == {"TOKEN": "planted"}
    becomes(adopted, Status.RUNNING, within_s=30)
    assert live(adopted) == instances
