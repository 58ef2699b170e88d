"""Renders a report's charts as inline SVG: no script, colours by CSS classes, every text escaped. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from math import ceil, log10

from poller.core.text import duration
from poller.reports.failures.counters import DURATION_BOUNDS_S

WIDTH, HEIGHT = 640, 200
LEFT, BOTTOM, TOP = 64, 26, 12
MOST_MARKS = 6  # labels under a chart that do not touch, even on a phone

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
        tip = f"<title>{escape(label)}: {good:,} complete, {bad:,} not</title>"
        rects = _rect("good", x, base - good_height, width, good_height)
        rects += _rect("bad", x, base - good_height - bad_height, width, bad_height)
        parts.append(f"<g>{tip}{rects}</g>" if rects else "")
    for index, text in labels:
        x = LEFT + (index + 0.5) * step
        anchor = "start" if index == 0 else "end" if index == len(bars) - 1 else "middle"
        x = LEFT if anchor == "start" else WIDTH if anchor == "end" else x
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{escape(text)}</text>')
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return f"{head}{''.join(parts)}</svg>"


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


def durations(counts: Sequence[int]) -> str:
    """Return how long imports took by HubSpot's instants; empty where it reported none."""
    if not any(counts):
        return ""
    bounds = [duration(bound) for bound in DURATION_BOUNDS_S]
    names = [f"below {bound}" for bound in bounds] + [f"{bounds[-1]} and more"]
    first = next(number for number, count in enumerate(counts) if count)
    last = len(counts) - next(number for number, count in enumerate(reversed(counts)) if count)
    bars = [(name, count, 0) for name, count in zip(names, counts, strict=True)][first:last]
    marks = [(number, f"<{bound}") for number, bound in enumerate(bounds[first:last])]
    return columns("how long imports took", bars, marks[:: -(-len(marks) // MOST_MARKS)])


def meter(part: int, whole: int, name: str) -> str:
    """Return one bar as wide as `part` of `whole`."""
    share = 100 * part / whole if whole else 0.0
    return f'<span class="meter"><span class="{name}" style="width:{share:.2f}%"></span></span>'
