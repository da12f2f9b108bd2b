"""Chooses an instance: the one with the fewest requests in flight that doesn't rest after failures."""

import math
from collections.abc import Set as AbstractSet
from time import monotonic

from gateway.http.address import Address
from gateway.routing.target import Target

FAILURES_BEFORE_OPEN = 3
OPEN_FOR_S = (1.0, 2.0, 5.0, 10.0)


class Load:
    """What this gateway knows of one instance. Times on the monotonic clock."""

    __slots__ = ("failures", "in_flight", "open_until", "used_at")

    def __init__(self) -> None:
        self.in_flight = 0
        self.failures = 0
        self.open_until = 0.0
        self.used_at = 0.0

    def served(self) -> None:
        """Count a request out that the instance has answered."""
        self.in_flight -= 1
        self.failures = 0

    def release(self, *, failed: bool, now: float) -> None:
        """Count a request out that ended before its answer; not `failed` says nothing: the client left, for example."""
        self.in_flight -= 1
        if not failed:
            return
        self.failures += 1
        if self.failures >= FAILURES_BEFORE_OPEN:
            step = min(self.failures - FAILURES_BEFORE_OPEN, len(OPEN_FOR_S) - 1)
            self.open_until = now + OPEN_FOR_S[step]


class Balancer:
    def __init__(self) -> None:
        self._loads: dict[str, Load] = {}

    def acquire(self, target: Target, now: float, but: AbstractSet[str] = frozenset()) -> tuple[Address, Load] | None:
        """Count a request in for the best instance of `target`, none of those in `but`; None when none is left.

        Where all that are left rest, they are asked all the same: a few failures must not close what still serves.
        """
        best: Address | None = None
        best_load: Load | None = None
        for address in target.addresses:
            load = self._loads.get(address.uid)
            if load is None:
                load = self._loads[address.uid] = Load()
            if load.open_until > now or (but and address.uid in but):
                continue
            # Among equals the one that rested longest, else the first in the list would get all light traffic.
            if (
                best_load is None
                or load.in_flight < best_load.in_flight
                or (load.in_flight == best_load.in_flight and load.used_at < best_load.used_at)
            ):
                best, best_load = address, load
        if best is None or best_load is None:
            return None if now == math.inf else self.acquire(target, math.inf, but)
        best_load.in_flight += 1
        best_load.used_at = now if now != math.inf else monotonic()
        return best, best_load

    def forget_absent(self, uids: set[str]) -> None:
        """Drop what is known of instances that are gone and have nothing in flight."""
        for uid in [uid for uid, load in self._loads.items() if uid not in uids and load.in_flight <= 0]:
            del self._loads[uid]
