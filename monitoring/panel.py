"""The monitoring panel of one deployment: what the tables hold, as figures with their facts in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deployments.models import Deployment, Event, Instance
from monitoring import async_charts, queries, request_charts, system_charts
from monitoring.charts import Axis, Chart, Mark
from monitoring.models import MeteredInstance
from monitoring.queries import Scope
from monitoring.question import AVERAGE, Question
from monitoring.request_frame import ALL_INSTANCES, RequestFrame
from monitoring.system_charts import Subjects
from monitoring.system_frame import SystemFrame
from monitoring.window import Window
from runtimes.engines import registry

# The charts of the panel in their order: id, title, and what it means.
CHARTS = (
    ("volume", "Inference volume", "Requests by the status of their answer: 2xx succeeded, 4xx were the caller's fault or refused, 5xx failed here."),
    ("end_to_end", "End-to-end time", "From the request's arrival to the last byte of its answer, waiting for an instance included; a slow reader is not."),
    ("inference", "Inference time", "From handing the request to an instance to the last byte of its answer: what the model itself takes."),
    ("queue", "Queue time", "From arrival until an instance took the request."),
    ("async_queue", "Time in async queue", "How long asynchronous requests waited before an instance was asked, of those that ended."),
    ("async_size", "Async queue size", "Asynchronous requests that wait, counted each ten seconds."),
    ("first_token", "Time to first token", "From the request's arrival to the first piece of a streamed answer."),
    ("tokens", "Tokens", "Tokens per second of all answers together, when they ended."),
    ("replicas", "Replicas", "Active ones are ready to serve; starting ones wait for room or load the model."),
    ("engine", "Requests in the engine", "What the engines themselves say: requests that run now, and that wait inside them."),
    ("cache", "KV cache", "The share of the engines' key-value cache in use, and of prompt tokens that they found in it."),
    ("cpu", "CPU", "Cores in use, in the programs themselves (user) and in the kernel on their behalf (system)."),
    ("memory", "Memory", "Memory in use by each instance, and what it may use."),
    ("gpu", "GPU utilization", "The share of time in which a kernel runs on the GPU; not how much of the GPU it fills."),
    ("vram", "GPU memory", "Memory in use on each device."),
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """Everything that a window shows, before it is drawn."""

    question: Question
    window: Window
    requests: RequestFrame
    total: RequestFrame
    samples: SystemFrame
    queue_times: RequestFrame
    charts: list[Chart]
    marks: list[Event]
    before: RequestFrame | None = None

    def axis(self) -> Axis:
        marks = tuple(_grouped(self.marks, self.window))
        start, end = (self.window.place(moment) for moment in (self.window.start, self.window.drawn_end))
        return Axis(start, end, self.window.width * 1000, self.question.dark, self.window.bar * 1000, marks)


def load(deployment: Deployment, question: Question, now: int, *, start: int | None = None) -> Panel:
    """Read and lay out everything; with `start` only what came since that moment, a window of the question's own width."""
    window = question.window(now)
    if start is not None:
        window = window.since(start)
    scope = Scope.of(deployment, question.version_id, question.instance_uid)
    requests = queries.requests(scope, window, now)
    before = _before(scope, window, now) if question.compare and start is None else None
    samples = queries.system(scope, window)
    queue_times = queries.queue_times(scope, window)
    subjects = _subjects(deployment, question, scope, samples)
    total = request_charts.whole(requests)
    charts = [
        *request_charts.charts(requests, total, before, window, now),
        *async_charts.charts(queue_times, samples, window),
        *system_charts.charts(samples, subjects, window),
    ]
    marks = queries.marks(deployment, window)
    return Panel(question, window, requests, total, samples, queue_times, charts, marks, before)


def build(deployment: Deployment, question: Question, now: int) -> dict[str, Any]:
    """The panel as the page draws it: figures by id with their facts, or the reason why there is none."""
    panel = load(deployment, question, now)
    axis = panel.axis()
    window = panel.window
    statistics = request_charts.statistics(panel.total, window)
    if panel.before is not None:
        statistics["before"] = request_charts.statistics(request_charts.whole(panel.before), window)
    return {
        "now": datetime.fromtimestamp(now, UTC).isoformat(),
        "window": {
            "start": window.start, "end": window.end, "width": window.width, "bar": window.bar, "offset": window.offset,
            "asked": [question.start, question.end],
            "zone": question.zone, "clock_change": window.clock_change,
        },
        "statistics": statistics,
        "charts": {chart.id: chart.drawn(axis) for chart in panel.charts},
        "last_mark": last_mark(panel.marks),
    }  # fmt: skip


