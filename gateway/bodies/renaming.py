"""The name of a model in an answer: the one that was asked for, whatever the instance calls itself."""

import re

import orjson


class Renaming:
    """Puts `asked` in the place of `served` where an answer names its model. Fed in pieces that may end anywhere, but for those of
    streams, which are whole events.
    """

    def __init__(self, served: str, asked: str, *, is_stream: bool) -> None:
        name = re.escape(orjson.dumps(served))
        self._pattern = re.compile(rb'("model"[ ]?:[ ]?)' + name)
        self._place = orjson.dumps(asked).replace(b"\\", b"\\\\")
        self._is_stream = is_stream
        # Of a document: what may be the beginning of the name; None when it has been replaced.
        self._kept: bytes | None = b""
        self._longest = len(orjson.dumps(served)) + len(b'"model" : ')

    def feed(self, data: bytes) -> bytes:
        if self._is_stream:
            return self._pattern.sub(rb"\1" + self._place, data)
        if self._kept is None:
            return data
        data = self._kept + data
        renamed, count = self._pattern.subn(rb"\1" + self._place, data, count=1)
        if count:
            self._kept = None
            return renamed
        # A name that is cut lies in the last bytes.
        cut = max(0, len(data) - self._longest + 1)
        self._kept = data[cut:]
        return data[:cut]

    def finish(self) -> bytes:
        rest, self._kept = self._kept or b"", None
        return rest
