"""The monitoring panel of one deployment: what the tables hold, as figures with their facts in words."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from common.numbers import whole
from deployments.models import Deployment, Instance
from monitoring import queries
from monitoring.charts import MIB, Axis, Curve, Mark, bars, lines
from monitoring.queries import CLASSES, RequestBar, SystemCurve, Window

RANGES = {
    "5m": ("Last 5 minutes", 300),
    "15m": ("Last 15 minutes", 900),
    "1h": ("Last hour", 3600),
    "6h": ("Last 6 hours", 21_600),
    "24h": ("Last 24 hours", 86_400),
}
DEFAULT_RANGE = "15m"
# The charts of the panel in their order: id and title.
CHARTS = (
    ("requests", "Requests"),
    ("latency", "Response time"),
    ("cpu", "CPU"),
    ("memory", "Memory"),
    ("gpu", "GPU utilization"),
    ("vram", "GPU memory"),
)
INTERVALS = {"": None, "1m": 60, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600}


@dataclass(frozen=True)
class Question:
    """What the reader chose."""

    range: str = DEFAULT_RANGE
    interval: str = ""
    version_id: int | None = None
    instance_uid: str = ""
    dark: bool = False

    @classmethod
    def from_query(cls, query: Any) -> "Question":
        chosen = query.get("range", "")
        version = query.get("version", "")
        return cls(
            range=chosen if chosen in RANGES else DEFAULT_RANGE,
            interval=query.get("interval", "") if query.get("interval", "") in INTERVALS else "",
            version_id=whole(version),
            instance_uid=query.get("instance", "")[:64],
            dark=query.get("theme") == "dark",
        )


def build(deployment: Deployment, question: Question, now: datetime) -> dict[str, Any]:
    """Figures by id, each with its facts, or the reason why there is none."""
    window = Window.last(RANGES[question.range][1], now, INTERVALS[question.interval])
    version_ids = list(deployment.versions.values_list("pk", flat=True))
    if question.version_id in version_ids:
        version_ids = [question.version_id]
    axis = Axis(window.start, window.end, question.dark)
    marks = [Mark(event.at, event.message, event.severity) for event in queries.marks(deployment, window)]
    curves = queries.system_curves(version_ids, window, question.instance_uid)
    names = dict(Instance.objects.filter(uid__in=[curve.instance_uid for curve in curves]).values_list("uid", "name"))
    request_bars = queries.request_bars(deployment, version_ids, window, question.instance_uid)
    return {
        "now": now.isoformat(),
        "charts": {
            "requests": _requests(request_bars, window, axis, marks),
            "latency": _latency(request_bars, axis, marks),
            "cpu": _cpu(curves, names, axis, marks),
            "memory": _memory(curves, names, axis, marks),
            "gpu": _gpu(curves, names, axis, memory=False),
            "vram": _gpu(curves, names, axis, memory=True),
        },
        "marks": [{"at": mark.at.isoformat(), "text": mark.text} for mark in marks],
    }


def _requests(found: list[RequestBar], window: Window, axis: Axis, marks: list[Mark]) -> dict[str, Any]:
    if not found:
        return {"absent": "No requests in this time."}
    counts = {name: [bar.status[name] for bar in found] for name in CLASSES}
    total = sum(sum(values) for values in counts.values())
    failed = sum(counts["status_5xx"])
    facts = f"{total:,} {'request' if total == 1 else 'requests'}, {failed:,} of them 5xx; a bar is {_duration(window.bar_s)}"
    return {"figure": bars([bar.start for bar in found], counts, window.bar_s, axis, marks), "facts": facts}


def _latency(found: list[RequestBar], axis: Axis, marks: list[Mark]) -> dict[str, Any]:
    served = [bar for bar in found if bar.served]
    if not served:
        return {"absent": "No answered requests in this time."}
    times = [bar.start for bar in served]
    average = Curve("average", times, [round(bar.average or 0, 4) for bar in served])
    highest = Curve("max", times, [round(bar.latency_max, 4) for bar in served])
    overall = sum(bar.latency_sum for bar in served) / sum(bar.served for bar in served)
    facts = f"average {overall:.3f} s, max {max(bar.latency_max for bar in served):.3f} s, end to end"
    return {"figure": lines([average, highest], axis, unit="s", marks=marks), "facts": facts}


def _cpu(curves: list[SystemCurve], names: dict[str, str], axis: Axis, marks: list[Mark]) -> dict[str, Any]:
    if not curves:
        return {"absent": "No samples in this time. The first one comes ten seconds after an instance's start."}
    drawn = []
    for curve in curves:
        name = _short(names.get(curve.instance_uid, curve.instance_uid))
        drawn.append(Curve(f"{name} user", curve.times, curve.cpu_user))
        drawn.append(Curve(f"{name} system", curve.times, curve.cpu_system))
    cores = curves[-1].cores
    now = sum(curve.cpu_user[-1] + curve.cpu_system[-1] for curve in curves[-1:])
    facts = f"{cores:g} cores for each instance; the newest uses {now / cores * 100:.0f} % of them" if cores else ""
    return {
        "figure": lines(drawn, axis, unit="cores", limit=cores, limit_name=f"{cores:g} cores", marks=marks),
        "facts": facts,
    }


def _memory(curves: list[SystemCurve], names: dict[str, str], axis: Axis, marks: list[Mark]) -> dict[str, Any]:
    if not curves:
        return {"absent": "No samples in this time. The first one comes ten seconds after an instance's start."}
    drawn = [
        Curve(
            _short(names.get(curve.instance_uid, curve.instance_uid)),
            curve.times,
            [used / MIB for used in curve.memory_used],
        )
        for curve in curves
    ]
    newest = curves[-1]
    used, total = newest.memory_used[-1] / MIB, newest.memory_total / MIB
    facts = f"the newest instance uses {used:,.0f} of {total:,.0f} MiB ({used / total * 100:.0f} %)" if total else ""
    return {
        "figure": lines(drawn, axis, unit="MiB", limit=total, limit_name=f"{total:,.0f} MiB allowed", marks=marks),
        "facts": facts,
    }


def _gpu(curves: list[SystemCurve], names: dict[str, str], axis: Axis, *, memory: bool) -> dict[str, Any]:
    with_gpu = [curve for curve in curves if curve.gpus]
    if not with_gpu:
        reason = curves[-1].gpu_reason if curves else "no samples in this time"
        return {"absent": f"Not available: {reason or 'this version asks for no GPU'}."}
    drawn = []
    for curve in with_gpu:
        for device, samples in curve.gpus.items():
            name = f"{_short(names.get(curve.instance_uid, curve.instance_uid))} GPU {device}"
            values = [
                (None if used is None else used / MIB) if memory else utilization for utilization, used in samples
            ]
            drawn.append(Curve(name, curve.times, values))
    if not memory:
        return {"figure": lines(drawn, axis, unit="%", limit=100.0), "facts": "share of time in which a kernel runs"}
    total = with_gpu[-1].gpu_memory_total / MIB
    return {
        "figure": lines(drawn, axis, unit="MiB", limit=total, limit_name=f"{total:,.0f} MiB"),
        "facts": f"{total:,.0f} MiB on each device",
    }


def _short(name: str) -> str:
    """`chat-v1-a1b2c3` as `v1-a1b2c3`: the deployment's name is in the page's title already."""
    return "-".join(name.rsplit("-", 2)[-2:])


def _duration(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds // 3600} h"
