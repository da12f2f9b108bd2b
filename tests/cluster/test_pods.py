"""Versions as pods of a real cluster: the right state each time, with the cluster's own words as evidence."""

import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from deployments import kubernetes_watching, last_words, log_store, reconcile
from deployments.drivers import kubernetes_driver
from deployments.models import Cluster, Deployment, Endpoint, Instance, LastWords, Model, Status, Version
from deployments.services import catalog, versions
from deployments.services.deployments import create_deployment
from gateway.routing.directory import read_snapshot
from monitoring import collect, series
from monitoring.tiers import TIERS
from runtimes.allowances import Allowances
from runtimes.driver import DriverError
from runtimes.kubernetes import nodes
from runtimes.kubernetes.client import KubernetesClient
from runtimes.launch_plan import LaunchPlan
from runtimes.specification import PodAffinity, Specification, Toleration
from tests.cluster.conftest import IMAGE, PODS_END_S, admin_kubeconfig, clear
from tests.control.test_reconcile import becomes, live, look
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
QUICK = {"time_to_first_token_ms": 5, "inter_token_ms": 1, "load_time_s": 0}


def simulator(**values: Any) -> Specification:
    settings = QUICK | values.pop("settings", {})
    given = {"cpu": 0.1, "memory": 128 << 20, "image": IMAGE} | values
    return Specification("simulator", "acme/chat", engine_settings=settings, **given)


def command(text: str, **values: Any) -> Specification:
    settings = {"command": text, "health_path": "/", "start_deadline_s": values.pop("deadline_s", 300)}
    return Specification("custom_command", "acme/chat", cpu=0.1, memory=64 << 20, image=values.pop("image", IMAGE), engine_settings=settings, **values)  # fmt: skip


@pytest.fixture
def place(
    people: SimpleNamespace, api: KubernetesClient, namespace: str, day_partitions: None
) -> Iterator[SimpleNamespace]:
    cluster = Cluster(name="pods", driver=Cluster.Driver.KUBERNETES, namespace=namespace)
    cluster.allowances = Allowances.everything().to_json()
    catalog.save_cluster(cluster, actor=people.operator, kubeconfig=admin_kubeconfig())
    model = catalog.save_model(Model(organization=people.ours, name="A model"), actor=people.operator)
    endpoint = catalog.save_endpoint(
        Endpoint(organization=people.ours, name="main", cluster=cluster), actor=people.operator
    )
    yield SimpleNamespace(cluster=cluster, model=model, endpoint=endpoint)
    clear(api, namespace)


@pytest.fixture
def deploy(people: SimpleNamespace, place: SimpleNamespace) -> Callable[..., Version]:
    def make(specification: Specification, replicas: int = 1, name: str = "chat") -> Version:
        deployment = Deployment(organization=people.ours, model=place.model, endpoint=place.endpoint, name=name)
        return create_deployment(deployment, specification, replicas, actor=people.admin).versions.get()

    return make


def cause_is(version: Version, code: str, within_s: float = 90) -> Any:
    """Wait until the version tells this cause, whatever its status; the cause."""

    def told() -> bool:
        look(version)
        return bool(version.cause and version.cause.code == code) or _of_instances(version, code) is not None

    wait_for(told, within_s=within_s, what=code)
    return version.cause if version.cause and version.cause.code == code else _of_instances(version, code)


def _of_instances(version: Version, code: str) -> Any:
    return next((item.cause for item in version.instances.all() if item.cause and item.cause.code == code), None)


