"""How closely a pod is held: as closely as its image allows. Pure."""

from typing import Any

from runtimes.launch_plan import LaunchPlan

# What programs need that start as root and set up their own folders and users, out of the dozen that containers have by themselves.
# Nothing among them reaches the node or the network.
_OF_ROOT = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"]


def of_pod(plan: LaunchPlan) -> dict[str, Any]:
    found: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if plan.file_group is not None:
        found |= {"fsGroup": plan.file_group, "fsGroupChangePolicy": "OnRootMismatch"}
    return found


def of_container(plan: LaunchPlan) -> dict[str, Any]:
    if plan.run_as is None:
        capabilities = {"drop": ["ALL"], "add": list(_OF_ROOT)}
        return {"allowPrivilegeEscalation": False, "capabilities": capabilities}
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": plan.run_as,
        "runAsGroup": plan.run_as,
    }
