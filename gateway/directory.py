"""Reads the control plane: keeps the gateway's snapshot current. One of the two files that touch it.

A thread listens for notifications, which carry only a version; it also polls each 5 s, because a notification can be
lost with its connection, and reads everything each minute whatever the version says. While PostgreSQL is away the
last good snapshot, which lies on disk too, stays in force.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from django.conf import settings
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import Prefetch

from accounts.models import Member, Organization
from apikeys.models import ApiKey
from deployments.models import Cluster, Deployment, DirectoryVersion, Instance, Status
from deployments.selectors import current_versions, serving_versions, visible_deployments
from gateway.api_server import ApiServerUnusableError, pod_proxy_path, unseal
from gateway.callers import Caller, Keys
from gateway.snapshot import Address, Snapshot, Target
from runtimes.observation import READY

log = logging.getLogger(__name__)

POLL_S = 5.0
FULL_READ_S = 60.0
RETRY_S = 1.0


class Directory:
    """Calls `on_change(snapshot)` from its thread, first with what lies on disk; `acknowledge(version)` when it is saved."""

    def __init__(self, path: Path, on_change: Callable[[Snapshot], None], acknowledge: Callable[[int], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._acknowledge = acknowledge
        self._snapshot = Snapshot.load(path, settings.SECRET_KEY)
        self._read_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="directory", daemon=True)

    def start(self) -> None:
        self._on_change(self._snapshot)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except Exception as error:
                # Whatever it is, this thread must live: without it the gateway would go blind for good.
                expected = isinstance(error, psycopg.Error | DatabaseError | OSError)
                log.warning(
                    "directory: %s; going on from version %s",
                    str(error).strip(),
                    self._snapshot.version,
                    exc_info=not expected,
                )
                close_old_connections()
                self._stopped.wait(RETRY_S)

    def _follow(self) -> None:
        with psycopg.connect(settings.DATABASE_URL, autocommit=True, connect_timeout=5) as listener:
            listener.execute("LISTEN slipway_directory")
            self._refresh()
            while not self._stopped.is_set():
                for _ in listener.notifies(timeout=POLL_S, stop_after=1):
                    pass
                self._refresh()

    def _refresh(self) -> None:
        version = DirectoryVersion.objects.get(pk=1).v
        if version == self._snapshot.version and time.monotonic() - self._read_at < FULL_READ_S:
            return
        snapshot = read_snapshot()
        self._read_at = time.monotonic()
        if snapshot != self._snapshot:
            # On disk first: a gateway that restarts without PostgreSQL must not go back behind what it served by.
            snapshot.save(self._path)
            self._snapshot = snapshot
            self._on_change(snapshot)
        self._acknowledge(snapshot.version)


def read_snapshot() -> Snapshot:
    """One consistent reading of all deployments."""
    with transaction.atomic():
        with transaction.get_connection().cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        version = DirectoryVersion.objects.get(pk=1).v
        deployments = list(
            visible_deployments(None)
            .select_related("organization", "endpoint")
            .prefetch_related(Prefetch("shared_with", Organization.objects.only("pk")))
            .order_by("pk")
        )
        current = {item.deployment_id: item for item in current_versions()} | serving_versions()
        addresses: dict[int, list[Address]] = {}
        ready = Instance.objects.filter(ended_at=None, phase=READY).exclude(address="").order_by("pk")
        for instance in ready.select_related("version__deployment__endpoint__cluster"):
            address = _address(instance, instance.version.deployment.endpoint.cluster)
            if address is not None:
                addresses.setdefault(instance.version_id, []).append(address)
        keys = _read_keys()
    targets = []
    for deployment in deployments:
        found = current.get(deployment.pk)
        status = found.status if found else Status.STOPPED
        cause = found.cause if found else None
        serving = found is not None and status == Status.RUNNING
        targets.append(
            Target(
                deployment_id=deployment.pk,
                organization_id=deployment.organization_id,
                api_id=deployment.api_id,
                endpoint=deployment.endpoint.name,
                name=deployment.name,
                version_id=found.pk if found else 0,
                status=str(status),
                status_label=found.get_status_display() if found else "Stopped",
                cause_code=cause.code if cause else "",
                cause_message=cause.message if cause else "",
                created=int(deployment.created_at.timestamp()),
                addresses=tuple(addresses.get(found.pk, ())) if serving and found else (),
                is_public=deployment.is_public,
                is_shared_with_all=deployment.sharing == Deployment.Sharing.ALL,
                shared_with=tuple(sorted(item.pk for item in deployment.shared_with.all())),
            )
        )
    return Snapshot.of(version, targets, keys)


def _read_keys() -> Keys:
    """Whose each key is, by its digest; a rotated key's secret before has an end of its own."""
    organizations: dict[int, set[int]] = {}
    for user_id, organization_id in Member.objects.values_list("user_id", "organization_id"):
        organizations.setdefault(user_id, set()).add(organization_id)
    chosen: dict[int, set[int]] = {}
    for key_id, deployment_id in ApiKey.deployments.through.objects.values_list("apikey_id", "deployment_id"):
        chosen.setdefault(key_id, set()).add(deployment_id)
    keys: Keys = {}
    good = ApiKey.objects.filter(revoked_at=None, user__is_active=True).order_by("pk")
    fields = ("pk", "user_id", "organization_id", "scope", "digest", "expires_at", "previous_digest", "previous_until", "user__is_operator")  # fmt: skip
    for pk, user_id, organization_id, scope, digest, expires_at, previous, until, is_operator in good.values_list(
        *fields
    ):
        ends = expires_at.timestamp() if expires_at else math.inf
        known = {
            "organization_id": organization_id,
            "user_id": user_id,
            "key_id": pk,
            "organizations": frozenset(organizations.get(user_id, ())),
            "deployments": frozenset(chosen.get(pk, ())) if scope == ApiKey.Scope.DEPLOYMENTS else None,
            "is_operator": is_operator,
        }
        keys[bytes(digest)] = Caller(**known, expires_at=ends)
        if previous and until:
            keys[bytes(previous)] = Caller(**known, expires_at=min(ends, until.timestamp()))
    return keys


def _address(instance: Instance, cluster: Cluster) -> Address | None:
    host, _, port = instance.address.rpartition(":")
    if not cluster.is_proxied:
        return Address(instance.uid, host, int(port))
    try:
        api_server = unseal(cluster.encrypted_kubeconfig, settings.SECRET_KEY)
    except ApiServerUnusableError as error:
        log.warning("%s is left out: %s", instance.name, error)
        return None
    return Address.behind(api_server, instance.uid, pod_proxy_path(cluster.namespace, instance.name, port))
