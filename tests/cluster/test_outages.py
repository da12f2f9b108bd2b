"""A node or the API server away for real, and instances that hang: what is told, what goes on, and that it mends itself."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from deployments import disturbances
from deployments.models import Cluster, Status
from gateway.http.bounds import Timeouts
from gateway.routing.directory import read_snapshot
from tests.cluster.conftest import frozen
from tests.cluster.test_pods import cause_is, command, deploy, place, simulator
from tests.control.test_reconcile import becomes, look
from tests.gateway.conftest import RunningGateway
from tests.waiting import wait_for

__all__ = ["deploy", "place"]
pytestmark = pytest.mark.django_db(transaction=True)


def test_a_node_that_is_gone_is_told_and_its_instances_come_back_with_it(deploy, api):
    version = deploy(simulator())
    becomes(version, Status.RUNNING, within_s=90)
    with frozen("kubelet"):
        cause = cause_is(version, "node_unreachable", within_s=90)
        assert cause.evidence
        look(version)
        assert read_snapshot().targets[0].addresses == (), "nothing is sent to a node that is gone"
    wait_for(lambda: becomes(version, Status.RUNNING) and read_snapshot().targets[0].addresses, within_s=90)


def test_an_api_server_that_hangs_for_a_minute_freezes_statuses_and_mends_itself(deploy, place):
    version = deploy(simulator())
    becomes(version, Status.RUNNING, within_s=90)
    (address,) = read_snapshot().targets[0].addresses
    with frozen("kube-apiserver"):
        frozen_at = time.monotonic()
        while time.monotonic() - frozen_at < 60:
            look(version)
            assert version.status == Status.RUNNING, "what can't be seen is not guessed"
            assert read_snapshot().targets[0].addresses == (address,), "gateways go on with what was known"
            httpx.get(f"http://{address.host}:{address.port}/health", timeout=10).raise_for_status()
        cluster = Cluster.objects.get(pk=place.cluster.pk)
        assert "can't be reached" in cluster.unreachable_reason

    def mended() -> bool:
        # The cluster itself may mark its nodes for a moment: it did not hear of them either.
        becomes(version, Status.RUNNING)
        return read_snapshot().targets[0].addresses == (address,)

    wait_for(mended, within_s=90, what="the same instance again")
    assert not Cluster.objects.get(pk=cluster.pk).unreachable_reason
    assert version.instances.get().restarts == 0, "nothing was started anew"


def test_an_instance_that_hangs_ends_in_its_timeout_and_rests(deploy, tmp_path):
    """The pod's program is stopped: the kernel still accepts connections for it, nobody answers."""
    version = deploy(simulator())
    becomes(version, Status.RUNNING, within_s=90)
    snapshot = read_snapshot()
    (instance,) = version.instances.filter(ended_at=None)

    async def main() -> list[tuple[int, str]]:
        gateway = RunningGateway(tmp_path)
        await gateway.start(timeouts=Timeouts(first_byte_s=2.0))
        gateway.core.set_snapshot(snapshot)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}/main/chat", timeout=30) as client:
            assert (await client.get("/health")).status_code == 200
            with stopped_container(instance.name):
                told = []
                for _ in range(4):
                    answer = await client.get("/health")
                    told.append((answer.status_code, answer.json()["error"]["code"]))
            await asyncio.sleep(1.5)
            assert (await client.get("/health")).status_code == 200, "it is tried again and serves"
        await gateway.stop()
        return told

    assert asyncio.run(main()) == [(504, "first_byte_timeout")] * 4


def test_a_loop_of_evictions_ends_nothing_and_is_counted(deploy, api, namespace, client, people):
    """Each instance writes more to its node's disk than it may, and the node throws it out."""
    text = (
        "import http.server, threading, time\\n"
        "def fill():\\n"
        '    time.sleep(4); open("/tmp/full", "wb").write(b"x" * (30 << 20)); time.sleep(600)\\n'
        "threading.Thread(target=fill, daemon=True).start()\\n"
        "http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)"
    )
    version = becomes(deploy(command(f'python3 -uc \'exec("""{text}""")\'')), Status.RUNNING, within_s=90)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    (made,) = [item for item in api.list(path) if item["metadata"]["labels"].get("slipway.dev/version") == version.key]
    (container,) = made["spec"]["template"]["spec"]["containers"]
    container["resources"]["limits"]["ephemeral-storage"] = "5Mi"
    spec = {"template": {"spec": {"containers": [container]}}}
    api.patch(f"{path}/{made['metadata']['name']}", {"spec": spec})

    def evicted_three_times() -> bool:
        look(version)
        assert (version.status, version.desired_state) == (Status.RUNNING, "running")
        return version.instances.filter(cause_json__code="evicted").exclude(ended_at=None).count() >= 3

    wait_for(evicted_three_times, within_s=150, what="three evictions")
    (told,) = disturbances.recent(version)
    assert told.count >= 3 and told.name == "evictions" and "ephemeral" in told.said
    client.force_login(people.operator)
    page = client.get("/console/deployments/acme/chat/").content.decode()
    assert "evictions in" in page


@contextlib.contextmanager
def stopped_container(pod: str) -> Iterator[None]:
    """Stop the processes of a pod of this machine's own cluster: theirs is the pod's host name."""
    if os.environ.get("SLIPWAY_TEST_KUBECONFIG"):
        pytest.skip("its processes are not on this machine")
    found = [process for process in psutil.process_iter() if _host_name(process.pid) == pod]
    assert found
    for process in found:
        process.suspend()
    try:
        yield
    finally:
        for process in found:
            process.resume()


def _host_name(pid: int) -> str:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((item[9:].decode() for item in environment if item.startswith(b"HOSTNAME=")), "")
