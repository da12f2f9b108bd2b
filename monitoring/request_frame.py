"""Requests over time as columns: counts, sums, maxima and sketches that add up however they are cut. Pure.

A row is one instance in one bucket; instance 0 is all of a version's together, with the requests that reached none.
Everything in a row can be added, so rows of several gateways, instances and buckets become one without losing anything:
counts stay exact, averages weighted, and percentiles come from merged sketches, never from other percentiles.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from common import sketch
from common.request_outcomes import LATENCIES, OUTCOMES
from monitoring.packing import pack, unpack

CLASSES = ("status_2xx", "status_3xx", "status_4xx", "status_5xx")
COUNTS = (*CLASSES, *OUTCOMES, "input_tokens", "output_tokens")
ALL_INSTANCES = 0
_HEAD = np.dtype([("rows", "<u4"), ("cells", "<u4")])
_CELL = np.dtype([("index", "<i2"), ("count", "<u4")])


@dataclass(frozen=True)
class RequestFrame:
    """n rows sorted by instance and time, and the m cells of their sketches.

    `instance` (n,) numbers; `at` (n,) the bucket's start in seconds since the epoch; `counts` (n, len(COUNTS));
    `sums` and `maxima` (n, len(LATENCIES)) in seconds. A cell says that `cell_count` durations of row and latency
    `cell_place` = row * len(LATENCIES) + latency fall into bucket `cell_index` of the sketch; cells are sorted.
    """

    instance: np.ndarray
    at: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    maxima: np.ndarray
    cell_place: np.ndarray
    cell_index: np.ndarray
    cell_count: np.ndarray

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def empty(cls) -> "RequestFrame":
        return cls.from_rows([], {})

    @classmethod
    def from_rows(cls, rows: Sequence[dict[str, Any]], numbers: dict[str, int]) -> "RequestFrame":
        """From a gateway's rows; `numbers` gives each instance's number by its uid, "" being all instances."""
        frame = cls._unsorted(rows, numbers)
        # Two batches may hold the same bucket; added up they are one row.
        return frame.regroup(frame.at)

    @classmethod
    def _unsorted(cls, rows: Sequence[dict[str, Any]], numbers: dict[str, int]) -> "RequestFrame":
        places, indexes, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, row in enumerate(rows):
            for kind, name in enumerate(LATENCIES):
                cells = np.frombuffer(bytes.fromhex(row[f"{name}_sketch"]), _CELL)
                places.append(np.full(len(cells), number * len(LATENCIES) + kind))
                indexes.append(cells["index"].astype(np.int64))
                counts.append(cells["count"].astype(np.int64))
        return cls(
            np.array([numbers[row["instance_uid"]] for row in rows], np.int64),
            np.array([row["bucket"] for row in rows], np.int64),
            np.array([[row[name] for name in COUNTS] for row in rows], np.int64).reshape(-1, len(COUNTS)),
            np.array([[row[f"{name}_sum"] for name in LATENCIES] for row in rows], np.float64).reshape(-1, 4),
            np.array([[row[f"{name}_max"] for name in LATENCIES] for row in rows], np.float64).reshape(-1, 4),
            np.concatenate(places),
            np.concatenate(indexes),
            np.concatenate(counts),
        )

    @classmethod
    def concatenate(cls, frames: Iterable["RequestFrame"]) -> "RequestFrame":
        """All rows behind each other, neither sorted nor added up: `regroup` does that."""
        found = [frame for frame in frames if len(frame)]
        if not found:
            return cls.empty()
        if len(found) == 1:
            return found[0]
        starts = np.cumsum([0, *(len(frame) for frame in found)])
        return cls(
            *(np.concatenate([getattr(frame, name) for frame in found]) for name in ("instance", "at", "counts", "sums", "maxima")),
            np.concatenate([frame.cell_place + start * len(LATENCIES) for frame, start in zip(found, starts, strict=False)]),
            np.concatenate([frame.cell_index for frame in found]),
            np.concatenate([frame.cell_count for frame in found]),
        )  # fmt: skip

    def pick(self, mask: np.ndarray) -> "RequestFrame":
        """The rows at which `mask` is true."""
        if mask.all():
            return self
        row = self.cell_place // len(LATENCIES)
        kept = mask[row]
        new_row = np.cumsum(mask) - 1
        place = new_row[row[kept]] * len(LATENCIES) + self.cell_place[kept] % len(LATENCIES)
        columns = (self.instance[mask], self.at[mask], self.counts[mask], self.sums[mask], self.maxima[mask])
        return RequestFrame(*columns, place, self.cell_index[kept], self.cell_count[kept])

    def regroup(self, at: np.ndarray, instance: np.ndarray | None = None) -> "RequestFrame":
        """Row i counts as one of time `at[i]` (and of `instance[i]`); rows that agree in both become one."""
        if not len(self):
            return self
        owner = self.instance if instance is None else instance
        rises = (owner[1:] > owner[:-1]) | ((owner[1:] == owner[:-1]) & (at[1:] > at[:-1]))
        if rises.all():
            # In order and nothing to add up: the cells, which are by far the most, stay as they are.
            return replace(self, at=at, instance=owner)
        settled = _settled(owner, at, rises)
        if settled:
            # Only the end is out of order: what lies before it is not touched.
            rest = self.rows(settled, len(self)).regroup(at[settled:], owner[settled:])
            head = replace(self.rows(0, settled), at=at[:settled], instance=owner[:settled])
            return RequestFrame.concatenate([head, rest])
        order = np.lexsort((at, owner))
        new_instance, new_at = owner[order], at[order]
        is_first = np.ones(len(order), bool)
        is_first[1:] = (new_at[1:] != new_at[:-1]) | (new_instance[1:] != new_instance[:-1])
        starts = np.flatnonzero(is_first)
        new_row = np.empty(len(order), np.int64)
        new_row[order] = np.cumsum(is_first) - 1
        place = new_row[self.cell_place // len(LATENCIES)] * len(LATENCIES) + self.cell_place % len(LATENCIES)
        return RequestFrame(
            new_instance[starts],
            new_at[starts],
            np.add.reduceat(self.counts[order], starts, axis=0),
            np.add.reduceat(self.sums[order], starts, axis=0),
            np.maximum.reduceat(self.maxima[order], starts, axis=0),
            *_added_cells(place, self.cell_index, self.cell_count),
        )

    def split(self, starts: np.ndarray) -> Iterator[tuple[int, int, "RequestFrame"]]:
        """The parts whose rows agree in instance and in `starts`, which rises with time: instance, start, part."""
        for first, last in bounds(self.instance, starts):
            yield int(self.instance[first]), int(starts[first]), self.rows(first, last)

    def rows(self, first: int, last: int) -> "RequestFrame":
        """The rows from `first` to before `last`."""
        cells = slice(*np.searchsorted(self.cell_place, [first * len(LATENCIES), last * len(LATENCIES)]))
        wanted = slice(first, last)
        columns = (self.instance[wanted], self.at[wanted], self.counts[wanted], self.sums[wanted], self.maxima[wanted])
        place = self.cell_place[cells] - first * len(LATENCIES)
        return RequestFrame(*columns, place, self.cell_index[cells], self.cell_count[cells])

    def between(self, start: int, end: int) -> "RequestFrame":
        """The rows with times in [start, end)."""
        if len(self) and self.instance[0] == self.instance[-1]:
            return self.rows(int(np.searchsorted(self.at, start)), int(np.searchsorted(self.at, end)))
        return self.pick((self.at >= start) & (self.at < end))

    def counts_at(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The counts alone, row i counting as one of time `at[i]`: times (k,) and counts (k, len(COUNTS))."""
        times, place = np.unique(at, return_inverse=True)
        sums = np.zeros((len(times), len(COUNTS)), np.int64)
        np.add.at(sums, place, self.counts)
        return times, sums

    def by_width(self, seconds: int) -> "RequestFrame":
        """The same in buckets of `seconds`."""
        return self.regroup(self.at // seconds * seconds)

    def quantiles(self, latency: str, fractions: Sequence[float]) -> np.ndarray:
        """Nearest-rank percentiles per row, (n, len(fractions)) in seconds; NaN where the row has no duration."""
        wanted = tuple(fractions)
        if wanted not in self._quantiles:
            self._quantiles[wanted] = self._all_quantiles(wanted)
        return self._quantiles[wanted][:, LATENCIES.index(latency)]

    @cached_property
    def _quantiles(self) -> dict[tuple[float, ...], np.ndarray]:
        """What was asked before; all latencies come in one go, and charts ask for each."""
        return {}

    def _all_quantiles(self, fractions: tuple[float, ...]) -> np.ndarray:
        found = np.full((len(self) * len(LATENCIES), len(fractions)), np.nan)
        totals = self._measured.ravel()
        known = np.flatnonzero(totals)
        if len(known):
            cumulative = np.cumsum(self.cell_count)
            before = np.cumsum(totals) - totals
            # A product like 0.07 * 100 is a hair above 7, and its ceiling would be the next rank.
            ranks = np.maximum(1, np.ceil(np.outer(totals[known], fractions) - 1e-9)).astype(np.int64)
            positions = np.searchsorted(cumulative, ranks + before[known, None])
            found[known] = sketch.value_of(self.cell_index[positions])
        # A bucket of the sketch may reach beyond the largest duration in it, which is known exactly.
        return np.minimum(found.reshape(len(self), len(LATENCIES), len(fractions)), self.maxima[:, :, None])

    @cached_property
    def _measured(self) -> np.ndarray:
        """(n, len(LATENCIES)): how many durations each row has."""
        counts = np.bincount(self.cell_place, weights=self.cell_count, minlength=len(self) * len(LATENCIES))
        return counts.astype(np.int64).reshape(len(self), len(LATENCIES))

    def measured(self, latency: str) -> np.ndarray:
        """How many durations each row has of `latency`: what an average divides by."""
        return self._measured[:, LATENCIES.index(latency)]

    def column(self, name: str) -> np.ndarray:
        return self.counts[:, COUNTS.index(name)]

    def pack(self) -> bytes:
        lengths = np.bincount(self.cell_place, minlength=len(self) * len(LATENCIES))
        head = np.array([(len(self), len(self.cell_place))], _HEAD)
        steps = np.diff(self.cell_index, prepend=0)
        return pack([
            head, self.instance.astype("<u4"), self.at.astype("<i8"), self.counts.T.astype("<i8").ravel(),
            self.sums.T.astype("<f4").ravel(), self.maxima.T.astype("<f4").ravel(), lengths.astype("<u2"),
            steps.astype("<i2"), self.cell_count.astype("<u4"),
        ])  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> "RequestFrame":
        head, reader = unpack(data, _HEAD)
        rows, cells = int(head["rows"]), int(head["cells"])
        instance, at = reader.take("<u4", rows).astype(np.int64), reader.take("<i8", rows)
        counts = reader.take("<i8", rows * len(COUNTS)).reshape(len(COUNTS), rows).T
        sums = reader.take("<f4", rows * 4).reshape(4, rows).T.astype(np.float64)
        maxima = reader.take("<f4", rows * 4).reshape(4, rows).T.astype(np.float64)
        place = np.repeat(np.arange(rows * len(LATENCIES)), reader.take("<u2", rows * len(LATENCIES)))
        index = np.cumsum(reader.take("<i2", cells).astype(np.int64))
        return cls(instance, at, counts, sums, maxima, place, index, reader.take("<u4", cells).astype(np.int64))

    def without_sums(self) -> "RequestFrame":
        """Without the rows of all instances at times when instances did everything: those are but their sum."""
        is_all = self.instance == ALL_INSTANCES
        times, place = np.unique(self.at, return_inverse=True)
        rest = np.zeros((len(times), len(COUNTS)), np.int64)
        np.add.at(rest, place, np.where(is_all[:, None], self.counts, -self.counts))
        # What all did is never less than what instances did: equal counts mean the same requests.
        return self.pick(~(is_all & ~rest[place].any(axis=1)))

    def of_all(self) -> "RequestFrame":
        """Of a frame `without_sums` the rows that make up those of all instances, as rows of those; not added up yet."""
        is_all = self.instance == ALL_INSTANCES
        found = self if not is_all.any() else self.pick(is_all | ~np.isin(self.at, self.at[is_all]))
        return replace(found, instance=np.full(len(found), ALL_INSTANCES, np.int64))

    def with_sums(self) -> "RequestFrame":
        """What `without_sums` left out, put back. Of one version, and of one batch or block: what one holds of a time
        says nothing of what another one left out."""
        missing = ~np.isin(self.at, self.at[self.instance == ALL_INSTANCES])
        if not missing.any():
            return self
        parts = self.pick(missing)
        sums = parts.regroup(parts.at, np.full(len(parts), ALL_INSTANCES, np.int64))
        joined = RequestFrame.concatenate([self, sums])
        return joined.regroup(joined.at)


def _settled(owner: np.ndarray, at: np.ndarray, rises: np.ndarray) -> int:
    """How many first rows of one owner are in order, with nothing behind them that belongs to them or before."""
    if (owner != owner[0]).any():
        return 0
    unsettled = int(np.argmin(rises)) + 1
    return int(np.searchsorted(at[:unsettled], at[unsettled:].min()))


def bounds(*columns: np.ndarray) -> list[tuple[int, int]]:
    """First row and the one behind the last of each stretch in which all columns stay the same."""
    if not len(columns[0]):
        return []
    changes = np.zeros(len(columns[0]) - 1, bool)
    for column in columns:
        changes |= column[1:] != column[:-1]
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(columns[0])]
    return list(pairwise(edges))


def _added_cells(place: np.ndarray, index: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells sorted, those of the same place and index added up."""
    if not len(place):
        return place, index, count
    lowest = index.min()
    span = int(index.max() - lowest) + 1
    key = place * span + (index - lowest)
    size = int(place.max() + 1) * span
    if size <= 8 * len(key) + 100_000:
        # A table of all possible cells is quicker than sorting those that there are.
        sums = np.bincount(key, weights=count, minlength=size)
        unique = np.flatnonzero(sums)
        added = sums[unique].astype(np.int64)
    else:
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        unique, added = key[order][starts], np.add.reduceat(count[order], starts)
    return unique // span, unique % span + lowest, added
