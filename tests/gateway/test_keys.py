"""Who may call what: keys, public and key-only deployments, sharing. What a caller may not use isn't there for them."""

import asyncio
import base64
import hashlib
import time

import httpx
import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.server import serve

from common import request_outcomes
from gateway.access.callers import Caller
from gateway.http.address import Address
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target
from tests.gateway.conftest import json_answer

pytestmark = pytest.mark.asyncio
OURS, FRIENDS, STRANGERS = 3, 4, 5
ANSWER = b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}'


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def key_of(*organizations: int, key_id: int = 40, **values) -> Caller:
    return Caller(
        organizations[0] if organizations else OURS, 20, key_id, organizations=frozenset(organizations), **values
    )


KEYS = {
    "slk_member": key_of(OURS, key_id=41),
    "slk_friend": key_of(FRIENDS, key_id=42),
    "slk_stranger": key_of(STRANGERS, key_id=43),
    "slk_operator": key_of(STRANGERS, key_id=44, is_operator=True),
    "slk_narrowed": key_of(OURS, key_id=45, deployments=frozenset({7})),
    "slk_emptied": key_of(OURS, key_id=46, deployments=frozenset()),
    "slk_expired": key_of(OURS, key_id=47, expires_at=time.time() - 1),
}


def targets(port: int) -> list[Target]:
    address = (Address(f"{1:032x}", "127.0.0.1", port),)

    def target(pk: int, organization: str, name: str, **values) -> Target:
        return Target(
            pk, OURS if organization == "ours" else STRANGERS, f"{organization}/{name}", organization, name, pk + 100,
            "running", "Running", "", "", 0, address, **values,
        )  # fmt: skip

    return [
        target(7, "ours", "open"),
        target(8, "ours", "closed", is_public=False),
        target(9, "ours", "shared", is_public=False, shared_with=(FRIENDS,)),
        target(10, "ours", "for-all", is_public=False, is_shared_with_all=True),
        target(11, "theirs", "closed", is_public=False),
    ]


@pytest_asyncio.fixture
async def http(gateway, upstream):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    keys = {digest(secret): caller for secret, caller in KEYS.items()}
    gateway.core.set_snapshot(Snapshot.of(2, targets(server.port)))
    gateway.core.keys.update(keys)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False, timeout=60) as client:
        client.upstream = server
        yield client


