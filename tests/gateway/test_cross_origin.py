"""Pages of other sites: whose may call and read answers, on streams and errors too."""

import dataclasses

import httpx
import pytest

from gateway.routing.snapshot import Snapshot
from tests.gateway.conftest import json_answer
from tests.gateway.test_keys import bearer
from tests.gateway.test_passing import chunked, client

pytestmark = pytest.mark.asyncio
APP, OTHER = {"Origin": "https://app.example.com"}, {"Origin": "https://evil.example"}
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
ANSWER = b'{"usage":{"prompt_tokens":5,"completion_tokens":7}}'
CHAT = {"model": "chat", "messages": []}


def open_to(gateway, *origins: str, **more) -> None:
    (target,) = gateway.core.snapshot.targets
    gateway.core.set_snapshot(Snapshot.of(5, [dataclasses.replace(target, origins=origins, **more)]))


def readers(answer: httpx.Response) -> str | None:
    assert len(answer.headers.get_list("access-control-allow-origin")) <= 1
    return answer.headers.get("access-control-allow-origin")


async def test_no_page_may_read_where_no_origin_is_named_whatever_the_instance_says(gateway, upstream):
    server = await upstream(
        json_answer(ANSWER, extra=b"Access-Control-Allow-Origin: *\r\naccess-control-max-age: 9\r\n")
    )
    await gateway.start(server)
    async with client(gateway) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT, headers=APP)
        assert answer.status_code == 200 and not [name for name in answer.headers if name.startswith("access-control")]
        for path in ("/v1/chat/completions", "/main/chat/v1/chat/completions", "/nothing/here"):
            refused = await http.options(path, headers=APP | ASKS)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert len(server.requests) == 1, "a browser's question reaches no instance"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/main/chat/v1/chat/completions", "/async/v1/completions"])
async def test_a_browsers_question_is_free_and_need_not_come_again(gateway, upstream, path):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    open_to(gateway, "https://app.example.com", is_public=False, limits=(("public", 1, 0),))
    async with client(gateway) as http:
        for _ in range(3):
            told = await http.options(path, headers=APP | ASKS)
            assert told.status_code == 200 and not told.content, told.text
            assert readers(told) == "https://app.example.com" and told.headers["vary"] == "origin"
            assert told.headers["access-control-allow-headers"] == "authorization,content-type"
            assert (told.headers["access-control-allow-methods"], told.headers["access-control-max-age"]) == (
                "POST",
                "7200",
            )
        refused = await http.options(path, headers=OTHER | ASKS)
        assert refused.status_code == 403 and readers(refused) is None
    assert not server.requests and gateway.core.in_flight == 0


async def test_answers_streams_and_errors_say_who_may_read_them(gateway, upstream):
    async def answer(request, writer):
        if b"stream" in request.body:
            await chunked(writer, b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n", b"")
        else:
            await json_answer(ANSWER)(request, writer)

    await gateway.start(await upstream(answer))
    open_to(gateway, "https://app.example.com")
    async with client(gateway) as http:
        asked = [
            http.post("/v1/chat/completions", json=CHAT, headers=APP),
            http.post("/main/chat/v1/chat/completions", json=CHAT | {"stream": True}, headers=APP),
            http.get("/main/chat/whatever", headers=APP),
            http.get("/v1/models", headers=APP),
            http.post("/v1/chat/completions", json={"model": "unknown"}, headers=APP),
            http.post("/v1/chat/completions", content=b"{", headers=APP),
            http.post("/v1/chat/completions", json=CHAT, headers=APP | bearer("slk_wrong")),
            http.post("/async/v1/chat/completions", json=CHAT, headers=APP),
            http.get("/nothing/here", headers=APP),
        ]
        statuses = []
        for question in asked:
            told = await question
            assert readers(told) == "https://app.example.com", told.url
            assert "x-slipway-served-by" in told.headers["access-control-expose-headers"]
            statuses.append(told.status_code)
        assert statuses == [200, 200, 200, 200, 404, 400, 401, 401, 404]
        silent = await http.post("/v1/chat/completions", json=CHAT, headers=OTHER)
        assert silent.status_code == 200 and readers(silent) is None and silent.headers["vary"] == "origin"
        plain = await http.post("/v1/chat/completions", json=CHAT)
        assert readers(plain) is None and "vary" not in plain.headers


async def test_a_page_is_told_of_the_models_that_it_may_call(gateway, upstream):
    await gateway.start(await upstream(json_answer(ANSWER)))
    (target,) = gateway.core.snapshot.targets
    open_one = dataclasses.replace(
        target, deployment_id=8, api_id="acme/open", endpoint="b", name="open", origins=("*",)
    )
    gateway.core.set_snapshot(Snapshot.of(6, [target, open_one]))
    async with client(gateway) as http:
        told = await http.get("/v1/models", headers=OTHER)
        assert readers(told) == "*" and [item["id"] for item in told.json()["data"]] == ["acme/open"]
        assert len((await http.get("/v1/models")).json()["data"]) == 2


async def test_any_page(gateway, upstream):
    await gateway.start(await upstream(json_answer(ANSWER)))
    open_to(gateway, "*")
    async with client(gateway) as http:
        for origin in (APP, OTHER, {"Origin": "null"}):
            answer = await http.post("/v1/chat/completions", json=CHAT, headers=origin)
            assert readers(answer) == "*" and "vary" not in answer.headers


async def test_a_plain_options_request_is_the_instances_own(gateway, upstream):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    open_to(gateway, "*")
    async with client(gateway) as http:
        await http.options("/main/chat/x", headers={"Access-Control-Request-Method": "POST"})
        await http.options("/main/chat/x", headers=APP)
    assert [request.method for request in server.requests] == ["OPTIONS", "OPTIONS"]
