"""What a cluster's version has beyond the oldest that will do: asked once an hour, left out where it isn't there."""

import re
import threading
import time
from dataclasses import dataclass

from runtimes.driver import DriverError
from runtimes.kubernetes.client import KubernetesClient

_ASKED_EACH_S = 3600.0
_lock = threading.Lock()
_known: dict[str, tuple[float, "Abilities"]] = {}


@dataclass(frozen=True)
class Abilities:
    """`disruption_api`: the group and version of PodDisruptionBudgets, empty where there are none. `sleeps`: a container can be
    told to wait before it ends without having a `sleep` of its own (1.30)."""

    version: str = ""
    sleeps: bool = False
    disruption_api: str = ""


def abilities(client: KubernetesClient) -> Abilities:
    """Never fails: what can't be asked is taken for missing, and asked again the next time."""
    with _lock:
        known = _known.get(client.host)
    if known is not None and time.monotonic() - known[0] < _ASKED_EACH_S:
        return known[1]
    try:
        version = client.get("/version")
        groups = client.get("/apis").get("groups") or []
    except DriverError:
        return Abilities()
    found = read(version, groups)
    with _lock:
        _known[client.host] = (time.monotonic(), found)
    return found


def read(version: dict[str, object], groups: list[dict[str, object]]) -> Abilities:
    """From /version and /apis. Providers add letters to the numbers: “30+”."""
    numbers = [re.match(r"\d{1,4}", str(version.get(name) or "")) for name in ("major", "minor")]
    major, minor = (int(found[0]) if found else 0 for found in numbers)
    policy = next((group for group in groups if group.get("name") == "policy"), {})
    preferred = policy.get("preferredVersion")
    api = str(preferred.get("groupVersion") or "") if isinstance(preferred, dict) else ""
    return Abilities(
        version=str(version.get("gitVersion") or "")[:60],
        sleeps=(major, minor) >= (1, 30),
        disruption_api=api if re.fullmatch(r"policy/v1(beta1)?", api) else "",
    )
