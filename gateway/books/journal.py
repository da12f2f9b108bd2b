"""The books' first page: a record in a memory-mapped file at each admission, and one before each answer's last byte.

The kernel keeps what was written when the process is killed, so a restart can end what was in flight as failed and
count what was finished but not flushed. Records have a fixed size; a file holds RECORDS_PER_FILE of them. The same
records are what the meter folds: nothing else is kept of a finished request.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.request_outcomes import TOKENS

ADMITTED, FINISHED, FOLDED = 1, 2, 3
# The number changes with the records' layout: those of another release would be read as nonsense.
_NAME = "journal3"
RECORDS_PER_FILE = 65_536
# One finished request: times in seconds, `at` since the epoch, durations below 0 were never reached.
RECORD = np.dtype(
    [
        ("sequence", "<u8"), ("at", "<f8"), ("deployment", "<u4"), ("version", "<u4"),
        ("organization", "<u4"), ("user", "<u4"), ("key", "<u4"), ("source", "u1"), ("_", "V3"), ("instance", "V16"),
        ("end_to_end", "<f4"), ("inference", "<f4"), ("queue", "<f4"), ("first_token", "<f4"),
        *((name, "<u4") for name in TOKENS),
        ("status", "<u2"), ("outcome", "u1"), ("estimated", "u1"), ("_2", "V3"), ("kind", "u1"),
    ]
)  # fmt: skip
SIZE = RECORD.itemsize
# The kind stands last, and is written last: a record that a kill tore apart has none, and the reading ends there.
_FINISHED = struct.Struct("<Qd24s16sffffIIIIIIHBBxxxB")
_ADMITTED = struct.Struct("<Qd24s63xB")
# From `deployment` to `source`: what a request's records say of whose it is.
_PARTIES = struct.Struct("<IIIIIBxxx")
_FOLDED = struct.Struct("<Q95xB")
NO_INSTANCE = b"\0" * 16
# The layout of the release before: what it left behind, killed before an upgrade, is still read.
_EARLIER_NAME = "journal2"
_EARLIER = np.dtype(
    [
        ("kind", "u1"), ("outcome", "u1"), ("status", "<u2"), ("estimated", "u1"), ("_", "V3"),
        ("sequence", "<u8"), ("at", "<f8"), ("deployment", "<u4"), ("version", "<u4"),
        ("organization", "<u4"), ("user", "<u4"), ("key", "<u4"), ("source", "u1"), ("_2", "V3"), ("instance", "V16"),
        ("end_to_end", "<f4"), ("inference", "<f4"), ("queue", "<f4"), ("first_token", "<f4"),
        ("input_tokens", "<u4"), ("output_tokens", "<u4"),
    ]
)  # fmt: skip


def parties(deployment: int, version: int, organization: int, user: int, key: int, source: int) -> bytes:
    """Whose request it is, as records hold it: packed once, not in each of them."""
    return _PARTIES.pack(deployment, version, organization, user, key, source)


class File:
    """One stretch of the journal."""

    __slots__ = ("first", "map", "path", "unfinished")

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        self.unfinished = 0
        with path.open("w+b") as file:
            # Really allocated: on a full disk a sparse page would kill the process at its first write.
            os.posix_fallocate(file.fileno(), 0, RECORDS_PER_FILE * SIZE)
            self.map = mmap.mmap(file.fileno(), RECORDS_PER_FILE * SIZE)


class Journal:
    """Positions count records from the start of this epoch. Written on the gateway's loop only."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self._folder = folder
        self._epoch = epoch
        self.position = 0
        self._files: list[File] = []
        self._current = self._open_file()
        self._end = RECORDS_PER_FILE

    def admitted(self, sequence: int, at: float, parties: bytes) -> File:
        """Note an admission; the returned file is handed back to `finished`. `parties` is what `parties` packs."""
        position = self.position
        file = self._current if position != self._end else self._turn()
        _ADMITTED.pack_into(file.map, (position - file.first) * SIZE, sequence, at, parties, ADMITTED)
        self.position = position + 1
        file.unfinished += 1
        return file

    def finished(self, file: File, *values: object) -> None:
        """Note an end; `values` are RECORD's fields up to `estimated`, those of the parties packed into one."""
        position = self.position
        current = self._current if position != self._end else self._turn()
        _FINISHED.pack_into(current.map, (position - current.first) * SIZE, *values, FINISHED)
        self.position = position + 1
        file.unfinished -= 1

    def folded(self, position: int) -> None:
        """Note that everything before `position` is in a batch that lies on disk."""
        file = self._current if self.position != self._end else self._turn()
        _FOLDED.pack_into(file.map, (self.position - file.first) * SIZE, position, FOLDED)
        self.position += 1

    def records(self, start: int) -> np.ndarray:
        """A copy of the records from position `start` on."""
        parts = [
            np.frombuffer(file.map, RECORD)[max(0, start - file.first) : self.position - file.first].copy()
            for file in self._files
            if file.first + RECORDS_PER_FILE > start
        ]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def forget_before(self, position: int) -> None:
        """Remove the files that are folded and whose requests have all ended."""
        while len(self._files) > 1 and self._files[1].first <= position and not self._files[0].unfinished:
            old = self._files.pop(0)
            old.map.close()
            old.path.unlink(missing_ok=True)

    def close(self) -> None:
        for file in self._files:
            file.map.flush()
            file.map.close()

    def _turn(self) -> File:
        """A fresh file: the current one is full."""
        self._current = self._open_file()
        self._end += RECORDS_PER_FILE
        return self._current

    def _open_file(self) -> File:
        file = File(self._folder / f"{_NAME}-{self._epoch}-{self.position:012d}", self.position)
        self._files.append(file)
        return file


