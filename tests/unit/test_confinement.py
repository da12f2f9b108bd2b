"""Pods are held as closely as their images allow, and where they are not it is said why."""

import pytest

from runtimes.engines.base import KUBERNETES
from runtimes.engines.registry import engines
from runtimes.kubernetes import confinement, manifest
from runtimes.kubernetes.manifest import Workload
from runtimes.launch_plan import Fetch, LaunchPlan, Volume
from runtimes.specification import Specification

WORKLOAD = Workload("installation", "cluster", "v1", 1, "chat")


@pytest.mark.parametrize("name", sorted(engines()))
def test_every_engine_names_a_user_or_says_why_not(name):
    engine = engines()[name]
    specification = Specification(
        engine.name, "x", "org/model", image="an/image", gpu=1, engine_settings={"command": "x"}
    )
    plan = engine.plan(specification, KUBERNETES)
    assert (plan.run_as is None) == bool(engine.image_user_reason)
    assert plan.run_as != 0


def containers(plan: LaunchPlan):
    pod = manifest.deployment(WORKLOAD, plan, 1)["spec"]["template"]["spec"]
    return pod, [*pod["containers"], *pod.get("initContainers", [])]


def test_every_container_is_confined():
    fetch = Fetch("rclone", ("rclone",), "/mnt/models")
    files = (Volume("weights", "", "/mnt/models"),)
    for run_as in (None, 1000):
        plan = LaunchPlan("x", ("x",), image="i", run_as=run_as, file_group=1000, fetch=fetch, volumes=files)
        pod, found = containers(plan)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["fsGroup"] == 1000
        assert not pod["automountServiceAccountToken"]
        for container in found:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["capabilities"]["drop"] == ["ALL"]
            assert context.get("runAsNonRoot", False) is (run_as is not None)
        assert [container["name"] for container in found] == ["engine", "fetch-model"]


def test_what_root_keeps_reaches_neither_node_nor_network():
    kept = set(confinement.of_container(LaunchPlan("x", ()))["capabilities"]["add"])
    assert not kept & {
        "SYS_ADMIN",
        "SYS_PTRACE",
        "SYS_MODULE",
        "NET_ADMIN",
        "NET_RAW",
        "MKNOD",
        "SYS_CHROOT",
        "DAC_READ_SEARCH",
    }
