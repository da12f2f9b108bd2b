"""The watcher of one Kubernetes cluster: stores each pod's log once and marks the cluster dirty when a pod changes.

A container's log is one request that stays open as long as the container runs; of pods that never ran nothing is asked. The
watcher holds nothing that it couldn't read again: positions of lines are their times, so after a kill, a lost connection or a
container's restart it goes on behind the last sealed line.
"""

import logging
import threading
import time
from dataclasses import dataclass, field

import redis
from django.db import DatabaseError, close_old_connections

from common.backoff import restart_delay
from common.queue import enqueue
from deployments.drivers import kubernetes_driver
from deployments.models import Cluster, Instance
from deployments.watching import Follower
from runtimes import observation
from runtimes.driver import ClusterUnreachableError, DriverError, LogLine
from runtimes.kubernetes.client import ForbiddenError
from runtimes.kubernetes.driver import KubernetesDriver

log = logging.getLogger(__name__)

# What was read is shown and stored this often; which instances there are is asked less often.
STORE_S, LOOK_S = 0.2, 0.5
RETRY_S = 2.0
WATCH_S = 300.0
# A log that says nothing for so long is asked for anew: the connection may be dead.
SILENCE_S = 600.0
# Changes come in bursts; one look serves them all.
DEBOUNCE_S = 0.2
# Bytes that wait to be stored; a program that writes faster is read no faster.
MOST_WAITING = 1 << 20
# So many logs of one cluster are followed at once; others wait for a place.
MOST_FOLLOWED = 500


