"""The tokens of an answer that is one JSON document, wherever they stand at its top."""

from typing import Any

from gateway.bodies import json_fields
from gateway.bodies.top_level import TopLevel
from gateway.books.tokens import BYTES_PER_TOKEN, NAMES, Tokens, plainly_told, told

# Up to this size an answer is kept and read at its end; larger ones are read as they pass.
KEPT_BYTES = 64 << 10


class AnswerUsage:
    """`is_text` of answers whose length tells their tokens; `estimates` where those that tell none are to be counted."""

    __slots__ = ("_bytes", "_estimates", "_is_text", "_kept", "_passing")

    def __init__(self, *, is_text: bool, estimates: bool = True) -> None:
        self._is_text, self._estimates = is_text, estimates
        self._kept: bytes | bytearray = b""
        self._passing: TopLevel | None = None
        self._bytes = 0

    def counted(self, raw: bytes, start: int) -> bool:
        """As StreamUsage.counted: a JSON answer in chunks has no events."""
        return False

    is_between_events = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the answer; they pass on as they are."""
        self._bytes += len(data)
        if self._passing is not None:
            self._passing.feed(data)
        elif not self._kept:
            # Most come whole: no copy is made of them.
            self._kept = data
        else:
            if isinstance(self._kept, bytes):
                self._kept = bytearray(self._kept)
            self._kept += data
            if len(self._kept) > KEPT_BYTES:
                self._passing = TopLevel(NAMES)
                self._passing.feed(bytes(self._kept))
                self._kept = b""
        return data

    def finish(self) -> bytes:
        return b""

    def tokens(self, prompt_bytes: int) -> Tokens:
        """What was told; else, where that is wanted, an estimate from the length of prompt and answer."""
        found = self._told()
        if found is not None:
            return found
        if not self._bytes or not self._estimates:
            return Tokens()
        output = self._bytes // BYTES_PER_TOKEN if self._is_text else 0
        return Tokens(max(1, prompt_bytes // BYTES_PER_TOKEN), output, estimated=True)

    def _told(self) -> Tokens | None:
        if self._passing is not None:
            self._passing.finish()
            return told(self._passing.found)
        return of_document(bytes(self._kept))


def of_document(document: bytes) -> Tokens | None:
    """What a whole answer tells: an object, or a list of them, as for prompts that were sent together."""
    plain = json_fields.plain_usage(document)
    if plain is not None and (tokens := plainly_told(plain)) is not None:
        return tokens
    if document.lstrip()[:1] == b"[":
        parts = [told(item) for item in json_fields.of_answers(document)]
        known = [part for part in parts if part is not None]
        return sum(known[1:], known[0]) if known and len(known) == len(parts) else None
    found: dict[str, Any] = json_fields.of_answer(document)
    return told(found) if found else None
