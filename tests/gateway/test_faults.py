"""Faults on either side: the client gets a clear answer or a cut connection, the books get exactly one entry."""

import asyncio
import dataclasses
import gc
import gzip
import json

import httpx
import pytest

from common import request_outcomes
from gateway.http.bounds import Timeouts
from gateway.routing.snapshot import Snapshot
from tests.gateway.conftest import json_answer
from tests.gateway.test_passing import EVENT, chunked, client

pytestmark = pytest.mark.asyncio


async def test_not_running_is_503_with_status_and_remedy(gateway):
    await gateway.start(status="stopped")
    async with client(gateway) as http:
        for response in (
            await http.get("/main/chat/x"),
            await http.post("/v1/chat/completions", json={"model": "chat"}),
        ):
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["status"]) == (503, "deployment_stopped", "stopped")
            assert "Start a version" in error["message"]
    assert [entry.outcome for entry in await gateway.finished(2)] == [request_outcomes.REJECTED] * 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/", None, 404, "not_found"),
        ("GET", "/main/none/x", None, 404, "deployment_not_found"),
        ("POST", "/v1/chat/completions", b"{}", 400, "model_missing"),
        ("POST", "/v1/chat/completions", b"not json", 400, "body_not_json"),
        ("POST", "/v1/chat/completions", b'{"model":"none"}', 404, "model_not_found"),
        ("POST", "/v1/chat/completions", b'{"model":7}', 400, "model_missing"),
        ("GET", "/v1/chat/completions", None, 400, "model_missing"),
        ("POST", "/v1/chat/completions", bytes(50 << 20), 413, "body_too_large"),
    ],
)
async def test_bad_requests_are_answered_in_words(gateway, upstream, method, path, body, status, code):
    await gateway.start(await upstream(json_answer(b"{}")))
    async with client(gateway) as http:
        response = await http.request(method, path, content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET /main/chat/x HTTP/1.1\r\n\r\n", 400),
        (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (
            b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST /main/chat/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"CONNECT /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_a_strict_server_refuses_is_not_passed_on(gateway, upstream, raw, status):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    answer = await gateway.exchange(raw)
    got = int(answer.split(b" ")[1])
    assert 400 <= got <= 501 and (got == status or status == 400)
    assert not server.requests


async def test_a_client_that_leaves_mid_stream_stops_the_instance_and_is_settled(gateway, upstream):
    async def endless(request, writer):
        await chunked(writer, *[EVENT] * 1000, pause=0.02)

    server = await upstream(endless)
    await gateway.start(server)
    async with (
        client(gateway) as http,
        http.stream("POST", "/v1/chat/completions", json={"model": "chat", "stream": True}) as response,
    ):
        async for _ in response.aiter_raw():
            break
    async with asyncio.timeout(5):
        await server.lost.wait()
    (entry,) = await gateway.finished(1)
    assert (entry.outcome, entry.estimated) == (request_outcomes.CANCELLED, request_outcomes.LEFT)
    assert entry.output_tokens >= 1


async def test_a_torn_answer_is_never_passed_on_as_whole(gateway, upstream):
    async def torn(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        writer.close()

    await gateway.start(await upstream(torn))
    async with client(gateway) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/main/chat/x")
    assert (await gateway.finished(1))[0].outcome == request_outcomes.FAILED


@pytest.mark.parametrize("reply", [b"", b"rubbish that is not HTTP\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
async def test_an_instance_that_answers_rubbish_is_502(gateway, upstream, reply):
    async def answer(request, writer):
        writer.write(reply)
        await writer.drain()
        writer.close()

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        response = await http.get("/main/chat/x")
    expected = "answer_invalid" if reply else "instance_closed"
    assert (response.status_code, response.json()["error"]["code"]) == (502, expected)
    assert (await gateway.finished(1))[0].outcome == request_outcomes.FAILED


async def test_an_instance_that_is_not_there_is_502_and_asked_again(gateway, upstream, free_port):
    server = await upstream(json_answer(b"{}"))
    there, server.port = server.port, free_port
    await gateway.start(server)
    async with client(gateway) as http:
        codes = [(await http.get("/main/chat/x")).json()["error"]["code"] for _ in range(5)]
        assert codes == ["instance_unreachable"] * 5
        server.port = there
        gateway.serve(server)
        assert (await http.get("/main/chat/x")).status_code == 200, "the last one never rests"


async def test_while_one_instance_is_gone_the_others_serve_all(gateway, upstream, free_port):
    servers = [await upstream(json_answer(b"{}")) for _ in range(3)]
    servers[0].port = free_port
    await gateway.start(*servers)
    async with client(gateway) as http:
        answers = [await http.post("/v1/chat/completions", json={"model": "chat"}) for _ in range(20)]
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len(await gateway.finished(20)) == 20


@pytest.mark.parametrize("drops", [3, 5])
async def test_connections_that_an_only_instance_drops_close_nothing(gateway, upstream, drops):
    count = 0

    async def moody(request, writer):
        nonlocal count
        count += 1
        if count <= drops:
            writer.close()
        else:
            await json_answer(b"{}")(request, writer)

    await gateway.start(await upstream(moody))
    async with client(gateway) as http:
        statuses = [(await http.get("/main/chat/x")).status_code for _ in range(drops + 4)]
    assert statuses == [502] * drops + [200] * 4


async def test_a_strict_engine_gets_the_callers_own_bytes_and_is_remembered(gateway, upstream):
    body = {"model": "chat", "stream": True, "messages": []}

    async def strict(request, writer):
        if b"stream_options" in request.body:
            await json_answer(b'{"error":"extra fields not permitted"}', "422 Unprocessable Entity")(request, writer)
        else:
            event = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(event) + event)

    server = await upstream(strict)
    await gateway.start(server)
    async with client(gateway) as http:
        for _ in range(3):
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200 and b"data: " in answer.content
        refused = await http.post("/v1/chat/completions", json=body | {"stream_options": {"x": 1}})
    assert [b"stream_options" in request.body for request in server.requests] == [True, False, False, False, True]
    assert json.loads(server.requests[1].body) == body
    assert refused.status_code == 422, "what the caller asked for is the engine's to refuse"
    entries = await gateway.finished(4)
    assert [entry.estimated for entry in entries] == [True, True, True, False]
    assert len(entries) == 4


async def test_a_connection_closed_while_idle_is_retried_unseen(gateway, upstream):
    async def once(request, writer):
        await json_answer(b"{}")(request, writer)
        writer.close()

    server = await upstream(once)
    await gateway.start(server)
    async with client(gateway) as http:
        for _ in range(5):
            response = await http.post("/v1/chat/completions", json={"model": "chat"})
            assert response.status_code == 200
    assert len(server.requests) == 5


async def test_a_frozen_instance_ends_in_its_timeout(gateway, upstream):
    async def frozen(request, writer):
        await asyncio.sleep(60)

    await gateway.start(await upstream(frozen), timeouts=Timeouts(first_byte_s=0.5))
    async with client(gateway) as http:
        response = await http.get("/main/chat/x")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "first_byte_timeout")


async def test_a_stream_that_stalls_is_cut(gateway, upstream):
    async def stalls(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await asyncio.sleep(60)

    await gateway.start(await upstream(stalls), timeouts=Timeouts(stream_idle_s=0.5))
    async with client(gateway) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/main/chat/x")
    assert (await gateway.finished(1))[0].outcome == request_outcomes.FAILED


async def test_a_slow_body_and_a_slow_head_end_in_their_timeouts(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")), timeouts=Timeouts(header_s=0.5, body_idle_s=0.5))
    answer = await gateway.exchange(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"body_timeout" in answer
    answer = await gateway.exchange(b"GET /main/cha")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"header_timeout" in answer


async def test_a_slow_reader_bounds_memory_and_inflates_no_clock(gateway, upstream):
    sent = 0

    async def flood(request, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        part = b"%x\r\n%b\r\n" % (65536, bytes(65536))
        for _ in range(400):
            writer.write(part)
            await writer.drain()
            sent += 65536
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    await gateway.start(await upstream(flood))
    reader, writer = await gateway.connect()
    writer.write(b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(1.5)
    held = sent
    total = 0
    async with asyncio.timeout(20):
        while total < 400 * 65536:
            total += len(await reader.read(1 << 20))
    assert held < 16 << 20, "the rest waited in the instance"
    writer.close()
    (entry,) = await gateway.finished(1)
    assert entry.end_to_end < 1.4


async def test_expect_continue_is_answered_only_for_what_is_taken(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    reader, writer = await gateway.connect()
    writer.write(b"POST /main/chat/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    writer.write(b"ok")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    refused = await gateway.exchange(
        b"POST /main/none/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    assert refused.startswith(b"HTTP/1.1 404 ")


async def test_tokens_beyond_all_measure_end_a_request_like_any_other(gateway, upstream):
    most = 2**31 - 1
    usage = {
        "input_tokens": most,
        "output_tokens": 5,
        "cache_read_input_tokens": most,
        "cache_creation_input_tokens": most,
    }
    await gateway.start(await upstream(json_answer(json.dumps({"usage": usage}).encode())))
    async with client(gateway) as http:
        assert (await http.post("/v1/chat/completions", json={"model": "chat"})).status_code == 200
    (entry,) = await gateway.finished(1)
    assert (entry.input_tokens, entry.output_tokens) == (2**32 - 1, 5) and gateway.core.in_flight == 0


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"\\ud800","a":NaN}',
        b'{"model":"acme/chat","max_tokens":99999999999999999999999,"a":NaN}',
        b'{"model":"acme/chat","stream":' + b"[" * 300 + b"]" * 300 + b',"a":NaN}',
        b"{" + b'"model":' * 20_000,
        b"{" + b'"model":' * 200_000,
        b'{"model":"acme/chat","a":' + b"[" * 300_000,
    ],
)
async def test_whatever_is_not_quite_json_is_answered(gateway, upstream, body):
    await gateway.start(await upstream(json_answer(b"{}")))
    async with asyncio.timeout(10), client(gateway) as http:
        for coding in ("identity", "gzip"):
            content = gzip.compress(body) if coding == "gzip" else body
            answer = await http.post("/v1/chat/completions", content=content, headers={"content-encoding": coding})
            assert answer.status_code in (200, 400, 404)


async def test_one_odd_request_does_not_make_a_version_strict(gateway, upstream):
    async def vllm(request, writer):
        body = json.loads(request.body)
        if body.get("stream_options") and not body.get("stream"):
            await json_answer(b'{"error":"stream_options without stream"}', "400 Bad Request")(request, writer)
        else:
            await json_answer(b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}')(request, writer)

    await gateway.start(await upstream(vllm))
    async with client(gateway) as http:
        assert (await http.post("/v1/chat/completions", json={"model": "chat", "stream": 0})).status_code == 200
    assert not gateway.core.strict_versions


async def test_limits_that_came_while_a_body_was_sent_hold_for_it(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    body = b'{"model":"chat"}'
    head = (
        b"POST /main/chat/v1/embeddings HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    opened = [await gateway.connect() for _ in range(5)]
    for _, writer in opened:
        writer.write(head + body[:3])
    await asyncio.sleep(0.1)
    (target,) = gateway.core.snapshot.targets
    gateway.core.set_snapshot(Snapshot.of(7, [dataclasses.replace(target, limits=(("public", 1, 0),))]))
    statuses = []
    for reader, writer in opened:
        writer.write(body[3:])
        statuses.append((await reader.read())[9:12])
    assert sorted(statuses) == [b"200"] + [b"429"] * 4


async def test_answers_of_our_own_wait_for_whoever_does_not_read(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    (target,) = gateway.core.snapshot.targets
    many = [dataclasses.replace(target, api_id=f"acme/m{number}", name=f"m{number}") for number in range(500)]
    gateway.core.set_snapshot(Snapshot.of(7, many))
    ask = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
    reader, writer = await gateway.connect()
    writer.write(ask * 1000 + ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    await asyncio.sleep(0.5)
    (connection,) = gateway.core.connections
    assert connection.transport.get_write_buffer_size() < 1 << 20
    async with asyncio.timeout(60):
        count = 0
        while part := await reader.read(1 << 20):
            count += part.count(b"HTTP/1.1 200 OK")
    assert count == 1001


async def test_all_that_was_sent_ahead_of_an_end_is_answered(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    health = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    get = b"GET /main/chat/x HTTP/1.1\r\nHost: a\r\n\r\n"
    reader, writer = await gateway.connect()
    writer.write(get + health + health + get)
    writer.write_eof()
    async with asyncio.timeout(5):
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 4


async def test_proxies_clients_reach_our_own_answers_too(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    answer = await gateway.exchange(b"GET http://a/v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_what_is_remembered_of_heads_keeps_no_picture_of_before(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    (target,) = gateway.core.snapshot.targets
    async with client(gateway) as http:
        for number in range(20):
            gateway.core.set_snapshot(Snapshot.of(number, [target]))
            assert (await http.get("/main/chat/x", headers={"x-number": str(number)})).status_code == 200
    gc.collect()
    assert sum(type(thing) is Snapshot for thing in gc.get_objects()) < 10
