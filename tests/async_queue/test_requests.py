"""Asynchronous requests at the gateway: what is taken, refused and told, and who is told."""

import asyncio

import httpx
import psycopg
import pytest
from asgiref.sync import sync_to_async

from accounts.models import Organization, User
from apikeys.services import create_key
from async_inference.models import AsyncBacklog, AsyncPayload, AsyncRequest
from async_inference.options import Options
from async_inference.services import submit
from common.encryption import Cipher
from common.service_error import ServiceError
from deployments.services import quotas
from gateway.queue.requests import AsyncRequests, QueueBounds
from gateway.routing.snapshot import Snapshot
from tests.async_queue.conftest import database_url
from tests.gateway.conftest import KEYS, json_answer
from tests.records import ended

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]


async def test_a_request_is_taken_at_once_and_answered_later_as_the_instance_answered(queue, upstream):
    server = await upstream(json_answer(b'{"answer": 42}', extra=b"X-Model: y\r\n"))
    await queue.start(server)
    taken = await queue.submit({"question": "?"}, x_custom="kept", x_request_id="mine")
    assert taken.status_code == 202 and not server.requests
    uid = taken.json()["id"]
    assert taken.headers["location"] == f"/async/requests/{uid}" == taken.json()["url"]
    waiting = await queue.told(uid)
    assert waiting["status"] == "queued" and waiting["position"] == 1 and waiting["deployment"] == "acme/chat"
    not_yet = await queue.ask(f"/{uid}/result")
    assert not_yet.status_code == 404 and not_yet.json()["error"]["code"] == "not_ready"
    queue.dispatch()
    told = await queue.ended(uid)
    assert told["status"] == "completed" and told["status_code"] == 200 and told["attempts"] == 1 and not told["error"]
    assert told["created_at"] < told["started_at"] < told["finished_at"]
    result = await queue.ask(f"/{uid}/result")
    assert result.json() == {"answer": 42} and result.headers["x-slipway-async-status"] == "200"
    # What was sent is what came, the queue's own headers and the key apart.
    (sent,) = server.requests
    assert sent.path == "/work" and sent.body == b'{"question":"?"}' and sent.headers["x-custom"] == "kept"
    assert sent.headers["x-request-id"] == uid
    assert not [name for name in sent.headers if "slipway" in name or name == "authorization"]
    # One request in the books, of its key: access, limits and prices went by it.
    (entry,) = ended(queue.gateway.core.journal.records(0))
    assert entry["key"] == queue.key.pk and entry["user"] == queue.key.user_id


async def test_nobody_queues_what_the_months_tokens_do_not_allow(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")))
    known = queue.gateway.core.snapshot
    queue.gateway.core.set_snapshot(Snapshot.of(2, list(known.targets), spent=[queue.key.organization_id]))
    refused = await queue.submit({})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert refused.headers["retry-after"] == "60"


async def test_a_header_and_the_openai_address_do_the_same(queue, upstream):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    queue.dispatch()
    ids = [
        await queue.queued(address="/main/chat/v1/embeddings?x=1", x_slipway_async="true"),
        await queue.queued({"model": "acme/chat"}, address="/async/v1/chat/completions"),
        await queue.queued({"model": "chat"}, address="/v1/chat/completions", x_slipway_async="1"),
        await queue.queued(address="/main/chat/async", method="PUT"),
    ]
    for uid in ids:
        assert (await queue.ended(uid))["status"] == "completed"
    assert sorted(request.path for request in server.requests) == [
        "/", "/v1/chat/completions", "/v1/chat/completions", "/v1/embeddings?x=1",
    ]  # fmt: skip
    # Without the switch it is an ordinary request.
    ordinary = await queue.submit(address="/main/chat/v1/embeddings", x_slipway_async="false")
    assert ordinary.status_code == 200


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"priority": 3}, "x-slipway-async-priority"),
        ({"priority": "-1"}, "x-slipway-async-priority"),
        ({"priority": "high"}, "x-slipway-async-priority"),
        ({"max_queue_seconds": 0}, "x-slipway-async-max-queue-seconds"),
        ({"max_queue_seconds": 259_201}, "x-slipway-async-max-queue-seconds"),
        ({"max_queue_seconds": "9" * 5000}, "x-slipway-async-max-queue-seconds"),
        ({"retries": 11}, "x-slipway-async-retries"),
        ({"webhook": "ftp://example.com/"}, "x-slipway-async-webhook"),
        ({"webhook": "https://"}, "x-slipway-async-webhook"),
        ({"webhook": "https://[::1"}, "x-slipway-async-webhook"),
        ({"webhook": "https://me:secret@example.com/"}, "x-slipway-async-webhook"),
        ({"webhook": "https://example.com/" + "x" * 2000}, "x-slipway-async-webhook"),
        ({"x_slipway_async": "treu"}, "x-slipway-async"),
        ({"idempotency_key": "two words"}, "idempotency-key"),
        ({"idempotency_key": "k" * 256}, "idempotency-key"),
    ],
)
async def test_what_was_chosen_wrong_is_named(queue, upstream, options, field):
    await queue.start(await upstream(json_answer(b"{}")))
    answer = await queue.submit(**options)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "option_invalid" and error["field"] == field
    assert await AsyncRequest.objects.acount() == 0


