"""Many streams at once: idle ones cost little, active ones are not held up, slow clients hold up nobody."""

import asyncio
import resource
import time

import psutil
import pytest

from tests.gateway.conftest import json_answer
from tests.gateway.test_passing import client

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]
IDLE, ACTIVE, EVENTS = 1000, 200, 25
EVENT = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def many_files():
    """Each stream takes four files in this one process: both ends of both connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (IDLE + ACTIVE) * 4 + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def streams(request, writer):
    """One event at once; `/idle` then says nothing more, `/active` goes on at 50 events a second."""
    writer.write(HEAD + CHUNK)
    if request.path.startswith("/idle"):
        await asyncio.sleep(600)
    for _ in range(EVENTS - 1):
        await asyncio.sleep(0.02)
        writer.write(CHUNK)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def test_a_thousand_idle_streams_hold_two_hundred_active_ones_up_by_nothing(gateway, upstream, many_files):
    await gateway.start(await upstream(streams))
    process = psutil.Process()
    before = process.memory_info().rss
    idle = []
    for _ in range(IDLE):
        reader, writer = await gateway.connect()
        writer.write(b"GET /main/chat/idle HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(EVENT)
        idle.append(writer)
    grown = process.memory_info().rss - before
    # Gateway, both clients and the instance are in this process: four times what the gateway alone takes, or more.
    assert grown < 200 << 20, f"{grown >> 20} MiB for {IDLE} idle streams"
    assert gateway.core.in_flight == IDLE

    async def active() -> float:
        reader, writer = await gateway.connect()
        writer.write(b"GET /main/chat/active HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        longest, last, count = 0.0, time.monotonic(), 0
        while count < EVENTS:
            count += (await reader.readuntil(b"\n\n")).count(b"data: ")
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        writer.close()
        return longest

    async def usual_gap() -> float:
        return sorted(await asyncio.gather(*[active() for _ in range(ACTIVE)]))[ACTIVE // 2]

    # Whatever else keeps the machine busy passes; what idle streams cost would be there each time.
    assert any([await usual_gap() < 1.0 for _ in range(3)])
    assert gateway.core.in_flight == IDLE
    for writer in idle:
        writer.transport.abort()
    await gateway.finished(IDLE + 3 * ACTIVE)


async def test_clients_that_read_or_write_slowly_hold_nobody_up(gateway, upstream):
    large = bytes(8 << 20)

    async def answer(request, writer):
        await json_answer(large if request.path == "/large" else b"{}")(request, writer)

    await gateway.start(await upstream(answer))
    held = []
    for _ in range(20):
        reader, writer = await gateway.connect()
        writer.write(b"GET /main/chat/large HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        held.append(writer)
    for _ in range(20):
        _, writer = await gateway.connect()
        writer.write(b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nslow")
        held.append(writer)
    async with client(gateway) as http:
        started = time.monotonic()
        for _ in range(50):
            assert (await http.get("/main/chat/x")).status_code == 200
        assert time.monotonic() - started < 10
    for writer in held:
        writer.transport.abort()
