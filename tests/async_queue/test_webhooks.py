"""Webhooks at real receivers: signed, tried again, and never sent where they must not go."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import time
from datetime import timedelta

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from apikeys.services import create_key
from async_inference import options, services, signature, webhooks
from async_inference.models import AsyncRequest, WebhookAttempt, WebhookDelivery
from async_inference.webhooks import Sender
from common import outbound
from common.installation_keys import FixedKeys
from tests.certificates import self_signed
from tests.gateway.conftest import Upstream, json_answer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]
KEYS = FixedKeys.of("installation")
HERE = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(webhooks, "DELAYS_S", (0,))
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.5)


async def told(
    queue, upstream, url: str, *, allowed=HERE, rounds: int = 1, body: bytes = b'{"n": 1}'
) -> list[WebhookAttempt]:
    """One completed request's webhook, tried so many times; the tries, oldest first."""
    await queue.start(await upstream(json_answer(body)))
    queue.dispatch()
    await queue.ended(await queue.queued(webhook=url))
    sender = Sender(queue.pool, KEYS, allowed, "https://gateway.example")
    for _ in range(rounds):
        assert await sender.round() == 1
    await sender.close()
    return [item async for item in WebhookAttempt.objects.order_by("pk")]


async def test_a_webhook_brings_the_result_and_proves_where_it_comes_from(queue, upstream):
    receiver = await upstream(json_answer(b""))
    (attempt,) = await told(queue, upstream, f"http://127.0.0.1:{receiver.port}/hook?a=b")
    assert attempt.status_code == 200 and not attempt.error
    (got,) = receiver.requests
    uid = (await AsyncRequest.objects.aget()).uid.hex
    assert got.method == "POST" and got.path == "/hook?a=b" and got.headers["webhook-id"] == uid
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 10
    # As a receiver checks it, with nothing but the secret that the Developer Hub shows.
    secret = signature.secret_of(queue.key.user_id, 1, "installation")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{uid}.{got.headers['webhook-timestamp']}.".encode() + got.body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert got.headers["webhook-signature"] == f"v1,{wanted}"
    message = json.loads(got.body)
    assert message["type"] == "async_request.completed" and message["data"]["result"] == {"n": 1}
    assert message["data"]["result_url"] == f"https://gateway.example/async/requests/{uid}/result"
    # Nothing of ours or of the caller's goes along.
    assert not {"authorization", "cookie", "x-slipway-identity"} & set(got.headers)
    assert (await queue.told(uid))["webhook"]["status"] == "delivered"
    await sync_to_async(services.redeliver)(await AsyncRequest.objects.aget(), actor=None)
    assert (await queue.told(uid))["webhook"]["status"] == "pending"


async def test_a_changed_secret_signs_from_then_on(queue, upstream, people):
    receiver = await upstream(json_answer(b""))
    await sync_to_async(services.change_webhook_secret)(people.member)
    await sync_to_async(services.change_webhook_secret)(people.member)
    await told(queue, upstream, f"http://127.0.0.1:{receiver.port}/")
    (got,) = receiver.requests
    secret = signature.secret_of(people.member.pk, 3, "installation")
    again = signature.headers(got.headers["webhook-id"], got.body, [secret], int(got.headers["webhook-timestamp"]))
    assert got.headers["webhook-signature"] == again["webhook-signature"]


async def test_a_receiver_that_fails_is_tried_again_until_it_takes_it(queue, upstream):
    answers = ["500 Oh", "404 No", "200 OK"]

    async def answer(request, writer):
        await json_answer(b"", answers.pop(0))(request, writer)

    receiver = await upstream(answer)
    tries = await told(queue, upstream, f"http://127.0.0.1:{receiver.port}/", rounds=3)
    assert [item.status_code for item in tries] == [500, 404, 200]
    delivery = await WebhookDelivery.objects.aget()
    assert delivery.state == "delivered" and delivery.attempts == 3
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_a_receiver_that_is_down_or_slow_loses_nothing_and_is_given_up_after_a_day(queue, upstream, free_port):
    tries = await told(queue, upstream, f"http://127.0.0.1:{free_port}/", rounds=2)
    assert [(item.status_code, item.error) for item in tries] == [
        (None, "The receiver does not accept connections.")
    ] * 2
    assert (await WebhookDelivery.objects.aget()).state == "pending"

    async def never(request, writer):
        await asyncio.sleep(60)

    slow = await upstream(never)
    await AsyncRequest.objects.aupdate(webhook_url=f"http://127.0.0.1:{slow.port}/")
    await WebhookDelivery.objects.aupdate(since=timezone.now() - timedelta(hours=25))
    sender = Sender(queue.pool, KEYS, HERE, "")
    await sender.round()
    last = await WebhookAttempt.objects.afirst()
    assert last.status_code is None and "within" in last.error
    delivery = await WebhookDelivery.objects.aget()
    assert delivery.state == "failed" and await sender.round() == 0
    # The result is there all the same, and a button brings the webhook back.
    uid = (await AsyncRequest.objects.aget()).uid.hex
    assert (await queue.ask(f"/{uid}/result")).json() == {"n": 1}
    receiver = await upstream(json_answer(b""))
    await AsyncRequest.objects.aupdate(webhook_url=f"http://127.0.0.1:{receiver.port}/")
    await sync_to_async(services.redeliver)(await AsyncRequest.objects.aget(), actor=None)
    assert await sender.round() == 1 and len(receiver.requests) == 1
    await sender.close()


