"""The outcome of an answer: every status, every body, and the outcomes that a body must never have."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poller.core.model import (
    NO_LIMITS,
    Finished,
    Kind,
    Missing,
    Outcome,
    RateLimits,
    Refused,
    Running,
    Throttled,
    Unreachable,
)
from poller.core.record import render
from poller.hubspot.classify import DEEPEST, classify
from poller.hubspot.headers import read_limits
from tests.support.makers import make_task

JSON = {"Content-Type": "application/json"}
OUTCOMES = (Running, Finished, Missing, Throttled, Refused, Unreachable)


def finished(body: bytes) -> Finished:
    outcome = classify(200, JSON, body)
    assert isinstance(outcome, Finished)
    return outcome


def unreachable(status: int, body: bytes = b"", headers: dict[str, str] = JSON) -> Unreachable:
    outcome = classify(status, headers, body)
    assert isinstance(outcome, Unreachable)
    return outcome


# --- it is total -----------------------------------------------------------------------------------------------------

header_values = st.one_of(st.text(max_size=40), st.integers().map(str), st.floats().map(str))
header_names = st.one_of(
    st.sampled_from(
        ["retry-after", "DATE", "Content-Type", "x-hubspot-correlation-id"]
        + [f"X-HubSpot-RateLimit-{name}" for name in ("Max", "Remaining", "Interval-Milliseconds", "Daily")]
    ),
    st.text(max_size=10),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
known_keys = st.sampled_from(["status", "taskId", "errors", "numErrors", "result", "requestedAt"]) | st.sampled_from(
    ["category", "message", "policyName", "context", "requiredScopes", "correlationId"]
)
words = st.sampled_from(["PENDING", "processing", "Complete", "CANCELED", "CANCELLED", "FAILED", "", " "])
answers = st.dictionaries(known_keys, json_values | words, max_size=9)
statuses = st.one_of(st.sampled_from([200, 202, 204, 302, 400, 401, 403, 404, 423, 429, 477, 503, 530]), st.integers())


@given(statuses, st.dictionaries(header_names, header_values), st.binary() | answers.map(orjson.dumps))
@example(200, {}, b"[" * 200_000)
@example(200, {}, b'{"status":"COMPLETE","result":' + b"[" * 1000 + b"]" * 1000 + b"}")
@example(200, {}, b'{"status":"COMPLETE","links":' + b"[" * 1000 + b"]" * 1000 + b"}")
@example(200, {}, b"\xff\xfe{\x00}\x00")
@example(403, {}, b'{"errors":{"context":{"requiredScopes":[["a"],1,null]}}}')
@example(503, {"Retry-After": "Mon, 99 Foo 9999 99:99:99 GMT", "Date": "Mon, 99 Foo 9999 99:99:99 GMT"}, b"")
def test_any_answer_has_an_outcome(status: int, headers: dict[str, str], body: bytes) -> None:
    assert isinstance(classify(status, headers, body), OUTCOMES)
    assert isinstance(read_limits(headers), RateLimits)


VALID = orjson.dumps(
    {
        "status": "COMPLETE",
        "taskId": "AAAAEZ6whGI",
        "numErrors": 1,
        "errors": [{"category": "VALIDATION_ERROR", "message": "no"}],
        "result": {"id": "1", "name": 'é\\"\n.png', "size": 2**60},
    }
)


@given(st.integers(0, len(VALID) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_body_never_crashes_and_what_is_finished_can_be_recorded(at: int, patch: bytes, cut: int) -> None:
    outcome = classify(200, JSON, VALID[:at] + patch + VALID[at + cut :])
    if isinstance(outcome, Finished):
        body = render(make_task(), outcome, Kind.COMPLETE, seen_at=0.0).body
        assert b"\n" not in body
        assert isinstance(orjson.loads(body), dict)


@given(st.integers(0, len(VALID) - 1))
def test_a_truncated_body_decides_nothing(length: int) -> None:
    outcome = classify(200, JSON, VALID[:length])
    assert isinstance(outcome, Running if length == 0 else Unreachable)


@given(answers, st.sampled_from([300, 302, 400, 401, 403, 404, 423, 429, 477, 500, 503, 530]))
def test_only_a_2xx_answer_can_finish_or_run(document: dict[str, object], status: int) -> None:
    outcome: Outcome = classify(status, JSON, orjson.dumps({"status": "COMPLETE"} | document))
    assert not isinstance(outcome, Finished | Running)


# --- 2xx -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"  \r\n", b"null", b" null\n", b"\xef\xbb\xbfnull"])
@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_an_empty_or_null_body_means_not_finished_yet(status: int, body: bytes) -> None:
    assert classify(status, {}, body) == Running(status=None)


@pytest.mark.parametrize("word", ["PENDING", "pending", "Processing", "PROCESSING"])
def test_a_running_status_is_known_in_any_case(word: str) -> None:
    body = orjson.dumps({"status": word, "taskId": "a1", "startedAt": None, "requestedAt": 7, "result": [[]]})
    assert classify(200, JSON, body) == Running(status=word.upper(), task_id="a1")


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        ("2026-01-05T00:00:00Z", 1_767_571_200.0),
        ("2026-01-05T01:00:00.25+01:00", 1_767_571_200.25),
        ("2026-01-05T00:00:00.123456789Z", 1_767_571_200.123456),
        ("2026-01-05T00:00:00", 1_767_571_200.0),
        ("1970-01-01T00:00:00Z", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("soon", None),
        (1_767_571_200, None),
        (None, None),
    ],
)
def test_a_running_task_has_its_request_instant_or_none(value: object, instant: float | None) -> None:
    body = orjson.dumps({"status": "PROCESSING", "requestedAt": value})
    assert classify(200, JSON, body) == Running(status="PROCESSING", requested_at=instant)


def test_an_unfinished_answer_has_hubspots_clock() -> None:
    body = b'{"status": "PENDING", "requestedAt": "2026-01-05T00:00:00Z"}'
    at = {**JSON, "Date": "Mon, 05 Jan 2026 00:01:40 GMT"}
    assert classify(200, at, body) == Running(status="PENDING", requested_at=1767571200.0, answered_at=1767571300.0)
    assert classify(200, {**JSON, "Date": "yesterday"}, body) == Running(status="PENDING", requested_at=1767571200.0)


@pytest.mark.parametrize("word", ["FAILED", "CANCELLED", "EXPIRED", "complete!"])
def test_an_unknown_word_keeps_the_task_running(word: str) -> None:
    outcome = classify(200, JSON, orjson.dumps({"status": word, "taskId": "A1"}))
    assert outcome == Running(status=word, task_id="A1", known=False)
    marked = classify(200, {"X-HubSpot-Correlation-Id": "8d7a"}, orjson.dumps({"status": word}))
    assert marked == Running(status=word, known=False, correlation_id="8d7a")


@pytest.mark.parametrize("word", ["ok", "UP", "healthy", "success", "error", "fail", "FAILED"])
def test_an_unknown_word_without_any_name_of_hubspots_is_another_apis_and_keeps_no_task_running(word: str) -> None:
    """As a gateway's health answer: tasks "running" by it would end as timed out, each by its own deadline."""
    assert classify(200, JSON, orjson.dumps({"status": word, "version": 3})) == Unreachable(reason="no_status")


