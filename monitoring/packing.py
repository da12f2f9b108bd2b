"""Columns of numbers as few bytes: each byte plane on its own, then zstd. Pure.

The high bytes of counts and times are nearly always equal, so planes shrink to almost nothing where rows would not.
"""

from collections.abc import Sequence

import numpy as np
import zstandard

# One blob holds the rows of one object and some hours: far below this. A broken one must not take all memory.
_MAX_BYTES = 256 << 20


def pack(columns: Sequence[np.ndarray]) -> bytes:
    """The bytes of one-dimensional `columns`, in their order; `unpack` needs the same types and lengths."""
    planes = [_planes(np.ascontiguousarray(column)) for column in columns]
    return zstandard.compress(b"".join(planes), 3)


def unpack(data: bytes, head: np.dtype) -> tuple[np.ndarray, "Reader"]:
    """The first entry, of type `head`, and a reader for what comes behind it."""
    raw = zstandard.decompress(bytes(data), max_output_size=_MAX_BYTES)
    reader = Reader(raw)
    return reader.take(head, 1)[0], reader


class Reader:
    """Takes columns out again, one after the other."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._position = raw, 0

    def take(self, dtype: np.dtype | str, length: int) -> np.ndarray:
        kind = np.dtype(dtype)
        size = kind.itemsize * length
        part = np.frombuffer(self._raw, np.uint8, size, self._position)
        self._position += size
        if kind.itemsize == 1:
            return part.view(kind)
        return np.ascontiguousarray(part.reshape(kind.itemsize, length).T).view(kind).reshape(length)


def _planes(column: np.ndarray) -> bytes:
    if column.dtype.itemsize == 1 or not len(column):
        return column.tobytes()
    return column.view(np.uint8).reshape(len(column), column.dtype.itemsize).T.tobytes()
