"""The watcher of local clusters: follows each instance's log once and marks the cluster dirty when an instance changes.

It holds nothing that it couldn't read again: after a kill it goes on behind the last sealed position.
"""

import logging
import time
from dataclasses import dataclass, field

import redis
from django.db import DatabaseError, close_old_connections
from django.utils import timezone

from common.broadcast import publish
from common.queue import enqueue
from deployments import log_store
from deployments.drivers import local_driver
from deployments.models import Cluster, Instance
from runtimes import observation
from runtimes.driver import LogLine
from runtimes.local.instance_folder import InstanceFolder

log = logging.getLogger(__name__)

POLL_S = 0.2
SEAL_INTERVAL_S = 5.0
SEAL_BYTES = 256 << 10
# How many lines one look takes from one instance, so that a flood from one delays no other.
LINES_PER_LOOK = 2000


@dataclass
class Follower:
    """What is read of one log but not sealed yet."""

    instance: Instance
    position: int
    pending: list[LogLine] = field(default_factory=list)
    pending_bytes: int = 0
    sealed_at: float = field(default_factory=time.monotonic)

    def take(self, lines: list[LogLine]) -> None:
        """Show lines to live readers and keep them for the next chunk."""
        if not lines:
            return
        self.position = lines[-1].position
        self.pending += lines
        self.pending_bytes += sum(len(line.text) for line in lines)
        try:
            log_store.publish_tail(self.instance.uid, lines)
        except redis.RedisError as error:
            # Live readers wait; what is stored must not.
            log.warning("live tail of %s: %s", self.instance.uid, error)

    def seal_when_due(self, *, complete: bool) -> None:
        """Store what is pending when it is old or large enough, or when nothing more will come."""
        due = self.pending and time.monotonic() - self.sealed_at >= SEAL_INTERVAL_S
        if complete or due or self.pending_bytes >= SEAL_BYTES:
            self.seal(complete=complete)

    def seal(self, *, complete: bool) -> None:
        if not self.pending and not complete:
            return
        log_store.seal(self.instance, self.pending, complete=complete, now=timezone.now())
        self.pending, self.pending_bytes = [], 0
        self.sealed_at = time.monotonic()
        if complete:
            publish("instance", self.instance.uid)


class LocalWatcher:
    def __init__(self) -> None:
        self._followers: dict[str, Follower] = {}
        self._fingerprints: dict[str, tuple[object, ...]] = {}

    def run(self, should_stop) -> None:  # type: ignore[no-untyped-def]
        """Look until `should_stop()`; then seal what is left."""
        while not should_stop():
            started = time.monotonic()
            try:
                self.look()
            except (DatabaseError, redis.RedisError, OSError) as error:
                log.warning("looking failed, trying again: %s", error)
                self._followers.clear()
                close_old_connections()
                time.sleep(1)
            time.sleep(max(0.02, POLL_S - (time.monotonic() - started)))
        self.look(final=True)

    def look(self, *, final: bool = False) -> None:
        """One round over all instances of all local clusters."""
        seen: set[str] = set()
        for cluster_id in self._cluster_ids():
            dirty = False
            for folder in local_driver(cluster_id).folders():
                state = folder.read_state()
                if state is None:
                    continue
                uid = state["uid"]
                seen.add(uid)
                fingerprint = (
                    state["phase"],
                    state["restarts"],
                    state["port"],
                    state["started_at"],
                    state["listening_at"],
                )
                if self._fingerprints.get(uid) != fingerprint:
                    self._fingerprints[uid] = fingerprint
                    dirty = True
                self._follow(uid, folder, state["phase"] in (observation.GONE, observation.FAILED), final=final)
            if dirty:
                enqueue("deployments.reconcile_cluster", cluster_id)
        for kept in (self._followers, self._fingerprints):
            for uid in set(kept) - seen:
                del kept[uid]

    def _cluster_ids(self) -> list[int]:
        return list(Cluster.objects.filter(driver=Cluster.Driver.LOCAL).values_list("pk", flat=True))

    def _follow(self, uid: str, folder: InstanceFolder, ended: bool, *, final: bool) -> None:
        follower = self._followers.get(uid) or self._begin(uid)
        if follower is None or follower.instance.log_complete:
            return
        lines = []
        for line in folder.read_log(follower.position):
            lines.append(line)
            if len(lines) >= LINES_PER_LOOK:
                break
        follower.take(lines)
        if final:
            follower.seal(complete=ended and not lines)
        else:
            follower.seal_when_due(complete=ended and not lines)

    def _begin(self, uid: str) -> Follower | None:
        """Start following as soon as the reconciler has made the instance's row."""
        instance = Instance.objects.filter(uid=uid).first()
        if instance is None:
            return None
        self._followers[uid] = Follower(instance, instance.log_position)
        return self._followers[uid]
