"""What other parts' pages say of the queue."""

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from async_inference import selectors
from async_inference.models import AsyncRequest
from deployments.models import Deployment

register = template.Library()
_COLOURS = {
    "queued": "azure", "running": "blue", "completed": "green", "failed": "red", "cancelled": "secondary", "expired": "orange",
}  # fmt: skip


@register.simple_tag
def waiting_requests(deployment: Deployment) -> int:
    """Exactly: for what is said before somebody deletes or empties it."""
    return selectors.waiting(deployment)


@register.simple_tag
def waiting_about(deployment: Deployment) -> int:
    """At most MOST_COUNTED + 1: for pages that are read again and again."""
    return selectors.waiting(deployment, most=selectors.MOST_COUNTED + 1)


@register.simple_tag
def state_badge(request: AsyncRequest) -> SafeString:
    state = request.shown_state
    return format_html('<span class="badge bg-{}-lt">{}</span>', _COLOURS[state], state.capitalize())


@register.simple_tag
def waited(request: AsyncRequest) -> str:
    """In the queue, until it was begun, or ended, or now."""
    end = request.begun_at or request.finished_at or timezone.now()
    return between(request.created_at, end)


@register.simple_tag
def between(start: datetime | None, end: datetime | None) -> str:
    if start is None or end is None:
        return "–"
    seconds = max(0.0, (end - start).total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@register.filter
def counted(count: int) -> str:
    return f"{count:,}" if count <= selectors.MOST_COUNTED else f"{selectors.MOST_COUNTED:,}+"
