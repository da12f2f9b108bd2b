"""Who may run when, and who has a request: order, room, limits, leases, lost dispatchers."""

import asyncio
import time
from collections import Counter

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.db.models import F
from django.db.models.functions import Now

from apikeys.services import create_key, revoke_key
from async_inference import dispatcher as dispatchers
from async_inference import queue_metrics, services, statements
from async_inference.models import AsyncRequest, AsyncResult
from async_inference.options import Options
from common import identity_token
from common.identity_token import Identity
from deployments.models import Instance, Status, Version
from deployments.services.deployments import delete_deployment
from tests.async_queue.conftest import gated
from tests.gateway.conftest import KEYS, json_answer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio, pytest.mark.usefixtures("quick")]


def slow(gate: asyncio.Event):
    async def answer(request, writer):
        await gate.wait()
        await json_answer(request.body)(request, writer)

    return answer


async def test_order_holds_within_a_priority(queue, upstream):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server, concurrency=1)
    ids = {priority: [] for priority in range(3)}
    for number in range(30):
        ids[number % 3].append(await queue.queued({"n": number}, priority=number % 3))
    queue.dispatch()
    queue.dispatch()
    for uid in ids[2]:
        await queue.ended(uid)
    assert [request.headers["x-request-id"] for request in server.requests] == ids[0] + ids[1] + ids[2]


async def test_as_many_at_once_as_the_instances_take_whoever_dispatches(queue, upstream):
    running, most = 0, 0

    async def answer(request, writer):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.03)
        running -= 1
        await json_answer(b"{}")(request, writer)

    await queue.start(await upstream(answer), await upstream(answer), concurrency=3)
    ids = [await queue.queued() for _ in range(40)]
    for _ in range(3):
        queue.dispatch()
    for uid in ids:
        assert (await queue.ended(uid))["status"] == "completed"
    assert most == 6


async def test_a_callers_limit_puts_off_his_own_requests_alone(queue, upstream, people):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    queue.serve(server, limits=(("key", 2, 0),))
    mine = [await queue.queued() for _ in range(3)]
    theirs = await sync_to_async(services.submit)(
        queue.deployment, user=people.member, organization_id=people.ours.pk, method="POST", path="/work", headers=[],
        body=b"", chosen=Options(priority=2),
    )  # fmt: skip
    queue.dispatch()
    assert (await queue.ended(theirs.uid.hex))["status"] == "completed"
    states = Counter([(await queue.told(uid))["status"] for uid in mine])
    assert states["completed"] == 2 and states["failed"] == 0
    waiting = await queue.row(mine[2])
    assert (waiting.attempts == 0 and waiting.started_at is None) or waiting.state == "running"


async def test_a_stopped_deployments_requests_wait_and_expire_with_the_reason(queue, upstream):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    await Instance.objects.all().adelete()
    await Version.objects.aupdate(status=Status.STOPPED)
    queue.serve(status="stopped")
    queue.dispatch()
    short, long = await queue.queued(max_queue_seconds=1), await queue.queued(max_queue_seconds=600)
    told = await queue.ended(short)
    assert told["status"] == "expired" and told["error"]["code"] == "queue_time_exceeded"
    assert "It waited 1 s" in told["error"]["message"] and "acme/chat is Stopped" in told["error"]["message"]
    assert (await queue.ask(f"/{short}/result")).json()["error"]["code"] == "no_result"
    assert (await queue.told(long))["status"] == "queued" and not server.requests
    # It runs again: what still waits is sent.
    await sync_to_async(queue.make_ready_again)()
    queue.serve(server)
    assert (await queue.ended(long))["status"] == "completed"


async def test_who_lost_its_claim_can_say_nothing_more(queue, upstream):
    """A dispatcher pauses for longer than its lease; another one takes over; then both have an answer."""
    (first, second), answer = gated(b'"first"', b'"second"')
    server = await upstream(answer)
    await queue.start(server)
    paused = queue.dispatch()
    paused._renew = asyncio.sleep  # type: ignore[method-assign]
    uid = await queue.queued()
    await queue.becomes(uid, "running")
    await AsyncRequest.objects.aupdate(lease_until=Now())
    queue.dispatch()
    async with asyncio.timeout(10):
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
    first.set()
    await asyncio.sleep(0.3)
    assert (await queue.told(uid))["status"] == "running", "the first one's answer counts no more"
    second.set()
    assert (await queue.ended(uid))["status"] == "completed"
    assert bytes((await AsyncResult.objects.aget()).body) == b'"second"'
    assert (await queue.row(uid)).losses == 1


async def test_after_a_pause_of_everything_nothing_runs_twice(queue, upstream, monkeypatch):
    """The database was away for longer than a lease: the dispatcher keeps what it has, instead of taking it from itself."""
    # Its own look must not come between the pause and the one of this test: half of it would be from before the pause.
    monkeypatch.setattr("async_inference.dispatcher.SWEEP_S", 3600)
    gate = asyncio.Event()
    server = await upstream(slow(gate))
    await queue.start(server)
    dispatcher = queue.dispatch()
    uid = await queue.queued()
    await queue.becomes(uid, "running")
    while not server.requests:
        await asyncio.sleep(0.01)
    for _ in range(3):
        await AsyncRequest.objects.aupdate(lease_until=Now())
        await dispatcher._sweep()
    gate.set()
    assert (await queue.ended(uid))["status"] == "completed"
    assert len(server.requests) == 1 and (await queue.row(uid)).losses == 0


