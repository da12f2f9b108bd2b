"""Template tags of the console: icons, statuses, ages, amounts. Unknown is "–", never 0."""

import math
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from deployments.models import Status

register = template.Library()
ICONS = Path(__file__).resolve().parents[2] / "node_modules/@tabler/icons/icons/outline"
STATUS_COLOURS = {
    Status.PREPARING: "azure",
    Status.RUNNING: "green",
    Status.SHUTTING_DOWN: "orange",
    Status.STOPPED: "secondary",
    Status.ERROR: "red",
}
PHASES = {
    "scheduled": ("Pending", "azure"),
    "fetching": ("Fetching the model", "azure"),
    "starting": ("Starting", "azure"),
    "loading": ("Loading", "azure"),
    "ready": ("Ready", "green"),
    "backing_off": ("Waiting to restart", "orange"),
    "failed": ("Failed", "red"),
    "ending": ("Ending", "orange"),
    "gone": ("Ended", "secondary"),
}


@lru_cache(maxsize=128)
def _svg(name: str) -> SafeString:
    text = (ICONS / f"{name}.svg").read_text()
    drawing = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    return mark_safe(  # noqa: S308 (our own files)
        '<svg class="icon" width="24" height="24" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.75" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{drawing}</svg>'
    )


@register.simple_tag
def icon(name: str) -> SafeString:
    return _svg(name)


@register.simple_tag
def status_badge(version: Any) -> SafeString:
    """The status of a version; amber when it runs with fewer instances than wanted, red when with none."""
    if version is None:
        return mark_safe('<span class="badge bg-secondary-lt">No version</span>')
    status = Status(version.status)
    colour = STATUS_COLOURS[status]
    ready = getattr(version, "ready", None)
    if status == Status.RUNNING and version.unready_since:
        colour = "red"
    elif status == Status.RUNNING and ready is not None and ready < version.replicas:
        colour = "yellow"
    blink = " status-dot-animated" if status in (Status.PREPARING, Status.SHUTTING_DOWN) else ""
    return format_html(
        '<span class="status status-{}"><span class="status-dot{}"></span>{}</span>', colour, blink, status.label
    )


@register.simple_tag
def phase_badge(instance: Any) -> SafeString:
    label, colour = PHASES.get(instance.phase, (instance.phase, "secondary"))
    return format_html('<span class="badge bg-{}-lt">{}</span>', colour, label)


@register.simple_tag
def age(moment: datetime | None) -> SafeString:
    """How long ago, short; the full time in the title."""
    if moment is None:
        return mark_safe("–")
    seconds = max(0.0, (timezone.now() - moment).total_seconds())
    return format_html(
        '<time datetime="{}" title="{}" data-age>{}</time>',
        moment.isoformat(),
        moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        seconds_text(seconds),
    )


@register.filter
def seconds_text(seconds: float | None) -> str:
    """`4 s`, `3 min`, `5 h`, `12 d`."""
    if seconds is None:
        return "–"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


@register.simple_tag
def until(moment: datetime) -> str:
    """How long until then, short."""
    seconds = (moment - timezone.now()).total_seconds()
    # Rounded up: what is said must not be over before it comes.
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds > size:
            return f"in {math.ceil(seconds / size)} {unit}"
    return f"in {math.ceil(seconds)} s" if seconds > 0 else "now"


@register.filter
def duration(seconds: float) -> str:
    """A time that something took: `340 ms`, `12 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else seconds_text(seconds)


@register.filter
def bytes_text(value: int | None) -> str:
    if value is None:
        return "–"
    if value >= 1000 * 2**30:
        return f"{value / 2**40:.3g} TiB"
    return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"


@register.filter
def lines(values: Any) -> str:
    return "\n".join(values)


@register.filter
def plain(value: float | Decimal) -> str:
    """A number without superfluous zeros: 0.5, 2."""
    if isinstance(value, Decimal):
        return f"{value.normalize():,f}"
    return f"{value:g}"


@register.filter
def thousands(value: int) -> str:
    return f"{value:,}"


@register.filter
def share(percent: float) -> str:
    """Of all: 3.2 %, and never 0 % for what there is."""
    return f"{percent:.1f} %" if percent >= 0.1 else "below 0.1 %"


@register.filter
def amount(costs: dict[str, Decimal], currency: str) -> str:
    """A cost in its currency, with as many digits as tell something: 12.40 EUR, 0.000153 EUR."""
    value = costs.get(currency)
    if value is None:
        return "–"
    text = f"{value:,.2f}" if value == 0 or abs(value) >= 1 else f"{value:.6f}".rstrip("0").ljust(4, "0")
    return f"{text} {currency}"


@register.filter
def dash(value: Any) -> Any:
    """Absent values as a dash."""
    return "–" if value is None or value == "" else value


@register.filter
def epoch(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, timezone.get_current_timezone()) if seconds else None


@register.inclusion_tag("components/field.html")
def field(bound: Any, **options: Any) -> dict[str, Any]:
    """A form field with its label, the reason for its default, and its errors beside it."""
    return _shown(bound) | options


@register.inclusion_tag("components/control.html")
def control(bound: Any) -> dict[str, Any]:
    """A form field in a table, whose heads say what it is: the label is for screen readers alone."""
    return _shown(bound)


def _shown(bound: Any) -> dict[str, Any]:
    widget = bound.field.widget
    kind = type(widget).__name__
    css = {"CheckboxInput": "form-check-input", "Select": "form-select"}.get(kind, "form-control")
    attributes = {"class": f"{widget.attrs.get('class', css)}{' is-invalid' if bound.errors else ''}"}
    described = []
    if bound.help_text:
        described.append(f"{bound.id_for_label}_help")
    if bound.errors:
        attributes["aria-invalid"] = "true"
        described.append(f"{bound.id_for_label}_error")
    if described:
        attributes["aria-describedby"] = " ".join(described)
    return {
        "field": bound,
        "control": bound.as_widget(attrs=attributes),
        "is_checkbox": kind == "CheckboxInput",
    }
