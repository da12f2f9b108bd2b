"""The Kubernetes driver: a version is a Deployment, an instance a pod. It keeps no state: the cluster has it all."""

import base64
import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runtimes.claim import Claim, Claimant
from runtimes.driver import LAST_LINES, Capacity, ClusterUnreachableError, Driver, DriverError, LogLine
from runtimes.gpu_sample import GpuSample
from runtimes.kubernetes import access, gpus, logs, manifest, namespaces, nodes, pods
from runtimes.kubernetes.abilities import abilities
from runtimes.kubernetes.access import Check
from runtimes.kubernetes.client import ConflictError, ForbiddenError, KubernetesClient, NotFoundError, path_of
from runtimes.kubernetes.lease import LeaseKeeper
from runtimes.kubernetes.manifest import CLUSTER, DESCRIPTION, INSTALLATION, VERSION, Workload
from runtimes.kubernetes.ownership import (
    SELECTOR,
    Owner,
    generation_of,
    is_ready,
    labels_of,
    sort,
    template_labels_of,
)
from runtimes.kubernetes.places import Objects, Places, qualified
from runtimes.kubernetes.usage import PodTotal, PodUsage, parse, parse_totals
from runtimes.launch_plan import LaunchPlan
from runtimes.observation import BACKING_OFF, InstanceObservation, Observation
from runtimes.room import Room

# As NVIDIA's operator and the exporter's own chart name them.
_EXPORTERS = ("app=nvidia-dcgm-exporter", "app.kubernetes.io/name=dcgm-exporter")
_LAST_BYTES, _LONGEST_LINE = 512 << 10, 16 << 10
# A log of what has ended comes at once.
_LOG_SILENCE_S = 20.0
_EXPORTER_PORT, _EXPORTER_LIMIT, _EXPORTER_WITHIN_S, _AT_ONCE = 9400, 8 << 20, 5.0, 16


