"""Many who want too much: of connections, of memory for bodies. Others are served meanwhile, and nothing is held beyond bounds."""

import asyncio
import hashlib
from dataclasses import replace

import orjson
import pytest

from common.byte_budget import network_of
from common.file_limit import MOST, raise_file_limit
from gateway.access.callers import Caller
from gateway.errors import GatewayError
from gateway.http import crowd
from gateway.http.bounds import Bodies, Bounds
from tests.gateway.conftest import json_answer

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]
MIB = 1 << 20
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
KEY = b"slk_" + b"k" * 40


async def connect(gateway, number: int = 1) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """From an address of its own for each `number`."""
    return await asyncio.open_connection(
        "127.0.0.1", gateway.port, local_addr=(f"127.0.{number // 250}.{number % 250 + 1}", 0)
    )


async def is_served(gateway, number: int = 0) -> bool:
    reader, writer = await connect(gateway, number)
    writer.write(HEALTH)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.startswith(b"HTTP/1.1 200")


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, str]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    body = await asyncio.wait_for(reader.readuntil(b"}}"), 10)
    return int(head.split(b" ")[1]), orjson.loads(body)["error"]["code"]


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_five_thousand_connections_half_of_them_slow(gateway, upstream, many_files):
    many_files(11_000)
    await gateway.start(await upstream(json_answer(b"{}")), bounds=Bounds(connections=6000, connections_each=6000))
    writers = []
    for number in range(5000):
        _, writer = await gateway.connect()
        if number % 2:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        writers.append(writer)
    assert len(gateway.core.connections) == 5000
    for _ in range(20):
        assert await is_served(gateway)
    for writer in writers:
        writer.close()
    await until(lambda: not gateway.core.connections)


async def test_slow_ones_make_room_when_there_is_no_more(gateway, upstream, monkeypatch):
    monkeypatch.setattr(crowd, "_JUST_COME_S", 0.0)
    await gateway.start(await upstream(json_answer(b"{}")), bounds=Bounds(connections=50, connections_each=40))
    slow = []
    for number in range(200):
        _reader, writer = await connect(gateway, number % 10)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        slow.append(writer)
        assert len(gateway.core.connections) <= 50
        if number % 20 == 0:
            assert await is_served(gateway, 99)
    for writer in slow:
        writer.close()