def test_an_unknown_word_is_shown_short_and_printable() -> None:
    outcome = classify(200, JSON, orjson.dumps({"status": "A\n\x1b" + "x" * 1000, "links": {}}))
    assert isinstance(outcome, Running)
    assert outcome.status is not None
    assert len(outcome.status) == 64
    assert outcome.status.isprintable()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>maintenance</html>", "unreadable_body"),
        (b'{"status":"COMPL', "unreadable_body"),
        (b'{"status":"COMPLETE","x":NaN}', "unreadable_body"),
        (b'{"status":"COMPLETE","x":"\xff"}', "unreadable_body"),
        (b'{"status":"COMPLETE"}{"status":"COMPLETE"}', "unreadable_body"),
        (b'{"status":"COMPLETE","result":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "unreadable_body"),
        (b"[]", "not_an_object"),
        (b'[{"status":"COMPLETE"}]', "not_an_object"),
        (b'"COMPLETE"', "not_an_object"),
        (b"7", "not_an_object"),
        (b"false", "not_an_object"),
        (b"{}", "no_status"),
        (b'{"status":null}', "no_status"),
        (b'{"status":" "}', "no_status"),
        (b'{"status":["COMPLETE"]}', "no_status"),
        (b'{"status":1}', "no_status"),
        (b'{"status":"error","message":"internal error","correlationId":"c"}', "error_body"),
        (b'{"status":"ERROR","category":"RATE_LIMITS"}', "error_body"),
    ],
)
def test_a_2xx_body_without_a_status_is_unreachable(body: bytes, reason: str) -> None:
    assert unreachable(200, body).reason == reason


