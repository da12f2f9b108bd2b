"""How often in a row a program has ended, where the cluster tells only how often in its whole life. Pure."""

from dataclasses import dataclass

from runtimes.observation import SERVING_CLEARS_S, InstanceObservation


@dataclass(frozen=True)
class Streak:
    """What was known after the last look: ends in a row and in all, and since when it was ready (None: it wasn't)."""

    crashes: int
    ends: int
    ready_at: float | None


def crashes_in_a_row(before: Streak | None, item: InstanceObservation, now: float) -> int:
    """Ends without a span of serving in between. Times in seconds since the epoch."""
    if item.crashes is not None:
        return item.crashes
    if item.is_ready and now - (item.ready_at or now) >= SERVING_CLEARS_S:
        return 0
    # What ended while nobody looked counts once: it may have served for days in between.
    if before is None:
        return min(1, item.ends)
    if item.ends <= before.ends:
        return before.crashes
    had_served = before.ready_at is not None and (item.last_end_at or now) - before.ready_at >= SERVING_CLEARS_S
    return 1 if had_served else before.crashes + 1
