"""Brings what runs in line with what is wanted, one cluster at a time: load, observe, decide, act, apply.

Level-triggered: it looks at everything each time, so a lost or doubled wake-up does no harm. No network or process
work happens inside a transaction, and every write is guarded, so being killed anywhere is harmless too.
"""

import logging
import time
from dataclasses import replace
from datetime import timedelta

import redis
from django.utils import timezone

from common.database_lock import try_lock
from common.stores import valkey
from deployments import charge, cluster_health, last_words, rollouts, rooms, starting_again, steering, strangers
from deployments.applying import apply
from deployments.crash_streak import Streak, crashes_in_a_row
from deployments.decide import Plan, Wanted, decide
from deployments.drivers import driver_of
from deployments.launch import Launch
from deployments.models import Cluster, DesiredState, DirectoryVersion, Status, Version
from deployments.models.version import INACTIVE
from deployments.selectors import active_versions_of_cluster, gateways_behind
from runtimes.claim import RENEW_S
from runtimes.driver import Driver, DriverError
from runtimes.observation import InstanceObservation, Observation, WorkloadObservation

log = logging.getLogger(__name__)
# A busy cluster is looked at again at once, but one call doesn't go on for ever.
MAX_ROUNDS = 20
REFUSALS = ("unschedulable", "driver_refused", "invalid_objects", "stranger_serves")
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
            if _reconcile_once(cluster) and rollouts.advance(cluster):
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


def _reconcile_once(cluster: Cluster) -> bool:
    """Whether the cluster answered, and this Slipway may act there."""
    started = time.monotonic()
    try:
        driver = driver_of(cluster)
        in_charge = charge.may_act(cluster, driver)
        seen = driver.observe()
    except DriverError as error:
        # A right that is missing freezes statuses just like a network that is down: nothing is known.
        cluster_health.note_silence(cluster, str(error))
        return False
    cluster_health.note_answer(cluster, seen.observed_at, took_s=time.monotonic() - started)
    if not in_charge:
        return False
    claimed = time.monotonic()
    # Loaded after the look: a version that was made meanwhile is not taken for one that has lost its instances.
    versions = active_versions_of_cluster(cluster)
    seen = strangers.without_posers(driver, seen, versions)
    # Nobody wants them any more, yet they serve until their successors do.
    held = {rollout.old_id for rollout in rollouts.open_rollouts(cluster)}
    busy_deployments = {
        version.deployment_id: version.pk
        for version in versions
        if version.pk not in held and _holds_place(version, seen.instances.get(version.key, []))
    }
    unknown = strangers.serving(driver, seen, {version.key: version.generation for version in versions})
    for version in versions:
        if time.monotonic() - claimed > RENEW_S:
            # A slow cluster: whoever stays silent for too long is taken for gone while it still acts.
            if not _is_still_in_charge(cluster, driver):
                return False
            claimed = time.monotonic()
        may_start = busy_deployments.get(version.deployment_id, version.pk) == version.pk
        beside = unknown.get(version.deployment.api_id, "")
        try:
            _reconcile_version(version, driver, seen, may_start=may_start, is_held=version.pk in held, beside=beside)
        except Exception:
            # One broken version must not stop the others; the next sweep tries again.
            log.exception("reconciling %s failed", version)
    starting_again.start_due(cluster)
    try:
        rooms.keep(cluster, driver, seen, versions)
    except Exception:
        log.exception("the namespaces of %s could not be looked at", cluster)
    try:
        strangers.look(cluster, driver, seen, {version.key: version.generation for version in versions})
    except Exception:
        log.exception("strangers of %s could not be looked at", cluster)
    return True


def _is_still_in_charge(cluster: Cluster, driver: Driver) -> bool:
    try:
        return charge.may_act(cluster, driver)
    except DriverError as error:
        cluster_health.note_silence(cluster, str(error))
        return False


def _holds_place(version: Version, instances: list[InstanceObservation]) -> bool:
    """A version on its way out keeps its deployment's place until its last instance is gone."""
    leaving = version.desired_state == DesiredState.STOPPED
    return leaving and (version.status not in INACTIVE or any(item.is_alive for item in instances))