def last_mark(marks: Iterable[Event]) -> int:
    """What tells whether a page has all of them."""
    return max((event.pk for event in marks), default=0)


def table(panel: Panel, *, by_bars: bool) -> tuple[list[str], list[list[Any]]]:
    """The panel's numbers as a table: names of columns, then rows that begin with their moment, one for each point or bar."""
    request_head, request_rows = request_charts.csv_rows(panel.requests, panel.window, by_bars=by_bars)
    parts = [
        (request_head, request_rows),
        async_charts.csv_rows(panel.queue_times, panel.window, by_bars=by_bars),
        system_charts.csv_rows(panel.samples, panel.window, by_bars=by_bars),
    ]
    by_part = [(head, {at: cells for at, *cells in rows}) for head, rows in parts]
    moments = sorted(set().union(*(rows for _, rows in by_part)))
    table_rows = [[at, *(cell for head, rows in by_part for cell in rows.get(at, [""] * len(head)))] for at in moments]
    return [name for head, _ in by_part for name in head], table_rows


def _before(scope: Scope, window: Window, now: int) -> RequestFrame:
    """The requests of the period before, moved to this one's time."""
    previous = window.previous()
    frame = queries.requests(scope, previous, now)
    return frame.regroup(frame.at + (window.start - previous.start))


def _subjects(deployment: Deployment, question: Question, scope: Scope, samples: SystemFrame) -> Subjects:
    known = queries.instance_names(sorted(set(samples.instance.tolist()) - {ALL_INSTANCES}))
    versions = deployment.versions.filter(pk__in=scope.version_ids).order_by("-number")
    version = next((item for item in versions if item.desired_state == "running"), None) or versions.first()
    if version is None:
        return Subjects({}, 0, 0, asks_for_gpu=False)
    living = MeteredInstance.objects.filter(
        uid__in=Instance.objects.filter(version=version, ended_at=None).values("uid")
    ).order_by("-number")
    newest = living.first()
    specification = version.specification
    return Subjects(
        names={number: item.name or item.uid for number, item in known.items()},
        cores=specification.cpu,
        memory=specification.memory,
        asks_for_gpu=bool(specification.gpu),
        gpu_reason=newest.gpu_reason if newest else "",
        engine_reason=_engine_reason(specification.engine, newest),
        usage_reason=newest.usage_reason if newest else "",
        reserves_gpu_memory=_reserves_gpu_memory(specification.engine),
        averaged=question.instances == AVERAGE,
    )


def _engine_reason(engine: str, newest: MeteredInstance | None) -> str:
    if engine in registry.engines() and registry.engine(engine).metrics_path is None:
        return "this engine has no metrics page"
    return newest.engine_reason if newest else "no instance runs"


def _reserves_gpu_memory(engine: str) -> bool:
    return engine in registry.engines() and registry.engine(engine).reserves_gpu_memory


def _grouped(events: Iterable[Event], window: Window) -> Iterable[Mark]:
    """Events of one point as one mark: side by side nobody could read them. It stands where the curves' point does:
    beside it, hovering would show one or the other."""
    rank = (Event.Severity.INFO, Event.Severity.WARNING, Event.Severity.ERROR)
    groups: dict[int, list[Event]] = {}
    for event in events:
        groups.setdefault(int(event.at.timestamp()) // window.width, []).append(event)
    for bucket, group in groups.items():
        at = max(window.start, bucket * window.width)
        texts = [f"{event.at.astimezone(window.zone):%H:%M:%S} {_cut(event.message)}" for event in group[:4]]
        texts += [f"and {len(group) - 4} more"] if len(group) > 4 else []
        severity = max((event.severity for event in group), key=lambda item: rank.index(Event.Severity(item)))
        yield Mark(window.place(at), "<br>".join(texts), severity)


def _cut(text: str) -> str:
    """Short, and harmless: Plotly reads some markup in texts."""
    line = text.replace("<", "‹").replace(">", "›").replace("\n", " ")
    return line if len(line) <= 90 else line[:89] + "…"
