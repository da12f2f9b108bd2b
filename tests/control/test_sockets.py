"""Websockets on the whole ASGI application: who gets what, and that nothing is lost or doubled."""

import asyncio
import json
import time

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import connections
from django.utils import timezone

from accounts import audit, open_sockets
from accounts.models import Member
from common.broadcast import publish
from common.stores import scratch
from dashboard.asgi import application
from deployments import consumers, log_store, relay
from deployments.models import Instance
from runtimes.driver import LogLine
from tests.control.communicator import WebsocketCommunicator

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]
SIGN_IN_AGAIN, NOT_FOUND = 4401, 4404


@pytest_asyncio.fixture(autouse=True)
async def _threads_let_go_of_the_database(db):
    yield
    await sync_to_async(connections.close_all)()


def cookie_of(user) -> bytes:
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return f"{settings.SESSION_COOKIE_NAME}={session.session_key}".encode()


async def connect(path: str, user=None) -> WebsocketCommunicator:
    headers = [(b"origin", b"http://127.0.0.1:8000"), (b"host", b"127.0.0.1:8000")]
    if user is not None:
        headers.append((b"cookie", await sync_to_async(cookie_of)(user)))
    socket = WebsocketCommunicator(application, path, headers=headers)
    assert await socket.connect()
    return socket


async def close_code(socket: WebsocketCommunicator) -> int:
    message = await socket.receive_output(timeout=5)
    assert message["type"] == "websocket.close", message
    return message["code"]


def log_lines(*texts: str) -> list[LogLine]:
    return [LogLine(10 * number, f"{time.time():.3f} {text}") for number, text in enumerate(texts, 1)]


@pytest.fixture
def instance(deploy) -> Instance:
    made = Instance.objects.create(
        version=deploy().versions.get(),
        uid=f"{time.time_ns():x}",
        name="i",
        generation=1,
        phase="ready",
        started_at=timezone.now(),
    )
    return made


@pytest.mark.parametrize("path", ["/ws/live/", "/ws/logs/ab/", "/ws/tests/0123456789abcdef/"])
async def test_anonymous_visitors_are_told_to_sign_in(db, path):
    socket = await connect(path)
    assert await close_code(socket) == SIGN_IN_AGAIN


async def test_a_foreign_origin_is_refused(people):
    headers = [
        (b"origin", b"http://evil.example"),
        (b"host", b"127.0.0.1"),
        (b"cookie", await sync_to_async(cookie_of)(people.operator)),
    ]
    socket = WebsocketCommunicator(application, "/ws/live/", headers=headers)
    assert not await socket.connect()


async def test_strangers_read_no_log_and_hear_no_nudge(people, instance):
    socket = await connect(f"/ws/logs/{instance.uid}/", people.stranger)
    assert await close_code(socket) == NOT_FOUND
    live = await connect("/ws/live/", people.stranger)
    pk = await sync_to_async(lambda: instance.version.deployment_id)()
    await live.send_json_to({"subscribe": [f"deployment.{pk}"]})
    assert await live.receive_json_from(timeout=5) == {"type": "subscribed", "count": 0}
    await sync_to_async(publish)("deployment", pk)
    assert await live.receive_nothing(timeout=0.5)
    await live.disconnect()


async def test_members_hear_each_change_with_rising_numbers(people, instance):
    live = await connect("/ws/live/", people.member)
    pk = await sync_to_async(lambda: instance.version.deployment_id)()
    await live.send_json_to({"subscribe": [f"deployment.{pk}", "rubbish", "deployment.x", 7]})
    assert (await live.receive_json_from(timeout=5))["count"] == 1
    for _ in range(2):
        await sync_to_async(publish)("deployment", pk)
    first, second = await live.receive_json_from(timeout=5), await live.receive_json_from(timeout=5)
    assert second["seq"] == first["seq"] + 1 and first["id"] == str(pk)
    await live.disconnect()


@pytest.mark.parametrize("text", ["not json", "[]", "7", '{"subscribe": 3}'])
async def test_rubbish_on_the_socket_does_no_harm(people, text):
    live = await connect("/ws/live/", people.member)
    await live.send_text(text)
    await live.send_json_to({"subscribe": []})
    assert (await live.receive_json_from(timeout=5))["type"] == "subscribed"
    await live.disconnect()


async def test_a_log_joins_stored_and_live_lines_without_gap_or_repetition(people, instance):
    lines = log_lines("one", "two", "three", "four")
    await sync_to_async(log_store.seal)(instance, lines[:2], complete=False, now=timezone.now())
    await sync_to_async(log_store.seal)(instance, lines[:2], complete=False, now=timezone.now())
    # The tail repeats what is sealed already, as it does for a while in real life.
    await sync_to_async(log_store.publish_tail)(instance.uid, lines[1:3])
    socket = await connect(f"/ws/logs/{instance.uid}/", people.member)
    first = await socket.receive_json_from(timeout=5)
    assert [text.split(" ")[1] for _, text in first["lines"]] == ["one", "two", "three"]
    started = time.monotonic()
    await sync_to_async(log_store.publish_tail)(instance.uid, lines[2:])
    second = await socket.receive_json_from(timeout=5)
    assert [text.split(" ")[1] for _, text in second["lines"]] == ["four"]
    assert time.monotonic() - started < 2
    await socket.disconnect()


