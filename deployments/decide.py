"""The state table: from what is wanted and what is observed to what to do. Pure; docs/lifecycle.md shows it as a table.

Two rules decide every doubt. What has run is wanted until a person says otherwise: only a start has a deadline, and no
cause outside of a version ends one that has run. A program that can't hold up at all is given up: all of its instances
have ended five times in a row without a span of serving.
"""

from dataclasses import dataclass, field

from runtimes import observation
from runtimes.cause import Cause
from runtimes.observation import InstanceObservation

PREPARING, RUNNING, SHUTTING_DOWN, STOPPED, ERROR = "preparing", "running", "shutting_down", "stopped", "error"

# A failed instance of a version that still serves is tried again after this time.
REPLACE_FAILED_AFTER_S = 60.0
# One that was lost before it listened is not replaced at once: what lost it may do so again, each second.
REPLACE_LOST_EARLY_AFTER_S = 5.0
# So many lost before any became ready are enough.
LOST_BEFORE_ERROR = 5
# After these pauses a start that failed through an outside cause is tried again; then after the last one, each time.
START_AGAIN_AFTER_S = (60.0, 120.0, 300.0, 600.0, 1800.0)


@dataclass(frozen=True)
class Wanted:
    """What the database says of one version. Times in seconds since the epoch."""

    status: str
    running: bool
    replicas: int
    generation: int
    start_requested_at: float
    unready_since: float | None
    start_deadline_s: float
    may_start: bool = True
    # How many instances of this start have ended.
    lost: int = 0
    # Why the driver refused to create an instance last time (no room, for example).
    blocked: Cause | None = None
    # Since when the cluster has been seen without a pause: what it did before counts against no deadline.
    seen_since: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What to do. `status` is the status to move to; `reasons` say why, in words for logs and tests."""

    status: str
    cause: Cause | None = None
    create: int = 0
    end: tuple[str, ...] = ()
    discard: tuple[str, ...] = ()
    unready_since: float | None = None
    give_up: bool = False
    reasons: tuple[str, ...] = field(default=(), compare=False)


def decide(wanted: Wanted, instances: list[InstanceObservation], now: float) -> Plan:
    """The plan for one version with these instances (ended ones that are not discarded yet included)."""
    if wanted.status == ERROR:
        return _remove_all(wanted, instances, ERROR)
    if not wanted.running:
        return _remove_all(wanted, instances, SHUTTING_DOWN)
    current = [item for item in instances if item.generation == wanted.generation]
    old = [item for item in instances if item.generation != wanted.generation]
    end_old = tuple(item.uid for item in old if item.is_alive)
    discard_old = tuple(item.uid for item in old if not item.is_alive)
    if wanted.status == PREPARING and not current and (not wanted.may_start or end_old):
        return Plan(
            PREPARING, end=end_old, discard=discard_old, reasons=("waits for the earlier version to shut down",)
        )
    if any(item.is_ready for item in current):
        return _serve(wanted, current, end_old, discard_old, now)
    if wanted.status == PREPARING:
        return _await_first(wanted, current, end_old, discard_old, now)
    return _await_again(wanted, current, end_old, discard_old, now)


def start_again_at(attempt: int, now: float) -> float:
    """When a start that failed through an outside cause is tried again; `attempt` counts such failures, from 0."""
    return now + START_AGAIN_AFTER_S[min(attempt, len(START_AGAIN_AFTER_S) - 1)]


def _remove_all(wanted: Wanted, instances: list[InstanceObservation], while_alive: str) -> Plan:
    alive = [item for item in instances if item.is_alive]
    finished = ERROR if wanted.status == ERROR else STOPPED
    return Plan(
        status=while_alive if alive else finished,
        end=tuple(item.uid for item in alive if item.phase != observation.ENDING),
        discard=tuple(item.uid for item in instances if not item.is_alive),
        reasons=("all instances are removed",),
    )


def _serve(
    wanted: Wanted, current: list[InstanceObservation], end_old: tuple[str, ...], discard: tuple[str, ...], now: float
) -> Plan:
    """At least one is ready: the version runs, whatever the others do."""
    counted = _counted(current)
    ready = sum(item.is_ready for item in counted)
    # One that loads fails its probe until it is ready, which is no trouble.
    others = [item for item in current if not item.is_ready and item.phase != observation.GONE]
    troubled = _latest_cause([item for item in others if item.cause and item.cause.code != "probe_failed"])
    return _keep_number(
        RUNNING,
        wanted,
        current,
        end_old,
        discard,
        now,
        cause=(troubled or wanted.blocked) if ready < wanted.replicas else None,
        reasons=("at least one instance is ready",),
    )


def _await_first(
    wanted: Wanted, current: list[InstanceObservation], end_old: tuple[str, ...], discard: tuple[str, ...], now: float
) -> Plan:
    """A start: none has been ready yet, and it has a deadline."""
    counted = _counted(current)
    if (given_up := _given_up(current, counted, at_least=1)) is not None:
        return given_up
    observed = _latest_cause(counted) or wanted.blocked
    asked = max(wanted.start_requested_at, wanted.seen_since)
    if wanted.lost >= LOST_BEFORE_ERROR and (not counted or now - asked > wanted.start_deadline_s):
        # Where each lost one has its successor at once, they are enough when the start has had its time.
        lost = Cause(
            "instance_lost",
            f"{wanted.lost} instances were lost before they were ready.",
            "Read the log, then restart this version.",
        )
        return _give_up(current, _latest_cause(current) or lost, "too many instances were lost")
    # Without an instance only a refusal runs against the deadline: a start that never had its turn has not failed.
    waiting = wanted.start_requested_at if wanted.blocked else now
    # Not before it was asked for: what was adopted is older, and the cluster's clock may be behind ours.
    since = max(min((item.started_at or now for item in counted), default=waiting), asked)
    if now - since > wanted.start_deadline_s:
        return _give_up(current, _overdue(observed, wanted.start_deadline_s), "not ready within the start deadline")
    return _keep_number(
        PREPARING, wanted, current, end_old, discard, now, cause=observed, reasons=("no instance is ready yet",)
    )


def _await_again(
    wanted: Wanted, current: list[InstanceObservation], end_old: tuple[str, ...], discard: tuple[str, ...], now: float
) -> Plan:
    """It has run and none is ready now: it stays wanted, however long that takes."""
    counted = _counted(current)
    if (given_up := _given_up(current, counted, at_least=wanted.replicas)) is not None and given_up.cause.is_of_program:
        return given_up
    # What ended an instance tells more than that its successor is starting.
    cause = _latest_cause(counted) or wanted.blocked or _latest_cause(current)
    return _keep_number(
        RUNNING,
        wanted,
        current,
        end_old,
        discard,
        now,
        cause=cause,
        unready_since=wanted.unready_since or now,
        reasons=("none is ready; what has run stays wanted",),
    )


def _given_up(current: list[InstanceObservation], counted: list[InstanceObservation], *, at_least: int) -> Plan | None:
    """The end of a program that can't hold up: every instance, and `at_least` so many, has ended too often in a row."""
    exhausted = [item for item in current if item.is_exhausted]
    if len(exhausted) < at_least or any(not item.is_exhausted for item in counted):
        return None
    cause = _latest_cause(exhausted) or Cause("failed", "All instances failed.")
    return None if cause.is_outside else _give_up(current, cause, "all instances failed")


