"""Why a pod isn't ready, in plain words with the cluster's own as evidence. Pure: raw JSON in, causes out."""

import re
from typing import Any

from runtimes.cause import Cause
from runtimes.model_source import MOUNT

Json = dict[str, Any]
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
# How the last end of a container that could not be started at all is told, while it waits for the next try.
NEVER_STARTED = ("StartError", "ContainerCannotRun")
# A connection's own port differs with each try: with it the same fault would look like another one.
_OWN_PORT = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}):\d{4,5}->")


def not_fetched(ended: Json) -> Cause:
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


def image_pull(container: Json, waiting: Json, events: list[Json]) -> Cause:
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
        remedy = "The registry wants credentials: give the service account “default” of the instances' namespace a pull secret for it."
    return Cause(
        "image_pull", f"The image {image} can't be pulled.", remedy, tuple(said[-4:]), field="image", retryable=True
    )


def configuration(waiting: Json) -> Cause:
    message = str(waiting.get("message") or "")
    return Cause(
        "missing_secret" if "secret" in message else "bad_configuration",
        f"The container can't be configured: {message}",
        "Create what is missing in the cluster, or start a version without it.",
        (message,),
        retryable=True,
    )


def cannot_start(waiting: Json) -> Cause:
    message = str(waiting.get("message") or waiting.get("reason"))
    missing = "no such file" in message or "not found" in message
    return Cause(
        "command_not_found" if missing else "cannot_start",
        "The command is not in the image." if missing else "The container can't be started.",
        "Correct the command in a new version.",
        (message,),
    )


def crash(container: Json, events: list[Json]) -> Cause | None:
    ended = terminated(container)
    if not ended:
        return None
    code, reason = ended.get("exitCode"), ended.get("reason") or ""
    if reason in NEVER_STARTED:
        return cannot_start(ended)
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


def unschedulable(condition: Json, pod: Json) -> Cause:
    message = str(condition.get("message") or "No node takes the pod.")
    if (missing := _CLAIM.search(message)) is not None:
        claims = _model_claims(pod)
        every = set(_claims(pod).values())
        name = missing[1] or (next(iter(every)) if len(every) == 1 else "of the version")
        return Cause(
            "claim_missing",
            f"The volume claim {name} does not exist where the instance is to run, or has no volume yet.",
            "Create it in the namespace where the instances run, or start a version that names another one.",
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


def probe(events: list[Json]) -> Cause | None:
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


def mount(events: list[Json]) -> Cause | None:
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


def node(status: Json, conditions: dict[str, Json], events: list[Json]) -> Cause | None:
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


def disturbed(conditions: dict[str, Json], events: list[Json]) -> Cause | None:
    """Who had the pod ended, where the cluster says so: the scheduler for a more important one, or whoever drains its node."""
    target = conditions.get("DisruptionTarget") or {}
    reason = str(target.get("reason") or "") if target.get("status") == "True" else ""
    preempted = _words(events, "Preempted")
    said = str(target.get("message") or "")
    if reason == "PreemptionByScheduler" or preempted:
        return Cause(
            "preempted",
            "A more important pod took the instance's place.",
            "Another one starts where there is room; a priority class of its own would keep it.",
            tuple(line for line in (said, *preempted[-1:]) if line),
            retryable=True,
        )
    if reason == "EvictionByEvictionAPI":
        return Cause(
            "evicted",
            "The instance was asked to leave its node, which is being drained.",
            "Another one takes its place.",
            (said,),
            retryable=True,
        )
    if reason == "DeletionByTaintManager":
        return Cause(
            "evicted",
            "The instance's node was given a taint that it doesn't tolerate.",
            "Another one takes its place elsewhere.",
            (said,),
            retryable=True,
        )
    return None


def pod_ended(status: Json) -> Cause | None:
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


def terminated(container: Json) -> Json | None:
    for name in ("state", "lastState"):
        ended = (container.get(name) or {}).get("terminated")
        if ended:
            return dict(ended)
    return None