async def test_who_may_not_call_and_what_is_not_there(queue, upstream, people):
    await queue.start(await upstream(json_answer(b"{}")))
    assert (await queue.submit(secret="")).json()["error"]["code"] == "key_missing"
    assert (await queue.submit(secret="slk_unknown")).json()["error"]["code"] == "key_invalid"
    _, foreign = await sync_to_async(create_key)(people.stranger, people.theirs, "foreign")
    await sync_to_async(queue.read_keys)()
    forbidden, absent = await queue.submit(secret=foreign), await queue.submit(address="/main/nothing/async/x")
    assert forbidden.status_code == absent.status_code == 404
    assert (await queue.submit({"model": "nothing"}, address="/async/v1/chat/completions")).status_code == 404
    assert (await queue.submit(address="/async/v1/chat/completions")).json()["error"]["code"] == "model_missing"
    assert (await queue.submit(address="/async/nonsense")).status_code == 404
    upgrade = {"connection": "upgrade", "upgrade": "websocket"}
    socket = await queue.client.get("/main/chat/async/x", headers=queue.authorization() | upgrade)
    assert socket.status_code == 400
    assert await AsyncRequest.objects.acount() == 0


async def test_a_body_has_ten_megabytes_at_most_and_is_sent_to_the_letter(queue, upstream):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    queue.dispatch()
    largest = bytes(range(256)) * (10 << 12)
    head = queue.authorization() | {"content-type": "application/octet-stream"}
    taken = await queue.client.post("/main/chat/async/bytes", content=largest, headers=head)
    assert taken.status_code == 202
    stated = await queue.client.post("/main/chat/async/bytes", content=largest + b"x", headers=head)
    assert stated.status_code == 413 and stated.json()["error"]["code"] == "body_too_large"

    async def pieces():
        for _ in range(11):
            yield b"x" * (1 << 20)

    try:
        streamed = await queue.client.post("/main/chat/async/bytes", content=pieces(), headers=head)
        assert streamed.status_code == 413
    except httpx.WriteError:
        # It was refused while it was still sending.
        pass
    assert (await queue.ended(taken.json()["id"]))["status"] == "completed"
    assert server.requests[0].body == largest
    assert await AsyncRequest.objects.acount() == 1