def test_a_finished_answer_is_read_in_full() -> None:
    body = (
        b'{"status":"complete","taskId":"AAAAEZ6whGI","requestedAt":"2026-01-05T00:00:00Z","startedAt":"2026-01-05",'
        b'"completedAt":"2026-01-05T00:00:01.123456Z","numErrors":2,"result":{"id":"1"},'
        b'"errors":[{"category":"VALIDATION_ERROR","message":"Cannot fetch \'https://x.example/a?sig=s\'"}],"new":[1]}'
    )
    assert finished(body) == Finished(
        status="COMPLETE",
        num_errors=2,
        errors=b'[{"category":"VALIDATION_ERROR","message":"Cannot fetch \'https://x.example/a?sig=s\'"}]',
        has_errors=True,
        result=b'{"id":"1"}',
        requested_at="2026-01-05T00:00:00Z",
        started_at="2026-01-05",
        completed_at="2026-01-05T00:00:01.123456Z",
        task_id="AAAAEZ6whGI",
    )


@pytest.mark.parametrize(
    "value",
    [
        b'{ "size" : 123456789012345678901234567890 }',
        b"1.0000000000000000001",
        b'{"a":1,"a":2}',
        b'"https:\\/\\/x.example\\/f?a=\\u00e9"',
        b'"a\\nb"',
        b"[]",
        b"false",
    ],
)
def test_errors_and_result_pass_through_untouched(value: bytes) -> None:
    outcome = finished(b'{"status":"COMPLETE","errors":' + value + b',"result":' + value + b"}")
    assert outcome.errors == value
    assert outcome.result == value


def test_line_breaks_between_tokens_become_spaces() -> None:
    outcome = finished(b'{"status":"COMPLETE",\n"result": {\r\n  "name": "a\\nb"\n}\n}')
    assert outcome.result == b'{    "name": "a\\nb" }'


def test_of_repeated_keys_the_last_counts_for_every_field() -> None:
    outcome = finished(
        b'{"status":"PENDING","result":1,"errors":[1],"status":"COMPLETE","result":2,"err\\u006frs":null}'
    )
    assert (outcome.result, outcome.errors, outcome.has_errors) == (b"2", None, False)


def test_null_counts_as_absent() -> None:
    nulls = b'{"status":"CANCELED","errors":null,"result": null ,"taskId":null,"numErrors":null%s}'
    assert finished(nulls % b',"completedAt":"x"') == Finished(status="CANCELED", num_errors=0, completed_at="x")
    assert unreachable(200, nulls % b"").reason == "no_status"


@pytest.mark.parametrize("word", ["COMPLETE", "complete", "Canceled"])
@pytest.mark.parametrize("others", [{}, {"version": 3, "jobId": "A1"}, {"taskId": None, "errors": None}])
def test_a_final_word_alone_may_be_any_apis_and_decides_nothing(word: str, others: dict[str, object]) -> None:
    """HubSpot's own final answers have at least their instants, by all four descriptions."""
    document = {"status": word} | others
    assert classify(200, JSON, orjson.dumps(document)) == Unreachable(reason="no_status")
    assert isinstance(classify(200, {"X-HubSpot-Correlation-Id": "8d7a"}, orjson.dumps(document)), Finished)


@pytest.mark.parametrize(
    "field", [{"completedAt": ""}, {"taskId": "A1"}, {"result": {}}, {"errors": []}, {"numErrors": 0}, {"links": {}}]
)
def test_each_other_field_of_hubspots_makes_a_final_word_count(field: dict[str, object]) -> None:
    assert finished(orjson.dumps({"status": "COMPLETE"} | field)).status == "COMPLETE"


