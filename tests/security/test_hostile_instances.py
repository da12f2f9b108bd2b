"""An instance that answers with whatever hurts: the gateway's own answers and other tenants' requests come meanwhile."""

import asyncio

import pytest

from gateway.http.address import Address
from gateway.http.bounds import Timeouts
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target
from tests.gateway.conftest import json_answer

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]
OK = b"HTTP/1.1 200 OK\r\n"
EVENTS = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON = OK + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BLOCK = 1 << 16
STREAM = b'{"model":"acme/hostile","stream":true}'
ATTACKS = {
    "endless head": (OK, b"X-A: " + b"a" * 1000 + b"\r\n"),
    "endless header line": (OK + b"X-A: ", b"a" * BLOCK),
    "endless status": (b"HTTP/1.1 200 ", b"a" * BLOCK),
    "endless interim answers": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000),
    "endless event": (EVENTS, b"%x\r\n%b\r\n" % (BLOCK, b"x" * BLOCK)),
    "endless event of usage": (EVENTS, b"%x\r\n%b\r\n" % (BLOCK, (b'"usage":{' * BLOCK)[:BLOCK])),
    "events of nothing": (EVENTS, b"%x\r\n%b\r\n" % (BLOCK, b"\n" * BLOCK)),
    "events that never close a bracket": (EVENTS, b"%x\r\n%b\r\n" % (BLOCK, b'data: {"usage":' + b"[" * (BLOCK - 17) + b"\n\n")),
    "chunks of one byte": (EVENTS, b"1\r\nx\r\n" * 10_000),
    "chunks of one byte of JSON": (JSON, b"1\r\n{\r\n" * 10_000),
    "endless chunk extension": (EVENTS + b"1;a=", b"a" * BLOCK),
    "endless trailers": (EVENTS + b"0\r\n", b"X-A: b\r\n" * 1000),
    "an endless trailer": (EVENTS + b"5\r\nhello\r\n0\r\nX: ", b"a" * BLOCK),
    "a chunk without an end": (JSON + b"ffffffff\r\n", b"x" * BLOCK),
    "a body without an end": (OK + b"Content-Type: application/json\r\n\r\n", b'{"a":' * 10_000),
}  # fmt: skip


def two_tenants(*ports: int) -> Snapshot:
    """`acme/hostile` and `other/good`."""
    targets = []
    for number, (organization, name, port) in enumerate(
        zip(("acme", "other"), ("hostile", "good"), ports, strict=True), 1
    ):
        address = (Address(f"{number:032x}", "127.0.0.1", port),)
        targets.append(
            Target(
                number,
                number,
                f"{organization}/{name}",
                organization,
                name,
                number,
                "running",
                "Running",
                "",
                "",
                0,
                address,
            )
        )
    return Snapshot.of(2, targets)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_others_are_served_meanwhile(gateway, upstream, attack):
    head, block = ATTACKS[attack]
    stop = asyncio.Event()

    async def hostile(request, writer):
        writer.write(head)
        while not stop.is_set():
            writer.write(block)
            await writer.drain()

    bad, good = await upstream(hostile), await upstream(json_answer(b'{"ok":1}'))
    await gateway.start(timeouts=Timeouts())
    gateway.core.set_snapshot(two_tenants(bad.port, good.port))

    async def read_all() -> bytes:
        """As a client that takes what it gets; its first bytes."""
        reader, writer = await gateway.connect()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(STREAM), STREAM)
        )
        first = b""
        try:
            while data := await reader.read(1 << 16):
                first = first or data[:200]
        finally:
            writer.close()
        return first

    reading = asyncio.ensure_future(read_all())
    for _ in range(8):
        assert b" 200 OK" in await gateway.exchange(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await gateway.exchange(b"GET /other/good/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b'{"ok":1}')
    assert bad.requests
    stop.set()
    reading.cancel()
    await asyncio.wait([reading])
    await asyncio.wait_for(bad.lost.wait(), 20)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Transfer-Encoding: chunked\r\n\r\n28\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno\r\n0\r\n\r\n",
        OK + b"Content-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
    ],
)
async def test_what_follows_an_answer_to_head_is_no_answer(gateway, upstream, answer):
    async def hostile(request, writer):
        writer.write(answer if request.method == "HEAD" else OK + b"Content-Length: 3\r\n\r\nyes")

    server = await upstream(hostile)
    await gateway.start(server)
    head = b"HEAD /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n"
    got = await gateway.exchange(head + b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"no" not in got.split(b"\r\n\r\n", 1)[1].replace(b"yes", b"") and got.count(b"HTTP/1.1 200") <= 2
    assert got.endswith(b"yes") or got.count(b"HTTP/1.1 200") == 1
