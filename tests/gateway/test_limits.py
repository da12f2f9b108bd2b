"""Limits as a client meets them: the 429, the headers, and tokens that are settled however a request ends."""

import asyncio
import base64
import dataclasses
import re

import httpx
import pytest
import pytest_asyncio

from common.request_outcomes import COMPLETED, REJECTED
from gateway.access.callers import Caller
from gateway.http.address import Address
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target
from tests.gateway.conftest import json_answer
from tests.gateway.test_keys import bearer, digest

pytestmark = pytest.mark.asyncio
USAGE = b'{"usage":{"prompt_tokens":30,"completion_tokens":20}}'
CHAT = "/main/chat/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 100}


@pytest_asyncio.fixture
async def limited(gateway, upstream):
    """`await limited(handler, limit, …)`: a client of a gateway whose deployment has these limits."""
    clients = []

    async def make(handler, *limits, is_public=True) -> httpx.AsyncClient:
        server = await upstream(handler)
        await gateway.start(server)
        address = (Address(f"{1:032x}", "127.0.0.1", server.port),)
        target = Target(
            7, 3, "acme/chat", "main", "chat", 11, "running", "Running", "", "", 0, address, is_public=is_public,
            limits=limits,
        )  # fmt: skip
        gateway.core.set_snapshot(Snapshot.of(2, [target]))
        gateway.core.keys[digest("slk_one")] = Caller(3, 20, 40, organizations=frozenset({3}))
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False, timeout=30)
        client.upstream = server
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


def left(answer: httpx.Response, unit: str = "tokens") -> int:
    return int(answer.headers[f"x-ratelimit-remaining-{unit}"])


async def test_tokens_of_the_month_that_are_used_up_refuse_what_would_use_more(gateway, limited):
    client = await limited(json_answer(USAGE))
    chat = {"headers": bearer("slk_one"), "json": BODY}
    assert (await client.post(CHAT, **chat)).status_code == 200
    known = gateway.core.snapshot
    gateway.core.set_snapshot(Snapshot.of(3, list(known.targets), spent=[3]))
    for path in (CHAT, "/v1/chat/completions"):
        refused = await client.post(path, **chat | {"json": BODY | {"model": "acme/chat"}})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (429, "quota_exceeded"), refused.text
        assert error["limit"] == "organization_tokens_per_month" and "on the first" in error["message"]
    assert (await client.get("/main/chat/health", headers=bearer("slk_one"))).status_code == 200, "it uses none"
    assert (await client.post(CHAT, json=BODY)).status_code == 200, "nobody known has none to use up"
    gateway.core.set_snapshot(Snapshot.of(4, list(known.targets)))
    assert (await client.post(CHAT, **chat)).status_code == 200


async def test_a_quota_of_tokens_counts_at_every_path(gateway, limited):
    client = await limited(json_answer(b"x" * 400))
    (target,) = gateway.core.snapshot.targets
    free = dataclasses.replace(target, free_paths=("/tokenize",))
    gateway.core.set_snapshot(Snapshot.of(3, [free], metered=[3]))
    asked = {"headers": bearer("slk_one"), "content": b"y" * 40}
    assert (await client.post("/main/chat/completion", **asked)).status_code == 200
    (entry,) = await gateway.finished(1)
    assert (entry.input_tokens, entry.output_tokens, entry.estimated) == (10, 100, True)
    websocket = b"GET /main/chat/realtime HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer slk_one\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert (await gateway.exchange(websocket)).startswith(b"HTTP/1.1 403")
    gateway.core.set_snapshot(Snapshot.of(4, [free], metered=[3], spent=[3]))
    assert (await client.post("/main/chat/completion", **asked)).status_code == 429
    assert (await client.post("/main/chat/tokenize", **asked)).status_code == 200, "it uses none"


