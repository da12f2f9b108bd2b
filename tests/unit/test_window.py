"""The shown time: zones, days that are longer than others, bars and what can't be asked."""

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st

from monitoring import advice
from monitoring.charts import Axis, Curve, figure, with_gaps
from monitoring.question import Question, UnclearQuestionError
from monitoring.tiers import DAY, HOUR
from monitoring.window import Window

BERLIN = ZoneInfo("Europe/Berlin")
NOW = int(datetime(2026, 11, 20, 12, tzinfo=BERLIN).timestamp())


def at(year: int, month: int, day: int, hour: int = 0, zone: ZoneInfo = BERLIN) -> int:
    return int(datetime(year, month, day, hour, tzinfo=zone).timestamp())


@pytest.mark.parametrize(
    ("first", "days", "lengths"),
    [((2026, 10, 24), 3, [24, 25, 24]), ((2026, 3, 28), 3, [24, 23, 24]), ((2026, 6, 1), 3, [24, 24, 24])],
)
def test_days_are_the_zones_own_when_clocks_change(first, days, lengths):
    """Each hour is counted on its own day, once: 23 hours in March, 25 in October."""
    start = at(*first)
    window = Window.of(start, start + sum(lengths) * HOUR, NOW, BERLIN, DAY)
    hours = np.arange(start, start + sum(lengths) * HOUR, HOUR)
    starts, counts = np.unique(window.bar_starts(hours), return_counts=True)
    assert counts.tolist() == lengths
    assert [datetime.fromtimestamp(int(item), BERLIN).hour for item in starts] == [0] * days
    assert window.clock_change == (lengths != [24] * days)


def test_time_has_no_folds_on_the_axis_when_clocks_are_set_back():
    """The hour that comes twice would else be drawn over itself."""
    start = at(2026, 10, 25)
    window = Window.of(start, start + 6 * HOUR, NOW, BERLIN)
    places = window.drawn(np.arange(start, start + 6 * HOUR, 600))
    assert (np.diff(places) == 600_000).all()


def test_bars_begin_at_full_hours_of_zones_with_halves():
    kolkata = ZoneInfo("Asia/Kolkata")
    window = Window.of(NOW - 6 * HOUR, NOW, NOW, kolkata, HOUR)
    starts = window.bar_starts(np.array([NOW - 3 * HOUR, NOW - HOUR]))
    assert [datetime.fromtimestamp(int(item), kolkata).minute for item in starts] == [0, 0]


@given(st.integers(60, 400 * DAY), st.integers(0, 399 * DAY), st.sampled_from([0, 60, 300, 900, 1800, HOUR, DAY]))
def test_bars_are_never_finer_than_what_is_kept_and_say_so(length, age, bar):
    end = NOW - age
    window = Window.of(end - length, end, NOW, BERLIN, bar)
    assert window.bar % window.tier.seconds == 0 and window.width % window.tier.seconds == 0
    assert window.start <= end - length and window.points <= 742
    assert window.refused_bar == (bar if 0 < bar < window.width else 0)
    assert bar in (0, window.bar, window.refused_bar)


def test_the_previous_period_has_the_same_points():
    window = Window.of(NOW - HOUR, NOW, NOW, BERLIN)
    before = window.previous()
    assert before.end == window.start and (before.start - window.start) % window.width == 0
    assert before.points == window.points


@given(
    st.integers(120, 90 * DAY),
    st.integers(0, 100 * DAY),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]),
    st.sampled_from([0, 300, 900, HOUR, DAY]),
)
def test_what_is_read_again_begins_where_what_is_not_ends(length, later, zone, bar):
    """Else live statistics would count the time between twice."""
    now = NOW + later
    window = Window.of(now + 1 - length, now + 1, now, ZoneInfo(zone), bar)
    since = window.settled_since(now - window.width)
    tail = window.since(since)
    assert window.start <= tail.start == since == window.until(since).end <= now
    assert (tail.start - window.start) % window.width == 0


