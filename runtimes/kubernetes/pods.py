"""What a cluster's pods, Deployments and events tell of instances. Pure: raw JSON in, observation out."""

import re
from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from typing import Any

from runtimes import observation
from runtimes.cause import Cause
from runtimes.kubernetes.manifest import CLUSTER, CONTAINER, DEFAULT_PORT, FETCHING, VERSION
from runtimes.kubernetes.ownership import Sorted, description_of, generation_of, labels_of
from runtimes.model_source import MOUNT
from runtimes.observation import InstanceObservation, Observation, Step, WorkloadObservation

Json = dict[str, Any]
PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
CONFIG_REASONS = ("CreateContainerConfigError",)
# What pulls say where the registry is the trouble, not the image's name.
_REGISTRY_AWAY = (
    "no such host",
    "timeout",
    "connection refused",
    "too many requests",
    "429",
    "server misbehaving",
    "503 service",
)
# The scheduler's words of a claim that isn't there, or that nothing stands behind.
_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)" not found|unbound immediate PersistentVolumeClaims')
START_REASONS = ("CreateContainerError", "RunContainerError", "StartError")
# How the last end of a container that could not be started at all is told, while it waits for the next try.
NEVER_STARTED = ("StartError", "ContainerCannotRun")
# A connection's own port differs with each try: with it the same fault would look like another one.
_OWN_PORT = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}):\d{4,5}->")


def observe(found: Sorted, events: list[Json], now: float) -> Observation:
    """All instances by version key. `events` are about pods, `now` seconds since the epoch."""
    told: dict[str, list[Json]] = defaultdict(list)
    for event in events:
        told[(event.get("involvedObject") or {}).get("uid", "")].append(event)
    instances: dict[str, list[InstanceObservation]] = defaultdict(list)
    for pod in found.pods:
        labels = labels_of(pod)
        if VERSION in labels:
            instances[labels[VERSION]].append(instance_of(pod, told[pod["metadata"].get("uid", "")]))
    workloads: dict[str, list[WorkloadObservation]] = defaultdict(list)
    for deployment in found.deployments:
        labels = labels_of(deployment)
        if VERSION in labels:
            workloads[labels[VERSION]].append(_workload(deployment))
    return Observation(now, dict(instances), dict(workloads), found.strangers)


