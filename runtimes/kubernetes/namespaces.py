"""An organization's namespace: made where it is missing, with a quota and a NetworkPolicy of its own."""

import contextlib
import ipaddress
from collections.abc import Iterable
from typing import Any

from runtimes.driver import DriverError
from runtimes.kubernetes.client import ConflictError, KubernetesClient, NotFoundError, path_of
from runtimes.kubernetes.manifest import GPU_RESOURCE, MANAGED_BY, ORGANIZATION
from runtimes.kubernetes.places import HOME, NAMESPACES, Places
from runtimes.room import Room

Json = dict[str, Any]
NAME = "slipway"
# What is replaced runs beside its successor for a while; Slipway counts what is wanted, the cluster all that is there.
_BESIDE = 2
# Since 1.21 each namespace carries its name.
_NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"
# No access to the node; since 1.23 held by the API server itself.
_LEVEL = "pod-security.kubernetes.io/enforce"


def prepare(client: KubernetesClient, places: Places, room: Room, callers: Iterable[str]) -> None:
    """Raises DriverError where it can't be, or where the name is somebody else's."""
    if not places.template or not room.organization:
        return
    name = places.of(room.organization)
    if name == places.home:
        raise DriverError(
            f"The cluster's template makes {name} of {room.organization}, which is Slipway's own namespace. Change the template."
        )
    path = f"{NAMESPACES}/{name}"
    try:
        found = client.get(path)
    except NotFoundError:
        with contextlib.suppress(ConflictError):
            client.create(NAMESPACES, namespace(name, places.home, room.organization))
        found = client.get(path)
    _check(found, name, places.home, room.organization)
    for api, kind, body in ((("api", "v1"), "resourcequotas", quota(room)), (("apis", "networking.k8s.io", "v1"), "networkpolicies", policy(callers))):  # fmt: skip
        _have(client, path_of(*api, "namespaces", name, kind), body)
    places.all(client, asked_now=True)


def namespace(name: str, home: str, organization: str) -> Json:
    labels = {MANAGED_BY: "slipway", HOME: home, ORGANIZATION: organization, _LEVEL: "baseline"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def quota(room: Room) -> Json:
    """All of its kinds, so that a bound that was taken away goes; everything that a version asks for twice over."""
    amounts = {
        "pods": room.instances,
        f"requests.{GPU_RESOURCE}": room.gpus,
        "requests.cpu": None if room.cpu is None else f"{round(room.cpu * 1000 * _BESIDE)}m",
        "requests.memory": room.memory,
    }
    hard = {kind: None if most is None else str(most * _BESIDE) if isinstance(most, int) else most for kind, most in amounts.items()}  # fmt: skip
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": _metadata(), "spec": {"hard": hard}}


def policy(callers: Iterable[str]) -> Json:
    """Nobody but `callers` reaches the namespace's pods: networks, or names of namespaces."""
    peers = [_peer(caller) for caller in callers]
    # Without peers a rule would let in everybody; no rule at all lets in nobody.
    rules = [{"from": peers}] if peers else []
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": _metadata(), "spec": spec}


def caller_error(text: str) -> str:
    """Why it names nobody who may call; empty when it does."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_network(text)
        return ""
    if "/" in text or ":" in text or text.replace(".", "").isdigit():
        return f"{text} is no network. Write it like 10.0.0.0/8, one address like 10.0.0.7/32."
    is_name = 0 < len(text) <= 63 and text.isascii() and text == text.lower() and text.replace("-", "").isalnum()
    return (
        "" if is_name and text.strip("-") == text else f"{text} is neither a network like 10.0.0.0/8 nor a namespace."
    )


def _peer(caller: str) -> Json:
    try:
        return {"ipBlock": {"cidr": str(ipaddress.ip_network(caller))}}
    except ValueError:
        return {"namespaceSelector": {"matchLabels": {_NAME_OF_NAMESPACE: caller}}}


def _metadata() -> Json:
    return {"name": NAME, "labels": {MANAGED_BY: "slipway"}}


def _check(found: Json, name: str, home: str, organization: str) -> None:
    metadata = found["metadata"]
    labels = metadata.get("labels") or {}
    if labels.get(HOME) != home or labels.get(ORGANIZATION) != organization:
        if (owner := labels.get(ORGANIZATION)) not in (None, organization) or labels.get(HOME) not in (None, home):
            whose = f"the organization {owner} of the Slipway in namespace {labels.get(HOME)}"
            raise DriverError(f"The namespace {name} is labeled as that of {whose}. Change the cluster's template.")
        raise DriverError(
            f"The namespace {name} is not {organization}'s. Give it to the organization with "
            f"“kubectl label namespace {name} {HOME}={home} {ORGANIZATION}={organization} {_LEVEL}=baseline --overwrite”, or change the cluster's template."
        )
    if metadata.get("deletionTimestamp"):
        raise DriverError(f"The namespace {name} is being deleted. It is made again when it is gone.")


def _have(client: KubernetesClient, path: str, wanted: Json) -> None:
    """One object of this name and specification."""
    try:
        found = client.get(f"{path}/{NAME}")
    except NotFoundError:
        made = wanted | {"spec": _without_nones(wanted["spec"])}
        with contextlib.suppress(ConflictError):
            client.create(path, made)
        return
    if not _holds(found.get("spec") or {}, wanted["spec"]):
        client.patch(f"{path}/{NAME}", {"spec": wanted["spec"]})


def _holds(found: Json, wanted: Json) -> bool:
    """Whether every wanted value is there, and what shall not be is not."""
    for name, value in wanted.items():
        there = found.get(name)
        if isinstance(value, dict) and value:
            if not _holds(there or {}, value):
                return False
        elif (value or None) != (there or None):
            return False
    return True


def _without_nones(spec: Json) -> Json:
    return {
        name: _without_nones(value) if isinstance(value, dict) else value
        for name, value in spec.items()
        if value is not None
    }