class KubernetesDriver(Driver):
    """`installation` and `cluster` (the entry's own name for itself) mark everything that this Slipway makes.

    `namespace` and `template`: see Places; `callers` reach pods outside of `namespace`, see namespaces.policy.
    """

    def __init__(
        self,
        client: KubernetesClient,
        *,
        namespace: str,
        installation: str,
        cluster: str,
        template: str = "",
        callers: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._places = Places(namespace, template)
        self._callers = callers
        self._owner = Owner(installation, cluster)
        self._pods = Objects(client, self._places, "v1", "pods")
        self._secrets = Objects(client, self._places, "v1", "secrets")
        self._events = Objects(client, self._places, "v1", "events")
        self._deployments = Objects(client, self._places, "apps/v1", "deployments")

    def address(self) -> str:
        return self._client.host

    @property
    def is_verified(self) -> bool:
        """Whether the API server has to prove that it is the cluster's."""
        return self._client.is_verified

    def identity(self) -> str:
        try:
            system = self._client.get(path_of("api", "v1", "namespaces", "kube-system"))
        except (ForbiddenError, NotFoundError):
            return ""
        return str((system.get("metadata") or {}).get("uid") or "")

    def has_namespace(self) -> bool:
        """False only where the cluster says so."""
        with contextlib.suppress(NotFoundError):
            self._client.get(path_of("api", "v1", "namespaces", self._places.home))
            return True
        return False

    def claim(self, me: Claimant, *, earlier: str, by_force: bool = False, stepped_back: bool = False) -> Claim:
        keeper = LeaseKeeper(self._client, self._places.home, me)
        return keeper.claim(earlier=earlier, by_force=by_force, stepped_back=stepped_back)

    def observe(self) -> Observation:
        """Two lists, however many versions there are, one of namespaces where there are several, and two of events in each where
        a pod is not ready."""
        now = time.time()
        self._places.all(self._client, asked_now=True)
        deployments = self._deployments.list(labelSelector=SELECTOR)
        found = sort(self._owner, deployments, self._pods.list(labelSelector=SELECTOR))
        # Only where something is not as it should be do events say why; most sweeps need none.
        events: list[dict[str, Any]] = []
        for namespace in sorted({pod["metadata"].get("namespace", "") for pod in found.pods if not is_ready(pod)}):
            for kind in ("type=Warning", "reason=Preempted"):
                selector = f"involvedObject.kind=Pod,{kind}"
                events += self._client.list(self._events.within(namespace), fieldSelector=selector)
        return pods.observe(found, events, now)

    def namespace_of(self, organization: str) -> str:
        name = self._places.of(organization)
        return "" if name == self._places.home else name

    def prepare(self, room: Room) -> None:
        namespaces.prepare(self._client, self._places, room, self._callers)

    def run(
        self,
        version_key: str,
        generation: int,
        plan: LaunchPlan,
        replicas: int,
        *,
        name: str,
        description: str = "",
        known_as: str = "",
    ) -> None:
        workload = Workload(self._owner.installation, self._owner.cluster, version_key, generation, name)
        secrets = manifest.secrets(workload, plan)
        # Where it is there already, only its number of instances may change. Asked first: of an object that exists a quota that
        # is used up says "too many", not "it exists".
        namespace = self._places.of(plan.organization)
        here = "" if namespace == self._places.home else namespace
        name = known_as or qualified({"name": workload.object_name, "namespace": here})
        path = self._deployments.path(name)
        with contextlib.suppress(NotFoundError):
            if not self._owner.owns(labels_of(self._client.get(path))):
                raise DriverError(f"{name} says that it is another Slipway's")
            # The labels too: without them, taken away by hand, it would be seen no more.
            wanted = {"metadata": {"labels": workload.labels}, "spec": {"replicas": replicas}}
            self._budget(self._client.patch(path, wanted))
            return
        made: list[str] = []
        try:
            for secret in secrets:
                with contextlib.suppress(ConflictError):
                    self._client.create(self._secrets.within(here), secret)
                    made.append(qualified({"name": secret["metadata"]["name"], "namespace": here}))
            made_of = manifest.deployment(
                workload, plan, replicas, description=description, sleeps=abilities(self._client).sleeps
            )
            with contextlib.suppress(ConflictError):
                self._client.create(self._deployments.within(here), made_of)
        except ClusterUnreachableError:
            # It may have been made all the same: the next sweep sees it, and its Secrets have to be there.
            raise
        except DriverError:
            # Refused: without its Deployment nothing would ever take the Secrets away.
            for name in made:
                with contextlib.suppress(DriverError):
                    self._client.delete(self._secrets.path(name))
            raise
        self._budget(made_of, here)

    def _budget(self, made: dict[str, Any], namespace: str = "") -> None:
        """Drains leave some of several instances. Where the cluster or our rights have no such thing, things go without it."""
        api = abilities(self._client).disruption_api
        if int((made.get("spec") or {}).get("replicas") or 0) < 2 or not api:
            return
        with contextlib.suppress(DriverError):
            path = self._budgets(api).within(made["metadata"].get("namespace") or namespace)
            self._client.create(path, manifest.disruption_budget(made, api))

    def _budgets(self, api: str) -> Objects:
        return Objects(self._client, self._places, api, "poddisruptionbudgets")

    def mark(self, version_key: str, *, description: str) -> None:
        """Write on its Deployments whose they are. Their pods are not touched: they are whose their Deployment is."""
        for item in self._deployments.list(labelSelector=f"{SELECTOR},{VERSION}={version_key}"):
            if self._owner.owns(labels_of(item)):
                self._take(qualified(item["metadata"]), description)

    def adopt(self, stranger: str) -> None:
        self._take(stranger, "")

    def _take(self, name: str, description: str) -> None:
        labels = {INSTALLATION: self._owner.installation, CLUSTER: self._owner.cluster}
        metadata = {"labels": labels} | ({"annotations": {DESCRIPTION: description}} if description else {})
        self._budget(self._client.patch(self._deployments.path(name), {"metadata": metadata}))

    def secret_values(self, stranger: str) -> dict[str, str]:
        for item in self._secrets.list(labelSelector=SELECTOR):
            if qualified(item["metadata"]) == stranger:
                data = item.get("data") or {}
                return {name: base64.b64decode(value).decode(errors="replace") for name, value in data.items()}
        return {}

    def remove_stranger(self, stranger: str) -> None:
        self._delete_named([stranger])

    def end_instance(self, version_key: str, uid: str) -> None:
        pod = self._pod(version_key, uid)
        if pod is not None:
            with contextlib.suppress(NotFoundError):
                self._client.delete(self._pods.path(qualified(pod["metadata"])))

    def end(self, version_key: str, *, up_to: int | None = None) -> None:
        selector = f"{SELECTOR},{VERSION}={version_key}"

        def is_meant(item: dict[str, Any]) -> bool:
            return self._owner.owns(labels_of(item)) and (up_to is None or generation_of(labels_of(item)) <= up_to)

        found = [item for item in self._deployments.list(labelSelector=selector) if is_meant(item)]
        pods = [item for item in self._pods.list(labelSelector=selector) if is_meant(item)]
        names = {qualified(item["metadata"]) for item in found}
        # Pods of what was adopted say that they are another one's: only as long as their Deployment is there are they ours.
        adopted = {qualified(item["metadata"]) for item in found if not self._owner.owns(template_labels_of(item))}
        if pods and not found:
            names |= self._end_leftovers(pods)
        # What a start that was cut off has left: Secrets whose Deployment was never made.
        secrets = [qualified(item["metadata"]) for item in self._secrets.list(labelSelector=selector) if is_meant(item)]
        self._delete_named(names, secrets=secrets, last=adopted)

    def _end_leftovers(self, pods: list[dict[str, Any]]) -> set[str]:
        """Pods whose Deployment was deleted without them, or had its labels taken away by hand: the names of such Deployments.

        Their ReplicaSets, where our rights reach so far, and the pods themselves are deleted here.
        """
        owners = {
            qualified({"name": owner["name"], "namespace": pod["metadata"].get("namespace")})
            for pod in pods
            for owner in pod["metadata"].get("ownerReferences") or []
            if owner.get("kind") == "ReplicaSet" and owner.get("name")
        }
        names = set()
        for name in {owner.rpartition("-")[0] for owner in owners} - {""}:
            with contextlib.suppress(NotFoundError):
                made = self._client.get(self._deployments.path(name))
                if labels_of(made).get(VERSION) == labels_of(pods[0]).get(VERSION):
                    names.add(name)
        if not names:
            sets = Objects(self._client, self._places, "apps/v1", "replicasets")
            for owner in owners:
                with contextlib.suppress(NotFoundError, ForbiddenError):
                    self._client.delete(sets.path(owner))
            for pod in pods:
                with contextlib.suppress(NotFoundError):
                    self._client.delete(self._pods.path(qualified(pod["metadata"])))
        return names

    def _delete_named(self, names: Collection[str], *, secrets: Iterable[str] = (), last: Collection[str] = ()) -> None:
        """Deployments of these names and what goes with them; those in `last` go when their pods are gone.

        One by one: a right to delete collections is more than most service accounts have.
        """
        for name in names:
            with contextlib.suppress(NotFoundError):
                self._client.delete(self._deployments.path(name), last=name in last)
        for name in {*secrets, *names, *(f"{name}-pull" for name in names)}:
            with contextlib.suppress(NotFoundError):
                self._client.delete(self._secrets.path(name))
        if names and (api := abilities(self._client).disruption_api):
            for name in names:
                # Without the right to budgets none was made.
                with contextlib.suppress(NotFoundError, ForbiddenError):
                    self._client.delete(self._budgets(api).path(name))

    def capacity(self) -> list[Capacity]:
        every_pod: list[dict[str, Any]] | None = None
        with contextlib.suppress(ForbiddenError):
            every_pod = self._client.list("/api/v1/pods", fieldSelector="status.phase!=Succeeded,status.phase!=Failed")
        return nodes.capacity(self._client.list("/api/v1/nodes"), every_pod)

    def usage(self) -> list[PodUsage]:
        """What our pods use now: one page per node that has some. Needs the right to read nodes/proxy."""
        found = self._pods.list(labelSelector=SELECTOR)
        hosts = sorted({node for pod in found if (node := (pod.get("spec") or {}).get("nodeName"))})
        now = time.time()
        places = self._places.all(self._client)
        samples: list[PodUsage] = []
        for host in hosts:
            # A node that is down must not hide the others.
            with contextlib.suppress(DriverError):
                page = self._client.text(path_of("api", "v1", "nodes", host, "proxy", "metrics", "cadvisor"))
                samples += parse(page, namespaces=places, now=now)
        return samples

    def gpus(self) -> dict[str, list[GpuSample]]:
        """The GPUs of our pods by pod, read from every DCGM exporter of the cluster. Raises NotFoundError without one."""
        exporters: dict[str, dict[str, Any]] = {}
        for selector in _EXPORTERS:
            for pod in self._client.list("/api/v1/pods", labelSelector=selector):
                if (pod.get("status") or {}).get("phase") == "Running":
                    exporters[pod["metadata"]["uid"]] = pod["metadata"]
        if not exporters:
            raise NotFoundError("the cluster has no DCGM exporter; NVIDIA's GPU operator brings one")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            pages = list(pool.map(self._exporter_page, exporters.values()))
        found: dict[str, list[GpuSample]] = {}
        places = self._places.all(self._client)
        for page in pages:
            found |= gpus.parse(page, namespaces=places)
        return found

    def _exporter_page(self, metadata: dict[str, Any]) -> str:
        path = path_of(
            "api",
            "v1",
            "namespaces",
            metadata["namespace"],
            "pods",
            f"{metadata['name']}:{_EXPORTER_PORT}",
            "proxy",
            "metrics",
        )
        # A node that is down must not hide the others.
        with contextlib.suppress(DriverError):
            return self._client.page(path, limit=_EXPORTER_LIMIT, within_s=_EXPORTER_WITHIN_S)
        return ""

    def totals(self) -> list[PodTotal]:
        """CPU and memory of our pods as the cluster's metrics API has them: less than `usage`, but with fewer rights."""
        return parse_totals(
            Objects(self._client, self._places, "metrics.k8s.io/v1beta1", "pods").list(labelSelector=SELECTOR)
        )

    def page(self, pod: str, port: str, path: str, *, limit: int, within_s: float) -> str:
        """What one of our pods answers to a GET, through the API server. Needs the right to pods/proxy. `pod` is qualified."""
        return self._client.page(f"{self._pods.path(pod)}:{port}/proxy{path}", limit=limit, within_s=within_s)

    def check(self, *, proxied: bool = False) -> list[Check]:
        """The connection and each right that Slipway needs or would like to have; `proxied` as in access.needed."""
        return access.check(self._client, self._places, proxied=proxied)

    def changes(self, timeout_s: float) -> Iterator[None]:
        """One item for each change of one of our pods, for at most `timeout_s`; what it was, `observe` tells."""
        query = {"watch": "true", "labelSelector": SELECTOR, "timeoutSeconds": str(int(timeout_s))}
        with self._client.stream(self._pods.everywhere, query, read_timeout_s=timeout_s + 10) as lines:
            for _ in lines:
                yield None

    def read_log(self, version_key: str, uid: str, *, after: int) -> Iterator[LogLine]:
        pod = self._pod(version_key, uid)
        if pod is None:
            return
        fetching = bool((pod.get("spec") or {}).get("initContainers"))
        yield from self.pod_log(qualified(pod["metadata"]), after=after, restarted=True, fetching=fetching)

    def pod_log(self, pod: str, *, after: int, restarted: bool, fetching: bool) -> Iterator[LogLine]:
        """The lines of a pod by its qualified name; with `restarted` those of the container before the present one, too, and with
        `fetching` those of what brings the model's files."""
        turns = [(manifest.CONTAINER, previous) for previous in (("true", "false") if restarted else ("false",))]
        if fetching:
            turns.insert(0, (manifest.FETCHING, "false"))
        for container, previous in turns:
            query = {"container": container, "timestamps": "true", "previous": previous}
            query |= {"sinceTime": logs.since(after)} if after else {}
            try:
                for line in self._log(pod, query, after, _LOG_SILENCE_S):
                    after = line.position
                    yield line
            except (ClusterUnreachableError, ForbiddenError):
                raise
            except DriverError:
                # The pod is gone, no container of it has run yet, or none before this one: no lines, no fault.
                continue

    def follow_log(self, pod: str, *, after: int, fetching: bool, within_s: float) -> Iterator[LogLine]:
        """The lines of a container of `pod`, its qualified name, that runs, or ran last, as they come; ends with the container, or after a silence of
        `within_s` seconds with ClusterUnreachableError. DriverError where there is no such log."""
        container = manifest.FETCHING if fetching else manifest.CONTAINER
        query = {"container": container, "timestamps": "true", "follow": "true"}
        query |= {"sinceTime": logs.since(after)} if after else {}
        yield from self._log(pod, query, after, within_s)

    def _log(self, pod: str, query: dict[str, str], after: int, silence_s: float) -> Iterator[LogLine]:
        """As it comes: a log may be longer than memory."""
        path = f"{self._pods.path(pod)}/log"
        with self._client.stream(path, query, read_timeout_s=silence_s, longest=_LONGEST_LINE) as lines:
            yield from logs.positioned(lines, after=after)

    def last_words(self, version_key: str, item: InstanceObservation) -> list[str]:
        # While it is down the container is still there; when it runs again, it is the one before.
        previous = "false" if item.phase == BACKING_OFF else "true"
        query = {"container": manifest.CONTAINER, "tailLines": str(LAST_LINES), "limitBytes": str(_LAST_BYTES)}
        return self._client.text(f"{self._pods.path(item.qualified_name)}/log", previous=previous, **query).splitlines()

    def discard(self, version_key: str, uid: str) -> None:
        """A pod that ended goes with its Deployment; one that was thrown out stays until somebody removes it."""
        self.end_instance(version_key, uid)

    def _pod(self, version_key: str, uid: str) -> dict[str, Any] | None:
        for pod in self._pods.list(labelSelector=f"{SELECTOR},{VERSION}={version_key}"):
            if pod["metadata"]["uid"].replace("-", "") == uid:
                return pod
        return None
