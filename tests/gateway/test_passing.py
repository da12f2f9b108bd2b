"""What the gateway passes on, both ways."""

import asyncio
import json

import httpx
import pytest

from common import identity_token, request_outcomes
from common.identity_token import Identity
from tests.gateway.conftest import KEYS, json_answer

pytestmark = pytest.mark.asyncio

ANSWER = b'{"id":"x","usage":{"prompt_tokens":5,"completion_tokens":7}}'
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'


def client(gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False, timeout=60)


async def chunked(writer, *parts: bytes, pause: float = 0.0, kind: bytes = b"text/event-stream") -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    for part in parts:
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
        await asyncio.sleep(pause)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def test_any_path_method_query_and_body(gateway, upstream):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    async with client(gateway) as http:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            await http.request(method, "/main/chat/a/b%20c?x=1&y=%2F", content=b"body" if method != "GET" else None)
        await http.get("/main/chat")
    assert [item.path for item in server.requests] == ["/a/b%20c?x=1&y=%2F"] * 6 + ["/"]
    assert server.requests[1].body == b"body"
    entries = await gateway.finished(7)
    assert {entry.outcome for entry in entries} == {request_outcomes.COMPLETED}


async def test_model_routes_and_usage_is_counted(gateway, upstream):
    server = await upstream(json_answer(ANSWER))
    await gateway.start(server)
    async with client(gateway) as http:
        for model in ("acme/chat", "chat"):
            response = await http.post("/v1/chat/completions", json={"model": model, "messages": []})
            assert response.content == ANSWER
        assert (await http.get("/v1/models")).json()["data"][0]["id"] == "acme/chat"
        assert (await http.get("/v1/models/acme/chat")).json()["id"] == "acme/chat"
        form = await http.post("/v1/audio/transcriptions", data={"model": "chat"}, files={"file": b"x" * 1000})
        assert form.status_code == 200
    entries = await gateway.finished(3)
    assert [(entry.input_tokens, entry.output_tokens) for entry in entries] == [(5, 7), (5, 7), (5, 7)]
    assert server.connections == 1, "the connection is used again"


async def test_streams_arrive_as_they_come_and_our_usage_event_is_taken_out(gateway, upstream):
    async def answer(request, writer):
        await chunked(writer, EVENT, EVENT, USAGE, b"data: [DONE]\n\n", pause=0.1)

    server = await upstream(answer)
    await gateway.start(server)
    times, text = [], b""
    async with (
        client(gateway) as http,
        http.stream("POST", "/v1/chat/completions", json={"model": "chat", "stream": True}) as response,
    ):
        async for part in response.aiter_raw():
            times.append(asyncio.get_running_loop().time())
            text += part
    assert text == EVENT + EVENT + b"data: [DONE]\n\n"
    assert times[-1] - times[0] > 0.15
    assert json.loads(server.requests[0].body)["stream_options"] == {"include_usage": True}
    (entry,) = await gateway.finished(1)
    assert (entry.input_tokens, entry.output_tokens, entry.estimated) == (5, 2, False)
    assert 0 <= entry.first_token < entry.end_to_end


async def test_a_whole_answer_has_no_first_token(gateway, upstream):
    """Its first byte comes with its last: counted in, it would hide how long streams let their readers wait."""
    await gateway.start(await upstream(json_answer(ANSWER)))
    async with client(gateway) as http:
        for body in ({"model": "chat"}, {"model": "chat", "stream": False}):
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    assert [entry.first_token for entry in await gateway.finished(2)] == [-1.0, -1.0]


async def test_a_client_that_asks_for_usage_gets_it_untouched(gateway, upstream):
    async def answer(request, writer):
        await chunked(writer, EVENT, USAGE, b"data: [DONE]\n\n")

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        response = await http.post(
            "/v1/chat/completions", json={"model": "chat", "stream": True, "stream_options": {"include_usage": True}}
        )
    assert USAGE in response.content


async def test_headers_that_are_ours_or_hop_by_hop_are_not_passed_on(gateway, upstream):
    server = await upstream(
        json_answer(b"{}", extra=b"Keep-Alive: 5\r\nX-Kept: yes\r\nConnection: x-dropped\r\nX-Dropped: 1\r\n")
    )
    await gateway.start(server)
    token = identity_token.mint(Identity(9, 3, 7, "console"), keys=KEYS.identity, now=__import__("time").time())
    headers = {
        "X-Slipway-Identity": token, "Cookie": "slipway_session=abc; theirs=1", "Authorization": "Bearer slk_secret",
        "Connection": "x-mine", "X-Mine": "1", "TE": "trailers", "X-Kept": "1", "Proxy-Authorization": "x",
    }  # fmt: skip
    async with client(gateway) as http:
        response = await http.get("/main/chat/x", headers=headers)
    sent = server.requests[0].headers
    assert sent["x-kept"] == "1" and sent["cookie"] == "theirs=1" and "x-request-id" in sent
    assert not {"x-slipway-identity", "authorization", "x-mine", "te", "proxy-authorization"} & set(sent)
    assert (
        response.headers["x-kept"] == "yes"
        and "x-dropped" not in response.headers
        and "keep-alive" not in response.headers
    )
    assert response.headers["x-slipway-instance"] == f"{1:032x}"
    (entry,) = await gateway.finished(1)
    assert (entry.user, entry.organization, entry.source) == (9, 3, 1)


