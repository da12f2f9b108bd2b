"""Bodies that come compressed: opened where they are read, counted where they are answers."""

import asyncio
import gzip
import random
import threading
import zlib

import httpx
import orjson
import pytest
import zstandard

from gateway.bodies import request_coding
from tests.gateway.conftest import json_answer
from tests.gateway.test_passing import chunked, client

pytestmark = pytest.mark.asyncio

ASKED = orjson.dumps({"model": "chat", "messages": [{"role": "user", "content": "x" * 500}]})
ANSWER = orjson.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
WAYS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "x-gzip": gzip.compress,
}


def sent_as(coding: str) -> dict[str, str]:
    return {"content-encoding": coding, "content-type": "application/json"}


@pytest.mark.parametrize("coding", WAYS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/main/chat/v1/chat/completions"])
async def test_a_compressed_request_arrives_opened(gateway, upstream, coding, path):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    async with client(gateway) as http:
        answer = await http.post(path, content=WAYS[coding](ASKED), headers=sent_as(coding))
    assert answer.status_code == 200, answer.text
    (sent,) = server.requests
    assert sent.body == ASKED and "content-encoding" not in sent.headers
    assert sent.headers["content-length"] == str(len(ASKED)) and sent.headers["accept-encoding"] == "identity"


async def test_where_nothing_is_read_it_passes_as_it_came(gateway, upstream):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    async with client(gateway) as http:
        await http.post("/main/chat/predict", content=b"\x01\x02", headers=sent_as("br"))
        await http.get("/main/chat/page", headers={"accept-encoding": "br, gzip"})
    first, second = server.requests
    assert first.body == b"\x01\x02" and first.headers["content-encoding"] == "br"
    assert second.headers["accept-encoding"] == "br, gzip"


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("br", b"x", 415, "coding_unknown"),
        ("gzip, zstd", b"x", 415, "coding_unknown"),
        ("gzip", b"no gzip", 400, "coding_broken"),
        ("gzip", gzip.compress(ASKED) + b"more", 400, "coding_broken"),
        ("gzip", gzip.compress(ASKED)[:-9], 400, "coding_broken"),
        ("zstd", WAYS["zstd"](ASKED) + b"more", 400, "coding_broken"),
        ("gzip", gzip.compress(bytes(40 << 20)), 413, "body_too_large"),
        ("zstd", WAYS["zstd"](bytes(40 << 20)), 413, "body_too_large"),
    ],
)
async def test_what_can_not_be_opened_is_refused_in_words(gateway, upstream, coding, body, status, code):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    async with client(gateway) as http:
        answer = await http.post("/v1/chat/completions", content=body, headers=sent_as(coding))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert not server.requests and gateway.core.bodies.held == 0
    if status == 415:
        assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"


def coded(body: bytes, coding: str, kind: bytes = b"application/json"):
    async def answer(request, writer):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (kind, coding.encode(), len(body)) + body)

    return answer


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_an_answer_that_comes_compressed_all_the_same_is_counted(gateway, upstream, coding):
    body = WAYS[coding](ANSWER)
    await gateway.start(await upstream(coded(body, coding)))
    async with client(gateway) as http:
        for _ in range(2):
            async with http.stream("POST", "/v1/chat/completions", content=ASKED) as answer:
                assert b"".join([part async for part in answer.aiter_raw()]) == body
                assert answer.headers["content-encoding"] == coding
    for entry in await gateway.finished(2):
        assert (entry.input_tokens, entry.output_tokens, entry.estimated) == (5, 7, False)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_what_only_the_gateway_asked_for_is_taken_out_of_a_compressed_stream(gateway, upstream, coding):
    stream = WAYS[coding](EVENT + USAGE + DONE)

    async def answer(request, writer):
        await chunked(
            writer,
            stream[:10],
            stream[10:],
            kind=b"text/event-stream\r\nContent-Encoding: %b" % coding.encode(),
        )

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        found = await http.post("/v1/chat/completions", json={"model": "chat", "stream": True})
    assert found.content == EVENT + DONE and "content-encoding" not in found.headers
    (entry,) = await gateway.finished(1)
    assert (entry.input_tokens, entry.output_tokens, entry.estimated) == (5, 2, False)


async def test_a_coding_that_nobody_opens_is_estimated(gateway, upstream):
    await gateway.start(await upstream(coded(b"\x01" * 400, "br")))
    async with client(gateway) as http, http.stream("POST", "/v1/chat/completions", content=ASKED) as answer:
        assert b"".join([part async for part in answer.aiter_raw()]) == b"\x01" * 400
    (entry,) = await gateway.finished(1)
    assert entry.estimated and entry.output_tokens == 100


