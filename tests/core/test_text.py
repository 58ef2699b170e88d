"""Text for people: every kind and pause has a meaning, durations are short, and no secret of a URL is shown."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from poller.core.accounts import Pause
from poller.core.model import Kind
from poller.core.text import KIND_TEXT, LONGEST_SHOWN, LONGEST_URL, PAUSE_TEXT, duration, printable, redacted_url


def test_every_kind_and_every_pause_has_one_meaning() -> None:
    assert list(KIND_TEXT) == list(Kind)
    assert list(PAUSE_TEXT) == list(Pause)
    texts = [*KIND_TEXT.values(), *PAUSE_TEXT.values()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0512, "0.0512 s"),
        (59.9, "59.9 s"),
        (59.99, "1 min"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (3661, "1 h 1 min"),
        (20_000, "5 h 33 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.text())
def test_text_of_unknown_origin_cannot_steer_a_terminal_and_is_short(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == min(len(text), LONGEST_SHOWN)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:word@example.com/a.png?sig=abc#part", "https://example.com/a.png"),
        ("https://example.com/icon@2x.png", "https://example.com/icon@2x.png"),
        ("example.com/icon@2x.png", "example.com/icon@2x.png"),
        ("HTTPS://me:wo/rd@example.com/a", "HTTPS://example.com/a"),
        ("me:word@example.com/a", "example.com/a"),
        ("me:word@example.com/a://b", "example.com/a://b"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a"),
        ("sqlite:////var/a@b?.db", "sqlite:////var/a@b?.db"),
        ("postgresql://me:pw@host:5432/db?password=pw", "postgresql://host:5432/db"),
        ("postgresql://me:p@w/x@host/db", "postgresql://host/db"),
        ("postgresql://me:p?w@host/db", "postgresql://***"),
        ("postgresql://one:5432,two:5433/db", "postgresql://one:5432,two:5433/db"),
        ("postgresql:///db?host=/tmp&password=pw", "postgresql:///db"),
    ],
)
def test_a_redacted_url_has_no_user_password_query_or_fragment(url: str, shown: str) -> None:
    assert redacted_url(url) == shown


@given(st.sampled_from(["https://", "http://", "postgresql://", ""]), st.text("pw:/@", max_size=8), st.text())
def test_no_password_survives_whatever_signs_it_has(scheme: str, signs: str, path: str) -> None:
    path = path.replace("@", "")
    assume("secret" not in path)  # a path is shown
    shown = redacted_url(f"{scheme}me:secret{signs}@host/db{path}")
    assert "secret" not in shown
    assert len(shown) <= LONGEST_URL
