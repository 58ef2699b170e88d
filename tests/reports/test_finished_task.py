"""Reading one record for a report: its reason, its source file, whether it is the right file, whether to retry it."""

import hashlib
from base64 import b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.columns import Columns, source_file
from poller.core.model import Finished, Kind, Missing
from poller.core.record import render
from poller.reports.finished_task import FinishedTask, read_record
from poller.reports.retryable import retry_advice
from tests.support.makers import make_task

MD5 = hashlib.md5(b"the file", usedforsecurity=False).digest()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def finished(columns: Columns | None = None, **fields: Any) -> FinishedTask:
    record = {"task_id": "AAAA", "account": "default", "kind": "complete", "errors": None, "result": None, "ref": None}
    return read_record(orjson.dumps(record | fields), columns or Columns())


def failed(*errors: Any, **fields: Any) -> FinishedTask:
    return finished(kind="complete_with_errors", errors=list(errors), **fields)


# --- the record ------------------------------------------------------------------------------------------------------


@given(JSON, JSON, JSON)
def test_no_shape_of_errors_result_or_row_is_too_strange(errors: Any, result: Any, ref: Any) -> None:
    for kind in ("complete", "complete_with_errors", "canceled", "new_kind"):
        found = finished(kind=kind, errors=errors, result=result, ref=ref)
        assert (found.reason is None) <= (kind == "complete")
        assert retry_advice(found).why


@given(JSON, st.none() | st.dictionaries(st.sampled_from(["url", "note"]), st.text(max_size=20)))
def test_a_fresh_record_has_the_reason_that_the_report_shows(errors: Any, ref: dict[str, str] | None) -> None:
    outcome = Finished(status="COMPLETE", num_errors=1, errors=orjson.dumps(errors))
    record = render(
        make_task(ref=None if ref is None else orjson.dumps(ref)), outcome, Kind.COMPLETE_WITH_ERRORS, seen_at=0.0
    )
    reason = read_record(record.body, Columns()).reason
    assert record.reason == (reason and reason.text)


@pytest.mark.parametrize("code", [400, 404])
@pytest.mark.parametrize("message", [None, "Provided ID AAAAE77x could not be decoded."])
def test_an_unknown_id_s_reason_in_the_report_names_the_http_status_as_everywhere(
    code: int, message: str | None
) -> None:
    record = render(make_task(), Missing(code=code, message=message), Kind.NOT_FOUND, seen_at=0.0)
    words = "HubSpot does not know this id" if message is None else "Provided ID <id> could not be decoded."
    assert (found := read_record(record.body, Columns()).reason)
    assert found.text == record.reason == f"HTTP {code}: {words}"


def test_a_record_of_an_older_version_has_no_http_status() -> None:
    found = finished(kind="not_found")
    assert found.reason
    assert found.reason.text == "HubSpot does not know this id"


@pytest.mark.parametrize("line", [b"{}", b"[]", b"7", b"no json", b'{"kind":"complete"}', b'{"task_id":"A"}'])
def test_a_line_that_is_no_finished_task_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        read_record(line, Columns())


# --- the source file -------------------------------------------------------------------------------------------------


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
    found = finished(ref={"url": url})
    assert (found.host, found.extension) == (host, extension)


@given(st.text())
def test_any_text_is_read_as_a_url(url: str) -> None:
    assert source_file({"url": url}).url == (url.strip() or None)


@pytest.mark.parametrize("name", ["url", "URL", "Source URL", "source_url", "fileUrl", "link"])
def test_the_url_column_is_found_by_its_name(name: str) -> None:
    assert finished(ref={"note": "x", name: "https://a.example/b.png"}).host == "a.example"


def test_a_named_column_wins_over_one_found_by_its_name() -> None:
    ref = {"url": "https://wrong.example/a", "origin": "https://right.example/b"}
    assert finished(Columns(named={"url": "origin"}), ref=ref).host == "right.example"


# --- the right file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "md5", [MD5.hex(), MD5.hex().upper(), f'"{MD5.hex()}"', b64encode(MD5).decode(), f" {MD5.hex()} "]
)
def test_an_equal_md5_is_equal_in_hex_and_in_base64(md5: str) -> None:
    found = finished(ref={"md5": md5}, result={"fileMd5": MD5.hex()})
    assert (found.reason, found.compared) == (None, frozenset({"md5"}))


def test_another_md5_or_size_is_a_reason_of_its_own() -> None:
    ref = {"MD5": "0" * 32, "Size": "12"}
    by_md5 = finished(ref=ref, result={"id": "1", "fileMd5": MD5.hex(), "size": 12})
    by_size = finished(ref=ref, result={"id": "1", "size": 13})
    assert by_md5.reason is not None
    assert by_size.reason is not None
    assert (by_md5.reason.category, by_size.reason.category) == ("MD5_MISMATCH", "SIZE_MISMATCH")
    assert (by_md5.compared, by_size.compared) == (frozenset({"md5", "size"}), frozenset({"size"}))
    assert not retry_advice(by_md5).retryable


@pytest.mark.parametrize("ref", [{"md5": "unknown", "size": ""}, {"md5": None, "size": "12 kB"}, {"size": True}])
def test_what_is_no_md5_and_no_size_is_not_compared(ref: dict[str, Any]) -> None:
    found = finished(ref=ref, result={"fileMd5": MD5.hex(), "size": 1})
    assert (found.reason, found.compared) == (None, frozenset())


# --- retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "retryable"),
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
        ({"category": "OBJECT_ALREADY_EXISTS", "message": "A file of this name is in the folder already"}, False),
        ({"category": "FILE_TYPE_BLOCKED", "message": "Files of this type cannot be hosted"}, False),
        ({"message": "an unknown message"}, False),
        ("read timed out", True),
        (7, False),
    ],
)
def test_what_passes_by_itself_is_retryable(error: Any, retryable: bool) -> None:
    assert retry_advice(failed(error)).retryable is retryable


def test_one_lasting_error_wins_over_those_that_pass() -> None:
    assert not retry_advice(failed({"message": "timeout"}, {"message": "file type not allowed"})).retryable


def test_a_url_in_a_message_decides_nothing() -> None:
    assert not retry_advice(failed({"message": "strange: https://example.com/timeout/503.png"})).retryable


def test_a_file_that_landed_with_errors_is_not_imported_twice() -> None:
    landed = failed({"message": "timeout"}, result={"id": 174205681245})
    assert landed.file_id == "174205681245"
    assert not retry_advice(landed).retryable


def test_the_advice_quotes_whole_words() -> None:
    assert retry_advice(failed({"message": "it exceeds all limits"})).why == "'exceeds' does not pass by itself"


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [("canceled", True), ("timed_out", True), ("not_found", False), ("complete_without_result", False), ("new", False)],
)
def test_kinds_without_errors_have_their_own_advice(kind: str, retryable: bool) -> None:
    assert retry_advice(finished(kind=kind)).retryable is retryable