@pytest.mark.parametrize(
    ("value", "errors", "number", "has_errors"),
    [
        (b"3", b"[]", 3, False),
        (b"0", b"[{}]", 0, True),
        (b"null", b"[{},{}]", 2, True),
        (b"-1", b"[{}]", 1, True),
        (b"true", b"[]", 0, False),
        (b'"3"', b"{}", 1, False),
        (b'"0"', b"[]", 0, False),
        (b'"many"', b"[]", 0, False),
        (b"0.0", b"[]", 0, False),
        (b"2.0", b"null", 1, False),
        (b"99999999999999999999999", b"null", 1, False),
        (b"1.5", b'{"message":"x"}', 1, True),
        (b"99999999999999999999999", b'"broken"', 1, True),
        (b"null", b'""', 0, False),
    ],
)
def test_errors_are_counted_from_num_errors_or_else_from_the_errors(
    value: bytes, errors: bytes, number: int, has_errors: bool
) -> None:
    outcome = finished(b'{"status":"COMPLETE","numErrors":' + value + b',"errors":' + errors + b"}")
    assert (outcome.num_errors, outcome.has_errors) == (number, has_errors)


@pytest.mark.parametrize(("value", "task_id"), [(b'"a"', "a"), (b"12", "12"), (b"true", None), (b"{}", None)])
def test_a_task_id_is_text_or_a_whole_number(value: bytes, task_id: str | None) -> None:
    assert finished(b'{"status":"COMPLETE","taskId":' + value + b"}").task_id == task_id


@pytest.mark.parametrize("value", [b"7", b"[]", b'"' + b"x" * 65 + b'"'])
def test_an_invalid_instant_is_left_out(value: bytes) -> None:
    assert finished(b'{"status":"COMPLETE","requestedAt":' + value + b"}").requested_at is None


@pytest.mark.parametrize("field", [b"errors", b"result"])
def test_a_field_nested_too_deep_for_readers_is_unreachable(field: bytes) -> None:
    def body(levels: int) -> bytes:
        return b'{"status":"COMPLETE","' + field + b'":' + b'{"a":[' * (levels // 2) + b"]}" * (levels // 2) + b"}"

    assert finished(body(DEEPEST))
    assert unreachable(200, body(DEEPEST + 2)).reason == "body_too_deep"


def test_half_of_a_utf16_pair_is_replaced_so_that_the_task_can_end() -> None:
    outcome = finished(rb'{"status":"COMPLETE","result":{"name":"a\ud83d","b":"\ud83d\ude00","c":"\\ud83d"}}')
    assert outcome.result == rb'{"name":"a\ufffd","b":"\ud83d\ude00","c":"\\ud83d"}'


# --- not 2xx ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404])
def test_400_and_404_json_mean_an_unknown_id(status: int) -> None:
    body = b'{"status":"error","message":"Provided ID could not be decoded.","correlationId":"ab-1","category":"X"}'
    assert classify(status, JSON, body) == Missing(
        code=status, message="Provided ID could not be decoded.", correlation_id="ab-1"
    )


@pytest.mark.parametrize(
    ("headers", "body"),
    [({"content-type": "text/HTML; charset=utf-8"}, b"nothing"), ({}, b"  \n<!doctype html>"), (JSON, b"<html>")],
)
def test_404_html_is_a_wrong_path_and_names_the_setting(headers: dict[str, str], body: bytes) -> None:
    outcome = classify(404, headers, body)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "wrong_path"
    assert "status_path" in outcome.detail


def refused(status: int, body: bytes = b"", headers: dict[str, str] = JSON) -> Refused:
    outcome = classify(status, headers, body)
    assert isinstance(outcome, Refused)
    return outcome


GATEWAYS = {
    "kong": b'{"message":"no Route matched with those values"}',
    "kong with an id": b'{"message":"no Route matched with those values","request_id":"5f4b0c"}',
    "api gateway": b'{"message":"Not Found"}',
    "fastapi": b'{"detail":"Not Found"}',
    "spring": b'{"timestamp":"2026-01-05T00:00:00.000+00:00","status":404,"error":"Not Found","path":"/files/v3"}',
    "express": b'{"error":"Cannot GET /files/v3"}',
    "problem details": b'{"type":"about:blank","title":"Not Found","status":404}',
    "problem details with an id": b'{"type":"about:blank","title":"Not Found","status":404,"correlationId":"ab-1"}',
    "spring with an id": b'{"status":404,"error":"Not Found","path":"/files/v3","correlationId":"ab-1"}',
    "empty marks": b'{"correlationId":"","category":null}',
    "marks that are no text": b'{"correlationId":7,"category":["X"]}',
    "an empty object": b"{}",
    "nothing": b"",
    "an array": b"[]",
    "null": b"null",
    "words": b"no",
}


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("body", GATEWAYS.values(), ids=GATEWAYS.keys())
def test_a_400_or_404_without_hubspots_marks_decides_nothing_about_a_task(status: int, body: bytes) -> None:
    assert refused(status, body).reason == "unknown_answer"
    assert f"an answer {status} without HubSpot's marks" in refused(status, body).detail


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b'{"correlationId":"ab-1"}'),
        (JSON, b'{"category":"OBJECT_NOT_FOUND"}'),
        (JSON | {"X-HubSpot-Correlation-Id": "ab-1"}, b"{}"),
    ],
)
def test_each_of_hubspots_marks_alone_makes_a_404_an_answer(headers: dict[str, str], body: bytes) -> None:
    assert isinstance(classify(404, headers, body), Missing)


