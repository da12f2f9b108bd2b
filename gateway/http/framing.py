"""The strict half of HTTP/1.1: what httptools lets through but a gateway must not, and the heads we write."""

import re
from http import HTTPStatus
from typing import TypeVar

from common import identity_token
from gateway.errors import GatewayError, bad_request
from gateway.http.credentials import Credentials, check_address, holds_one

Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 100
MAX_BODY_BYTES = 1 << 40
# A head to the letter: one space each, CRLF, no folding, no control characters. httptools alone lets more through.
STRICT_HEAD = re.compile(
    rb"[A-Z-]+ [!-~]+ HTTP/[0-9]\.[0-9]\r\n(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*\r\n"
)
# Below a deployment's address, or in front of an OpenAI-style path.
_ASYNC_PATH = re.compile(rb"(?:http://[^/]*)?(?:/async|(?!/v1/)/[^/?]+/[^/?]+/async)(?:[/?]|$)")
# Who begins with HTTP/2 can't read HTTP/1.1: an empty SETTINGS frame, and a GOAWAY with HTTP_1_1_REQUIRED (RFC 9113, 7).
HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
HTTP_1_1_REQUIRED = bytes.fromhex("000000040000000000000008070000000000000000000000000d")
OWN_COOKIES = (b"slipway_session", b"slipway_csrf")
NO_BODY_STATUS = frozenset({204, 304})
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}