def earlier_epochs(folder: Path, current: int) -> list[int]:
    epochs = {int(path.name.split("-")[1]) for name in (_NAME, _EARLIER_NAME) for path in folder.glob(f"{name}-*")}
    return sorted(epochs - {current})


def replay(folder: Path, epoch: int, folded: int) -> tuple[np.ndarray, np.ndarray]:
    """(records that are in no batch yet, admissions that never ended); `folded` is the last spill's position."""
    positions, records = _read(folder, epoch)
    marks = records[records["kind"] == FOLDED]["sequence"]
    if len(marks):
        folded = max(folded, int(marks.max()))
    finished = records[records["kind"] == FINISHED]["sequence"]
    admitted = records[records["kind"] == ADMITTED]
    unfinished = admitted[~np.isin(admitted["sequence"], finished)]
    return records[positions >= folded], unfinished


def remove_epoch(folder: Path, epoch: int) -> None:
    for name in (_NAME, _EARLIER_NAME):
        for path in sorted(folder.glob(f"{name}-{epoch}-*")):
            path.unlink(missing_ok=True)


def _read(folder: Path, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and records of what is still there; earlier files may be gone."""
    parts = list(_files(folder, epoch))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, RECORD)
    return np.concatenate([item[0] for item in parts]), np.concatenate([item[1] for item in parts])


def _files(folder: Path, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for name, layout in ((_EARLIER_NAME, _EARLIER), (_NAME, RECORD)):
        for path in sorted(folder.glob(f"{name}-{epoch}-*")):
            data = path.read_bytes()
            records = np.frombuffer(data[: len(data) // layout.itemsize * layout.itemsize], layout)
            blank = np.flatnonzero(records["kind"] == 0)
            records = records[: blank[0]] if len(blank) else records
            first = int(path.name.rsplit("-", 1)[1])
            yield np.arange(first, first + len(records)), _of_today(records)


def _of_today(records: np.ndarray) -> np.ndarray:
    """Records of the release before in this one's layout: it kept no other tokens, and no reason of estimates."""
    if records.dtype == RECORD:
        return records
    found = np.zeros(len(records), RECORD)
    for name in RECORD.names or ():
        if name in (_EARLIER.names or ()) and not name.startswith("_"):
            found[name] = records[name]
    return found
