"""What becomes of a queued request by what its instance answers. Each ends once."""

import asyncio

import pytest

from async_inference import dispatcher as dispatchers
from async_inference import sending
from async_inference.models import AsyncRequest, AsyncResult
from tests.async_queue.conftest import gated
from tests.gateway.conftest import json_answer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio, pytest.mark.usefixtures("quick")]


def failing(times: int, status: str = "500 Oh"):
    """Fails so many times, then answers."""
    left = [times]

    async def answer(request, writer):
        left[0] -= 1
        await json_answer(b'{"n": 1}', status if left[0] >= 0 else "200 OK")(request, writer)

    return answer


async def test_failures_are_tried_again_and_counted(queue, upstream):
    server = await upstream(failing(2))
    await queue.start(server)
    queue.dispatch()
    told = await queue.ended(await queue.queued(retries=2))
    assert told["status"] == "completed" and told["attempts"] == 3 and not told["error"]
    assert len(server.requests) == 3


async def test_who_fails_to_the_end_failed_with_the_last_answer_kept(queue, upstream):
    server = await upstream(failing(99, "503 Busy"))
    await queue.start(server)
    queue.dispatch()
    told = await queue.ended(await queue.queued(retries=1))
    assert told["status"] == "failed" and told["attempts"] == 2 == len(server.requests)
    assert told["error"] == {"code": "status_503", "message": "The instance answered 503. It was tried 2 times."}
    result = await queue.ask(f"/{(await AsyncRequest.objects.afirst()).uid.hex}/result")
    assert result.status_code == 200 and result.headers["x-slipway-async-status"] == "503" and result.json() == {"n": 1}


async def test_what_the_caller_did_wrong_is_not_tried_again(queue, upstream):
    server = await upstream(failing(1, "422 No"))
    await queue.start(server)
    queue.dispatch()
    told = await queue.ended(await queue.queued())
    assert told["status"] == "failed" and told["status_code"] == 422 and len(server.requests) == 1


async def test_an_instance_that_hangs_up_is_tried_again(queue, upstream):
    calls = []

    async def answer(request, writer):
        calls.append(1)
        if len(calls) == 1:
            writer.close()
        elif len(calls) == 2:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ntorn")
            await writer.drain()
            writer.close()
        else:
            await json_answer(b"{}")(request, writer)

    await queue.start(await upstream(answer))
    queue.dispatch()
    told = await queue.ended(await queue.queued(retries=5))
    assert told["status"] == "completed"
    assert (await AsyncResult.objects.aget()).body == b"{}"


@pytest.mark.parametrize("address", ["localhost:8080/x", "http://[", "mailto:somebody", "http://a b/\xff"])
async def test_a_redirect_is_an_answer_whatever_its_address(queue, upstream, address):
    extra = b"Location: " + address.encode("latin-1") + b"\r\nSet-Cookie: a=b\r\n"
    server = await upstream(json_answer(b"there", "302 Found", extra))
    await queue.start(server)
    queue.dispatch()
    one = await queue.ended(await queue.queued())
    assert (one["status"], one["status_code"]) == ("completed", 302)
    await queue.ended(await queue.queued())
    assert len(server.requests) == 2 and "cookie" not in server.requests[1].headers


async def test_many_large_answers_are_read_a_few_at_a_time(queue, upstream, monkeypatch):
    monkeypatch.setattr(dispatchers, "SMALL_BYTES", 100)
    monkeypatch.setattr(dispatchers, "LARGE_AT_ONCE", 1)
    await queue.start(await upstream(json_answer(b"x" * 100_000)), concurrency=20)
    ids = [await queue.queued() for _ in range(20)]
    running = queue.dispatch()
    for uid in ids:
        assert (await queue.ended(uid))["status"] == "completed"
    assert running._bytes == 0 and not running._large.locked()


async def test_what_the_dispatcher_stumbles_over_ends_once(queue, upstream, monkeypatch):
    async def stumbles(*values):
        raise ValueError

    monkeypatch.setattr(sending, "send", stumbles)
    await queue.start(await upstream(json_answer(b"{}")))
    queue.dispatch()
    one = await queue.ended(await queue.queued())
    assert (one["status"], one["error"]["code"]) == ("failed", "internal")


async def test_an_end_that_is_known_is_stored_before_the_dispatcher_goes(queue, upstream, monkeypatch):
    monkeypatch.setattr(dispatchers, "DRAIN_S", 0.1)
    stored, reached = dispatchers.Dispatcher._store, asyncio.Event()

    async def slowly(self, *values):
        reached.set()
        await asyncio.sleep(1)
        await stored(self, *values)

    monkeypatch.setattr(dispatchers.Dispatcher, "_store", slowly)
    await queue.start(await upstream(json_answer(b"{}")))
    queue.dispatch()
    uid = await queue.queued()
    await asyncio.wait_for(reached.wait(), 10)
    await queue.stop_dispatchers()
    assert (await queue.told(uid))["status"] == "completed"


async def test_an_answer_that_is_too_large_to_keep_says_so(queue, upstream, monkeypatch):
    monkeypatch.setattr(sending, "MAX_RESULT_BYTES", 10)
    await queue.start(await upstream(json_answer(b"x" * 11)))
    queue.dispatch()
    assert (await queue.ended(await queue.queued()))["error"]["code"] == "result_too_large"


async def test_an_instance_that_is_too_busy_is_asked_again(queue, upstream):
    await queue.start(await upstream(failing(1, "429 Too Many")))
    queue.dispatch()
    told = await queue.ended(await queue.queued())
    assert told["status"] == "completed" and told["attempts"] == 2


async def test_a_database_that_was_away_when_the_answer_came_gets_it_later(queue, upstream):
    (gate,), answer = gated(b'{"n":7}')
    server = await upstream(answer)
    await queue.start(server)
    dispatcher = queue.dispatch()
    uid = await queue.queued()
    await queue.becomes(uid, "running")
    pool = dispatcher._pool

    class Away:
        def connection(self):
            raise OSError("away")

    dispatcher._pool = Away()  # type: ignore[assignment]
    gate.set()
    await asyncio.sleep(0.8)
    assert (await queue.told(uid))["status"] == "running"
    dispatcher._pool = pool
    assert (await queue.ended(uid))["status"] == "completed"
    assert len(server.requests) == 1 and bytes((await AsyncResult.objects.aget()).body) == b'{"n":7}'