# What a header means to a gateway. PASS is everything that it only hands on.
(
    PASS, HOP, HOST, LENGTH, CODING, CONNECTION, UPGRADE, EXPECT, IDENTITY, REQUEST_ID, COOKIE, AUTHORIZATION,
    CONTENT_TYPE, API_KEY, OPTION, SET_COOKIE, FORWARDED_FOR, SUBPROTOCOLS, ACCEPT_CODING, CONTENT_CODING, RATE_LIMIT,
    ORIGIN, ASKED_METHOD, ASKED_HEADERS,
) = range(24)  # fmt: skip
_KIND_OF_NAME = {
    b"host": HOST, b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION,
    b"upgrade": UPGRADE, b"expect": EXPECT, identity_token.HEADER: IDENTITY, b"x-request-id": REQUEST_ID,
    b"cookie": COOKIE, b"authorization": AUTHORIZATION, b"content-type": CONTENT_TYPE, b"api-key": API_KEY,
    b"x-api-key": API_KEY, b"x-goog-api-key": API_KEY, b"sec-websocket-protocol": SUBPROTOCOLS, b"http2-settings": HOP,
    b"accept-encoding": ACCEPT_CODING, b"content-encoding": CONTENT_CODING,
    b"keep-alive": HOP, b"proxy-connection": HOP, b"proxy-authenticate": HOP, b"proxy-authorization": HOP,
    b"set-cookie": SET_COOKIE, b"x-forwarded-for": FORWARDED_FOR, b"forwarded": HOP, b"x-real-ip": HOP, b"te": HOP, b"trailer": HOP, b"x-slipway-instance": HOP,
    b"origin": ORIGIN, b"access-control-request-method": ASKED_METHOD, b"access-control-request-headers": ASKED_HEADERS,
    **dict.fromkeys((b"access-control-allow-origin", b"access-control-allow-methods", b"access-control-allow-headers",
                     b"access-control-allow-credentials", b"access-control-allow-private-network",
                     b"access-control-expose-headers", b"access-control-max-age"), HOP),
    b"x-slipway-served-by": HOP, b"x-slipway-queue-ms": HOP,
    **dict.fromkeys((b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests",
                     b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens"), RATE_LIMIT),
    **dict.fromkeys((b"x-slipway-async", b"x-slipway-async-priority", b"x-slipway-async-max-queue-seconds",
                     b"x-slipway-async-webhook", b"x-slipway-async-retries"), OPTION),
}  # fmt: skip
# The same by the spelling that came, so that a name is lowered once and not in each request. Bounded: clients choose it.
_MAX_SPELLINGS = 4096
KINDS: dict[bytes, int] = {}


def kind_of(name: bytes) -> int:
    """What the header `name` means, remembered by its spelling; look into KINDS first."""
    kind = _KIND_OF_NAME.get(name.lower(), PASS)
    if len(KINDS) < _MAX_SPELLINGS:
        KINDS[name] = kind
    return kind


def looks_like_head(part: bytearray, since: int) -> bool:
    """Whether a part of a head may still become one, by its bytes from `since` on: what is before has been looked at. Else
    whoever sent it would wait for an answer until it times out."""
    pairs = part.count(b"\r\n", since)
    # Each return has its newline behind it, but for one at the very end, whose newline may still come.
    returns = part.count(b"\r", since) - part.endswith(b"\r")
    newlines = part.count(b"\n", since) - (since > 0 and part[since] == 10)
    return 65 <= part[0] <= 90 and newlines == pairs == returns


class RequestHead:
    """A request's head once it is known to be sound. Shared by all requests with the same bytes: nobody changes it.

    `passed` are the header lines to hand on. `length` is the body's, -1 for chunked, None for no body. `key` is the
    digest of the API key that was sent, empty without one, TOKEN_SENT for an API token in its place. `options` are those for asynchronous requests. `coding` is the body's, empty for none, and `accepts` the answer's, as the client
    wrote it; neither is among the lines. `origin` is that of the page that asks, `preflight` the method and headers that its browser
    wants to send. `plan` is what was done with one last time.
    """

    __slots__ = (
        "accepts", "coding", "content_type", "expects", "forwarded_for", "identity", "is_1_0", "is_async", "keep_alive", "key", "length", "method", "options", "origin", "passed",
        "plan", "preflight", "request_id", "target", "websocket",
    )  # fmt: skip

    def __init__(self, method: bytes, target: bytes, *, is_1_0: bool, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.passed = b""
        self.is_1_0 = is_1_0
        self.keep_alive = keep_alive
        self.length: int | None = None
        self.expects = self.websocket = self.is_async = False
        self.options: dict[str, str] = {}
        self.forwarded_for = ""
        self.request_id = self.identity = self.content_type = self.key = b""
        self.accepts = self.coding = self.origin = b""
        self.preflight: tuple[bytes, bytes] | None = None
        self.plan: object = None


class HeadMemory(dict[bytes, T]):
    """What reading a whole head has come to, by its bytes: clients and engines send the same ones again and again.

    Only what is a function of those bytes alone is kept. When it is full it begins anew.
    """

    MOST_HEADS = 2048
    LONGEST = 2048

    def keep(self, raw: bytes, value: T) -> None:
        if len(raw) <= self.LONGEST:
            if len(self) >= self.MOST_HEADS:
                self.clear()
            self[raw] = value


def read_head(
    method: bytes,
    target: bytes,
    passed: list[bytes],
    special: list[tuple[int, bytes, bytes]],
    *,
    is_1_0: bool,
    keep_alive: bool,
    holds_ours: bool,
) -> RequestHead:
    """Check a request's head. Raises for what must not be handed on; after that the connection can't be trusted.

    `passed` are the pieces of header lines that mean nothing to a gateway, four each. `holds_ours`: one of Slipway's keys or
    tokens may be in it, in plain text.
    """
    if method == b"CONNECT":
        raise GatewayError(405, "method_not_allowed", "CONNECT is not supported: what follows it could not be checked.")
    head = RequestHead(method, target, is_1_0=is_1_0, keep_alive=keep_alive)
    credentials = Credentials()
    check_address(target)
    hosts = 0
    named: set[bytes] = set()
    offers: set[bytes] = set()
    is_chunked = False
    asked_method = asked_headers = b""
    for kind, name, value in special:
        if kind == HOST:
            hosts += 1
        elif kind == CONTENT_TYPE:
            head.content_type = value
            passed += (name, b": ", value, b"\r\n")
        elif kind == CONNECTION:
            named |= _named_by(value)
        elif kind == LENGTH:
            # isdigit of bytes knows ASCII only. The number is written anew, so that no spelling of it goes on.
            if head.length is not None or not value.isdigit() or len(value) > 15 or int(value) > MAX_BODY_BYTES:
                raise bad_request("Content-Length is stated once, as a number.")
            head.length = int(value)
        elif kind == CODING:
            if value.lower() != b"chunked":
                raise GatewayError(501, "transfer_encoding", "Only chunked transfer encoding is understood.")
            if is_chunked:
                raise bad_request("Transfer-Encoding is stated twice.")
            is_chunked = True
        elif kind in (AUTHORIZATION, API_KEY):
            # What else clients put there is for the instance.
            if not credentials.accept(value):
                passed += (name, b": ", value, b"\r\n")
        elif kind == SUBPROTOCOLS:
            if value := credentials.of_subprotocols(value):
                passed += (name, b": ", value, b"\r\n")
        elif kind == COOKIE:
            if value := _without_own_cookies(value):
                passed += (name, b": ", value, b"\r\n")
        elif kind == IDENTITY:
            head.identity = value
        elif kind == FORWARDED_FOR:
            text = value.decode("latin-1")
            # An instance would take it for the truth, whoever wrote it.
            head.forwarded_for = f"{head.forwarded_for},{text}" if head.forwarded_for else text
        elif kind == REQUEST_ID:
            head.request_id = value
        elif kind == ORIGIN:
            head.origin = value
            passed += (name, b": ", value, b"\r\n")
        elif kind == ASKED_METHOD:
            asked_method = value
        elif kind == ASKED_HEADERS:
            asked_headers = value
        elif kind == ACCEPT_CODING:
            head.accepts = head.accepts + b", " + value if head.accepts else value
        elif kind == CONTENT_CODING:
            if value.lower() != b"identity":
                head.coding = head.coding + b", " + value.lower() if head.coding else value.lower()
        elif kind == EXPECT:
            if value.lower() != b"100-continue":
                raise GatewayError(417, "expectation_failed", "Only “Expect: 100-continue” is understood.")
            head.expects = True
        elif kind == OPTION:
            option = name.decode("ascii").lower()
            if option in head.options:
                raise bad_request(f"{option} is stated twice.")
            head.options[option] = value.decode("latin-1").strip()
        elif kind == UPGRADE:
            offers |= {item.strip().lower() for item in value.split(b",")}
    # HTTP/1.0 knows none: plain health checks of balancers are like that.
    if hosts != 1 and (hosts or not is_1_0):
        raise bad_request("A request has exactly one Host header.")
    if is_chunked:
        if head.length is not None:
            raise bad_request("The length of the body is stated twice.")
        if is_1_0:
            raise bad_request("Transfer-Encoding needs HTTP/1.1.")
        head.length = -1
    if len(passed) // 4 + len(special) > MAX_HEADERS:
        raise GatewayError(431, "too_many_headers", f"At most {MAX_HEADERS} headers are accepted.")
    # Any other offer is ignored, as it may be (RFC 9110, 7.8): bytes behind it are this protocol's.
    head.websocket = (
        b"websocket" in offers and b"upgrade" in named and method == b"GET" and not head.length and not is_1_0
    )
    head.key = credentials.digest
    if holds_ours:
        _drop_ours(passed)
        head.request_id, head.accepts, head.coding = (
            b"" if holds_one(value) else value for value in (head.request_id, head.accepts, head.coding)
        )
    if named:
        drop_named(passed, named)
    head.passed = b"".join(passed)
    if method == b"OPTIONS" and head.origin and asked_method and not holds_ours:
        head.preflight = asked_method, asked_headers
    # What the queue sends later isn't queued again.
    # A switch that is neither on nor off is refused there, too: nobody means it to be ignored.
    switched = head.options.get("x-slipway-async", "").lower() not in ("", "false", "0", "no", "off")
    head.is_async = not head.identity and head.preflight is None and (switched or bool(_ASYNC_PATH.match(target)))
    return head


def _drop_ours(passed: list[bytes]) -> None:
    """Take out the lines that hold a key or token of ours, whatever they are called."""
    passed[:] = [
        piece
        for index in range(0, len(passed), 4)
        if not holds_one(passed[index + 2])
        for piece in passed[index : index + 4]
    ]


def drop_named(passed: list[bytes], named: set[bytes]) -> None:
    """Take the lines out that Connection names: they are for this hop alone."""
    passed[:] = [
        piece
        for index in range(0, len(passed), 4)
        if passed[index].lower() not in named
        for piece in passed[index : index + 4]
    ]


def _named_by(value: bytes) -> set[bytes]:
    return {item.strip().lower() for item in value.split(b",")} - {b"keep-alive", b"close", b""}


def request_line(method: bytes, path: bytes, passed: bytes) -> bytes:
    """The head to the instance as far as it is the same for every request like this: up to the request's id."""
    return b"%b %b HTTP/1.1\r\n%bx-request-id: " % (method, path, passed)


def request_rest(head: RequestHead, host_line: bytes, length: int | None, coding: bytes) -> bytes:
    """The head to the instance behind the request's id; `length` as in RequestHead, of the body that is sent, and `coding`
    the one in which it is sent."""
    if coding:
        host_line = b"%bcontent-encoding: %b\r\n" % (host_line, coding)
    if length is None:
        if head.websocket:
            return b"%bconnection: Upgrade\r\nupgrade: websocket\r\n\r\n" % host_line
        return host_line + b"\r\n"
    if length == -1:
        return b"%btransfer-encoding: chunked\r\n\r\n" % host_line
    return b"%bcontent-length: %d\r\n\r\n" % (host_line, length)


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def own_answer(status: int, lines: Headers, body: bytes, *, close: bool, keep_alive_1_0: bool = False) -> bytes:
    """A whole answer of the gateway's own."""
    parts = [status_line(status)]
    for name, value in lines:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"content-length: %d\r\n" % len(body))
    if close:
        parts.append(b"connection: close\r\n")
    elif keep_alive_1_0:
        parts.append(b"connection: keep-alive\r\n")
    parts += (b"\r\n", body)
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _without_own_cookies(value: bytes) -> bytes:
    pairs = [pair.strip() for pair in value.split(b";")]
    return b"; ".join(pair for pair in pairs if not pair.startswith(OWN_COOKIES) and not holds_one(pair))
