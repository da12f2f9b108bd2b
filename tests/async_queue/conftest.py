"""A queue with a real gateway, real upstream servers, real dispatchers and the tests' database.

queue       a deployment that runs, as the database and the gateway know it; `await queue.start(upstream)`
upstream    as in the gateway's tests
"""

import asyncio
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.utils import timezone
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from apikeys import directory as key_directory
from apikeys.services import create_key
from async_inference import dispatcher as dispatchers
from async_inference import sending, states
from async_inference.dispatcher import Dispatcher
from async_inference.models import AsyncRequest, AsyncSettings
from async_inference.sending import gateway_client
from deployments.models import Deployment, Instance, Status, Version
from gateway.access.key_ring import KeyRing
from gateway.http.address import Address
from gateway.queue.requests import AsyncRequests, QueueBounds
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target
from tests.gateway.conftest import KEYS, RunningGateway, Upstream, json_answer
from tests.gateway.conftest import gateway as gateway
from tests.gateway.conftest import upstream as upstream

ADDRESS = "/main/chat/async/work"


def gated(*bodies: bytes):
    """A gate for each answer in turn, and what answers as they open."""
    gates = [asyncio.Event() for _ in bodies]
    coming = list(zip(gates, bodies, strict=True))

    async def answer(request, writer):
        gate, body = coming.pop(0)
        await gate.wait()
        await json_answer(body)(request, writer)

    return gates, answer


def database_url() -> str:
    known = connection.settings_dict
    return make_conninfo(
        dbname=known["NAME"], user=known["USER"], host=known["HOST"], port=known["PORT"], password=known["PASSWORD"]
    )