@pytest.mark.parametrize("status", [402, 403, 406, 407, 409, 418, 422, 451])
@pytest.mark.parametrize("body", [b"<html>Access denied</html>", b'{"message":"Forbidden"}', b""])
def test_other_4xx_of_a_stranger_need_a_person(status: int, body: bytes) -> None:
    assert refused(status, body, {"Content-Type": "text/html"}).reason == "unknown_answer"


@pytest.mark.parametrize(
    "body",
    [
        b"<html><center>The plain HTTP request was sent to HTTPS port</center></html>",
        b"<p>Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
        b"Client sent an HTTP request to an HTTPS server.\n",
    ],
)
def test_a_port_that_expects_tls_is_named_as_what_it_is(body: bytes) -> None:
    assert refused(400, body, {}).reason == "unknown_answer"
    assert "base_url begins with http://: write https://" in refused(400, body, {}).detail


def test_a_network_that_asks_for_a_login_needs_a_person() -> None:
    outcome = refused(511, b"<html>Network Authentication Required</html>")
    assert (outcome.reason, "log in" in outcome.detail) == ("unknown_answer", True)
    marked = classify(511, {"X-HubSpot-Correlation-Id": "8d7a"}, b"{}")
    assert isinstance(marked, Unreachable)


def test_a_word_error_without_the_rest_of_an_error_body_is_an_unknown_status() -> None:
    outcome = classify(200, JSON, b'{"status":"error","taskId":"A1"}')
    assert isinstance(outcome, Running)
    assert not outcome.known


def test_another_4xx_of_hubspots_own_is_only_a_failed_poll() -> None:
    assert unreachable(422, b'{"category":"X","correlationId":"ab-1"}').reason == "http_422"


@pytest.mark.parametrize("status", [405, 410, 415])
def test_a_path_that_is_not_served_any_more_is_a_wrong_path(status: int) -> None:
    assert refused(status).reason == "wrong_path"
    assert "status_path" in refused(status).detail


@pytest.mark.parametrize(
    ("body", "remedy"),
    [
        (b'{"correctHublet":"eu1"}', "set base_url to https://api-eu1.hubapi.com"),
        (b'{"correctHublet":"evil.example/"}', "set base_url to that region's host"),
        (b"", "set base_url to that region's host"),
    ],
)
def test_488_names_the_right_region(body: bytes, remedy: str) -> None:
    assert refused(488, body).reason == "wrong_region"
    assert remedy in refused(488, body).detail


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
def test_a_redirect_is_a_wrong_host_and_names_where_it_points_without_its_secrets(status: int) -> None:
    location = "https://me:secret@login.example/sso?token=secret#\x1b[2J"
    outcome = refused(status, headers={"location": location})
    assert outcome.reason == "wrong_host"
    assert "points to https://login.example/sso:" in outcome.detail
    assert "secret" not in outcome.detail
    assert "points to nowhere" in refused(status).detail


