"""From a launch plan to the objects that a cluster is asked for. Pure; only stable API groups, so 1.20 will do."""

import base64
import json
from dataclasses import dataclass, replace
from typing import Any

from runtimes.kubernetes import confinement
from runtimes.launch_plan import PORT_PLACEHOLDER, Fetch, LaunchPlan
from runtimes.specification import PodAffinity

MANAGED_BY = "app.kubernetes.io/managed-by"
VERSION = "slipway.dev/version"
GENERATION = "slipway.dev/generation"
# Whose an object is: the installation that made it, and the entry of the cluster there. Only the first, which never
# changes, is among a Deployment's selectors.
INSTALLATION = "slipway.dev/installation"
CLUSTER = "slipway.dev/cluster"
# On pods: whose they are.
ORGANIZATION = "slipway.dev/organization"
# What a Deployment serves, as JSON: enough to take it into a database that knows nothing of it.
DESCRIPTION = "slipway.dev/description"
_OWN_LABELS = frozenset({MANAGED_BY, VERSION, GENERATION, INSTALLATION, CLUSTER})
CONTAINER, FETCHING = "engine", "fetch-model"
DEFAULT_PORT = 8000
GPU_RESOURCE = "nvidia.com/gpu"
# How long a container may take between the end of its drain and its kill.
GRACE_S = 10
# Until every gateway has learnt that a pod leaves, it goes on as if nothing were; where an image has no `sleep`, at once.
LEAVE_S = 3
PROXY_VARIABLES = frozenset({"http_proxy", "https_proxy", "no_proxy"})
_INSTANCE_UID = {"name": "SLIPWAY_INSTANCE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
PROBE_PERIOD_S = 5
# A startup probe that gave up would only restart the container: the deadline is Slipway's, and says why.
STARTUP_SLACK = 2


@dataclass(frozen=True)
class Workload:
    """Which version's instances these are, and whose: see runtimes.kubernetes.ownership."""

    installation: str
    cluster: str
    version_key: str
    generation: int
    name: str

    @property
    def object_name(self) -> str:
        """At most 57 characters, so that the pods' names stay whole; unlike for each start."""
        tail = f"-{self.version_key}-g{self.generation}"
        return f"{self.name[: 57 - len(tail)].strip('-')}{tail}"

    @property
    def labels(self) -> dict[str, str]:
        return {
            MANAGED_BY: "slipway",
            INSTALLATION: self.installation,
            CLUSTER: self.cluster,
            VERSION: self.version_key,
            GENERATION: str(self.generation),
        }


def deployment(
    workload: Workload, plan: LaunchPlan, replicas: int, *, description: str = "", sleeps: bool = False
) -> dict[str, Any]:
    """The apps/v1 Deployment of one version; `description` as JSON. `sleeps`: the cluster can wait without the image's help."""
    selector = _selector(workload)
    # With GPUs a surge pod would wait for the device that the pod it is to replace still holds.
    surge: dict[str, Any] = {"maxSurge": 0, "maxUnavailable": 1} if plan.gpu else {"maxSurge": 1, "maxUnavailable": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": workload.object_name,
            "labels": plan.labels | workload.labels,
            "annotations": plan.annotations | ({DESCRIPTION: description} if description else {}),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            "revisionHistoryLimit": 1,
            # Slipway has deadlines of its own; the cluster's would only add a condition that says less.
            "progressDeadlineSeconds": 2_147_483_647,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": surge},
            "template": {
                "metadata": {
                    "labels": plan.labels | workload.labels | _of(plan.organization),
                    "annotations": dict(plan.annotations),
                },
                "spec": _pod(workload, plan, sleeps=sleeps),
            },
        },
    }


def secrets(workload: Workload, plan: LaunchPlan) -> list[dict[str, Any]]:
    """The Secrets that the plan needs: one with its variables, one for its image's registry."""
    return [item for item in (_variables(workload, plan), _pull_secret(workload, plan)) if item is not None]


def _variables(workload: Workload, plan: LaunchPlan) -> dict[str, Any] | None:
    values = plan.secret_environment | (plan.fetch.secret_environment if plan.fetch else {})
    if not values:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": workload.object_name, "labels": workload.labels},
        "stringData": values,
    }


