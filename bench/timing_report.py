"""Writes the comparison as a Markdown table and as a plot, without a plotting library."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.timing import Compared, Result

HEAD = (
    "| {} | polls | mean late s | p95 s | worst s | drained s | learned at a poll cost: polls / mean late s |\n"
    "|---|---|---|---|---|---|---|\n"
)
WIDTH, HEIGHT, MARGIN, COLUMNS = 300, 210, 34, 3
LEAST_POLLS, MOST_POLLS, LEAST_S, MOST_S = 1.0, 60.0, 0.5, 200.0


def table(compared: "Sequence[Compared]") -> str:
    """Return one Markdown table a workload and limit."""
    return "\n".join(_one_table(each) for each in compared)


def _one_table(each: "Compared") -> str:
    lines = [HEAD.format(f"**{each.workload}**, {each.per_second:g} a second")]
    for name, other in each.others.items():
        found = each.equal_or_better(other)
        note = "–" if found is None else f"{found[0]:g} s: {found[1].polls:.2f} / {found[1].mean_s:.2f}"
        lines.append(_row(name, other, note))
    over, within = each.over_the_bound(each.optimal), each.over_the_bound(each.optimal_within)
    note = "" if math.isnan(over) else f"once learned {over:.2f} × the bound"
    note += "" if math.isnan(within) else f", {within:.2f} × that with no gap over 60 s"
    lines.append(_row("**learned** (default)", each.default, note))
    lines.append(_row("clairvoyant", each.clairvoyant, ""))
    return "".join(lines)


def _row(name: str, result: "Result", note: str) -> str:
    return (
        f"| {name} | {result.polls:.2f} | {result.mean_s:.2f} | {result.p95_s:.1f} | {result.worst_s:.1f}"
        f" | {result.drained_s:.0f} | {note} |\n"
    )


def plot(compared: "Sequence[Compared]") -> str:
    """Return an SVG: polls per task across, mean lateness up, both logarithmic; a panel a workload."""
    rows = math.ceil(len(compared) / COLUMNS)
    panels = "".join(
        f'<g transform="translate({number % COLUMNS * WIDTH},{number // COLUMNS * HEIGHT})">{_panel(each)}</g>'
        for number, each in enumerate(compared)
    )
    style = (
        "text{font:10px sans-serif;fill:#444}.t{font-weight:bold}.f{fill:none;stroke:#bbb}"
        ".l{fill:none;stroke:#0b7285;stroke-width:2}.o{fill:none;stroke:#999;stroke-dasharray:4 3}"
        ".p{fill:#c92a2a}.d{fill:#0b7285}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * WIDTH} {rows * HEIGHT + 20}"'
        f' role="img" aria-label="Polls per task and mean lateness of each policy"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{panels}'
        f'<text x="8" y="{rows * HEIGHT + 12}">Across: polls per task. Up: mean lateness, s. Both logarithmic. '
        "Line: learned, by poll cost; dot on it: the default. Dashed: optimal inspection. Red: fixed rules."
        "</text></svg>\n"
    )


def _panel(each: "Compared") -> str:
    learned = " ".join(_point(result) for result in each.by_cost.values())
    optimal = " ".join(_point(result) for result in each.optimal)
    x, y = _point(each.default).split(",")
    others = "".join(_dot(name, result) for name, result in each.others.items())
    return (
        f'<text class="t" x="{MARGIN}" y="14">{each.workload}</text>'
        f'<rect class="f" x="{MARGIN}" y="20" width="{WIDTH - MARGIN - 8}" height="{HEIGHT - 44}"/>{_ticks()}'
        f'<polyline class="o" points="{optimal}"/><polyline class="l" points="{learned}"/>{others}'
        f'<circle class="d" cx="{x}" cy="{y}" r="5"><title>learned, default poll cost</title></circle>'
    )


def _dot(name: str, result: "Result") -> str:
    x, y = _point(result).split(",")
    return f'<circle class="p" cx="{x}" cy="{y}" r="3"><title>{name}</title></circle>'


def _ticks() -> str:
    across = "".join(
        f'<text x="{_across(value):.0f}" y="{HEIGHT - 12}">{value:g}</text>' for value in (1, 2, 5, 10, 20, 50)
    )
    up = "".join(f'<text x="4" y="{_up(value) + 3:.0f}">{value:g}</text>' for value in (1, 3, 10, 30, 100))
    return across + up


def _point(result: "Result") -> str:
    return f"{_across(result.polls):.1f},{_up(result.mean_s):.1f}"


def _across(polls: float) -> float:
    return MARGIN + (WIDTH - MARGIN - 8) * _log_share(polls, LEAST_POLLS, MOST_POLLS)


def _up(seconds: float) -> float:
    return HEIGHT - 24 - (HEIGHT - 44) * _log_share(seconds, LEAST_S, MOST_S)


def _log_share(value: float, least: float, most: float) -> float:
    return min(1.0, max(0.0, math.log(max(value, 1e-6) / least) / math.log(most / least)))
