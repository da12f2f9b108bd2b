"""Figures: series in, Plotly figure out. Pure; the browser only draws what comes from here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import plotly.graph_objects as go

# Distinguishable in light and dark and with colour blindness (Okabe and Ito).
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#999933")
CLASS_COLOURS = {"status_2xx": "#2fb344", "status_3xx": "#56b4e9", "status_4xx": "#f59f00", "status_5xx": "#d63939"}
CLASS_NAMES = {"status_2xx": "2xx", "status_3xx": "3xx", "status_4xx": "4xx", "status_5xx": "5xx"}
EVENT_COLOURS = {"error": "#d63939", "warning": "#f59f00", "info": "#929dab"}
MIB = 1 << 20


@dataclass(frozen=True)
class Curve:
    name: str
    times: Sequence[datetime]
    values: Sequence[float | None]


@dataclass(frozen=True)
class Mark:
    """A moment to show on a time axis."""

    at: datetime
    text: str
    severity: str


@dataclass(frozen=True)
class Axis:
    start: datetime
    end: datetime
    dark: bool


def lines(
    curves: Sequence[Curve],
    axis: Axis,
    *,
    unit: str,
    limit: float | None = None,
    limit_name: str = "",
    marks: Sequence[Mark] = (),
) -> dict[str, Any]:
    """Curves over time; `limit` is a dashed line, at least as high as the axis."""
    figure = go.Figure()
    for index, curve in enumerate(curves):
        figure.add_scatter(
            x=list(curve.times), y=list(curve.values), name=curve.name, mode="lines+markers" if len(curve.times) < 3 else "lines",
            line={"color": PALETTE[index % len(PALETTE)], "width": 2}, connectgaps=False, hovertemplate=f"%{{y:.3~g}} {unit}",
        )  # fmt: skip
    if limit is not None:
        figure.add_hline(
            y=limit,
            line={"dash": "dot", "width": 1, "color": _ink(axis)},
            annotation_text=limit_name,
            annotation_position="top left",
            annotation_font_size=10,
        )
    highest = max(
        [value for curve in curves for value in curve.values if value is not None] + [limit or 0.0], default=0.0
    )
    return _finish(figure, axis, unit, highest, marks)


def bars(
    times: Sequence[datetime], counts: dict[str, Sequence[int]], width_s: int, axis: Axis, marks: Sequence[Mark] = ()
) -> dict[str, Any]:
    """Stacked bars of request counts by status class."""
    figure = go.Figure()
    for name, values in counts.items():
        if any(values) or name == "status_2xx":
            figure.add_bar(
                x=list(times), y=list(values), name=CLASS_NAMES[name], marker={"color": CLASS_COLOURS[name]},
                width=width_s * 900, offset=0, hovertemplate="%{y}",
            )  # fmt: skip
    figure.update_layout(barmode="stack")
    highest = max((sum(column) for column in zip(*counts.values(), strict=True)), default=0)
    return _finish(figure, axis, "requests", float(highest), marks)


def stacked_days(days: Sequence[date], curves: dict[str, Sequence[float]], unit: str, *, dark: bool) -> dict[str, Any]:
    """Stacked bars, one for each day (UTC)."""
    noon = [datetime.combine(day, time(12), UTC) for day in days]
    axis = Axis(
        datetime.combine(days[0], time(), UTC), datetime.combine(days[-1], time(), UTC) + timedelta(days=1), dark
    )
    figure = go.Figure()
    for index, (name, values) in enumerate(curves.items()):
        colour = "#929dab" if index >= len(PALETTE) else PALETTE[index]
        figure.add_bar(x=noon, y=list(values), name=name, marker={"color": colour}, hovertemplate="%{y:,.6~g}")
    figure.update_layout(barmode="stack")
    highest = max((sum(column) for column in zip(*curves.values(), strict=True)), default=0.0)
    drawn = _finish(figure, axis, unit, float(highest), ())
    drawn["layout"]["xaxis"]["tickformat"] = "%b %d"
    return drawn


def _finish(figure: go.Figure, axis: Axis, unit: str, highest: float, marks: Sequence[Mark]) -> dict[str, Any]:
    grid = "rgba(127,127,127,0.18)"
    figure.update_layout(
        template=None,
        margin={"l": 48, "r": 12, "t": 8, "b": 28},
        height=210,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 11, "color": _ink(axis)},
        hovermode="x unified",
        hoverlabel={
            "bgcolor": "#1f2937" if axis.dark else "#ffffff",
            "font": {"color": "#f0f0f0" if axis.dark else "#182433"},
        },
        showlegend=True,
        legend={"orientation": "h", "y": -0.18, "x": 0, "font": {"size": 10}},
        xaxis={
            "range": [axis.start.isoformat(), axis.end.isoformat()],
            "gridcolor": grid,
            "type": "date",
            "zeroline": False,
            "tickformat": "%H:%M:%S" if (axis.end - axis.start).total_seconds() <= 900 else "%H:%M",
        },
        yaxis={
            "range": [0, highest * 1.15 or 1],
            "gridcolor": grid,
            "zeroline": False,
            "title": {"text": unit, "font": {"size": 10}},
        },
        # The same value over refreshes keeps the reader's zoom and hidden curves.
        uirevision="keep",
        dragmode="zoom",
    )
    for mark in marks:
        colour = EVENT_COLOURS.get(mark.severity, EVENT_COLOURS["info"])
        figure.add_vline(x=mark.at, line={"width": 1, "dash": "dash", "color": colour})
    return figure.to_plotly_json()


def _ink(axis: Axis) -> str:
    return "#c8d3e1" if axis.dark else "#49566c"