def test_from_deploying_to_leaving_nothing_behind(deploy, people, place, api, namespace):
    version = deploy(simulator(secret_environment={"TOKEN": "planted-4711"}), replicas=2)
    becomes(version, Status.RUNNING, within_s=90)
    wait_for(
        lambda: becomes(version, Status.RUNNING) and version.instances.filter(phase="ready").count() == 2, within_s=60
    )
    (target,) = read_snapshot().targets
    assert len(target.addresses) == 2 and all(address.host.startswith("10.") for address in target.addresses)
    place.cluster.reach = Cluster.Reach.API_SERVER
    catalog.save_cluster(place.cluster, actor=people.operator)
    (proxied,) = read_snapshot().targets
    assert {address.prefix.rpartition(":")[0] for address in proxied.addresses} == {
        f"/api/v1/namespaces/{namespace}/pods/{name}" for name in version.instances.values_list("name", flat=True)
    }
    before = live(version)
    versions.scale_version(version, 1, actor=people.admin)
    wait_for(lambda: becomes(version, Status.RUNNING) and len(live(version)) == 1, within_s=90, what="one instance")
    assert live(version) < before, "the one that stays is not touched"
    path = f"/api/v1/namespaces/{namespace}/secrets"
    assert any(item["metadata"]["name"].startswith("chat-v1") for item in api.list(path))
    versions.stop_version(version, actor=people.admin)
    becomes(version, Status.STOPPED, within_s=PODS_END_S)
    for kind in (f"/apis/apps/v1/namespaces/{namespace}/deployments", path, f"/api/v1/namespaces/{namespace}/pods"):
        assert not [item for item in api.list(kind) if "slipway.dev/version" in (item["metadata"].get("labels") or {})]