async def test_one_address_takes_no_more_than_its_share(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")), bounds=Bounds(connections=50, connections_each=5))
    held = [await connect(gateway) for _ in range(5)]
    reader, _ = await connect(gateway)
    assert await answer_of(reader) == (429, "connections_full_for_you")
    assert await is_served(gateway, 2)
    held[0][1].close()
    await until(lambda: len(gateway.core.connections) == 4)
    assert await is_served(gateway)


async def test_those_with_requests_are_not_ended_for_newcomers(gateway, upstream):
    async def never(request, writer):
        await asyncio.sleep(600)

    await gateway.start(await upstream(never), bounds=Bounds(connections=3, connections_each=3))
    held = [await gateway.connect() for _ in range(3)]
    for _, writer in held:
        writer.write(b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: gateway.core.in_flight == 3)
    reader, _ = await connect(gateway, 2)
    assert await answer_of(reader) == (503, "connections_full")
    assert gateway.core.in_flight == 3


async def test_bodies_of_strangers_are_held_within_bounds(gateway, upstream):
    """By address, and of all together half of what there is: those who have a key find room."""
    bounds = Bounds(bodies=8 * MIB, bodies_each=2 * MIB)
    await gateway.start(await upstream(json_answer(b"{}")), bounds=bounds)
    key = Caller(organization_id=3, user_id=5, key_id=9, organizations=frozenset({3}))
    gateway.core.keys[hashlib.sha256(KEY).digest()] = key
    bodies = gateway.core.bodies
    codes = []
    writers = []
    for number in range(20):
        reader, writer = await connect(gateway, number // 4)
        writer.write(HEAD % (20 * MIB, b"") + bytes(MIB - 100))
        writers.append(writer)
        before = bodies.held
        while bodies.held < before + MIB - 1000 and not reader._buffer:
            await asyncio.sleep(0.001)
        if reader._buffer:
            codes.append(await answer_of(reader))
        assert bodies.held <= 4 * MIB
    assert len(codes) == 16 and set(codes) == {(429, "bodies_full_for_you")}
    assert await is_served(gateway)
    reader, writer = await connect(gateway, 50)
    body = b'{"model":"acme/chat","x":"' + b"y" * MIB + b'"}'
    writer.write(HEAD % (len(body), b"Authorization: Bearer " + KEY + b"\r\n") + body)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 200"), head
    for writer in writers:
        writer.close()
    await until(lambda: not gateway.core.connections or not bodies.held)
    assert bodies.held == 0


async def test_all_bodies_together_have_a_bound(gateway, upstream):
    async def never(request, writer):
        await asyncio.sleep(600)

    await gateway.start(await upstream(never), bounds=Bounds(bodies=3 * MIB, bodies_each=3 * MIB))
    body = b'{"model":"acme/chat","x":"' + b"y" * (MIB - 100) + b'"}'
    first = await connect(gateway)
    first[1].write(HEAD % (len(body), b"") + body)
    await until(lambda: gateway.core.in_flight == 1)
    # Sent to the instance, which hasn't begun to answer: it may have to be sent again.
    assert gateway.core.bodies.held == len(body)
    others = [await connect(gateway, number) for number in (2, 3, 4)]
    for _, writer in others:
        writer.write(HEAD % (len(body), b"") + body)
    # Half of all is for those whom nobody knows.
    assert await answer_of(others[-1][0]) == (429, "bodies_full_for_you")
    for _, writer in (first, *others):
        writer.close()
    await until(lambda: gateway.core.bodies.held == 0)


async def test_without_a_public_deployment_strangers_send_no_bodies(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    snapshot = gateway.core.snapshot
    hidden = [replace(target, is_public=False) for target in snapshot.targets]
    gateway.core.set_snapshot(type(snapshot).of(2, hidden))
    reader, writer = await gateway.connect()
    writer.write(HEAD % (20 * MIB, b""))
    assert await answer_of(reader) == (401, "key_missing")


async def test_bounds_come_from_how_many_files_may_be_open():
    bounds = Bounds.of(20_000, 64 * MIB)
    assert 2 * bounds.connections + bounds.idle_upstream <= 20_000 - 200
    assert Bounds.of(100, 64 * MIB).connections >= 20
    assert 256 <= raise_file_limit() <= MOST


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.1.2.3", "10.1.2.3"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("::ffff:10.1.2.3", "10.1.2.3"), ("x", "x")],
)
async def test_what_belongs_to_one_caller_alone(address, network):
    assert network_of(address) == network


async def test_bodies_are_counted_to_each_and_all():
    bodies = Bodies(Bounds(bodies=100, bodies_each=60))
    known = bodies.holders(5, "10.0.0.1")
    bodies.take(known, 60)
    for who, size, code in (
        (known, 1, "bodies_full_for_you"),
        (bodies.holders(6, "b"), 41, "bodies_full"),
    ):
        with pytest.raises(GatewayError) as refused:
            bodies.take(who, size)
        assert refused.value.code == code and refused.value.retry_after_s
    bodies.give_back(known, 60)
    assert bodies.held == 0
    bodies.take(bodies.holders(5, "127.0.0.1"), 60)


async def test_who_has_just_come_is_not_ended_for_the_next_one(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")), bounds=Bounds(connections=3, connections_each=3))
    young = [await connect(gateway) for _ in range(3)]
    reader, _ = await connect(gateway, 2)
    assert await answer_of(reader) == (503, "connections_full")
    young[0][1].write(HEALTH)
    assert (await asyncio.wait_for(young[0][0].read(), 10)).startswith(b"HTTP/1.1 200")


async def test_bodies_in_tiny_chunks_are_held_as_what_they_say(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    _, writer = await gateway.connect()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"2\r\nxx\r\n" * 100_000)
    await until(lambda: gateway.core.bodies.held >= 200_000)
    (connection,) = gateway.core.connections
    assert len(connection._exchange.body.pieces) < 100
