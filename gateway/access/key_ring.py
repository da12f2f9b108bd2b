"""All good keys: in memory by digest, on disk as lines that changes are appended to.

The directory's thread writes, the loop reads `callers` at each request; single operations on a dictionary are atomic.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from common import atomic_file
from gateway.access.callers import Caller, Keys

log = logging.getLogger(__name__)

Row = list[Any]
LONG = 10_000
TORN = 1 << 40
_KEY_ID, _DIGEST, _PREVIOUS, _IS_LIVE, _MARK = 0, 3, 5, 10, 11


class KeyRing:
    """Rows are lists, fields in apikeys.directory's order. `version` is the directory's at the last reading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.version = -1
        self.callers: Keys = {}
        self._digests: dict[int, tuple[bytes, ...]] = {}
        self._marks: dict[int, int] = {}
        # Callers of one user share one set.
        self._sets: dict[tuple[int, ...], frozenset[int]] = {}
        self._appended = 0

    @property
    def fingerprint(self) -> tuple[int, int]:
        """(how many keys, all their marks xored), to be compared with the database's."""
        marks = 0
        for mark in self._marks.values():
            marks ^= mark
        return len(self._marks), marks

    @property
    def has_grown_long(self) -> bool:
        """Whether so much has been appended that the file is better written anew; a torn one must be."""
        return self._appended > LONG + len(self._marks)

    @property
    def count(self) -> int:
        return len(self._marks)

    def load(self) -> None:
        """Read what lies on disk; a last line that a kill tore apart is left out."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        lines = content.splitlines()
        if lines and not content.endswith(b"\n"):
            # Nothing may be appended to a torn line; what is left of it may even look whole.
            self._appended = TORN
            lines.pop()
        for line in lines:
            try:
                item = orjson.loads(line)
            except orjson.JSONDecodeError:
                self._appended = TORN
                break
            if isinstance(item, int):
                self.version = item
            else:
                self._put(item)

    def replace(self, rows: Iterable[Row], version: int) -> None:
        """Take over a whole reading. In memory first: a full disk must not keep a revoked key good."""
        fresh = list(rows)
        for key_id in set(self._marks) - {row[_KEY_ID] for row in fresh}:
            self._forget(key_id)
        for row in fresh:
            self._put(row)
        self._appended = TORN
        atomic_file.write_bytes(self._path, _lines(fresh, version))
        self.version, self._appended = version, 0

    def apply(self, rows: Iterable[Row], version: int) -> None:
        """Take over what has changed. It may be acknowledged only then: a restart must not revive a revoked key."""
        changed = list(rows)
        for row in changed:
            self._put(row)
        if changed:
            appended, self._appended = self._appended, TORN
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                file.write(_lines(changed, version))
                file.flush()
                os.fsync(file.fileno())
            self._appended = appended + len(changed)
        self.version = version

    def _put(self, row: Row) -> None:
        key_id = row[_KEY_ID]
        if not row[_IS_LIVE]:
            self._forget(key_id)
            return
        before = self._digests.get(key_id, ())
        digests: list[bytes] = []
        for caller in self._callers_of(row):
            digest = bytes.fromhex(row[_DIGEST] if not digests else row[_PREVIOUS])
            self.callers[digest] = caller
            digests.append(digest)
        self._digests[key_id] = tuple(digests)
        self._marks[key_id] = row[_MARK]
        for digest in before:
            if digest not in digests:
                self.callers.pop(digest, None)

    def _forget(self, key_id: int) -> None:
        self._marks.pop(key_id, None)
        for digest in self._digests.pop(key_id, ()):
            self.callers.pop(digest, None)

    def _callers_of(self, row: Row) -> list[Caller]:
        """For its secret, and for the one before a rotation, which has an end of its own."""
        (
            key_id,
            user_id,
            organization_id,
            _,
            expires_at,
            previous,
            until,
            is_operator,
            organizations,
            deployments,
            _,
            _,
        ) = row
        ends = [float("inf") if expires_at is None else expires_at]
        if previous and until is not None:
            ends.append(min(ends[0], until))
        return [
            Caller(
                organization_id=organization_id,
                user_id=user_id,
                key_id=key_id,
                organizations=self._shared(organizations),
                deployments=None if deployments is None else frozenset(deployments),
                is_operator=is_operator,
                expires_at=end,
            )
            for end in ends
        ]

    def _shared(self, ids: list[int]) -> frozenset[int]:
        key = tuple(ids)
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = frozenset(ids)
        return found


def _lines(rows: list[Row], version: int) -> bytes:
    return b"".join([*(orjson.dumps(row) + b"\n" for row in rows), b"%d\n" % version])