async def test_frames_of_a_test_are_its_owners_alone(people):
    test_id = "00112233445566aa"

    def prepare() -> None:
        scratch().set(relay.owner_key(test_id), people.member.pk, ex=60)
        scratch().delete(relay.frames_key(test_id))
        for frame in ({"kind": "started"}, {"kind": "done"}):
            scratch().xadd(relay.frames_key(test_id), {"f": json.dumps(frame)})

    await sync_to_async(prepare)()
    for foreign in (people.stranger, people.operator):
        assert await close_code(await connect(f"/ws/tests/{test_id}/", foreign)) == NOT_FOUND
    socket = await connect(f"/ws/tests/{test_id}/", people.member)
    assert [(await socket.receive_json_from(timeout=5))["kind"] for _ in range(2)] == ["started", "done"]


async def test_an_answer_may_take_longer_than_any_timeout_of_the_store(people):
    test_id = "c" * 16
    await sync_to_async(scratch().set)(relay.owner_key(test_id), people.member.pk, ex=60)
    await sync_to_async(scratch().set)(relay.alive_key(test_id), 1, ex=60)
    socket = await connect(f"/ws/tests/{test_id}/", people.member)
    await asyncio.sleep(6)
    await sync_to_async(scratch().xadd)(relay.frames_key(test_id), {"f": json.dumps({"kind": "done"})})
    assert await socket.receive_json_from() == {"kind": "done"}
    await sync_to_async(scratch().delete)(relay.frames_key(test_id))


async def test_a_page_is_told_when_the_process_that_sent_its_test_is_gone(people):
    test_id = "d" * 16
    await sync_to_async(scratch().set)(relay.owner_key(test_id), people.member.pk, ex=60)
    socket = await connect(f"/ws/tests/{test_id}/", people.member)
    assert await socket.receive_json_from() == {"kind": "error", "message": relay.LOST}
    assert (await socket.receive_output(timeout=5))["type"] == "websocket.close"


async def test_nobody_cancels_somebody_elses_test(people):
    test_id = "e" * 16
    await sync_to_async(scratch().set)(relay.owner_key(test_id), people.member.pk, ex=60)
    socket = await connect(f"/ws/tests/{test_id}/", people.stranger)
    await socket.send_json_to({"cancel": True})
    assert await close_code(socket) == NOT_FOUND
    assert not await sync_to_async(scratch().exists)(relay.cancel_key(test_id))


async def test_a_quiet_socket_stays(people, instance):
    socket = await connect("/ws/live/", people.member)
    await asyncio.sleep(6)
    deployment = instance.version.deployment_id
    await socket.send_json_to({"subscribe": [f"deployment.{deployment}"]})
    assert (await socket.receive_json_from())["type"] == "subscribed"
    await sync_to_async(publish)("deployment", deployment)
    assert (await socket.receive_json_from())["type"] == "changed"


async def test_what_is_cancelled_at_once_is_cancelled(people, monkeypatch):
    """The page cancels as soon as it can say anything: before the test has begun to be followed."""
    test_id = "f" * 16
    await sync_to_async(scratch().set)(relay.owner_key(test_id), people.member.pk, ex=60)

    async def not_yet(self):
        await asyncio.sleep(60)

    monkeypatch.setattr(consumers.TestConsumer, "follow", not_yet)
    socket = await connect(f"/ws/tests/{test_id}/", people.member)
    await socket.send_json_to({"cancel": True})
    async with asyncio.timeout(10):
        while not await sync_to_async(scratch().exists)(relay.cancel_key(test_id)):
            await asyncio.sleep(0.05)
    await socket.disconnect()


async def test_leaving_the_page_cancels_the_test(people):
    test_id = "00112233445566bb"
    await sync_to_async(scratch().set)(relay.owner_key(test_id), people.member.pk, ex=60)
    socket = await connect(f"/ws/tests/{test_id}/", people.member)
    await asyncio.sleep(0.2)
    await socket.disconnect()
    assert await sync_to_async(scratch().exists)(relay.cancel_key(test_id))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "BREW"}, "method"),
        ({"path": "v1"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/../../v1/models"}, "path"),
        ({"path": "/a/%2e%2E/b"}, "path"),
        ({"path": "/a\\..\\b"}, "path"),
        ({"path": "/x\r\nHost: evil"}, "path"),
        ({"headers": "no colon"}, "headers"),
        ({"headers": "Host: evil"}, "headers"),
        ({"headers": "X-Slipway-Identity: forged"}, "headers"),
        ({"headers": "X: ü"}, "headers"),
        ({"body": "{not json", "content_type": "application/json"}, "body"),
    ],
)
async def test_bad_tests_name_the_field(changes, field):
    wanted = {"method": "POST", "path": "/v1/x", "headers": "A: b", "body": "{}", "content_type": "application/json"}
    assert relay.parse_test(wanted).headers == [("A", "b"), ("Content-Type", "application/json")]
    with pytest.raises(relay.InvalidTestError) as caught:
        relay.parse_test(wanted | changes)
    assert caught.value.field == field


