"""The APIs that clients speak: paths, names of models, errors in their words, and streams that break."""

import asyncio
import dataclasses

import openai
import orjson
import pytest
import websockets
from websockets.asyncio.server import serve

from gateway.access.callers import Caller
from gateway.routing.snapshot import Snapshot
from tests.gateway.conftest import json_answer
from tests.gateway.test_keys import bearer, digest
from tests.gateway.test_passing import chunked, client

pytestmark = pytest.mark.asyncio

EVENT = b'data: {"model":"acme/chat","choices":[{"delta":{"content":"a"}}]}\n\n'
ANSWER = orjson.dumps(
    {"id": "x", "model": "acme/chat", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
)


def serving(gateway, **more) -> None:
    """What the directory says of the deployment from now on."""
    (target,) = gateway.core.snapshot.targets
    gateway.core.set_snapshot(
        Snapshot.of(5, [dataclasses.replace(target, served_name="acme/chat", version_number=3, **more)])
    )


async def test_an_alias_is_answered_under_its_own_name_and_listed(gateway, upstream, tmp_path):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    serving(gateway)
    (target,) = gateway.core.snapshot.targets
    known = Snapshot.of(6, [target], aliases=[(3, "gpt-4o", target.deployment_id), (4, "other", target.deployment_id)])
    known.save(tmp_path / "snapshot")
    assert Snapshot.load(tmp_path / "snapshot", ()) == known != Snapshot.of(6, [target]), (
        "an alias makes another picture"
    )
    gateway.core.set_snapshot(Snapshot.load(tmp_path / "snapshot", ()))
    gateway.core.keys[digest("slk_one")] = Caller(3, 20, 40, organizations=frozenset({3}))
    async with client(gateway) as http:
        http.headers.update(bearer("slk_one"))
        for path in ("/v1/chat/completions", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"):
            answer = await http.post(path, json={"model": "gpt-4o", "messages": []})
            assert (
                answer.json()["model"] == "gpt-4o" and answer.headers["x-slipway-served-by"] == "acme/chat; version=3"
            )
        assert [orjson.loads(item.body)["model"] for item in server.requests] == ["acme/chat"] * 2
        listed = (await http.get("/v1/models")).json()["data"]
        assert [(item["id"], item.get("root")) for item in listed] == [("acme/chat", None), ("gpt-4o", "acme/chat")]
        assert (await http.get("/v1/models/gpt-4o")).json()["id"] == "gpt-4o"
        assert (await http.post("/v1/completions", json={"model": "other", "prompt": "x"})).status_code == 404
    async with client(gateway) as nobody:
        assert (await nobody.post("/v1/completions", json={"model": "gpt-4o", "prompt": "x"})).status_code == 404


async def test_moderations_need_name_no_model(gateway, upstream):
    server = await upstream(json_answer(b'{"id":"m","model":"acme/chat","results":[]}'))
    await gateway.start(server)
    serving(gateway)
    async with client(gateway) as http:
        refused = await http.post("/v1/moderations", json={"input": "x"})
        assert refused.status_code == 404 and "omni-moderation-latest" in refused.json()["error"]["message"]
        (target,) = gateway.core.snapshot.targets
        gateway.core.set_snapshot(
            Snapshot.of(6, [target], aliases=[(0, "omni-moderation-latest", target.deployment_id)])
        )
        answer = await http.post("/v1/moderations", json={"input": "x"})
        assert answer.status_code == 200 and answer.json()["model"] == "omni-moderation-latest"
        assert orjson.loads(server.requests[-1].body) == {"model": "acme/chat", "input": "x"}
        for body in (b"[]", b"x", b'{"model":5}'):
            assert (await http.post("/v1/moderations", content=body)).status_code == 400


@pytest.mark.parametrize(
    ("asked", "gets"),
    [
        ("/v1/rerank", "/v1/rerank"),
        ("/v2/rerank", "/v2/rerank"),
        ("/rerank", "/rerank"),
        ("/score?x=1", "/score?x=1"),
        ("/tokenize", "/tokenize"),
        ("/v1/messages", "/v1/messages"),
        ("/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/openai/v1/responses", "/v1/responses"),
        ("/openai/responses?api-version=2025-04-01-preview", "/v1/responses?api-version=2025-04-01-preview"),
        ("/openai/deployments/acme/chat/chat/completions?api-version=2024-10-21", "/v1/chat/completions"),
        ("/openai/deployments/acme%2Fchat/embeddings?api-version=2024-10-21", "/v1/embeddings"),
        ("/openai/deployments/chat/completions", "/v1/completions"),
    ],
)
async def test_paths_that_name_a_model(gateway, upstream, asked, gets):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    serving(gateway)
    body = {"messages": [], "stream": False} | ({} if "deployments" in asked else {"model": "chat"})
    async with client(gateway) as http:
        answer = await http.post(asked, json=body)
    assert answer.status_code == 200, answer.text
    (sent,) = server.requests
    assert sent.path == gets and orjson.loads(sent.body) == body | {"model": "acme/chat"}


async def test_azures_bodies_in_chunks_name_the_model_of_the_path(gateway, upstream):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    serving(gateway)

    async def parts():
        yield b'{"model":"x",'
        yield b'"messages":[]}'

    async with client(gateway) as http:
        assert (await http.post("/openai/deployments/chat/chat/completions", content=parts())).status_code == 200
    assert orjson.loads(server.requests[0].body) == {"model": "acme/chat", "messages": []}


async def test_an_endpoint_that_is_called_openai_keeps_its_addresses(gateway, upstream):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    serving(gateway, endpoint="openai", name="responses")
    async with client(gateway) as http:
        assert (await http.post("/openai/responses/v1/x", content=b"y")).status_code == 200
    assert server.requests[0].path == "/v1/x"


async def test_a_realtime_websocket_names_its_model_in_the_query(gateway):
    async def hello(connection):
        await connection.send(connection.request.path)

    async with serve(hello, "127.0.0.1", 0) as server:
        await gateway.start(Port(server.sockets[0].getsockname()[1]))
        serving(gateway)
        for path in ("/v1/realtime?model=chat", "/openai/realtime?api-version=1&deployment=acme%2Fchat"):
            async with websockets.connect(f"ws://127.0.0.1:{gateway.port}{path}", proxy=None) as connection:
                assert (await connection.recv()).startswith("/v1/realtime?")
                assert connection.response.headers["x-slipway-served-by"] == "acme/chat; version=3"
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"ws://127.0.0.1:{gateway.port}/v1/realtime?model=none", proxy=None)
        assert refused.value.response.status_code == 404


@dataclasses.dataclass
class Port:
    port: int


async def test_the_answer_names_the_model_that_was_asked_for(gateway, upstream):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    serving(gateway)
    async with client(gateway) as http:
        by_name = await http.post(
            "/v1/chat/completions", json={"model": "chat", "messages": [{"content": "acme/chat"}]}
        )
        by_id = await http.post("/v1/chat/completions", json={"model": "acme/chat"})
        form = await http.post(
            "/v1/audio/transcriptions", data={"model": "chat", "x": "y"}, files={"file": b"chat" * 100}
        )
    assert by_name.json() == orjson.loads(ANSWER) | {"model": "chat"} and by_id.content == ANSWER
    assert form.json()["model"] == "chat"
    first, _, third = server.requests
    assert orjson.loads(first.body) == {"model": "acme/chat", "messages": [{"content": "acme/chat"}]}
    assert third.body.count(b"acme/chat") == 1 and b"chat" * 100 in third.body
    assert [(entry.input_tokens, entry.estimated) for entry in await gateway.finished(3)] == [(5, False)] * 3


@pytest.mark.parametrize("at", [1, 7, 31, 64])
async def test_the_name_is_replaced_however_the_answer_is_cut(gateway, upstream, at):
    async def answer(request, writer):
        data = EVENT * 3 if b"stream" in request.body else ANSWER
        parts = [data[start : start + at] for start in range(0, len(data), at)]
        kind = b"text/event-stream" if b"stream" in request.body else b"application/json"
        await chunked(writer, *parts, kind=kind)

    await gateway.start(await upstream(answer))
    serving(gateway)
    async with client(gateway) as http:
        whole = await http.post("/v1/chat/completions", json={"model": "chat"})
        stream = await http.post("/v1/chat/completions", json={"model": "chat", "stream": True})
    assert whole.json()["model"] == "chat"
    assert stream.content == EVENT.replace(b"acme/chat", b"chat") * 3


async def test_a_model_that_nobody_named_is_left_as_the_engine_calls_it(gateway, upstream):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    async with client(gateway) as http:
        await http.post("/v1/chat/completions", json={"model": "chat"})
    assert orjson.loads(server.requests[0].body) == {"model": "chat"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", {"error": {"type": "invalid_request_error", "code": "model_not_found"}}),
        ("/v1/messages", {"type": "error", "error": {"type": "not_found_error", "code": "model_not_found"}}),
        (
            "/main/none/v1/messages",
            {"type": "error", "error": {"type": "not_found_error", "code": "deployment_not_found"}},
        ),
        ("/v2/rerank", {"code": "model_not_found"}),
    ],
)
async def test_errors_are_told_in_the_words_of_the_api(gateway, upstream, path, expected):
    await gateway.start(await upstream(json_answer(ANSWER)))
    async with client(gateway) as http:
        answer = await http.post(path, json={"model": "none"})
    told = answer.json()
    assert answer.status_code == 404 and answer.headers["x-request-id"] in answer.text
    for name, value in expected.items():
        assert value.items() <= told[name].items() if isinstance(value, dict) else told[name] == value
    assert "message" in (told if path == "/v2/rerank" else told["error"])


