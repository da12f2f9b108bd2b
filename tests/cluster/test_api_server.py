"""Instances reached from outside their cluster, through the real API server's proxy and with the recipe's rights alone."""

import asyncio
import base64
import hashlib
import json
import shlex
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.encryption import Cipher
from common.request_outcomes import COMPLETED
from gateway.http.address import Address
from gateway.http.api_server import pod_proxy_path, unseal
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target
from runtimes.engines.registry import engine
from runtimes.kubernetes.client import KubernetesClient
from runtimes.kubernetes.driver import KubernetesDriver
from runtimes.specification import Specification
from tests.cluster.conftest import IMAGE, admin_kubeconfig, apply_recipe, end_now
from tests.gateway.conftest import RunningGateway
from tests.waiting import wait_for

KEYS = ("secret-of-the-installation",)
SCRIPT = Path(__file__).with_name("echo_server.py")


def restricted_kubeconfig(api: KubernetesClient, namespace: str) -> str:
    """The way in with just the rights that the recipe grants."""
    config = yaml.safe_load(admin_kubeconfig() or "")
    config["users"] = [
        {"name": user["name"], "user": {"token": apply_recipe(api, namespace, "proxied", proxied=True)}}
        for user in config["users"]
    ]
    return yaml.safe_dump(config)


def another_authority() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def pod(api: KubernetesClient, namespace: str) -> Iterator[dict[str, Any]]:
    """A running echo server; its driver's key is `echo`."""
    driver = KubernetesDriver(api, namespace=namespace, installation="echo", cluster="a")
    command = f"python3 -uc {shlex.quote(SCRIPT.read_text())}"
    settings = {"command": command, "health_path": "/ready", "port": 8000}
    specification = Specification("custom_command", "acme/echo", cpu=0.1, memory=64 << 20, image=IMAGE, engine_settings=settings)  # fmt: skip
    driver.run("echo", 1, engine("custom_command").plan(specification, "kubernetes"), 1, name="echo")

    def ready() -> bool:
        return any(item.is_ready for item in driver.observe().instances.get("echo", []))

    wait_for(ready, within_s=90, what="the echo server")
    (instance,) = driver.observe().instances["echo"]
    yield {"uid": instance.uid, "name": instance.name, "kubeconfig": restricted_kubeconfig(api, namespace)}
    end_now(driver, api, namespace, "echo")


@pytest.fixture
def through(pod, namespace, tmp_path) -> Callable[..., None]:
    """Run a scenario against a gateway that knows the pod behind the API server."""

    def run(scenario: Callable[[RunningGateway], Awaitable[None]], **changed: str) -> None:
        known = pod | changed
        sealed = Cipher(KEYS).encrypt({"kubeconfig": known["kubeconfig"]})
        address = Address.behind(unseal(sealed, KEYS), known["uid"], pod_proxy_path(namespace, known["name"], "8000"))
        target = Target(7, 3, "acme/echo", "main", "echo", 11, "running", "Running", "", "", 0, (address,))

        async def main() -> None:
            gateway = RunningGateway(tmp_path)
            await gateway.start()
            gateway.core.set_snapshot(Snapshot.of(1, [target]))
            try:
                await scenario(gateway)
            finally:
                await gateway.stop()

        asyncio.run(main())

    return run


def client_of(gateway: RunningGateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}/main/echo", timeout=30)


def test_requests_reach_the_pod_as_they_were_sent(through):
    body = bytes(range(256)) * 4096

    async def scenario(gateway: RunningGateway) -> None:
        async with client_of(gateway) as client:
            for path in ("/some/path?x=1&y=%20z", "/deep/%C3%A4/path", "/"):
                told = (await client.get(path, headers={"x-mine": "kept"})).json()
                assert told["path"] == path and {"X-Mine": "kept"}.items() <= told["headers"].items()
            answer = await client.post("/upload", content=body)
            assert answer.json() == {"path": "/upload", "sha256": hashlib.sha256(body).hexdigest()}
            head = await client.head("/")
            assert head.status_code == 200 and not head.content
            # It tells the length of a body that doesn't follow, and might be a refusal's.
            missing = await client.head("/refuse", timeout=5)
            assert missing.status_code == 403
            refused = await client.get("/refuse")
            assert (refused.status_code, refused.json()) == (403, {"kind": "not a Status"}), "the instance's own word"
        assert [item.outcome for item in await gateway.finished(7)] == [COMPLETED] * 7

    through(scenario)


