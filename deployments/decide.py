"""The state table: from what is wanted and what is observed to what to do. Pure; docs/lifecycle.md shows it as a table."""

from dataclasses import dataclass, field

from runtimes import observation
from runtimes.cause import Cause
from runtimes.observation import InstanceObservation

PREPARING, RUNNING, SHUTTING_DOWN, STOPPED, ERROR = "preparing", "running", "shutting_down", "stopped", "error"

# None ready for this long after having run is an error.
UNREADY_DEADLINE_S = 120.0
# A failed instance of a version that still serves is tried again after this time.
REPLACE_FAILED_AFTER_S = 60.0
# One that was lost before it listened is not replaced at once: what lost it may do so again, each second.
REPLACE_LOST_EARLY_AFTER_S = 5.0
# So many lost before any became ready are enough.
LOST_BEFORE_ERROR = 5


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
    if not current and (not wanted.may_start or end_old):
        return Plan(
            PREPARING, end=end_old, discard=discard_old, reasons=("waits for the earlier version to shut down",)
        )
    ready = [item for item in current if item.is_ready]
    if ready:
        return _serve(wanted, current, end_old, discard_old, now)
    return _await_ready(wanted, current, end_old, discard_old, now)


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
    gone = tuple(item.uid for item in current if item.phase == observation.GONE)
    failed = [item for item in current if item.phase == observation.FAILED]
    retry = tuple(item.uid for item in failed if now - (item.ended_at or now) >= REPLACE_FAILED_AFTER_S)
    counted = _counted(current)
    holding = len(counted) + len(failed) - len(retry)
    surplus = _surplus(counted, len(counted) - wanted.replicas)
    return Plan(
        status=RUNNING,
        create=max(0, wanted.replicas - holding),
        end=end_old + surplus,
        discard=(*discard, *gone, *retry),
        cause=next((item.cause for item in failed if item.cause), None)
        or (wanted.blocked if holding < wanted.replicas else None),
        reasons=("at least one instance is ready",),
    )


def _await_ready(
    wanted: Wanted, current: list[InstanceObservation], end_old: tuple[str, ...], discard: tuple[str, ...], now: float
) -> Plan:
    counted = _counted(current)
    failed = [item for item in current if item.phase == observation.FAILED]
    gone = tuple(item.uid for item in current if item.phase == observation.GONE)
    if failed and not counted:
        return _give_up(
            wanted, current, _latest_cause(failed) or Cause("failed", "All instances failed."), "all instances failed"
        )
    observed = _latest_cause(counted) or wanted.blocked
    if wanted.status == PREPARING:
        if wanted.lost >= LOST_BEFORE_ERROR and not counted:
            lost = Cause(
                "instance_lost",
                f"{wanted.lost} instances were lost before they were ready.",
                "Read the log, then restart this version.",
            )
            return _give_up(wanted, current, _latest_cause(current) or lost, "too many instances were lost")
        # Without an instance only a refusal runs against the deadline: a start that never had its turn has not failed.
        waiting = wanted.start_requested_at if wanted.blocked else now
        since = min((item.started_at or now for item in counted), default=waiting)
        if now - since > wanted.start_deadline_s:
            return _give_up(
                wanted, current, _overdue(observed, wanted.start_deadline_s), "not ready within the start deadline"
            )
        unready_since = None
    else:
        unready_since = wanted.unready_since or now
        # A replacement that is still loading has its own start deadline; only after it does the shorter one count.
        loading = any(
            now - (item.started_at or now) < wanted.start_deadline_s and (item.started_at or 0) >= unready_since - 1
            for item in counted
        )
        if now - unready_since > UNREADY_DEADLINE_S and not loading:
            return _give_up(wanted, current, _unready(observed), "none ready for too long after having run")
    surplus = _surplus(counted, len(counted) - wanted.replicas)
    lost_early = [item for item in current if _lost_early(item, now)]
    gone = tuple(uid for uid in gone if uid not in {item.uid for item in lost_early})
    return Plan(
        status=wanted.status,
        cause=observed or _latest_cause(lost_early),
        create=max(0, wanted.replicas - len(counted) - len(failed) - len(lost_early)),
        end=end_old + surplus,
        discard=(*discard, *gone),
        unready_since=unready_since,
        reasons=("no instance is ready yet",),
    )


def _give_up(wanted: Wanted, current: list[InstanceObservation], cause: Cause, reason: str) -> Plan:
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
    return max(with_cause, key=lambda item: (item.ended_at or 0, item.started_at or 0)).cause if with_cause else None


def _overdue(observed: Cause | None, deadline_s: float) -> Cause:
    if observed:
        return observed
    return Cause(
        "start_timeout",
        f"No instance became ready within {deadline_s:,.0f} s.",
        "Read the log: it says what the engine waits for. A larger model may need a longer start deadline.",
    )


def _unready(observed: Cause | None) -> Cause:
    remedy = "Read the log of the last instance, then restart this version or start a corrected one."
    return observed or Cause("not_ready", f"No instance has been ready for {UNREADY_DEADLINE_S:g} s.", remedy)
