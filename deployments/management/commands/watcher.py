"""`manage.py watcher`: follows instances and their logs."""

import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand
from django.db import DatabaseError

from common.database_lock import try_lock
from deployments.kubernetes_watching import KubernetesWatchers
from deployments.watching import LocalWatcher

# A cluster that was added or changed is followed within this time.
CLUSTERS_S = 3.0


class Command(BaseCommand):
    help = "Follows instances: marks changes, stores and streams their logs."

    def handle(self, *args: Any, **options: Any) -> None:
        stopped = False

        def stop(*_: object) -> None:
            nonlocal stopped
            stopped = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        while not stopped:
            # A second watcher waits in reserve: following twice would do no harm, only double the work.
            with try_lock("watcher.local") as held:
                if held:
                    self._run(lambda: stopped)
            time.sleep(0.2 if stopped else 2)

    def _run(self, should_stop: Callable[[], bool]) -> None:
        """The local clusters from this thread, each Kubernetes cluster from threads of its own."""
        clusters = KubernetesWatchers()
        looked = 0.0

        def look_and_ask() -> bool:
            nonlocal looked
            if time.monotonic() - looked > CLUSTERS_S:
                looked = time.monotonic()
                # With the database away there is nothing to change; the next look comes soon.
                with contextlib.suppress(DatabaseError):
                    clusters.look()
            return should_stop()

        try:
            LocalWatcher().run(look_and_ask)
        finally:
            clusters.finish()
