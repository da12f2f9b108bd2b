"""Chooses an instance: the one with the fewest requests in flight whose breaker is closed."""

from dataclasses import dataclass

from gateway.snapshot import Address, Target

FAILURES_BEFORE_OPEN = 3
OPEN_FOR_S = (1.0, 2.0, 5.0, 10.0)


@dataclass
class Load:
    """What this gateway knows of one instance."""

    in_flight: int = 0
    failures: int = 0
    open_until: float = 0.0
    used_at: float = 0.0


class Balancer:
    def __init__(self) -> None:
        self._loads: dict[str, Load] = {}

    def acquire(self, target: Target, now: float) -> Address | None:
        """Count a request in for the best instance of `target`; None when none is to be had. `now` is the loop's time."""
        best: Address | None = None
        best_load: Load | None = None
        for address in target.addresses:
            load = self._loads.get(address.uid)
            if load is None:
                load = self._loads[address.uid] = Load()
            if load.open_until > now:
                continue
            # Among equals the one that rested longest, else the first in the list would get all light traffic.
            if best_load is None or (load.in_flight, load.used_at) < (best_load.in_flight, best_load.used_at):
                best, best_load = address, load
        if best_load is not None:
            best_load.in_flight += 1
            best_load.used_at = now
        return best

    def release(self, address: Address, *, failed: bool | None, now: float) -> None:
        """Count a request out. `failed` of None says nothing of the instance: the client left, for example."""
        load = self._loads.get(address.uid)
        if load is None:
            return
        load.in_flight -= 1
        if failed is None:
            return
        if not failed:
            load.failures = 0
            return
        load.failures += 1
        if load.failures >= FAILURES_BEFORE_OPEN:
            step = min(load.failures - FAILURES_BEFORE_OPEN, len(OPEN_FOR_S) - 1)
            load.open_until = now + OPEN_FOR_S[step]

    def forget_absent(self, uids: set[str]) -> None:
        """Drop what is known of instances that are gone and have nothing in flight."""
        for uid in [uid for uid, load in self._loads.items() if uid not in uids and load.in_flight <= 0]:
            del self._loads[uid]
