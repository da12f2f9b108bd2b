"""What a cluster's pods, Deployments and events tell of instances. Pure: raw JSON in, observation out."""

from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from typing import Any

from runtimes import observation
from runtimes.cause import Cause
from runtimes.kubernetes import pod_causes as causes
from runtimes.kubernetes.manifest import CLUSTER, CONTAINER, DEFAULT_PORT, FETCHING, VERSION
from runtimes.kubernetes.ownership import Sorted, description_of, generation_of, labels_of
from runtimes.kubernetes.places import qualified
from runtimes.kubernetes.pod_causes import terminated
from runtimes.observation import InstanceObservation, Observation, Step, WorkloadObservation

Json = dict[str, Any]
PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
CONFIG_REASONS = ("CreateContainerConfigError",)
# A pod whose time to end has been over for so long, on a node that doesn't answer, counts as gone.
OVERDUE_S = 60.0
START_REASONS = ("CreateContainerError", "RunContainerError", "StartError")


def observe(found: Sorted, events: list[Json], now: float) -> Observation:
    """All instances by version key. `events` are about pods, `now` seconds since the epoch."""
    told: dict[str, list[Json]] = defaultdict(list)
    for event in events:
        told[(event.get("involvedObject") or {}).get("uid", "")].append(event)
    instances: dict[str, list[InstanceObservation]] = defaultdict(list)
    for pod in found.pods:
        labels = labels_of(pod)
        if VERSION in labels:
            instances[labels[VERSION]].append(instance_of(pod, told[pod["metadata"].get("uid", "")], now))
    workloads: dict[str, list[WorkloadObservation]] = defaultdict(list)
    for deployment in found.deployments:
        labels = labels_of(deployment)
        if VERSION in labels:
            workloads[labels[VERSION]].append(_workload(deployment))
    return Observation(now, dict(instances), dict(workloads), found.strangers)


def instance_of(pod: Json, events: list[Json], now: float) -> InstanceObservation:
    metadata, status = pod["metadata"], pod.get("status") or {}
    container: Json = next(
        (item for item in status.get("containerStatuses") or [] if item.get("name") == CONTAINER), {}
    )
    conditions = {item.get("type"): item for item in status.get("conditions") or []}
    phase, cause = _phase(pod, container, conditions, events, now)
    ready_at = (
        _seconds((conditions.get("Ready") or {}).get("lastTransitionTime")) if phase == observation.READY else None
    )
    running = (container.get("state") or {}).get("running") or {}
    told = _telling_container(status, container)
    ended, restarts = terminated(told), int(told.get("restartCount") or 0)
    is_down = bool(ended) and "running" not in (told.get("state") or {})
    scheduled = _seconds((conditions.get("PodScheduled") or {}).get("lastTransitionTime"))
    is_scheduled = (conditions.get("PodScheduled") or {}).get("status") == "True"
    address = f"{status['podIP']}:{_port(pod)}" if status.get("podIP") else None
    return InstanceObservation(
        uid=str(metadata["uid"]).replace("-", ""),
        name=metadata["name"],
        namespace=metadata.get("namespace") or "",
        phase=phase,
        generation=generation_of(metadata.get("labels") or {}),
        address=address,
        restarts=restarts,
        started_at=_seconds(metadata.get("creationTimestamp")),
        ready_at=ready_at,
        ended_at=_gone_at(pod, ended) if phase == observation.GONE else None,
        exit_code=(ended or {}).get("exitCode"),
        ends=restarts + is_down,
        last_end_at=_seconds((ended or {}).get("finishedAt")),
        steps=(
            Step("scheduled", scheduled if is_scheduled else None),
            *_fetched(status),
            Step("image_pulled", _seconds(running.get("startedAt")) if running else None),
            Step("started", _seconds(running.get("startedAt")) if running else None),
            Step("ready", ready_at),
        ),
        cause=cause,
    )


def _telling_container(status: Json, container: Json) -> Json:
    """The one whose ends count: the engine's, or what fetches the model's files while that fails."""
    fetching = _fetching_container(status)
    if (container.get("state") or {}).get("running") or terminated(container) or not fetching:
        return container
    ended = (fetching.get("state") or {}).get("terminated") or {}
    return container if ended.get("exitCode") == 0 else fetching


def _gone_at(pod: Json, ended: Json | None) -> float | None:
    """When the pod ended. One that was thrown out before its containers ran has no word of theirs."""
    if (finished := _seconds((ended or {}).get("finishedAt"))) is not None:
        return finished
    conditions = (pod.get("status") or {}).get("conditions") or []
    times = [_seconds(item.get("lastTransitionTime")) for item in conditions]
    return max((at for at in times if at is not None), default=_seconds(pod["metadata"].get("creationTimestamp")))


