"""Mergeable sketches of durations: percentiles within 1 % by merging, never by averaging. Pure.

Durations fall into buckets whose bounds grow by GAMMA, so the middle of a bucket is within 1 % of everything in it.
"""

import math
from collections.abc import Iterable

import numpy as np

RELATIVE_ERROR = 0.0099
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(GAMMA)
# Shorter durations count as this one: below a microsecond nothing is measured anyway.
SMALLEST_S = 1e-6
_ITEM = np.dtype([("index", "<i2"), ("count", "<u4")])


def of_values(values: np.ndarray) -> bytes:
    """The sketch of an array of durations in seconds."""
    if not len(values):
        return b""
    indexes = np.ceil(np.log(np.maximum(values, SMALLEST_S)) / _LOG_GAMMA).astype(np.int16)
    # Counted, not sorted: even seconds and microseconds together span a few hundred buckets only.
    lowest = int(indexes.min())
    counts = np.bincount(indexes - lowest)
    found = np.flatnonzero(counts)
    return _pack(found + lowest, counts[found])


def merge(sketches: Iterable[bytes]) -> bytes:
    """The sketch of all values of all `sketches`."""
    parts = [np.frombuffer(bytes(sketch), _ITEM) for sketch in sketches if sketch]
    if not parts:
        return b""
    joined = np.concatenate(parts)
    unique, positions = np.unique(joined["index"], return_inverse=True)
    return _pack(unique, np.bincount(positions, weights=joined["count"]))


def value_of(indexes: np.ndarray) -> np.ndarray:
    """The durations, in seconds, that buckets of a sketch stand for."""
    return 2 * GAMMA ** np.asarray(indexes, np.float64) / (GAMMA + 1)


def _pack(indexes: np.ndarray, counts: np.ndarray) -> bytes:
    items = np.empty(len(indexes), _ITEM)
    items["index"] = indexes
    items["count"] = counts
    return items.tobytes()
