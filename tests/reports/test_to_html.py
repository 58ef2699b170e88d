"""The failure report as a page."""

from itertools import pairwise

import pytest

from poller.core.columns import Columns
from poller.reports.failures.counters import DURATION_BOUNDS_S
from poller.reports.failures.groups import FailureReport
from poller.reports.failures.to_html import to_html
from poller.reports.finished_task import read_record

RECORD = b"""{"task_id": "a", "account": "eu", "kind": "complete", "seen_at": "2026-01-05T00:01:00Z",
"requested_at": "2026-01-05T00:00:00Z", "completed_at": "2026-01-05T00:00:09Z"}"""


def test_the_columns_of_durations_are_equally_wide_as_a_ratio() -> None:
    """Else a wider bin between narrow ones looks like a second hump."""
    assert all(1.8 < high / low < 2.2 for low, high in pairwise(DURATION_BOUNDS_S))


@pytest.mark.parametrize("waiting", [0, 3])
def test_durations_are_of_those_finished_so_far_while_tasks_wait(waiting: int) -> None:
    report = FailureReport()
    report.add(read_record(RECORD, Columns()), None)
    page = to_html(report, waiting=waiting, pruned=0, made_at=0.0, title="poller.db")
    assert "How long imports took" in page
    assert ("of those finished so far" in page) is (waiting > 0)
