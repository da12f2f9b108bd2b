"""Whose an object in the namespace is. Pure.

A Deployment says it with labels of its own, which may change without its pods being touched. A pod is whose the Deployment is
that selects it: its own labels tell only who made it.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from runtimes.kubernetes.manifest import CLUSTER, DESCRIPTION, GENERATION, INSTALLATION, MANAGED_BY, VERSION
from runtimes.kubernetes.places import qualified
from runtimes.observation import StrangerObservation

Json = dict[str, Any]
SELECTOR = f"{MANAGED_BY}=slipway"
# All annotations of an object may take 256 KiB; what a Slipway writes is a few.
LONGEST_DESCRIPTION = 64 << 10


@dataclass(frozen=True)
class Owner:
    """This installation, with this entry of the cluster."""

    installation: str
    cluster: str

    def owns(self, labels: dict[str, str]) -> bool:
        """Objects of before clusters were told apart carry the installation alone."""
        if CLUSTER in labels:
            return labels[CLUSTER] == self.cluster
        return labels.get(INSTALLATION) == self.installation


@dataclass(frozen=True)
class Sorted:
    """What the lists hold: this owner's Deployments and pods, and strangers."""

    deployments: list[Json]
    pods: list[Json]
    strangers: tuple[StrangerObservation, ...]


def sort(owner: Owner, deployments: list[Json], pods: list[Json]) -> Sorted:
    mine: list[Json] = []
    others: list[Json] = []
    for deployment in deployments:
        (mine if owner.owns(labels_of(deployment)) else others).append(deployment)
    selecting: dict[tuple[str, str, str], list[tuple[dict[str, str], bool]]] = defaultdict(list)
    for owned, found in ((True, mine), (False, others)):
        for deployment in found:
            selecting[_start(deployment)].append((_selector(deployment), owned))
    ready: dict[tuple[str, str, str], int] = defaultdict(int)
    my_pods = []
    for pod in pods:
        labels = labels_of(pod)
        owned = next(
            (is_mine for wanted, is_mine in selecting.get(_start(pod), ()) if wanted.items() <= labels.items()),
            owner.owns(labels),
        )
        if owned:
            my_pods.append(pod)
        else:
            ready[_start(pod)] += is_ready(pod)
    strangers = tuple(_stranger(deployment, ready[_start(deployment)]) for deployment in others)
    return Sorted(mine, my_pods, strangers)


def labels_of(thing: Json) -> dict[str, str]:
    """Of a Deployment those by which it selects its pods count more: nobody can change them by hand."""
    labels: dict[str, str] = (thing.get("metadata") or {}).get("labels") or {}
    selected = _selector(thing)
    return labels | {name: selected[name] for name in (VERSION, GENERATION) if name in selected}


def template_labels_of(deployment: Json) -> dict[str, str]:
    """What a Deployment's pods say of themselves: as whoever made it called itself."""
    template = (deployment.get("spec") or {}).get("template") or {}
    labels: dict[str, str] = (template.get("metadata") or {}).get("labels") or {}
    return labels


def generation_of(labels: dict[str, str]) -> int:
    """Labels may be anybody's: what is no number is the start before the first."""
    text = labels.get(GENERATION, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def description_of(deployment: Json) -> str:
    """What whoever made it wrote about it; too long for that is nobody's."""
    text = str((deployment["metadata"].get("annotations") or {}).get(DESCRIPTION) or "")
    return text if len(text) <= LONGEST_DESCRIPTION and "\0" not in text else ""


def is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


def _start(thing: Json) -> tuple[str, str, str]:
    """Pods are selected within their namespace alone."""
    labels = labels_of(thing)
    return (thing.get("metadata") or {}).get("namespace") or "", labels.get(VERSION, ""), labels.get(GENERATION, "")


def _selector(thing: Json) -> dict[str, str]:
    selector = (thing.get("spec") or {}).get("selector")
    return (selector.get("matchLabels") or {}) if isinstance(selector, dict) else {}


def _stranger(deployment: Json, ready: int) -> StrangerObservation:
    labels = labels_of(deployment)
    return StrangerObservation(
        name=qualified(deployment["metadata"]),
        version_key=labels.get(VERSION, ""),
        generation=generation_of(labels),
        replicas=int((deployment.get("spec") or {}).get("replicas") or 0),
        ready=ready,
        installation=labels.get(INSTALLATION, ""),
        cluster=labels.get(CLUSTER, ""),
        description=description_of(deployment),
    )
