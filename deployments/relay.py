"""The browser's way to the gateway: one request, relayed by the web process as the signed-in user.

The answer's frames go to a Valkey stream, from which the page's websocket reads them, in whichever web process it
ends. So the relay needs no session with the browser, and a page that connects late misses nothing.
"""

import asyncio
import base64
import json
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httpx
import redis.asyncio
from django.conf import settings

from accounts.models import User
from common import identity_token
from common.identity_token import Identity
from deployments.models import Deployment

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
FRAME_TTL_S = 600
# What the page shows of an answer; the rest is counted, not kept.
SHOWN_BYTES = 2 << 20
# An answer may come byte by byte, and each piece takes a place of its own until the page is left.
SHOWN_PIECES = 20_000
# Tests that run at once in this process: of one user, and in all.
MOST_OF_USER, MOST_RUNNING = 10, 200
TOTAL_TIMEOUT_S = 900
# Longer than a busy process may pause.
ALIVE_S = 15
LOST = "The console's process that sent this request ended. Send it again."
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Set by the relay or the connection; from a form they would break the framing or forge an identity.
REFUSED_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "x-slipway-identity",
        "x-request-id",
        "expect",
    }
)
log = logging.getLogger(__name__)
# Whose each one is, by its task, or by whatever keeps its place until that is there.
_running: dict[object, int] = {}


class InvalidTestError(ValueError):
    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class TooManyTestsError(Exception):
    """In words for people."""


@dataclass(frozen=True)
class Test:
    """One request to send. `path` begins with "/" and may hold a query."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


def parse_test(wanted: dict[str, Any]) -> Test:
    """Check what the page sent. Raises InvalidTestError with the field at fault."""
    method = str(wanted.get("method", "")).upper()
    if method not in METHODS:
        raise InvalidTestError(f"The method is one of {', '.join(METHODS)}.", "method")
    path = str(wanted.get("path", ""))
    if not path.startswith("/"):
        raise InvalidTestError("A path starts with “/”.", "path")
    odd = any(ord(character) <= 32 or ord(character) == 127 or "\ud800" <= character <= "\udfff" for character in path)
    if len(path) > 8000 or odd:
        raise InvalidTestError(
            "A path has no spaces or control characters (write %20), and at most 8,000 characters.", "path"
        )
    if ".." in unquote(path.partition("?")[0]).replace("\\", "/").split("/"):
        raise InvalidTestError("A path stays below the deployment's address: it has no “..” in it.", "path")
    headers = []
    for number, line in enumerate(str(wanted.get("headers", "")).splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise InvalidTestError(f"Line {number}: write “Name: value”.", "headers")
        if name.lower() in REFUSED_HEADERS:
            raise InvalidTestError(f"Line {number}: {name} is set by Slipway. Remove it.", "headers")
        if not value.isprintable() or not value.isascii():
            raise InvalidTestError(f"Line {number}: a header's value has printable ASCII characters only.", "headers")
        headers.append((name, value))
    content_type = str(wanted.get("content_type", ""))
    if not content_type.isascii() or not content_type.isprintable():
        raise InvalidTestError("A content type has printable ASCII characters only.", "headers")
    if content_type and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", content_type))
    body = str(wanted.get("body", "")).encode("utf-8", "surrogatepass")
    if content_type == "application/json" and body.strip():
        try:
            json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InvalidTestError(
                f"The body is not JSON: {error}. Choose another content type to send it as it is.", "body"
            ) from None
    return Test(method, path, headers, body)


def frames_key(test_id: str) -> str:
    return f"slipway:test:{test_id}"


def owner_key(test_id: str) -> str:
    return f"slipway:test-owner:{test_id}"


def alive_key(test_id: str) -> str:
    """There while the relay runs: what died with its process can't say so itself."""
    return f"slipway:test-alive:{test_id}"


def cancel_key(test_id: str) -> str:
    return f"slipway:test-cancel:{test_id}"


async def start(test: Test, deployment: Deployment, user: User, organization_id: int) -> str:
    """Begin relaying on the organization's account; the id of the test, which is the request's id too.

    Raises TooManyTestsError.
    """
    if sum(owner == user.pk for owner in _running.values()) >= MOST_OF_USER:
        raise TooManyTestsError(f"You have {MOST_OF_USER} tests running. Cancel one, or wait until one has ended.")
    if len(_running) >= MOST_RUNNING:
        raise TooManyTestsError("The console runs as many tests as it may. Try again in a moment.")
    place = object()
    _running[place] = user.pk
    try:
        return await _start(test, deployment, user, organization_id)
    finally:
        del _running[place]