def instance_of(pod: Json, events: list[Json]) -> InstanceObservation:
    metadata, status = pod["metadata"], pod.get("status") or {}
    container: Json = next(
        (item for item in status.get("containerStatuses") or [] if item.get("name") == CONTAINER), {}
    )
    conditions = {item.get("type"): item for item in status.get("conditions") or []}
    phase, cause = _phase(pod, container, conditions, events)
    ready_at = (
        _seconds((conditions.get("Ready") or {}).get("lastTransitionTime")) if phase == observation.READY else None
    )
    running = (container.get("state") or {}).get("running") or {}
    told = _telling_container(status, container)
    ended, restarts = _terminated(told), int(told.get("restartCount") or 0)
    is_down = bool(ended) and "running" not in (told.get("state") or {})
    scheduled = _seconds((conditions.get("PodScheduled") or {}).get("lastTransitionTime"))
    is_scheduled = (conditions.get("PodScheduled") or {}).get("status") == "True"
    address = f"{status['podIP']}:{_port(pod)}" if status.get("podIP") else None
    return InstanceObservation(
        uid=str(metadata["uid"]).replace("-", ""),
        name=metadata["name"],
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
    if (container.get("state") or {}).get("running") or _terminated(container) or not fetching:
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


def _phase(pod: Json, container: Json, conditions: dict[str, Json], events: list[Json]) -> tuple[str, Cause | None]:
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return observation.ENDING, _node_cause(status, conditions, events)
    if status.get("phase") in ("Failed", "Succeeded"):
        return observation.GONE, _pod_ended(status)
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason") or ""
    if reason in PULL_REASONS:
        return observation.STARTING, _image_pull(container, waiting, events)
    if reason in CONFIG_REASONS:
        return observation.STARTING, _config(waiting)
    if (fetching := _fetching(status, events)) is not None:
        return fetching
    crash = _crash(container, events)
    if reason in START_REASONS:
        crash = _cannot_start(waiting)
    if reason == "CrashLoopBackOff" or reason in START_REASONS or "terminated" in (container.get("state") or {}):
        return observation.BACKING_OFF, crash
    if container.get("ready") and (conditions.get("Ready") or {}).get("status") == "True":
        return observation.READY, None
    if (container.get("state") or {}).get("running"):
        return observation.LOADING, _node_cause(status, conditions, events) or crash or _probe(events)
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return observation.SCHEDULED, _unschedulable(scheduled, pod)
    return observation.STARTING, _mount(events)


def _fetching(status: Json, events: list[Json]) -> tuple[str, Cause | None] | None:
    """That the model's files are being brought, or what keeps them from it; None before and afterwards."""
    container = _fetching_container(status)
    state = container.get("state") or {}
    waiting, ended = state.get("waiting") or {}, _terminated(container)
    if waiting.get("reason") in PULL_REASONS:
        pulling = _image_pull(container, waiting, events)
        remedy = "Let SLIPWAY_FETCH_IMAGE name an image of rclone that the nodes can pull, as one of your own registry."
        return observation.STARTING, replace(pulling, remedy=remedy, field="")
    if waiting.get("reason") in CONFIG_REASONS:
        return observation.STARTING, _config(waiting)
    cause = _not_fetched(ended) if ended and ended.get("exitCode") != 0 else None
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


def _not_fetched(ended: Json) -> Cause:
    said = str(ended.get("message") or "").strip().splitlines()[-8:]
    text = " ".join(said)
    remedy = "Correct the model's address, or the key that is stored with it, then start a new version."
    if "no space left" in text.lower():
        remedy = "Name a volume claim with more room as the model cache in a new version."
    return Cause(
        "model_unreachable",
        "The model's files could not be fetched from their store.",
        remedy,
        tuple(said) or (f"exit code {ended.get('exitCode')}",),
        field="model",
        retryable=True,
    )


def _image_pull(container: Json, waiting: Json, events: list[Json]) -> Cause:
    image = container.get("image") or "the image"
    said = _words(events, "Failed") or ([waiting["message"]] if waiting.get("message") else [])
    text = " ".join(said).lower()
    if any(word in text for word in _REGISTRY_AWAY):
        return Cause(
            "registry_unreachable",
            f"The image {image} can't be pulled now: its registry doesn't answer, or takes no more requests.",
            "The cluster tries again. Check the node's network, or use a registry that it reaches.",
            tuple(said[-4:]),
            field="image",
            retryable=True,
        )
    remedy = "Check the image's name and tag in a new version."
    if "unauthorized" in text or "denied" in text or "authentication" in text:
        remedy = "The registry wants credentials: give the namespace's service account a pull secret for it."
    return Cause(
        "image_pull", f"The image {image} can't be pulled.", remedy, tuple(said[-4:]), field="image", retryable=True
    )


def _config(waiting: Json) -> Cause:
    message = str(waiting.get("message") or "")
    return Cause(
        "missing_secret" if "secret" in message else "bad_configuration",
        f"The container can't be configured: {message}",
        "Create what is missing in the cluster, or start a version without it.",
        (message,),
        retryable=True,
    )


def _cannot_start(waiting: Json) -> Cause:
    message = str(waiting.get("message") or waiting.get("reason"))
    missing = "no such file" in message or "not found" in message
    return Cause(
        "command_not_found" if missing else "cannot_start",
        "The command is not in the image." if missing else "The container can't be started.",
        "Correct the command in a new version.",
        (message,),
    )


def _crash(container: Json, events: list[Json]) -> Cause | None:
    ended = _terminated(container)
    if not ended:
        return None
    code, reason = ended.get("exitCode"), ended.get("reason") or ""
    if reason in NEVER_STARTED:
        return _cannot_start(ended)
    evidence = tuple(str(ended.get("message") or "").strip().splitlines()[-8:]) or (f"{reason}, exit code {code}",)
    if reason == "OOMKilled":
        return Cause(
            "out_of_memory",
            "The container used more memory than the version allows and was killed.",
            "Start a version with more memory.",
            (f"OOMKilled, exit code {code}", *evidence),
            field="memory",
        )
    killed_by_probe = [line for line in _words(events, "Killing", "Unhealthy") if "probe" in line]
    if code in (137, 143) and killed_by_probe:
        return Cause(
            "hung",
            "The program stopped answering its health check and was started again.",
            "Read the log for what it was doing; a busy engine may need more CPU.",
            tuple(killed_by_probe[-3:]),
            retryable=True,
        )
    return Cause(
        "crashed",
        f"The program ended with exit code {code}.",
        "Its last words are below; the log has the rest.",
        evidence,
    )


def _unschedulable(condition: Json, pod: Json) -> Cause:
    message = str(condition.get("message") or "No node takes the pod.")
    if (missing := _CLAIM.search(message)) is not None:
        claims = _model_claims(pod)
        every = set(_claims(pod).values())
        name = missing[1] or (next(iter(every)) if len(every) == 1 else "of the version")
        return Cause(
            "claim_missing",
            f"The volume claim {name} does not exist where the instance is to run, or has no volume yet.",
            "Create it in the cluster's namespace, or start a version that names another one.",
            (message,),
            field="model" if name in claims else "cache_claim",
            retryable=True,
        )
    return Cause(
        "unschedulable",
        f"No node can take the instance: {message}",
        "Free the resource, or start a version that asks for less or may run elsewhere.",
        (message,),
        retryable=True,
    )


def _claims(pod: Json) -> dict[str, str]:
    """The pod's volume claims by the names of their volumes."""
    volumes = (pod.get("spec") or {}).get("volumes") or []
    return {
        item["name"]: item["persistentVolumeClaim"]["claimName"] for item in volumes if "persistentVolumeClaim" in item
    }


def _model_claims(pod: Json) -> set[str]:
    """Claims that hold the model itself; what is fetched lies in a cache."""
    specification, claims = pod.get("spec") or {}, _claims(pod)
    if specification.get("initContainers"):
        return set()
    mounts = [mount for item in specification.get("containers") or [] for mount in item.get("volumeMounts") or []]
    return {claims[mount["name"]] for mount in mounts if mount["mountPath"] == MOUNT and mount["name"] in claims}


def _probe(events: list[Json]) -> Cause | None:
    said = _words(events, "Unhealthy")
    if not said:
        return None
    return Cause(
        "probe_failed",
        "The instance runs but its health check doesn't succeed yet.",
        "Wait while it loads. If it never gets ready, check port and health path, and read the log.",
        tuple(said[-3:]),
        retryable=True,
    )


def _mount(events: list[Json]) -> Cause | None:
    said = _words(events, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
    if not said:
        return None
    return Cause(
        "node_problem",
        "The node can't set the instance up yet.",
        "It is tried again; the node's own words are below.",
        tuple(said[-3:]),
        retryable=True,
    )


def _said_of_node(events: list[Json], ready: Json) -> str:
    said = _words(events, "NodeNotReady")
    return said[-1] if said else f"not ready since {ready.get('lastTransitionTime')}, though its container was ready"


def _node_cause(status: Json, conditions: dict[str, Json], events: list[Json]) -> Cause | None:
    ready = conditions.get("Ready") or {}
    containers = (conditions.get("ContainersReady") or {}).get("status")
    # The cluster marks pods of a silent node without a word: not ready, although all containers were when last heard of.
    marked = containers == "True" and ready.get("status") == "False" and not ready.get("reason")
    unknown = any(item.get("status") == "Unknown" for item in conditions.values())
    if not (marked or unknown or status.get("reason") == "NodeLost"):
        return None
    return Cause(
        "node_unreachable",
        "The instance's node doesn't answer.",
        "The cluster starts another instance when it gives the node up, after five minutes by default.",
        (str(status.get("message") or _said_of_node(events, ready)),),
        retryable=True,
    )


def _pod_ended(status: Json) -> Cause | None:
    reason, message = status.get("reason") or "", str(status.get("message") or "")
    if reason == "Evicted":
        remedy = "Another one takes its place."
        if "ephemeral" in message or "DiskPressure" in message:
            remedy += " Its disk was full: a model that is fetched lies in the model cache, if the version names one."
        return Cause(
            "evicted",
            f"The node threw the instance out: {message}",
            remedy,
            (message,),
            retryable=True,
        )
    return Cause(
        "instance_lost",
        f"The pod ended: {reason or status.get('phase')}.",
        "Another one takes its place.",
        (message,),
        retryable=True,
    )


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
        name=metadata["name"],
        generation=generation_of(metadata.get("labels") or {}),
        replicas=int((deployment.get("spec") or {}).get("replicas") or 0),
        is_ending=bool(metadata.get("deletionTimestamp")),
        is_marked=CLUSTER in (metadata.get("labels") or {}),
        description=description_of(deployment),
        cause=cause,
    )


def _terminated(container: Json) -> Json | None:
    for name in ("state", "lastState"):
        ended = (container.get(name) or {}).get("terminated")
        if ended:
            return dict(ended)
    return None


def _port(pod: Json) -> int:
    for container in (pod.get("spec") or {}).get("containers") or []:
        if container.get("name") == CONTAINER:
            for port in container.get("ports") or []:
                return int(port["containerPort"])
    return DEFAULT_PORT


def _words(events: list[Json], *reasons: str) -> list[str]:
    """The cluster's own words, each once, oldest first."""
    found = [event for event in events if event.get("reason") in reasons]
    # By their first time: the last one of an event that comes again and again changes each time, and so would the order.
    found.sort(key=_first_seen)
    said = (f"{event.get('reason')}: {str(event.get('message') or '').strip()}" for event in found)
    return list(dict.fromkeys(_OWN_PORT.sub(r"\1->", text) for text in said))


def _first_seen(event: Json) -> tuple[str, str, str]:
    first = event.get("firstTimestamp") or event.get("eventTime") or event.get("lastTimestamp")
    return str(first or ""), str(event.get("reason")), str(event.get("message"))


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else None
