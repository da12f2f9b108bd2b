"""A real Kubernetes cluster: SLIPWAY_TEST_KUBECONFIG names one, else the one that `make test-cluster-up` has started.

kubernetes     a driver in a namespace of its own, which goes with the test run
api            the cluster's API, as an administrator
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from runtimes.kubernetes import access, kubeconfig, lease
from runtimes.kubernetes.client import KubernetesClient, NotFoundError
from runtimes.kubernetes.driver import KubernetesDriver
from runtimes.kubernetes.places import Places
from tests.waiting import wait_for

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/test_cluster/cluster.sh"
IMAGE = "docker.io/slipway/simulator:test"


def admin_kubeconfig() -> str | None:
    named = os.environ.get("SLIPWAY_TEST_KUBECONFIG")
    if named:
        return Path(named).read_text()
    found = Path(subprocess.run(["bash", SCRIPT, "kubeconfig"], capture_output=True, text=True).stdout.strip())
    running = subprocess.run(["bash", SCRIPT, "status"], capture_output=True, text=True).stdout
    return found.read_text() if found.is_file() and "kubelet up" in running else None


@pytest.fixture(scope="session")
def api() -> KubernetesClient:
    text = admin_kubeconfig()
    if text is None:
        pytest.skip("no cluster: make test-cluster-up (as root on Debian), or SLIPWAY_TEST_KUBECONFIG")
    return KubernetesClient(kubeconfig.read(text))


@pytest.fixture(scope="session")
def namespace(api: KubernetesClient) -> Iterator[str]:
    name = f"slipway-test-{uuid.uuid4().hex[:8]}"
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubernetes(api: KubernetesClient, namespace: str) -> KubernetesDriver:
    return KubernetesDriver(api, namespace=namespace, installation=uuid.uuid4().hex[:12], cluster=uuid.uuid4().hex[:12])


# A kubelet of 1.20 now and then forgets a pod that has ended until its next round, 60 to 90 s later.
PODS_END_S = 200.0


@pytest.fixture(autouse=True)
def _instances_end() -> None:
    """Pods go with their test's driver; no process of this machine is started here."""


def end_now(driver: KubernetesDriver, api: KubernetesClient, namespace: str, *version_keys: str) -> None:
    """Take everything away without waiting for programs that don't care about being asked."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    for key in version_keys:
        driver.end(key)

    def gone() -> bool:
        # Again and again: until its ReplicaSet is collected the cluster makes new ones.
        for pod in api.list(path):
            with contextlib.suppress(NotFoundError):
                api.delete(f"{path}/{pod['metadata']['name']}", grace_s=0)
        return not driver.observe().instances

    wait_for(gone, within_s=PODS_END_S, what="the end of all pods")


def forget_lease(api: KubernetesClient, namespace: str) -> None:
    """The next test is another installation, in the same namespace."""
    with contextlib.suppress(NotFoundError):
        api.delete(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{lease.NAME}")


def clear(api: KubernetesClient, namespace: str) -> None:
    """Take away all that a Slipway has made, whatever its database says of it, without waiting for programs."""
    mine = "app.kubernetes.io/managed-by=slipway"
    everything = [f"/apis/apps/v1/namespaces/{namespace}/deployments", f"/api/v1/namespaces/{namespace}/secrets"]
    pods = f"/api/v1/namespaces/{namespace}/pods"

    def gone() -> bool:
        left = False
        for path in (*everything, pods):
            for item in api.list(path, labelSelector=mine):
                left = True
                with contextlib.suppress(NotFoundError):
                    api.delete(f"{path}/{item['metadata']['name']}", grace_s=0 if path == pods else None)
        return not left

    wait_for(gone, within_s=PODS_END_S, what="an empty namespace")
    forget_lease(api, namespace)


def apply_recipe(api: KubernetesClient, namespace: str, account: str, *, proxied: bool, template: str = "") -> str:
    """Do what the recipe of the cluster's page says, for an account of this name; its token."""
    texts = [
        access.recipe(Places(namespace, template), proxied=proxied),
        *(right.recipe for right in access.broad_rights(namespace)),
    ]
    for document in itertools.chain.from_iterable(yaml.safe_load_all(text) for text in texts):
        kind, metadata = document["kind"], document["metadata"]
        if kind == "Namespace":
            continue
        metadata.pop("namespace", None)
        metadata["name"] = metadata["name"].replace("slipway", account, 1)
        if "roleRef" in document:
            document["roleRef"]["name"] = metadata["name"]
            document["subjects"][0]["name"] = account
        prefix = "/api/v1" if document["apiVersion"] == "v1" else "/apis/rbac.authorization.k8s.io/v1"
        where = "" if kind.startswith("Cluster") else f"/namespaces/{namespace}"
        api.create(f"{prefix}{where}/{kind.lower()}s", document)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    answer = api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", asked)
    token: str = answer["status"]["token"]
    return token


@contextlib.contextmanager
def frozen(program: str) -> Iterator[None]:
    """Stop a program of the cluster that `make test-cluster-up` has started, as if its machine hung."""
    if os.environ.get("SLIPWAY_TEST_KUBECONFIG"):
        pytest.skip("nothing of somebody else's cluster is stopped")
    running = subprocess.run(["bash", SCRIPT, "status"], capture_output=True, text=True).stdout
    (pid,) = re.findall(rf"^{program} up pid (\d+)$", running, re.MULTILINE)
    os.kill(int(pid), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(int(pid), signal.SIGCONT)