def _keep_number(
    status: str,
    wanted: Wanted,
    current: list[InstanceObservation],
    end_old: tuple[str, ...],
    discard: tuple[str, ...],
    now: float,
    *,
    cause: Cause | None,
    reasons: tuple[str, ...],
    unready_since: float | None = None,
) -> Plan:
    """As many instances as are wanted: create what is missing, end what is too much, forget what has ended."""
    counted = _counted(current)
    failed = [item for item in current if item.phase == observation.FAILED]
    retry = [item for item in failed if now - (item.ended_at or now) >= REPLACE_FAILED_AFTER_S]
    serves = any(item.is_ready for item in counted)
    lost_early = [item for item in current if not serves and _lost_early(item, now)]
    gone = [item for item in current if item.phase == observation.GONE and item not in lost_early]
    holding = len(counted) + len(failed) - len(retry) + len(lost_early)
    return Plan(
        status=status,
        cause=cause or _latest_cause(lost_early),
        create=max(0, wanted.replicas - holding),
        end=end_old + _surplus(counted, len(counted) - wanted.replicas),
        discard=(*discard, *(item.uid for item in (*gone, *retry))),
        unready_since=unready_since,
        reasons=reasons,
    )


def _give_up(current: list[InstanceObservation], cause: Cause, reason: str) -> Plan:
    alive = tuple(item.uid for item in current if item.is_alive and item.phase != observation.ENDING)
    return Plan(status=ERROR, cause=cause, end=alive, give_up=True, reasons=(reason,))


def _lost_early(item: InstanceObservation, now: float) -> bool:
    listened = any(step.name == "listening" and step.at for step in item.steps)
    return item.phase == observation.GONE and not listened and now - (item.ended_at or now) < REPLACE_LOST_EARLY_AFTER_S


def _counted(current: list[InstanceObservation]) -> list[InstanceObservation]:
    """Instances that fill a replica's place: alive and not on their way out."""
    return [item for item in current if item.is_alive and item.phase != observation.ENDING]


def _surplus(counted: list[InstanceObservation], count: int) -> tuple[str, ...]:
    """Those to end when there are `count` too many: first those not ready, then the youngest."""
    if count <= 0:
        return ()
    order = sorted(counted, key=lambda item: (item.is_ready, -(item.started_at or 0), item.uid))
    return tuple(item.uid for item in order[:count])


def _latest_cause(instances: list[InstanceObservation]) -> Cause | None:
    with_cause = [item for item in instances if item.cause]
    # By name last: of two that tell different things at the same moment it is always the same one.
    found = max(with_cause, key=lambda item: (item.ended_at or 0, item.started_at or 0, item.uid), default=None)
    return found.cause if found else None


def _overdue(observed: Cause | None, deadline_s: float) -> Cause:
    if observed:
        return observed
    return Cause(
        "start_timeout",
        f"No instance became ready within {deadline_s:,.0f} s.",
        "Read the log: it says what the engine waits for. A larger model may need a longer start deadline.",
    )