def test_hubspots_own_words_about_an_id_are_kept_in_the_record() -> None:
    body = b'{"message":"This account is\\nbeing deactivated. \\u0000","category":"VALIDATION_ERROR"}'
    outcome = classify(400, JSON, body)
    assert outcome == Missing(code=400, message="This account is being deactivated.")
    record = render(make_task(), outcome, Kind.NOT_FOUND, seen_at=0.0)
    assert orjson.loads(record.body)["message"] == "This account is being deactivated."
    assert record.reason == "HTTP 400: This account is being deactivated."


@pytest.mark.parametrize("status", [401, 530])
@pytest.mark.parametrize("body", [b"", b'{"category":"EXPIRED_AUTHENTICATION"}', b'{"category":"pat-na1-x"}'])
def test_a_refused_token_pauses_the_account(status: int, body: bytes) -> None:
    outcome = classify(status, JSON, body)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "token_refused"
    assert ("EXPIRED_AUTHENTICATION" in outcome.detail) == (b"EXPIRED" in body)
    assert "pat-na1" not in outcome.detail
    assert ("unless HubSpot's own network fails" in outcome.detail) == (status == 530 and not body)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"error":"unauthorized"}', b'{"message":"No API key found in request"}']
)
def test_a_401_without_hubspots_marks_is_about_the_token_but_not_surely_hubspots(body: bytes) -> None:
    outcome = classify(401, JSON, body)
    assert isinstance(outcome, Refused)
    assert (outcome.reason, "HubSpot refused" in outcome.detail, "gateway" in outcome.detail) == (
        "token_refused",
        False,
        True,
    )


def test_a_web_page_with_401_is_a_proxy_that_asks_for_a_login_and_no_word_about_the_token() -> None:
    page, html = b"<html><h1>Sign in to the corporate network", {"Content-Type": "text/html"}
    outcome = classify(401, html, page)
    assert isinstance(outcome, Refused)
    assert (outcome.reason, "proxy" in outcome.detail) == ("unknown_answer", True)
    assert classify(401, {"Content-Type": "text/plain"}, page) == outcome
    marked = classify(401, html | {"X-HubSpot-Correlation-Id": "8d7a"}, page)
    assert isinstance(marked, Refused)
    assert marked.reason == "token_refused"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"category":"MISSING_SCOPES","errors":[{"context":{"requiredScopes":["files","crm.x"]}}]}', "files, crm.x"),
        (b'{"category":"MISSING_SCOPES","errors":[{"context":{"requiredScopes":"files"}}]}', "files"),
        (b'{"errors":{"context":{"requiredScopes":["[files]"]}}}', "files"),
        (
            b'{"category":"MISSING_SCOPES","errors":[{"context":[]},7,{"context":{"requiredScopes":{}}}]}',
            "MISSING_SCOPES",
        ),
        (b'{"correlationId":"ab-1"}', "403"),
    ],
)
def test_a_missing_scope_is_named(body: bytes, named: str) -> None:
    outcome = classify(403, JSON, body)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "scope_missing"
    assert named in outcome.detail


@pytest.mark.parametrize(
    ("body", "policy"),
    [
        (b'{"errorType":"RATE_LIMIT","policyName":"TEN_SECONDLY_ROLLING","groupName":"publicapi:1:2"}', "window"),
        (b'{"policyName":"DAILY"}', "daily"),
        (b'{"policyName":"daily_limit"}', "daily"),
        (b'{"policyName":["DAILY"]}', "window"),
        (b'{"errorType":"RATE_LIMIT","message":"You have reached your daily limit."}', "daily"),
        (b'{"policyName":"SECONDLY","message":"not the daily one"}', "window"),
        (b"", "window"),
    ],
)
def test_429_names_the_limit_that_was_hit(body: bytes, policy: str) -> None:
    outcome = classify(429, JSON | {"retry-after": "7"}, body)
    assert isinstance(outcome, Throttled)
    assert (outcome.policy, outcome.retry_after_s) == (policy, 7.0)