@dataclass
class _Reading:
    """One instance's log: a thread of its own reads lines into `waiting`, from where the watcher's own thread stores them."""

    follower: Follower
    # The last line that was read, which is ahead of what is stored.
    position: int
    waiting: list[LogLine] = field(default_factory=list)
    waiting_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    has_room: threading.Event = field(default_factory=threading.Event)
    # What was last told of the instance, and what was read to its end: a container that ended has no more to say.
    told: tuple[object, ...] = ()
    read_out: tuple[object, ...] | None = None
    thread: threading.Thread | None = None
    # Nobody stores what it reads any more.
    is_over: bool = False
    failures: int = 0
    not_before: float = 0.0

    def add(self, line: LogLine, stopped: threading.Event) -> None:
        with self.lock:
            self.position = line.position
            self.waiting.append(line)
            self.waiting_bytes += len(line.text)
            is_full = self.waiting_bytes >= MOST_WAITING
            if is_full:
                self.has_room.clear()
        while is_full and not stopped.is_set() and not self.is_over and not self.has_room.wait(1):
            pass

    def take(self) -> list[LogLine]:
        with self.lock:
            lines, self.waiting, self.waiting_bytes = self.waiting, [], 0
            self.has_room.set()
        return lines

    @property
    def is_busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class KubernetesWatcher:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stopped = threading.Event()
        self._readings: dict[str, _Reading] = {}
        self._looked = 0.0
        self._threads = [
            threading.Thread(target=self._loop, args=(step,), name=f"{name}-{cluster.name}", daemon=True)
            for name, step in (("watch", self._watch), ("logs", self._keep_logs))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def finish(self) -> None:
        """Seal what was read. What waits for the cluster is left to end with the process."""
        self._threads[1].join(5)
        for reading in self._readings.values():
            reading.follower.take(reading.take())
            reading.follower.seal(complete=False)

    def _loop(self, step) -> None:  # type: ignore[no-untyped-def]
        told = ""
        while not self._stopped.is_set():
            try:
                step(kubernetes_driver(self._cluster))
                told = ""
            except (DriverError, DatabaseError, redis.RedisError, OSError) as error:
                if str(error) != told:
                    # Once: an unreachable cluster says the same every two seconds.
                    log.warning("%s: %s", self._cluster.name, error)
                    told = str(error)
                close_old_connections()
                self._stopped.wait(RETRY_S)
            except Exception:
                log.exception("%s", self._cluster.name)
                self._stopped.wait(RETRY_S)

    def _watch(self, driver: KubernetesDriver) -> None:
        """Each connection begins with the pods that there are, so nothing that happened in between is missed."""
        marked = 0.0
        for _ in driver.changes(WATCH_S):
            if self._stopped.is_set():
                return
            if time.monotonic() - marked > DEBOUNCE_S:
                time.sleep(DEBOUNCE_S)
                enqueue("deployments.reconcile_cluster", self._cluster.pk)
                marked = time.monotonic()

    def _keep_logs(self, driver: KubernetesDriver) -> None:
        started = time.monotonic()
        if started - self._looked >= LOOK_S:
            self._looked = started
            self._look(driver)
        for uid, reading in list(self._readings.items()):
            lines = reading.take()
            reading.follower.take(lines)
            # What the cluster still has of an ended one has been read; the pod may be gone already.
            ended = reading.follower.instance.ended_at is not None
            done = ended and not lines and not reading.is_busy and reading.read_out == reading.told
            reading.follower.seal_when_due(complete=done)
            if done:
                del self._readings[uid]
        close_old_connections()
        self._stopped.wait(max(0.02, STORE_S - (time.monotonic() - started)))

    def _look(self, driver: KubernetesDriver) -> None:
        """Follow what has begun to speak, and what speaks again."""
        found = Instance.objects.filter(log_complete=False, version__deployment__endpoint__cluster=self._cluster)
        instances = {instance.uid: instance for instance in found}
        for uid in set(self._readings) - set(instances):
            self._readings.pop(uid).is_over = True
        busy = sum(reading.is_busy for reading in self._readings.values())
        for uid, instance in instances.items():
            reading = self._readings.setdefault(
                uid, _Reading(Follower(instance, instance.log_position), instance.log_position)
            )
            reading.follower.instance = instance
            reading.told = _told(instance)
            if not _has_run(instance):
                # Nothing to read, ever, if it has ended: its log is complete as it is.
                reading.read_out = reading.told
                continue
            if reading.is_busy or reading.read_out == reading.told or time.monotonic() < reading.not_before:
                continue
            if busy < MOST_FOLLOWED:
                busy += 1
                reading.thread = threading.Thread(
                    target=self._read,
                    args=(driver, reading, instance, reading.told),
                    daemon=True,
                    name=f"log-{uid[:8]}",
                )
                reading.thread.start()

    def _read(self, driver: KubernetesDriver, reading: _Reading, instance: Instance, told: tuple[object, ...]) -> None:
        """Until the container ends: what one before it has left, then its own lines as they come."""
        try:
            for line in self._lines(driver, reading, instance):
                reading.add(line, self._stopped)
                if self._stopped.is_set() or reading.is_over:
                    return
            reading.failures = 0
        except DriverError as error:
            if not isinstance(error, ClusterUnreachableError | ForbiddenError):
                # There is no such log: nothing to ask for until something changes.
                reading.read_out = told
                return
            self._try_later(reading, instance, error)
        except Exception as error:
            log.exception("log of %s", instance.name)
            self._try_later(reading, instance, error)
        else:
            reading.read_out = told

    def _try_later(self, reading: _Reading, instance: Instance, error: Exception) -> None:
        """A silence, or the node is gone: again in a while, behind the last line."""
        reading.failures += 1
        reading.not_before = time.monotonic() + restart_delay(reading.failures)
        log.debug("log of %s: %s", instance.name, error)

    def _lines(self, driver: KubernetesDriver, reading: _Reading, instance: Instance):  # type: ignore[no-untyped-def]
        fetches, name = _fetches(instance), instance.qualified_name
        # What fetched the model's files may have ended before anybody listened.
        missed = _is_fetched(instance) and not reading.position
        if not fetches and (instance.ended_at is not None or instance.restarts > 0 or missed):
            yield from driver.pod_log(
                name, after=reading.position, restarted=instance.restarts > 0, fetching=_is_fetched(instance)
            )
        if instance.ended_at is None:
            yield from driver.follow_log(name, after=reading.position, fetching=fetches, within_s=SILENCE_S)


def _has_run(instance: Instance) -> bool:
    """Whether any container of it has begun: one that waits for room, an image or a Secret has no log."""
    return (
        instance.ends > 0
        or instance.phase in (observation.FETCHING, observation.LOADING, observation.READY)
        or _at(instance, "started")
    )


def _fetches(instance: Instance) -> bool:
    """Whether it is still what fetches the model's files that speaks."""
    return any(step["name"] == "model_fetched" and not step["at"] for step in instance.steps)


def _is_fetched(instance: Instance) -> bool:
    return _at(instance, "model_fetched")


def _at(instance: Instance, name: str) -> bool:
    return any(step["name"] == name and step["at"] for step in instance.steps)


def _told(instance: Instance) -> tuple[object, ...]:
    """What changes when there is another log to read."""
    return instance.restarts, instance.ends, _fetches(instance), _at(instance, "started"), instance.ended_at is not None


class KubernetesWatchers:
    """One watcher per cluster, as clusters come, change and go."""

    def __init__(self) -> None:
        self._watchers: dict[tuple[int, str, str, str], KubernetesWatcher] = {}

    def look(self) -> None:
        found = {
            (cluster.pk, cluster.namespace, cluster.namespace_template, cluster.encrypted_kubeconfig): cluster
            for cluster in Cluster.objects.filter(driver=Cluster.Driver.KUBERNETES)
        }
        for key in set(self._watchers) - set(found):
            self._watchers.pop(key).stop()
        for key in set(found) - set(self._watchers):
            self._watchers[key] = KubernetesWatcher(found[key])
            self._watchers[key].start()

    def finish(self) -> None:
        for watcher in self._watchers.values():
            watcher.stop()
        for watcher in self._watchers.values():
            watcher.finish()
