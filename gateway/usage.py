"""Token counts from what passes through: the body's usage object, or the stream's last one.

A stream tells its usage only when asked, so the gateway asks (by splicing `stream_options` into the body's bytes)
and takes the extra event out again before the client sees it.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

TAIL_BYTES = 4096
ASK = b'"stream_options":{"include_usage":true}'
# A rough figure where usage never came: four bytes a token.
BYTES_PER_TOKEN = 4
_BRACE = re.compile(rb"[{}]")


@dataclass
class Tokens:
    """`estimated` is set when the figures were counted here instead of told by the engine."""

    input: int = 0
    output: int = 0
    estimated: bool = False


def ask_for_usage(body: bytes, parsed: dict[str, Any]) -> bytes | None:
    """The body that asks for usage; None when the client asked itself or doesn't stream."""
    if parsed.get("stream") is not True:
        return None
    options = parsed.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        return None
    if "stream_options" in parsed:
        asked = options if isinstance(options, dict) else {}
        try:
            return orjson.dumps({**parsed, "stream_options": {**asked, "include_usage": True}})
        except orjson.JSONEncodeError:
            # Nested deeper than is written, though not than is read: its tokens are estimated.
            return None
    start = body.index(b"{") + 1
    separator = b"," if parsed else b""
    return body[:start] + ASK + separator + body[start:]


class BodyUsage:
    """Reads the usage of a plain JSON answer from its last bytes; `is_text` of one whose length tells its tokens."""

    def __init__(self, *, is_text: bool) -> None:
        self._is_text = is_text
        self._tail = b""
        self._bytes = 0

    def counted(self, raw: bytes, start: int) -> bool:
        """As StreamUsage.counted: a JSON answer in chunks has no events."""
        return False

    def feed(self, data: bytes) -> bytes:
        self._bytes += len(data)
        self._tail = data[-TAIL_BYTES:] if len(data) >= TAIL_BYTES else (self._tail + data)[-TAIL_BYTES:]
        return data

    def finish(self) -> bytes:
        return b""

    def tokens(self, prompt_bytes: int) -> Tokens:
        start = self._tail.rfind(b'"usage"')
        if start >= 0:
            found = _object_at(self._tail, start + len(b'"usage"'))
            if found:
                return _told(found)
        if not self._bytes:
            return Tokens()
        output = self._bytes // BYTES_PER_TOKEN if self._is_text else 0
        return Tokens(max(1, prompt_bytes // BYTES_PER_TOKEN), output, estimated=True)


class StreamUsage:
    """Follows server-sent events; with `strip` the usage event that only the gateway asked for is taken out."""

    def __init__(self, *, strip: bool) -> None:
        self._strip = strip
        self._buffer = b""
        self._usage: dict[str, Any] | None = None
        self._content_events = 0

    def counted(self, raw: bytes, start: int) -> bool:
        """Count the chunk `raw`, data from `start` to before its CRLF, if it is one whole event that tells no usage.

        As nearly all are: nothing is copied for them. Engines that were asked for usage write a null into each event
        before the last.
        """
        if (
            raw.find(b"\n\n", start) == len(raw) - 4
            and raw.startswith(b"data: {", start)
            and not self._buffer
            and (raw.find(b'"usage"', start) < 0 or b'"usage":null' in raw)
        ):
            self._content_events += 1
            return True
        return False

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the stream; the bytes to pass on now (whole events when something may have to be stripped)."""
        self._buffer += data
        *events, self._buffer = self._split(self._buffer)
        passed = [event for event in events if self._keep(event)]
        return b"".join(passed) if self._strip else data

    def finish(self) -> bytes:
        """What is left of a stream that ended without an empty line."""
        rest, self._buffer = self._buffer, b""
        if rest:
            keep = self._keep(rest)
            return rest if self._strip and keep else b""
        return b""

    def tokens(self, prompt_bytes: int) -> Tokens:
        if self._usage is not None:
            return _told(self._usage)
        if not self._content_events:
            return Tokens()
        return Tokens(max(1, prompt_bytes // BYTES_PER_TOKEN), self._content_events, estimated=True)

    @staticmethod
    def _split(buffer: bytes) -> list[bytes]:
        """Whole events with their empty line, then the incomplete rest."""
        separator = b"\r\n\r\n" if b"\r\n\r\n" in buffer else b"\n\n"
        parts = buffer.split(separator)
        return [part + separator for part in parts[:-1]] + [parts[-1]]

    def _keep(self, event: bytes) -> bool:
        if b"data:" not in event or b"[DONE]" in event:
            return True
        if b'"usage"' in event:
            payload = event[event.index(b"data:") + 5 :].strip()
            try:
                value = orjson.loads(payload)
            except orjson.JSONDecodeError:
                return True
            usage = _usage_in(value)
            if isinstance(usage, dict):
                self._usage = usage
                if isinstance(value, dict) and value.get("choices") == []:
                    return not self._strip
        self._content_events += 1
        return True


def _object_at(text: bytes, start: int) -> dict[str, Any] | None:
    """The JSON object that begins behind the colon at `start`, when it is whole. Usage holds no strings with braces."""
    opening = text.find(b"{", start)
    if opening < 0 or text[start:opening].strip() != b":":
        return None
    depth = 0
    for brace in _BRACE.finditer(text, opening):
        depth += 1 if brace[0] == b"{" else -1
        if depth == 0:
            try:
                value = orjson.loads(text[opening : brace.end()])
            except orjson.JSONDecodeError:
                return None
            return value if isinstance(value, dict) else None
    return None


def _usage_in(event: Any) -> Any:
    """The usage of an event: at the top for chats and completions, below `response` for responses."""
    if not isinstance(event, dict):
        return None
    response = event.get("response")
    return event.get("usage") or (response.get("usage") if isinstance(response, dict) else None)


def _told(usage: dict[str, Any]) -> Tokens:
    """Chats count prompt and completion, responses input and output."""
    return Tokens(
        _count(usage, "prompt_tokens") or _count(usage, "input_tokens"),
        _count(usage, "completion_tokens") or _count(usage, "output_tokens"),
    )


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