def test_every_field_of_the_form_reaches_the_pod(deploy, api, namespace):
    specification = simulator(
        environment={"PLAIN": "1"}, secret_environment={"HIDDEN": "2"}, labels={"team": "search"}, annotations={"example.com/a": "b c"},
        tolerations=(Toleration("gpu", "Equal", "true", "NoSchedule"), Toleration("spot", "Exists")), node_selector={"kubernetes.io/os": "linux"},
        pod_affinity=(PodAffinity("app", "batch", "away"),), extra_arguments=("--inter-token-ms", "2"), context_length=2048,
    )  # fmt: skip
    version = deploy(specification)
    becomes(version, Status.RUNNING, within_s=90)
    (pod,) = [
        item
        for item in api.list(f"/api/v1/namespaces/{namespace}/pods")
        if item["metadata"]["labels"].get("slipway.dev/version") == version.key
    ]
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert pod["metadata"]["labels"]["team"] == "search" and pod["metadata"]["annotations"]["example.com/a"] == "b c"
    assert {"key": "gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"} in spec["tolerations"]
    assert {"key": "spot", "operator": "Exists"} in spec["tolerations"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"} and spec["affinity"]["podAntiAffinity"]
    assert container["command"][-2:] == ["--inter-token-ms", "2"] and "2048" in container["command"]
    variables = {item["name"]: item for item in container["env"]}
    assert variables["PLAIN"]["value"] == "1" and variables["HIDDEN"]["valueFrom"]["secretKeyRef"]["key"] == "HIDDEN"
    assert "2" not in [item.get("value") for item in container["env"]]
    limits = {name: nodes.quantity(value) for name, value in container["resources"]["limits"].items()}
    assert limits == {"cpu": Decimal("0.1"), "memory": 128 << 20}
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_an_image_that_is_not_there_waits_then_fails_with_the_clusters_words(deploy):
    version = deploy(command("x", image="registry.example.invalid/none:1", deadline_s=15))
    cause = cause_is(version, "registry_unreachable")
    assert version.status == Status.PREPARING and cause.field == "image" and cause.evidence
    becomes(version, Status.ERROR, within_s=60)
    assert version.cause.code == "registry_unreachable" and version.start_again_at


def test_no_node_that_fits_is_told_in_the_schedulers_words(deploy):
    version = deploy(simulator(cpu=500))
    cause = cause_is(version, "unschedulable")
    assert version.status == Status.PREPARING and "Insufficient cpu" in cause.evidence[0]


def test_a_gpu_where_there_is_none_is_unschedulable(deploy):
    version = deploy(simulator(gpu=1))
    assert "nvidia.com/gpu" in cause_is(version, "unschedulable").evidence[0]


def test_vllm_reaches_the_cluster_with_all_that_it_needs(deploy, api, namespace):
    """It can't run without a GPU; the cluster takes the pod and waits for one."""
    version = deploy(
        Specification(
            "vllm", "acme/chat", model_uri="org/model", image="vllm/vllm-openai:v0.18.0", context_length=4096, gpu=2, cpu=0.1, memory=1 << 30,
            secret_environment={"HF_TOKEN": "planted-4712"}, engine_settings={"max_num_seqs": 64},
        )
    )  # fmt: skip
    assert "nvidia.com/gpu" in cause_is(version, "unschedulable").evidence[0]
    (pod,) = [
        item
        for item in api.list(f"/api/v1/namespaces/{namespace}/pods")
        if item["metadata"]["labels"].get("slipway.dev/version") == version.key
    ]
    (container,) = pod["spec"]["containers"]
    command = " ".join([*container.get("command", ()), *container.get("args", ())])
    for words in ("vllm serve org/model", "--tensor-parallel-size 2", "--max-model-len 4096", "--max-num-seqs 64"):
        assert words in command
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2" and container["image"].endswith(":v0.18.0")
    (memory,) = [volume for volume in pod["spec"]["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    assert {"name": memory["name"], "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert container["startupProbe"]["httpGet"]["path"] == "/health"
    assert "planted-4712" not in str(pod)


def test_a_quota_that_is_used_up_is_told_and_waited_for(deploy, api, namespace):
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    spec = {"hard": {"pods": "0"}}
    api.create(quotas, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": spec})
    wait_for(lambda: "hard" in api.get(f"{quotas}/none").get("status", {}), what="the quota")
    try:
        version = deploy(simulator())
        cause = cause_is(version, "quota_exceeded")
        assert "exceeded quota: none" in cause.message and version.status == Status.PREPARING
    finally:
        api.delete(f"{quotas}/none")
    # The cluster itself tries again, less and less often.
    becomes(version, Status.RUNNING, within_s=150)


def test_scaling_under_a_full_quota_keeps_the_secret(deploy, people, api, namespace):
    version = deploy(simulator(secret_environment={"TOKEN": "x"}))
    becomes(version, Status.RUNNING, within_s=90)
    path = f"/api/v1/namespaces/{namespace}"
    spec = {"hard": {"secrets": "1", "count/deployments.apps": "1"}}
    api.create(f"{path}/resourcequotas", {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": spec})  # fmt: skip
    try:
        wait_for(lambda: "used" in api.get(f"{path}/resourcequotas/full").get("status", {}), what="the quota")
        versions.scale_version(version, 2, actor=people.admin)
        wait_for(lambda: look(version) and version.instances.filter(phase="ready").count() == 2, within_s=60)
        assert [item for item in api.list(f"{path}/secrets") if item["metadata"]["name"].startswith("chat-v1")]
    finally:
        api.delete(f"{path}/resourcequotas/full")


def test_out_of_memory_offers_more(deploy):
    version = deploy(command("python3 -c 'x = b\"a\" * (300 << 20)'"))
    cause = cause_is(version, "out_of_memory")
    assert cause.field == "memory" and "OOMKilled" in cause.evidence[0]


def test_a_crash_tells_the_last_words_of_the_container_before(deploy, place):
    version = deploy(command("python3 -uc 'print(\"about to fail\"); raise SystemExit(3)'"))
    cause = cause_is(version, "crashed")
    assert "about to fail" in "\n".join(cause.evidence)
    (instance,) = version.instances.all()
    wait_for(lambda: look(version) and Instance.objects.get(pk=instance.pk).restarts >= 1, within_s=60)
    lines = list(kubernetes_driver(place.cluster).pod_log(instance.name, after=0, restarted=True, fetching=False))
    assert sum("about to fail" in line.text for line in lines) >= 1


def test_a_probe_that_never_succeeds_ends_at_the_deadline(deploy):
    version = deploy(command("python3 -c 'import time; time.sleep(600)'", deadline_s=15))
    becomes(version, Status.ERROR, within_s=90)
    assert version.cause.code in ("probe_failed", "start_timeout")


def test_a_secret_that_vanished_is_named(deploy, api, namespace, place):
    version = deploy(simulator(secret_environment={"TOKEN": "x"}))
    becomes(version, Status.RUNNING, within_s=90)
    path = f"/api/v1/namespaces/{namespace}"
    for item in api.list(f"{path}/secrets"):
        if item["metadata"]["name"].startswith("chat-v1"):
            api.delete(f"{path}/secrets/{item['metadata']['name']}")
    (instance,) = version.instances.filter(ended_at=None)
    api.delete(f"{path}/pods/{instance.name}")
    assert "secret" in cause_is(version, "missing_secret").message


def test_a_pod_deleted_by_hand_is_replaced(deploy, api, namespace):
    version = deploy(simulator())
    becomes(version, Status.RUNNING, within_s=90)
    (first,) = version.instances.filter(ended_at=None)
    api.delete(f"/api/v1/namespaces/{namespace}/pods/{first.name}")

    def replaced() -> bool:
        becomes(version, Status.RUNNING)
        return version.instances.filter(ended_at=None, phase="ready").exclude(pk=first.pk).exists()

    wait_for(replaced, within_s=90, what="another instance")
    wait_for(lambda: becomes(version, Status.RUNNING) and Instance.objects.get(pk=first.pk).ended_at, within_s=60)


def test_a_cluster_that_is_away_freezes_the_status_and_comes_back_by_itself(deploy, place):
    version = deploy(simulator())
    becomes(version, Status.RUNNING, within_s=90)
    stored = place.cluster.encrypted_kubeconfig
    gone = admin_kubeconfig().replace(":6443", ":1")
    catalog.save_cluster(place.cluster, actor=None, kubeconfig=gone)
    for _ in range(3):
        becomes(version, Status.RUNNING)
    cluster = Cluster.objects.get(pk=place.cluster.pk)
    assert "can't be reached" in cluster.unreachable_reason and cluster.seen_at
    assert [target.addresses for target in read_snapshot().targets] != [()]
    Cluster.objects.filter(pk=cluster.pk).update(encrypted_kubeconfig=stored)
    place.cluster.refresh_from_db()
    becomes(version, Status.RUNNING)
    assert Cluster.objects.get(pk=cluster.pk).unreachable_reason == ""


def test_logs_are_stored_and_outlive_the_pod(deploy, people, place):
    version = deploy(command("python3 -uc 'import http.server; print(\"said once\"); http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)'"))  # fmt: skip
    becomes(version, Status.RUNNING, within_s=90)
    watcher = kubernetes_watching.KubernetesWatcher(place.cluster)
    watcher.start()
    try:
        (instance,) = version.instances.all()
        wait_for(lambda: log_store.scratch().xlen(log_store.tail_key(instance.uid)), within_s=30, what="a live line")
        versions.stop_version(version, actor=people.admin)
        becomes(version, Status.STOPPED, within_s=PODS_END_S)
        wait_for(lambda: Instance.objects.get(pk=instance.pk).log_complete, within_s=30, what="the whole log")
    finally:
        watcher.stop()
        watcher.finish()
    texts = [line.text for line in log_store.read_all(instance.uid)]
    assert sum("said once" in text for text in texts) == 1


def test_a_change_marks_the_cluster_at_once(deploy, place, monkeypatch):
    version = deploy(simulator())
    marked = threading.Event()
    monkeypatch.setattr(kubernetes_watching, "enqueue", lambda task, pk: marked.set())
    watcher = kubernetes_watching.KubernetesWatcher(place.cluster)
    watcher.start()
    try:
        time.sleep(1)
        marked.clear()
        becomes(version, Status.RUNNING, within_s=90)
        assert marked.wait(5)
    finally:
        watcher.stop()


def test_cpu_and_memory_of_pods_are_sampled(deploy, place):
    version = deploy(simulator(settings={"cpu_burn_cores": 0.05}))
    becomes(version, Status.RUNNING, within_s=90)
    wait_for(lambda: collect.collect_kubernetes(place.cluster), within_s=30, what="a sample")

    def sampled() -> Any:
        collect.collect_kubernetes(place.cluster)
        frame = series.system([version.pk], int(time.time()) - 600, int(time.time()) + 10, TIERS[0])
        return frame if len(frame.of("cpu_user")) >= 2 else None

    frame = wait_for(sampled, within_s=60, what="two samples with rates")
    memory, user = frame.of("memory_used").average, frame.of("cpu_user").average
    assert all(5 << 20 < value < 128 << 20 for value in memory)
    # A look of the kubelet's that came twice is no sample of an idle processor.
    assert all(0 < value < 1 for value in user + frame.of("cpu_system").average)
    assert list(frame.of("requests_running").average)[-1] == 0
    assert frame.of("replicas_active").average.max() == 1


def test_a_refused_deployment_leaves_no_secret_behind(kubernetes, api, namespace):
    plan = LaunchPlan("x", (), image=IMAGE, labels={"no key!": "x"}, secret_environment={"TOKEN": "planted"})
    with pytest.raises(DriverError, match="no key!"):
        kubernetes.run("v9", 1, plan, 1, name="refused")
    names = [item["metadata"]["name"] for item in api.list(f"/api/v1/namespaces/{namespace}/secrets")]
    assert not [name for name in names if name.startswith("refused")]


def test_pods_that_wait_cost_no_log_requests_and_nothing_is_written(deploy, place, people, monkeypatch):
    """Ten that find no room and one that runs: after the first look nothing is written, and one log is asked for, once."""
    runs = becomes(deploy(simulator()), Status.RUNNING, within_s=90)
    for number in range(10):
        deploy(simulator(cpu=500), name=f"large-{number}")
    waiting = Version.objects.exclude(pk=runs.pk)
    wait_for(
        lambda: look(runs) and all(item.cause and item.cause.code == "unschedulable" for item in waiting.all()),
        within_s=60,
        what="all told why they wait",
    )
    asked: list[str] = []
    sent = KubernetesClient._send

    def counted(self, method, path, **options):
        if path.endswith("/log"):
            asked.append(path)
        return sent(self, method, path, **options)

    monkeypatch.setattr(KubernetesClient, "_send", counted)
    watcher = kubernetes_watching.KubernetesWatcher(place.cluster)
    watcher.start()
    try:
        wait_for(lambda: asked, within_s=20, what="the log of the one that runs")
        with CaptureQueriesContext(connection) as queries:
            for _ in range(10):
                reconcile._reconcile_once(Cluster.objects.get(pk=place.cluster.pk))
                time.sleep(0.3)
        written = [item["sql"] for item in queries if not item["sql"].startswith("SELECT")]
        assert not written, written
        assert len(asked) == 1, asked
    finally:
        watcher.stop()
        watcher.finish()


def test_the_last_lines_of_each_run_are_kept_and_diagnosed(deploy, place):
    """The root cause stands far above the last lines, as vLLM's does above its API server's traceback."""
    text = 'print("the root of it"); [print("noise", n) for n in range(60)]; raise SystemExit(4)'
    version = deploy(command(f"python3 -uc '{text}'"))
    cause_is(version, "crashed")
    wait_for(lambda: look(version) and LastWords.objects.count() >= 2, within_s=90, what="two ends")
    for words in LastWords.objects.all():
        lines = last_words.lines_of(words)
        assert lines[0] == "the root of it" and len(lines) == 61 and words.exit_code == 4
