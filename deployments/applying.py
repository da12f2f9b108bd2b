"""Writes what was seen and decided: instances, status, events. Where nothing has changed nothing is written, not even begun."""

from datetime import UTC, datetime

from django.db import transaction
from django.utils import timezone

from common.broadcast import publish_on_commit
from deployments import lifecycle
from deployments.decide import Plan, start_again_at
from deployments.models import DesiredState, DirectoryVersion, Event, Instance, Rollout, Status, Version
from runtimes import observation
from runtimes.cause import Cause
from runtimes.observation import InstanceObservation

Row = tuple[InstanceObservation, Instance | None, dict[str, object]]


def apply(version: Version, plan: Plan, instances: list[InstanceObservation]) -> None:
    """Write the differences in one transaction; what someone else changed meanwhile is left alone."""
    changed, vanished = _differences(version, instances)
    status_changes = _status_changes(version, plan)
    moves = plan.status != version.status
    if not (changed or vanished or status_changes or moves):
        return
    with transaction.atomic():
        routes_changed = _store_instances(version, changed, vanished)
        moved = _move(version, plan) if moves else _note(version, status_changes)
        if routes_changed or moved:
            _advance_rollout(version)
            DirectoryVersion.bump()


def _differences(version: Version, observed: list[InstanceObservation]) -> tuple[list[Row], list[Instance]]:
    """Instances that are not as they were last time, and live ones that are gone without a last word."""
    known = {instance.uid: instance for instance in version.known_instances}
    unknown = [item.uid for item in observed if item.uid not in known]
    # Ended ones whose log is complete are not loaded with the version; they are known all the same.
    known |= {instance.uid: instance for instance in Instance.objects.filter(uid__in=unknown)} if unknown else {}
    changed: list[Row] = []
    for item in observed:
        before = known.pop(item.uid, None)
        fields = _fields(item)
        if before is None or any(getattr(before, name) != value for name, value in fields.items()):
            changed.append((item, before, fields))
    # Its folder or pod is gone.
    return changed, [instance for instance in known.values() if instance.is_live]


def _fields(item: InstanceObservation) -> dict[str, object]:
    def moment(seconds: float | None) -> datetime | None:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None

    return {
        "name": item.name,
        "namespace": item.namespace,
        "generation": item.generation,
        "phase": item.phase,
        "address": item.address or "",
        "restarts": item.restarts,
        "exit_code": item.exit_code,
        "ends": item.ends,
        "crashes": item.crashes or 0,
        "steps": [{"name": step.name, "at": step.at} for step in item.steps],
        "cause_json": item.cause.to_json() if item.cause else None,
        "started_at": moment(item.started_at),
        "ready_at": moment(item.ready_at),
        "ended_at": moment(item.ended_at),
    }


def _store_instances(version: Version, changed: list[Row], vanished: list[Instance]) -> bool:
    """Write the rows that differ; whether anything that the gateway routes by has changed."""
    routes_changed = False
    for item, before, fields in changed:
        was_ready, address = (before.is_ready, before.address) if before else (False, "")
        routes_changed |= was_ready != item.is_ready or (item.is_ready and address != fields["address"])
        Instance.objects.update_or_create(uid=item.uid, defaults={"version": version, **fields})
        _tell(version, item, before)
    for instance in vanished:
        routes_changed |= instance.is_ready
        Instance.objects.filter(pk=instance.pk).update(phase=observation.GONE, ended_at=timezone.now(), ready_at=None)
        _tell_end(version, instance.uid, instance.name, instance.cause)
    if changed or vanished:
        publish_on_commit("deployment", version.deployment_id)
    return routes_changed


