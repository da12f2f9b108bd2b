"""What was at one moment of a chart: events, instances and their log lines around it."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import redis
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from common.numbers import whole
from deployments import log_store
from deployments.models import Deployment, Event, Instance
from deployments.views.access import get_deployment
from monitoring.question import Question, UnclearQuestionError

SHORTEST_S, LONGEST_S = 30, 86_400
INSTANCES_SHOWN = 8
LINES_SHOWN = 200
EVENTS_SHOWN = 50


@dataclass(frozen=True)
class Lines:
    """An instance's lines around the moment: when each was written, and its text."""

    instance: Instance
    lines: list[tuple[datetime, str]]


@login_required
def moment(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """`?at=` the start of a point, in seconds since the epoch, `width=` its seconds: a fragment for the page."""
    deployment = get_deployment(request, organization, name)
    at, width = whole(request.GET.get("at", "")), whole(request.GET.get("width", ""))
    if at is None or not 0 < at < 1 << 31:
        return HttpResponse(
            "“at” is a moment in whole seconds since the epoch.", status=422, content_type="text/plain; charset=utf-8"
        )
    width = min(max(width or 1, 1), LONGEST_S)
    around = max(SHORTEST_S, width // 2)
    middle = at + width // 2
    start, end = middle - around, min(middle + around, int(time.time()) + 1)
    try:
        question = Question.from_query(request.GET)
    except UnclearQuestionError:
        question = Question()
    instances = _living(deployment, question, start, end)
    return render(request, "monitoring/_moment.html", {
        "deployment": deployment, "at": datetime.fromtimestamp(at, ZoneInfo(question.zone)), "start": datetime.fromtimestamp(start, UTC), "end": datetime.fromtimestamp(end, UTC), "most": LINES_SHOWN, "zone": ZoneInfo(question.zone),
        "events": _events(deployment, start, end), "instances": instances[:INSTANCES_SHOWN],
        "left_out": max(0, len(instances) - INSTANCES_SHOWN), "logs": [_lines(item, middle, around) for item in instances[:INSTANCES_SHOWN]],
    })  # fmt: skip


def _living(deployment: Deployment, question: Question, start: int, end: int) -> list[Instance]:
    first, last = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)
    found = Instance.objects.filter(version__deployment=deployment, started_at__lt=last)
    found = found.filter(Q(ended_at=None) | Q(ended_at__gte=first)).select_related("version")
    if question.instance_uid:
        found = found.filter(uid=question.instance_uid)
    if question.version_id:
        found = found.filter(version_id=question.version_id)
    return list(found[:200])


def _events(deployment: Deployment, start: int, end: int) -> list[Event]:
    # A little earlier: what is seen in a curve was mostly caused before.
    first = datetime.fromtimestamp(start, UTC) - timedelta(seconds=SHORTEST_S)
    found = deployment.events.filter(at__gte=first, at__lt=datetime.fromtimestamp(end, UTC))
    return list(found.select_related("actor")[:EVENTS_SHOWN])


def _lines(instance: Instance, middle: int, around: int) -> Lines:
    try:
        found = log_store.read_around(instance.uid, middle, around, LINES_SHOWN)
    except (redis.RedisError, OSError):
        found = []
    lines = []
    for line in found:
        seconds, _, text = line.text.partition(" ")
        lines.append((datetime.fromtimestamp(float(seconds), UTC), text[:500]))
    return Lines(instance, lines)
