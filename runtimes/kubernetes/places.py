"""Where a cluster's instances run: in one namespace, or in one for each organization.

What is in the first, their home, is known by its name alone; everything else by `namespace/name`. The others are those that say
so themselves: who may make objects somewhere else must not be able to have them taken for instances.
"""

import hashlib
import threading
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from runtimes.kubernetes.client import KubernetesClient, path_of

Json = dict[str, Any]
PREFIX, ORGANIZATION = "{prefix}", "{organization}"
TEMPLATE = f"{PREFIX}-{ORGANIZATION}"
# On namespaces: which home they belong to.
HOME = "slipway.dev/home"
NAMESPACES = "/api/v1/namespaces"
_LONGEST, _DIGITS = 63, 8
_ASKED_EACH_S = 5.0
_lock = threading.Lock()
_known: dict[tuple[str, str], tuple[float, frozenset[str]]] = {}


@dataclass(frozen=True)
class Places:
    """`template` makes an organization's namespace; empty where all instances run at home."""

    home: str
    template: str = ""

    def of(self, organization: str) -> str:
        """The organization's namespace. One that would be too long ends with some digits of its own."""
        if not self.template or not organization:
            return self.home
        name = self.template.replace(PREFIX, self.home).replace(ORGANIZATION, organization)
        if len(name) <= _LONGEST:
            return name
        digits = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
        return f"{name[: _LONGEST - _DIGITS - 1].rstrip('-')}-{digits}"

    def all(self, client: KubernetesClient, *, asked_now: bool = False) -> AbstractSet[str]:
        """The namespaces that there are. One that another process has made a moment ago may be missing, unless `asked_now`."""
        if not self.template:
            return {self.home}
        with _lock:
            known = _known.get((client.host, self.home))
        if known is None or asked_now or time.monotonic() - known[0] > _ASKED_EACH_S:
            listed = client.list(NAMESPACES, labelSelector=f"{HOME}={self.home}")
            known = time.monotonic(), frozenset({self.home, *(item["metadata"]["name"] for item in listed)})
            with _lock:
                _known[client.host, self.home] = known
        return known[1]


def qualified(metadata: Json) -> str:
    """The name by which an object is known. What Objects lists has no namespace at home."""
    namespace = metadata.get("namespace") or ""
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


class Objects:
    """The objects of one kind in all of a cluster's places. `api` is its group and version."""

    def __init__(self, client: KubernetesClient, places: Places, api: str, kind: str) -> None:
        self._client, self._places, self._kind = client, places, kind
        self._root = path_of(*(("api", api) if "/" not in api else ("apis", *api.split("/"))))

    @property
    def everywhere(self) -> str:
        """The path of the list of all, which holds others' too where there is more than one place."""
        return self._root + path_of(self._kind) if self._places.template else self.within("")

    def within(self, namespace: str) -> str:
        """The path of the list of one namespace; of the home's with an empty name."""
        return self._root + path_of("namespaces", namespace or self._places.home, self._kind)

    def path(self, name: str) -> str:
        """Of one object by its qualified name."""
        namespace, _, own = name.rpartition("/")
        return self.within(namespace) + path_of(own)

    def list(self, **query: str) -> list[Json]:
        found = self._client.list(self.everywhere, **query)
        ours = self._places.all(self._client) if self._places.template else ()
        listed = []
        for item in found:
            # Items of a namespace's list name it, too; answers of simulated servers in tests may not.
            namespace = item["metadata"].pop("namespace", self._places.home)
            if namespace != self._places.home:
                if namespace not in ours:
                    continue
                item["metadata"]["namespace"] = namespace
            listed.append(item)
        return listed