def bearer(secret: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def without_id(answer: httpx.Response) -> tuple[int, dict]:
    error = dict(answer.json()["error"])
    error.pop("request_id")
    return answer.status_code, error


MAY_CALL = {
    None: {"open"},
    "slk_member": {"open", "closed", "shared", "for-all"},
    "slk_friend": {"open", "shared", "for-all"},
    "slk_stranger": {"open", "for-all"},
    "slk_operator": {"open", "closed", "shared", "for-all"},
    "slk_narrowed": {"open"},
    "slk_emptied": set(),
}


@pytest.mark.parametrize("secret", MAY_CALL)
async def test_each_caller_reaches_what_he_may_use_and_the_rest_is_not_there(http, secret):
    unknown = without_id(await http.get("/ours/nothing/x", headers=bearer(secret)))
    for name in ("open", "closed", "shared", "for-all"):
        by_path = await http.get(f"/ours/{name}/x", headers=bearer(secret))
        body = {"model": f"ours/{name}", "messages": []}
        by_model = await http.post("/v1/chat/completions", json=body, headers=bearer(secret))
        told = await http.get(f"/v1/models/ours/{name}", headers=bearer(secret))
        if name in MAY_CALL[secret]:
            assert (by_path.status_code, by_model.status_code, told.status_code) == (200, 200, 200), name
        else:
            status, error = without_id(by_path)
            error["message"] = error["message"].replace(f"/ours/{name}", "/ours/nothing")
            assert (status, error) == unknown, "forbidden looks like unknown"
            expected = (404, "model_not_found") if secret else (401, "key_missing")
            for answer in (by_model, told):
                assert (answer.status_code, answer.json()["error"]["code"]) == expected
            if not secret:
                assert (
                    by_path.headers["www-authenticate"] == "Bearer" and "Developer Hub → API Keys" in error["message"]
                )
    listed = (await http.get("/v1/models", headers=bearer(secret))).json()["data"]
    seen = {item["id"].removeprefix("ours/") for item in listed} - {"theirs/closed"}
    assert seen == MAY_CALL[secret]


async def test_a_bare_name_is_good_where_the_caller_may_use_only_one(http):
    answer = await http.post(
        "/v1/chat/completions", json={"model": "closed", "messages": []}, headers=bearer("slk_member")
    )
    assert answer.status_code == 200
    both = await http.post(
        "/v1/chat/completions", json={"model": "closed", "messages": []}, headers=bearer("slk_operator")
    )
    assert both.json()["error"]["code"] == "model_ambiguous"
    none = await http.post("/v1/chat/completions", json={"model": "closed", "messages": []})
    assert none.json()["error"]["code"] == "key_missing"


async def test_where_everything_is_public_nobody_is_asked_for_a_key(gateway, http):
    (target, *_) = gateway.core.snapshot.targets
    gateway.core.set_snapshot(Snapshot.of(3, [target]))
    assert without_id(await http.get("/ours/nothing/x"))[1]["code"] == "deployment_not_found"


BASIC = "Basic " + base64.b64encode(b"user:slk_member").decode()


@pytest.mark.parametrize(
    ("headers", "is_key"),
    [
        ({"authorization": "Bearer slk_member"}, True),
        ({"authorization": "slk_member"}, True),
        ({"authorization": "Api-Key slk_member"}, True),
        ({"authorization": BASIC}, True),
        ({"api-key": "slk_member"}, True),
        ({"x-api-key": "slk_member"}, True),
        ({"x-goog-api-key": "slk_member"}, True),
        ({"x-litellm-key": "slk_member"}, False),
        ({"cookie": "a=b; key=slk_member; c=d"}, False),
        ({"referer": "https://a.example/?key=slk_member"}, False),
        ({"x-token": "Bearer slt_something"}, False),
        ({"x-request-id": "slk_member"}, False),
        ({"accept-encoding": "slk_member"}, False),
        ({"x-forwarded-for": "slk_member"}, False),
    ],
)
async def test_keys_are_read_as_clients_send_them_and_never_handed_on(http, headers, is_key):
    if is_key:
        assert (await http.get("/ours/closed/x", headers=headers)).status_code == 200
    answer = await http.get("/ours/open/x", headers=headers)
    assert answer.status_code == 200
    (*_, sent) = http.upstream.requests
    assert not any("slk_" in value or "slt_" in value or BASIC in value for value in sent.headers.values()), (
        sent.headers
    )
    if "cookie" in headers:
        assert sent.headers["cookie"] == "a=b; c=d"


@pytest.mark.parametrize("query", ["?key=slk_member", "?a=b&api-key=%73lk_member", "/slt_abc"])
async def test_a_key_in_the_address_is_refused(http, query):
    answer = await http.get(f"/ours/open/x{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "key_in_address")
    assert not http.upstream.requests


async def test_an_api_token_is_told_apart_from_a_key(http):
    for headers in (bearer("slt_something"), {"x-api-key": "slt_something"}):
        answer = await http.get("/ours/open/x", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "token_not_key")
    assert (await http.get("/ours/open/x", headers={"api-key": "slt_x", **bearer("slk_member")})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([("authorization", b"Bearer slk_nobody")], 401, "key_invalid"),
        ([("authorization", b"Bearer slk_expired")], 401, "key_expired"),
        ([("authorization", "Bearer slk_größe".encode())], 401, "key_invalid"),
        ([("api-key", b"slk_nobody")], 401, "key_invalid"),
        ([("authorization", b"Bearer slk_member"), ("api-key", b"slk_friend")], 400, "two_keys"),
        ([("authorization", b"Bearer slk_member"), ("authorization", b"Bearer slk_friend")], 400, "two_keys"),
        ([("authorization", b"bearer   slk_member"), ("api-key", b"slk_member")], 200, None),
        ([("api-key", b"slk_member")], 200, None),
    ],
)  # fmt: skip
async def test_how_keys_are_sent_and_refused(http, headers, status, code):
    """Even where none is needed: a key that isn't good any more shall not go unnoticed."""
    answer = await http.get("/ours/open/x", headers=headers)
    assert answer.status_code == status
    if code:
        assert answer.json()["error"]["code"] == code
        assert "slk_" not in answer.text


async def test_own_keys_stay_here_and_the_instances_own_pass(http):
    await http.get("/ours/open/x", headers={**bearer("slk_member"), "api-key": "of-the-instance"})
    await http.get("/ours/open/x", headers={"Authorization": "Bearer of-the-instance", "api-key": "slk_member"})
    first, second = http.upstream.requests[-2:]
    assert "slk_" not in str(first.headers) + str(second.headers)
    assert first.headers["api-key"] == "of-the-instance" and second.headers["authorization"] == "Bearer of-the-instance"
    assert "authorization" not in first.headers and "api-key" not in second.headers


async def test_the_books_name_key_user_and_organization(http, gateway):
    await http.get("/ours/closed/x", headers=bearer("slk_member"))
    await http.get("/ours/open/x")
    known, anonymous = await gateway.finished(2)
    assert (known.key, known.user, known.organization) == (41, 20, OURS)
    assert (anonymous.key, anonymous.user, anonymous.organization) == (0, 0, 0)


async def test_a_key_that_is_revoked_is_refused_on_the_connection_that_it_opened(http, gateway):
    assert (await http.get("/ours/closed/x", headers=bearer("slk_member"))).status_code == 200
    del gateway.core.keys[digest("slk_member")]
    refused = await http.get("/ours/closed/x", headers=bearer("slk_member"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "key_invalid")
    assert len(gateway.core.connections) == 1


async def test_a_key_is_good_until_the_second_in_which_it_expires(http, gateway):
    soon = time.time() + 1.5
    gateway.core.keys[digest("slk_soon")] = key_of(OURS, key_id=48, expires_at=soon)
    while time.time() < soon - 0.1:
        assert (await http.get("/ours/closed/x", headers=bearer("slk_soon"))).status_code == 200
        await asyncio.sleep(0.05)
    while time.time() < soon + 0.1:
        await asyncio.sleep(0.05)
    assert (await http.get("/ours/closed/x", headers=bearer("slk_soon"))).json()["error"]["code"] == "key_expired"


async def test_a_websocket_needs_the_key_too(http, gateway):
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"ws://127.0.0.1:{gateway.port}/ours/closed/ws", proxy=None)
    assert refused.value.response.status_code == 401
    assert http.upstream.requests == []


async def test_a_browsers_websocket_sends_its_key_as_a_subprotocol(gateway):
    async def hello(connection):
        await connection.send(connection.request.headers["sec-websocket-protocol"])

    async with serve(hello, "127.0.0.1", 0, subprotocols=["realtime"]) as server:
        await gateway.start()
        gateway.core.set_snapshot(Snapshot.of(2, targets(server.sockets[0].getsockname()[1])))
        gateway.core.keys[digest("slk_member")] = KEYS["slk_member"]
        url = f"ws://127.0.0.1:{gateway.port}/ours/closed/ws"
        asked = ["realtime", "openai-insecure-api-key.slk_member", "openai-beta.realtime-v1"]
        async with websockets.connect(url, subprotocols=asked, proxy=None) as connection:
            assert connection.subprotocol == "realtime"
            assert await connection.recv() == "realtime, openai-beta.realtime-v1"


async def test_a_websocket_ends_with_the_key_that_opened_it(gateway):
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        await gateway.start()
        gateway.core.set_snapshot(Snapshot.of(2, targets(server.sockets[0].getsockname()[1])))
        gateway.core.keys[digest("slk_member")] = KEYS["slk_member"]
        url = f"ws://127.0.0.1:{gateway.port}/ours/closed/ws"
        async with websockets.connect(url, additional_headers=bearer("slk_member"), proxy=None) as connection:
            await connection.send("one")
            assert await connection.recv() == "one"
            await asyncio.sleep(1.2)
            await connection.send("two")
            assert await connection.recv() == "two", "a good key's stays"
            del gateway.core.keys[digest("slk_member")]
            with pytest.raises(websockets.ConnectionClosed):
                async with asyncio.timeout(5):
                    await connection.recv()


@pytest.mark.parametrize("has_begun", [True, False])
async def test_what_runs_ends_with_the_key_that_opened_it(gateway, upstream, has_begun):
    """Within the second that the gateway's clock ticks in, be it a stream that has begun or an answer that hasn't."""

    async def endless(request, writer):
        if has_begun:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10_000):
            if has_begun:
                writer.write(b"8\r\ndata:x\n\n\r\n")
            await asyncio.sleep(0.05)

    server = await upstream(endless)
    await gateway.start()
    gateway.core.set_snapshot(Snapshot.of(2, targets(server.port)))
    gateway.core.keys[digest("slk_member")] = key_of(OURS, key_id=41)
    reader, writer = await gateway.connect()
    writer.write(b"GET /ours/closed/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer slk_member\r\n\r\n")
    async with asyncio.timeout(10):
        while not server.requests:
            await asyncio.sleep(0.01)
        if has_begun:
            await reader.readuntil(b"data:x")
        del gateway.core.keys[digest("slk_member")]
        try:
            rest = await reader.read() if has_begun else await reader.readuntil(b"}}")
        except ConnectionResetError:
            rest = b""
    assert not rest.endswith(b"0\r\n\r\n") if has_begun else b"401" in rest and b"access_ended" in rest
    await asyncio.wait_for(server.lost.wait(), 10)
    (entry,) = await gateway.finished(1)
    assert entry.outcome == request_outcomes.CANCELLED
    writer.close()
