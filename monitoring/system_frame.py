"""What instances used over time, as columns that add up. Pure.

A row is one figure of one instance (and GPU) in one bucket: the sum of its samples, how many they were, and the highest.
So averages are weighted by samples, whatever the buckets, and a bucket without samples has no row: a gap stays a gap.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from monitoring.packing import pack, unpack
from monitoring.request_frame import bounds

# Numbers are what the tables hold; never reuse one. CPU in cores, memory in bytes, shares from 0 to 1, tokens counted.
FIGURES = {
    "cpu_user": 1, "cpu_system": 2, "memory_used": 3,
    "gpu_utilization": 4, "gpu_memory_used": 5, "gpu_memory_total": 6,
    "requests_running": 7, "requests_waiting": 8, "kv_cache_use": 9, "prefix_hits": 10, "prefix_queries": 11,
    "replicas_active": 12, "replicas_starting": 13, "cpu_total": 14,
    "async_queue_size": 15,
}  # fmt: skip
# The device of figures that are no GPU's; the instance of averages over instances.
NO_DEVICE, ALL_INSTANCES = 255, 0
_FIGURE_PLACES, _DEVICE_PLACES = 64, 256
_HEAD = np.dtype([("rows", "<u4")])


@dataclass(frozen=True)
class SystemFrame:
    """n rows sorted by instance, figure, device and time; all columns are (n,). `at` in seconds since the epoch."""

    instance: np.ndarray
    figure: np.ndarray
    device: np.ndarray
    at: np.ndarray
    total: np.ndarray
    samples: np.ndarray
    highest: np.ndarray

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def of_samples(cls, rows: Iterable[tuple[int, str, int, int, float]]) -> "SystemFrame":
        """From single samples: instance number, name of the figure, device, moment, value."""
        found = list(rows)
        values = np.array([row[4] for row in found], np.float64)
        return cls(
            np.array([row[0] for row in found], np.int64),
            np.array([FIGURES[row[1]] for row in found], np.int64),
            np.array([row[2] for row in found], np.int64),
            np.array([row[3] for row in found], np.int64),
            values,
            np.ones(len(found), np.int64),
            values,
        ).regroup()

    @classmethod
    def empty(cls) -> "SystemFrame":
        return cls.of_samples([])

    @classmethod
    def concatenate(cls, frames: Iterable["SystemFrame"]) -> "SystemFrame":
        found = [frame for frame in frames if len(frame)]
        if not found:
            return cls.empty()
        return cls(*(np.concatenate([getattr(frame, name) for frame in found]) for name in cls.__dataclass_fields__))

    def pick(self, mask: np.ndarray) -> "SystemFrame":
        """The rows at which `mask` is true."""
        return SystemFrame(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def of(self, name: str) -> "SystemFrame":
        """The rows of one figure."""
        return self.pick(self.figure == FIGURES[name])

    def regroup(self, at: np.ndarray | None = None) -> "SystemFrame":
        """Sorted, row i counting as one of time `at[i]`; rows that agree in all but their values become one."""
        if not len(self):
            return self
        times = self.at if at is None else at
        # One number to sort by: rows come in long stretches that are in order already, which this sort is quick with.
        _, owner = np.unique(self.instance, return_inverse=True)
        first = int(times.min())
        key = (
            ((owner * _FIGURE_PLACES + self.figure) * _DEVICE_PLACES + self.device) * (int(times.max()) - first + 1)
            + times
            - first
        )
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        is_first = np.ones(len(order), bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        if is_first.all():
            return SystemFrame(
                *(
                    column[order]
                    for column in (
                        self.instance,
                        self.figure,
                        self.device,
                        times,
                        self.total,
                        self.samples,
                        self.highest,
                    )
                )
            )
        keys = [column[order] for column in (self.instance, self.figure, self.device, times)]
        starts = np.flatnonzero(is_first)
        return SystemFrame(
            *(column[starts] for column in keys),
            np.add.reduceat(self.total[order], starts),
            np.add.reduceat(self.samples[order], starts),
            np.maximum.reduceat(self.highest[order], starts),
        )

    def split(self, starts: np.ndarray) -> Iterator[tuple[int, "SystemFrame"]]:
        """The parts whose rows agree in `starts`: start and part."""
        order = np.argsort(starts, kind="stable")
        names = self.__dataclass_fields__
        columns, ordered = {name: getattr(self, name)[order] for name in names}, starts[order]
        for first, last in bounds(ordered):
            yield int(ordered[first]), SystemFrame(*(columns[name][first:last] for name in names))

    def by_width(self, seconds: int) -> "SystemFrame":
        """The same in buckets of `seconds`."""
        return self.regroup(self.at // seconds * seconds)

    def merged(self) -> "SystemFrame":
        """Of one figure: all instances and devices as one, each sample weighing the same."""
        same = np.zeros(len(self), np.int64)
        return SystemFrame(
            same + ALL_INSTANCES, self.figure, same + NO_DEVICE, self.at, self.total, self.samples, self.highest
        ).regroup()

    @property
    def average(self) -> np.ndarray:
        return self.total / self.samples

    def pack(self) -> bytes:
        is_single = bool((self.samples == 1).all())
        averages = self.average.astype("<f4") if len(self) else self.total.astype("<f4")
        columns = [
            np.array([(len(self),)], _HEAD), np.array([is_single], "u1"), self.instance.astype("<u4"), self.figure.astype("u1"),
            self.device.astype("u1"), np.diff(self.at, prepend=0).astype("<i8"), averages,
        ]  # fmt: skip
        if not is_single:
            columns += [self.samples.astype("<u4"), self.highest.astype("<f4")]
        return pack(columns)

    @classmethod
    def unpack(cls, data: bytes) -> "SystemFrame":
        head, reader = unpack(data, _HEAD)
        rows = int(head["rows"])
        is_single = bool(reader.take("u1", 1)[0])
        instance, figure = reader.take("<u4", rows).astype(np.int64), reader.take("u1", rows).astype(np.int64)
        device, at = reader.take("u1", rows).astype(np.int64), np.cumsum(reader.take("<i8", rows))
        averages = reader.take("<f4", rows).astype(np.float64)
        if is_single:
            return cls(instance, figure, device, at, averages, np.ones(rows, np.int64), averages)
        samples = reader.take("<u4", rows).astype(np.int64)
        return cls(
            instance, figure, device, at, averages * samples, samples, reader.take("<f4", rows).astype(np.float64)
        )
