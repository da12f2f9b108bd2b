"""Figures: curves in, Plotly figure out. Pure; the browser only draws what comes from here, and adds live points to it.

Plotly's own classes build each style once; what comes with every answer are its numbers alone, which would otherwise be
checked point by point for longer than reading them takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go

# Distinguishable in light and dark and with colour blindness (Okabe and Ito).
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#999933")
CLASS_COLOURS = {"2xx": "#2fb344", "3xx": "#56b4e9", "4xx": "#f59f00", "5xx": "#d63939"}
EVENT_COLOURS = {"error": "#d63939", "warning": "#f59f00", "info": "#929dab"}
GREY = "#929dab"
MARKS_KEY, LIMIT_KEY = "marks", "limit"
LINE, BAR, STEP = "line", "bar", "step"
_LONELY_SIZE = 5
_BAR_HOVER_PX = 5


@dataclass(frozen=True)
class Curve:
    """One curve: `at` where it lies on the axis in milliseconds (Window.drawn), `values` the same length, NaN for unknown.

    `key` names it in addresses and live updates; it never changes while `name`, for people, may.
    """

    key: str
    name: str
    at: np.ndarray
    values: np.ndarray
    colour: str
    shape: str = LINE
    dashed: bool = False
    # Milliseconds from one point to the next where they are not the axis'.
    step: int = 0
    hidden: bool = False


@dataclass(frozen=True)
class Mark:
    """A moment to show on a time axis, in the axis' milliseconds."""

    at: int
    text: str
    severity: str


@dataclass(frozen=True)
class Axis:
    """The time axis in its own milliseconds. `step` is the milliseconds from one point to the next: more is a gap."""

    start: int
    end: int
    step: int
    dark: bool
    bar: int = 0
    marks: tuple[Mark, ...] = field(default=())


def figure(
    curves: Sequence[Curve],
    axis: Axis,
    *,
    unit: str,
    scale: float = 1.0,
    limit: float | None = None,
    limit_name: str = "",
) -> dict[str, Any]:
    """Curves over time, each value times `scale`; `limit` is a dotted line."""
    data = [trace(curve, axis, unit, scale) for curve in curves]
    if limit is not None and curves:
        at = np.array([axis.start, axis.end])
        line = Curve(
            LIMIT_KEY, limit_name, at, np.full(2, limit), _ink(axis.dark), dashed=True, step=axis.end - axis.start
        )
        data.append(trace(line, axis, unit, scale) | {"hoverinfo": "skip"})
    if axis.marks:
        data.append(_marks(axis))
    # Copied as far as it is changed: what is cached belongs to all.
    built = _layout(unit, axis.dark)
    own: dict[str, Any] = {
        "xaxis": built["xaxis"] | {"range": [axis.start, axis.end]},
        "shapes": [_line(mark) for mark in axis.marks],
    }
    if any(curve.shape == BAR for curve in curves):
        # A bar is hit by its whole width. With Plotly's usual 20 px a mark beside it would be told in its place.
        own["hoverdistance"] = _BAR_HOVER_PX
    return {"data": data, "layout": built | own}


def trace(curve: Curve, axis: Axis, unit: str, scale: float = 1.0) -> dict[str, Any]:
    """One curve as Plotly's trace; `meta` is its key."""
    style = _style(curve.shape, curve.name, curve.colour, unit, curve.dashed, curve.hidden) | {"meta": curve.key}
    if curve.shape == BAR:
        style["x"], style["y"] = curve.at, curve.values
        style["width"] = axis.bar * 0.9
        return style
    step = curve.step or axis.step
    at, values, lonely = with_gaps(curve.at, curve.values * scale, step)
    style["x"], style["y"], style["step"] = at, values, step
    if lonely.any():
        # A line needs two ends: what stands alone would not be seen.
        style["mode"] = "lines+markers"
        style["marker"] = style["marker"] | {"size": np.where(lonely, _LONELY_SIZE, 0)}
    return style