async def test_the_refusal_names_the_limit_and_when_to_come_again(gateway, limited):
    client = await limited(json_answer(USAGE), ("key", 3, 0), ("public", 2, 0))
    answers = [await client.get("/main/chat/x", headers=bearer("slk_one")) for _ in range(4)]
    assert [item.status_code for item in answers] == [200, 200, 200, 429]
    assert [left(item, "requests") for item in answers] == [2, 1, 0, 0]
    refused = answers[-1]
    error = refused.json()["error"]
    assert error["code"] == "rate_limit_exceeded" and error["limit"] == "key_requests_per_minute"
    assert "3 requests a minute for this API key on acme/chat" in error["message"]
    assert int(refused.headers["retry-after"]) in (19, 20)
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert re.fullmatch(r"[\d.]+s", refused.headers["x-ratelimit-reset-requests"])
    assert "x-ratelimit-limit-tokens" not in refused.headers
    anonymous = [await client.get("/main/chat/x") for _ in range(3)]
    assert [item.status_code for item in anonymous] == [200, 200, 429]
    assert "all callers without a key" in anonymous[-1].json()["error"]["message"]
    entries = await gateway.finished(7)
    assert sorted(item.outcome for item in entries) == [COMPLETED] * 5 + [REJECTED] * 2
    assert {item.status for item in entries if item.outcome == REJECTED} == {429}
    assert len(client.upstream.requests) == 5, "what is refused never reaches the instance"


async def test_headers_tell_of_the_tightest_level_for_both_units(limited):
    client = await limited(json_answer(USAGE), ("organization", 100, 9000), ("key", 5, 90_000))
    answer = await client.post(CHAT, json=BODY, headers=bearer("slk_one"))
    assert answer.headers["x-ratelimit-limit-requests"] == "5"
    assert answer.headers["x-ratelimit-limit-tokens"] == "9000"
    assert left(answer, "requests") == 4


async def test_nothing_is_said_where_there_is_no_limit(limited):
    client = await limited(json_answer(USAGE))
    answer = await client.post(CHAT, json=BODY)
    assert answer.status_code == 200 and not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def settled(client: httpx.AsyncClient, used: int, per_minute: int = 10_000) -> None:
    """Wait until the bucket shows that this many tokens were used: no more is held, no less was taken."""
    async with asyncio.timeout(10):
        while True:
            answer = await client.get("/main/chat/x")
            # It refills by 167 a second.
            if per_minute - used <= left(answer) <= per_minute - used + 400:
                return
            await asyncio.sleep(0.02)


async def test_cached_tokens_are_kept_and_left_out_of_limits_where_that_is_set(gateway, limited):
    """The same request, once as a limit counts it by itself and once without what the engine had cached."""
    told = b'{"usage":{"prompt_tokens":3000,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":2500}}}'
    client = await limited(json_answer(told), ("public", 0, 10_000))
    await client.post(CHAT, json=BODY)
    (entry,) = await gateway.finished(1)
    assert (entry.input_tokens, entry.cached_tokens, entry.output_tokens) == (3000, 2500, 20)
    await settled(client, 3020)
    (target,) = gateway.core.snapshot.targets
    other = dataclasses.replace(target, deployment_id=8, limits_leave_cached_out=True)
    gateway.core.set_snapshot(Snapshot.of(3, [other]))
    await client.post(CHAT, json=BODY)
    await settled(client, 520)


async def test_tokens_that_were_not_used_are_given_back(limited):
    client = await limited(
        json_answer(b'{"usage":{"prompt_tokens":600,"completion_tokens":400}}'), ("public", 0, 10_000)
    )
    answer = await client.post(CHAT, json={**BODY, "max_tokens": 5000})
    assert left(answer) <= 10_000 - 1024, "while it runs the most that it may use is held"
    await settled(client, 1000)


async def test_an_answer_that_tells_no_usage_is_estimated(gateway, limited):
    client = await limited(json_answer(b'{"choices":"' + b"x" * 4000 + b'"}'), ("public", 0, 10_000))
    await client.post(CHAT, json={**BODY, "messages": [{"role": "user", "content": "y" * 2000}]})
    (entry,) = await gateway.finished(1)
    assert entry.estimated and 500 < entry.input_tokens < 540 and entry.output_tokens == 1003
    await settled(client, int(entry.input_tokens + entry.output_tokens))


async def test_an_embedding_without_usage_costs_its_prompt_alone(gateway, limited):
    client = await limited(json_answer(b'{"data":[' + b"0.1," * 2000 + b"0]}"), ("public", 0, 10_000))
    await client.post("/main/chat/v1/embeddings", json={"input": "y" * 4000})
    (entry,) = await gateway.finished(1)
    assert entry.output_tokens == 0 and 1000 <= entry.input_tokens < 1020


