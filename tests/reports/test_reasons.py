"""Reading one record with a report's questions: its reason, its place, whether it is the right file and worth a try."""

import hashlib
from base64 import b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.reports.reasons import Columns, Facts, facts_of, place_of, shown_url
from poller.reports.retryable import verdict

MD5 = hashlib.md5(b"the file", usedforsecurity=False).digest()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def facts(columns: Columns | None = None, **fields: Any) -> Facts:
    record = {"task_id": "AAAA", "account": "default", "kind": "complete", "errors": None, "result": None, "ref": None}
    return facts_of(orjson.dumps(record | fields), columns or Columns())


def failed(*errors: Any, **fields: Any) -> Facts:
    return facts(kind="complete_with_errors", errors=list(errors), **fields)


def said(message: str, url: str = "https://cdn.example.com/a/cat.png") -> str | None:
    reason = failed({"message": message}, ref={"url": url}).reason
    return reason and reason.message


# --- the reason ------------------------------------------------------------------------------------------------------


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
    assert said(message) == said(other)


@pytest.mark.parametrize(
    "message",
    ["the server answered {}", "HTTP status {}.", "got HTTP {}", "responded with status code {}", "error: {}"],
)
def test_an_http_status_tells_reasons_apart(message: str) -> None:
    assert said(message.format(404)) == message.format(404)
    assert said(message.format(404)) != said(message.format(503))


def test_a_file_s_own_name_is_no_reason_even_with_blanks_and_percent_signs() -> None:
    url = "https://cdn.example.com/x/annual%20report%20final.pdf?sig=secret"
    assert said("annual report final.pdf is too large", url) == "<name> is too large"


def test_an_error_without_words_is_told_by_its_code_or_its_kind() -> None:
    assert failed({"errors": [{"code": "TOO_LARGE"}]}).reason == ("complete_with_errors", None, "TOO_LARGE")
    assert failed({"category": "X"}).reason == ("complete_with_errors", "X", "no message")
    assert facts(kind="canceled").reason == ("canceled", None, "HubSpot gave the import up")


@given(JSON, JSON, JSON)
def test_no_shape_of_errors_result_or_row_is_too_strange(errors: Any, result: Any, ref: Any) -> None:
    for kind in ("complete", "complete_with_errors", "canceled", "new_kind"):
        found = facts(kind=kind, errors=errors, result=result, ref=ref)
        assert (found.reason is None) <= (kind == "complete")
        assert verdict(found).why


@pytest.mark.parametrize("line", [b"{}", b"[]", b"7", b"no json", b'{"kind":"complete"}', b'{"task_id":"A"}'])
def test_what_is_no_finished_task_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        facts_of(line, Columns())


# --- the place -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "extension"),
    [
        ("https://CDN.example.com:8443/a/b.PNG?x=c.gif", "cdn.example.com", "png"),
        ("https://user:pass@example.com/a.tar.gz#x.y", "example.com", "gz"),
        ("https://example.com/", "example.com", "(none)"),
        ("https://example.com/a.b/c", "example.com", "(none)"),
        ("example.com/a.jpg", "example.com", "jpg"),
        ("https://[::1]/a.pdf", "::1", "pdf"),
        ("https://[broken/a.pdf", None, "(none)"),
        ("https://example.com/what.is this", "example.com", "(none)"),
    ],
)
def test_host_and_extension_come_from_the_row_s_url(url: str, host: str | None, extension: str) -> None:
    found = facts(ref={"url": url})
    assert (found.host, found.extension) == (host, extension)


def test_a_shown_url_holds_neither_password_nor_signature() -> None:
    assert shown_url("https://me:word@example.com/a.png?sig=abc#part") == "https://example.com/a.png"


@given(st.text())
def test_any_text_has_a_place_or_none(url: str) -> None:
    place_of(url)
    assert len(shown_url(url)) <= 300


@pytest.mark.parametrize("name", ["url", "URL", "Source URL", "source_url", "fileUrl", "link"])
def test_the_url_column_is_found_by_its_name(name: str) -> None:
    assert facts(ref={"note": "x", name: "https://a.example/b.png"}).host == "a.example"


