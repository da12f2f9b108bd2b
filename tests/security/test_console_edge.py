"""The console's own server, on a real socket: what strangers send is counted, timed and refused before Django sees it."""

import asyncio
import tempfile
from ipaddress import ip_network

import pytest
import pytest_asyncio
import uvicorn

from common.proxies import Forwarded, origin
from dashboard import edge, http_protocol
from dashboard.asgi import application
from dashboard.edge import BodyLimit, TrustedProxies
from dashboard.http_protocol import BoundedHttpProtocol

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]
PROXIES = [ip_network("10.0.0.0/8"), ip_network("127.0.0.1/32")]


@pytest_asyncio.fixture
async def serve(free_port, monkeypatch):
    servers = []

    async def start(app) -> int:
        config = uvicorn.Config(
            app, port=free_port, http=BoundedHttpProtocol, lifespan="off", log_level="error", proxy_headers=False
        )
        server = uvicorn.Server(config)
        servers.append((server, asyncio.ensure_future(server.serve())))
        while not server.started:
            await asyncio.sleep(0.01)
        return free_port

    yield start
    for server, running in servers:
        server.should_exit = True
        await running


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def answer_to(port: int, *parts: bytes) -> bytes:
    reader, writer = await connect(port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
    except ConnectionError:
        pass
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def echo(scope, receive, send):
    """Reads a body as Django does, then tells how it was called."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    host = dict(scope["headers"]).get(b"host", b"").decode()
    body = f"{size} {scope['client'][0]} {scope['scheme']} {host}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def test_a_body_without_end_never_reaches_the_disk(serve, monkeypatch, tmp_path):
    """As it was found: POST /healthz with 40 GiB announced, and one in chunks that doesn't end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    port = await serve(application)
    head = b"POST /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    announced = await answer_to(port, head + b"Content-Length: 42949672960\r\n\r\n", bytes(1 << 20))
    assert announced.startswith(b"HTTP/1.1 413") and b"at most 1 MiB" in announced
    for name in (b"", b"Cookie: slipway_session=x\r\n"):
        written = 0
        _reader, writer = await connect(port)
        writer.write(head + name + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            while written < 100 << 20:
                writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
                await writer.drain()
                written += 1 << 16
        except ConnectionError:
            pass
        writer.close()
        assert written < 40 << 20
        assert sum(path.stat().st_size for path in tmp_path.rglob("*")) <= 14 << 20


async def test_bodies_within_bounds_arrive(serve):
    port = await serve(BodyLimit(echo))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n"
    assert b"\r\n\r\n900000 " in await answer_to(port, head % 900_000 + b"\r\n", bytes(900_000))
    larger = await answer_to(port, head % (5 << 20) + b"Authorization: Bearer x\r\n\r\n", bytes(5 << 20))
    assert b"\r\n\r\n5242880 " in larger
    refused = await answer_to(
        port, (head % (14 << 20)).replace(b"POST /", b"POST /api/v1/x") + b"Authorization: Bearer x\r\n\r\n"
    )
    assert b'"body_too_large"' in refused


async def test_many_bodies_at_once_have_bounds_for_one_address_and_for_all(serve, monkeypatch):
    monkeypatch.setattr(edge, "MOST_BODIES_EACH", 1 << 20)
    limit = BodyLimit(echo)
    port = await serve(limit)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
    held = await connect(port)
    held[1].write(head + bytes(800_000))
    while limit._budget.held < 700_000:
        await asyncio.sleep(0.01)
    assert (await answer_to(port, head, bytes(900_000))).startswith(b"HTTP/1.1 429")
    held[1].close()
    while limit._budget.held:
        await asyncio.sleep(0.01)
    monkeypatch.setattr(limit._budget, "_total", 10)
    assert (await answer_to(port, head, bytes(900_000))).startswith(b"HTTP/1.1 503")


async def test_heads_have_a_size_and_a_time(serve, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.5)
    monkeypatch.setattr(http_protocol, "BODY_IDLE_S", 0.5)
    port = await serve(BodyLimit(echo))
    endless = await answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\n", *[b"X-A: " + b"a" * 4000 + b"\r\n"] * 20)
    assert endless.startswith(b"HTTP/1.1 400") or not endless
    assert await answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ") == b""
    assert await answer_to(port) == b""
    # Behind an answer, too.
    twice = await answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nX-Slow: ")
    assert twice.count(b"HTTP/1.1 200") == 1
    assert await answer_to(port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx") == b""


async def test_one_address_has_only_so_many_connections(serve, monkeypatch):
    monkeypatch.setattr(http_protocol, "MOST_CONNECTIONS_EACH", 3)
    port = await serve(BodyLimit(echo))
    held = [await connect(port) for _ in range(3)]
    assert b"too many connections" in await answer_to(port)
    held[0][1].close()
    for _ in range(500):
        answer = await answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        if answer.startswith(b"HTTP/1.1 200"):
            break
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("trusted", "headers", "told"),
    [
        ([], b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n", b"0 127.0.0.1 http a"),
        (PROXIES, b"X-Forwarded-For: 6.6.6.6, 9.9.9.9, 10.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\n", b"0 9.9.9.9 https b"),
        (PROXIES, b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 9.9.9.9\r\n", b"0 9.9.9.9 http a"),
        (PROXIES, b"X-Forwarded-For: nonsense\r\nX-Forwarded-Proto: gopher\r\n", b"0 127.0.0.1 http a"),
    ],
)  # fmt: skip
async def test_headers_of_proxies_count_from_those_that_are_trusted(serve, trusted, headers, told):
    port = await serve(TrustedProxies(echo, trusted))
    answer = await answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + headers + b"\r\n")
    assert answer.endswith(told)


@pytest.mark.parametrize(
    ("peer", "chain", "address"),
    [
        ("127.0.0.1", "1.2.3.4:5555, 10.0.0.1", "1.2.3.4"),
        ("127.0.0.1", "[2001:db8::1]:80", "2001:db8::1"),
        ("127.0.0.1", "10.0.0.2, 10.0.0.1", "10.0.0.2"),
        ("::ffff:127.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("8.8.8.8", "1.2.3.4", "8.8.8.8"),
        ("127.0.0.1", ",".join(["1.1.1.1"] * 100_000), "1.1.1.1"),
        ("", "1.2.3.4", ""),
    ],
)
async def test_the_first_that_is_no_proxy_is_the_caller(peer, chain, address):
    assert origin(peer, Forwarded(chain), PROXIES).address == address
