"""The watcher of one Kubernetes cluster: stores each pod's log once and marks the cluster dirty when a pod changes.

It holds nothing that it couldn't read again: positions of lines are their times, so after a kill, a lost connection or
a container's restart it goes on behind the last sealed line.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import redis
from django.db import DatabaseError, close_old_connections

from common.queue import enqueue
from deployments.drivers import kubernetes_driver
from deployments.models import Cluster, Instance
from deployments.watching import Follower
from runtimes import observation
from runtimes.driver import DriverError
from runtimes.kubernetes.driver import KubernetesDriver

log = logging.getLogger(__name__)

LOOK_S = 0.5
RETRY_S = 2.0
WATCH_S = 300.0
# Changes come in bursts; one look serves them all.
DEBOUNCE_S = 0.2
READERS = 8


class KubernetesWatcher:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stopped = threading.Event()
        self._followers: dict[str, Follower] = {}
        self._threads = [
            threading.Thread(target=self._loop, args=(step,), name=f"{name}-{cluster.name}", daemon=True)
            for name, step in (("watch", self._watch), ("logs", self._read_logs))
        ]
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix=f"log-{cluster.name}")

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def finish(self) -> None:
        """Seal what was read. The watch itself is left to end with the process: it may be waiting for a change."""
        self._threads[1].join(5)
        for follower in self._followers.values():
            follower.seal(complete=False)

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

    def _read_logs(self, driver: KubernetesDriver) -> None:
        started = time.monotonic()
        instances = list(
            Instance.objects.filter(log_complete=False, version__deployment__endpoint__cluster=self._cluster)
        )
        for uid in set(self._followers) - {instance.uid for instance in instances}:
            del self._followers[uid]
        list(self._readers.map(lambda instance: self._read_log(driver, instance), instances))
        close_old_connections()
        self._stopped.wait(max(0.0, LOOK_S - (time.monotonic() - started)))

    def _read_log(self, driver: KubernetesDriver, instance: Instance) -> None:
        follower = self._followers.setdefault(instance.uid, Follower(instance, instance.log_position))
        try:
            fetching = instance.phase not in (observation.LOADING, observation.READY)
            lines = list(
                driver.pod_log(
                    instance.name, after=follower.position, restarted=instance.restarts > 0, fetching=fetching
                )
            )
            follower.take(lines)
            # What the cluster still has of an ended one has been read; the pod may be gone already.
            follower.seal_when_due(complete=instance.ended_at is not None and not lines)
        except DriverError as error:
            log.info("log of %s: %s", instance.name, error)
        finally:
            close_old_connections()


class KubernetesWatchers:
    """One watcher per cluster, as clusters come, change and go."""

    def __init__(self) -> None:
        self._watchers: dict[tuple[int, str, str], KubernetesWatcher] = {}

    def look(self) -> None:
        found = {
            (cluster.pk, cluster.namespace, cluster.encrypted_kubeconfig): cluster
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