async def test_an_instance_that_fails_costs_no_tokens(gateway, limited):
    async def fails(request, writer) -> None:
        writer.close()

    client = await limited(fails, ("public", 0, 10_000))
    assert (await client.post(CHAT, json=BODY)).status_code == 502
    (entry,) = await gateway.finished(1)
    assert (entry.input_tokens, entry.output_tokens) == (0, 0)
    async with asyncio.timeout(10):
        while left(await client.get("/main/chat/x")) < 10_000:
            await asyncio.sleep(0.02)


def stream_of(events: int, *, then: str):
    """So many events of a stream, then the instance hangs or breaks off."""

    async def stream(request, writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(events):
            event = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        if then == "breaks":
            writer.close()
        else:
            await asyncio.sleep(60)

    return stream


@pytest.mark.parametrize("ending", ["the client leaves", "the instance breaks off"])
async def test_a_stream_that_is_cut_costs_what_was_produced(gateway, limited, ending):
    then = "hangs" if ending == "the client leaves" else "breaks"
    client = await limited(stream_of(40, then=then), ("public", 0, 10_000))
    seen = 0
    try:
        async with client.stream("POST", CHAT, json={**BODY, "stream": True}) as answer:
            async for line in answer.aiter_lines():
                seen += line.startswith("data:")
                if seen == 40 and then == "hangs":
                    break
    except httpx.RemoteProtocolError:
        assert then == "breaks"
    (entry,) = await gateway.finished(1)
    assert entry.estimated and entry.output_tokens == 40
    bucket = next(iter(gateway.core.limiter._buckets.values()))
    used = int(entry.input_tokens + entry.output_tokens)
    assert bucket.full_at > 0 and used < 100, "a hundred and more were reserved"
    assert bucket.remaining(asyncio.get_running_loop().time()) >= 10_000 - used - 1


async def chunks(*parts: bytes):
    for part in parts:
        yield part
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/v1/%63ompletions", "/v1//completions", "/v1/completions/", "/v1/embeddings"])
async def test_no_spelling_of_a_request_gets_around_a_token_limit(limited, path):
    client = await limited(json_answer(b'{"usage":{"prompt_tokens":400,"completion_tokens":100}}'), ("public", 0, 1000))
    statuses = []
    for _ in range(6):
        answer = await client.post(f"/main/chat{path}", content=chunks(b'{"input":', b'"x"}'))
        statuses.append(answer.status_code)
        await asyncio.sleep(0.06)
    assert statuses.count(200) <= 3 and statuses[-1] == 429


async def test_a_client_that_leaves_before_the_first_token_pays_for_its_prompt(gateway, limited):
    async def never(request, writer) -> None:
        await asyncio.sleep(60)

    client = await limited(never, ("public", 0, 10_000))
    with pytest.raises(httpx.ReadTimeout):
        body = {**BODY, "messages": [{"role": "user", "content": "y" * 8000}]}
        await client.post(CHAT, json=body, timeout=0.3)
    (entry,) = await gateway.finished(1)
    assert entry.estimated and 2000 < entry.input_tokens < 2100 and entry.output_tokens == 0


async def test_a_refusal_of_a_large_body_leaves_the_connection_usable(gateway, limited, valkey):
    """All of the body is here before the counters refuse: reading was paused for it, and must go on."""
    await limited(json_answer(USAGE), ("public", 1, 0))
    await gateway.count_in(valkey)
    reader, writer = await gateway.connect()

    async def exchange(request: bytes) -> bytes:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1]))
        return head[9:12]

    get = b"GET /main/chat/x HTTP/1.1\r\nHost: x\r\n\r\n"
    async with asyncio.timeout(10):
        assert await exchange(get) == b"200"
        valkey.hang()
        large = b"POST /main/chat/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
        refusing = asyncio.create_task(exchange(large))
        await asyncio.sleep(0.2)
        valkey.go_on()
        assert await refusing == b"429"
        assert await exchange(get) == b"429"
    writer.close()