def test_a_period_before_is_told_as_finely_as_it_is_kept():
    plain = Question.from_query(QueryDict("range=7d")).window(NOW)
    compared = Question.from_query(QueryDict("range=7d&compare=previous")).window(NOW)
    assert (plain.tier.seconds, compared.tier.seconds) == (300, HOUR)
    assert compared.previous().start >= NOW - compared.tier.kept


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("range=3y", "Range: “3y” is none of 5m"),
        ("interval=2m", "Bars: “2m” is none of 1m"),
        ("tz=Mars/Olympus", "Time zone: “Mars/Olympus” is unknown"),
        ("tz=../../etc/passwd", "Time zone:"),
        ("from=2026-01-01", "A free range needs both"),
        ("from=yesterday&to=2026-01-02", "From: “yesterday” is no moment"),
        ("from=2026-01-02&to=2026-01-01", "From lies behind To. Swap them."),
        ("from=2026-01-01T00:00:00&to=2026-01-01T00:00:05", "shorter than 60 s"),
        ("from=2024-01-01&to=2026-01-01", "At most 400 days"),
        ("from=1000&to=2026-01-01", "only the years 2020 to 2036"),
        ("from=99999999999999999&to=2026-01-01", "only the years"),
        ("from=9999-12-31T23:59&to=2026-01-01&tz=Pacific/Honolulu", "From:"),
    ],
)
def test_what_cant_be_answered_is_told_with_its_field(query, words):
    with pytest.raises(UnclearQuestionError) as error:
        Question.from_query(QueryDict(query))
    assert words in str(error.value)


def test_a_free_range_is_read_in_the_chosen_zone():
    question = Question.from_query(QueryDict("from=2026-07-01T12:00&to=2026-07-01T13:00&tz=Europe/Berlin&interval=5m"))
    assert (question.start, question.end) == (at(2026, 7, 1, 12), at(2026, 7, 1, 13)) and not question.is_live
    assert Question.from_query(QueryDict(f"from={question.start}&to={question.end}")).start == question.start
    assert Question.from_query(QueryDict("")).is_live


def test_gaps_are_drawn_as_gaps_and_lonely_points_can_be_seen():
    times, values, lonely = with_gaps(np.array([0, 10, 20, 60, 100, 110]), np.array([1.0, 2, 3, 4, 5, 6]), 10)
    assert times.tolist() == [0, 10, 20, 30, 60, 70, 100, 110]
    assert np.isnan(values).tolist() == [False, False, False, True, False, True, False, False]
    assert lonely.tolist() == [False, False, False, False, True, False, False, False]
    assert len(with_gaps(np.zeros(0), np.zeros(0), 10)[0]) == 0


def test_a_figure_is_plotlys_and_its_styles_are_not_shared():
    axis = Axis(0, 100_000, 10_000, dark=False)
    curve = Curve("a", "A", np.array([0, 10_000]), np.array([1.0, np.nan]), "#000")
    first, second = (figure([curve], axis, unit="s", limit=4.0, limit_name="all") for _ in range(2))
    assert first["data"][0]["type"] == "scatter" and first["data"][0]["meta"] == "a"
    assert first["data"][1]["y"].tolist() == [4, 4] and len(first["data"][1]["x"]) == 2
    first["layout"]["xaxis"]["range"] = [5, 6]
    assert second["layout"]["xaxis"]["range"] == [0, 100_000]


def test_advice_reckons_with_the_charts_own_numbers():
    assert advice.cpu(1.8, 2.0, 2, HOUR).startswith("High: 90 % of 2 cores on average. More replicas")
    assert "0.6 would hold it one and a half times; 15.4 stand idle" in advice.cpu(0.2, 0.4, 16, HOUR)
    assert "0.1 would hold it 10 times; 0.9 stand idle" in advice.cpu(0.005, 0.01, 1, HOUR)
    assert "64 MiB would hold it 2 times" in advice.memory(31 << 20, 1 << 30, HOUR)
    assert advice.cpu(0.2, 0.4, 16, 60) == advice.cpu(0.5, 1.0, 2, HOUR) == ""
    assert advice.memory(0.95e9, 1e9, HOUR).startswith("High: 95 %")
    assert advice.memory(1e9, 16 << 30, HOUR).startswith("Over-provisioned")
    assert "do nothing 97 % of the time" in advice.gpu(0.03, HOUR) and advice.gpu(0.95, HOUR).startswith("High")
    assert "reserves most of the memory" in advice.vram(9e9, 10e9, HOUR, reserves=True)
    assert advice.waiting(4, 8).startswith("4 requests wait") and advice.waiting(0.1, 8) == ""
    assert advice.errors(5, 100).startswith("5 %") and advice.errors(0, 0) == ""
