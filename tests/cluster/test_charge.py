"""Who acts in a namespace: one Slipway, one entry, one database; on a real API server."""

import time

import pytest

from common.service_error import ServiceError
from deployments import reconcile
from deployments.drivers import kubernetes_driver
from deployments.models import Cluster, Deployment, Installation, Instance, LeftBehind, Status, Stranger, Version
from deployments.services import catalog, forget, strangers, versions
from runtimes.claim import Claimant
from runtimes.kubernetes import lease
from runtimes.kubernetes.manifest import CLUSTER
from tests.cluster.conftest import PODS_END_S, admin_kubeconfig, forget_lease
from tests.cluster.test_pods import deploy, place, simulator
from tests.control.test_reconcile import becomes, live, look
from tests.waiting import wait_for

__all__ = ["deploy", "place"]
pytestmark = pytest.mark.django_db(transaction=True)
LIVING = Claimant("slipway", "one", "entry", "https://living.example")
COPY = Claimant("slipway", "two", "entry", "https://copy.example")
OTHER = Claimant("another", "one", "entry", "https://another.example")


@pytest.fixture
def claims(kubernetes, api, namespace, monkeypatch):
    """Ask for the charge as one of several; a second of silence is enough."""
    monkeypatch.setattr(lease, "SILENT_S", 1.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.0)
    monkeypatch.setattr(lease, "_CHALLENGED_S", 1.0)
    lease._memories.clear()

    def ask(me: Claimant, earlier: str = "", by_force: bool = False):
        return kubernetes.claim(me, earlier=earlier, by_force=by_force)

    yield ask
    forget_lease(api, namespace)


class TestLease:
    def test_whoever_comes_second_steps_back_and_both_know(self, claims):
        assert claims(LIVING).in_charge
        told = claims(OTHER)
        assert (told.in_charge, told.other, told.address) == (False, LIVING.name, LIVING.address)
        told = claims(LIVING)
        assert (told.in_charge, told.other, told.address) == (True, OTHER.name, OTHER.address)
        time.sleep(1.2)
        assert not claims(OTHER).in_charge, "silence alone makes nobody else's cluster ours"

    def test_a_challenger_that_goes_is_forgotten(self, claims):
        claims(LIVING)
        claims(OTHER)
        assert claims(LIVING).other
        assert wait_for(lambda: claims(LIVING).other == "", within_s=10)

    def test_a_copy_beside_the_living_database_steps_back_for_good(self, claims):
        claims(LIVING)
        assert claims(COPY, earlier=LIVING.name).is_waiting
        claims(LIVING)
        assert claims(COPY, earlier=LIVING.name).is_waiting, "it may have been its last word"
        claims(LIVING)
        told = claims(COPY, earlier=LIVING.name)
        assert not told.in_charge and not told.is_waiting and told.other == LIVING.name
        time.sleep(1.2)
        assert not claims(COPY, earlier=LIVING.name).in_charge, "the living one may only be upgrading"
        assert claims(COPY, earlier=LIVING.name, by_force=True).in_charge, "a person says so"
        assert not claims(LIVING, earlier=LIVING.name).in_charge

    def test_the_same_database_goes_on_after_a_restart_of_its_server(self, claims):
        claims(LIVING)
        assert claims(COPY, earlier=LIVING.name).is_waiting
        wait_for(lambda: claims(COPY, earlier=LIVING.name).in_charge, within_s=10)

    def test_a_lease_that_says_anything_harms_nobody(self, claims, api, namespace):
        claims(LIVING)
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{lease.NAME}"
        for annotation in ("[]", "{", '{"name": 5}', "null", "x" * 10_000):
            api.patch(path, {"metadata": {"annotations": {"slipway.dev/challenger": annotation}}})
            assert claims(LIVING).in_charge


