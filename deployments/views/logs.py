"""The Logs tab: which instances have logs, a page of stored lines, and the whole log as a file."""

from collections.abc import Iterator
from datetime import UTC, datetime

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render

from common.numbers import whole
from deployments import log_store
from deployments.last_words import lines_of
from deployments.models import Instance, LastWords
from deployments.selectors import visible_instances
from deployments.views.access import get_deployment, tab_context

CUT = "Earlier lines are no longer kept."
INSTANCES_SHOWN = 50
ENDS_SHOWN = 10


@login_required
def logs(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    instances = list(
        Instance.objects.filter(version__deployment=deployment).select_related("version")[:INSTANCES_SHOWN]
    )
    wanted = request.GET.get("instance", "")
    chosen = next((item for item in instances if item.uid == wanted), None)
    if chosen is None:
        chosen = next((item for item in instances if item.is_live), instances[0] if instances else None)
    ends = list(LastWords.objects.filter(instance=chosen).defer("data")[:ENDS_SHOWN]) if chosen else []
    context = tab_context(deployment, "logs", instances=instances, chosen=chosen, ends=ends)
    return render(request, "deployments/logs.html", context)


@login_required
def earlier_lines(request: HttpRequest, uid: str) -> JsonResponse:
    """Stored lines before a position, for reading back."""
    instance = get_object_or_404(visible_instances(request.user), uid=uid)
    before = request.GET.get("before", "")
    page = log_store.read_before(instance.uid, whole(before), 500)
    return JsonResponse(
        {
            "lines": [[line.position, line.text] for line in page.lines],
            "has_earlier": page.has_earlier,
            "is_cut": page.is_cut,
        }
    )


@login_required
def last_words(request: HttpRequest, uid: str, end: int) -> HttpResponse:
    """The last lines of one run of an instance's program, as text."""
    instance = get_object_or_404(visible_instances(request.user), uid=uid)
    words = get_object_or_404(LastWords, instance=instance, end=end)
    return HttpResponse("\n".join(lines_of(words)) + "\n", content_type="text/plain; charset=utf-8")


@login_required
def download(request: HttpRequest, uid: str) -> StreamingHttpResponse:
    instance = get_object_or_404(visible_instances(request.user), uid=uid)
    response = StreamingHttpResponse(_text(instance.uid), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{instance.name}.log"'
    return response


def _text(uid: str) -> Iterator[str]:
    if log_store.is_cut(uid):
        yield CUT + "\n"
    for line in log_store.read_all(uid):
        seconds, _, text = line.text.partition(" ")
        yield f"{datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec='milliseconds')} {text}\n"
