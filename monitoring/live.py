"""Live points of open pages: read once for all pages that show the same, however many they are."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from django.db import connections

from deployments.models import Deployment
from monitoring import panel, queries, request_charts
from monitoring.numbers_json import encoded
from monitoring.queries import Scope
from monitoring.question import Question
from monitoring.request_frame import RequestFrame

log = logging.getLogger(__name__)

EVERY_S = 1.0
# What lies before is read again this often: batches can come late, and the window moves on.
REBASE_S = 30
# Reading must not take the threads that pages are served by; its one connection stays open while a page is.
_READER = ThreadPoolExecutor(1, thread_name_prefix="live-metrics")


class Listener(Protocol):
    """One open page."""

    def offer(self, message: str) -> None:
        """Take the newest message; one that was not sent yet is out of date and may be dropped."""


@dataclass
class Tail:
    """The end of a view's window, which is read again and again, and what lies before it, which is not."""

    deployment: Deployment
    question: Question
    based_at: int = 0
    since: int = 0
    base: RequestFrame | None = None

    def read(self, now: int) -> str:
        """The points since `since`, and the statistics of the whole window, as JSON."""
        if self.base is None or now - self.based_at >= REBASE_S:
            self._rebase(now)
        found = panel.load(self.deployment, self.question, now, start=self.since)
        axis = found.axis()
        whole = self.question.window(now)
        since = whole.place(found.window.start)
        total = request_charts.whole(RequestFrame.concatenate([self.base or RequestFrame.empty(), found.total]))
        charts = {chart.id: {"points": chart.points(axis, since)} for chart in found.charts if chart.curves}
        return encoded({
            "now": now, "since": since, "start": whole.place(whole.start), "end": whole.place(whole.drawn_end),
            "charts": charts, "statistics": request_charts.statistics(total, whole), "facts": request_charts.facts(total, whole), "marks": panel.last_mark(found.marks),
        }).decode()  # fmt: skip

    def _rebase(self, now: int) -> None:
        window = self.question.window(now)
        self.based_at, self.since = now, window.settled_since(now - window.width)
        before = window.until(self.since)
        scope = Scope.of(self.deployment, self.question.version_id, self.question.instance_uid)
        self.base = request_charts.whole(queries.requests(scope, before, now))


class Views:
    """The views that pages of this process have open, each with a task of its own. Lives on one event loop."""

    def __init__(self) -> None:
        self._listeners: dict[tuple[int, Question], set[Listener]] = {}
        self._tasks: dict[tuple[int, Question], asyncio.Task[None]] = {}

    def join(self, deployment: Deployment, question: Question, listener: Listener) -> None:
        """Offer `listener` each new message of this view until it leaves."""
        key = (deployment.pk, question.undressed())
        self._listeners.setdefault(key, set()).add(listener)
        if key not in self._tasks:
            tail = Tail(deployment, question.undressed())
            self._tasks[key] = asyncio.get_running_loop().create_task(self._run(key, tail))

    def leave(self, deployment: Deployment, question: Question, listener: Listener) -> None:
        key = (deployment.pk, question.undressed())
        listeners = self._listeners.get(key, set())
        listeners.discard(listener)
        if not listeners and key in self._tasks:
            self._listeners.pop(key, None)
            self._tasks.pop(key).cancel()
            if not self._tasks:
                _READER.submit(connections.close_all)

    async def _run(self, key: tuple[int, Question], tail: Tail) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            message = await loop.run_in_executor(_READER, _read, tail)
            for listener in self._listeners.get(key, ()):
                if message:
                    listener.offer(message)
            # A reader that is slower than the second leaves as much time again to the others.
            await asyncio.sleep(max(EVERY_S - (loop.time() - started), (loop.time() - started) / 2))


def _read(tail: Tail) -> str:
    """The next message; empty when the stores don't answer: pages say themselves how old they are."""
    try:
        return tail.read(int(time.time()))
    except Exception:
        # Whatever it is, the next second tries again: a task that ended would leave its pages silent for ever.
        log.exception("live charts of %s wait", tail.deployment)
        connections.close_all()
        return ""


views = Views()
