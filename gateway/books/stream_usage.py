"""The tokens of an answer that comes as a stream of events, and the event that only the gateway has asked for."""

import re
from typing import Any

from gateway.bodies import json_fields
from gateway.bodies.top_level import TopLevel
from gateway.books.tokens import BYTES_PER_TOKEN, KEYS, NAMES, Tokens, told

# An event that is longer passes on as it comes, and is read as it passes.
MOST_EVENT_BYTES = 1 << 20
# An event counts as one token where nothing is told; what goes beyond this holds more.
USUAL_EVENT_BYTES = 1024
# Two ends of lines or more, each of which may be CR LF, LF or CR. Atomic: half of a CR LF is none.
_BLANK_LINE = re.compile(rb"(?>\r\n?|\n){2,}+")
_LINE_ENDS = re.compile(rb"(?>\r\n?|\n)++")
_LINE_ENDERS = b"\r\n"
_LINE_END = re.compile(rb"\r\n?|\n")
# Of an event that stands in one line, or in two with its name.
_BEGINNINGS = (b"data: {", b"event: ")
_MAY_TELL = re.compile(rb'"(?:%b)"' % b"|".join(name.encode() for name in NAMES))


class StreamUsage:
    """Follows events; with `strip` the usage event that only the gateway asked for is taken out. `hint`: without it an event
    tells nothing; None where it may be told under any of NAMES. `by_line`: each line is a JSON document, as Ollama streams.
    """

    def __init__(
        self, *, strip: bool, estimates: bool = True, hint: bytes | None = None, by_line: bool = False
    ) -> None:
        self._strip, self._estimates, self._hint = strip, estimates, hint
        self._null = (hint or b"") + b":null"
        self._event_end = _LINE_ENDS if by_line else _BLANK_LINE
        self._by_line = by_line
        # Of an event that isn't whole yet; and once it is too long to be kept, its last bytes and what reads it.
        self._held = bytearray()
        self._tail = b""
        self._long: TopLevel | None = None
        self._found: dict[str, Any] = {}
        self._content_events = self._unread_bytes = 0

    def counted(self, raw: bytes, start: int) -> bool:
        """Count the chunk `raw`, data from `start` to before its CRLF, if it is one whole event that tells no usage.

        As nearly all are: nothing is copied for them. Engines that were asked for usage write a null into each event
        before the last.
        """
        hint = self._hint
        if (
            raw.find(b"\n\n", start) == len(raw) - 4
            and raw.startswith(_BEGINNINGS, start)
            and not self._held
            and self._long is None
            and (
                ((at := raw.find(hint, start)) < 0 or (raw.startswith(self._null, at) and raw.find(hint, at + 1) < 0))
                if hint is not None
                else _MAY_TELL.search(raw, start) is None
            )
        ):
            self._content_events += 1
            if len(raw) > USUAL_EVENT_BYTES:
                self._unread_bytes += len(raw) - USUAL_EVENT_BYTES
            return True
        return False

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the stream; the bytes to pass on now: whole events, so that one that breaks can be told apart from all
        before it."""
        unread = b""
        if self._long is not None:
            end = self._end_of_long(data)
            unread, data = data[:end], data[end:]
        passed = self._read(data) if data else b""
        return unread + passed if unread else passed

    @property
    def is_between_events(self) -> bool:
        """Whether all that has been passed on are whole events."""
        return self._long is None

    def finish(self) -> bytes:
        """What is left of a stream that ended without an empty line."""
        if self._long is not None:
            self._close_long()
        rest = bytes(self._held)
        self._held.clear()
        if rest:
            keep = self._keep(rest)
            return rest if keep else b""
        return b""

    def tokens(self, prompt_bytes: int) -> Tokens:
        """What was told last; else, where that is wanted, an estimate from the events and the length of the prompt."""
        found = told(self._found)
        if found is not None:
            return found
        if not self._estimates or not (self._content_events or self._unread_bytes):
            return Tokens()
        output = self._content_events + self._unread_bytes // BYTES_PER_TOKEN
        return Tokens(max(1, prompt_bytes // BYTES_PER_TOKEN), output, estimated=True)

    def _read(self, data: bytes) -> bytes:
        held = self._held
        searched = 0
        if held:
            # Only what is new is searched: an event may come byte by byte.
            searched = max(0, len(held) - 3)
            held += data
        source = held or data
        passed = []
        start = 0
        while (found := self._event_end.search(source, searched)) is not None:
            searched = found.end()
            event = bytes(source[start:searched])
            if event[0] in _LINE_ENDERS and not event.strip(b"\r\n"):
                # The rest of the line's end before.
                passed.append(event)
            elif self._keep(event):
                passed.append(event)
            start = searched
        if held:
            del held[:start]
        else:
            held += data[start:]
        if len(held) > MOST_EVENT_BYTES:
            passed.append(self._give_up())
        return b"".join(passed)

    def _give_up(self) -> bytes:
        """Hand on what is held of an event that is too long to be kept, and read the rest as it passes."""
        rest = bytes(self._held)
        self._held.clear()
        self._tail = rest[-3:]
        self._long = TopLevel(NAMES)
        self._long.feed(rest[rest.find(b"{") :])
        self._unread_bytes += len(rest)
        return rest

    def _end_of_long(self, data: bytes) -> int:
        """Where in `data` the event ends that is too long to be kept; all of it when it doesn't."""
        assert self._long is not None  # noqa: S101
        known = len(self._tail)
        found = self._event_end.search(self._tail + data)
        end = len(data) if found is None else max(0, found.end() - known)
        self._long.feed(data[:end])
        self._unread_bytes += end
        if found is None:
            self._tail = (self._tail + data[-3:])[-3:]
        else:
            self._close_long()
        return end

    def _close_long(self) -> None:
        assert self._long is not None  # noqa: S101
        self._long.finish()
        self._note(self._long.found)
        self._long, self._tail = None, b""

    def _keep(self, event: bytes) -> bool:
        """Count an event and note what it tells; False for the one that the client did not ask for."""
        payload = event.strip() if self._by_line else _payload(event)
        if not payload or payload == b"[DONE]":
            return True
        if _MAY_TELL.search(payload) is not None:
            fields = json_fields.of_event(payload)
            if fields is None:
                return True
            if self._note(_told_in(fields)) and bytes(fields.choices).translate(None, b" \t\r\n") == b"[]":
                return not self._strip
        self._content_events += 1
        self._unread_bytes += max(0, len(event) - USUAL_EVENT_BYTES)
        return True

    def _note(self, found: dict[str, Any]) -> bool:
        """Whether something was told. Some tell the prompt's first and the answer's last."""
        for name, value in found.items():
            before = self._found.get(name)
            if isinstance(value, dict):
                kept = {key: item for key, item in value.items() if key in KEYS and item is not None}
                self._found[name] = before | kept if isinstance(before, dict) else kept
            elif value is not None:
                self._found[name] = value
        return any(value is not None for value in found.values())


def _payload(event: bytes) -> bytes:
    """The data of an event; empty for comments and for events without any."""
    if event.startswith(b"data: {") and len(_LINE_END.findall(event)) == 2:
        return event[6:].strip()
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines).strip()


def _told_in(fields: json_fields.EventFields) -> dict[str, Any]:
    """What an event tells at its top, as chats do; below `response` as responses, below `message` as messages do."""
    found = json_fields.values_of(fields, NAMES)
    for outer in (fields.response, fields.message):
        if not found and json_fields.is_given(outer):
            inner = json_fields.of_event(bytes(outer))
            found = json_fields.values_of(inner, NAMES) if inner is not None else {}
    return found
