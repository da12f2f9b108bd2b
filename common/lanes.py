"""Work by key, each key's in a lane of its own: a key whose work is slow delays no other one's.

A lane is a thread that lives while there is something to do, with a mailbox of one place: whoever asks while the work goes
on has it done once more afterwards, however many ask. So the number of threads is that of the keys that are busy.
"""

import logging
import threading
from collections.abc import Callable

from django.db import connections

log = logging.getLogger(__name__)


class Lanes:
    """`work(key)` may block. It runs once at a time per key."""

    def __init__(self, name: str, work: Callable[[int], None]) -> None:
        self._name, self._work = name, work
        self._lock = threading.Lock()
        # A key is in it while its lane lives; True when it was asked for and not begun yet.
        self._asked: dict[int, bool] = {}

    def ask(self, key: int) -> None:
        """Have the work of `key` done after now. Returns at once."""
        with self._lock:
            is_new = key not in self._asked
            self._asked[key] = True
        if is_new:
            try:
                threading.Thread(target=self._run, args=(key,), name=f"{self._name}-{key}", daemon=True).start()
            except RuntimeError:
                # No thread to be had now: whoever asks next tries again.
                with self._lock:
                    self._asked.pop(key, None)
                raise

    def _run(self, key: int) -> None:
        try:
            while self._take(key):
                try:
                    self._work(key)
                except Exception:
                    # The lane lives on: the next one who asks has it tried again.
                    log.exception("%s %s failed", self._name, key)
        finally:
            # Connections belong to threads, and this one ends.
            connections.close_all()

    def _take(self, key: int) -> bool:
        with self._lock:
            if self._asked[key]:
                self._asked[key] = False
                return True
            del self._asked[key]
            return False