def test_a_cluster_is_entered_once(place, people, client):
    twin = Cluster(name="again", driver=Cluster.Driver.KUBERNETES, namespace=place.cluster.namespace)
    with pytest.raises(ServiceError, match="already entered, as “pods”") as refused:
        catalog.save_cluster(twin, actor=people.operator, kubeconfig=admin_kubeconfig())
    assert refused.value.field == "namespace"
    client.force_login(people.operator)
    values = {"name": "again", "driver": "kubernetes", "namespace": place.cluster.namespace, "kubeconfig": admin_kubeconfig()}  # fmt: skip
    answer = client.post("/api/v1/clusters/", values | {"callers": ["0.0.0.0/0"]}, content_type="application/json")
    assert answer.status_code == 409 and "already entered, as “pods”" in answer.content.decode()
    page = client.post("/console/clusters/new/", values | {"reach": "address"})
    assert page.status_code == 422 and "already entered, as “pods”" in page.content.decode()
    elsewhere = Cluster(name="elsewhere", driver=Cluster.Driver.KUBERNETES, namespace="default")
    catalog.save_cluster(elsewhere, actor=people.operator, kubeconfig=admin_kubeconfig())
    assert Cluster.objects.get(name="elsewhere").identity == Cluster.objects.get(name="pods").identity


def test_an_entry_twice_from_before_ends_nothing(deploy, place):
    """Entered twice while identities weren't kept: the second steps back, and says beside which one it stands."""
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    before = live(version)
    twin = Cluster.objects.get(pk=place.cluster.pk)
    twin.pk, twin.name, twin.uid, twin.identity = None, "twin", "another-entry", ""
    twin.save(force_insert=True)
    for _ in range(5):
        reconcile.reconcile_cluster(twin.pk)
    twin.refresh_from_db()
    assert (twin.charge, twin.charge_of, twin.is_ours) == (Cluster.Charge.SAME, "pods", False)
    becomes(version, Status.RUNNING)
    assert live(version) == before and not Stranger.objects.exists()


def test_beside_another_one_nothing_is_done_until_a_person_says_so(deploy, people, place, api, namespace):
    # It was here first, and has a Deployment of its own.
    other = kubernetes_driver(place.cluster)
    other.claim(OTHER, earlier="", by_force=True)
    version = deploy(simulator())
    for _ in range(3):
        look(version)
    assert version.status == Status.PREPARING and not other.observe().workloads
    cluster = Cluster.objects.get(pk=place.cluster.pk)
    assert (cluster.charge, cluster.charge_of, cluster.charge_address) == ("others", OTHER.name, OTHER.address)
    strangers.take_charge(cluster, actor=people.operator)
    becomes(version, Status.RUNNING, within_s=90)
    cluster.refresh_from_db()
    assert cluster.is_ours and not cluster.takes_charge
    other.claim(OTHER, earlier="", by_force=False)
    look(version)
    look(version)
    cluster.refresh_from_db()
    assert (cluster.charge, cluster.charge_address) == (Cluster.Charge.CHALLENGED, OTHER.address)


def test_a_restored_copy_of_yesterday_ends_nothing_and_doubles_nothing(deploy, place, people, monkeypatch):
    """The copy knows nothing of what was started since, and wants what was stopped since."""
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    before = live(version)
    known = Cluster.objects.get(pk=place.cluster.pk)
    living = Claimant(Installation.name(), Installation.incarnation(), known.uid, "https://living.example")
    Version.objects.all().delete()
    monkeypatch.setattr(Installation, "incarnation", staticmethod(lambda: "restored"))
    stopped_since = deploy(simulator(), name="older")
    driver = kubernetes_driver(known)
    for _ in range(4):
        reconcile.reconcile_cluster(known.pk)
        monkeypatch.setattr(lease, "RENEW_S", 0.0)
        assert driver.claim(living, earlier=living.name, by_force=False).in_charge
    seen = driver.observe()
    assert {item.uid for items in seen.instances.values() for item in items} == before
    assert look(stopped_since).status == Status.PREPARING
    known.refresh_from_db()
    assert known.charge == Cluster.Charge.OTHERS and not known.is_ours


def test_labels_of_earlier_builds_are_brought_up_without_an_end_of_pods(deploy, place, api, namespace):
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    before = live(version)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    (found,) = [item for item in api.list(path) if item["metadata"]["labels"].get("slipway.dev/version") == version.key]
    name = found["metadata"]["name"]
    api.patch(
        f"{path}/{name}", {"metadata": {"labels": {CLUSTER: None}, "annotations": {"slipway.dev/description": None}}}
    )
    becomes(version, Status.RUNNING)
    after = api.get(f"{path}/{name}")
    assert after["metadata"]["labels"][CLUSTER] == Cluster.objects.get().uid
    assert '"deployment":"chat"' in after["metadata"]["annotations"]["slipway.dev/description"]
    assert after["spec"] == found["spec"], "what pods are made from is the same"
    assert live(version) == before and version.instances.get().restarts == 0


