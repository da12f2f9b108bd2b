"""Sends one claimed request through the gateway, as its caller, and says what becomes of it."""

import string
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from async_inference import states
from async_inference.places import Place
from common import identity_token, outbound
from common.encryption import Cipher, SecretUnreadableError
from common.identity_token import Identity
from common.installation_keys import InstallationKeys

MAX_RESULT_BYTES = 32 << 20
# Longer than the gateway gives a request altogether.
TOTAL_TIMEOUT_S = 3700
RETRY_DELAYS_S = (1, 5, 15, 30, 60)
# The gateway's own answers for which nobody has been asked: the request goes back to its place.
_NOT_YET = frozenset({429, 503})
# Nor was anybody asked where no instance took a connection.
_UNREACHABLE = "instance_unreachable"
_NO_ANSWER = frozenset({408, 500, 502, 503, 504})
INSTANCE = "x-slipway-instance"


@dataclass(frozen=True)
class Claim:
    """One row of the claiming statement."""

    id: int
    uid: str
    deployment_id: int
    organization_id: int
    user_id: int
    key_id: int
    fence: int
    attempts: int
    retries: int
    payload_bytes: int
    method: str
    path: str
    headers: str
    body: bytes
    digest: bytes | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Claim":
        values = {name: row[name] for name in cls.__dataclass_fields__}
        digest = row["digest"]
        return cls(**values | {"uid": row["uid"].hex, "digest": bytes(digest) if digest is not None else None})

    @property
    def caller(self) -> str:
        """As the claiming statement names who is held back."""
        return f"{self.user_id}:{self.key_id}"


@dataclass(frozen=True)
class Ended:
    """It has its final state; `reached` is whether an instance was asked."""

    state: str
    status: int | None = None
    code: str = ""
    message: str = ""
    content_type: str = ""
    body: bytes = b""
    reached: bool = True


@dataclass(frozen=True)
class TryAgain:
    """The instance failed, and the request has attempts left."""

    code: str
    message: str
    wait_s: float


@dataclass(frozen=True)
class NotYet:
    """It goes back. `caller_waits_s` where a limit of the caller's was hit, `place_waits_s` where nothing can serve; then
    nobody was asked. `reached` where it was cut off because we end."""

    reached: bool = False
    caller_waits_s: float = 0.0
    place_waits_s: float = 0.0


What = Ended | TryAgain | NotYet


def gateway_client(base_url: str, **settings: Any) -> httpx.AsyncClient:
    """Keeps no cookies, which are nobody's here, and looks at no redirects."""
    return httpx.AsyncClient(
        base_url=base_url, cookies=outbound.no_cookies(), event_hooks={"response": [outbound.forget_location]}, trust_env=False, **settings
    )  # fmt: skip


async def send(
    claim: Claim,
    place: Place,
    client: httpx.AsyncClient,
    keys: InstallationKeys,
    hold: Callable[[int], Awaitable[None]],
) -> What:
    """Ask the gateway. `hold` is told how many more bytes are in memory, and waits until there is room."""
    if claim.key_id and claim.digest is None:
        return Ended(states.FAILED, None, "key_invalid", "The API key that sent it was deleted.", reached=False)
    digest = claim.digest.hex() if claim.digest is not None else ""
    source = "api" if digest else "console"
    identity = Identity(claim.user_id, claim.organization_id, claim.deployment_id, source, digest)
    own = [
        (identity_token.HEADER.decode(), identity_token.mint(identity, keys=keys.identity, now=time.time())),
        ("x-request-id", claim.uid),
    ]
    try:
        lines = Cipher(keys.encryption).decrypt(claim.headers).get("lines", "")
    except SecretUnreadableError:
        message = "Its headers were encrypted with a key that Slipway no longer has. Send it again."
        return Ended(states.FAILED, None, "secret_unreadable", message, reached=False)
    given = [_pair(line) for line in lines.split("\r\n") if line]
    # What is kept must be readable by whoever asks for it later, whatever they understand.
    given = [(name, value) for name, value in given if name.lower() != "accept-encoding"]
    names = {name.lower() for name, _ in given}
    own += [
        (name, value)
        for name, value in (("accept-encoding", "identity"), ("user-agent", "slipway-async"))
        if name not in names
    ]
    # A client that adds headers of its own would add these anew.
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in [*given, *own]]
    # To the letter: the client would else resolve dots and quote anew, and so ask for something else.
    target = quote(place.path + claim.path, safe=string.printable).encode("ascii")
    request = httpx.Request(
        claim.method, client.base_url, headers=headers, content=claim.body or None, extensions={"target": target}
    )
    try:
        answer = await client.send(request, stream=True)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
        # The gateway restarts, for example.
        return NotYet(place_waits_s=1.0)
    except httpx.HTTPError as error:
        return _failed(claim, "no_answer", f"There was no answer ({type(error).__name__}).")
    try:
        return await _read(claim, answer, hold)
    except httpx.HTTPError as error:
        return _failed(
            claim, "answer_broken", f"The answer broke off ({type(error).__name__}). The instance's log says why."
        )
    finally:
        await answer.aclose()


async def _read(claim: Claim, answer: httpx.Response, hold: Callable[[int], Awaitable[None]]) -> What:
    answer.headers.encoding = "latin-1"
    parts, size = [], 0
    async for part in answer.aiter_raw():
        size += len(part)
        await hold(len(part))
        if size > MAX_RESULT_BYTES:
            limit = MAX_RESULT_BYTES >> 20
            return Ended(
                states.FAILED,
                None,
                "result_too_large",
                f"The answer has more than {limit} MiB, which is all that is kept of one.",
            )
        parts.append(part)
    body, status = b"".join(parts), answer.status_code
    content_type = answer.headers.get("content-type", "")[:255]
    if INSTANCE not in answer.headers:
        refused = _of_gateway(claim, status, body, content_type, answer.headers.get("retry-after", ""))
        if refused is not None:
            return refused
    if status >= 500 or status == 429:
        return _failed(claim, f"status_{status}", f"The instance answered {status}.", status, content_type, body)
    if status >= 400:
        return Ended(states.FAILED, status, f"status_{status}", f"The instance answered {status}.", content_type, body)
    return Ended(states.COMPLETED, status, "", "", content_type, body)


def _of_gateway(claim: Claim, status: int, body: bytes, content_type: str, retry_after: str) -> What | None:
    """What the gateway itself says; None for an answer that isn't its own."""
    try:
        error = orjson.loads(body)["error"]
        code, message = str(error["code"])[:40], str(error["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    wait_s = float(retry_after) if retry_after.isdigit() else 1.0
    if status in _NOT_YET or code == _UNREACHABLE:
        return NotYet(caller_waits_s=wait_s) if status == 429 else NotYet(place_waits_s=min(wait_s, 2.0))
    if status in _NO_ANSWER:
        return _failed(claim, code, message, status, content_type, body)
    return Ended(states.FAILED, status, code, message, content_type, body, reached=False)


def _failed(
    claim: Claim, code: str, message: str, status: int | None = None, content_type: str = "", body: bytes = b""
) -> Ended | TryAgain:
    if claim.attempts < claim.retries:
        return TryAgain(code, message, RETRY_DELAYS_S[min(claim.attempts, len(RETRY_DELAYS_S) - 1)])
    tries = claim.attempts + 1
    words = message if tries == 1 else f"{message} It was tried {tries} times."
    return Ended(states.FAILED, status, code, words, content_type, body)


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()
