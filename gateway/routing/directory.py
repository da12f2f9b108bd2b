"""Reads the control plane: keeps the gateway's snapshot current. One of the three files of the gateway that touch it.

A thread listens for notifications, which carry only a version; it also polls each 5 s, because a notification can be
lost with its connection, and reads everything each minute whatever the version says. While PostgreSQL is away the
last good snapshot, which lies on disk too, stays in force.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import Prefetch
from django.utils import timezone

from accounts import time_zones
from accounts.models import Organization
from apikeys import directory as key_directory
from common.postgresql.attempts import closed_on_failure
from deployments.models import (
    Alias,
    Cluster,
    Deployment,
    DirectoryVersion,
    GatewayProcess,
    Instance,
    Price,
    Quota,
    Status,
)
from deployments.selectors import current_versions, serving_versions, visible_deployments
from gateway.access.key_ring import KeyRing
from gateway.http.address import Address
from gateway.http.api_server import ApiServerUnusableError, pod_proxy_path, unseal
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target
from runtimes.engines.registry import UnknownEngineError, engine
from runtimes.observation import READY
from runtimes.specification import Specification

log = logging.getLogger(__name__)

POLL_S = 5.0
FULL_READ_S = 60.0
RETRY_S = 1.0


class Directory:
    """Calls `on_change(snapshot)` from its thread, first with what lies on disk; `acknowledge(version)` when it is saved.

    `on_gateways(count)` tells at each poll how many gateways live.
    """

    def __init__(
        self,
        folder: Path,
        keys: KeyRing,
        on_change: Callable[[Snapshot], None],
        acknowledge: Callable[[int], None],
        on_gateways: Callable[[int], None],
    ) -> None:
        self._path = folder / "snapshot.json"
        self._keys = keys
        self._on_change = on_change
        self._acknowledge = acknowledge
        self._on_gateways = on_gateways
        self._snapshot = Snapshot.load(self._path, settings.INSTALLATION_KEYS.encryption)
        self._read_at = -math.inf
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
        with closed_on_failure():
            connected = psycopg.connect(settings.DATABASE_URL, autocommit=True, connect_timeout=5)
        with connected as listener:
            listener.execute("LISTEN slipway_directory")
            self._refresh()
            while not self._stopped.is_set():
                for _ in listener.notifies(timeout=POLL_S, stop_after=1):
                    pass
                self._refresh()

    def _refresh(self) -> None:
        # This one may not have told of itself yet.
        self._on_gateways(max(1, GatewayProcess.living().count()))
        version = DirectoryVersion.objects.get(pk=1).v
        is_full = time.monotonic() - self._read_at >= FULL_READ_S
        if version == self._snapshot.version == self._keys.version and not is_full:
            return
        with _one_moment():
            snapshot = read_snapshot()
            self._refresh_keys(snapshot.version, is_full=is_full)
        if is_full:
            self._read_at = time.monotonic()
        if snapshot != self._snapshot:
            # On disk first: a gateway that restarts without PostgreSQL must not go back behind what it served by.
            snapshot.save(self._path)
            self._snapshot = snapshot
            self._on_change(snapshot)
        self._acknowledge(snapshot.version)

    def _refresh_keys(self, version: int, *, is_full: bool) -> None:
        """Read the changed ones; all of them where that leaves a difference, as after deletions."""
        keys = self._keys
        if keys.version >= 0 and not keys.has_grown_long:
            keys.apply(key_directory.rows(changed_since=keys.version), version)
        as_known = key_directory.fingerprint() == keys.fingerprint if is_full else key_directory.count() == keys.count
        if not as_known or keys.has_grown_long:
            keys.replace(key_directory.rows(), version)


@contextmanager
def _one_moment() -> Iterator[None]:
    """All queries in it see the database as it was at the first."""
    with transaction.atomic():
        with transaction.get_connection().cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def read_snapshot() -> Snapshot:
    """All deployments and their ready instances. Within `_one_moment`, else a change may come in between."""
    version = DirectoryVersion.objects.get(pk=1).v
    deployments = list(
        visible_deployments(None)
        .select_related("organization", "endpoint")
        .prefetch_related(Prefetch("shared_with", Organization.objects.only("pk")), "rate_limits", "prices")
        .order_by("pk")
    )
    current = {item.deployment_id: item for item in current_versions()} | serving_versions()
    addresses: dict[int, list[Address]] = {}
    ready = Instance.objects.filter(ended_at=None, phase=READY).exclude(address="").order_by("pk")
    for instance in ready.select_related("version__deployment__endpoint__cluster"):
        address = _address(instance, instance.version.deployment.endpoint.cluster)
        if address is not None:
            addresses.setdefault(instance.version_id, []).append(address)
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
                counts_tokens=_counts_tokens(deployment),
                version_number=found.number if found else 0,
                price=_price(deployment),
                origins=tuple(deployment.endpoint.origins),
                limits_leave_cached_out=deployment.limits_leave_cached_out,
                **_of_engine(found.specification if found else None),
                limits=tuple(
                    (item.level, item.requests_per_minute or 0, item.tokens_per_minute or 0)
                    for item in deployment.rate_limits.all()
                ),
            )
        )
    bounded = Quota.objects.filter(tokens__isnull=False, organization__isnull=False)
    metered = list(bounded.values_list("organization_id", "tokens_spent_in", "organization__time_zone"))
    now = timezone.now()
    spent = [organization for organization, month, zone in metered if month == time_zones.month_of(now, zone)]
    aliases = Alias.objects.values_list("organization_id", "name", "deployment_id")
    return Snapshot.of(version, targets, metered=[item[0] for item in metered], spent=spent, aliases=aliases)


def _of_engine(specification: Specification | None) -> dict[str, Any]:
    """What the gateway goes by of a version's engine."""
    try:
        found = engine(specification.engine) if specification is not None else None
    except UnknownEngineError:
        found = None
    if found is None or specification is None:
        return {}
    served_name = specification.served_model_name if found.names_model else ""
    return {
        "free_paths": found.free_paths, "streams_tell": found.streams_tell, "served_name": served_name,
        "context_length": found.context_of(specification) or 0, "kinds": found.kinds,
    }  # fmt: skip


def _price(deployment: Deployment) -> tuple[str, ...]:
    now = timezone.now()
    current = max((item for item in deployment.prices.all() if item.since <= now), key=_begins, default=None)
    if current is None or not current.currency:
        return ()
    amounts = [current.input_price, current.output_price]
    if current.cached_price is not None:
        amounts.append(current.cached_price)
    return current.currency, *(f"{amount.normalize():f}" for amount in amounts)


def _begins(price: Price) -> tuple[datetime, int]:
    return price.since, price.pk


def _counts_tokens(deployment: Deployment) -> bool:
    """Whether tokens are limited here, or have a price, be it one of before: that which holds changes with the clock."""
    return any(item.tokens_per_minute for item in deployment.rate_limits.all()) or any(
        item.currency for item in deployment.prices.all()
    )


def _address(instance: Instance, cluster: Cluster) -> Address | None:
    host, _, port = instance.address.rpartition(":")
    if not cluster.is_proxied:
        return Address(instance.uid, host, int(port))
    try:
        api_server = unseal(cluster.encrypted_kubeconfig, settings.INSTALLATION_KEYS.encryption)
    except ApiServerUnusableError as error:
        log.warning("%s is left out: %s", instance.name, error)
        return None
    return Address.behind(
        api_server, instance.uid, pod_proxy_path(instance.namespace or cluster.namespace, instance.name, port)
    )
