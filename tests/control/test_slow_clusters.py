"""Clusters that take long to answer: each has a lane of its own, and nobody waits for another one's."""

import socketserver
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
from django.conf import settings

from common.encryption import Cipher
from deployments import cluster_health, tasks
from deployments.models import Cluster, Status
from monitoring import tasks as monitoring_tasks
from tests.certificates import self_signed
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
SLOW_S = 15.0
EMPTY = b'{"kind":"List","items":[]}'


class _Slow(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(65536)
        self.server.stopped.wait(SLOW_S)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        self.request.sendall(head % len(EMPTY) + EMPTY)


@pytest.fixture
def slow_clusters(people, tmp_path) -> Iterator[list[Cluster]]:
    """Four clusters whose API server takes its time with each request."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Slow)
    server.daemon_threads, server.stopped = True, threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "server.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig = f"""
apiVersion: v1
kind: Config
current-context: x
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{insecure-skip-tls-verify: true, server: "https://127.0.0.1:{server.server_address[1]}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
"""
    sealed = Cipher(settings.INSTALLATION_KEYS.encryption).encrypt({"kubeconfig": kubeconfig})
    yield [
        Cluster.objects.create(
            name=f"slow-{number}", driver="kubernetes", namespace=f"models-{number}", encrypted_kubeconfig=sealed
        )
        for number in range(4)
    ]
    server.stopped.set()
    server.shutdown()
    server.server_close()
    # Lanes end by themselves when what they wait for is over.
    wait_for(lambda: not any(t.name.startswith(("reconcile-", "collect-")) for t in threading.enumerate()), within_s=60)


def test_a_start_elsewhere_waits_for_none_of_them(slow_clusters, deploy):
    tasks.sweep()
    monitoring_tasks.collect_system()
    version = deploy().versions.get()
    began = time.monotonic()

    def runs() -> bool:
        tasks.reconcile_cluster(version.deployment.endpoint.cluster_id)
        version.refresh_from_db()
        return version.status == Status.RUNNING

    wait_for(runs, within_s=SLOW_S - 2, what="the start beside four slow clusters")
    assert time.monotonic() - began < SLOW_S - 2
    assert sum(t.name.startswith("reconcile-") for t in threading.enumerate()) >= 4, (
        "they are waited for, in their lanes"
    )


def test_how_slow_a_cluster_is_can_be_told(deploy):
    version = deploy().versions.get()
    cluster_id = version.deployment.endpoint.cluster_id
    tasks.reconcile_cluster(cluster_id)
    look = wait_for(lambda: cluster_health.last_look(cluster_id), within_s=20)
    assert 0 < look.took_s < 10