def test_a_stranger_is_adopted_as_it_runs(deploy, place, people):
    version = becomes(deploy(simulator(secret_environment={"TOKEN": "planted-4713"})), Status.RUNNING, within_s=90)
    before, key = live(version), version.key
    # The database that is restored knows nothing of it, not even of its deployment.
    Deployment.objects.all().delete()
    cluster = Cluster.objects.get()
    Cluster.objects.filter(pk=cluster.pk).update(uid="entered-anew")
    # It waits until the earlier entry has been silent for long enough.
    wait_for(lambda: reconcile.reconcile_cluster(cluster.pk) or Stranger.objects.exists(), within_s=60)
    (stranger,) = Stranger.objects.all()
    assert (stranger.version_key, stranger.ready, stranger.replicas) == (key, 1, 1)
    stranger.cluster.refresh_from_db()
    adopted = strangers.adopt(stranger, actor=people.operator)
    assert (adopted.key, adopted.number, adopted.deployment.api_id) == (key, 1, "acme/chat")
    assert adopted.specification_with_secrets().secret_environment["TOKEN"] == "planted-4713"
    becomes(adopted, Status.RUNNING, within_s=30)
    assert live(adopted) == before and Instance.objects.get(ended_at=None).restarts == 0
    versions.scale_version(adopted, 2, actor=people.operator)
    wait_for(lambda: look(adopted) and adopted.instances.filter(phase="ready").count() == 2, within_s=60)
    versions.stop_version(adopted, actor=people.operator)
    becomes(adopted, Status.STOPPED, within_s=PODS_END_S)
    # Kubernetes removes a Deployment in the foreground: after the last of its pods.
    wait_for(lambda: not kubernetes_driver(Cluster.objects.get()).observe().workloads, within_s=60)


def test_what_was_forgotten_is_known_when_its_cluster_comes_back(deploy, place, people):
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    deployment, cluster = version.deployment, place.cluster
    with pytest.raises(ServiceError, match="answers"):
        forget.forget(version, actor=people.operator)
    stored = Cluster.objects.get(pk=cluster.pk).encrypted_kubeconfig
    catalog.save_cluster(cluster, actor=None, kubeconfig=admin_kubeconfig().replace(":6443", ":1"))
    look(version)
    assert forget.may_be_left(deployment) == ["1 instance of version 1 of acme/chat"]
    forget.forget(deployment, actor=people.operator)
    assert not Deployment.objects.exists() and LeftBehind.objects.get().version_key == version.key
    Cluster.objects.filter(pk=cluster.pk).update(encrypted_kubeconfig=stored)
    wait_for(lambda: reconcile.reconcile_cluster(cluster.pk) or Stranger.objects.exists(), within_s=30)
    stranger = Stranger.objects.get()
    assert stranger.ready == 1, "it was not ended"
    stranger.cluster.refresh_from_db()
    strangers.remove(stranger, actor=people.operator)
    wait_for(lambda: reconcile.reconcile_cluster(cluster.pk) or not Stranger.objects.exists(), within_s=60)


def test_a_dead_cluster_is_forgotten_with_all_that_was_on_it(deploy, place, people):
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    Cluster.objects.filter(pk=place.cluster.pk).update(unreachable_reason="It is gone.")
    forget.forget(Cluster.objects.get(pk=place.cluster.pk), actor=people.operator)
    assert not Cluster.objects.exists() and not Version.objects.exists()
    assert LeftBehind.objects.get().version_key == version.key


