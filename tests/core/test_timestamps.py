"""Instants as text."""

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from poller.core.timestamps import epoch, iso


@given(st.floats(-62_135_596_800.0, 253_402_300_799.0))
@example(1_767_571_200.9999997)
@example(1_767_571_199.9996)
@example(-0.0000001)
def test_an_instant_is_written_as_the_library_writes_it(instant: float) -> None:
    by_library = datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert iso(instant) == by_library


@given(st.integers(946_684_800_000, 4_102_444_799_999))
def test_an_instant_is_read_back_to_the_millisecond(thousandths: int) -> None:
    assert abs((epoch(iso(thousandths / 1000)) or 0.0) - thousandths / 1000) <= 0.001