async def test_redirects_are_not_followed(queue, upstream):
    inside = await upstream(json_answer(b""))

    async def redirect(request, writer):
        head = f"HTTP/1.1 307 There\r\nLocation: http://127.0.0.1:{inside.port}/secret\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()

    receiver = await upstream(redirect)
    (attempt,) = await told(queue, upstream, f"http://127.0.0.1:{receiver.port}/")
    assert attempt.status_code == 307 and "Redirects are not followed" in attempt.error and not inside.requests


async def test_a_receivers_cookies_and_odd_addresses_are_nobodys_business(queue, upstream):
    extra = b"Set-Cookie: mine=1; Path=/\r\nLocation: localhost:80:80/x\r\n"
    receiver = await upstream(json_answer(b"", "302 Found", extra))
    tries = await told(queue, upstream, f"http://127.0.0.1:{receiver.port}/")
    await WebhookDelivery.objects.aupdate(due_at=timezone.now())
    sender = Sender(queue.pool, KEYS, HERE, "")
    await sender.round()
    await WebhookDelivery.objects.aupdate(due_at=timezone.now())
    await sender.round()
    await sender.close()
    assert tries[0].status_code == 302 and "Redirects are not followed" in tries[0].error
    assert len(receiver.requests) == 3 and not any("cookie" in request.headers for request in receiver.requests)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]",
     "0.0.0.0", "2130706433", "0x7f.1", "[fe80::1]", "100.64.0.1"],
)  # fmt: skip
async def test_addresses_inside_are_never_called(queue, upstream, host, free_port, monkeypatch):
    # Most are refused when they are given already; names that lead there can't be.
    monkeypatch.setattr(options, "is_allowed", lambda *address, **how: True)
    for scheme in ("https", "http"):
        if scheme == "https":
            (attempt,) = await told(queue, upstream, f"https://{host}:{free_port}/", allowed=())
        else:
            await AsyncRequest.objects.aupdate(webhook_url=f"http://{host}:{free_port}/")
            sender = Sender(queue.pool, KEYS, (), "")
            await sender.round()
            await sender.close()
            attempt = await WebhookAttempt.objects.afirst()
        assert attempt.status_code is None
        assert "may not be called" in attempt.error or "over https:// only" in attempt.error, attempt.error


async def test_a_name_that_changes_its_mind_is_judged_by_where_the_connection_goes(queue, upstream, monkeypatch):
    """DNS rebinding: a public address for whoever looks first, one inside for whoever looks next."""
    receiver = await upstream(json_answer(b""))
    looked = []
    real = socket.getaddrinfo

    def rebinding(host, port, *rest, **more):
        if host != "rebind.example":
            return real(host, port, *rest, **more)
        looked.append(host)
        address = "198.51.100.7" if len(looked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(outbound, "is_allowed", lambda address, allowed, **more: str(address) == "198.51.100.7")
    (attempt,) = await told(queue, upstream, f"http://rebind.example:{receiver.port}/", allowed=())
    assert attempt.status_code is None and looked == ["rebind.example"] and not receiver.requests


async def test_one_address_inside_among_several_is_enough_to_refuse(queue, upstream, monkeypatch):
    def both(host, port, **more):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("8.8.8.8", "10.0.0.1")]

    transport = outbound.GuardedTransport()
    monkeypatch.setattr(socket, "getaddrinfo", both)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError, match="may not be called"):
            await client.get("https://both.example/")