class Queue:
    """`deployment` with one ready instance; `secret` is a member's key."""

    def __init__(self, gateway: RunningGateway, deployment: Deployment, key: Any, secret: str, folder: Any) -> None:
        self.gateway, self.deployment, self.key, self.secret, self._folder = gateway, deployment, key, secret, folder
        self.client: httpx.AsyncClient
        self.pool: AsyncConnectionPool
        self.version_id = 0
        self._dispatchers: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    async def start(self, *upstreams: Upstream, concurrency: int | None = None, **bounds: int) -> None:
        await sync_to_async(self._make_ready)(len(upstreams), concurrency)
        await self.gateway.start(*upstreams)
        await sync_to_async(self.read_keys)()
        self.serve(*upstreams)
        url = database_url()
        self.gateway.core.queue = self._requests = AsyncRequests(
            url,
            KEYS,
            QueueBounds(
                **(
                    {"most_waiting": 10_000, "most_bytes": 1 << 30, "webhook_networks": [ip_network("127.0.0.0/8")]}
                    | bounds
                )
            ),
        )
        await self._requests.open()
        self.pool = AsyncConnectionPool(
            url, kwargs={"autocommit": True, "row_factory": dict_row}, min_size=1, max_size=6, open=False
        )
        await self.pool.open()
        base = f"http://127.0.0.1:{self.gateway.port}"
        self.client = httpx.AsyncClient(base_url=base, timeout=httpx.Timeout(30, connect=2), trust_env=False)

    def serve(self, *upstreams: Upstream, status: str = "running", **more: Any) -> None:
        """What the gateway's directory says from now on."""
        addresses = tuple(Address(f"{index:032x}", "127.0.0.1", item.port) for index, item in enumerate(upstreams, 1))
        target = Target(
            self.deployment.pk, self.deployment.organization_id, "acme/chat", "main", "chat", self.version_id, status,
            status.title(), "", "", 0, addresses, **({"is_public": False} | more),
        )  # fmt: skip
        self.gateway.core.set_snapshot(Snapshot.of(1, [target]))

    def read_keys(self) -> None:
        ring = KeyRing(self._folder / "keys")
        ring.replace(key_directory.rows(), 1)
        self.gateway.core.keys = ring.callers
        connections.close_all()

    def _make_ready(self, count: int, concurrency: int | None) -> None:
        version = self.deployment.versions.get()
        self.version_id = version.pk
        Version.objects.filter(pk=version.pk).update(status=Status.RUNNING)
        Instance.objects.bulk_create(
            Instance(
                version=version, uid=f"{number:032x}", name=f"chat-{number}", generation=1, phase="ready",
                started_at=timezone.now(), ready_at=timezone.now(),
            )
            for number in range(1, count + 1)
        )  # fmt: skip
        if concurrency:
            AsyncSettings.objects.create(deployment=self.deployment, concurrency=concurrency)

    def make_ready_again(self) -> None:
        Version.objects.filter(pk=self.version_id).update(status=Status.RUNNING)
        Instance.objects.create(
            version_id=self.version_id, uid="f" * 32, name="again", generation=1, phase="ready", started_at=timezone.now(),
            ready_at=timezone.now(),
        )  # fmt: skip
        connections.close_all()

    def dispatch(self, **more: Any) -> Dispatcher:
        """One more dispatcher, from now on."""
        client = gateway_client(str(self.client.base_url), timeout=httpx.Timeout(None, connect=2))
        stopped = asyncio.Event()
        dispatcher = Dispatcher(self.pool, more.get("client", client), KEYS)
        self._dispatchers.append((stopped, asyncio.create_task(dispatcher.run(stopped))))
        return dispatcher

    async def stop(self) -> None:
        await self.stop_dispatchers()
        if hasattr(self, "client"):
            await self.client.aclose()
            await self._requests.close()
            await self.pool.close()
        await sync_to_async(connections.close_all)()

    async def stop_dispatchers(self) -> None:
        for stopped, task in self._dispatchers:
            stopped.set()
            await task
        self._dispatchers.clear()

    async def submit(
        self,
        body: Any = None,
        *,
        address: str = ADDRESS,
        method: str = "POST",
        secret: str | None = None,
        **options: Any,
    ) -> httpx.Response:
        """`options` are headers, with - for _; those of the queue without their common beginning."""
        own = ("priority", "max_queue_seconds", "webhook", "retries")
        names = {name: f"x-slipway-async-{name.replace('_', '-')}" for name in own}
        headers = {names.get(name, name.replace("_", "-")): str(value) for name, value in options.items()}
        return await self.client.request(
            method, address, json=body if body is not None else {}, headers=self.authorization(secret) | headers
        )

    def authorization(self, secret: str | None = None) -> dict[str, str]:
        chosen = self.secret if secret is None else secret
        return {"authorization": f"Bearer {chosen}"} if chosen else {}

    async def queued(self, body: Any = None, **more: Any) -> str:
        """The id of a request that was taken."""
        answer = await self.submit(body, **more)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    async def ask(self, path: str, method: str = "GET", secret: str | None = None) -> httpx.Response:
        return await self.client.request(method, f"/async/requests{path}", headers=self.authorization(secret))

    async def told(self, uid: str) -> dict[str, Any]:
        return (await self.ask(f"/{uid}")).json()

    async def ended(self, uid: str, within_s: float = 20) -> dict[str, Any]:
        return await self.becomes(uid, *states.FINAL, within_s=within_s)

    async def becomes(self, uid: str, *wanted: str, within_s: float = 20) -> dict[str, Any]:
        async with asyncio.timeout(within_s):
            while (told := await self.told(uid))["status"] not in wanted:
                await asyncio.sleep(0.02)
        return told

    async def row(self, uid: str) -> AsyncRequest:
        return await AsyncRequest.objects.aget(uid=uid)


@pytest_asyncio.fixture
async def queue(gateway, people, deploy, tmp_path, transactional_db, settings):
    # The gateway of its tests has a secret of its own.
    settings.INSTALLATION_KEYS = KEYS
    deployment = await sync_to_async(deploy)()
    key, secret = await sync_to_async(create_key)(people.member, people.ours, "async")
    made = Queue(gateway, deployment, key, secret, tmp_path)
    yield made
    await made.stop()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(sending, "RETRY_DELAYS_S", (0.05,))
    monkeypatch.setattr(dispatchers, "SWEEP_S", 0.05)
    monkeypatch.setattr(dispatchers, "RENEW_S", 0.1)
    monkeypatch.setattr(dispatchers, "PLACES_S", 0.1)