async def test_what_was_taken_away_and_given_back_is_renewed(queue, upstream):
    (first, second), answer = gated(b"{}", b"{}")
    server = await upstream(answer)
    await queue.start(server)
    dispatcher = queue.dispatch()
    uid = await queue.queued()
    await queue.becomes(uid, "running")
    # As if another one had taken it over and died: it comes back to the first, under another fence.
    await AsyncRequest.objects.aupdate(state="queued", lease_until=None)
    async with asyncio.timeout(10):
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
    first.set()
    await asyncio.sleep(0.3)
    assert len(dispatcher._running) == 1, "the end of the first claim leaves the second alone"
    before = (await queue.row(uid)).lease_until
    async with asyncio.timeout(10):
        while (await queue.row(uid)).lease_until == before:
            await asyncio.sleep(0.05)
    second.set()
    assert (await queue.ended(uid))["status"] == "completed"


async def test_only_waiting_counts_against_the_time_in_the_queue(queue, upstream):
    gate = asyncio.Event()
    calls = []

    async def answer(request, writer):
        calls.append(1)
        if len(calls) == 1:
            await gate.wait()
            writer.close()
            return
        await json_answer(b"{}")(request, writer)

    await queue.start(await upstream(answer))
    queue.dispatch()
    uid = await queue.queued(max_queue_seconds=1, retries=1)
    await queue.becomes(uid, "running")
    await asyncio.sleep(1.5)
    gate.set()
    told = await queue.ended(uid)
    assert told["status"] == "completed" and told["attempts"] == 2, told
    row = await queue.row(uid)
    assert (row.started_at - row.created_at).total_seconds() < 1, "when it was first asked"


async def test_a_key_of_the_queue_opens_the_deployment_that_it_was_queued_for_alone(queue, upstream):
    """A token that leaked from a dispatcher."""
    await queue.start(await upstream(json_answer(b"{}")))
    caller = next(iter(queue.gateway.core.keys))
    for deployment, status in ((queue.deployment.pk, 200), (queue.deployment.pk + 1, 404)):
        identity = Identity(queue.key.user_id, 1, deployment, "api", caller.hex())
        token = identity_token.mint(identity, keys=KEYS.identity, now=time.time())
        answer = await queue.client.get("/main/chat/x", headers={"x-slipway-identity": token})
        assert answer.status_code == status


async def test_a_request_for_a_deployment_that_was_just_deleted_is_cancelled(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")))
    await Instance.objects.all().adelete()
    await Version.objects.aupdate(status=Status.STOPPED)
    await sync_to_async(delete_deployment)(queue.deployment, actor=None)
    # The gateway has not heard of it yet.
    uid = await queue.queued()
    await sync_to_async(queue_metrics.measure)(int(time.time()))
    await sync_to_async(queue_metrics.cancel_orphans)()
    assert (await queue.told(uid))["error"]["code"] == "deployment_deleted"


async def test_what_ends_its_dispatcher_again_and_again_is_given_up(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")))
    uid = await queue.queued()
    await AsyncRequest.objects.aupdate(
        state="running", fence=9, losses=dispatchers.MOST_LOSSES - 1, claimed_at=Now(), lease_until=Now()
    )
    queue.dispatch()
    assert (await queue.ended(uid))["error"]["code"] == "dispatcher_lost"


async def test_cancelling_what_runs_ends_it_at_the_instance_too(queue, upstream):
    server = await upstream(slow(asyncio.Event()))
    await queue.start(server)
    queue.dispatch()
    uid = await queue.queued()
    await queue.becomes(uid, "running")
    async with asyncio.timeout(10):
        while not server.requests:
            await asyncio.sleep(0.01)
    assert (await queue.ask(f"/{uid}", "DELETE")).json()["status"] == "cancelled"
    async with asyncio.timeout(10):
        await server.lost.wait()
    await queue.stop_dispatchers()
    row = await queue.row(uid)
    assert row.state == "cancelled" and row.finished_at is not None and not await AsyncResult.objects.aexists()


async def test_a_dispatcher_that_is_told_to_stop_puts_back_what_it_has(queue, upstream, monkeypatch):
    monkeypatch.setattr(dispatchers, "DRAIN_S", 0.1)
    gate = asyncio.Event()
    await queue.start(await upstream(slow(gate)))
    queue.dispatch()
    uid = await queue.queued()
    await queue.becomes(uid, "running")
    await queue.stop_dispatchers()
    assert (await queue.told(uid))["status"] == "queued"
    gate.set()
    queue.dispatch()
    assert (await queue.ended(uid))["status"] == "completed"


async def test_a_key_that_was_revoked_while_its_request_waited_opens_nothing(queue, upstream, people):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    uid = await queue.queued()
    _, queue.secret = await sync_to_async(create_key)(people.member, people.ours, "another")
    await sync_to_async(revoke_key)(queue.key, actor=None)
    await sync_to_async(queue.read_keys)()
    queue.dispatch()
    told = await queue.ended(uid)
    assert told["status"] == "failed" and told["error"]["code"] == "key_invalid" and not server.requests
    assert told["started_at"] is None


async def test_the_consoles_requests_need_their_senders_right_when_they_are_sent(queue, upstream, people):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)

    def submit():
        return services.submit(
            queue.deployment, user=people.member, organization_id=people.ours.pk, method="POST", path="/work",
            headers=[("X-A", "b")], body=b"{}", chosen=Options(),
        )  # fmt: skip

    first, second = await sync_to_async(submit)(), None
    dispatcher = queue.dispatch()
    assert dispatcher and (await queue.ended(first.uid.hex))["status"] == "completed"
    assert server.requests[0].headers["x-a"] == "b"
    await queue.stop_dispatchers()
    second = await sync_to_async(submit)()
    await people.member.memberships.all().adelete()
    queue.dispatch()
    assert (await queue.ended(second.uid.hex))["error"]["code"] == "access_ended"
    assert len(server.requests) == 1


async def test_without_a_gateway_requests_wait(queue, upstream, free_port):
    server = await upstream(json_answer(b"{}"))
    await queue.start(server)
    away = httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}", timeout=httpx.Timeout(None, connect=1))
    queue.dispatch(client=away)
    uid = await queue.queued()
    await asyncio.sleep(0.5)
    row = await queue.row(uid)
    assert row.attempts == 0 and row.losses == 0 and row.state in ("queued", "running")
    await queue.stop_dispatchers()
    queue.dispatch()
    assert (await queue.ended(uid))["status"] == "completed"