def _reconcile_version(
    version: Version, driver: Driver, seen: Observation, *, may_start: bool, is_held: bool, beside: str
) -> None:
    """`beside`: what serves the same deployment though no version accounts for it."""
    now = timezone.now().timestamp()
    # A later start than any that this database knows of is not its to end: it is a stranger.
    instances = [item for item in seen.instances.get(version.key, []) if item.generation <= version.generation]
    workloads = (
        [item for item in seen.workloads.get(version.key, []) if item.generation <= version.generation]
        if seen.workloads is not None
        else None
    )
    wants_to_run = version.desired_state == DesiredState.RUNNING or (is_held and version.status == Status.RUNNING)
    launch = Launch(version)
    heard, instances = _remembered(version, driver, instances, now)
    wanted = _wanted(version, launch, instances, workloads, wants_to_run=wants_to_run, may_start=may_start)
    plan = decide(wanted, instances, now)
    if plan.status == Status.SHUTTING_DOWN and not _traffic_has_left(version):
        # First nobody is sent there any more, then it is told to end; the next look, which comes at once, does that.
        _store(version, replace(plan, end=(), discard=()), instances, heard)
        _leave_note(version.deployment.endpoint.cluster_id)
        time.sleep(ROLLOUT_STEP_S)
        return
    blocked = steering.steer(version, driver, plan, launch, instances, workloads, blocked=wanted.blocked, beside=beside)
    if blocked != wanted.blocked:
        plan = decide(replace(wanted, blocked=blocked), instances, now)
    _store(version, plan, instances, heard)
    steering.discard(version, driver, plan.discard)


def _store(version: Version, plan: Plan, instances: list[InstanceObservation], heard: list[last_words.Heard]) -> None:
    apply(version, plan, instances)
    for words in heard:
        last_words.keep(words)


def _wanted(
    version: Version,
    launch: Launch,
    instances: list[InstanceObservation],
    workloads: list[WorkloadObservation] | None,
    *,
    wants_to_run: bool,
    may_start: bool,
) -> Wanted:
    # Only a start has a deadline, and a version on its way out needs no plan: it must go even when none can be made of it.
    starts = wants_to_run and version.status == Status.PREPARING
    if workloads is None:
        current = [item for item in instances if item.is_alive and item.generation == version.generation]
        is_missing = len(current) < version.replicas
    else:
        is_missing = not any(item.generation == version.generation for item in workloads)
    told = next((item.cause for item in workloads or () if item.cause), None)
    # What the driver said when it was asked last counts until it is asked again, or a deadline would hide the reason.
    said = version.cause if is_missing and version.cause and version.cause.code in REFUSALS else None
    seen_since = version.deployment.endpoint.cluster.seen_since
    return Wanted(
        status=version.status,
        running=wants_to_run,
        replicas=version.replicas,
        generation=version.generation,
        start_requested_at=version.start_requested_at.timestamp(),
        unready_since=version.unready_since.timestamp() if version.unready_since else None,
        start_deadline_s=launch.plan.start_deadline_s if starts and launch.plan else 0.0,
        lost=version.ended_instances,
        may_start=may_start,
        blocked=(launch.broken if starts else None) or told or said,
        seen_since=seen_since.timestamp() if seen_since else 0.0,
    )


def _remembered(
    version: Version, driver: Driver, instances: list[InstanceObservation], now: float
) -> tuple[list[last_words.Heard], list[InstanceObservation]]:
    """What was heard of runs that have ended, and the instances with what takes a memory that a cluster doesn't have."""
    known = {instance.uid: instance for instance in version.known_instances}
    heard, remembered = [], []
    for item in instances:
        before = known.get(item.uid)
        words = last_words.hear(version, driver, item, before)
        ready_at = before.ready_at.timestamp() if before and before.ready_at else None
        streak = Streak(before.crashes, before.ends, ready_at) if before else None
        item = replace(item, crashes=crashes_in_a_row(streak, item, now))
        remembered.append(last_words.explained(version, item, before, words))
        heard += [words] if words else []
    return heard, remembered


def _traffic_has_left(version: Version) -> bool:
    """Whether every gateway that lives has acknowledged that the version serves no more, or had its time to."""
    if version.status != Status.SHUTTING_DOWN:
        return version.status != Status.RUNNING
    if timezone.now() - version.status_since > TRAFFIC_LEAVES_WITHIN:
        return True
    return not gateways_behind(DirectoryVersion.objects.get(pk=1).v)
