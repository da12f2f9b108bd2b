"""What the console's pages of the queue and one's own in the Developer Hub have in common."""

from typing import Any

from django.db.models import BinaryField, QuerySet
from django.db.models.functions import Length, Substr
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone

from async_inference import selectors, services, states
from async_inference.models import AsyncPayload, AsyncRequest, AsyncResult, WebhookDelivery
from common.numbers import whole

PAGE_SIZE = 50
EXCERPT_BYTES = 4000
ATTEMPTS_SHOWN = 50
ACTIONS = {
    "cancel": "The request is cancelled.",
    "retry": "The request is queued once more.",
    "redeliver": "The webhook will be delivered in a moment.",
}


def rows(request: HttpRequest, found: QuerySet[AsyncRequest]) -> dict[str, Any]:
    """One page of a list, newest first, by what the address asks for."""
    wanted = {name: request.GET.get(name, "").strip()[:40] for name in ("state", "search")}
    before = whole(request.GET.get("before", ""))
    shown = selectors.narrowed(found, **wanted)
    if before is not None:
        shown = shown.filter(pk__lt=before)
    page = list(shown[: PAGE_SIZE + 1])
    selectors.attach_senders(page[:PAGE_SIZE])
    query = request.GET.copy()
    query.pop("before", None)
    return {
        "rows": page[:PAGE_SIZE], "next_before": page[PAGE_SIZE - 1].pk if len(page) > PAGE_SIZE else None,
        "wanted": wanted, "states": states.SHOWN, "counts": selectors.counts(found), "query": query.urlencode(),
        "is_narrowed": any(wanted.values()) or before is not None,
    }  # fmt: skip


def find(found: QuerySet[AsyncRequest], uid: str) -> AsyncRequest:
    item = selectors.narrowed(found, search=uid).first() if len(uid) == 32 and uid.isalnum() else None
    if item is None:
        raise Http404
    return item


def detail(item: AsyncRequest, request: HttpRequest) -> dict[str, Any]:
    """All that is known of one request; its content for whoever may touch it."""
    selectors.attach_senders([item])
    may_touch = services.may_touch(item, request.user)
    context: dict[str, Any] = {"item": item, "may_touch": may_touch, "now": timezone.now()}
    delivery = WebhookDelivery.objects.filter(request=item).first()
    if delivery is not None:
        context |= {"delivery": delivery, "tries": list(delivery.tries.all()[:ATTEMPTS_SHOWN])}
    if may_touch:
        payload, result = _beginning(AsyncPayload.objects.all(), item), _beginning(AsyncResult.objects.all(), item)
        context |= {"payload": payload, "result": result, "may_send_again": services.may_send_again(item, request.user)}
        if payload is not None:
            context["sent"] = excerpt(bytes(payload.beginning), payload.size)
        if result is not None:
            context["answer"] = excerpt(bytes(result.beginning), result.size)
    return context


def _beginning(contents: QuerySet[Any], item: AsyncRequest) -> Any:
    """A payload or result without its body, of which a page that is read again and again shows the beginning only."""
    beginning = Substr("body", 1, EXCERPT_BYTES, output_field=BinaryField())
    return contents.filter(request=item).defer("body").annotate(size=Length("body"), beginning=beginning).first()


def excerpt(beginning: bytes, size: int) -> str:
    """The beginning of so many bytes as text; in words where it is none."""
    try:
        text = beginning.decode()
    except UnicodeDecodeError as error:
        # A character may lie across the cut.
        if error.start < EXCERPT_BYTES - 4:
            return f"{size:,} bytes that are no text."
        text = beginning[: error.start].decode()
    return text if size <= EXCERPT_BYTES else f"{text}\n… {size:,} bytes in all"


def act(item: AsyncRequest, action: str, request: HttpRequest) -> AsyncRequest:
    """Do what a button says; the request to show then. Raises ServiceError, and Http404 for no such action."""
    if action not in ACTIONS or not services.may_touch(item, request.user):
        raise Http404
    if action == "retry":
        return services.retry(item, actor=request.user)
    if action == "cancel":
        services.cancel(item, actor=request.user)
    else:
        services.redeliver(item, actor=request.user)
    return item


def result_file(item: AsyncRequest, request: HttpRequest) -> HttpResponse:
    """The answer's body as a file: a browser must never take what a model wrote for a page of ours."""
    result = AsyncResult.objects.filter(request=item).first()
    if result is None or not services.may_touch(item, request.user):
        raise Http404
    plain = result.content_type.partition(";")[0].strip().lower()
    ending = {"application/json": "json", "text/plain": "txt", "text/event-stream": "txt"}.get(plain, "bin")
    response = HttpResponse(bytes(result.body), content_type="application/octet-stream")
    response["Content-Disposition"] = f'attachment; filename="{item.uid.hex}.{ending}"'
    return response


def state(item: AsyncRequest) -> JsonResponse:
    """For the page that sent it and waits."""
    told: dict[str, Any] = {
        "state": item.shown_state, "status_code": item.status_code, "message": item.error_message,
        "waited": _seconds(item, "created_at", "begun_at"), "took": _seconds(item, "begun_at", "finished_at"),
    }  # fmt: skip
    if item.is_final:
        result = _beginning(AsyncResult.objects.all(), item)
        told["result"] = excerpt(bytes(result.beginning), result.size) if result else None
    return JsonResponse(told)


def _seconds(item: AsyncRequest, start: str, end: str) -> float | None:
    first, last = getattr(item, start), getattr(item, end)
    return (last - first).total_seconds() if first and last else None
