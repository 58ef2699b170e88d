"""Why a task failed: one text for all tasks with the same trouble, without names, ids, numbers and addresses."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.columns import SourceFile, source_file
from poller.core.model import Kind
from poller.core.reason import Reason, generalized, reason_of
from poller.core.text import KIND_TEXT

CAT = source_file({"url": "https://cdn.example.com/a/cat.png"})
NO_FILE = SourceFile(None, None, "")
NO_ERROR_NAMED = KIND_TEXT[Kind.COMPLETE_WITH_ERRORS]


def reason(errors: Any, source: SourceFile = CAT) -> Reason:
    found = reason_of(Kind.COMPLETE_WITH_ERRORS, errors, source)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("message", "other"),
    [
        ("File cat.png is broken", "File dog.jpg is broken"),
        ("'cat' is 12 bytes", "'a dog' is 4,567 bytes"),
        ("no answer from cdn.example.com", "no answer from www.example.org"),
        ("task AAAAEZ6whGI failed", "task AAAAEZ6x012 failed"),
        ("GET https://cdn.example.com/a?sig=1 failed", "GET https://example.org/b failed"),
    ],
)
def test_messages_that_differ_by_task_are_one_reason(message: str, other: str) -> None:
    assert reason([{"message": message}]) == reason([{"message": other}])


@pytest.mark.parametrize(
    "message",
    ["the server answered {}", "HTTP status {}.", "got HTTP {}", "responded with status code {}", "error: {}"],
)
def test_two_http_statuses_are_two_reasons(message: str) -> None:
    assert reason([message.format(404)]).text == message.format(404)
    assert reason([message.format(404)]) != reason([message.format(503)])


def test_a_file_s_own_name_is_no_reason_even_with_blanks_and_percent_signs() -> None:
    source = source_file({"url": "https://cdn.example.com/x/annual%20report%20final.pdf?sig=secret"})
    assert reason(["annual report final.pdf is too large"], source).text == "<name> is too large"


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        (b"null", NO_ERROR_NAMED),
        (b"[]", NO_ERROR_NAMED),
        (b"[7]", NO_ERROR_NAMED),
        (b"[{}]", NO_ERROR_NAMED),
        (b'[{"category":"X"}]', "X: no message"),
        (b'[{"errors":[{"code":"TOO_LARGE"}]}]', "TOO_LARGE"),
        (b'[{"message":" "}, {"message":"second"}]', "second"),
        (b'[{"category":"X","errors":[{"message":"inner"}]}]', "X: inner"),
        (b'{"category":"X","message":"no list"}', "X: no list"),
        (b'["plain"]', "plain"),
        (b'[{"category":{"a":1},"subCategory":[],"message":["m"]}]', NO_ERROR_NAMED),
        (b'[{"category":"https://x.example/?k=s","message":"m"}]', "m"),
        (b'[{"category":"X","message":"GET https://cdn.example/a,b;c?sig=%2Fq gave 403"}]', "X: GET <url> gave 403"),
    ],
)
def test_the_reason_is_the_first_error_with_text_whatever_its_shape(errors: bytes, text: str) -> None:
    assert reason(orjson.loads(errors)).text == text


def test_a_kind_without_errors_has_its_meaning_as_reason() -> None:
    assert reason_of("canceled", None, NO_FILE) == ("canceled", None, KIND_TEXT["canceled"])
    assert reason_of("new_kind", None, NO_FILE) == ("new_kind", None, "new kind")
    assert reason_of(Kind.COMPLETE, [{"message": "ignored"}], NO_FILE) is None


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("File 'a b.png' of 123,456 bytes", "File <text> of <n>,<n> bytes"),
        ("Import AAAAEZ6whGI: failed", "Import <id>: failed"),
        ("See 0189aaaa-1111-2222-3333-abcdefabcdef.", "See <id>."),
        ("GET https://cdn.example/a,b;c?sig=%2Fq gave 403", "GET <url> gave <n>"),
        ("cdn.example/private/f.png?x=1", "<url>"),
        ("my file?sig=abc&x=1 is bad", "my <url> is bad"),
        ("url=http:\\\\host\\share", "<url>"),
        ("ask joe@example.com", "ask <email>"),
        ("a\r\n\tb\x00\x1b[31m", "a b [<n>m"),
        ("don't", "don't"),
    ],
)
def test_a_generalized_message_has_no_specifics(message: str, shown: str) -> None:
    assert generalized(message) == shown


@given(st.text(), st.text(), st.sampled_from(["http://", "https://", "www."]), st.text("abc/?=&.%,;()'\"1", min_size=3))
def test_a_reason_is_short_printable_and_has_no_url(before: str, after: str, scheme: str, rest: str) -> None:
    error = {"category": "X", "message": f"{before} {scheme}secret{rest} {after}"}
    text = reason([error], NO_FILE).text
    assert len(text) <= 200
    assert text.isprintable()
    assert "secret" not in text or "secret" in before + after