async def test_an_idempotency_key_stands_for_one_request(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")))
    answers = await asyncio.gather(*(queue.submit({"n": 1}, idempotency_key="once") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1 == await AsyncRequest.objects.acount()
    other = await queue.submit({"n": 2}, idempotency_key="once")
    assert other.status_code == 409 and other.json()["error"]["code"] == "idempotency_mismatch"
    # It goes on to the instance, which may know it too; and one of somebody else's is another one.
    sealed = (await AsyncPayload.objects.aget()).headers
    assert "once" in Cipher(KEYS.encryption).decrypt(sealed)["lines"]
    operator = await User.objects.aget(username="operator")
    _, secret = await sync_to_async(create_key)(operator, await Organization.objects.aget(name="acme"), "o")
    await sync_to_async(queue.read_keys)()
    assert (await queue.submit({"n": 1}, idempotency_key="once", secret=secret)).status_code == 202


async def test_one_is_told_of_ones_own_requests_alone(queue, upstream, people, deploy):
    await queue.start(await upstream(json_answer(b"{}")))
    mine = [await queue.queued({"n": number}) for number in range(3)]
    other = await sync_to_async(deploy)("other")
    _, narrow = await sync_to_async(create_key)(people.member, people.ours, "narrow", deployments=[other])
    _, admins = await sync_to_async(create_key)(people.admin, people.ours, "admin")
    await sync_to_async(queue.read_keys)()
    for secret in (narrow, admins):
        assert (await queue.ask("", secret=secret)).json()["data"] == []
        for path, method in ((f"/{mine[0]}", "GET"), (f"/{mine[0]}", "DELETE"), (f"/{mine[0]}/result", "GET")):
            found = await queue.ask(path, method, secret)
            absent = await queue.ask(path.replace(mine[0], "0" * 32), method, secret)
            assert found.status_code == absent.status_code == 404
            assert found.json()["error"]["code"] == absent.json()["error"]["code"] == "request_not_found"
    assert (await queue.ask("", secret="")).status_code == 401
    listed = (await queue.ask("?limit=2")).json()
    assert [item["id"] for item in listed["data"]] == mine[:0:-1] and listed["has_more"]
    rest = (await queue.ask(f"?limit=2&before={mine[1]}")).json()
    assert [item["id"] for item in rest["data"]] == mine[:1] and not rest["has_more"]
    assert len((await queue.ask("?status=queued&deployment=acme/chat")).json()["data"]) == 3
    assert (await queue.ask("?status=completed")).json()["data"] == []
    wrong = {
        "?status=lost": "status", "?limit=0": "limit", "?limit=101": "limit", "?limit=x": "limit", "?colour=red": "colour",
        "?deployment=%00": "deployment", "?before=x": "before",
    }  # fmt: skip
    for query, field in wrong.items():
        error = (await queue.ask(query)).json()["error"]
        assert error["code"] == "filter_invalid" and error["field"] == field
    assert (await queue.ask("", "POST")).json()["error"]["code"] == "method_not_allowed"
    for path, method in (("/nonsense", "GET"), (f"/{mine[0]}/other", "GET"), (f"/{mine[0]}", "POST"), ("", "DELETE")):
        assert (await queue.ask(path, method)).status_code in (404, 405)


async def test_what_waits_knows_its_place_and_can_be_cancelled(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")))
    ordinary = [await queue.queued() for _ in range(3)]
    urgent = await queue.queued(priority=0)
    late = await queue.queued(priority=2)
    assert [(await queue.told(uid))["position"] for uid in (urgent, *ordinary, late)] == [1, 2, 3, 4, 5]
    cancelled = await queue.ask(f"/{ordinary[0]}", "DELETE")
    assert cancelled.json()["status"] == "cancelled" and cancelled.json()["error"]["code"] == "cancelled"
    assert (await queue.ask(f"/{ordinary[0]}", "DELETE")).status_code == 200, "the same twice is the same"
    assert (await queue.told(late))["position"] == 4
    queue.dispatch()
    assert (await queue.ended(late))["status"] == "completed"
    assert (await queue.told(ordinary[0]))["status"] == "cancelled"
    assert (await queue.ask(f"/{late}", "DELETE")).json()["error"]["code"] == "already_ended"
    # By the pace of the last minutes.
    queue.serve(status="stopped")
    await queue.stop_dispatchers()
    assert (await queue.told(await queue.queued()))["expected_start_at"] is not None


async def test_fifty_at_once_get_what_the_quota_has_left_and_no_more(queue, upstream, people):
    await queue.start(await upstream(json_answer(b"{}")))
    await sync_to_async(quotas.set_quota)(people.ours, {"async_requests": 7}, actor=people.operator)
    first = await queue.submit(idempotency_key="once")
    answers = await asyncio.gather(*(queue.submit() for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [202] * 6 + [429] * 44
    assert await AsyncRequest.objects.acount() == 7
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "quota_exceeded" and refused.headers["retry-after"]
    assert "7 asynchronous requests" in refused.json()["error"]["message"]
    assert (await queue.submit(idempotency_key="once")).json()["id"] == first.json()["id"], "it is among them"
    # What has ended makes room.
    queue.dispatch()
    await queue.ended(first.json()["id"])
    await queue.stop_dispatchers()
    await AsyncRequest.objects.exclude(uid=first.json()["id"]).filter(state="running").aupdate(state="completed")
    assert (await queue.submit()).status_code == 202
    # The console's own go by the same.
    await sync_to_async(quotas.set_quota)(people.ours, {"async_requests": 0}, actor=people.operator)
    with pytest.raises(ServiceError) as error:
        await sync_to_async(submit)(
            queue.deployment, user=people.member, organization_id=people.ours.pk, method="POST", path="/x", headers=[],
            body=b"{}", chosen=Options(),
        )  # fmt: skip
    assert error.value.code == "quota_exceeded"


async def test_a_queue_has_bounds(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")), most_waiting=5, most_bytes=1000)
    assert (await queue.submit()).status_code == 202
    await AsyncBacklog.objects.acreate(deployment_id=queue.deployment.pk, user_id=0, waiting=5, kept_bytes=0)
    full = await queue.submit()
    assert full.status_code == 429 and full.json()["error"]["code"] == "queue_full" and full.headers["retry-after"]
    await AsyncBacklog.objects.aupdate(waiting=1, kept_bytes=999)
    assert (await queue.submit({"large": "body"})).status_code == 429
    # Nobody takes more than half of it.
    await AsyncBacklog.objects.aupdate(waiting=1, kept_bytes=400, user_id=queue.key.user_id)
    assert (await queue.submit({"large": "x" * 150})).status_code == 429
    assert (await queue.submit()).status_code == 202
    await AsyncBacklog.objects.aupdate(waiting=3, kept_bytes=0)
    assert (await queue.submit()).status_code == 429


async def test_webhooks_in_plain_text_need_a_network_that_is_allowed(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")), webhook_networks=())
    refused = await queue.submit(webhook="http://example.com/")
    assert refused.status_code == 400 and refused.json()["error"]["field"] == "x-slipway-async-webhook"
    assert (await queue.submit(webhook="https://example.com/")).status_code == 202


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://10.0.0.1/", 400), ("https://169.254.169.254/", 400), ("https://[::1]/", 400), ("https://[::ffff:10.0.0.1]/", 400),
        ("http://1.1.1.1/", 400), ("https://1.1.1.1/", 202), ("https://127.0.0.1/", 202), ("http://127.0.0.1:8000/", 202),
    ],
)  # fmt: skip
async def test_an_address_that_no_webhook_would_get_to_is_refused_at_once(queue, upstream, url, status):
    await queue.start(await upstream(json_answer(b"{}")))
    answer = await queue.submit(webhook=url)
    assert answer.status_code == status
    assert status == 202 or answer.json()["error"]["field"] == "x-slipway-async-webhook"


async def test_others_secrets_are_not_readable_in_the_queue(queue, upstream):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    head = {"api-key": queue.secret, "authorization": "Bearer planted-third-party"}
    taken = await queue.client.post("/main/chat/async/x", json={}, headers=head)
    assert taken.status_code == 202
    assert "planted" not in (await AsyncPayload.objects.aget()).headers
    queue.dispatch()
    await queue.ended(taken.json()["id"])
    assert server.requests[0].headers["authorization"] == "Bearer planted-third-party"


async def test_what_is_asked_is_sent_to_the_letter(queue, upstream):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    queue.dispatch()
    for path in ("/a/../../../v1/models", "/a//b/./c;d=%2F?e=%20f&g", "/%7Euser/a'(b)*"):
        reader, writer = await queue.gateway.connect()
        head = f"POST /main/chat/async{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {queue.secret}\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        taken = (await reader.readuntil(b"}")).decode()
        writer.close()
        assert "202" in taken
        uid = taken.split('"id":"')[1][:32]
        assert (await queue.ended(uid))["status"] == "completed"
        assert server.requests[-1].path == path


async def test_what_comes_compressed_or_oddly_labelled_can_be_fetched(queue, upstream):
    async def answer(request, writer):
        assert request.headers["accept-encoding"] == "identity"
        await json_answer(b"{}")(request, writer)

    async def odd(request, writer):
        body = b"text"
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; name=\xe6\x97\xa5\r\nContent-Length: 4\r\n\r\n" + body
        )
        await writer.drain()

    plain = await upstream(answer)
    await queue.start(plain)
    queue.dispatch()
    assert (await queue.ended(await queue.queued(accept_encoding="gzip, br")))["status"] == "completed"
    queue.serve(await upstream(odd))
    uid = await queue.queued()
    await queue.ended(uid)
    assert (await queue.ask(f"/{uid}/result")).content == b"text"


async def test_the_gateway_goes_on_without_the_queues_database(queue, upstream, free_port):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    await queue.gateway.core.queue.close()
    queue.gateway.core.queue = away = AsyncRequests(
        f"postgresql://nobody@127.0.0.1:{free_port}/x", KEYS, QueueBounds(1, 1), wait_s=0.3
    )
    await away.open()
    refused = await queue.submit()
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "queue_unavailable"
    assert (await queue.submit(address="/main/chat/work")).status_code == 200
    await away.close()


async def test_who_reads_no_results_gets_no_more_of_them(queue, upstream):
    await queue.start(await upstream(json_answer(b"x" * (4 << 20))))
    queue.dispatch()
    uid = await queue.queued()
    await queue.ended(uid)
    ask = f"GET /async/requests/{uid}/result HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {queue.secret}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", queue.gateway.port, limit=1 << 16)
    writer.write(ask.encode() * 50)
    await asyncio.sleep(1)
    # One by one, too.
    writer.write(ask.encode())
    await asyncio.sleep(0.2)
    held = sum(connection.transport.get_write_buffer_size() for connection in queue.gateway.core.connections)
    assert held < 2 * (4 << 20)
    # All come when they are read.
    size = 0
    while size < 51 * (4 << 20):
        size += len(await asyncio.wait_for(reader.read(1 << 20), 10))
    writer.close()


async def test_a_gateway_that_ends_first_tells_what_it_has_stored(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")))
    async with await psycopg.AsyncConnection.connect(database_url()) as holder:
        await holder.execute("LOCK TABLE async_inference_asyncbacklog")
        submitting = asyncio.create_task(queue.submit())
        await asyncio.sleep(0.5)
        draining = asyncio.create_task(queue.gateway.core.drain())
        await asyncio.sleep(0.5)
        assert not draining.done()
    answer = await submitting
    await draining
    assert answer.status_code == 202
