"""What a cluster's own exporters tell of pods: NVIDIA's of GPUs, the metrics API of the rest. Read with the recipe's rights.

This cluster has neither GPUs nor those exporters: pods with pages as theirs stand in, the way to them is the real one.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deployments.models import Status, Version
from deployments.services import catalog
from monitoring import collect, panel, series
from monitoring.models import MeteredInstance
from monitoring.question import Question
from monitoring.tiers import TIERS
from runtimes.driver import DriverError
from runtimes.kubernetes import kubeconfig
from runtimes.kubernetes.client import KubernetesClient, NotFoundError
from runtimes.kubernetes.driver import KubernetesDriver
from tests.cluster.conftest import IMAGE, admin_kubeconfig, apply_recipe
from tests.cluster.test_pods import deploy, place, simulator
from tests.control.test_reconcile import becomes
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
assert deploy and place
SCRIPT = Path(__file__).with_name("metrics_page.py")
GIB = 1 << 30
API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices"


@pytest.fixture
def serve(api: KubernetesClient, namespace: str) -> Iterator[Callable[..., str]]:
    """Start a pod that answers with a page; its name. It goes after the test."""
    path, names = f"/api/v1/namespaces/{namespace}/pods", []

    def start(name: str, page: str, port: int, labels: dict[str, str], **environment: str) -> str:
        values = {"PAGE": page, "PORT": str(port), "TYPE": "text/plain"} | environment
        container = {
            "name": "page", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["python3", "-uc", SCRIPT.read_text()],
            "env": [{"name": key, "value": value} for key, value in values.items()],
            "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        }  # fmt: skip
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}  # fmt: skip
        api.create(path, body)
        names.append(name)

        def is_ready() -> bool:
            conditions = api.get(f"{path}/{name}")["status"].get("conditions") or ()
            return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

        wait_for(is_ready, within_s=60, what=name)
        return name

    yield start
    for name in names:
        api.delete(f"{path}/{name}", grace_s=0)


@pytest.fixture
def gpu_node(api: KubernetesClient) -> Iterator[None]:
    """The node says that it has two GPUs; the cluster places pods by that alone."""
    node = f"/api/v1/nodes/{api.list('/api/v1/nodes')[0]['metadata']['name']}/status"
    api.patch(node, {"status": {"capacity": {"nvidia.com/gpu": "2"}}})
    yield
    api.patch(node, {"status": {"capacity": {"nvidia.com/gpu": None}}})


def exporter_page(namespace: str, pod: str) -> str:
    """As the DCGM exporter of NVIDIA's GPU operator writes it, with its mapping of pods on."""
    lines = ["# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).", "# TYPE DCGM_FI_DEV_GPU_UTIL gauge"]
    for gpu, owner, utilization, used in ((0, pod, 63, 100_000), (1, "another", 9, 5)):
        labels = (
            f'gpu="{gpu}",UUID="GPU-{gpu}",pci_bus_id="00000000:01:00.0",device="nvidia{gpu}",modelName="NVIDIA H200",'
            f'Hostname="node1",container="engine",namespace="{namespace}",pod="{owner}"'
        )
        lines += [f"DCGM_FI_DEV_GPU_UTIL{{{labels}}} {utilization}", f"DCGM_FI_DEV_FB_USED{{{labels}}} {used}"]
        lines += [f"DCGM_FI_DEV_FB_FREE{{{labels}}} 43000", f"DCGM_FI_DEV_FB_RESERVED{{{labels}}} 771"]
    return "\n".join(lines) + "\n"


def restricted(api: KubernetesClient, namespace: str, account: str, *, without: str = "") -> str:
    """A kubeconfig with the recipe's rights, but for one resource of the whole cluster."""
    config = yaml.safe_load(admin_kubeconfig() or "")
    config["users"][0]["user"] = {"token": apply_recipe(api, namespace, account, proxied=False)}
    if without:
        name = f"{account}-{namespace}-core-{without.replace('/', '-')}"
        api.delete(f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}")
    return yaml.safe_dump(config)


def driver_by(text: str, namespace: str) -> KubernetesDriver:
    return KubernetesDriver(
        KubernetesClient(kubeconfig.read(text)), namespace=namespace, installation="any", cluster="a"
    )