async def test_an_instance_signs_nobody_in_or_out_at_the_console(gateway, upstream):
    extra = b"Set-Cookie: slipway_session=evil; Path=/\r\nSet-Cookie: theirs=1\r\nset-cookie: slipway_csrf=x\r\nSet-Cookie: =slipway_session=x\r\n"
    await gateway.start(await upstream(json_answer(b"{}", extra=extra)))
    async with client(gateway) as http:
        for _ in range(2):
            response = await http.get("/main/chat/x")
            assert response.headers.get_list("set-cookie") == ["theirs=1"]


async def test_models_are_read_however_their_ids_are_escaped(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    async with client(gateway) as http:
        for path in ("/v1/models/acme%2Fchat", "/v1/models/acme/chat", "/v1/models/chat"):
            assert (await http.get(path)).json()["id"] == "acme/chat"
        assert (await http.get("/v1/models/")).json()["data"][0]["id"] == "acme/chat"
        assert (await http.get("/v1/models/%ff%00")).json()["error"]["code"] == "model_not_found"
        for method, path in (("POST", "/v1/models"), ("DELETE", "/v1/models/acme/chat")):
            refused = await http.request(method, path)
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
            assert refused.json()["error"]["code"] == "method_not_allowed"
        form = b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nacme/chat\r\n--b--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        assert (await http.post("/v1/audio/transcriptions", content=form, headers=kind)).status_code == 200


async def test_a_balancers_plain_health_check_needs_no_host(gateway, upstream):
    await gateway.start(await upstream(json_answer(b"{}")))
    for head, status in ((b"GET /healthz HTTP/1.0\r\n\r\n", b"200"), (b"GET /healthz HTTP/1.1\r\n\r\n", b"400")):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head)
        assert (await reader.readline()).split()[1] == status
        writer.close()


async def test_a_foreign_bearer_token_is_passed_on(gateway, upstream):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    async with client(gateway) as http:
        await http.get("/main/chat/x", headers={"Authorization": "Bearer engine-own-key"})
    assert server.requests[0].headers["authorization"] == "Bearer engine-own-key"


@pytest.mark.parametrize("token", ["rubbish", "a.b", "é"])
async def test_a_forged_identity_is_refused(gateway, upstream, token):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    async with client(gateway) as http:
        response = await http.get("/main/chat/x", headers=[(b"x-slipway-identity", token.encode("latin-1"))])
    assert response.status_code == 401 and not server.requests
    assert response.headers["www-authenticate"] == "Bearer"


async def test_an_identity_for_another_deployment_is_refused(gateway, upstream):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    token = identity_token.mint(Identity(9, 3, 8, "console"), keys=KEYS.identity, now=__import__("time").time())
    async with client(gateway) as http:
        assert (await http.get("/main/chat/x", headers={"X-Slipway-Identity": token})).status_code == 401


async def test_least_in_flight_over_two_instances(gateway, upstream):
    async def slow(request, writer):
        await asyncio.sleep(0.2)
        await json_answer(b"{}")(request, writer)

    one, two = await upstream(slow), await upstream(slow)
    await gateway.start(one, two)
    async with client(gateway) as http:
        await asyncio.gather(*(http.get("/main/chat/x") for _ in range(8)))
    assert (len(one.requests), len(two.requests)) == (4, 4)


async def test_large_bodies_stream_through_a_deployments_own_address(gateway, upstream):
    server = await upstream(json_answer(b"{}"))
    await gateway.start(server)
    body = bytes(50 << 20)

    async def parts():
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    async with client(gateway) as http:
        assert (await http.post("/main/chat/upload", content=body)).status_code == 200
        assert (await http.post("/main/chat/upload", content=parts())).status_code == 200
    assert [len(item.body) for item in server.requests] == [len(body)] * 2


async def test_head_and_no_content(gateway, upstream):
    async def answer(request, writer):
        if request.method == "HEAD":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        for _ in range(2):
            head = await http.head("/main/chat/x")
            assert head.headers["content-length"] == "1000" and head.content == b""
            assert (await http.get("/main/chat/x")).status_code == 204


async def test_interim_answers_are_not_the_answer(gateway, upstream):
    async def answer(request, writer):
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        response = await http.get("/main/chat/x")
    assert (response.status_code, response.content) == (200, b"ok")


async def test_an_answer_that_ends_with_the_connection(gateway, upstream):
    async def answer(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        await writer.drain()
        writer.close()

    await gateway.start(await upstream(answer))
    async with client(gateway) as http:
        assert (await http.get("/main/chat/x")).content == b"until the end"
    assert (await gateway.finished(1))[0].outcome == request_outcomes.COMPLETED


async def test_pipelined_requests_are_answered_in_order(gateway, upstream):
    async def answer(request, writer):
        await asyncio.sleep(0.05 if request.path == "/1" else 0)
        await json_answer(request.path.encode())(request, writer)

    await gateway.start(await upstream(answer))
    data = b"".join(b"GET /main/chat/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in (1, 2, 3))
    answer_bytes = await gateway.exchange(data.replace(b"/3 HTTP/1.1\r\n", b"/3 HTTP/1.1\r\nConnection: close\r\n"))
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in answer_bytes.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [b"/1", b"/2", b"/3"]
