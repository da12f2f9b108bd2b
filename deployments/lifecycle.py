"""The only writer of `status`: compare-and-swap with the event in the same transaction."""

from django.utils import timezone

from accounts.models import User
from common.broadcast import publish_on_commit
from deployments.models import Event, Status, Version
from runtimes.cause import Cause

SEVERITY = {Status.ERROR: Event.Severity.ERROR}


def advance(version: Version, new: str, *, cause: Cause | None = None, **changes: object) -> bool:
    """Move from `version.status` to `new`; False when someone else moved it, or changed what is wanted, meanwhile.

    Runs inside a transaction.
    """
    old = version.status
    now = timezone.now()
    changes |= {"status": new, "status_since": now, "cause_json": cause.to_json() if cause else None}
    same = Version.objects.filter(
        pk=version.pk, status=old, generation=version.generation, desired_state=version.desired_state
    )
    moved = same.update(**changes)
    if not moved:
        return False
    for name, value in changes.items():
        setattr(version, name, value)
    label = Status(new).label
    message = f"Version {version.number}: {Status(old).label} → {label}."
    if new == Status.PREPARING and version.failed_starts:
        message += f" Slipway retries the start that failed (attempt {version.failed_starts + 1})."
    if cause and new != Status.RUNNING:
        message += f" {cause.message}"
    record_event(version, "status", message, severity=SEVERITY.get(Status(new), Event.Severity.INFO), old=old, new=new)
    return True


def record_readiness(version: Version, *, is_ready: bool) -> None:
    """That a version that runs has no instance that is ready any more, or has one again."""
    if is_ready:
        record_event(version, "ready", f"Version {version.number} serves again.")
        return
    why = version.cause.message if version.cause else "No instance is ready."
    message = f"Version {version.number} stopped serving: {why} Slipway keeps trying."
    record_event(version, "unready", message, severity=Event.Severity.WARNING)


def record_event(
    version: Version,
    kind: str,
    message: str,
    *,
    severity: str = Event.Severity.INFO,
    old: str = "",
    new: str = "",
    instance_uid: str = "",
    actor: User | None = None,
) -> None:
    Event.objects.create(
        deployment_id=version.deployment_id,
        version=version,
        instance_uid=instance_uid,
        kind=kind,
        severity=severity,
        message=message,
        old_status=old,
        new_status=new,
        actor=actor,
    )
    publish_on_commit("deployment", version.deployment_id)
