"""How one version takes another's place without a pause: start, wait until ready, move traffic, drain, stop.

While a rollout of this kind is open, its old version is *held*: nobody wants it any more, yet it serves. Each step is
taken from what the database says, so being killed between two of them costs nothing.
"""

from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from common.broadcast import publish_on_commit
from deployments import lifecycle
from deployments.models import Cluster, DesiredState, DirectoryVersion, Event, Rollout, Status, Version
from deployments.selectors import gateways_behind, ready_instances

# A new version that finds no room beside the old one for this long takes its place the plain way.
ROOM_WITHIN = timedelta(seconds=10)
# Ready for so long before it takes over: one that crashes at its first request, or shortly after its start, never does.
STEADY_FOR = timedelta(seconds=2)
# One that runs, but not with all its instances, takes over after this time: some may never come.
ALL_READY_WITHIN = timedelta(seconds=60)
# A gateway that doesn't acknowledge is not waited for longer: it may be gone for good.
ACKNOWLEDGED_WITHIN = timedelta(seconds=10)
# A refusal is no lack of room: to end what serves would not mend it.
NO_ROOM = ("unschedulable", "quota_exceeded")


def open_rollouts(cluster: Cluster) -> list[Rollout]:
    """Those without a pause that are under way."""
    return list(
        Rollout.objects.filter(
            finished_at=None, strategy=Rollout.Strategy.ZERO_DOWNTIME, deployment__endpoint__cluster=cluster
        ).select_related("old", "new", "deployment")
    )


def advance(cluster: Cluster) -> bool:
    """Take the next step of each open rollout; whether one was taken, or will be soon. Only after a look that was answered: a
    step that is taken on what was known before could end what serves."""
    moved = False
    for rollout in open_rollouts(cluster):
        moved |= _advance(rollout)
    return moved


def _advance(rollout: Rollout) -> bool:
    new, old, now = rollout.new, rollout.old, timezone.now()
    if rollout.phase == Rollout.Phase.MOVED:
        acknowledged = not gateways_behind(rollout.moved_version or 0)
        if not ready_instances(new, before=now):
            return _move_back(rollout)
        if acknowledged or now - (rollout.moved_at or now) > ACKNOWLEDGED_WITHIN:
            return _finish(rollout, Rollout.Phase.DONE)
        return True
    if new.desired_state != DesiredState.RUNNING or new.status == Status.ERROR:
        return _give_back(rollout, old, new)
    if old is None or old.is_inactive:
        # It ended by itself; there is nothing left to take the place of.
        return _finish(rollout, Rollout.Phase.DONE) if new.status == Status.RUNNING else False
    if new.status == Status.RUNNING:
        enough = new.replicas if now - new.status_since < ALL_READY_WITHIN else 1
        if ready_instances(new, before=now - STEADY_FOR) >= enough:
            return _move(rollout)
        # Soon, when they only have to stay so.
        return ready_instances(new, before=now) >= enough
    if new.cause and new.cause.code in NO_ROOM and now - rollout.created_at > ROOM_WITHIN:
        return _fall_back(rollout, new)
    return False


def _move(rollout: Rollout) -> bool:
    """From here on the directory shows the new version's instances; the old one serves until every gateway has seen it."""
    with transaction.atomic():
        taken = _open(rollout).update(phase=Rollout.Phase.MOVED, moved_at=timezone.now())
        if taken:
            lifecycle.record_event(rollout.new, "rollout", f"Version {rollout.new.number} takes over the traffic.")
            Rollout.objects.filter(pk=rollout.pk).update(moved_version=DirectoryVersion.bump())
    return bool(taken)


def _move_back(rollout: Rollout) -> bool:
    """The new one is not ready any more, and the old one still is there: it serves again until the new one holds up."""
    with transaction.atomic():
        taken = _open(rollout).update(phase=Rollout.Phase.STARTING_NEW, moved_at=None, moved_version=None)
        if taken:
            message = f"Version {rollout.new.number} is no longer ready; the earlier version keeps serving."
            lifecycle.record_event(rollout.new, "rollout", message, severity=Event.Severity.WARNING)
            DirectoryVersion.bump()
    return bool(taken)


def _give_back(rollout: Rollout, old: Version | None, new: Version) -> bool:
    """The new one failed or was stopped: the old one, which never stopped serving, is wanted again."""
    failed = new.status == Status.ERROR
    with transaction.atomic():
        phase = Rollout.Phase.FAILED if failed else Rollout.Phase.SUPERSEDED
        if not _open(rollout).update(phase=phase, finished_at=timezone.now()):
            return False
        if old is not None and not old.is_inactive:
            Version.objects.filter(pk=old.pk).update(desired_state=DesiredState.RUNNING)
            why = "failed" if failed else "was stopped"
            severity = Event.Severity.WARNING if failed else Event.Severity.INFO
            message = f"Version {new.number} {why}; version {old.number} keeps serving."
            lifecycle.record_event(old, "rollout", message, severity=severity)
        DirectoryVersion.bump()
        publish_on_commit("deployment", rollout.deployment_id)
    return True


def _fall_back(rollout: Rollout, new: Version) -> bool:
    with transaction.atomic():
        taken = _open(rollout).update(strategy=Rollout.Strategy.REPLACE, phase=Rollout.Phase.STOPPING_OLD)
        if taken:
            message = f"There is no room for version {new.number} beside the running one: that one stops first."
            lifecycle.record_event(new, "rollout", message, severity=Event.Severity.WARNING)
            DirectoryVersion.bump()
    return bool(taken)


def _finish(rollout: Rollout, phase: str) -> bool:
    with transaction.atomic():
        taken = _open(rollout).update(phase=phase, finished_at=timezone.now())
        if taken:
            DirectoryVersion.bump()
            publish_on_commit("deployment", rollout.deployment_id)
    return bool(taken)


def _open(rollout: Rollout):  # type: ignore[no-untyped-def]
    """The rollout, unless somebody moved it meanwhile."""
    return Rollout.objects.filter(pk=rollout.pk, finished_at=None, phase=rollout.phase, strategy=rollout.strategy)
