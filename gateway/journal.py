"""The books' first page: a record in a memory-mapped file at each admission, and one before each answer's last byte.

The kernel keeps what was written when the process is killed, so a restart can end what was in flight as failed and
count what was finished but not flushed. Records have a fixed size; a file holds RECORDS_PER_FILE of them.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ADMITTED, FINISHED, FOLDED = 1, 2, 3
RECORDS_PER_FILE = 65_536
# kind, outcome, status, source, estimated | sequence | deployment, version | instance | organization, user | time |
# end to end, inference, queue, first token | tokens in, out
_RECORD = struct.Struct("<BBHBB2xQII16sIIdffffII")
SIZE = _RECORD.size


@dataclass(frozen=True)
class Entry:
    """One finished request as the books have it. Times in seconds, `at` since the epoch; `first_token` < 0: none."""

    sequence: int
    deployment_id: int
    version_id: int
    instance: bytes
    organization_id: int
    user_id: int
    source: int
    outcome: int
    status: int
    at: float
    end_to_end: float
    inference: float
    queue: float
    first_token: float
    input_tokens: int
    output_tokens: int
    estimated: bool


class _File:
    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        self.unfinished = 0
        with path.open("w+b") as file:
            # Really allocated: on a full disk a sparse page would kill the process at its first write.
            os.posix_fallocate(file.fileno(), 0, RECORDS_PER_FILE * SIZE)
            self.map = mmap.mmap(file.fileno(), RECORDS_PER_FILE * SIZE)


class Journal:
    """Positions count records from the start of this epoch."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self._folder = folder
        self._epoch = epoch
        self._position = 0
        self._files: list[_File] = []
        self._open_file()

    @property
    def position(self) -> int:
        return self._position

    def admitted(
        self,
        sequence: int,
        deployment_id: int,
        version_id: int,
        organization_id: int,
        user_id: int,
        source: int,
        at: float,
    ) -> _File:
        """Note an admission; the returned file is handed back to `finished`."""
        file = self._write(
            ADMITTED,
            0,
            0,
            source,
            0,
            sequence,
            deployment_id,
            version_id,
            b"",
            organization_id,
            user_id,
            at,
            0,
            0,
            0,
            0,
            0,
            0,
        )
        file.unfinished += 1
        return file

    def finished(self, file: _File, entry: Entry) -> None:
        file.unfinished -= 1
        self._write(
            FINISHED, entry.outcome, entry.status, entry.source, entry.estimated, entry.sequence, entry.deployment_id, entry.version_id,
            entry.instance, entry.organization_id, entry.user_id, entry.at, entry.end_to_end, entry.inference, entry.queue,
            entry.first_token, entry.input_tokens, entry.output_tokens,
        )  # fmt: skip

    def folded(self, position: int) -> None:
        """Everything before `position` is in a batch that lies on disk."""
        self._write(FOLDED, 0, 0, 0, 0, position, 0, 0, b"", 0, 0, 0, 0, 0, 0, 0, 0, 0)

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

    def _write(self, *values: object) -> _File:
        file = self._files[-1]
        offset = self._position - file.first
        if offset == RECORDS_PER_FILE:
            file = self._open_file()
            offset = 0
        _RECORD.pack_into(file.map, offset * SIZE, *values)
        self._position += 1
        return file

    def _open_file(self) -> _File:
        path = self._folder / f"journal-{self._epoch}-{self._position:012d}"
        self._files.append(_File(path, self._position))
        return self._files[-1]


def earlier_epochs(folder: Path, current: int) -> list[int]:
    epochs = {int(path.name.split("-")[1]) for path in folder.glob("journal-*")}
    return sorted(epochs - {current})


def replay(folder: Path, epoch: int, folded: int) -> tuple[list[Entry], list[Entry]]:
    """(finished, unfinished) requests of an earlier epoch that are in no batch; `folded` is the last spill's position."""
    finished: dict[int, tuple[int, Entry]] = {}
    admitted: dict[int, Entry] = {}
    for position, kind, entry in _records(folder, epoch):
        if kind == FOLDED:
            folded = max(folded, entry.sequence)
        elif kind == ADMITTED:
            admitted[entry.sequence] = entry
        else:
            finished[entry.sequence] = (position, entry)
    counted = [entry for at, entry in finished.values() if at >= folded]
    open_ended = [entry for sequence, entry in admitted.items() if sequence not in finished]
    return counted, open_ended


def remove_epoch(folder: Path, epoch: int) -> None:
    for path in sorted(folder.glob(f"journal-{epoch}-*")):
        path.unlink(missing_ok=True)


def _records(folder: Path, epoch: int) -> Iterator[tuple[int, int, Entry]]:
    """(position, kind, entry) of what is still there; earlier files may be gone."""
    for path in sorted(folder.glob(f"journal-{epoch}-*")):
        data = path.read_bytes()
        first = int(path.name.rsplit("-", 1)[1])
        for offset in range(0, len(data) - SIZE + 1, SIZE):
            values = _RECORD.unpack_from(data, offset)
            (
                kind,
                outcome,
                status,
                source,
                estimated,
                sequence,
                deployment,
                version,
                instance,
                organization,
                user,
                at,
            ) = values[:12]
            if kind == 0:
                break
            end_to_end, inference, queue, first_token, input_tokens, output_tokens = values[12:]
            entry = Entry(
                sequence, deployment, version, instance, organization, user, source, outcome, status, at,
                end_to_end, inference, queue, first_token, input_tokens, output_tokens, bool(estimated),
            )  # fmt: skip
            yield first + offset // SIZE, kind, entry