async def test_messages_tell_limits_and_missing_keys_in_their_words(gateway, upstream):
    await gateway.start(await upstream(json_answer(ANSWER)))
    serving(gateway, is_public=False, limits=(("key", 1, 0),))
    gateway.core.keys[digest("slk_one")] = Caller(3, 20, 40, organizations=frozenset({3}))
    async with client(gateway) as http:
        asked = {"json": {"model": "chat"}, "headers": {"x-api-key": "slk_one", "anthropic-version": "2023-06-01"}}
        assert (await http.post("/v1/messages", **asked)).status_code == 200
        limited = await http.post("/v1/messages", **asked)
        missing = await http.post("/v1/messages", json={"model": "chat"})
    assert (limited.status_code, limited.json()["error"]["type"]) == (429, "rate_limit_error")
    assert (missing.status_code, missing.json()["error"]["type"]) == (401, "authentication_error")


async def torn(request, writer):
    """Two events and half of one."""
    stream = EVENT + EVENT + EVENT[:20]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"%x\r\n%b\r\n" % (len(stream), stream))
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("path", "begins"),
    [
        ("/v1/chat/completions", b'data: {"error":{"message":'),
        ("/v1/messages", b'event: error\ndata: {"type":"error","error":{"type":"api_error"'),
        ("/v1/responses", b'event: error\ndata: {"type":"error","code":"instance_closed"'),
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_stream_that_breaks_says_so_in_a_last_event_and_has_no_end(gateway, upstream, path, begins, version):
    await gateway.start(await upstream(torn))
    body = orjson.dumps({"model": "chat", "stream": True})
    head = b"POST %b HTTP/%b\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    reader, writer = await gateway.connect()
    writer.write(head % (path.encode(), version, len(body)) + body)
    found, is_reset = b"", False
    try:
        async with asyncio.timeout(5):
            while part := await reader.read(65536):
                found += part
    except ConnectionResetError:
        is_reset = True
    assert found.count(EVENT) == 2 and begins in found and EVENT[:20] not in found.replace(EVENT, b"")
    assert b"instance_closed" in found
    assert is_reset if version == b"1.0" else not found.endswith(b"0\r\n\r\n"), "it must not pass for whole"
    (entry,) = await gateway.finished(1)
    assert entry.estimated and entry.output_tokens == 2


async def test_a_client_library_raises_its_own_error_for_a_broken_stream(gateway, upstream):
    await gateway.start(await upstream(torn))
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="none", max_retries=0) as sdk:
        with pytest.raises(openai.APIError, match="closed the connection"):
            async for _ in await sdk.chat.completions.create(model="chat", messages=[], stream=True):
                pass


