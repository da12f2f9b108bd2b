"""Figures of the fleet's table."""

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from monitoring.fleet import SOME_ERRORS, Line
from monitoring.request_charts import seconds_text

register = template.Library()
WORDS = {
    "rate": "Requests a minute",
    "errors": "Share of errors",
    "p95": "p95",
    "gpu": "GPU utilization",
    "memory": "Memory",
}
HIGH = {"errors": SOME_ERRORS, "gpu": 0.9, "memory": 0.9}


@register.simple_tag
def figure(line: Line, name: str) -> SafeString:
    """The newest value and the last hour as a line; a dash where nothing is known."""
    value = getattr(line, name)
    strokes = format_html_join("", '<polyline points="{}"/>', ((points,) for points in line.sparklines.get(name, ())))
    drawn = (
        format_html('<svg class="sparkline" viewBox="0 0 96 22" width="96" height="22" role="img" aria-label="{} in the last hour">{}</svg>', WORDS[name], strokes)
        if strokes
        else SafeString("")
    )  # fmt: skip
    is_high = value is not None and name in HIGH and value >= HIGH[name]
    return format_html(
        '<span class="figure{}"><span class="figure-value">{}</span>{}</span>',
        " is-high" if is_high else "",
        _text(value, name),
        drawn,
    )


@register.simple_tag
def clock(moment: int) -> str:
    return f"{timezone.localtime(datetime.fromtimestamp(moment, timezone.get_default_timezone())):%H:%M}"


def _text(value: float | None, name: str) -> str:
    if value is None:
        return "–"
    if name == "p95":
        return seconds_text(value)
    if name == "rate":
        return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value * 100:.3g} %"
