"""The strict half of HTTP/1.1: what httptools lets through but a gateway must not, and the heads we write."""

from gateway.errors import GatewayError, bad_request

Headers = list[tuple[bytes, bytes]]

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 100
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Ours alone: an upstream neither needs nor may see them.
PRIVATE = frozenset({b"x-slipway-identity", b"expect", b"host", b"content-length", b"x-request-id"})
OWN_COOKIES = (b"slipway_session", b"slipway_csrf")
OWN_TOKENS = (b"slk_", b"slt_")
NO_BODY_STATUS = frozenset({204, 304})


def check_request(method: bytes, version: str, headers: Headers) -> int | None:
    """Raise for what must not be passed on; the body's length, -1 for chunked, None for no body."""
    if len(headers) > MAX_HEADERS:
        raise GatewayError(431, "too_many_headers", f"At most {MAX_HEADERS} headers are accepted.")
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
        raise GatewayError(431, "head_too_large", f"The head of a request has at most {MAX_HEAD_BYTES >> 10} KiB.")
    hosts = lengths = codings = 0
    length: int | None = None
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
            if not value.isdigit():
                raise bad_request("Content-Length must be a number.")
            length = int(value)
        elif name == b"upgrade":
            raise GatewayError(501, "upgrade_unsupported", "Upgrades of the connection are not supported.")
        elif name == b"transfer-encoding":
            codings += 1
            if value.lower() != b"chunked":
                raise GatewayError(501, "transfer_encoding", "Only chunked transfer encoding is understood.")
    if hosts != 1 and (version == "1.1" or hosts > 1):
        raise bad_request("A request has exactly one Host header.")
    if lengths > 1 or codings > 1 or (lengths and codings):
        raise bad_request("The length of the body is stated twice.")
    if codings and version != "1.1":
        raise bad_request("Transfer-Encoding needs HTTP/1.1.")
    if method == b"CONNECT":
        raise GatewayError(405, "method_not_allowed", "CONNECT is not supported.")
    return -1 if codings else length


def end_to_end(headers: Headers) -> Headers:
    """The headers to pass on: without hop-by-hop ones, those that Connection names, and ours."""
    named: frozenset[bytes] | set[bytes] = HOP_BY_HOP
    for name, value in headers:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            named = HOP_BY_HOP | {item.strip().lower() for item in value.split(b",")}
    kept: Headers = []
    for name, value in headers:
        if name in named or name in PRIVATE:
            continue
        if name == b"cookie":
            value = _without_own_cookies(value)
            if not value:
                continue
        elif name == b"authorization" and value[:7].lower() == b"bearer " and value[7:].startswith(OWN_TOKENS):
            continue
        kept.append((name, value))
    return kept


def request_head(
    method: bytes, path: bytes, host: str, headers: Headers, request_id: bytes, length: int | None
) -> bytes:
    """The head of the request to the instance; `length` as from `check_request`."""
    parts = [method, b" ", path, b" HTTP/1.1\r\nhost: ", host.encode(), b"\r\nx-request-id: ", request_id, b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if length == -1:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif length is not None:
        parts.append(b"content-length: %d\r\n" % length)
    parts.append(b"\r\n")
    return b"".join(parts)


def response_head(status: int, reason: bytes, headers: Headers, *, chunked: bool, close: bool) -> bytes:
    """The head of the answer to the client; content-length is among `headers` when it is known."""
    parts = [b"HTTP/1.1 %d " % status, reason, b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    if close:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _without_own_cookies(value: bytes) -> bytes:
    pairs = [pair.strip() for pair in value.split(b";")]
    return b"; ".join(pair for pair in pairs if not pair.startswith(OWN_COOKIES))
