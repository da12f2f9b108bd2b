"""Token counts from what passes through: the body's usage object, or the stream's last one.

A stream tells its usage only when asked, so the gateway asks (by splicing `stream_options` into the body's bytes)
and takes the extra event out again before the client sees it.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.bodies import json_fields
from gateway.bodies.json_fields import RequestFields

TAIL_BYTES = 4096
# An event that is longer passes on as it comes, and its tokens are estimated from its length.
MOST_EVENT_BYTES = 1 << 20
ASK = b'"stream_options":{"include_usage":true}'
# An event counts as one token where usage never comes; what goes beyond this holds more.
USUAL_EVENT_BYTES = 1024
# A rough figure where usage never came: four bytes a token.
BYTES_PER_TOKEN = 4
_BRACE = re.compile(rb"[{}]")
_EVENT_END = re.compile(rb"\n\r?\n")


@dataclass
class Tokens:
    """`estimated` is set when the figures were counted here instead of told by the engine."""

    input: int = 0
    output: int = 0
    estimated: bool = False


def ask_for_usage(body: bytes, fields: RequestFields) -> bytes | None:
    """The body that asks for usage; None when the client asked itself or doesn't stream, or can't be asked for."""
    if bytes(fields.stream) in (b"", b"false", b"null"):
        # Anything else some engine may take for a wish to stream.
        return None
    if not json_fields.is_given(fields.stream_options):
        start = body.index(b"{") + 1
        return body[:start] + ASK + b"," + body[start:]
    given = json_fields.value_of(fields.stream_options)
    options = given if isinstance(given, dict) else {}
    if options.get("include_usage") is True:
        return None
    if memoryview(fields.stream_options).nbytes > json_fields.LONGEST_VALUE:
        return None
    try:
        asking = orjson.dumps({**options, "include_usage": True})
    except TypeError:
        # Nested deeper than is written, though not than is read: its tokens are estimated.
        return None
    return json_fields.replaced(body, fields.stream_options, asking)


class BodyUsage:
    """Reads the usage of a plain JSON answer from its last bytes; `is_text` of one whose length tells its tokens."""

    def __init__(self, *, is_text: bool, estimates: bool = True) -> None:
        self._is_text, self._estimates = is_text, estimates
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
        if not self._bytes or not self._estimates:
            return Tokens()
        output = self._bytes // BYTES_PER_TOKEN if self._is_text else 0
        return Tokens(max(1, prompt_bytes // BYTES_PER_TOKEN), output, estimated=True)


class StreamUsage:
    """Follows server-sent events; with `strip` the usage event that only the gateway asked for is taken out."""

    def __init__(self, *, strip: bool, estimates: bool = True) -> None:
        self._strip, self._estimates = strip, estimates
        # Of an event that isn't whole yet; and its last bytes, once it is too long to be kept.
        self._held = bytearray()
        self._tail = b""
        self._is_too_long = False
        self._usage: dict[str, Any] | None = None
        self._content_events = self._unread_bytes = 0

    def counted(self, raw: bytes, start: int) -> bool:
        """Count the chunk `raw`, data from `start` to before its CRLF, if it is one whole event that tells no usage.

        As nearly all are: nothing is copied for them. Engines that were asked for usage write a null into each event
        before the last.
        """
        if (
            raw.find(b"\n\n", start) == len(raw) - 4
            and raw.startswith(b"data: {", start)
            and not self._held
            and not self._is_too_long
            and (raw.find(b'"usage"', start) < 0 or b'"usage":null' in raw)
        ):
            self._content_events += 1
            if len(raw) > USUAL_EVENT_BYTES:
                self._unread_bytes += len(raw) - USUAL_EVENT_BYTES
            return True
        return False

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the stream; the bytes to pass on now (whole events when something may have to be stripped)."""
        unread = b""
        if self._is_too_long:
            end = self._end_of_long(data)
            unread, data = data[:end], data[end:]
            self._unread_bytes += len(unread)
        passed = self._read(data) if data else b""
        return unread + passed if unread else passed

    def _read(self, data: bytes) -> bytes:
        held = self._held
        searched = 0
        if held:
            # Only what is new is searched: an event may come byte by byte.
            searched = max(0, len(held) - 2)
            held += data
        source = held or data
        passed = []
        start = 0
        while (found := _EVENT_END.search(source, searched)) is not None:
            searched = found.end()
            event = bytes(source[start:searched])
            if self._keep(event):
                passed.append(event)
            start = searched
        if held:
            del held[:start]
        else:
            held += data[start:]
        if len(held) > MOST_EVENT_BYTES:
            passed.append(self._give_up())
        return b"".join(passed) if self._strip else data

    def _give_up(self) -> bytes:
        """Hand on what is held of an event that is too long to be read."""
        rest = bytes(self._held)
        self._held.clear()
        self._is_too_long, self._tail = True, rest[-2:]
        self._unread_bytes += len(rest)
        return rest

    def _end_of_long(self, data: bytes) -> int:
        """Where in `data` the event ends that is too long to be read; all of it when it doesn't."""
        known = len(self._tail)
        found = _EVENT_END.search(self._tail + data)
        if found is None:
            self._tail = (self._tail + data[-2:])[-2:]
            return len(data)
        self._is_too_long, self._tail = False, b""
        return found.end() - known

    def finish(self) -> bytes:
        """What is left of a stream that ended without an empty line."""
        rest = bytes(self._held)
        self._held.clear()
        if rest:
            keep = self._keep(rest)
            return rest if self._strip and keep else b""
        return b""

    def tokens(self, prompt_bytes: int) -> Tokens:
        if self._usage is not None:
            return _told(self._usage)
        if not self._estimates or not (self._content_events or self._unread_bytes):
            return Tokens()
        output = self._content_events + self._unread_bytes // BYTES_PER_TOKEN
        return Tokens(max(1, prompt_bytes // BYTES_PER_TOKEN), output, estimated=True)

    def _keep(self, event: bytes) -> bool:
        if b"data:" not in event or b"[DONE]" in event:
            return True
        if b'"usage"' in event:
            fields = json_fields.of_event(event[event.index(b"data:") + 5 :].strip())
            if fields is None:
                return True
            usage = _usage_in(fields)
            if usage is not None:
                # Some tell the prompt's first and the answer's last.
                self._usage = usage if self._usage is None else self._usage | usage
                if bytes(fields.choices).translate(None, b" \t\r\n") == b"[]":
                    return not self._strip
        self._content_events += 1
        self._unread_bytes += max(0, len(event) - USUAL_EVENT_BYTES)
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


def _usage_in(fields: json_fields.EventFields) -> dict[str, Any] | None:
    """The usage of an event: at the top for chats and completions, below `response` or `message` for others."""
    usage = json_fields.value_of(fields.usage)
    for outer in (fields.response, fields.message):
        if not usage and json_fields.is_given(outer):
            inner = json_fields.of_event(bytes(outer))
            usage = json_fields.value_of(inner.usage) if inner is not None else None
    return usage if isinstance(usage, dict) else None


def _told(usage: dict[str, Any]) -> Tokens:
    """Chats count prompt and completion, responses input and output."""
    return Tokens(
        _count(usage, "prompt_tokens") or _count(usage, "input_tokens"),
        _count(usage, "completion_tokens") or _count(usage, "output_tokens"),
    )


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