def test_a_database_that_is_older_than_what_runs_ends_nothing(deploy, people, place):
    """Started again since the copy was made, where it was stopped: a later start than any that it knows of."""
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    versions.stop_version(version, actor=people.operator)
    becomes(version, Status.STOPPED, within_s=PODS_END_S)
    versions.start_version(version, actor=people.operator)
    becomes(version, Status.RUNNING, within_s=90)
    before = live(version)
    Instance.objects.all().delete()
    Version.objects.update(generation=1, status=Status.STOPPED, desired_state="stopped")
    for _ in range(3):
        reconcile.reconcile_cluster(place.cluster.pk)
    (stranger,) = Stranger.objects.all()
    assert (stranger.generation, stranger.ready) == (2, 1)
    assert {item.uid for item in kubernetes_driver(Cluster.objects.get()).observe().instances[version.key]} == before
    # Another version of the deployment that it still wants is not started beside it.
    second = versions.create_version(version.deployment, simulator(), 1, actor=people.operator)
    look(second)
    look(second)
    assert second.status == Status.PREPARING and second.cause.code == "stranger_serves"
    versions.stop_version(second, actor=people.operator)
    becomes(second, Status.STOPPED)
    stranger.cluster.refresh_from_db()
    strangers.adopt(Stranger.objects.get(), actor=people.operator)
    becomes(version, Status.RUNNING)
    assert live(version) == before and version.generation == 2


def test_labels_taken_away_by_hand_end_nothing_and_stop_all_the_same(deploy, people, api, namespace):
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    before = live(version)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    (made,) = [item for item in api.list(path) if item["metadata"]["labels"].get("slipway.dev/version") == version.key]
    name = made["metadata"]["name"]
    for label in ("slipway.dev/generation", "app.kubernetes.io/managed-by"):
        api.patch(f"{path}/{name}", {"metadata": {"labels": {label: None}}})
        for _ in range(2):
            becomes(version, Status.RUNNING)
        assert live(version) == before
    api.patch(f"{path}/{name}", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}})
    versions.stop_version(version, actor=people.operator)
    becomes(version, Status.STOPPED, within_s=PODS_END_S)


def test_pods_whose_deployment_was_deleted_without_them_are_taken_back_and_stopped(deploy, people, api, namespace):
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    before = live(version)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"

    def orphan() -> None:
        (made,) = [
            item for item in api.list(path) if item["metadata"]["labels"].get("slipway.dev/version") == version.key
        ]
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Orphan"}
        api._json("DELETE", f"{path}/{made['metadata']['name']}", body=body)
        wait_for(lambda: not api.list(path, labelSelector=f"slipway.dev/version={version.key}"), within_s=30)

    orphan()
    wait_for(lambda: look(version) and api.list(path, labelSelector=f"slipway.dev/version={version.key}"), within_s=30)
    becomes(version, Status.RUNNING)
    assert live(version) == before, "a Deployment of the same selectors takes them over"
    orphan()
    versions.stop_version(version, actor=people.operator)
    becomes(version, Status.STOPPED, within_s=PODS_END_S)


def test_what_says_that_it_is_anothers_is_not_touched(deploy, api, namespace, place):
    version = becomes(deploy(simulator(), replicas=1), Status.RUNNING, within_s=90)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    (made,) = [item for item in api.list(path) if item["metadata"]["labels"].get("slipway.dev/version") == version.key]
    name = made["metadata"]["name"]
    api.patch(f"{path}/{name}", {"metadata": {"labels": {CLUSTER: "zzz"}}, "spec": {"replicas": 2}})
    for _ in range(3):
        look(version)
    assert api.get(f"{path}/{name}")["spec"]["replicas"] == 2, "it is somebody else's to scale"
    assert Stranger.objects.get().name == name
    assert version.status == Status.RUNNING and version.cause.code in ("stranger_serves", "driver_refused")


def test_a_stranger_that_says_anything_harms_nobody(deploy, api, namespace, place):
    version = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    (made,) = [item for item in api.list(path) if item["metadata"]["labels"].get("slipway.dev/version") == version.key]
    odd = {"matchLabels": {"app": "odd"}}
    template = {"metadata": {"labels": {"app": "odd"}}, "spec": made["spec"]["template"]["spec"]}
    for number, (generation, description) in enumerate(
        [("abc", "{"), ("99999999999", "null"), ("1", '{"organization": 5}'), ("2", "a\0b"), ("99", "x" * 100_000)]
    ):
        labels = made["metadata"]["labels"] | {"slipway.dev/generation": generation}
        if number % 2:
            labels[CLUSTER] = "elsewhere"
        api.create(path, {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": f"odd-{number}", "labels": labels, "annotations": {"slipway.dev/description": description}},
            "spec": {"replicas": 0, "selector": odd, "template": template},
        })  # fmt: skip
    before = live(version)
    for _ in range(3):
        becomes(version, Status.RUNNING)
    assert live(version) == before and Stranger.objects.count() >= 3