async def test_answers_say_who_served_them_and_how_long_they_waited(gateway, upstream):
    extra = b"X-Slipway-Served-By: somebody else\r\nX-RateLimit-Limit-Requests: 9\r\n"
    await gateway.start(await upstream(json_answer(ANSWER, extra=extra)))
    serving(gateway)
    async with client(gateway) as http:
        for _ in range(3):
            answer = await http.get("/main/chat/x")
            assert answer.headers.get_list("x-slipway-served-by") == ["acme/chat; version=3"]
            assert (
                int(answer.headers["x-slipway-queue-ms"]) < 1000 and answer.headers["x-ratelimit-limit-requests"] == "9"
            )
        serving(gateway, limits=(("public", 100, 0),))
        for _ in range(3):
            answer = await http.get("/main/chat/x")
            assert answer.headers.get_list("x-ratelimit-limit-requests") == ["100"]
        assert (await http.get("/health")).text == "ok\n"
        assert (await http.get("/openai/models", headers=bearer(None))).json()["data"][0]["id"] == "acme/chat"


async def test_a_model_tells_its_context_what_it_does_and_to_who_has_a_key_its_price(gateway, upstream):
    await gateway.start(await upstream(json_answer(ANSWER)))
    serving(gateway, context_length=8192, kinds=("chat",), price=("EUR", "0.5", "1.5"))
    gateway.core.keys[digest("slk_one")] = Caller(3, 20, 40, organizations=frozenset({3}))
    async with client(gateway) as http:
        (public,) = (await http.get("/v1/models")).json()["data"]
        known = (await http.get("/v1/models/chat", headers=bearer("slk_one"))).json()
    assert public["max_model_len"] == public["context_length"] == 8192 and public["kinds"] == ["chat"]
    assert "pricing" not in public
    assert known == public | {"pricing": {"currency": "EUR", "input_per_million": "0.5", "output_per_million": "1.5"}}
