"""Bytes that tell how many of them are looked at or copied: what reads hostile input must be linear in these."""

import re
from typing import Any


class Looks:
    """How many bytes were looked at or copied so far."""

    def __init__(self) -> None:
        self.bytes = 0

    def add(self, number: int) -> None:
        self.bytes += max(number, 0)


class _Watching:
    """Mixed into bytes and bytearray."""

    looks: Looks

    def find(self, part: bytes, start: int = 0, end: int | None = None) -> int:
        stop = len(self) if end is None else min(end, len(self))
        found = super().find(part, start, stop)
        self.looks.add((found + len(part) if found >= 0 else stop) - start)
        return found

    def count(self, part: bytes, start: int = 0) -> int:
        self.looks.add(len(self) - start)
        return super().count(part, start)

    def __contains__(self, part: Any) -> bool:
        self.looks.add(len(self))
        return super().__contains__(part)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, slice):
            self.looks.add(len(found))
            return type(self)(found)
        return found


def watched(looks: Looks) -> tuple[type[bytes], type[bytearray]]:
    """bytes and bytearray whose searches and copies are counted in `looks`."""

    class WatchedBytes(_Watching, bytes):
        def __add__(self, other: bytes) -> bytes:
            looks.add(len(self) + len(other))
            return WatchedBytes(bytes(self) + bytes(other))

    class WatchedArray(_Watching, bytearray):
        def __iadd__(self, other: bytes) -> "WatchedArray":
            looks.add(len(other))
            bytearray.__iadd__(self, other)
            return self

    WatchedBytes.looks = WatchedArray.looks = looks
    return WatchedBytes, WatchedArray


class WatchedPattern:
    """A regular expression that passes over text once."""

    def __init__(self, pattern: re.Pattern[bytes], looks: Looks) -> None:
        self._pattern, self._looks = pattern, looks

    def search(self, text: bytes, start: int = 0) -> re.Match[bytes] | None:
        found = self._pattern.search(text, start)
        self._looks.add((found.end() if found else len(text)) - start)
        return found
