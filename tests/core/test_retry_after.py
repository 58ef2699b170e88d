"""`Retry-After`: one parser for everybody's header."""

from email.utils import formatdate

import pytest

from poller.core.retry_after import http_date, parse_retry_after

SENT_AT = 1_767_571_200.0


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("0", 2.0),
        ("7.5", 7.5),
        ("99999", 60.0),
        (formatdate(SENT_AT - 5, usegmt=True), 2.0),
        (formatdate(SENT_AT + 30, usegmt=True), 30.0),
        (formatdate(SENT_AT + 30), 30.0),
        (formatdate(SENT_AT + 3600, usegmt=True), 60.0),
        ("soon", None),
        (None, None),
    ],
)
def test_a_wait_is_between_its_floor_and_its_ceiling(value: str | None, wait_s: float | None) -> None:
    assert parse_retry_after(value, sent_at=SENT_AT, floor_s=2.0, ceiling_s=60.0) == wait_s


def test_a_date_needs_the_instant_of_the_answer_and_seconds_do_not() -> None:
    assert parse_retry_after(formatdate(SENT_AT, usegmt=True), sent_at=None) is None
    assert parse_retry_after("3", sent_at=None) == 3.0


@pytest.mark.parametrize("value", [None, "", "Mon, 99 Foo 2026 00:00:00 GMT", "Mon, 05 Jan 2026 00:00:00 CET", "1"])
def test_what_is_no_http_date_is_none(value: str | None) -> None:
    assert http_date(value) is None