def _pull_secret(workload: Workload, plan: LaunchPlan) -> dict[str, Any] | None:
    """With it nodes enter the image's registry; None when they need none, or the password isn't known."""
    login = plan.registry_login
    password = plan.secret_environment.get(login.variable) if login else None
    if login is None or not password:
        return None
    word = base64.b64encode(f"{login.user}:{password}".encode()).decode()
    entry = {"username": login.user, "password": password, "auth": word}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": f"{workload.object_name}-pull", "labels": workload.labels},
        "stringData": {".dockerconfigjson": json.dumps({"auths": {login.server: entry}})},
    }


def disruption_budget(made: dict[str, Any], api: str) -> dict[str, Any]:
    """For the Deployment `made`: drains and upgrades of nodes take one instance at a time."""
    labels = {name: value for name, value in made["metadata"]["labels"].items() if name in _OWN_LABELS}
    return {
        "apiVersion": api,
        "kind": "PodDisruptionBudget",
        "metadata": {"name": made["metadata"]["name"], "labels": labels},
        "spec": {"maxUnavailable": 1, "selector": made["spec"]["selector"]},
    }


def _selector(workload: Workload) -> dict[str, str]:
    return {name: workload.labels[name] for name in (INSTALLATION, VERSION, GENERATION)}


def _pod(workload: Workload, plan: LaunchPlan, *, sleeps: bool) -> dict[str, Any]:
    port = plan.fixed_port or DEFAULT_PORT
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": plan.image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": port}],
        "env": _environment(workload, plan, port),
        "resources": _resources(plan),
        "securityContext": confinement.of_container(plan),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {"preStop": _pause(sleeps)},
        **_probes(plan, port),
    }
    if plan.command:
        container["args" if plan.behind_entrypoint else "command"] = [
            word.replace(PORT_PLACEHOLDER, str(port)) for word in plan.command
        ]
    if plan.working_directory:
        container["workingDir"] = plan.working_directory
    pod: dict[str, Any] = {
        "containers": [container],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": int(plan.drain_s) + LEAVE_S + GRACE_S,
        # A model has no business with the cluster's API, and a Service called vllm would set variables that vLLM reads.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # One node, or one zone, that goes should not take them all; where there is only one, they all go there.
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _selector(workload)},
            }
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
    }
    volumes, mounts = _volumes(plan)
    if volumes:
        container["volumeMounts"], pod["volumes"] = mounts, volumes
    if plan.fetch is not None:
        pod["initContainers"] = [_fetching(workload, plan, plan.fetch, mounts)]
    pod["securityContext"] = confinement.of_pod(plan)
    if (pull_secret := _pull_secret(workload, plan)) is not None:
        pod["imagePullSecrets"] = [{"name": pull_secret["metadata"]["name"]}]
    if plan.node_selector:
        pod["nodeSelector"] = dict(plan.node_selector)
    if plan.tolerations:
        pod["tolerations"] = [{name: value for name, value in vars(item).items() if value} for item in plan.tolerations]
    affinity = _affinity(plan.pod_affinity, plan.organization)
    if affinity:
        pod["affinity"] = affinity
    return pod


def _pause(sleeps: bool) -> dict[str, Any]:
    """The wait before the end. Images without a `sleep` of their own need a cluster that can do it: else they end at once."""
    return {"sleep": {"seconds": LEAVE_S}} if sleeps else {"exec": {"command": ["sleep", str(LEAVE_S)]}}