def test_477_is_a_migration() -> None:
    assert classify(477, {"Retry-After": "99999999"}, b"") == Throttled(policy="migrating", retry_after_s=900.0)


@pytest.mark.parametrize(("value", "wait_s"), [(None, 2.0), ("1", 2.0), ("30", 30.0), ("x", 2.0)])
def test_423_waits_at_least_two_seconds(value: str | None, wait_s: float) -> None:
    headers = {} if value is None else {"Retry-After": value}
    assert unreachable(423, headers=headers) == Unreachable(reason="http_423", retry_after_s=wait_s)


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 521, 526])
def test_everything_else_is_unreachable_with_its_number(status: int) -> None:
    assert unreachable(status, b'{"status":"COMPLETE"}').reason == f"http_{status}"


# --- headers ---------------------------------------------------------------------------------------------------------

SENT_AT = datetime(2026, 1, 5, tzinfo=UTC)


def http_date(seconds: float) -> str:
    return format_datetime(SENT_AT + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("0", 1.0),
        (" 12 ", 12.0),
        ("1.5", 1.5),
        ("9" * 18, 900.0),
        (http_date(90), 90.0),
        (http_date(-90), 1.0),
        (http_date(10**6), 900.0),
        ("-1", None),
        ("nan", None),
        ("1e3", None),
        ("soon", None),
        ("", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_clamped(value: str, wait_s: float | None) -> None:
    assert unreachable(503, headers={"RETRY-AFTER": value, "date": http_date(0)}).retry_after_s == wait_s


def test_a_retry_date_without_the_answers_own_date_is_ignored() -> None:
    assert unreachable(503, headers={"Retry-After": http_date(90)}).retry_after_s is None


@given(st.text() | st.floats().map(str) | st.integers().map(str), st.text() | st.just(http_date(0)))
def test_a_wait_is_never_below_a_second_nor_above_a_quarter_of_an_hour(value: str, date: str) -> None:
    wait_s = unreachable(503, headers={"Retry-After": value, "Date": date}).retry_after_s
    assert wait_s is None or (math.isfinite(wait_s) and 1 <= wait_s <= 900)


@pytest.mark.parametrize(
    ("headers", "body", "correlation_id"),
    [
        ({"X-HubSpot-Correlation-Id": "ab-1"}, b'{"correlationId":"cd-2"}', "ab-1"),
        ({"x-hubspot-correlation-id": "a b"}, b'{"correlationId":"cd-2"}', "cd-2"),
        ({}, b'{"correlationId":"\\ncd"}', None),
        ({}, b'{"correlationId":7}', None),
        ({"x-hubspot-correlation-id": "x" * 65}, b"", None),
    ],
)
def test_the_correlation_id_is_kept_when_it_looks_like_one(
    headers: dict[str, str], body: bytes, correlation_id: str | None
) -> None:
    assert unreachable(500, body, headers).correlation_id == correlation_id


def test_limits_are_read_in_any_case_of_letters() -> None:
    headers = {
        "x-hubspot-ratelimit-max": "100",
        "X-HUBSPOT-RATELIMIT-REMAINING": " 0 ",
        "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
        "X-HubSpot-RateLimit-Daily": "250000",
        "X-HubSpot-RateLimit-Daily-Remaining": "249999",
    }
    assert read_limits(headers) == RateLimits(
        max=100, remaining=0, interval_s=10.0, daily=250_000, daily_remaining=249_999
    )


@pytest.mark.parametrize("nonsense", ["", "-1", "1e3", "0x10", "٣", "100, 100", "99999999999", "1" * 5000, "NaN"])
def test_limits_that_are_nonsense_are_ignored(nonsense: str) -> None:
    names = ("Max", "Remaining", "Interval-Milliseconds", "Daily", "Daily-Remaining")
    assert read_limits({f"X-HubSpot-RateLimit-{name}": nonsense for name in names}) == NO_LIMITS


@pytest.mark.parametrize(("name", "value"), [("Max", "0"), ("Interval-Milliseconds", "99"), ("Daily", "0")])
def test_limits_that_would_stop_the_poller_are_ignored(name: str, value: str) -> None:
    assert read_limits({f"X-HubSpot-RateLimit-{name}": value}) == NO_LIMITS
