"""Charts and statistics of requests. Pure: frames in, charts out."""

from typing import Any

import numpy as np

from common.request_outcomes import LATENCIES
from monitoring import advice
from monitoring.charts import BAR, CLASS_COLOURS, GREY, PALETTE, Chart, Curve
from monitoring.request_frame import ALL_INSTANCES, CLASSES, RequestFrame
from monitoring.tiers import DAY, HOUR
from monitoring.window import Window

PERCENTILES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_COLOURS = {"avg": GREY, "max": "#d63939", "p50": PALETTE[2], "p75": PALETTE[4], "p90": PALETTE[0], "p95": PALETTE[1], "p99": PALETTE[5]}  # fmt: skip
_NO_REQUESTS = "No requests in this time."
_ABSENT = {
    "end_to_end": "No answered requests in this time.", "inference": "No request reached an instance in this time.",
    "queue": "No request reached an instance in this time.", "first_token": "No streamed answers in this time.",
}  # fmt: skip


def charts(
    frame: RequestFrame, total: RequestFrame, before: RequestFrame | None, window: Window, now: int
) -> list[Chart]:
    """All request charts of the window; `total` is the whole of it, `before` the previous period, moved to this one's time."""
    curves = frame.by_width(window.width)
    earlier = before.by_width(window.width) if before is not None else None
    words = facts(total, window)
    times = [_latency(name, curves, earlier, total, window, words.get(name, "")) for name in LATENCIES]
    return [_volume(frame, before, window, words), *times, _tokens(curves, window, now, words)]


def facts(total: RequestFrame, window: Window) -> dict[str, str]:
    """What is said of the whole window above each chart that has something to say."""
    if not len(total):
        return {}
    counts = [int(total.column(name)[0]) for name in CLASSES]
    volume = f"{_count(sum(counts), 'request')}, {counts[3]:,} of them 5xx; a bar is {duration(window.bar)}"
    if window.refused_bar:
        volume += f" ({duration(window.refused_bar)} would be finer than what is kept or drawn for this range)"
    words = {"volume": volume}
    for name in LATENCIES:
        times = times_of(total, name)
        if times:
            words[name] = ", ".join(f"{label} {seconds_text(value)}" for label, value in times.items())
    made, read = int(total.column("output_tokens")[0]), int(total.column("input_tokens")[0])
    rate = made / (window.end - window.start)
    return words | {"tokens": f"{made:,} output and {read:,} input tokens; {rate:,.3g} output tokens/s on average"}


def whole(frame: RequestFrame) -> RequestFrame:
    """One row of everything; none where there was nothing."""
    return frame.regroup(np.zeros(len(frame), np.int64), np.full(len(frame), ALL_INSTANCES, np.int64))


def statistics(total: RequestFrame, window: Window) -> dict[str, Any]:
    """Totals and all statistics of the period, of its `whole`; times in seconds, None where nothing was measured."""
    if not len(total):
        return {"requests": 0}
    counts = {name.removeprefix("status_"): int(total.column(name)[0]) for name in CLASSES}
    requests = sum(counts.values())
    found: dict[str, Any] = {"requests": requests, **counts}
    found["error_share"] = counts["5xx"] / requests if requests else None
    found["rate"] = requests / (window.end - window.start)
    found |= {name: int(total.column(name)[0]) for name in ("input_tokens", "output_tokens")}
    for name in LATENCIES:
        found[name] = times_of(total, name)
    return found


def times_of(total: RequestFrame, name: str) -> dict[str, float] | None:
    measured = int(total.measured(name)[0])
    if not measured:
        return None
    kind = LATENCIES.index(name)
    values = total.quantiles(name, list(PERCENTILES.values()))[0]
    return {
        "avg": float(total.sums[0, kind] / measured),
        **dict(zip(PERCENTILES, map(float, values), strict=True)),
        "max": float(total.maxima[0, kind]),
    }


def _volume(frame: RequestFrame, before: RequestFrame | None, window: Window, words: dict[str, str]) -> Chart:
    if not len(frame):
        return Chart("volume", "requests", absent=_NO_REQUESTS)
    times, counts = frame.counts_at(window.bar_starts(frame.at))
    at = _bar_places(times, window)
    drawn = []
    for index, name in enumerate(CLASSES):
        values, label = counts[:, index], name.removeprefix("status_")
        if values.any() or label == "2xx":
            drawn.append(Curve(label, label, at, values, CLASS_COLOURS[label], BAR))
    if before is not None and len(before):
        times, counts = before.counts_at(window.bar_starts(before.at))
        sums = counts[:, : len(CLASSES)].sum(axis=1).astype(float)
        middle = _bar_places(times, window) + window.bar * 500
        drawn.append(Curve("before", "all, previous period", middle, sums, GREY, dashed=True, step=window.bar * 1000))
    failed, total = int(frame.column("status_5xx").sum()), int(frame.counts[:, : len(CLASSES)].sum())
    return Chart("volume", "requests", tuple(drawn), facts=words["volume"], advice=advice.errors(failed, total))


