"""Instants as people write them."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from poller.core.moments import moment, moment_text

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 27, 14, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("written", "utc"),
    [
        ("now", "2026-11-27T14:30"),
        ("2h", "2026-11-27T12:30"),
        ("1.5 hours", "2026-11-27T13:00"),
        ("90 min ago", "2026-11-27T13:00"),
        ("30 s", "2026-11-27T14:29:30"),
        ("3d", "2026-11-24T14:30"),
        ("2 weeks", "2026-11-13T14:30"),
        ("today", "2026-11-26T23:00"),
        ("Yesterday", "2026-11-25T23:00"),
        ("9:30", "2026-11-27T08:30"),
        ("2026-11-27", "2026-11-26T23:00"),
        (" 2026-11-27  01:00 ", "2026-11-27T00:00"),
        ("2026-07-01 01:00", "2026-06-30T23:00"),
        ("2026-11-27T01:00:00Z", "2026-11-27T01:00"),
        ("2026-11-27 01:00 UTC", "2026-11-27T01:00"),
        ("2026-11-27T01:00:00-05:00", "2026-11-27T06:00"),
    ],
)
def test_an_instant_without_a_zone_is_in_that_of_the_person(written: str, utc: str) -> None:
    expected = datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()
    assert moment(written, now=NOW, zone=BERLIN) == expected


@pytest.mark.parametrize(
    "written", ["", "soon", "25:00", "2 months", "2026-13-01", "h", "1e9", "99999999 weeks", "1999-01-01"]
)
def test_what_is_no_instant_is_refused_with_examples(written: str) -> None:
    with pytest.raises(ValueError, match="yesterday, 2h, 3d"):
        moment(written, now=NOW, zone=BERLIN)


def test_the_instant_that_was_understood_has_its_zone_and_utc() -> None:
    assert moment_text(NOW, BERLIN) == "2026-11-27 15:30:00 CET (14:30:00 UTC)"
    assert moment_text(NOW, UTC) == "2026-11-27 14:30:00 UTC"
    assert moment_text(NOW + 9 * 3600, BERLIN) == "2026-11-28 00:30:00 CET (2026-11-27 23:30:00 UTC)"
