"""The lease in a cluster's namespace that says which Slipway is in charge there. The decision is pure; the keeper asks and writes.

Nobody is in charge by having come later: whoever finds another claimant's lease steps back, and only a person changes that.
The one exception is a lease of this very database from before its server's last start, once nobody has renewed it for long
enough.
"""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from runtimes.claim import IN_CHARGE, RENEW_S, SILENT_S, UNTOLD, Claim, Claimant
from runtimes.kubernetes.client import ConflictError, ForbiddenError, KubernetesClient, NotFoundError, path_of

NAME = "slipway"
_ADDRESS, _CHALLENGER = "slipway.dev/console", "slipway.dev/challenger"
# A challenger writes itself in again at each sweep; after so long without it, it is gone.
_CHALLENGED_S = 40.0
_LONGEST_ADDRESS = 200

Verdict = Literal["hold", "take", "wait", "step_back"]


def judge(holder: str, me: str, *, earlier: str, unchanged_s: float, renewals: int) -> Verdict:
    """What to do about a lease that `holder` has. `earlier` is the name under which this database held it last.

    `unchanged_s`: for how long nobody has been seen to renew it, by our own clock, since those of two hosts may differ by any
    time; `renewals`: how often somebody has been seen doing it, so that `earlier` lives on beside us; once may be its last word.
    """
    if holder == me:
        return "hold"
    if not holder:
        return "take"
    if holder != earlier or renewals > 1:
        return "step_back"
    return "take" if unchanged_s >= SILENT_S else "wait"


@dataclass
class _Memory:
    """What this process has seen of one lease. Lost with the process, which only makes it wait once more."""

    version: str = ""
    since: float = field(default_factory=time.monotonic)
    renewals: int = 0
    absent_since: float = 0.0
    renewed_at: float = 0.0
    challenged_at: float = -_CHALLENGED_S
    challenger: dict[str, str] = field(default_factory=dict)


# By API server, namespace and claimant.
_memories: dict[tuple[str, str, str], _Memory] = {}


class LeaseKeeper:
    """Takes, renews and reads the lease for one claimant."""

    def __init__(self, client: KubernetesClient, namespace: str, me: Claimant) -> None:
        self._client, self._namespace, self._me = client, namespace, me
        self._leases = path_of("apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases")
        self._memory = _memories.setdefault((client.host, namespace, me.name), _Memory())

    def claim(self, *, earlier: str, by_force: bool, stepped_back: bool) -> Claim:
        """One round. Without the right to leases nobody can tell who else is there, and things go on as before."""
        try:
            lease = self._client.get(f"{self._leases}/{NAME}")
        except ForbiddenError:
            # Who knows of another one doesn't act on the strength of not being able to look.
            return UNTOLD if not stepped_back or by_force else Claim(False, is_waiting=True)
        except NotFoundError:
            return self._create(at_once=by_force or not stepped_back)
        self._memory.absent_since = 0.0
        holder, address = _read(lease)
        self._see(lease, holder)
        memory = self._memory
        verdict = judge(
            holder,
            self._me.name,
            earlier=earlier,
            unchanged_s=time.monotonic() - memory.since,
            renewals=memory.renewals,
        )
        if verdict == "hold" or verdict == "take" or by_force:
            return self._hold(lease, is_mine=verdict == "hold")
        if verdict == "step_back":
            self._challenge(lease)
        return Claim(False, holder, address, is_waiting=verdict == "wait")

    def _see(self, lease: dict[str, Any], holder: str) -> None:
        version = str((lease.get("spec") or {}).get("renewTime") or "")
        if version != self._memory.version:
            if self._memory.version and holder != self._me.name:
                self._memory.renewals += 1
            self._memory.version, self._memory.since = version, time.monotonic()

    def _create(self, *, at_once: bool) -> Claim:
        """Who has stepped back leaves another one the time to make it anew."""
        now = time.monotonic()
        self._memory.absent_since = self._memory.absent_since or now
        if not at_once and now - self._memory.absent_since < SILENT_S:
            return Claim(False, is_waiting=True)
        try:
            self._client.create(self._leases, body(self._me, {}))
        except ConflictError:
            # Somebody else was faster: the next round says who.
            return Claim(False, is_waiting=True)
        except (ForbiddenError, NotFoundError):
            return UNTOLD
        self._memory.renewed_at = time.monotonic()
        return IN_CHARGE

    def _hold(self, lease: dict[str, Any], *, is_mine: bool) -> Claim:
        memory = self._memory
        told = _challenger(lease)
        if told.get("name") == self._me.name:
            # Our own word, from before we took charge.
            told = {}
        if told:
            memory.challenged_at, memory.challenger = time.monotonic(), told
        elif time.monotonic() - memory.challenged_at > _CHALLENGED_S:
            memory.challenger = {}
        if not is_mine or told or time.monotonic() - memory.renewed_at >= RENEW_S:
            try:
                self._client.replace(f"{self._leases}/{NAME}", body(self._me, lease["metadata"]))
            except ConflictError:
                return Claim(is_mine, is_waiting=not is_mine)
            except ForbiddenError:
                return UNTOLD
            memory.renewed_at = time.monotonic()
            memory.renewals = 0
        return Claim(True, memory.challenger.get("name", ""), memory.challenger.get("address", ""))

    def _challenge(self, lease: dict[str, Any]) -> None:
        """Leave a word for whoever is in charge: it takes the word away each time, and sees who writes it anew."""
        if _challenger(lease):
            return
        word = json.dumps({"name": self._me.name, "address": self._me.address})
        annotations = (lease["metadata"].get("annotations") or {}) | {_CHALLENGER: word}
        try:
            self._client.replace(
                f"{self._leases}/{NAME}", lease | {"metadata": lease["metadata"] | {"annotations": annotations}}
            )
        except (ConflictError, ForbiddenError):
            # The next round tries again; without the right nobody learns of us, and we step back all the same.
            return


def body(claimant: Claimant, metadata: dict[str, Any]) -> dict[str, Any]:
    """The lease as held by `claimant` from now on; `metadata` of the one that is there, empty for a new one."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    known = {"resourceVersion": metadata["resourceVersion"]} if "resourceVersion" in metadata else {}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, **known, "annotations": {_ADDRESS: claimant.address}},
        "spec": {"holderIdentity": claimant.name, "leaseDurationSeconds": int(SILENT_S), "renewTime": now},
    }


def _read(lease: dict[str, Any]) -> tuple[str, str]:
    """(holder, where its console is). Anyone may have written it."""
    spec, annotations = lease.get("spec") or {}, (lease.get("metadata") or {}).get("annotations") or {}
    return _text(spec.get("holderIdentity")), _address(annotations.get(_ADDRESS))


def _challenger(lease: dict[str, Any]) -> dict[str, str]:
    try:
        told = json.loads(((lease.get("metadata") or {}).get("annotations") or {}).get(_CHALLENGER) or "{}")
    except (ValueError, TypeError):
        return {}
    if not isinstance(told, dict) or not told.get("name"):
        return {}
    return {"name": _text(told["name"]), "address": _address(told.get("address"))}


def _text(value: Any) -> str:
    return "".join(char for char in str(value or "")[:_LONGEST_ADDRESS] if char.isprintable())


def _address(value: Any) -> str:
    """Where a console is; a page links it, so nothing but the web will do."""
    text = _text(value)
    return text if text.startswith(("http://", "https://")) else ""
