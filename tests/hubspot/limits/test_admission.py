"""The pace of admissions: even, after a small burst."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.hubspot.limits.admission import Pace
from poller.hubspot.limits.window import Window

WINDOWS = st.builds(Window, limit=st.integers(1, 5000), window_s=st.floats(0.5, 100))


@given(WINDOWS, st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_no_span_holds_more_admissions_than_its_burst_and_its_share_of_the_window(
    window: Window, gaps: list[float]
) -> None:
    pace, now, admitted = Pace(window), 0.0, list[float]()
    for gap in gaps:
        now += gap * window.window_s / window.limit
        if pace.wait_s(now) <= 0:
            pace.admit(now)
            admitted.append(now)
    burst = max(1, window.limit // 50)
    for index, begin in enumerate(admitted):
        for count, end in enumerate(admitted[index:], start=1):
            assert count <= burst + (end - begin) * window.limit / window.window_s + 1e-6


@pytest.mark.parametrize(("limit", "burst"), [(10, 1), (100, 2), (190, 3)])
def test_waiting_as_long_as_it_says_loses_none_of_the_rate(limit: int, burst: int) -> None:
    pace, now = Pace(Window(limit=limit, window_s=10.0)), 0.0
    for _ in range(10 * limit):
        now += max(0.0, pace.wait_s(now))
        pace.admit(now)
    assert now == pytest.approx(100.0 - 10.0 * burst / limit)
