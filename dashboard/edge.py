"""What stands before Django: who is calling, and how much of a body is taken in.

Django writes a body to disk before any view or limit of its own sees it, so it is counted here.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from common.byte_budget import BudgetExceededError, ByteBudget, network_of
from common.proxies import Forwarded, Networks, origin

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Of somebody who doesn't even say who it is; and of others a little more than Django takes, whose refusal says what to do.
MOST_ANONYMOUS_BODY, MOST_BODY = 1 << 20, 13 << 20
_CREDENTIALS = (b"cookie", b"authorization")
UNCOUNTED_BODY = 64 << 10
_LINGER_S = 2.0
# Bodies that are being taken in, together and from one address.
MOST_BODIES, MOST_BODIES_EACH = 256 << 20, 64 << 20


class TrustedProxies:
    """Puts the caller's own address, scheme and host where the proxies that are trusted say what they are."""

    def __init__(self, application: Application, trusted: Networks) -> None:
        self._application, self._trusted = application, trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and self._trusted:
            self._resolve(scope)
        await self._application(scope, receive, send)

    def _resolve(self, scope: Scope) -> None:
        said: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name.startswith(b"x-forwarded-"):
                said.setdefault(name, []).append(value.decode("latin-1"))

        def all_of(name: bytes) -> str:
            return ",".join(said.get(name, ()))

        peer, _ = scope.get("client") or ("", 0)
        told = Forwarded(all_of(b"x-forwarded-for"), all_of(b"x-forwarded-proto"), all_of(b"x-forwarded-host"))
        found = origin(peer, told, self._trusted)
        if found.address != peer:
            scope["client"] = (found.address, 0)
        if found.scheme:
            scope["scheme"] = found.scheme.replace("http", "ws") if scope["type"] == "websocket" else found.scheme
        if found.host:
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [*others, (b"host", found.host.encode("latin-1"))]


class BodyLimit:
    """Answers 413 to a body that is larger than its page takes, and 429 or 503 where too many come at once."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._budget = ByteBudget(MOST_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        has_credentials = any(name in _CREDENTIALS for name, _ in scope["headers"])
        most = MOST_BODY if has_credentials else MOST_ANONYMOUS_BODY
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced[:20]) > most:
            await _refuse(scope, receive, send, *_too_large(most))
            return
        peer, _ = scope.get("client") or ("", 0)
        body = _CountedBody(receive, self._budget, {network_of(peer): MOST_BODIES_EACH}, most)
        answer = _Answer(send)
        try:
            await self._application(scope, body.receive, answer.send)
        finally:
            body.let_go()
        if body.refusal is not None and not answer.has_begun:
            await _refuse(scope, receive, send, *body.refusal)


class _CountedBody:
    """Hands a body on as long as it keeps within bounds; then the client is gone, as far as Django knows."""

    def __init__(self, receive: Receive, budget: ByteBudget, holders: dict[Any, int], most: int) -> None:
        self._receive, self._budget, self._holders, self._most = receive, budget, holders, most
        self._size = self._counted = 0
        self.refusal: tuple[int, str, str] | None = None

    async def receive(self) -> Message:
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        message = await self._receive()
        size = len(message.get("body") or b"")
        if not size:
            return message
        self._size += size
        if self._size > self._most:
            self.refusal = _too_large(self._most)
        else:
            try:
                # Forms are small: they find room whoever else sends what.
                more = self._size - UNCOUNTED_BODY - self._counted
                if more > 0:
                    self._budget.take(self._holders, more)
                    self._counted += more
            except BudgetExceededError as error:
                self.refusal = _too_many(error)
        return message if self.refusal is None else {"type": "http.disconnect"}

    def let_go(self) -> None:
        if self._counted:
            self._budget.give_back(self._holders, self._counted)
            self._counted = 0


class _Answer:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def send(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)


def _too_large(most: int) -> tuple[int, str, str]:
    return 413, "body_too_large", f"The body of this request has at most {most >> 20} MiB."


def _too_many(error: BudgetExceededError) -> tuple[int, str, str]:
    if error.holder is None:
        return 503, "bodies_full", "The console takes in as much as it may. Try again in a moment."
    return 429, "bodies_full_for_you", "Your address sends too much at once. Wait until some of it is done."


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, code: str, message: str) -> None:
    is_api = scope["path"].startswith("/api/")
    body = orjson.dumps({"error": {"code": code, "message": message}}) if is_api else message.encode()
    headers = [
        (b"content-type", b"application/json" if is_api else b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    # For a moment what still comes is read and dropped: closed at once, the connection would take the answer with it.
    dropped = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while dropped < MOST_BODY:
                message = await receive()
                dropped += len(message.get("body") or b"")
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
    await send({"type": "http.response.body", "body": b""})