def _bar_places(starts: np.ndarray, window: Window) -> np.ndarray:
    if window.bar < DAY:
        return window.drawn(starts)
    # Each day at its own midnight, whatever the clocks were set to since.
    return np.array([(start + window.offset_at(int(start))) * 1000 for start in starts], np.int64)


def _latency(
    name: str, curves: RequestFrame, earlier: RequestFrame | None, total: RequestFrame, window: Window, words: str
) -> Chart:
    times = times_of(total, name) if len(total) else None
    if times is None:
        return Chart(name, "s", absent=_ABSENT[name])
    drawn = latency_curves(name, curves, window)
    if earlier is not None and len(earlier):
        drawn += _earlier_curves(name, earlier, window)
    hint = ""
    if name == "queue" and (inference := times_of(total, "inference")):
        hint = advice.queue(times["p95"], inference["p95"])
    return Chart(name, "s", tuple(drawn), facts=words, advice=hint)


def latency_curves(name: str, curves: RequestFrame, window: Window) -> list[Curve]:
    kind, at = LATENCIES.index(name), window.drawn(curves.at)
    measured = curves.measured(name)
    quantiles = curves.quantiles(name, list(PERCENTILES.values()))
    with np.errstate(divide="ignore", invalid="ignore"):
        average = np.where(measured > 0, curves.sums[:, kind] / measured, np.nan)
    found = {"avg": average, **{label: quantiles[:, index] for index, label in enumerate(PERCENTILES)}}
    found["max"] = np.where(measured > 0, curves.maxima[:, kind], np.nan)
    # The highest one would press all others flat; a click on its name shows it.
    return [Curve(label, label, at, values, _COLOURS[label], hidden=label == "max") for label, values in found.items()]


def _earlier_curves(name: str, earlier: RequestFrame, window: Window) -> list[Curve]:
    chosen = ("p50", "p95")
    values = earlier.quantiles(name, [PERCENTILES[label] for label in chosen])
    at = window.drawn(earlier.at)
    return [
        Curve(f"{label}-before", f"{label}, previous period", at, values[:, index], _COLOURS[label], dashed=True)
        for index, label in enumerate(chosen)
    ]


def _tokens(curves: RequestFrame, window: Window, now: int, words: dict[str, str]) -> Chart:
    if not len(curves) or not curves.column("output_tokens").any():
        return Chart("tokens", "tokens/s", absent="No tokens in this time: no request told how many it took.")
    # The last bucket has not lasted its whole width yet.
    lasted = np.clip(now + 1 - curves.at, 1, window.width)
    at = window.drawn(curves.at)
    drawn = [
        Curve("output", "output", at, curves.column("output_tokens") / lasted, PALETTE[0]),
        Curve("input", "input", at, curves.column("input_tokens") / lasted, PALETTE[1], hidden=True),
    ]
    return Chart("tokens", "tokens/s", tuple(drawn), facts=words["tokens"])


def duration(seconds: int) -> str:
    for size, unit in ((DAY, "d"), (HOUR, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def seconds_text(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def csv_rows(frame: RequestFrame, window: Window, *, by_bars: bool) -> tuple[list[str], list[list[Any]]]:
    """The request charts as a table: one row per point, times in seconds, empty where nothing was measured."""
    curves = frame.regroup(window.row_starts(frame.at, by_bars=by_bars))
    head = [*(name.removeprefix("status_") for name in CLASSES), "input_tokens", "output_tokens"]
    columns: list[np.ndarray] = [*(curves.column(name) for name in CLASSES), curves.column("input_tokens"), curves.column("output_tokens")]  # fmt: skip
    for name in LATENCIES:
        for curve in latency_curves(name, curves, window):
            head.append(f"{name}_{curve.key}_s")
            columns.append(curve.values)
    rows = [[int(at), *(csv_cell(column[index]) for column in columns)] for index, at in enumerate(curves.at)]
    return head, rows


def csv_cell(value: Any) -> Any:
    if isinstance(value, np.integer):
        return int(value)
    return "" if np.isnan(value) else round(float(value), 6)