async def _start(test: Test, deployment: Deployment, user: User, organization_id: int) -> str:
    test_id = secrets.token_hex(8)
    identity = Identity(user.pk, organization_id, deployment.pk, "console")
    url = f"{settings.GATEWAY_URL}/{deployment.endpoint.name}/{deployment.name}"
    store = redis.asyncio.Redis.from_url(settings.SCRATCH_REDIS_URL)
    await store.set(owner_key(test_id), user.pk, ex=TOTAL_TIMEOUT_S + FRAME_TTL_S)
    await store.set(alive_key(test_id), 1, ex=ALIVE_S)
    task = asyncio.get_running_loop().create_task(_Relay(store, test_id, test, url, identity).run())
    # The loop itself holds tasks only weakly.
    _running[task] = user.pk
    task.add_done_callback(lambda done: _running.pop(done, None))
    return test_id


class _Relay:
    def __init__(self, store: redis.asyncio.Redis, test_id: str, test: Test, url: str, identity: Identity) -> None:
        self._store, self._id, self._test, self._url, self._identity = store, test_id, test, url, identity
        self._started = 0.0
        self._bytes = self._pieces = 0

    async def run(self) -> None:
        sending = asyncio.ensure_future(self._send())
        try:
            while not sending.done():
                await asyncio.wait({sending}, timeout=0.3)
                await self._store.set(alive_key(self._id), 1, ex=ALIVE_S)
                if not sending.done() and await self._store.exists(cancel_key(self._id)):
                    # Again and again: a library may swallow the first one, and the request would run on to its end.
                    while not sending.done():
                        sending.cancel()
                        await asyncio.wait({sending}, timeout=0.3)
                    await self._frame(kind="cancelled", total=self._elapsed())
            if not sending.cancelled():
                sending.result()
        except (redis.RedisError, OSError):
            log.exception("test %s", self._id)
        except Exception:
            # Whatever it was: the page must not wait for ever.
            log.exception("test %s", self._id)
            await self._frame(kind="error", message="The console could not send this request. Its log says why.")
        finally:
            sending.cancel()
            await self._store.aclose()

    async def _send(self) -> None:
        self._started = time.perf_counter()
        token = identity_token.mint(self._identity, keys=settings.INSTALLATION_KEYS.identity, now=time.time())
        headers = [*self._test.headers, (identity_token.HEADER.decode(), token), ("X-Request-Id", self._id)]
        if not any(name.lower() == "accept-encoding" for name, _ in headers):
            headers.append(("Accept-Encoding", "identity"))
        await self._frame(kind="started", at=time.time())
        try:
            timeout = httpx.Timeout(TOTAL_TIMEOUT_S, connect=5)
            async with (
                asyncio.timeout(TOTAL_TIMEOUT_S),
                httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False) as client,
            ):
                request = client.build_request(
                    self._test.method, self._url + self._test.path, headers=headers, content=self._test.body or None
                )
                request.headers["user-agent"] = "slipway-console"
                response = await client.send(request, stream=True)
                await self._answer(response)
                await response.aclose()
        except TimeoutError:
            minutes = TOTAL_TIMEOUT_S // 60
            await self._frame(
                kind="error", message=f"Cut off after {minutes} minutes; a test from the browser takes no longer."
            )
        except httpx.ConnectError:
            await self._frame(
                kind="error",
                message="The gateway does not answer. It is restarted by itself; try again in a few seconds.",
            )
        except httpx.InvalidURL as error:
            await self._frame(kind="error", message=f"The path is not valid: {error}.")
        except httpx.HTTPError as error:
            await self._frame(
                kind="error",
                message=f"The answer broke off after {self._elapsed():.1f} s ({type(error).__name__}). The log of the instance says why.",
            )

    async def _answer(self, response: httpx.Response) -> None:
        instance = response.headers.get("x-slipway-instance", "")
        shown = [(name, value) for name, value in response.headers.multi_items() if name != "x-slipway-instance"]
        await self._frame(
            kind="head",
            status=response.status_code,
            reason=response.reason_phrase,
            headers=shown,
            at=self._elapsed(),
            instance=instance,
        )
        first_byte = None
        async for data in response.aiter_raw():
            if first_byte is None:
                first_byte = self._elapsed()
            if self._bytes < SHOWN_BYTES and self._pieces < SHOWN_PIECES:
                self._pieces += 1
                await self._frame(
                    kind="chunk", at=self._elapsed(), data=base64.b64encode(data[: SHOWN_BYTES - self._bytes]).decode()
                )
            self._bytes += len(data)
        await self._frame(
            kind="done",
            total=self._elapsed(),
            first_byte=first_byte,
            bytes=self._bytes,
            cut=self._bytes > SHOWN_BYTES or self._pieces >= SHOWN_PIECES,
            ended=time.time(),
        )

    async def _frame(self, **frame: Any) -> None:
        await self._store.xadd(frames_key(self._id), {"f": json.dumps(frame)})
        await self._store.expire(frames_key(self._id), FRAME_TTL_S)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started
