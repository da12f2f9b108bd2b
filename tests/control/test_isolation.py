"""Who reaches what: every address, API method, websocket and gateway entry × six persons, from the tables themselves.

A route without a row fails; so does a row without a route. What a person may not know of looks like what isn't there.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import zstandard
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.db import connections, transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from accounts.models import BrowserSession, Member, Organization, User
from accounts.services import add_member, create_api_token, create_organization, invite
from apikeys import directory as key_directory
from apikeys.services import create_key
from async_inference.models import AsyncRequest, AsyncResult
from common.installation_keys import FixedKeys
from common.stores import scratch
from deployments import relay
from deployments.models import Cluster, Instance, LastWords, Price, Stranger
from deployments.services.access import set_access
from deployments.websocket_urls import websocket_urlpatterns as deployments_sockets
from gateway.access.key_ring import KeyRing
from gateway.core import Gateway
from gateway.listener import accept
from gateway.routing import own_answers
from gateway.routing.directory import read_snapshot
from monitoring.websocket_urls import websocket_urlpatterns as monitoring_sockets
from tests.control.test_sockets import connect

PERSONS = ("anonymous", "stranger", "friend", "member", "admin", "operator")
TABLE = Path(__file__).with_name("isolation.txt")
Row = tuple[str, str]


def expected() -> dict[Row, str]:
    """(method, route) → one letter a person, see the file's head."""
    lines = [line.split(" ", 2) for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    return {(method, route): letters for letters, method, route in lines}


def routes_of_urls() -> dict[Row, str]:
    """(method, route) → the pattern to fill; routes that stand for several nouns are told apart."""
    found = {}
    for route, pattern in walk(get_resolver().url_patterns):
        actions = getattr(pattern.callback, "actions", None)
        nouns = re.search(r"\(\?P<noun>([^)]*)\)", route)
        for noun in nouns[1].split("|") if nouns else [""]:
            named = route.replace(nouns[0], noun) if nouns else route
            for method in [item.upper() for item in actions if item != "head"] if actions else ["GET", "POST"]:
                found[method, named or "/"] = named
    return found


def walk(patterns: Any, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for item in patterns:
        if isinstance(item, URLResolver):
            yield from walk(item.url_patterns, prefix + str(item.pattern))
        else:
            yield prefix + str(item.pattern), item


def outcome(answer: HttpResponse) -> str:
    assert answer.status_code < 500, answer.content[:2000]
    if answer.status_code == 401 or (answer.status_code == 302 and "/accounts/login/" in answer["Location"]):
        return "S"
    return {404: "-", 403: "F", 405: "M"}.get(answer.status_code, "Y")


@pytest.fixture
def world(people, deploy) -> SimpleNamespace:
    """The member's organization has a deployment, which it shares with the friend's; the stranger belongs elsewhere."""
    made = deploy()
    friends = create_organization("friends", "Friends")
    friend = User.objects.create(username="friend")
    add_member(friends, friend, Member.Role.MEMBER)
    Member.objects.filter(user=people.stranger).update(role=Member.Role.MEMBER)
    set_access(made, "key_only", "specific", [friends], actor=people.admin)
    # Admins deploy on clusters; on this machine itself only operators do.
    Cluster.objects.update(driver=Cluster.Driver.KUBERNETES)
    instance = Instance.objects.create(
        version=made.versions.get(),
        uid="ab12",
        name="chat-v1-x",
        generation=1,
        phase="ready",
        started_at="2026-01-01T00:00Z",
    )
    key, _ = create_key(people.member, people.ours, "key")
    token, _ = create_api_token(people.member, "token")
    invitation, _ = invite(people.ours, "member", "x", actor=people.admin)
    stranger = Stranger.objects.create(cluster=made.endpoint.cluster, name="chat-v1-x")
    LastWords.objects.create(
        instance=instance, end=1, at=timezone.now(), line_count=1, data=zstandard.compress(b"out of luck")
    )
    request = AsyncRequest.objects.create(
        uid="ab12" * 8, deployment=made, api_id=made.api_id, organization_id=people.ours.pk, user_id=people.member.pk,
        priority=1, state="completed", retries=0, queue_s=600, payload_bytes=0, fingerprint=b"", expires_at="2099-01-01T00:00Z",
    )  # fmt: skip
    AsyncResult.objects.create(request=request, content_type="text/plain", body=b"hello")
    Session.objects.create(session_key="theirs", session_data="", expire_date="2099-01-01T00:00Z")
    browser = BrowserSession.objects.create(session_key="theirs", user=people.member, seen_at=timezone.now())
    price = Price.objects.create(deployment=made, since="2099-01-01T00:00Z", currency="EUR")
    return SimpleNamespace(
        deployment=made, instance=instance, key=key, token=token, invitation=invitation, price=price, stranger=stranger, browser=browser,
        membership=Member.objects.get(user=people.member),
        persons={"anonymous": None, "stranger": people.stranger, "friend": friend, "member": people.member,
                 "admin": people.admin, "operator": people.operator},
    )  # fmt: skip


def filled(route: str, world: SimpleNamespace, *, real: bool = True) -> list[str]:
    """The addresses that the route stands for, naming what is there, or else what isn't."""
    numbers = {
        "tokens": world.token.pk, "invitations": world.invitation.pk, "members": world.membership.pk, "keys": world.key.pk,
        "pricing": world.price.pk, "models": world.deployment.model_id, "endpoints": world.deployment.endpoint_id,
        "clusters": world.deployment.endpoint.cluster_id,
        "users": world.membership.user_id,
        "sessions": world.browser.pk,
    }  # fmt: skip
    # The last noun before the number says whose it is.
    words = re.split(r"<int:pk>|\(\?P<pk>", route)[0].rstrip("/").split("/")
    number = numbers.get(words[-1].lstrip("^"), 0) if real else 999_999
    name = "acme" if "organizations/" in route else "chat"
    values = {
        "organization": "acme",
        "name": name,
        "uid": "ab12",
        "pk": str(number),
        "number": "1",
        "secret": "nonsense",
        "uidb36": "1",
        "key": "nonsense",
        "action": "deactivate",
        "stranger_id": str(world.stranger.pk) if real else "999999",
        "end": "1" if real else "99",
        "alias": "gpt-4o",
    }
    if not real:
        values |= {"organization": "nobody", "name": "nothing", "uid": "ffff"}
    if "/async/" in route or "hub/requests/" in route:
        values |= {"uid": values["uid"] * 8, "action": "cancel"}
    actions = re.search(r"\(\?P<action>([^)]*)\)", route)
    found = []
    for action in actions[1].split("|") if actions else [""]:
        place = re.sub(
            r"<(?:\w+:)?(\w+)>|\(\?P<(\w+)>(?:[^()]|\[[^]]*\])*\)",
            lambda match, action=action: (values | ({"action": action} if action else {}))[match[1] or match[2]],
            route,
        )
        found.append("/" + place.replace("^", "").replace("$", ""))
    return found


def ask(client: Client, method: str, address: str) -> HttpResponse:
    """One request whose effects are undone."""
    cookies = client.cookies.copy()
    with transaction.atomic():
        answer = client.generic(method, address, b"{}" if method not in ("GET", "HEAD") else b"", "application/json")
        transaction.set_rollback(True)
    client.cookies = cookies
    return answer


def clients(world: SimpleNamespace) -> dict[str, Client]:
    made = {}
    for name, user in world.persons.items():
        made[name] = Client(raise_request_exception=False)
        if user is not None:
            made[name].force_login(user)
    return made


@pytest.mark.django_db
def test_every_address_and_api_method_is_reached_by_whom_the_table_says(world):
    table, found, everybody = expected(), routes_of_urls(), clients(world)
    of_urls = {row for row in table if row[0] not in ("SOCKET", "GATEWAY")}
    assert of_urls == set(found), "a route without a row, or a row without a route"
    wrong = []
    for (method, route), pattern in found.items():
        for address in filled(pattern, world):
            letters = "".join(outcome(ask(everybody[name], method, address)) for name in PERSONS)
            if letters != table[method, route]:
                wrong.append(f"{letters} instead of {table[method, route]}: {method} {address}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.django_db
def test_what_is_forbidden_looks_like_what_is_not_there(world):
    everybody = clients(world)
    compared = 0
    for (method, route), letters in expected().items():
        if "-" not in letters or method in ("SOCKET", "GATEWAY"):
            continue
        real, absent = filled(route, world), filled(route, world, real=False)
        if real == absent:
            continue
        for name, letter in zip(PERSONS, letters, strict=True):
            if letter == "-":
                for one, other in zip(real, absent, strict=True):
                    first, second = ask(everybody[name], method, one), ask(everybody[name], method, other)
                    assert plain(first, one) == plain(second, other), f"{name}: {method} {one}"
                    compared += 1
    assert compared > 150


def plain(answer: HttpResponse, address: str) -> tuple[int, dict[str, str], str]:
    """What an onlooker could compare: without what is new in each answer, or is the address itself."""
    text = answer.content.decode().replace(address, "")
    text = re.sub(r"[0-9A-Za-z]{64}", "", text)
    headers = {name: value for name, value in answer.headers.items() if name not in ("Content-Length", "Set-Cookie")}
    return answer.status_code, headers, text


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_every_websocket_is_reached_by_whom_the_table_says(world):
    table = {route: letters for (method, route), letters in expected().items() if method == "SOCKET"}
    assert set(table) == {str(pattern.pattern) for pattern in [*deployments_sockets, *monitoring_sockets]}
    test_id = "0123456789abcdef"
    await sync_to_async(scratch().set)(relay.owner_key(test_id), world.persons["member"].pk, ex=60)
    for route, letters in table.items():
        address = "/" + route
        for group, value in {"uid": "ab12", "test_id": test_id, "organization": "acme", "name": "chat"}.items():
            address = re.sub(rf"\(\?P<{group}>[^)]*\)", value, address)
        for name, letter in zip(PERSONS, letters, strict=True):
            socket = await connect(address.replace("^", "").replace("$", ""), world.persons[name])
            assert await _reached(socket, route) == letter, f"{name}: {route}"
            with contextlib.suppress(asyncio.CancelledError):
                # One that stayed quiet was ended by the waiting.
                await socket.disconnect()
    await sync_to_async(connections.close_all)()


async def _reached(socket: Any, route: str) -> str:
    if "live" in route:
        # It is open to all who are signed in; what it tells is asked for.
        await socket.send_json_to({"subscribe": []})
    try:
        message = await socket.receive_output(timeout=1)
    except TimeoutError:
        return "Y"
    closed = {4401: "S", 4404: "-"}
    return closed[message["code"]] if message["type"] == "websocket.close" else "Y"


# How the gateway is entered: its own paths, and the two ways to a deployment.
GATEWAY = {
    "/healthz": ("GET", "/healthz", None),
    "/health": ("GET", "/health", None),
    "/v1/models": ("GET", "/v1/models", None),
    "/v1/models/{model}": ("GET", "/v1/models/acme/chat", None),
    "/v1/": ("POST", "/v1/chat/completions", {"model": "acme/chat", "messages": []}),
    "/{path}": ("POST", "/rerank", {"model": "acme/chat"}),
    "/v2/": ("POST", "/v2/rerank", {"model": "acme/chat"}),
    "/v1/realtime?model=": ("GET", "/v1/realtime?model=acme%2Fchat", None),
    "/openai/": ("POST", "/openai/v1/responses", {"model": "acme/chat"}),
    "/openai/deployments/{model}": ("POST", "/openai/deployments/acme/chat/chat/completions", {"messages": []}),
    "/{endpoint}/{deployment}": ("GET", "/main/chat/anything", None),
    "/async/requests": ("GET", "/async/requests", None),
    "/async/v1/": ("POST", "/async/v1/chat/completions", {"model": "acme/chat", "messages": []}),
    "/{endpoint}/{deployment}/async/": ("POST", "/main/chat/async/anything", None),
}


@pytest.mark.django_db(transaction=True)
def test_every_entry_of_the_gateway_is_reached_by_whom_the_table_says(world, tmp_path):
    table = {route: letters for (method, route), letters in expected().items() if method == "GATEWAY"}
    own = {path.decode() + ("{model}" if path == own_answers.MODEL else "") for path in own_answers.PATHS}
    queued = {"/async/requests", "/async/v1/", "/{endpoint}/{deployment}/async/"}
    named = {"/v1/", "/v2/", "/{path}", "/v1/realtime?model=", "/openai/", "/openai/deployments/{model}"}
    assert own | queued | named | {"/{endpoint}/{deployment}"} == set(GATEWAY)
    for kind, access, sharing in (
        ("closed", "key_only", "none"), ("shared", "key_only", "specific"), ("for all", "key_only", "all"), ("public", "public", "none"),
    ):  # fmt: skip
        friends = [membership.organization for membership in world.persons["friend"].memberships.all()]
        set_access(world.deployment, access, sharing, friends, actor=world.persons["admin"])
        found = asyncio.run(_enter(tmp_path / kind, {name: secret_of(user) for name, user in world.persons.items()}))
        for entry in GATEWAY:
            assert found[entry] == table[f"{kind} {entry}"], f"{kind} {entry}"


def secret_of(user: User | None) -> str:
    if user is None:
        return ""
    organization = Organization.objects.filter(members__user=user).first() or Organization.objects.get(name="acme")
    return create_key(user, organization, "for the table")[1]


async def _enter(folder: Path, secrets: dict[str, str]) -> dict[str, str]:
    """What everybody gets of a real gateway that reads the directory as it is. Nothing runs: 503 means that it is there."""
    folder.mkdir()

    def read() -> tuple[Any, KeyRing]:
        ring = KeyRing(folder / "keys")
        ring.replace(key_directory.rows(), 1)
        snapshot = read_snapshot()
        connections.close_all()
        return snapshot, ring

    snapshot, ring = await sync_to_async(read)()
    gateway = Gateway(folder, FixedKeys.of("secret"), name="test", epoch=1)
    gateway.keys = ring.callers
    gateway.set_snapshot(snapshot)
    server = await asyncio.get_running_loop().create_server(lambda: accept(gateway), "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    found = {}
    async with httpx.AsyncClient(base_url=base, trust_env=False) as client:
        for entry, (method, address, body) in GATEWAY.items():
            letters = ""
            for name in PERSONS:
                headers = {"Authorization": f"Bearer {secrets[name]}"} if secrets[name] else {}
                answer = await client.request(method, address, json=body, headers=headers)
                letters += {404: "-", 401: "S"}.get(answer.status_code, "Y")
            found[entry] = letters
    server.close()
    return found