@pytest.mark.parametrize("asks", [True, False])
async def test_an_instances_bomb_takes_nothing_with_it(gateway, upstream, asks):
    bomb = gzip.compress(bytes(200 << 20))
    await gateway.start(await upstream(coded(bomb, "gzip", b"text/event-stream")))
    async with client(gateway) as http:
        options = {} if asks else {"stream_options": {"include_usage": True}}
        try:
            async with http.stream(
                "POST", "/v1/chat/completions", json={"model": "chat", "stream": True, **options}
            ) as answer:
                size = sum([len(part) async for part in answer.aiter_raw()])
            if asks:
                assert answer.status_code == 502 and "content-encoding" not in answer.headers
            else:
                assert size == len(bomb), "the client may open it"
        except httpx.RemoteProtocolError:
            assert asks, "it is cut: half of it can't be opened and the rest not"
    assert len(await gateway.finished(1)) == 1


@pytest.mark.parametrize(("kind", "body"), [("gzip", gzip.compress(b"")), ("zstd", WAYS["zstd"](b""))])
async def test_nobody_opens_a_thousand_parts_of_nothing(gateway, upstream, kind, body):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    async with client(gateway) as http:
        answer = await http.post("/v1/chat/completions", content=body * 50_000, headers=sent_as(kind))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "coding_broken")
    assert not server.requests and gateway.core.bodies.held == 0


async def test_a_body_that_is_opened_is_counted_though_its_sender_has_left(gateway, upstream, monkeypatch):
    await gateway.start(await upstream(json_answer(ANSWER)))
    release = threading.Event()
    opened = request_coding.opened

    def slow(*values):
        release.wait(10)
        return opened(*values)

    monkeypatch.setattr(request_coding, "opened", slow)
    body = gzip.compress(random.Random(1).randbytes(1 << 20))
    head = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    _, writer = await gateway.connect()
    writer.write(head + body)
    await writer.drain()
    while gateway.core.bodies.held < len(body):
        await asyncio.sleep(0.01)
    writer.transport.abort()
    while gateway.core.connections:
        await asyncio.sleep(0.01)
    assert gateway.core.bodies.held == len(body)
    release.set()
    async with asyncio.timeout(10):
        while gateway.core.bodies.held:
            await asyncio.sleep(0.01)


async def test_only_so_many_wait_to_be_opened(gateway, upstream, monkeypatch):
    await gateway.start(await upstream(json_answer(ANSWER)))
    monkeypatch.setattr("gateway.http.openers._MOST_AT_ONCE", 0)
    async with client(gateway) as http:
        answer = await http.post("/v1/chat/completions", content=gzip.compress(ASKED), headers=sent_as("gzip"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "openers_busy")


@pytest.mark.parametrize("way", ["opened", "lines", "unknown coding"])
async def test_what_is_taken_out_changes_the_length_that_is_told(gateway, upstream, way):
    """Else the rest of the answer would pass for the next one."""
    long = orjson.dumps({"x": "HTTP/1.1 200 OK " * 300})
    body, kind, coding = {
        "opened": (gzip.compress(long), b"application/json", b"Content-Encoding: gzip\r\n"),
        "lines": (
            b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n{"done":true}\n',
            b"application/x-ndjson",
            b"",
        ),
        "unknown coding": (b"\x01" * 90, b"text/event-stream", b"Content-Encoding: br\r\n"),
    }[way]

    async def answer(request, writer):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n"
        writer.write(head % (kind, coding, len(body)) + body)

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        for _ in range(2):
            async with http.stream("POST", "/v1/chat/completions", json={"model": "chat", "stream": True}) as found:
                raw = b"".join([part async for part in found.aiter_raw()])
            if way == "unknown coding":
                assert found.headers["content-encoding"] == "br" and raw == body
            else:
                assert raw == (long if way == "opened" else b'{"done":true}\n')
                assert "content-length" not in found.headers and "content-encoding" not in found.headers


async def test_an_answer_that_can_not_be_opened_is_told_from_its_head_on(gateway, upstream):
    async def answer(request, writer):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"4\r\nrubb\r\n")
        await asyncio.sleep(1)

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        found = await http.post("/v1/chat/completions", json={"model": "chat", "stream": True})
    assert (found.status_code, found.json()["error"]["code"]) == (502, "answer_invalid")
    assert len(await gateway.finished(1)) == 1
