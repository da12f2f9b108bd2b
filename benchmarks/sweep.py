"""One look of the reconciler at a large cluster: 1,000 versions with two pods each, all as they should be."""

import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from benchmarks import peers
from benchmarks.installation import Installation
from benchmarks.report import Row
from deployments import reconcile
from deployments.models import Cluster, Deployment, Endpoint, Status, Version
from runtimes.kubernetes import manifest
from runtimes.kubernetes.client import KubernetesClient
from runtimes.kubernetes.driver import KubernetesDriver

VERSIONS, PODS = 1000, 2


def run() -> Iterator[Row]:
    plain = Installation()
    cluster = Cluster.objects.create(name="large", driver=Cluster.Driver.KUBERNETES, namespace="models")
    versions = _fill(plain, cluster)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_lists(folder, versions)
        port = peers.free_port()
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.sweep_lists", str(folder), str(port)])
        try:
            peers.await_port(port)
            client = KubernetesClient(_config(port))
            driver = KubernetesDriver(client, namespace="models", installation="bench", cluster="bench")
            reconcile.driver_of = lambda _: driver  # type: ignore[attr-defined]
            reconcile._reconcile_once(cluster)  # the first one notes what it has not seen before
            before = int((folder / "calls").read_text())
            process = psutil.Process()
            spent = process.cpu_times()
            with CaptureQueriesContext(connection) as queries:
                reconcile._reconcile_once(cluster)
            after = process.cpu_times()
            calls = int((folder / "calls").read_text()) - before
        finally:
            server.kill()
            server.wait()
    cpu = after.user + after.system - spent.user - spent.system
    yield Row(
        f"CPU of one sweep, {VERSIONS:,} versions × {PODS} pods", f"{cpu:.2f} s", f"{len(queries)} queries", cpu / 2, 1
    )
    yield Row("Lists asked of the cluster in it, in pages of 500", str(calls), "2 kinds: Deployments and pods", None)


def _fill(plain: Installation, cluster: Cluster) -> list[Version]:
    now = timezone.now()
    endpoint = Endpoint.objects.create(organization=plain.organization, cluster=cluster, name="large")
    model = plain.organization.models.first()
    specification = {"engine": "simulator", "served_model_name": "x", "image": "slipway/simulator:0.1.0"}
    deployments = Deployment.objects.bulk_create(
        Deployment(organization=plain.organization, endpoint=endpoint, model=model, name=f"d{number}")
        for number in range(VERSIONS)
    )
    return Version.objects.bulk_create(
        Version(
            deployment=deployment, number=1, specification_json=specification, replicas=PODS, status=Status.RUNNING,
            start_requested_at=now, changed_at=now, status_since=now, ready_at=now,
        )
        for deployment in deployments
    )  # fmt: skip


def _write_lists(folder: Path, versions: list[Version]) -> None:
    pods, deployments = [], []
    for version in versions:
        labels = manifest.Workload("bench", "bench", version.key, 1, "d").labels
        deployments.append(
            {
                "metadata": {"name": version.key, "labels": labels},
                "spec": {"replicas": PODS, "selector": {"matchLabels": {manifest.VERSION: version.key}}},
                "status": {},
            }
        )
        pods += [_pod(version, labels) for _ in range(PODS)]
    (folder / "pods.json").write_bytes(orjson.dumps(pods))
    (folder / "deployments.json").write_bytes(orjson.dumps(deployments))
    (folder / "calls").write_text("0")


def _pod(version: Version, labels: dict[str, str]) -> dict[str, Any]:
    """As large as real ones are: 5 KB."""
    uid, at = str(uuid.uuid4()), "2026-11-20T12:00:00Z"
    conditions = [
        {"type": name, "status": "True", "lastProbeTime": None, "lastTransitionTime": at}
        for name in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    container = {
        "name": manifest.CONTAINER, "ready": True, "restartCount": 0, "started": True, "state": {"running": {"startedAt": at}},
        "image": "slipway/simulator:0.1.0", "imageID": "sha256:" + "a" * 64, "containerID": "containerd://" + "b" * 64, "lastState": {},
    }  # fmt: skip
    return {
        "metadata": {"name": f"{version.key}-{uid[:5]}", "uid": uid, "labels": labels, "creationTimestamp": at, "managedFields": [{"x": "y" * 3000}]},
        "spec": {"containers": [{"name": manifest.CONTAINER, "ports": [{"containerPort": 8000}], "env": [{"name": "A", "value": "b"}] * 10}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions, "containerStatuses": [container]},
    }  # fmt: skip


def _config(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "b",
        "contexts": [{"name": "b", "context": {"cluster": "b", "user": "b"}}],
        "clusters": [{"name": "b", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "b", "user": {"token": "x"}}],
    }  # fmt: skip