async def test_a_bad_certificate_gets_nothing(queue, upstream, tmp_path):
    seen = []

    async def serve(reader, writer):
        seen.append(await reader.read(100))
        writer.close()

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(self_signed(tmp_path / "pair.pem"))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    (attempt,) = await told(
        queue, upstream, f"https://localhost:{port}/", allowed=[*HERE, ipaddress.ip_network("::1/128")]
    )
    server.close()
    assert attempt.status_code is None and "certificate is not valid" in attempt.error and not any(seen)


async def test_every_end_is_told(queue, upstream, people):
    receiver = await upstream(json_answer(b""))
    url = f"http://127.0.0.1:{receiver.port}/"
    await queue.start(await upstream(json_answer(b"", "400 No")))
    cancelled = await queue.queued(webhook=url)
    await queue.ask(f"/{cancelled}", "DELETE")
    emptied = await queue.queued(webhook=url)
    await sync_to_async(services.cancel_waiting)(queue.deployment, actor=people.operator)
    expired = await queue.queued(webhook=url, max_queue_seconds=1)
    await AsyncRequest.objects.filter(uid=expired).aupdate(expires_at=timezone.now())
    failed = await queue.queued(webhook=url)
    queue.dispatch()
    await queue.ended(failed)
    await queue.ended(expired)
    sender = Sender(queue.pool, KEYS, HERE, "")
    while await sender.round():
        pass
    await sender.close()
    found = {json.loads(request.body)["data"]["id"]: json.loads(request.body)["type"] for request in receiver.requests}
    assert found == {
        cancelled: "async_request.cancelled", emptied: "async_request.cancelled", expired: "async_request.expired",
        failed: "async_request.failed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"[" * 100_000, None),
        (b'{"n": NaN}', None),
        (b'{"broken', None),
        (b'{"n": 1e999}', None),
        (b'{"fine": 1}', {"fine": 1}),
        (b'"\xff"', None),
    ],
)
async def test_whatever_a_model_answers_its_webhook_can_be_read(queue, upstream, body, result):
    receiver = await upstream(json_answer(b""))
    (attempt,) = await told(queue, upstream, f"http://127.0.0.1:{receiver.port}/", body=body)
    assert attempt.status_code == 200

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(receiver.requests[0].body, parse_constant=refuse)["data"]["result"] == result


async def test_a_receiver_that_hangs_takes_the_places_of_its_user_alone(queue, upstream, people, monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 5)
    monkeypatch.setattr(webhooks, "AT_ONCE_OF_ONE", 3)

    async def never(request, writer):
        await asyncio.sleep(60)

    hanging, receiver = await upstream(never), await upstream(json_answer(b""))
    await queue.start(await upstream(json_answer(b"{}")))
    queue.dispatch()
    for _ in range(10):
        await queue.ended(await queue.queued(webhook=f"http://127.0.0.1:{hanging.port}/"))
    _, secret = await sync_to_async(create_key)(people.admin, people.ours, "another")
    await sync_to_async(queue.read_keys)()
    other = await queue.queued(webhook=f"http://127.0.0.1:{receiver.port}/", secret=secret)
    sender = Sender(queue.pool, KEYS, HERE, "")
    running = asyncio.create_task(sender.run())
    async with asyncio.timeout(4):
        while not receiver.requests:
            await asyncio.sleep(0.02)
    assert receiver.requests[0].headers["webhook-id"] == other and len(hanging.requests) == 3
    running.cancel()
    await sender.close()


async def test_two_senders_deliver_once_and_a_vanished_ones_comes_up_again(queue, upstream):
    receiver: Upstream = await upstream(json_answer(b""))
    await queue.start(await upstream(json_answer(b"{}")))
    queue.dispatch()
    for _ in range(20):
        await queue.ended(await queue.queued(webhook=f"http://127.0.0.1:{receiver.port}/"))
    senders = [Sender(queue.pool, KEYS, HERE, "") for _ in range(3)]
    await asyncio.gather(*(sender.round() for sender in senders))
    assert len(receiver.requests) == 20 == await WebhookDelivery.objects.filter(state="delivered").acount()
    # Claimed and never noted, as by one that was killed: its time comes again.
    await WebhookDelivery.objects.aupdate(state="pending", due_at=timezone.now() + timedelta(seconds=webhooks.LEASE_S))
    assert await senders[0].round() == 0
    await WebhookDelivery.objects.aupdate(due_at=timezone.now())
    assert await senders[0].round() == 20
    for sender in senders:
        await sender.close()
