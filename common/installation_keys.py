"""The installation's own keys, by what they are for. The first of each signs and encrypts; the others are still understood.

A file of them is looked at again while processes run, so that keys change without a restart (dashboard/key_rotation.py).
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)

# How long a process may go on with what it last read.
LOOK_S = 1.0


class InstallationKeys(Protocol):
    """Each is newest first and never empty."""

    @property
    def sessions(self) -> tuple[str, ...]:
        """Sign what the console stores for a browser: Django's SECRET_KEY."""

    @property
    def links(self) -> tuple[str, ...]:
        """Sign links by which people choose a new password."""

    @property
    def identity(self) -> tuple[str, ...]:
        """Sign the tokens by which console and dispatcher ask the gateway in someone's name."""

    @property
    def webhooks(self) -> tuple[str, ...]:
        """Users' webhook secrets are made from them."""

    @property
    def encryption(self) -> tuple[str, ...]:
        """Encrypt stored secrets."""


class KeysUnreadableError(Exception):
    """Why a file of keys can't be used."""


@dataclass(frozen=True)
class FixedKeys:
    sessions: tuple[str, ...]
    links: tuple[str, ...]
    identity: tuple[str, ...]
    webhooks: tuple[str, ...]
    encryption: tuple[str, ...]

    @classmethod
    def of(cls, *keys: str) -> "FixedKeys":
        """The same for every purpose."""
        return cls(**dict.fromkeys(PURPOSES, keys))

    @classmethod
    def read(cls, path: Path) -> "FixedKeys":
        """Raises KeysUnreadableError."""
        try:
            stored: Any = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise KeysUnreadableError(f"{path} can't be read: {error}") from None
        lists: list[Any] = [stored.get(purpose) for purpose in PURPOSES] if isinstance(stored, dict) else [None]
        if not all(isinstance(keys, list) and keys and all(_is_key(key) for key in keys) for keys in lists):
            raise KeysUnreadableError(
                f"{path} must be a JSON object with a list of keys, newest first, for each of: {', '.join(PURPOSES)}."
            )
        return cls(*(tuple(keys) for keys in lists))

    def to_json(self) -> dict[str, list[str]]:
        return {purpose: list(getattr(self, purpose)) for purpose in PURPOSES}


PURPOSES = tuple(field.name for field in fields(FixedKeys))


def _is_key(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


class KeysFile:
    """Those of a file, at most LOOK_S behind it. A file that can't be read any more leaves the last ones in force."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._clock = path, clock
        self._mark = self._stamp()
        self._keys = FixedKeys.read(path)
        self._looked_at = clock()

    @property
    def current(self) -> FixedKeys:
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return self._keys

    def _look(self) -> None:
        mark = self._stamp()
        if mark == self._mark:
            return
        try:
            self._keys = FixedKeys.read(self.path)
            self._mark = mark
        except KeysUnreadableError as error:
            log.warning("%s The keys from before stay in force.", error)

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    @property
    def sessions(self) -> tuple[str, ...]:
        return self.current.sessions

    @property
    def links(self) -> tuple[str, ...]:
        return self.current.links

    @property
    def identity(self) -> tuple[str, ...]:
        return self.current.identity

    @property
    def webhooks(self) -> tuple[str, ...]:
        return self.current.webhooks

    @property
    def encryption(self) -> tuple[str, ...]:
        return self.current.encryption
