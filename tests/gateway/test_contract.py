"""The wire contract's sentences that no other file has: websockets, one request at a time, half-closed clients, time limits."""

import asyncio

import h11
import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from common import request_outcomes
from gateway.http.bounds import Timeouts
from tests.gateway.conftest import json_answer, snapshot
from tests.gateway.test_passing import client

pytestmark = pytest.mark.asyncio
GET = b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n"


class Port:
    """An upstream that somebody else serves."""

    def __init__(self, server) -> None:
        self.port = server.sockets[0].getsockname()[1]


async def test_a_websocket_passes_both_ways_and_is_one_request_in_the_books(gateway):
    seen = {}

    async def echo(socket):
        seen.update(socket.request.headers)
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", 0, subprotocols=["chat"]) as server:
        await gateway.start(Port(server))
        headers = {"Cookie": "slipway_session=secret; mine=1"}
        url = f"ws://127.0.0.1:{gateway.port}/main/chat/socket?x=1"
        async with connect(url, subprotocols=["chat"], additional_headers=headers, proxy=None) as socket:
            assert socket.subprotocol == "chat"
            for message in ("hello", b"\x00" * 200_000, "again"):
                await socket.send(message)
                assert await socket.recv() == message
    (entry,) = await gateway.finished(1)
    assert (entry.outcome, entry.status) == (request_outcomes.COMPLETED, 101)
    assert entry.end_to_end == entry.inference == -1.0, "a conversation's length is no latency"
    assert seen["cookie"] == "mine=1"


async def test_a_websocket_that_the_instance_refuses_is_an_ordinary_answer(gateway):
    async def nobody(connection, request):
        return connection.respond(403, "no\n")

    async with serve(lambda socket: socket.wait_closed(), "127.0.0.1", 0, process_request=nobody) as server:
        await gateway.start(Port(server))
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{gateway.port}/main/chat/socket", proxy=None)
    assert refused.value.response.status_code == 403
    assert (await gateway.finished(1))[0].status == 403


async def test_bytes_behind_a_refused_websocket_are_not_a_request(gateway, upstream):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    ask = b"GET /main/chat/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    answer = await gateway.exchange(ask + GET)
    assert answer.count(b"HTTP/1.1 ") == 1 and b"connection: close" in answer
    assert [request.path for request in server.requests] == ["/ws"]


async def test_an_instance_that_switches_protocols_unasked_is_502(gateway, upstream):
    async def switches(request, writer):
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nsmuggled")
        await writer.drain()

    await gateway.start(await upstream(switches))
    async with client(gateway) as http:
        response = await http.get("/main/chat/x")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "instance_closed")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"rubbish",
    ],
    ids=[
        "two lengths",
        "length and chunks",
        "negative length",
        "gzip",
        "a head of 70 KB",
        "bare line feeds",
        "no HTTP",
    ],
)
async def test_an_answer_whose_frame_is_in_doubt_is_502(gateway, upstream, head):
    async def answer(request, writer):
        writer.write(head)
        await writer.drain()

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        response = await http.get("/main/chat/x")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "answer_invalid")


async def test_what_an_interim_answer_hid_is_not_remembered_for_others(gateway, upstream):
    """Heads are remembered by their bytes, for all deployments: those up to the first empty line, and no others."""

    async def both_at_once(request, writer):
        writer.write(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: of-a=secret\r\nContent-Length: 9\r\n\r\nfrom A ok"
        )
        await writer.drain()

    async def one_by_one(request, writer):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfrom B")
        await writer.drain()

    first, second = await upstream(both_at_once), await upstream(one_by_one)
    await gateway.start(first)
    async with client(gateway) as http:
        for _ in range(2):
            assert (await http.get("/main/chat/x")).content == b"from A ok"
        gateway.core.set_snapshot(snapshot([second]))
        for _ in range(2):
            answer = await http.get("/main/chat/x")
            assert answer.content == b"from B" and "set-cookie" not in answer.headers


