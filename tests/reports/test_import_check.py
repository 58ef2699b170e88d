"""`poller import --check`: what a URL shows of when it expires."""

import pytest

from poller.reports.import_check import _expires_at

DATE = "X-Amz-Date=20260101T000000Z"


@pytest.mark.parametrize(
    ("query", "expires_at"),
    [
        ("Expires=1700000000", 1_700_000_000),
        (f"{DATE}&X-Amz-Expires=60", 1_767_225_660),
        ("Expires=%C2%B2%C2%B2%C2%B2%C2%B2%C2%B2%C2%B2%C2%B2%C2%B2%C2%B2", None),  # superscripts: digits to Python
        (f"{DATE}&X-Amz-Expires=%C2%B2", None),
        ("Expires=&se=x&sig=y", None),
    ],
)
def test_an_expiry_is_read_from_digits_and_nothing_else(query: str, expires_at: float | None) -> None:
    assert _expires_at(f"https://e.example.com/a.png?{query}") == expires_at