def test_gpus_of_pods_come_from_the_exporter_of_each_node(gpu_node, deploy, place, serve, api, namespace):
    version: Version = deploy(simulator(gpu=1))
    becomes(version, Status.RUNNING, within_s=90)
    instance = version.instances.get()
    reason = "the cluster has no DCGM exporter; NVIDIA's GPU operator brings one"
    collect.collect_kubernetes(place.cluster)
    assert MeteredInstance.objects.get(uid=instance.uid).gpu_reason == reason
    serve("dcgm-exporter-abcde", exporter_page(namespace, instance.name), 9400, {"app": "nvidia-dcgm-exporter"})
    # A second one that answers nothing usable hides nothing of the first.
    serve("dcgm-exporter-fghij", "<html>", 9400, {"app.kubernetes.io/name": "dcgm-exporter"})
    driver = driver_by(restricted(api, namespace, "gpus"), namespace)
    (gpu,) = driver.gpus()[instance.name]
    assert (gpu.index, gpu.name, gpu.utilization) == (0, "NVIDIA H200", 63)
    assert (gpu.memory_used, gpu.memory_total) == (100_000 << 20, 143_771 << 20)

    def sampled() -> Any:
        collect.collect_kubernetes(place.cluster)
        frame = series.system([version.pk], int(time.time()) - 600, int(time.time()) + 10, TIERS[0])
        return frame if len(frame.of("gpu_utilization")) else None

    frame = wait_for(sampled, within_s=30, what="the GPU's figures")
    assert frame.of("gpu_utilization").average[-1] == pytest.approx(0.63)
    assert frame.of("gpu_memory_total").average[-1] == pytest.approx(143_771 << 20)
    assert frame.of("gpu_memory_used").device.tolist()[-1] == 0
    assert MeteredInstance.objects.get(uid=instance.uid).gpu_reason == ""


def test_without_the_right_to_the_nodes_pages_the_metrics_api_has_the_sum(deploy, place, people, serve, api, namespace):
    account = restricted(api, namespace, "sums", without="nodes/proxy")
    catalog.save_cluster(place.cluster, actor=people.operator, kubeconfig=account)
    version: Version = deploy(simulator())
    becomes(version, Status.RUNNING, within_s=90)
    instance = version.instances.get()
    driver = driver_by(account, namespace)
    with pytest.raises(NotFoundError):
        driver.totals()
    collect.collect_kubernetes(place.cluster)
    reason = MeteredInstance.objects.get(uid=instance.uid).usage_reason
    shown = panel.build(version.deployment, Question(), int(time.time()))["charts"]["cpu"]["absent"]
    assert reason and reason in shown and "which ones are missing" in shown, shown
    usage = {"cpu": "1234567891n", "memory": f"{3 * 1024}Mi"}
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    item = {"metadata": {"name": instance.name, "namespace": namespace}, "timestamp": stamp, "window": "15s",
            "containers": [{"name": "engine", "usage": usage}, {"name": "sidecar", "usage": usage}]}  # fmt: skip
    page = {"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": [item]}
    certificate, key = own_certificate()
    labels = {"app": "metrics-of-pods"}
    services = f"/api/v1/namespaces/{namespace}/services"
    spec = {"selector": labels, "ports": [{"port": 443, "targetPort": 8443}]}
    # Before its pod: the nodes must know its address when it is asked, or the question leaves the cluster.
    api.create(services, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics"}, "spec": spec})
    name = "v1beta1.metrics.k8s.io"
    spec = {
        "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
        "insecureSkipTLSVerify": True, "service": {"name": "metrics", "namespace": namespace},
    }  # fmt: skip
    try:
        serve(
            "metrics-server", json.dumps(page), 8443, labels, TYPE="application/json", CERTIFICATE=certificate, KEY=key
        )
        api.create(API_SERVICE, {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name}, "spec": spec})  # fmt: skip

        def told() -> Any:
            try:
                return driver.totals()
            except DriverError:
                return None

        (total,) = wait_for(told, within_s=60, what="the metrics API")
        assert (total.pod, total.memory_used) == (instance.name, 3 * GIB)
        assert total.cpu == pytest.approx(1.234567891)
        # One round counts once: the next one.
        wait_for(lambda: collect.collect_kubernetes(place.cluster), within_s=30)
        frame = series.system([version.pk], int(time.time()) - 600, int(time.time()) + 10, TIERS[0])
        assert frame.of("cpu_total").average[-1] == pytest.approx(1.2346, rel=1e-3)
        assert frame.of("memory_used").average[-1] == pytest.approx(3 * GIB)
        assert not len(frame.of("cpu_user"))
    finally:
        with contextlib.suppress(NotFoundError):
            api.delete(f"{API_SERVICE}/{name}")
        api.delete(f"{services}/metrics")


def own_certificate() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "metrics")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(), private.decode()