def _tell(version: Version, item: InstanceObservation, before: Instance | None) -> None:
    """The event that the change of an instance is worth, if it is worth one."""

    def record(kind: str, message: str, severity: str = Event.Severity.INFO) -> None:
        lifecycle.record_event(version, kind, message, severity=severity, instance_uid=item.uid)

    why = item.cause.message if item.cause else ""
    if before is None:
        record("instance", f"Instance {item.name} created.")
    elif item.is_ready and not before.is_ready:
        record("instance", f"Instance {item.name} is ready.")
    elif item.restarts > before.restarts:
        record("restart", f"Instance {item.name} restarts: {why or 'It ended.'}", Event.Severity.WARNING)
    elif item.phase == observation.FAILED and before.phase != observation.FAILED:
        record("instance", f"Instance {item.name} failed. {why}", Event.Severity.ERROR)
    elif item.phase == observation.GONE and before.phase != observation.GONE:
        _tell_end(version, item.uid, item.name, item.cause)


def _tell_end(version: Version, uid: str, name: str, cause: Cause | None) -> None:
    """With the cause, where something else than the version has ended it."""
    is_disturbance = cause is not None and cause.is_outside
    message = f"Instance {name} ended. {cause.message}" if cause and is_disturbance else f"Instance {name} ended."
    severity = Event.Severity.WARNING if is_disturbance else Event.Severity.INFO
    lifecycle.record_event(version, "instance", message, severity=severity, instance_uid=uid)


def _status_changes(version: Version, plan: Plan) -> dict[str, object]:
    """What changes while the status stays."""
    if plan.status != version.status:
        return {}
    changes: dict[str, object] = {}
    # The cause of an error stays: it is what the error is about.
    if plan.cause != version.cause and version.status != Status.ERROR:
        changes["cause_json"] = plan.cause.to_json() if plan.cause else None
    unready_since = _moment(plan.unready_since)
    if unready_since != version.unready_since and version.status == Status.RUNNING:
        changes["unready_since"] = unready_since
    return changes


def _note(version: Version, changes: dict[str, object]) -> bool:
    """Write what changed beside the status. Callers are told the cause of a version that doesn't serve: gateways learn it."""
    if not changes:
        return False
    same = Version.objects.filter(pk=version.pk, status=version.status, generation=version.generation)
    if not same.update(**changes):
        return False
    for name, value in changes.items():
        setattr(version, name, value)
    # Written when the last instance stops being ready, and when the first is again.
    if "unready_since" in changes:
        lifecycle.record_readiness(version, is_ready=changes["unready_since"] is None)
    publish_on_commit("deployment", version.deployment_id)
    return True


def _move(version: Version, plan: Plan) -> bool:
    changes: dict[str, object] = {"unready_since": _moment(plan.unready_since)}
    if plan.status == Status.RUNNING:
        changes |= {"ready_at": timezone.now(), "failed_starts": 0}
    if plan.give_up:
        changes["desired_state"] = DesiredState.STOPPED
        if plan.cause and plan.cause.is_outside and version.deployment.starts_again:
            again = start_again_at(version.failed_starts, timezone.now().timestamp())
            changes |= {"start_again_at": _moment(again), "failed_starts": version.failed_starts + 1}
    cause = plan.cause if plan.status != Status.STOPPED else None
    return lifecycle.advance(version, plan.status, cause=cause, **changes)


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _advance_rollout(version: Version) -> None:
    phase = {
        Status.RUNNING: Rollout.Phase.DONE,
        Status.ERROR: Rollout.Phase.FAILED,
        Status.STOPPED: Rollout.Phase.SUPERSEDED,
        Status.SHUTTING_DOWN: Rollout.Phase.SUPERSEDED,
    }.get(Status(version.status))
    open_rollouts = Rollout.objects.filter(new=version, finished_at=None, strategy=Rollout.Strategy.REPLACE)
    if phase:
        open_rollouts.update(phase=phase, finished_at=timezone.now())
    elif version.status == Status.PREPARING:
        open_rollouts.filter(phase=Rollout.Phase.STOPPING_OLD).update(phase=Rollout.Phase.STARTING_NEW)
