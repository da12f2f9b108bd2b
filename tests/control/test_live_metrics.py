"""The websocket of live charts: a request is on the page at once, and one reading serves all pages."""

import asyncio
import json
import time
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.db import connection, connections

from monitoring import ingest, live
from monitoring.question import Question
from tests.control.test_metrics import entry, folded
from tests.control.test_sockets import NOT_FOUND, close_code, connect

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]
PATH = "/ws/metrics/acme/chat/"


@pytest_asyncio.fixture(autouse=True)
async def _threads_let_go_of_the_database(db):
    def empty() -> None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE monitoring_fresh, monitoring_usage_minute, monitoring_rollup, monitoring_block_10")

    await sync_to_async(empty)()
    yield
    await sync_to_async(connections.close_all)()


async def message(socket) -> dict:
    received = await socket.receive_output(timeout=5)
    assert received["type"] == "websocket.send", received
    return json.loads(received["text"])


async def message_with(socket, requests: int) -> dict:
    """The first message that tells so many requests."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = await message(socket)
        if found["statistics"]["requests"] == requests:
            return found
    raise AssertionError(f"{requests} requests did not come: {found['statistics']}")


def publish(deployment, count: int, batch: str = "b1") -> None:
    entries = [entry(deployment, at=datetime.now(UTC))] * count
    ingest.publish_open_bucket("gw.1", folded(entries).series(batch))


async def test_a_request_is_on_the_open_page_within_two_seconds(people, deploy):
    deployment = await sync_to_async(deploy)()
    socket = await connect(PATH, people.member)
    assert (await message(socket))["statistics"]["requests"] == 0
    await sync_to_async(publish)(deployment, 3)
    started = time.monotonic()
    found = await message_with(socket, 3)
    assert time.monotonic() - started < 2
    times, counts = found["charts"]["volume"]["points"]["2xx"]
    assert sum(counts) == 3 and found["since"] <= times[-1] <= found["end"]
    assert found["facts"]["volume"].startswith("3 requests")
    assert set(found["charts"]["end_to_end"]["points"]) == {"avg", "p50", "p75", "p90", "p95", "p99", "max"}
    await socket.disconnect()


async def test_stored_requests_are_not_counted_twice_while_they_move(people, deploy):
    deployment = await sync_to_async(deploy)()
    socket = await connect(PATH, people.operator)
    await sync_to_async(publish)(deployment, 4)
    await message_with(socket, 4)

    def flush() -> None:
        meter = folded([entry(deployment, at=datetime.now(UTC))] * 4)
        ingest.store("gw", "b1", meter.series("b1"), meter.usage(), meter.books({}))

    await sync_to_async(flush)()
    for _ in range(3):
        assert (await message(socket))["statistics"]["requests"] == 4
    await socket.disconnect()


async def test_many_pages_cost_one_reading(people, deploy, monkeypatch):
    deployment = await sync_to_async(deploy)()
    readings = []
    whole = live.Tail.read
    monkeypatch.setattr(live.Tail, "read", lambda tail, now: readings.append(now) or whole(tail, now))
    sockets = await asyncio.gather(*(connect(PATH, people.member) for _ in range(40)))
    # The same view in another theme is the same view; another range is not.
    sockets.append(await connect(f"{PATH}?theme=dark", people.member))
    await asyncio.gather(*(message(socket) for socket in sockets))
    before = len(readings)
    await asyncio.gather(*(message(socket) for socket in sockets))
    assert len(readings) - before <= 2
    assert len(live.views._tasks) == 1
    await sync_to_async(publish)(deployment, 2)
    await asyncio.gather(*(message_with(socket, 2) for socket in sockets))
    await asyncio.gather(*(socket.disconnect() for socket in sockets))
    assert not live.views._tasks and not live.views._listeners


async def test_who_may_not_see_gets_nothing_and_a_past_range_is_not_followed(people, deploy):
    await sync_to_async(deploy)()
    assert await close_code(await connect(PATH, people.stranger)) == NOT_FOUND
    assert await close_code(await connect("/ws/metrics/acme/nothing/", people.operator)) == NOT_FOUND
    assert await close_code(await connect(f"{PATH}?tz=Mars", people.member)) == 4422
    assert await close_code(await connect(f"{PATH}?from=1763640000&to=1763650000", people.member)) == 1000


async def test_a_page_that_sends_something_odd_leaves_its_view_all_the_same(people, deploy):
    await sync_to_async(deploy)()
    socket = await connect(PATH, people.member)
    await message(socket)
    await socket.send_input({"type": "websocket.receive", "bytes": b"\x00"})
    await socket.send_input({"type": "websocket.receive", "text": ""})
    await message(socket)
    await socket.disconnect()
    assert not live.views._tasks and not live.views._listeners


async def test_a_reading_that_fails_is_tried_again(people, deploy, monkeypatch):
    deployment = await sync_to_async(deploy)()
    whole, failures = live.Tail.read, []

    def fails_twice(tail: live.Tail, now: int) -> str:
        if len(failures) < 2:
            failures.append(now)
            raise RuntimeError("whatever it is")
        return whole(tail, now)

    monkeypatch.setattr(live.Tail, "read", fails_twice)
    socket = await connect(PATH, people.member)
    await sync_to_async(publish)(deployment, 1)
    await message_with(socket, 1)
    await socket.disconnect()


async def test_questions_that_look_the_same_are_one_view():
    assert Question(dark=True).undressed() == Question()
    assert Question(zone="Asia/Tokyo") != Question()