async def test_requests_sent_ahead_wait_their_turn(gateway, upstream):
    running, most = 0, 0

    async def slow(request, writer):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        await json_answer(request.path.encode())(request, writer)

    await gateway.start(await upstream(slow))
    reader, writer = await gateway.connect()
    paths = [b"/%d" % number for number in range(20)]
    writer.write(b"".join(b"GET /main/chat%b HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths))
    for path in paths:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(len(path)) == path
    writer.close()
    assert most == 1


async def test_what_comes_between_an_answer_and_the_next_turn_keeps_its_place(gateway, upstream):
    """The next request waits for the loop's next turn; bytes that are read in this very turn belong behind it."""

    hold = asyncio.Event()

    async def named(request, writer):
        await hold.wait()
        await json_answer(request.path.encode())(request, writer)

    server = await upstream(named)
    await gateway.start(server)
    reader, writer = await gateway.connect()
    asked = [b"GET /main/chat/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(3)]
    writer.write(asked[0])
    while not server.requests:
        await asyncio.sleep(0.01)
    (connection,) = gateway.core.connections
    finish = connection.finish_exchange

    def finish_and_read(*args):
        finish(*args)
        connection.finish_exchange = finish
        connection.data_received(asked[2])

    connection.finish_exchange = finish_and_read
    connection.data_received(asked[1])
    hold.set()
    for path in (b"/0", b"/1", b"/2"):
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == path
    writer.close()


async def test_what_a_client_sends_ahead_is_bounded(gateway, upstream):
    hold = asyncio.Event()

    async def waits(request, writer):
        await hold.wait()
        await json_answer(b"{}")(request, writer)

    await gateway.start(await upstream(waits))
    _, writer = await gateway.connect()
    flood = GET * 400_000
    writer.write(flood)
    await asyncio.sleep(0.5)
    (connection,) = gateway.core.connections
    assert len(connection._ahead) < 1 << 20, "the rest waits with the client"
    assert gateway.core.in_flight == 1
    writer.transport.abort()
    hold.set()


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_client_that_closes_its_half_still_gets_its_answers(gateway, upstream, version):
    release = asyncio.Event()

    async def slow(request, writer):
        await release.wait()
        await json_answer(b'{"ok":1}')(request, writer)

    server = await upstream(slow)
    await gateway.start(server)
    reader, writer = await gateway.connect()
    # A second one was sent ahead.
    writer.write(GET.replace(b"1.1", version) + (GET if version == b"1.1" else b""))
    writer.write_eof()
    while not server.requests:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not server.lost.is_set()
    release.set()
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.count(b'{"ok":1}') == (2 if version == b"1.1" else 1)
    assert all(entry.outcome == request_outcomes.COMPLETED for entry in await gateway.finished(1))


async def test_a_client_that_closes_altogether_has_gone(gateway, upstream):
    async def endless(request, writer):
        await asyncio.sleep(60)

    server = await upstream(endless)
    await gateway.start(server)
    _, writer = await gateway.connect()
    writer.write(GET)
    while not server.requests:
        await asyncio.sleep(0.01)
    # No reset, as long as nothing is written to it.
    writer.close()
    async with asyncio.timeout(5):
        await server.lost.wait()
    assert (await gateway.finished(1))[0].outcome == request_outcomes.CANCELLED


async def test_a_body_that_ends_with_the_connection_is_no_request(gateway, upstream):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    reader, writer = await gateway.connect()
    writer.write(b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    writer.write_eof()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert (await gateway.finished(1))[0].outcome == request_outcomes.CANCELLED


async def test_who_begins_with_http_2_is_told_in_http_2(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    answer = await gateway.exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert answer[:9] == bytes.fromhex("000000040000000000") and answer.endswith(b"\0\0\0\x0d")


async def test_a_request_may_take_only_so_long_though_bytes_flow(gateway, upstream):
    async def drips(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.1)

    await gateway.start(await upstream(drips), timeouts=Timeouts(total_s=0.8))
    answer = await gateway.exchange(GET)
    assert answer.startswith(b"HTTP/1.1 200 ") and not answer.endswith(b"0\r\n\r\n")
    assert (await gateway.finished(1))[0].outcome == request_outcomes.FAILED


async def test_a_stream_that_was_heard_lately_is_not_idle(gateway, upstream):
    async def drips(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")

    await gateway.start(await upstream(drips), timeouts=Timeouts(stream_idle_s=1.5))
    async with client(gateway) as http:
        assert (await http.get("/main/chat/x")).text == "x" * 30


async def test_a_frozen_instance_opens_its_breaker_and_the_other_serves(gateway, upstream):
    async def frozen(request, writer):
        await asyncio.sleep(60)

    broken, sound = await upstream(frozen), await upstream(json_answer(b"{}"))
    await gateway.start(broken, sound, timeouts=Timeouts(first_byte_s=0.3))
    async with client(gateway) as http:
        statuses = [(await http.get("/main/chat/x")).status_code for _ in range(8)]
        assert statuses.count(504) == 3
        assert [(await http.get("/main/chat/x")).status_code for _ in range(5)] == [200] * 5


async def test_a_body_that_streams_is_not_sent_twice(gateway, upstream):
    async def once(request, writer):
        await json_answer(b"{}")(request, writer)
        writer.close()

    server = await upstream(once)
    await gateway.start(server)
    async with client(gateway) as http:
        assert (await http.get("/main/chat/x")).status_code == 200

        async def body():
            yield b"a" * 1000
            await asyncio.sleep(0.3)
            yield b"b" * 1000

        response = await http.post("/main/chat/x", content=body())
    assert response.status_code in (200, 502)
    assert sum(request.method == "POST" for request in server.requests) <= 1


async def test_a_half_closed_reader_of_a_stream_gets_all_of_it(gateway, upstream):
    """The zero that is written to learn whether it is there belongs to the next chunk's size."""
    release = asyncio.Event()

    async def stream(request, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n"
        )
        await release.wait()
        writer.write(b"9\r\n\ndata: 2\n\r\n0\r\n\r\n")

    await gateway.start(await upstream(stream))
    reader, writer = await gateway.connect()
    writer.write(GET)
    found = await reader.readuntil(b"data: 1")
    writer.write_eof()
    found += await reader.readuntil(b"\r\n0")
    release.set()
    async with asyncio.timeout(5):
        found += await reader.read()
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(found)
    events = []
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA, found
        events.append(event)
    body = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    assert body == b"data: 1\n\ndata: 2\n"


async def test_no_instance_is_told_an_address_that_a_client_made_up(gateway, upstream):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    async with client(gateway) as http:
        told = {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1", "X-Real-IP": "10.0.0.1", "X-Other": "stays"}
        await http.get("/main/chat/x", headers=told)
    sent = server.requests[0].headers
    assert "10.0.0.1" not in str(sent) and sent["x-other"] == "stays"
