"""The states of an asynchronous request. Pure: the gateway asks here too."""

QUEUED, RETRYING, RUNNING = "queued", "retrying", "running"
COMPLETED, FAILED, CANCELLED, EXPIRED = "completed", "failed", "cancelled", "expired"
# One that waits to be tried again is queued to everybody outside; claims must not step over it.
WAITING = (QUEUED, RETRYING)
UNFINISHED = (*WAITING, RUNNING)
FINAL = (COMPLETED, FAILED, CANCELLED, EXPIRED)
SHOWN = (QUEUED, RUNNING, *FINAL)


def shown(state: str) -> str:
    """The state as callers and pages know it."""
    return QUEUED if state == RETRYING else state


def stored(state: str) -> tuple[str, ...]:
    """What a shown state is in the table."""
    return WAITING if state == QUEUED else (state,)