def _phase(
    pod: Json, container: Json, conditions: dict[str, Json], events: list[Json], now: float
) -> tuple[str, Cause | None]:
    status = pod.get("status") or {}
    if (due := pod["metadata"].get("deletionTimestamp")) is not None:
        lost = causes.node(status, conditions, events)
        if lost is not None and now - (_seconds(due) or now) > OVERDUE_S:
            # Nobody is left there to say that it has ended: whoever waits for its end would wait as long as the node is away.
            return observation.GONE, lost
        return observation.ENDING, causes.disturbed(conditions, events) or lost
    if status.get("phase") in ("Failed", "Succeeded"):
        return observation.GONE, causes.disturbed(conditions, events) or causes.pod_ended(status)
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason") or ""
    if reason in PULL_REASONS:
        return observation.STARTING, causes.image_pull(container, waiting, events)
    if reason in CONFIG_REASONS:
        return observation.STARTING, causes.configuration(waiting)
    if (fetching := _fetching(status, events)) is not None:
        return fetching
    crash = causes.crash(container, events)
    if reason in START_REASONS:
        crash = causes.cannot_start(waiting)
    if reason == "CrashLoopBackOff" or reason in START_REASONS or "terminated" in (container.get("state") or {}):
        return observation.BACKING_OFF, crash
    if container.get("ready") and (conditions.get("Ready") or {}).get("status") == "True":
        return observation.READY, None
    if (container.get("state") or {}).get("running"):
        return observation.LOADING, causes.node(status, conditions, events) or crash or causes.probe(events)
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return observation.SCHEDULED, causes.unschedulable(scheduled, pod)
    return observation.STARTING, causes.mount(events)


def _fetching(status: Json, events: list[Json]) -> tuple[str, Cause | None] | None:
    """That the model's files are being brought, or what keeps them from it; None before and afterwards."""
    container = _fetching_container(status)
    state = container.get("state") or {}
    waiting, ended = state.get("waiting") or {}, terminated(container)
    if waiting.get("reason") in PULL_REASONS:
        pulling = causes.image_pull(container, waiting, events)
        remedy = "Let SLIPWAY_FETCH_IMAGE name an image of rclone that the nodes can pull, as one of your own registry."
        return observation.STARTING, replace(pulling, remedy=remedy, field="")
    if waiting.get("reason") in CONFIG_REASONS:
        return observation.STARTING, causes.configuration(waiting)
    cause = causes.not_fetched(ended) if ended and ended.get("exitCode") != 0 else None
    if state.get("running"):
        return observation.FETCHING, cause
    if cause is None:
        return None
    return observation.BACKING_OFF, cause


def _fetched(status: Json) -> tuple[Step, ...]:
    """The step of bringing the model's files, where that is one."""
    container = _fetching_container(status)
    if not container:
        return ()
    ended = (container.get("state") or {}).get("terminated") or {}
    return (Step("model_fetched", _seconds(ended.get("finishedAt")) if ended.get("exitCode") == 0 else None),)


def _fetching_container(status: Json) -> Json:
    found: list[Json] = status.get("initContainerStatuses") or []
    return next((item for item in found if item.get("name") == FETCHING), {})


def _workload(deployment: Json) -> WorkloadObservation:
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    failure = next(
        (
            item
            for item in status.get("conditions") or []
            if item.get("type") == "ReplicaFailure" and item.get("status") == "True"
        ),
        None,
    )
    cause = None
    if failure:
        message = str(failure.get("message") or "")
        cause = Cause(
            "quota_exceeded" if "quota" in message else "driver_refused",
            f"The cluster refuses to create pods: {message}",
            "Ask for less, or have the namespace's limits raised." if "quota" in message else "Its own words say why.",
            (message,),
            retryable=True,
        )
    return WorkloadObservation(
        name=qualified(metadata),
        generation=generation_of(labels_of(deployment)),
        replicas=int((deployment.get("spec") or {}).get("replicas") or 0),
        is_ending=bool(metadata.get("deletionTimestamp")),
        is_marked=CLUSTER in (metadata.get("labels") or {}),
        description=description_of(deployment),
        cause=cause,
    )


def _port(pod: Json) -> int:
    for container in (pod.get("spec") or {}).get("containers") or []:
        if container.get("name") == CONTAINER:
            for port in container.get("ports") or []:
                return int(port["containerPort"])
    return DEFAULT_PORT


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else None
