"""Charts of the queue of asynchronous requests. Pure: frames in, charts out."""

from typing import Any

import numpy as np

from monitoring import advice
from monitoring.charts import PALETTE, STEP, Chart, Curve
from monitoring.request_charts import csv_cell, latency_curves, seconds_text, times_of, whole
from monitoring.request_frame import RequestFrame
from monitoring.system_frame import SystemFrame
from monitoring.window import Window

SIZE = "async_queue_size"
# Sizes are counted each ten seconds, sometimes a little late.
STEP_S = 20
_SHOWN = ("p50", "p90", "p95", "p99")
_ABSENT = "No asynchronous requests in this time. One is sent with /async in front of its path, or from Online Testing."
_NONE_COUNTED = "Nothing waited when it was counted, each 10 s: what came was taken soon."


def charts(times: RequestFrame, samples: SystemFrame, window: Window) -> list[Chart]:
    """`samples` may hold other figures too."""
    sizes = samples.by_width(window.width).of(SIZE)
    return [_times(times, sizes, samples, window), _sizes(sizes, window, any_ended=len(times) > 0)]


def _times(frame: RequestFrame, sizes: SystemFrame, samples: SystemFrame, window: Window) -> Chart:
    total = whole(frame)
    found = times_of(total, "queue") if len(total) else None
    ended = int(total.measured("queue")[0]) if found else 0
    active = samples.of("replicas_active")
    hint = ""
    if len(sizes):
        _, values = _summed(sizes)
        shown_s = int(sizes.at.max() - sizes.at.min()) + window.width
        replicas = float(active.average.mean()) if len(active) else 0.0
        p95 = found["p95"] if found else 0.0
        hint = advice.async_queue(p95, ended, (float(values[0]), float(values[-1])), replicas, shown_s)
    if found is None:
        waiting = len(sizes) and sizes.highest.max() > 0
        return Chart(
            "async_queue", "s", absent="Nothing that waits has ended yet." if waiting else _ABSENT, advice=hint
        )
    facts = f"{ended:,} ended: " + ", ".join(f"{label} {seconds_text(found[label])}" for label in _SHOWN)
    drawn = [
        curve
        for curve in latency_curves("queue", frame.by_width(window.width), window)
        if curve.key in (*_SHOWN, "max")
    ]
    return Chart("async_queue", "s", tuple(drawn), facts=facts, advice=hint)


def _sizes(sizes: SystemFrame, window: Window, *, any_ended: bool) -> Chart:
    if not len(sizes) or not sizes.highest.max():
        return Chart("async_size", "requests", absent=_NONE_COUNTED if any_ended else _ABSENT)
    at, values = _summed(sizes)
    curve = Curve("size", "waiting", window.drawn(at), values, PALETTE[0], STEP, step=max(window.width, STEP_S) * 1000)
    facts = f"now {values[-1]:,.0f}, peak {sizes.highest.max():,.0f}"
    return Chart("async_size", "requests", (curve,), facts=facts)


def _summed(sizes: SystemFrame) -> tuple[np.ndarray, np.ndarray]:
    """Each deployment's queue is counted once, under its version of that moment: at a change both have a sample."""
    times, place = np.unique(sizes.at, return_inverse=True)
    totals = np.bincount(place, weights=sizes.total, minlength=len(times))
    return times, totals / np.bincount(place, weights=sizes.samples, minlength=len(times))


def csv_rows(times: RequestFrame, window: Window, *, by_bars: bool) -> tuple[list[str], list[list[Any]]]:
    """One row per point, times in seconds."""
    curves = times.regroup(window.row_starts(times.at, by_bars=by_bars))
    drawn = latency_curves("queue", curves, window)
    rows = [[int(at), *(csv_cell(curve.values[index]) for curve in drawn)] for index, at in enumerate(curves.at)]
    return [f"async_queue_{curve.key}_s" for curve in drawn], rows
