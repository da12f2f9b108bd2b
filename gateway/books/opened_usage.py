"""The tokens of an answer that comes compressed though nobody asked for it: a copy is opened and read."""

from gateway.bodies.codings import CodingError, Opener
from gateway.books.answer_usage import AnswerUsage
from gateway.books.stream_usage import StreamUsage
from gateway.books.tokens import Tokens

# What one read may grow to before the copy is given up, in bytes.
_MOST_AT_ONCE = 2 << 20


class OpenedUsage:
    """As `reader`, for the bytes that `coding` hides. With `replaces` those go on to the client instead of what came."""

    def __init__(self, reader: AnswerUsage | StreamUsage, coding: bytes, *, replaces: bool) -> None:
        self._reader, self._replaces = reader, replaces
        self._opener: Opener | None = Opener(coding)

    def counted(self, raw: bytes, start: int) -> bool:
        """What a chunk holds can't be seen from outside."""
        return False

    @property
    def is_between_events(self) -> bool:
        return self._replaces and self._reader.is_between_events

    def feed(self, data: bytes) -> bytes:
        """Raises CodingError where what replaces the bytes that came can't be made of them."""
        if self._opener is None:
            return data
        passed, size = [], 0
        try:
            for part in self._opener.feed(data):
                size += len(part)
                if size > _MOST_AT_ONCE:
                    raise CodingError("it grows beyond all measure")
                passed.append(self._reader.feed(part))
        except CodingError:
            if self._replaces:
                raise
            self._opener = None
        return b"".join(passed) if self._replaces else data

    def finish(self) -> bytes:
        rest = self._reader.finish()
        return rest if self._replaces else b""

    def tokens(self, prompt_bytes: int) -> Tokens:
        return self._reader.tokens(prompt_bytes)
