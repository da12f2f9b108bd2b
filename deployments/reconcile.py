"""Brings what runs in line with what is wanted, one cluster at a time: load, observe, decide, act, apply.

Level-triggered: it looks at everything each time, so a lost or doubled wake-up does no harm. No network or process
work happens inside a transaction, and every write is guarded, so being killed anywhere is harmless too.
"""

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import redis
from django.db import transaction
from django.utils import timezone

from common.broadcast import publish_on_commit, valkey
from common.database_lock import try_lock
from deployments import lifecycle, rollouts
from deployments.decide import Plan, Wanted, decide
from deployments.drivers import driver_of
from deployments.launch import launch_plan
from deployments.models import Cluster, DesiredState, DirectoryVersion, Event, Instance, Rollout, Status, Version
from deployments.models.version import INACTIVE
from deployments.selectors import active_versions_of_cluster, gateways_behind
from runtimes import observation
from runtimes.cause import Cause
from runtimes.driver import Driver, DriverError, UnschedulableError
from runtimes.engines.registry import UnknownEngineError, engine
from runtimes.launch_plan import LaunchPlan
from runtimes.observation import InstanceObservation, WorkloadObservation

log = logging.getLogger(__name__)
# A busy cluster is looked at again at once, but one call doesn't go on for ever.
MAX_ROUNDS = 20
REFUSALS = ("unschedulable", "driver_refused")
ROLLOUT_STEP_S = 0.2
TRAFFIC_LEAVES_WITHIN = timedelta(seconds=3)


def reconcile_cluster(cluster_id: int) -> None:
    """Reconcile until nobody asked meanwhile. One process per cluster; the others leave a note and go."""
    _leave_note(cluster_id)
    with try_lock(f"reconcile.{cluster_id}") as held:
        if not held:
            return
        for _ in range(MAX_ROUNDS):
            if not _take_note(cluster_id):
                return
            cluster = Cluster.objects.filter(pk=cluster_id).first()
            if cluster is None:
                return
            _reconcile_once(cluster)
            if rollouts.advance(cluster):
                # The next step follows at once, or as soon as the gateways have acknowledged this one.
                time.sleep(ROLLOUT_STEP_S)
                _leave_note(cluster_id)


def _leave_note(cluster_id: int) -> None:
    try:
        valkey().set(_note_key(cluster_id), 1, ex=60)
    except redis.RedisError:
        log.warning("Valkey is away; reconciling once without notes")


def _take_note(cluster_id: int) -> bool:
    """Whether somebody asked since the last look. Without Valkey: once."""
    try:
        return valkey().getdel(_note_key(cluster_id)) is not None
    except redis.RedisError:
        _reconcile_once(Cluster.objects.get(pk=cluster_id))
        return False


def _note_key(cluster_id: int) -> str:
    return f"slipway:dirty:{cluster_id}"


def _reconcile_once(cluster: Cluster) -> None:
    versions = active_versions_of_cluster(cluster)
    try:
        driver = driver_of(cluster)
        seen = driver.observe()
    except DriverError as error:
        # A right that is missing freezes statuses just like a network that is down: nothing is known.
        if cluster.unreachable_reason != str(error):
            Cluster.objects.filter(pk=cluster.pk).update(unreachable_reason=str(error))
        return
    Cluster.objects.filter(pk=cluster.pk).update(
        seen_at=datetime.fromtimestamp(seen.observed_at, UTC), unreachable_reason=""
    )
    # Nobody wants them any more, yet they serve until their successors do.
    held = {rollout.old_id for rollout in rollouts.open_rollouts(cluster)}
    busy_deployments = {
        version.deployment_id: version.pk
        for version in versions
        if version.pk not in held and _holds_place(version, seen.instances.get(version.key, []))
    }
    workloads = seen.workloads
    for version in versions:
        instances = seen.instances.pop(version.key, [])
        may_start = busy_deployments.get(version.deployment_id, version.pk) == version.pk
        mine = workloads.pop(version.key, []) if workloads is not None else None
        try:
            _reconcile_version(version, driver, instances, mine, may_start=may_start, is_held=version.pk in held)
        except Exception:
            # One broken version must not stop the others; the next sweep tries again.
            log.exception("reconciling %s failed", version)
    _remove_strangers(driver, seen.instances, workloads or {})


def _holds_place(version: Version, instances: list[InstanceObservation]) -> bool:
    """A version on its way out keeps its deployment's place until its last instance is gone."""
    leaving = version.desired_state == DesiredState.STOPPED
    return leaving and (version.status not in INACTIVE or any(item.is_alive for item in instances))


