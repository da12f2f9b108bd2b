"""`manage.py watcher`: follows instances and their logs."""

import signal
import time
from typing import Any

from django.core.management.base import BaseCommand

from common.database_lock import try_lock
from deployments.watching import LocalWatcher


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
                    LocalWatcher().run(lambda: stopped)
            time.sleep(0.2 if stopped else 2)
