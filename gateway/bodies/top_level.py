"""Values at the top of a JSON object that is too large to be kept: found as it passes, in bounded memory and linear time."""

import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

# What is collected of one value at most, in bytes.
LONGEST_VALUE = 4096
# Work is done in pieces of this size, so that an answer that comes byte by byte costs no more than one that doesn't.
_AT_ONCE = 8192
# Of each piece so much is looked at again with the next: longer than any key with its colon.
_KEPT_BACK = 64
_MOST_HITS = 200
_QUOTE, _BACKSLASH = 34, 92
# Brackets of both kinds, told apart from everything else by the bit that they don't share.
_CASE, _OPENS, _CLOSES = 0x20, 0x7B, 0x7D
_decoder = json.JSONDecoder(strict=False)


class TopLevel:
    """`found` holds, by name, those of `names` that have come whole; the last one counts where there are several."""

    def __init__(self, names: Iterable[str]) -> None:
        self.found: dict[str, Any] = {}
        self._key = re.compile(rb'"(%b)"\s{0,8}:' % b"|".join(name.encode() for name in names))
        self._pending = bytearray()
        # At the beginning of what is pending: how deep, within a string or not, behind an odd number of backslashes or not.
        self._depth = 0
        self._in_string = self._is_escaped = False
        self._collecting: tuple[str, bytearray] | None = None
        self._hits = 0

    def feed(self, data: bytes) -> None:
        if self._collecting is not None:
            self._collect(data)
        for start in range(0, len(data), _AT_ONCE):
            self._pending += data[start : start + _AT_ONCE]
            if len(self._pending) >= _AT_ONCE:
                self._look(len(self._pending) - _KEPT_BACK)

    def finish(self) -> None:
        self._look(len(self._pending))
        if self._collecting is not None:
            name, value = self._collecting
            self._take(name, bytes(value) + b" ")

    def _look(self, end: int) -> None:
        """At all before `end`: for keys, and for the state behind it."""
        data = bytes(self._pending)
        codes = np.frombuffer(data, np.uint8, end)
        quotes = self._real_quotes(codes)
        brackets = np.flatnonzero(np.isin(codes | _CASE, (_OPENS, _CLOSES)) & (codes >= 0x5B))
        inside = (np.searchsorted(quotes, brackets) + self._in_string) & 1
        brackets = brackets[inside == 0]
        depths = self._depth + np.cumsum(np.where(codes[brackets] | _CASE == _OPENS, 1, -1))
        for key in self._key.finditer(data) if self._hits < _MOST_HITS else ():
            start = key.start()
            if start >= end:
                break
            self._hits += 1
            if self._hits == _MOST_HITS:
                # Nobody names that many; each costs more than the bytes around it.
                break
            at = int(np.searchsorted(quotes, start))
            is_string = at < len(quotes) and quotes[at] == start and not (at + self._in_string) & 1
            level = int(np.searchsorted(brackets, start))
            if is_string and (depths[level - 1] if level else self._depth) == 1:
                self._begin(key[1].decode(), data[key.end() : key.end() + LONGEST_VALUE])
        if len(depths):
            self._depth = int(depths[-1])
        self._in_string = bool((len(quotes) + self._in_string) & 1)
        self._is_escaped = self._ends_escaped(data, end)
        del self._pending[:end]

    def _real_quotes(self, codes: np.ndarray) -> np.ndarray:
        """Where strings begin and end: quotes that no backslash makes a part of one."""
        quotes = np.flatnonzero(codes == _QUOTE)
        if not len(quotes) or not (self._is_escaped or (codes == _BACKSLASH).any()):
            return quotes
        others = np.flatnonzero(codes != _BACKSLASH)
        before = np.searchsorted(others, quotes) - 1
        # Backslashes between a quote and what is before them; what is pending may begin in the middle of them.
        run = np.where(before >= 0, quotes - 1 - others[before], quotes + self._is_escaped)
        return quotes[run & 1 == 0]

    def _ends_escaped(self, data: bytes, end: int) -> bool:
        run = end - len(data[:end].rstrip(b"\\"))
        return bool((run + (self._is_escaped if run == end else 0)) & 1)

    def _begin(self, name: str, value: bytes) -> None:
        if not self._take(name, value):
            self._collecting = name, bytearray(value)

    def _collect(self, data: bytes) -> None:
        assert self._collecting is not None  # noqa: S101
        name, value = self._collecting
        value += data[: LONGEST_VALUE - len(value)]
        if self._take(name, bytes(value)) or len(value) >= LONGEST_VALUE:
            self._collecting = None

    def _take(self, name: str, text: bytes) -> bool:
        """Whether the value at the beginning of `text` is whole."""
        try:
            value, end = _decoder.raw_decode(text.lstrip().decode("latin-1"))
        except (ValueError, RecursionError):
            return False
        if end == len(text.lstrip()) and not isinstance(value, dict | list | str):
            # More digits may come.
            return False
        self.found[name] = value
        return True
