"""Asks a driver for what a plan says: more instances, fewer, none; and reads what it tells of those that ended."""

import orjson

from deployments.decide import Plan
from deployments.launch import Launch
from deployments.models import Instance, Status, Version
from runtimes.cause import Cause
from runtimes.driver import Driver, DriverError, UnschedulableError
from runtimes.observation import InstanceObservation, WorkloadObservation


def steer(
    version: Version,
    driver: Driver,
    plan: Plan,
    launch: Launch,
    instances: list[InstanceObservation],
    workloads: list[WorkloadObservation] | None,
    *,
    blocked: Cause | None,
) -> Cause | None:
    """Act; the cause when more instances were asked for and can't be had now. Where none were, `blocked` still holds."""
    if workloads is not None:
        return _steer_workload(version, driver, plan, launch, workloads, blocked)
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
    workloads: list[WorkloadObservation],
    blocked: Cause | None,
) -> Cause | None:
    """Ask a cluster that keeps the number of instances by itself for the right one.

    Ending single instances would only make it start others, so whatever has to go goes with its workload.
    """
    current = [item for item in workloads if item.generation == version.generation]
    if any(not item.is_marked for item in workloads):
        driver.mark(version.key, description=described(version))
    leaving = plan.status not in (Status.PREPARING, Status.RUNNING)
    if leaving or len(current) < len(workloads):
        if any(not item.is_ending for item in workloads):
            driver.end(version.key)
        return blocked
    wants_more = bool(plan.create) and not current
    wrong_number = any(item.replicas != version.replicas for item in current)
    if wants_more or wrong_number:
        return _run(version, driver, launch, version.replicas)
    return blocked


def _run(version: Version, driver: Driver, launch: Launch, replicas: int) -> Cause | None:
    """Have `replicas` instances; the cause when no plan can be made, or the driver refuses."""
    if launch.plan is None:
        return launch.broken
    name = f"{version.deployment.name}-v{version.number}"
    try:
        driver.run(version.key, version.generation, launch.plan, replicas, name=name, description=described(version))
    except UnschedulableError as error:
        remedy = "Free the resource, or start a version that asks for less."
        return Cause("unschedulable", str(error), remedy, retryable=True)
    except (DriverError, OSError) as error:
        message = f"The cluster refused to start an instance: {error}"
        return Cause("driver_refused", message, "It is tried again.", (str(error),), retryable=True)
    return None


def described(version: Version) -> str:
    """What a database that knows nothing of the version would need to take it in: everything but secret values."""
    deployment = version.deployment
    return orjson.dumps(
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


def discard(version: Version, driver: Driver, uids: tuple[str, ...]) -> None:
    """Forget ended instances whose log is stored; the others wait for the watcher."""
    if not uids:
        return
    for uid in Instance.objects.filter(uid__in=uids, log_complete=True).values_list("uid", flat=True):
        driver.discard(version.key, uid)