async def test_deleting_a_deployment_cancels_what_waits(queue, upstream):
    await queue.start(await upstream(json_answer(b"{}")))
    ids = [await queue.queued() for _ in range(3)]
    await Version.objects.aupdate(status=Status.STOPPED)
    await Instance.objects.all().adelete()
    await sync_to_async(delete_deployment)(queue.deployment, actor=None)
    for uid in ids:
        told = await queue.told(uid)
        assert told["status"] == "cancelled" and told["error"]["code"] == "deployment_deleted"
        assert told["deployment"] == "acme/chat"


async def test_many_at_once_end_once_each_whoever_dies(queue, upstream):
    """Dispatchers whose tasks are torn away in the middle, again and again, as a kill would."""
    counts: Counter[str] = Counter()

    async def answer(request, writer):
        counts[request.headers["x-request-id"]] += 1
        await asyncio.sleep(0.005)
        await json_answer(request.body)(request, writer)

    async def said_to_nobody(*what):
        return None

    await queue.start(await upstream(answer), concurrency=20)
    ids = [await queue.queued({"n": number}, retries=0) for number in range(200)]
    deadline = time.monotonic() + 60
    while await AsyncRequest.objects.filter(finished_at=None).aexists():
        assert time.monotonic() < deadline
        dispatcher = queue.dispatch()
        await asyncio.sleep(0.15)
        # What dies says nothing more: neither ends nor puts back.
        dispatcher._store = said_to_nobody  # type: ignore[method-assign]
        _, task = queue._dispatchers.pop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await AsyncRequest.objects.filter(state="running").aupdate(lease_until=Now(), losses=F("losses") * 0)
    rows = [row async for row in AsyncRequest.objects.order_by("id")]
    assert [row.uid.hex for row in rows] == ids and {row.state for row in rows} == {"completed"}
    assert await AsyncResult.objects.acount() == 200
    for row in rows:
        result = await AsyncResult.objects.aget(request=row)
        assert bytes(result.body) == b'{"n":%d}' % rows.index(row)
    assert set(counts) == set(ids)


async def test_claiming_costs_the_same_however_long_the_queue_is(queue, upstream):
    """By the plan, not by the clock: the claim reads the partial index, and no more rows than it takes."""
    await queue.start(await upstream(json_answer(b"{}")))
    for _ in range(3):
        await queue.queued()
    async with queue.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO async_inference_asyncrequest (uid, deployment_id, api_id, organization_id, user_id, priority, queue_s, "
            "expires_at, retries, payload_bytes, fingerprint) SELECT gen_random_uuid(), deployment_id, api_id, "
            "organization_id, user_id, 1, 600, expires_at, 0, 0, '' FROM async_inference_asyncrequest, generate_series(1, 5000)"
        )
        await connection.execute("ANALYZE async_inference_asyncrequest")
        values = {"deployment": queue.deployment.pk, "most": 8, "capacity": 8, "lease_s": 15, "held_back": []}
        await connection.execute("BEGIN")
        found = await (
            await connection.execute("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + statements.CLAIM, values)
        ).fetchall()
        await connection.execute("ROLLBACK")
    plan = "\n".join(str(*row.values()) for row in found)
    assert "async_queue" in plan and "Seq Scan on async_inference_asyncrequest" not in plan, plan