def with_gaps(at: np.ndarray, values: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with an unknown point in each gap, values with four digits, and which points stand alone."""
    if not len(at):
        return at, values, np.zeros(0, bool)
    holes = np.flatnonzero(np.diff(at) > 1.5 * step) + 1
    times = np.insert(at, holes, at[holes - 1] + step)
    rounded = np.insert(_rounded(values), holes, np.nan)
    known = ~np.isnan(rounded)
    before, behind = np.append(False, known[:-1]), np.append(known[1:], False)
    return times, rounded, known & ~before & ~behind


def _rounded(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.power(10.0, 3 - np.floor(np.log10(np.abs(values))))
    size = np.where(np.isfinite(size), size, 1.0)
    return np.round(values * size) / size


def stacked_days(days: Sequence[date], curves: dict[str, Sequence[float]], unit: str, *, dark: bool) -> dict[str, Any]:
    """Stacked bars, one for each day."""
    noon = np.array([int(datetime.combine(day, time(12), UTC).timestamp() * 1000) for day in days])
    day = int(timedelta(days=1).total_seconds() * 1000)
    axis = Axis(int(noon[0]) - day // 2, int(noon[-1]) + day // 2, day, dark, bar=day)
    drawn = figure(
        [
            Curve(name, name, noon, np.array(values, float), GREY if index >= len(PALETTE) else PALETTE[index], BAR)
            for index, (name, values) in enumerate(curves.items())
        ],
        axis,
        unit=unit,
    )
    for item in drawn["data"]:
        item |= {"offset": None, "hovertemplate": "%{y:,.6~g}"}
    drawn["layout"]["xaxis"]["tickformat"] = "%b %d"
    drawn["layout"]["xaxis"]["hoverformat"] = "%b %d"
    return drawn


@lru_cache(maxsize=2000)
def _style(shape: str, name: str, colour: str, unit: str, dashed: bool, hidden: bool) -> dict[str, Any]:
    visible = "legendonly" if hidden else True
    if shape == BAR:
        bar = go.Bar(name=name, marker={"color": colour}, offset=0, hovertemplate="%{y:,}", visible=visible)
        return bar.to_plotly_json()
    line = {"color": colour, "width": 1.5 if dashed else 2, "shape": "hv" if shape == STEP else "linear"}
    if dashed:
        line["dash"] = "dot"
    drawn = go.Scatter(
        name=name, mode="lines", line=line, marker={"color": colour, "line": {"width": 0}}, connectgaps=False,
        hovertemplate="%{y:.4~s}s" if unit == "s" else f"%{{y:.4~g}} {unit}", visible=visible,
    )  # fmt: skip
    return drawn.to_plotly_json()


@lru_cache(maxsize=100)
def _layout(unit: str, dark: bool) -> dict[str, Any]:
    grid, ink = "rgba(127,127,127,0.18)", _ink(dark)
    drawn = go.Layout(
        margin={"l": 52, "r": 12, "t": 10, "b": 28}, height=210, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 11, "color": ink}, hovermode="x unified", barmode="stack",
        hoverlabel={"bgcolor": "#1f2937" if dark else "#ffffff", "font": {"color": "#f0f0f0" if dark else "#182433"}},
        # The page has a legend of its own.
        showlegend=False,
        xaxis={"type": "date", "gridcolor": grid, "zeroline": False, "hoverformat": "%b %d, %H:%M:%S", "ticklabeloverflow": "allow"},
        yaxis={"rangemode": "tozero", "gridcolor": grid, "zeroline": False, "fixedrange": True, "ticklabeloverflow": "allow"} | _scale(unit),
        # The marks' own axis: they hang from the top, whatever the curves' heights.
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        # The same value over refreshes keeps the reader's zoom.
        uirevision="keep", dragmode="zoom",
    )  # fmt: skip
    return drawn.to_plotly_json()


def _scale(unit: str) -> dict[str, Any]:
    if unit == "s":
        # 400µs and 1.5s, as people say it, instead of fractions.
        return {"tickformat": "~s", "ticksuffix": "s"}
    return {"title": {"text": unit, "font": {"size": 10}}}


def _marks(axis: Axis) -> dict[str, Any]:
    style = go.Scatter(
        name="events", mode="markers", yaxis="y2", showlegend=False, meta=MARKS_KEY, hovertemplate="%{text}<extra></extra>",
        marker={"symbol": "triangle-down", "size": 9},
    ).to_plotly_json()  # fmt: skip
    style["x"], style["y"] = [mark.at for mark in axis.marks], [1] * len(axis.marks)
    style["text"] = [mark.text for mark in axis.marks]
    style["marker"]["color"] = [EVENT_COLOURS.get(mark.severity, GREY) for mark in axis.marks]
    return style


def _line(mark: Mark) -> dict[str, Any]:
    colour = EVENT_COLOURS.get(mark.severity, GREY)
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": mark.at, "x1": mark.at, "y0": 0, "y1": 1,
        "line": {"width": 1, "dash": "dash", "color": colour},
    }  # fmt: skip


def _ink(dark: bool) -> str:
    return "#c8d3e1" if dark else "#49566c"


@dataclass(frozen=True)
class Chart:
    """What one chart shows: its curves, or in `absent` why there are none; `facts` and `advice` in words."""

    id: str
    unit: str
    curves: tuple[Curve, ...] = ()
    absent: str = ""
    facts: str = ""
    advice: str = ""
    scale: float = 1.0
    limit: float | None = None
    limit_name: str = ""

    def drawn(self, axis: Axis) -> dict[str, Any]:
        """With its figure, as the page draws it."""
        words = {"facts": self.facts, "advice": self.advice}
        if not self.curves:
            return {"absent": self.absent} | words
        drawing = figure(
            self.curves, axis, unit=self.unit, scale=self.scale, limit=self.limit, limit_name=self.limit_name
        )
        return {"figure": drawing} | words

    def points(self, axis: Axis, since: int) -> dict[str, Any]:
        """Only the points since that place on the axis, by curve: what is added to a chart that is drawn already."""
        traces = [trace(curve, axis, self.unit, self.scale) for curve in self.curves]
        firsts = [int(np.searchsorted(item["x"], since)) for item in traces]
        return {
            item["meta"]: [item["x"][first:], item["y"][first:]] for item, first in zip(traces, firsts, strict=True)
        }