def test_a_column_that_is_named_outranks_what_its_name_says() -> None:
    ref = {"url": "https://wrong.example/a", "origin": "https://right.example/b"}
    assert facts(Columns(named={"url": "origin"}), ref=ref).host == "right.example"


# --- the right file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told", [MD5.hex(), MD5.hex().upper(), f'"{MD5.hex()}"', b64encode(MD5).decode(), f" {MD5.hex()} "]
)
def test_an_equal_md5_is_equal_however_it_is_written(told: str) -> None:
    found = facts(ref={"md5": told}, result={"fileMd5": MD5.hex()})
    assert (found.reason, found.compared) == (None, frozenset({"md5"}))


def test_another_md5_or_size_is_a_reason_of_its_own() -> None:
    ref = {"MD5": "0" * 32, "Size": "12"}
    by_md5 = facts(ref=ref, result={"id": "1", "fileMd5": MD5.hex(), "size": 12})
    by_size = facts(ref=ref, result={"id": "1", "size": 13})
    assert by_md5.reason is not None
    assert by_size.reason is not None
    assert (by_md5.reason.category, by_size.reason.category) == ("MD5_MISMATCH", "SIZE_MISMATCH")
    assert (by_md5.compared, by_size.compared) == (frozenset({"md5", "size"}), frozenset({"size"}))
    assert not verdict(by_md5).again


@pytest.mark.parametrize("ref", [{"md5": "unknown", "size": ""}, {"md5": None, "size": "12 kB"}, {"size": True}])
def test_what_is_no_md5_and_no_size_is_not_compared(ref: dict[str, Any]) -> None:
    found = facts(ref=ref, result={"fileMd5": MD5.hex(), "size": 1})
    assert (found.reason, found.compared) == (None, frozenset())


# --- another try -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "again"),
    [
        ({"message": "The file could not be downloaded: the server answered 404"}, False),
        ({"message": "The file could not be downloaded: the server answered 503"}, True),
        ({"message": "The file could not be downloaded"}, True),
        ({"category": "DOWNLOAD_TIMEOUT", "message": "The file's server took too long to answer"}, True),
        ({"category": "VALIDATION_ERROR", "errors": [{"code": "DOWNLOAD_FAILED"}]}, True),
        ({"message": "failed", "context": {"statusCode": ["429"]}}, True),
        ({"message": "failed", "context": {"statusCode": "403"}}, False),
        ({"category": "RATE_LIMITS", "message": "Too many requests"}, True),
        ({"message": "internal error"}, True),
        ({"message": "Connection reset by peer"}, True),
        ({"message": "The file exceeds the largest size that this account allows"}, False),
        ({"category": "OBJECT_ALREADY_EXISTS", "message": "A file of this name stands in the folder already"}, False),
        ({"category": "FILE_TYPE_BLOCKED", "message": "Files of this type cannot be hosted"}, False),
        ({"message": "nobody has ever seen this"}, False),
        ("read timed out", True),
        (7, False),
    ],
)
def test_another_try_is_for_what_passes_by_itself(error: Any, again: bool) -> None:
    assert verdict(failed(error)).again is again


def test_one_lasting_error_outweighs_those_that_pass() -> None:
    assert not verdict(failed({"message": "timeout"}, {"message": "file type not allowed"})).again


def test_a_url_in_a_message_decides_nothing() -> None:
    assert not verdict(failed({"message": "strange: https://example.com/timeout/503.png"})).again


def test_a_file_that_landed_with_errors_is_not_imported_twice() -> None:
    landed = failed({"message": "timeout"}, result={"id": 174205681245})
    assert landed.file_id == "174205681245"
    assert not verdict(landed).again


def test_a_verdict_quotes_whole_words() -> None:
    assert verdict(failed({"message": "it exceeds all limits"})).why == "'exceeds' does not pass by itself"


@pytest.mark.parametrize(
    ("kind", "again"),
    [("canceled", True), ("timed_out", True), ("not_found", False), ("complete_without_result", False), ("new", False)],
)
def test_kinds_without_errors_have_their_own_verdict(kind: str, again: bool) -> None:
    assert verdict(facts(kind=kind)).again is again
