"""What a cluster's nodes have and what is taken of it. Pure."""

from decimal import Decimal
from typing import Any

from runtimes.driver import Capacity
from runtimes.kubernetes.manifest import GPU_RESOURCE

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20),
    "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip

_LONGEST, _MOST = 40, Decimal(2) ** 70


def capacity(nodes: list[dict[str, Any]], pods: list[dict[str, Any]] | None) -> list[Capacity]:
    """One entry per node; "available" is what no pod has asked for, which is what the scheduler goes by. None where pods may
    not be read: then nothing is known of that."""
    found = []
    for node in nodes:
        name = node["metadata"]["name"]
        has = (node.get("status") or {}).get("allocatable") or {}
        requested = [
            _requests(pod) for pod in pods or [] if (pod.get("spec") or {}).get("nodeName") == name and _counts(pod)
        ]
        gpus = int(quantity(has.get(GPU_RESOURCE)))
        found.append(
            Capacity(
                node=name,
                cpu=float(quantity(has.get("cpu"))),
                memory=int(quantity(has.get("memory"))),
                memory_available=None
                if pods is None
                else int(quantity(has.get("memory")) - sum(item["memory"] for item in requested)),
                gpus=gpus,
                gpu_reason="" if gpus else f"the node offers no {GPU_RESOURCE}",
                cpu_available=None
                if pods is None
                else float(quantity(has.get("cpu")) - sum(item["cpu"] for item in requested)),
                gpus_available=None if pods is None else gpus - int(sum(item[GPU_RESOURCE] for item in requested)),
                problem=_problem(node),
            )
        )
    return found


def quantity(text: Any) -> Decimal:
    """Kubernetes' notation of amounts: 100m, 1.5, 2Gi, 1e3. 0 for nothing, and for what is none."""
    value = "" if text is None else str(text)
    if not 0 < len(value) <= _LONGEST:
        return Decimal(0)
    suffix = next((value[-length:] for length in (2, 1) if value[-length:] in _SUFFIXES), "")
    try:
        found = Decimal(value.removesuffix(suffix)) * _SUFFIXES.get(suffix, Decimal(1))
    except ArithmeticError:
        return Decimal(0)
    # As a whole number 1e999999999 would fill all memory.
    return found if found.is_finite() and abs(found) < _MOST else Decimal(0)


def _requests(pod: dict[str, Any]) -> dict[str, Decimal]:
    total = {"cpu": Decimal(0), "memory": Decimal(0), GPU_RESOURCE: Decimal(0)}
    for container in pod["spec"].get("containers") or []:
        asked = (container.get("resources") or {}).get("requests") or {}
        for name in total:
            total[name] += quantity(asked.get(name))
    return total


def _counts(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _problem(node: dict[str, Any]) -> str:
    """Why the node takes no instances; empty when it does."""
    conditions = {item.get("type"): item for item in (node.get("status") or {}).get("conditions") or []}
    ready = conditions.get("Ready") or {}
    if ready.get("status") != "True":
        return f"not ready: {ready.get('message') or ready.get('reason') or 'it has not reported'}"
    if (node.get("spec") or {}).get("unschedulable"):
        return "cordoned: it takes no new pods"
    pressure = [
        name
        for name in ("MemoryPressure", "DiskPressure", "PIDPressure")
        if (conditions.get(name) or {}).get("status") == "True"
    ]
    return ", ".join(pressure)