def _fetching(workload: Workload, plan: LaunchPlan, fetch: Fetch, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """The container that brings the model's files before the engine's starts."""
    mount = next(item for item in mounts if item["mountPath"] == fetch.path)
    secret = [_from_secret(workload, name) for name in fetch.secret_environment]
    # What leads the engine out of the cluster leads this out, too.
    ways = {name: value for name, value in plan.environment.items() if name.lower() in PROXY_VARIABLES}
    secret += [_from_secret(workload, name) for name in plan.secret_environment if name.lower() in PROXY_VARIABLES]
    plain = [{"name": name, "value": value} for name, value in (ways | fetch.environment).items()]
    return {
        "name": FETCHING,
        "image": fetch.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(fetch.command),
        "env": [*plain, *secret, _INSTANCE_UID],
        "volumeMounts": [{name: value for name, value in mount.items() if name != "readOnly"}],
        "resources": _resources(replace(plan, gpu=0)),
        "securityContext": confinement.of_container(plan),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _from_secret(workload: Workload, name: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": workload.object_name, "key": name}}}


def _volumes(plan: LaunchPlan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if plan.shared_memory:
        memory = {"medium": "Memory", "sizeLimit": str(plan.shared_memory)}
        volumes.append({"name": "shared-memory", "emptyDir": memory})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108
    names: dict[str, str] = {}
    for volume in plan.volumes:
        # One entry per claim, however often it is mounted: kubelets of before 1.32 wait for ever for the second one.
        name = names.setdefault(volume.claim, volume.name) if volume.claim else volume.name
        if name == volume.name:
            claim = {"persistentVolumeClaim": {"claimName": volume.claim}} if volume.claim else {"emptyDir": {}}
            volumes.append({"name": name, **claim})
        mount: dict[str, Any] = {"name": name, "mountPath": volume.path}
        if volume.sub_path:
            mount["subPath"] = volume.sub_path
        mounts.append(mount | ({"readOnly": True} if volume.read_only else {}))
    return volumes, mounts


def _environment(workload: Workload, plan: LaunchPlan, port: int) -> list[dict[str, Any]]:
    plain = {name: value.replace(PORT_PLACEHOLDER, str(port)) for name, value in plan.environment.items()}
    variables: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    variables += [_from_secret(workload, name) for name in plan.secret_environment]
    # Images made for GPUs ask for all of them, and where NVIDIA's runtime is the node's own they would get them.
    blind = [] if plan.gpu else [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    return [
        *variables,
        *blind,
        {"name": "PORT", "value": str(port)},
        _INSTANCE_UID,
    ]


def _resources(plan: LaunchPlan) -> dict[str, Any]:
    """CPU is asked for and may be exceeded; memory and GPUs are what there is."""
    amounts = {"cpu": f"{round(plan.cpu * 1000)}m", "memory": str(plan.memory)}
    gpus = {GPU_RESOURCE: str(plan.gpu)} if plan.gpu else {}
    return {"requests": amounts | gpus, "limits": {"cpu": amounts["cpu"], "memory": amounts["memory"]} | gpus}


def _probes(plan: LaunchPlan, port: int) -> dict[str, Any]:
    probe = {"httpGet": {"path": plan.health_path, "port": port}, "periodSeconds": PROBE_PERIOD_S, "timeoutSeconds": 5}
    alive = {"httpGet": {"path": plan.liveness_path or plan.health_path, "port": port}}
    attempts = int(plan.start_deadline_s * STARTUP_SLACK // PROBE_PERIOD_S) + 1
    return {
        "startupProbe": probe | {"periodSeconds": 1, "failureThreshold": attempts * PROBE_PERIOD_S},
        "readinessProbe": probe | {"failureThreshold": 2},
        # Lenient: a busy engine that answers late must not lose what it is working on.
        "livenessProbe": probe | alive | {"failureThreshold": max(1, round(plan.hang_after_s / PROBE_PERIOD_S))},
    }


def _of(organization: str) -> dict[str, str]:
    return {ORGANIZATION: organization} if organization else {}


def _affinity(wishes: tuple[PodAffinity, ...], organization: str) -> dict[str, Any]:
    """Among pods of the same organization: a wish to be away from pods binds those, too, and could keep others' from starting."""
    found: dict[str, Any] = {}
    for placement, name in (("near", "podAffinity"), ("away", "podAntiAffinity")):
        terms = [
            {
                "labelSelector": {"matchLabels": {wish.label: wish.value} | _of(organization)},
                "topologyKey": wish.topology_key,
            }
            for wish in wishes
            if wish.placement == placement
        ]
        if terms:
            found[name] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    return found
