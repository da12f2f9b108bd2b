"""Asks a driver for what a plan says: more instances, fewer, none; and reads what it tells of those that ended."""

import logging

import orjson

from deployments.decide import Plan
from deployments.launch import Launch
from deployments.models import Instance, Status, Version
from deployments.rooms import room_of
from runtimes.cause import Cause
from runtimes.driver import Driver, DriverError, InvalidError, UnschedulableError
from runtimes.observation import InstanceObservation, WorkloadObservation

log = logging.getLogger(__name__)
# What is longer is left out: an object takes only so much, and it isn't read back.
MOST_DESCRIBED = 64 << 10


def steer(
    version: Version,
    driver: Driver,
    plan: Plan,
    launch: Launch,
    instances: list[InstanceObservation],
    workloads: list[WorkloadObservation] | None,
    *,
    blocked: Cause | None,
    beside: str,
) -> Cause | None:
    """Act; the cause when more instances were asked for and can't be had now. Where none were, `blocked` still holds.

    `beside` names what serves the same deployment, though no version accounts for it: nothing is started next to it.
    """
    if workloads is not None:
        return _steer_workload(version, driver, plan, launch, instances, workloads, blocked, beside)
    if plan.create:
        living = sum(item.is_alive and item.generation == version.generation for item in instances)
        blocked = _run(version, driver, launch, living + plan.create)
    for uid in plan.end:
        driver.end_instance(version.key, uid)
    return blocked


def _steer_workload(
    version: Version,
    driver: Driver,
    plan: Plan,
    launch: Launch,
    instances: list[InstanceObservation],
    workloads: list[WorkloadObservation],
    blocked: Cause | None,
    beside: str,
) -> Cause | None:
    """Ask a cluster that keeps the number of instances by itself for the right one.

    Ending single instances would only make it start others, so whatever has to go goes with its workload.
    """
    current = [item for item in workloads if item.generation == version.generation]
    if any(not item.is_marked for item in workloads):
        _mark(version, driver)
    if plan.status not in (Status.PREPARING, Status.RUNNING):
        # Once more when nothing is left to see: a start that was cut off has its Secrets there all the same.
        is_over = plan.status in (Status.STOPPED, Status.ERROR) and plan.status != version.status
        if any(not item.is_ending for item in workloads) or (plan.end and not workloads) or (is_over and not workloads):
            driver.end(version.key, up_to=version.generation)
        return blocked
    earlier = [item for item in workloads if item.generation < version.generation]
    left = any(item.uid in plan.end and item.generation < version.generation for item in instances)
    if any(not item.is_ending for item in earlier) or (left and not earlier):
        driver.end(version.key, up_to=version.generation - 1)
        return blocked
    living = any(item.is_alive and item.generation == version.generation for item in instances)
    wants_more = not current and bool(plan.create or living)
    wrong_number = any(item.replicas != version.replicas for item in current)
    if wants_more and not living and beside:
        return Cause(
            "stranger_serves",
            f"{beside} serves this deployment, though no version accounts for it.",
            "Adopt or remove it on the cluster's page; this version then starts by itself.",
            retryable=True,
        )
    if wants_more or wrong_number:
        # By the name that it has: one that was adopted may be called by another number.
        return _run(version, driver, launch, version.replicas, known_as=current[0].name if current else "")
    return blocked


def _mark(version: Version, driver: Driver) -> None:
    try:
        driver.mark(version.key, description=described(version))
    except DriverError as error:
        # The next look tries again; everything else goes on without it.
        log.warning("%s can't be marked as ours: %s", version, error)


def _run(version: Version, driver: Driver, launch: Launch, replicas: int, *, known_as: str = "") -> Cause | None:
    """Have `replicas` instances; the cause when no plan can be made, or the driver refuses."""
    if launch.plan is None:
        return launch.broken
    name = f"{version.deployment.name}-v{version.number}"
    try:
        if not known_as or "/" in known_as:
            # What began in the cluster's first namespace stays there.
            driver.prepare(room_of(launch.plan.organization, version.deployment.organization_id))
        driver.run(
            version.key, version.generation, launch.plan, replicas,
            name=name, description=described(version), known_as=known_as,
        )  # fmt: skip
    except UnschedulableError as error:
        remedy = "Free the resource, or start a version that asks for less."
        return Cause("unschedulable", str(error), remedy, retryable=True)
    except InvalidError as error:
        message = f"The cluster finds this version invalid: {error}"
        return Cause("invalid_objects", message, "Correct what it names in a new version.", (str(error),))
    except (DriverError, OSError) as error:
        message = f"The cluster refused to start an instance: {error}"
        return Cause("driver_refused", message, "Slipway keeps trying.", (str(error),), retryable=True)
    return None


def described(version: Version) -> str:
    """What a database that knows nothing of the version would need to take it in: everything but secret values."""
    deployment = version.deployment
    text = orjson.dumps(
        {
            "organization": deployment.organization.name,
            "deployment": deployment.name,
            "environment": deployment.environment,
            "endpoint": deployment.endpoint.name,
            "model": {"name": deployment.model.name, "source": deployment.model.source, "uri": deployment.model.uri},
            "number": version.number,
            "specification": version.specification_json,
        },
        option=orjson.OPT_SORT_KEYS,
    ).decode()
    return text if len(text) <= MOST_DESCRIBED else ""


def discard(version: Version, driver: Driver, uids: tuple[str, ...]) -> None:
    """Forget ended instances whose log is stored; the others wait for the watcher."""
    if not uids:
        return
    for uid in Instance.objects.filter(uid__in=uids, log_complete=True).values_list("uid", flat=True):
        driver.discard(version.key, uid)