def _reconcile_version(
    version: Version,
    driver: Driver,
    instances: list[InstanceObservation],
    workloads: list[WorkloadObservation] | None,
    *,
    may_start: bool,
    is_held: bool,
) -> None:
    wants_to_run = version.desired_state == DesiredState.RUNNING or (is_held and version.status == Status.RUNNING)
    # A version on its way out needs no plan, and must go even when none can be made of it any more.
    plan_of_launch, broken = launch_plan(version) if wants_to_run else (None, None)
    if workloads is not None:
        instances = [_diagnosed(version, item) for item in instances]
    # What the driver said last time counts until it says otherwise, or a deadline would hide the reason.
    told = next((item.cause for item in workloads or () if item.cause), None)
    blocked = broken or told or (version.cause if version.cause and version.cause.code in REFUSALS else None)
    wanted = Wanted(
        status=version.status,
        running=wants_to_run,
        replicas=version.replicas,
        generation=version.generation,
        start_requested_at=version.start_requested_at.timestamp(),
        unready_since=version.unready_since.timestamp() if version.unready_since else None,
        start_deadline_s=plan_of_launch.start_deadline_s if plan_of_launch else 0.0,
        lost=version.ended_instances,
        may_start=may_start,
        blocked=blocked,
    )
    now = timezone.now().timestamp()
    plan = decide(wanted, instances, now)
    if plan.status == Status.SHUTTING_DOWN and not _traffic_has_left(version):
        # First nobody is sent there any more, then it is told to end; the next look, which comes at once, does that.
        _apply(version, replace(plan, end=(), discard=()), instances)
        _leave_note(version.deployment.endpoint.cluster_id)
        time.sleep(ROLLOUT_STEP_S)
        return
    if workloads is None:
        if plan.create and plan_of_launch:
            living = sum(item.is_alive and item.generation == version.generation for item in instances)
            blocked = _run(version, driver, plan_of_launch, living + plan.create)
            plan = decide(replace(wanted, blocked=blocked), instances, now)
        for uid in plan.end:
            driver.end_instance(version.key, uid)
    else:
        refused = _steer(version, driver, plan, plan_of_launch, workloads)
        if refused:
            plan = decide(replace(wanted, blocked=refused), instances, now)
    _apply(version, plan, instances)
    _discard(version, driver, plan.discard)


def _traffic_has_left(version: Version) -> bool:
    """Whether every gateway that lives has acknowledged that the version serves no more, or had its time to."""
    if version.status != Status.SHUTTING_DOWN:
        return version.status != Status.RUNNING
    if timezone.now() - version.status_since > TRAFFIC_LEAVES_WITHIN:
        return True
    return not gateways_behind(DirectoryVersion.objects.get(pk=1).v)


def _diagnosed(version: Version, item: InstanceObservation) -> InstanceObservation:
    """With the engine's own reading of the last words, where it has one; a cluster knows nothing of engines."""
    if item.cause is None or item.cause.code != "crashed":
        return item
    try:
        cause = engine(version.specification.engine).diagnose(item.cause.evidence, item.exit_code)
    except UnknownEngineError:
        return item
    return replace(item, cause=cause) if cause else item


def _steer(
    version: Version, driver: Driver, plan: Plan, launch: LaunchPlan | None, workloads: list[WorkloadObservation]
) -> Cause | None:
    """Ask a cluster that keeps the number of instances by itself for the right one; the cause when it refuses.

    Ending single instances would only make it start others, so whatever has to go goes with its workload.
    """
    current = [item for item in workloads if item.generation == version.generation]
    leaving = plan.status not in (Status.PREPARING, Status.RUNNING)
    if leaving or len(current) < len(workloads):
        if any(not item.is_ending for item in workloads):
            driver.end(version.key)
        return None
    wants_more = bool(plan.create) and not current
    wrong_number = any(item.replicas != version.replicas for item in current)
    if launch is not None and (wants_more or wrong_number):
        return _run(version, driver, launch, version.replicas)
    return None


def _run(version: Version, driver: Driver, plan: LaunchPlan, replicas: int) -> Cause | None:
    """Have `replicas` instances; the cause when the driver refuses."""
    name = f"{version.deployment.name}-v{version.number}"
    try:
        driver.run(version.key, version.generation, plan, replicas, name=name)
    except UnschedulableError as error:
        remedy = "Free the resource, or start a version that asks for less."
        return Cause("unschedulable", str(error), remedy, retryable=True)
    except (DriverError, OSError) as error:
        message = f"The cluster refused to start an instance: {error}"
        return Cause("driver_refused", message, "It is tried again.", (str(error),), retryable=True)
    return None


def _apply(version: Version, plan: Plan, instances: list[InstanceObservation]) -> None:
    """Write what was seen and decided, in one transaction; what someone else changed meanwhile is left alone."""
    with transaction.atomic():
        routes_changed = _store_instances(version, instances)
        moved = _apply_status(version, plan)
        if routes_changed or moved:
            _advance_rollout(version)
            DirectoryVersion.bump()


