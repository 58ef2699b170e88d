"""Renders a report's charts as inline SVG: no script, colours by CSS classes, every text escaped. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from math import ceil, log, log10
from pathlib import Path

from poller.core.histogram import Histogram
from poller.core.text import duration

WIDTH, HEIGHT = 640, 200
LEFT, BOTTOM, TOP = 64, 26, 22
NARROWEST = log(64)  # of the scale of durations: a few equal ones do not fill the chart
THEME = Path(__file__).with_name("theme.css")  # the colours, of the live page too

Bar = tuple[str, int, int]  # label, good, bad


def columns(title: str, bars: Sequence[Bar], labels: Sequence[tuple[int, str]]) -> str:
    """Return stacked columns, good ones below bad ones; `labels` are (index, text) along the axis."""
    top = _round_up(max((good + bad for _, good, bad in bars), default=1))
    plot_height, step = HEIGHT - BOTTOM - TOP, (WIDTH - LEFT) / max(1, len(bars))
    parts = [_grid(top, plot_height)]
    for number, (label, good, bad) in enumerate(bars):
        x, width = LEFT + number * step, max(0.6, step - min(2.0, step * 0.2))
        good_height, bad_height = good / top * plot_height, bad / top * plot_height
        base = HEIGHT - BOTTOM
        rects = _rect("good", x, base - good_height, width, good_height)
        rects += _rect("bad", x, base - good_height - bad_height, width, bad_height)
        value = f"{label}: {good:,} complete, {bad:,} not"
        parts.append(_with_value(rects, value, x, x + step) if rects else "")
    for index, text in labels:
        x = LEFT + (index + 0.5) * step
        anchor = "start" if index == 0 else "end" if index == len(bars) - 1 else "middle"
        x = LEFT if anchor == "start" else WIDTH if anchor == "end" else x
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{escape(text)}</text>')
    return _svg(title, "".join(parts))


def _svg(title: str, parts: str) -> str:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return f"{head}{parts}</svg>"


def _with_value(bars: str, value: str, left: float, right: float) -> str:
    """Return bars with the value that shows, by the style sheet, while the pointer is above or on them."""
    middle, text = (left + right) / 2, escape(value)
    anchor, at = "middle", middle
    if middle < WIDTH / 3:
        anchor, at = "start", left
    elif middle > WIDTH * 2 / 3:
        anchor, at = "end", right
    hit = f'<rect class="hit" x="{left:.2f}" y="0" width="{right - left:.2f}" height="{HEIGHT - BOTTOM}"/>'
    return f'<g>{bars}{hit}<text class="value" x="{at:.1f}" y="14" text-anchor="{anchor}">{text}</text></g>'


def _rect(name: str, x: float, y: float, width: float, height: float) -> str:
    if height <= 0:
        return ""
    return f'<rect class="{name}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"/>'


def _grid(top: int, plot_height: float) -> str:
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT - BOTTOM - share * plot_height
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if (value := top * share) == int(value):
            lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(int(value))}</text>')
    return "".join(lines)


def _round_up(value: int) -> int:
    """Return the next number of the form 1, 2, 4, 6, 8 or 10 times a power of ten."""
    unit = int(10 ** int(log10(max(1, value))))
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= ceil(value))


def _short(value: int) -> str:
    if value >= 10_000_000:
        return f"{value / 1_000_000:g} M"
    return f"{value / 1000:g} k" if value >= 10_000 else f"{value:,}"


def over_time(spans: Sequence[tuple[float, int, int]], span_s: float) -> str:
    """Return the outcomes of each span of time; empty for fewer than two spans."""
    if len(spans) < 2:
        return ""
    days = spans[-1][0] - spans[0][0] >= 86_400
    bars = [(_time_label(begin, days=True), good, bad) for begin, good, bad in spans]
    middle = len(spans) // 2
    marks = [
        (0, _time_label(spans[0][0], days=True)),
        (len(spans) - 1, _time_label(spans[-1][0] + span_s, days=days)),
    ]
    if len(spans) > 4:
        marks.insert(1, (middle, _time_label(spans[middle][0], days=days)))
    return columns("outcomes over time", bars, marks)


def _time_label(at: float, *, days: bool) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M" if days else "%H:%M")


def durations(spread: Histogram) -> str:
    """Return how long imports took by HubSpot's instants; empty where it reported none.

    Bins are on a logarithmic scale and differ in width, so a bar's area is its count.
    """
    bins = _bins(spread)
    if not bins:
        return ""
    left, floor, top = log(bins[0].low), HEIGHT - BOTTOM, TOP + 4
    width = max(log(bins[-1].high) - left, NARROWEST)
    begin = (width - log(bins[-1].high) + left) / 2  # few bins stand in the middle

    def x(seconds: float) -> float:
        return (log(seconds) - left + begin) / width * WIDTH

    most, free = max(each.density for each in bins), 0.0
    parts = [f'<line class="grid" x2="{WIDTH}" y1="{floor}" y2="{floor}"/>']
    for each in bins:
        height = each.density / most * (floor - top)
        bar = _rect("good", x(each.low) + 0.75, floor - height, x(each.high) - x(each.low) - 1.5, height)
        parts.append(_with_value(bar, f"{each.name}: {each.count:,}", x(each.low), x(each.high)))
        middle = x(each.high)
        if each.label and middle - free > 40 and middle < WIDTH - 20:
            parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{each.label}</text>')
            free = middle
    marks = [(name, x(max(value, bins[0].low))) for name, value in _quantiles(spread)]
    parts += [f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{floor}"/>' for _, at in marks]
    return _svg(f"how long imports took: {quantiles_text(spread)}", "".join(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bin:
    """One bar of a histogram; the two open ends get a factor of two."""

    low: float
    high: float
    count: int
    name: str
    label: str  # of its upper end; empty: none

    @property
    def density(self) -> float:
        return self.count / (log(self.high) - log(self.low))


def _bins(spread: Histogram) -> list[_Bin]:
    """Return the bins from the first to the last that is not empty."""
    ends = [spread.bounds[0] / 2, *spread.bounds, spread.bounds[-1] * 2]
    found = []
    for number, ((low, high), count) in enumerate(zip(pairwise(ends), spread.counts, strict=True)):
        is_last = number == len(spread.bounds)
        first, last = duration(low), duration(high)
        name = f"under {last}" if number == 0 else f"{first} and more" if is_last else f"{first} to {last}"
        found.append(_Bin(low=low, high=high, count=count, name=name, label="" if is_last else last))
    shown = [number for number, each in enumerate(found) if each.count]
    return found[shown[0] : shown[-1] + 1] if shown else []


def _quantiles(spread: Histogram) -> list[tuple[str, float]]:
    values = [("half", spread.quantile(0.5)), ("95 %", spread.quantile(0.95))]
    return [(name, value) for name, value in values if value is not None]


def quantiles_text(spread: Histogram) -> str:
    """Return `half under 9 s, 95 % under 14 s`."""
    return ", ".join(f"{name} under {duration(value)}" for name, value in _quantiles(spread))


def meter(part: int, whole: int, name: str) -> str:
    """Return one bar as wide as `part` of `whole`."""
    share = 100 * part / whole if whole else 0.0
    return f'<span class="meter"><span class="{name}" style="width:{share:.2f}%"></span></span>'