async def test_a_limit_that_changes_while_a_body_comes_is_the_new_one_for_all(gateway, limited):
    client = await limited(json_answer(USAGE), ("public", 1000, 0))
    before = gateway.core.snapshot.targets[0]
    release = asyncio.Event()

    async def slowly():
        yield b'{"model":"acme/chat",'
        await release.wait()
        yield b'"messages":[]}'

    slow = asyncio.create_task(client.post(CHAT, content=slowly(), headers={"content-length": "35"}))
    async with asyncio.timeout(5):
        while not any(connection._exchange for connection in gateway.core.connections):
            await asyncio.sleep(0.01)
    gateway.core.set_snapshot(Snapshot.of(3, [dataclasses.replace(before, limits=(("public", 2, 0),))]))
    release.set()
    assert (await slow).headers["x-ratelimit-limit-requests"] == "2"
    assert (await client.get("/main/chat/x")).headers["x-ratelimit-limit-requests"] == "2"


async def test_a_deployment_that_is_deleted_mid_stream_serves_what_it_began(gateway, limited):
    """The directory forgets it while an answer streams: that one ends as it would have, booked and settled; later ones get 404."""
    release = asyncio.Event()

    async def answer(request, writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        event = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await release.wait()
        told = b'data: {"choices":[],"usage":{"prompt_tokens":300,"completion_tokens":700}}\n\n'
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(told), told))
        await writer.drain()

    client = await limited(answer, ("public", 0, 10_000))
    async with client.stream("POST", CHAT, json={**BODY, "stream": True}) as streaming:
        lines = streaming.aiter_lines()
        assert "content" in await anext(lines)
        gateway.core.set_snapshot(Snapshot.of(3, []))
        assert (await client.get("/main/chat/x")).status_code == 404
        release.set()
        assert [line async for line in lines if line] == []
    (entry,) = await gateway.finished(1)
    assert (entry.deployment, entry.outcome, entry.input_tokens, entry.output_tokens) == (7, COMPLETED, 300, 700)
    (bucket,) = gateway.core.limiter._buckets.values()
    assert 8990 <= bucket.remaining(asyncio.get_running_loop().time()) <= 9400


async def test_a_client_that_leaves_while_the_counters_are_asked_costs_nothing(gateway, limited, valkey):
    client = await limited(json_answer(USAGE), ("public", 0, 10_000))
    counters = await gateway.count_in(valkey)
    valkey.hang()
    with pytest.raises(httpx.ReadTimeout):
        await client.post(CHAT, json=BODY, timeout=0.1)
    (entry,) = await gateway.finished(1)
    assert entry.outcome != COMPLETED
    valkey.go_on()
    async with asyncio.timeout(10):
        while counters.is_away or left(await client.post(CHAT, json=BODY)) < 9600:
            await asyncio.sleep(0.05)
    assert len(client.upstream.requests) >= 1


async def test_requests_pass_while_valkey_goes_and_comes(gateway, limited, valkey):
    """Nobody gets an error for a store that only counts."""
    client = await limited(json_answer(USAGE), ("public", 50_000, 0))
    counters = await gateway.count_in(valkey)
    statuses = set()

    async def load() -> None:
        while True:
            statuses.add((await client.get("/main/chat/x")).status_code)

    loading = asyncio.create_task(load())
    for _ in range(2):
        await asyncio.sleep(0.2)
        valkey.kill()
        await asyncio.sleep(0.2)
        assert counters.is_away
        await valkey.start()
        async with asyncio.timeout(20):
            while counters.is_away:
                await asyncio.sleep(0.02)
    loading.cancel()
    assert statuses == {200}


async def test_a_body_is_asked_for_only_behind_the_limits(gateway, limited):
    await limited(json_answer(USAGE), ("public", 1, 0))
    head = b"POST /main/chat/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
    reader, writer = await gateway.connect()
    writer.write(head + b"\r\n")
    async with asyncio.timeout(10):
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"hello")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        refused = await gateway.exchange(head + b"\r\n")
    assert b"429" in refused.split(b"\r\n")[0] and b"100 Continue" not in refused


async def test_a_body_that_streams_waits_for_the_counters(gateway, limited, valkey):
    """Chunks that come while Valkey is asked are held, in order, and none is lost."""
    client = await limited(json_answer(USAGE), ("public", 100, 10_000))
    await gateway.count_in(valkey)

    async def chunks():
        for index in range(200):
            yield b"%04d" % index * 500

    answer = await client.post("/main/chat/upload", content=chunks())
    assert answer.status_code == 200
    assert client.upstream.requests[-1].body == b"".join([b"%04d" % index * 500 for index in range(200)])


