"""Bodies that come compressed, opened piece by piece and within bounds, so that no bomb takes more than is allowed."""

import zlib
from collections.abc import Iterator
from typing import Any

import zstandard

# What may be opened, as Accept-Encoding says it.
KNOWN = b"gzip, deflate, zstd"
_ZLIB = frozenset({b"gzip", b"x-gzip", b"deflate"})
_PIECE = 1 << 20
# What lies behind the end of a member is copied: so much of it at most.
_ZLIB_SLICE = 16 << 10
_MOST_MEMBERS = 1000
# Each four bytes of zstd may be a block of 128 KiB.
_ZSTD_SLICE = 64
_ZSTD_WINDOW = 8 << 20


class CodingError(ValueError):
    """It isn't what it says to be."""


def is_known(coding: bytes) -> bool:
    return coding in _ZLIB or coding == b"zstd"


class Opener:
    """Opens one body; `coding` as in Content-Encoding, in lower case, and known."""

    def __init__(self, coding: bytes) -> None:
        self._zstd = _zstd() if coding == b"zstd" else None
        self._zlib = _zlib()
        self._is_whole = False
        self._members = 1

    @property
    def is_whole(self) -> bool:
        """Whether the end has come."""
        return self._is_whole

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes of the next bytes, in pieces of a few MiB at most. Raises CodingError."""
        width = _ZLIB_SLICE if self._zstd is None else _ZSTD_SLICE
        try:
            for start in range(0, len(data), width):
                part = data[start : start + width]
                yield from self._open_zlib(part) if self._zstd is None else self._open_zstd(part)
        except (zlib.error, zstandard.ZstdError) as error:
            raise CodingError(str(error)) from None

    def _open_zlib(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._zlib.eof:
                self._next_member()
                self._zlib = _zlib()
            if opened := self._zlib.decompress(data, _PIECE):
                yield opened
            data = self._zlib.unconsumed_tail or self._zlib.unused_data
        self._is_whole = self._zlib.eof

    def _open_zstd(self, data: bytes) -> Iterator[bytes]:
        assert self._zstd is not None  # noqa: S101
        while data:
            if self._zstd.eof:
                self._next_member()
                self._zstd = _zstd()
            if opened := self._zstd.decompress(data):
                yield opened
            data = self._zstd.unused_data
        self._is_whole = self._zstd.eof

    def _next_member(self) -> None:
        """Several may stand behind each other; each costs more than the few bytes that an empty one has."""
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise CodingError(f"it consists of more than {_MOST_MEMBERS} parts")


def _zlib() -> Any:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)


def _zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


def opened(body: bytes, coding: bytes, most: int) -> bytes | None:
    """A whole body; None where it would be more than `most` bytes. Raises CodingError."""
    opener, parts, size = Opener(coding), [], 0
    for part in opener.feed(body):
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    if not opener.is_whole:
        raise CodingError("its end is missing")
    return b"".join(parts)