def _apply_status(version: Version, plan: Plan) -> bool:
    unready_since = datetime.fromtimestamp(plan.unready_since, UTC) if plan.unready_since else None
    if plan.status == version.status:
        changes: dict[str, object] = {}
        cause = plan.cause.to_json() if plan.cause else None
        # The cause of an error stays: it is what the error is about.
        if cause != version.cause_json and version.status != Status.ERROR:
            changes["cause_json"] = cause
        if unready_since != version.unready_since and version.status == Status.RUNNING:
            changes["unready_since"] = unready_since
        if changes:
            Version.objects.filter(pk=version.pk, status=version.status, generation=version.generation).update(
                **changes
            )
            publish_on_commit("deployment", version.deployment_id)
        return bool(changes)
    changes = {"unready_since": unready_since}
    if plan.status == Status.RUNNING:
        changes["ready_at"] = timezone.now()
    if plan.give_up:
        changes["desired_state"] = DesiredState.STOPPED
    cause = plan.cause if plan.status != Status.STOPPED else None
    return lifecycle.advance(version, plan.status, cause=cause, **changes)


def _store_instances(version: Version, observed: list[InstanceObservation]) -> bool:
    """Upsert the instance rows; whether anything that the gateway routes by has changed."""
    known = {instance.uid: instance for instance in version.known_instances}
    unknown = [item.uid for item in observed if item.uid not in known]
    # Ended ones whose log is complete are not loaded with the version; they are known all the same.
    known |= {instance.uid: instance for instance in Instance.objects.filter(uid__in=unknown)} if unknown else {}
    changed = routes_changed = False
    for item in observed:
        before = known.pop(item.uid, None)
        fields = _instance_fields(item)
        if before is not None and all(getattr(before, name) == value for name, value in fields.items()):
            continue
        changed = True
        routes_changed |= before is None or before.is_ready != item.is_ready or before.address != fields["address"]
        Instance.objects.update_or_create(uid=item.uid, defaults={"version": version, **fields})
        _note_instance(version, item, before)
    for gone in known.values():
        if gone.is_live:
            # Its folder or pod is gone without a last word.
            changed = routes_changed = True
            Instance.objects.filter(pk=gone.pk).update(phase=observation.GONE, ended_at=timezone.now(), ready_at=None)
    if changed:
        publish_on_commit("deployment", version.deployment_id)
    return routes_changed


def _instance_fields(item: InstanceObservation) -> dict[str, object]:
    def moment(seconds: float | None) -> datetime | None:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None

    return {
        "name": item.name,
        "generation": item.generation,
        "phase": item.phase,
        "address": item.address or "",
        "restarts": item.restarts,
        "exit_code": item.exit_code,
        "steps": [{"name": step.name, "at": step.at} for step in item.steps],
        "cause_json": item.cause.to_json() if item.cause else None,
        "started_at": moment(item.started_at),
        "ready_at": moment(item.ready_at),
        "ended_at": moment(item.ended_at),
    }


def _note_instance(version: Version, item: InstanceObservation, before: Instance | None) -> None:
    if before is None:
        lifecycle.record_event(version, "instance", f"Instance {item.name} scheduled.", instance_uid=item.uid)
    elif item.is_ready and not before.is_ready:
        lifecycle.record_event(version, "instance", f"Instance {item.name} is ready.", instance_uid=item.uid)
    elif item.restarts > before.restarts:
        why = item.cause.message if item.cause else "It ended."
        lifecycle.record_event(
            version,
            "restart",
            f"Instance {item.name} restarts: {why}",
            severity=Event.Severity.WARNING,
            instance_uid=item.uid,
        )
    elif item.phase == observation.FAILED and before.phase != observation.FAILED:
        why = item.cause.message if item.cause else ""
        lifecycle.record_event(
            version,
            "instance",
            f"Instance {item.name} failed. {why}",
            severity=Event.Severity.ERROR,
            instance_uid=item.uid,
        )
    elif item.phase == observation.GONE and before.phase != observation.GONE:
        lifecycle.record_event(version, "instance", f"Instance {item.name} ended.", instance_uid=item.uid)


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


def _discard(version: Version, driver: Driver, uids: tuple[str, ...]) -> None:
    """Forget ended instances whose log is stored; the others wait for the watcher."""
    complete = Instance.objects.filter(uid__in=uids, log_complete=True).values_list("uid", flat=True)
    for uid in complete:
        driver.discard(version.key, uid)


def _remove_strangers(
    driver: Driver, instances: dict[str, list[InstanceObservation]], workloads: dict[str, list[WorkloadObservation]]
) -> None:
    """End what belongs to no version that is wanted or active: left by a deleted one, or by a crash in between."""
    for version_key, items in workloads.items():
        if any(not item.is_ending for item in items):
            driver.end(version_key)
    for version_key, items in instances.items():
        stored = set(
            Instance.objects.filter(uid__in=[item.uid for item in items], log_complete=False).values_list(
                "uid", flat=True
            )
        )
        for item in items:
            if item.is_alive:
                driver.end_instance(version_key, item.uid)
            elif item.uid not in stored:
                driver.discard(version_key, item.uid)