async def until_closed(socket: WebsocketCommunicator) -> int:
    """The code with which it closes, whatever it tells before."""
    while (message := await socket.receive_output(timeout=10))["type"] != "websocket.close":
        pass
    return message["code"]


def change_password(user) -> None:
    user.set_password("another-long-one-42")
    user.save()
    audit.record(actor=user, action="change_password", thing=user)


def deactivate(user) -> None:
    type(user).objects.filter(pk=user.pk).update(is_active=False)
    audit.record(actor=None, action="update", thing=user)


def sign_out(user) -> None:
    for session in Session.objects.all():
        if session.get_decoded().get(SESSION_KEY) == str(user.pk):
            session.delete()


@pytest.mark.parametrize("end", [change_password, deactivate, sign_out])
@pytest.mark.parametrize("path", ["/ws/live/", "/ws/logs/{uid}/", "/ws/metrics/acme/chat/"])
async def test_open_pages_end_with_the_session(people, instance, monkeypatch, path, end):
    monkeypatch.setattr(open_sockets, "LOOK_S", 0.1)
    mine = await connect(path.format(uid=instance.uid), people.member)
    others = await connect("/ws/live/", people.admin)
    await sync_to_async(end)(people.member)
    assert await until_closed(mine) == SIGN_IN_AGAIN
    await others.send_json_to({"subscribe": []})
    assert await others.receive_json_from() == {"type": "subscribed", "count": 0}, "nobody else's end"
    await others.disconnect()


@pytest.mark.parametrize("path", ["/ws/logs/{uid}/", "/ws/metrics/acme/chat/"])
async def test_an_account_that_ends_during_a_look_has_to_sign_in_again(people, instance, monkeypatch, path):
    """Its session was found good a moment before its rights are asked for; "not found" would be wrong."""
    monkeypatch.setattr(open_sockets, "LOOK_S", 0.1)
    look = open_sockets._still_good

    async def then_deactivate(sockets):
        found = await look(sockets)
        await sync_to_async(deactivate)(people.member)
        return found

    monkeypatch.setattr(open_sockets, "_still_good", then_deactivate)
    assert await until_closed(await connect(path.format(uid=instance.uid), people.member)) == SIGN_IN_AGAIN


async def test_open_pages_lose_what_their_reader_may_not_see_any_more(people, instance, monkeypatch):
    monkeypatch.setattr(open_sockets, "LOOK_S", 0.1)
    log, live = await connect(f"/ws/logs/{instance.uid}/", people.member), await connect("/ws/live/", people.member)
    pk = await sync_to_async(lambda: instance.version.deployment_id)()
    await live.send_json_to({"subscribe": [f"deployment.{pk}"]})
    assert (await live.receive_json_from())["count"] == 1

    def remove() -> None:
        Member.objects.filter(user=people.member).delete()
        audit.record(actor=people.admin, action="remove", thing=people.member)

    await sync_to_async(remove)()
    assert await until_closed(log) == NOT_FOUND
    # Both were looked at in the same look.
    await asyncio.sleep(0.3)
    await sync_to_async(publish)("deployment", pk)
    assert await live.receive_nothing(timeout=0.5)
    await live.disconnect()


async def test_nothing_is_asked_once_all_pages_have_left(people):
    socket = await connect("/ws/live/", people.member)
    assert open_sockets.open_sockets()._looking is not None
    await socket.disconnect()
    assert open_sockets.open_sockets()._looking is None


async def test_a_user_runs_only_so_many_tests_at_once(people, deploy, monkeypatch):
    """However many come at the same moment."""
    deployment = await sync_to_async(deploy)()
    monkeypatch.setattr(relay, "MOST_OF_USER", 3)

    async def never(self) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(relay._Relay, "run", never)
    monkeypatch.setattr(relay, "_running", {})
    test = relay.parse_test({"method": "GET", "path": "/"})
    asked = [relay.start(test, deployment, people.member, people.ours.pk) for _ in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, relay.TooManyTestsError)]
    assert len(refused) == 17 and len(relay._running) == 3
    assert await relay.start(test, deployment, people.admin, people.ours.pk)
    for task in list(relay._running):
        task.cancel()


async def test_a_page_that_could_not_be_asked_about_is_asked_again_and_holds_up_no_other():
    class Page:
        def __init__(self, fails: int) -> None:
            self.fails, self.checked = fails, 0

        async def end_session(self) -> None: ...

        async def recheck(self) -> None:
            self.checked += 1
            if self.checked <= self.fails:
                raise OSError("away")

    broken, sound = Page(1), Page(0)
    sockets = open_sockets.OpenSockets()
    for page in (broken, sound):
        sockets._sockets[page], sockets._seen[page] = None, -1
    for _ in range(3):
        for page in (broken, sound):
            try:
                await sockets._judge(page, is_good=True, mark=7)
            except OSError:
                continue
    assert (broken.checked, sound.checked) == (2, 1)