@pytest.mark.parametrize(
    "path",
    ["/chat/completions", "/completion", "/v1/messages", "/invocations", "/generate", "//v1//chat/completions", "/anything/new", "/generate?embeddings"],
)  # fmt: skip
async def test_no_path_walks_around_a_token_limit(gateway, limited, path):
    """Whatever an engine calls what it generates: it counts by the engine's usage, or by its length where none is told."""
    client = await limited(json_answer(USAGE), ("public", 0, 2000))
    gateway.core.set_snapshot(counting(gateway))
    first = await client.post(f"/main/chat{path}", json=BODY)
    assert first.status_code == 200
    assert 0 < 2000 - left(first) <= 1100, "held when it begins"
    for _ in range(60):
        answer = await client.post(f"/main/chat{path}", json=BODY)
        if answer.status_code == 429:
            break
    assert answer.status_code == 429 and answer.json()["error"]["limit"] == "public_tokens_per_minute"
    entries = [entry for entry in await gateway.finished(2) if entry.status == 200]
    assert all((entry.input_tokens, entry.output_tokens) == (30, 20) for entry in entries)


async def test_what_tells_no_usage_counts_by_its_length_and_reading_counts_nothing(gateway, limited):
    client = await limited(json_answer(b"x" * 400), ("public", 0, 5000))
    gateway.core.set_snapshot(counting(gateway, "/tokenize"))
    for method, path in (
        ("GET", "/x"),
        ("HEAD", "/x"),
        ("POST", "/tokenize"),
        ("POST", "/%74okenize?a=b"),
        ("POST", "/x"),
    ):
        assert (await client.request(method, f"/main/chat{path}", content=b"y" * 40)).status_code == 200
    entries = await gateway.finished(5)
    assert [entry.input_tokens + entry.output_tokens for entry in entries] == [0, 0, 0, 0, 110]
    assert entries[-1].estimated


async def test_without_limit_or_price_nothing_is_made_up(gateway, limited):
    client = await limited(json_answer(b"x" * 400))
    await client.post("/main/chat/predict", content=b"y" * 40)
    (entry,) = await gateway.finished(1)
    assert entry.input_tokens + entry.output_tokens == 0


async def test_a_websocket_is_refused_where_tokens_are_limited(gateway, limited):
    await limited(json_answer(b"{}"), ("public", 0, 5000))
    gateway.core.set_snapshot(counting(gateway))
    answer = await gateway.exchange(
        b"GET /main/chat/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 403") and b"websocket_not_metered" in answer


def counting(gateway, *free_paths: str) -> Snapshot:
    (target,) = gateway.core.snapshot.targets
    return Snapshot.of(3, [dataclasses.replace(target, counts_tokens=True, free_paths=free_paths)])


@pytest.mark.parametrize("way", ["a picture", "a sound", "a form", "text"])
async def test_pictures_and_sounds_do_not_count_as_text(gateway, limited, way):
    client = await limited(json_answer(b'{"told":"nothing"}'), ("public", 0, 2_000_000))
    blob = base64.b64encode(bytes(3 << 20)).decode()
    content = {
        "a picture": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{blob}"}}, {"type": "text", "text": "x" * 400}],
        "a sound": [{"type": "input_audio", "input_audio": {"data": blob, "format": "wav"}}, {"type": "text", "text": "y" * 400}],
        "text": "some words " * 40_000,
    }.get(way)  # fmt: skip
    before = 2_000_000
    if way == "a form":
        answer = await client.post(
            "/main/chat/v1/audio/transcriptions", data={"model": "x"}, files={"file": bytes(3 << 20)}
        )
    else:
        answer = await client.post(CHAT, json={"messages": [{"role": "user", "content": content}], "max_tokens": 10})
    assert answer.status_code == 200
    (entry,) = await gateway.finished(1)
    if way == "text":
        assert entry.input_tokens > 100_000
    else:
        assert entry.input_tokens < 1000 and left(answer) > before - 2500