def test_events_come_as_they_are_made(through):
    async def scenario(gateway: RunningGateway) -> None:
        came: list[float] = []
        async with client_of(gateway) as client, client.stream("GET", "/events") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    came.append(time.monotonic())
        assert len(came) == 5 and came[-1] - came[0] > 0.9, came

    through(scenario)


def test_a_websocket_passes(through):
    async def scenario(gateway: RunningGateway) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/main/echo/ws", proxy=None) as connection:
            await connection.send("there and back")
            assert await connection.recv() == "there and back"

    through(scenario)


def test_a_client_can_neither_pass_for_another_nor_leave_the_pod(through, api, namespace):
    async def scenario(gateway: RunningGateway) -> None:
        headers = {
            "Authorization": "Bearer forged",
            "Impersonate-User": "system:admin",
            "impersonate-group": "system:masters",
            "X-Remote-User": "system:admin",
        }
        async with client_of(gateway) as client:
            answer = await client.get("/who", headers=headers)
            told = {name.lower() for name in answer.json()["headers"]}
            assert answer.status_code == 200 and not told & {name.lower() for name in headers}
        for path in ("/../../secrets", "/%2e%2e/%2e%2e/x", "/a/..%2f..%2fsecrets", "/.", "/a/./b", "/..%5cx"):
            raw = f"GET /main/echo{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            assert b" 400 Bad Request" in await gateway.exchange(raw.encode()), path

    through(scenario)


def test_what_the_api_server_refuses_is_told_as_such(through, pod, api, namespace):
    async def told(gateway: RunningGateway, **headers: str) -> tuple[int, str]:
        async with client_of(gateway) as client:
            answer = await client.get("/", headers=headers)
            return answer.status_code, answer.json()["error"]["code"]

    def refused(headers: dict[str, str]) -> Callable[[RunningGateway], Awaitable[None]]:
        async def scenario(gateway: RunningGateway) -> None:
            assert await told(gateway, **headers) == (502, "cluster_refused"), headers

        return scenario

    async def absent(gateway: RunningGateway) -> None:
        assert await told(gateway) == (502, "instance_unreachable")

    config = yaml.safe_load(pod["kubeconfig"])
    config["users"][0]["user"] = {"token": "forged"}
    # It writes its refusals in the form that the client accepts, and prettily for some.
    accepted = ("text/event-stream", "application/yaml", "application/vnd.kubernetes.protobuf")
    for headers in ({}, {"User-Agent": "curl/8.0"}, *({"Accept": form} for form in accepted)):
        through(refused(headers), kubeconfig=yaml.safe_dump(config))
    through(absent, name="no-such-pod")
    elsewhere = yaml.safe_load(pod["kubeconfig"])
    elsewhere["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    through(absent, kubeconfig=yaml.safe_dump(elsewhere))


def test_a_server_with_another_certificate_gets_no_credentials(through, pod):
    config = yaml.safe_load(pod["kubeconfig"])
    authority = base64.b64encode(another_authority()).decode()
    config["clusters"][0]["cluster"]["certificate-authority-data"] = authority

    async def scenario(gateway: RunningGateway) -> None:
        async with client_of(gateway) as client:
            answer = await client.get("/")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "instance_unreachable")

    through(scenario, kubeconfig=yaml.safe_dump(config))


def test_the_snapshot_on_disk_holds_no_credentials(pod, namespace, tmp_path):
    token = yaml.safe_load(pod["kubeconfig"])["users"][0]["user"]["token"]
    sealed = Cipher(KEYS).encrypt({"kubeconfig": pod["kubeconfig"]})
    address = Address.behind(unseal(sealed, KEYS), pod["uid"], pod_proxy_path(namespace, pod["name"], "8000"))
    saved = Snapshot.of(3, [Target(7, 3, "a/b", "m", "b", 1, "running", "Running", "", "", 0, (address,))])
    saved.save(tmp_path / "snapshot.json")
    text = (tmp_path / "snapshot.json").read_text()
    assert token not in text and "certificate" not in text and json.loads(text)["version"] == 3
    assert Snapshot.load(tmp_path / "snapshot.json", KEYS).targets == saved.targets
    (target,) = Snapshot.load(tmp_path / "snapshot.json", ("another secret",)).targets
    assert target.addresses == (), "an address that can't be used is left out, the rest stays"
