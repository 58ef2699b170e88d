"""What an answer to a start call means: total, and certain only where it proves something."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poller.core.model import Missing, Refused, Running, Throttled, Unreachable
from poller.core.starts import Declined, NotSent, Started, StartOutcome, Unsure
from poller.hubspot.classify_start import classify_start

JSON = {"Content-Type": "application/json"}
HUBSPOTS = {"status": "error", "message": "Wrong.", "correlationId": "7f", "category": "VALIDATION_ERROR"}


def meant(status: int, body: object = None, **headers: str) -> StartOutcome:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_start(status, JSON | headers, sent).outcome


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_any_2xx_with_a_usable_id_is_a_start(status: int) -> None:
    answer = classify_start(status, JSON, b'{"id":"AAAAEZ6whGI","links":{"status":"https://evil.example/x"}}')
    assert answer.outcome == Started(task_id="AAAAEZ6whGI")
    assert isinstance(answer.shows, Running)
    assert meant(202, {"id": 17}) == Started(task_id="17")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b'{"id":null}',
        b'{"id":""}',
        b'{"id":true}',
        b'{"id":"../x"}',
        b"<html>",
        b'{"id":"A',
    ],
)
def test_a_2xx_without_a_usable_id_is_unsure_and_never_a_failure(body: bytes) -> None:
    answer = classify_start(202, JSON, body)
    assert answer.outcome == Unsure(reason="no_id")
    assert isinstance(answer.shows, Unreachable)


def test_a_403_nested_as_deep_as_can_be_read_has_a_meaning() -> None:
    deep = b'{"category":"STORAGE","message":"Full.","errors":' + b"[" * 1000 + b"]" * 1000 + b"}"
    refused = meant(403, deep)
    assert isinstance(refused, Refused)
    assert refused.reason == "import_refused"


@pytest.mark.parametrize("status", [400, 404, 409, 413, 414, 415, 422])
def test_hubspots_own_refusal_of_the_request_is_final_and_an_answer_of_the_account(status: int) -> None:
    answer = classify_start(status, JSON, json.dumps(HUBSPOTS).encode())
    assert answer.outcome == Declined(
        code=status, message="Wrong.", body=json.dumps(HUBSPOTS).encode(), correlation_id="7f"
    )
    assert isinstance(answer.shows, Missing)


@pytest.mark.parametrize("status", [400, 409, 413, 414, 422])
def test_the_same_code_of_a_stranger_decides_no_row(status: int) -> None:
    outcome = meant(status, {"error": "nginx"})
    assert outcome == Refused(reason="unknown_answer", detail=outcome.detail)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, HUBSPOTS, "token_refused"),
        (530, b"<html>", "token_refused"),
        (403, HUBSPOTS | {"errors": [{"context": {"requiredScopes": ["files"]}}]}, "scope_missing"),
        (403, HUBSPOTS | {"message": "Storage is full."}, "import_refused"),
        (404, b"<html>", "wrong_path"),
        (405, b"", "wrong_path"),
        (488, {"correctHublet": "eu1"}, "wrong_region"),
        (403, {"error": "captive portal"}, "unknown_answer"),
    ],
)
def test_what_a_person_must_change_pauses_the_account_and_leaves_the_row(
    status: int, body: object, reason: str
) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "text/html"} if sent.startswith(b"<") else JSON
    answer = classify_start(status, headers, sent)
    assert isinstance(answer.outcome, Refused)
    assert (answer.outcome.reason, answer.shows) == (reason, answer.outcome)


def test_a_full_storage_is_reported_in_hubspots_words() -> None:
    outcome = meant(403, HUBSPOTS | {"message": "Storage is full."})
    assert isinstance(outcome, Refused)
    assert outcome.detail == "HubSpot refuses to start imports: Storage is full."


def test_throttling_is_certain_and_so_is_an_edge_that_had_no_connection_to_hubspot() -> None:
    assert isinstance(meant(429, {"errorType": "RATE_LIMIT"}), Throttled)
    assert isinstance(meant(477), Throttled)
    assert meant(423, HUBSPOTS) == NotSent(reason="http_423", left=True, retry_after_s=2.0)
    for status in (521, 523, 525, 526):
        assert meant(status, b"<html>") == NotSent(reason=f"http_{status}", left=True)


@pytest.mark.parametrize("status", [301, 302, 307, 408, 425, 500, 502, 503, 504, 520, 522, 524, 527, 599])
def test_everything_else_is_unsure(status: int) -> None:
    assert meant(status, b"<html>") == Unsure(reason=f"http_{status}")


@given(st.integers(-10, 1200), st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3), st.binary())
@example(511, {}, b"")  # a network that asks for a login
def test_it_is_total_and_only_a_2xx_starts(status: int, headers: dict[str, str], body: bytes) -> None:
    answer = classify_start(status, headers, body)
    if isinstance(answer.outcome, Started):
        assert 200 <= status <= 299
    if 500 <= status <= 599 and status not in (521, 523, 525, 526, 530):
        assert isinstance(answer.outcome, Unsure)
