"""The failure report as a page."""

import math
import random
import re

import pytest

from poller.core.columns import Columns
from poller.core.histogram import IMPORT_BOUNDS_S, Histogram
from poller.reports import charts
from poller.reports.failures.groups import FailureReport
from poller.reports.failures.to_html import to_html
from poller.reports.finished_task import read_record

RECORD = b"""{"task_id": "a", "account": "eu", "kind": "complete", "seen_at": "2026-01-05T00:01:00Z",
"requested_at": "2026-01-05T00:00:00Z", "completed_at": "2026-01-05T00:00:09Z"}"""


def test_unequal_bins_are_drawn_by_density() -> None:
    """Else a wider bin beside narrow ones looks like a second hump."""
    spread, rng = Histogram(IMPORT_BOUNDS_S), random.Random(7)
    for _ in range(20_000):
        spread.add(rng.lognormvariate(math.log(90), 0.8))  # one hump
    heights = [float(height) for height in re.findall(r'class="good"[^>]* height="([\d.]+)"', charts.durations(spread))]
    tallest = heights.index(max(heights))
    assert heights[: tallest + 1] == sorted(heights[: tallest + 1])
    assert heights[tallest:] == sorted(heights[tallest:], reverse=True)


def test_each_bar_has_its_value_for_the_pointer() -> None:
    spread = Histogram(IMPORT_BOUNDS_S)
    for took_s in (0.5, 4.0, 4.5, 200_000.0):
        spread.add(took_s)
    values = re.findall(r'class="value"[^>]*>([^<]*)<', charts.durations(spread))
    assert [value for value in values if not value.endswith(": 0")] == [
        "under 1 s: 1",
        "3 s to 5 s: 2",
        "1 d and more: 1",
    ]
    assert "half under" in charts.durations(spread)


@pytest.mark.parametrize("waiting", [0, 3])
def test_durations_are_of_those_finished_so_far_while_tasks_wait(waiting: int) -> None:
    report = FailureReport()
    report.add(read_record(RECORD, Columns()), None)
    page = to_html(report, waiting=waiting, pruned=0, made_at=0.0, title="poller.db")
    assert "How long imports took" in page
    assert ("of those finished so far" in page) is (waiting > 0)
