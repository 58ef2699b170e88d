"""A finished task as every sink gets it."""

import msgspec
import orjson
import pytest

from poller.core.model import Finished, Kind, Missing, Running
from poller.core.record import TIMED_OUT_NOTE, decode, landed_in, names_file, render, restore
from poller.core.starts import StartFacts
from poller.core.timestamps import iso
from tests.support.makers import make_task

FIELDS = [
    "task_id",
    "account",
    "kind",
    "landed",
    "status",
    "num_errors",
    "errors",
    "result",
    "requested_at",
    "started_at",
    "completed_at",
    "seen_at",
    "polls",
    "ref",
    "correlation_id",
]


def test_a_record_has_the_fields_of_the_design_in_their_order() -> None:
    record = render(make_task(), Finished(status="COMPLETE", num_errors=0), Kind.COMPLETE, seen_at=0.0)
    assert list(orjson.loads(record.body)) == FIELDS


def test_what_hubspot_and_the_person_wrote_comes_out_byte_for_byte() -> None:
    result = b'{"size": 123456789012345678901234567890, "a": 1.0, "a": 1.10}'
    ref = b'{"n":1e400}'
    outcome = Finished(status="COMPLETE", num_errors=1, errors=b'[ {"x":null} ]', result=result)
    body = render(make_task(ref=ref), outcome, Kind.COMPLETE_WITH_ERRORS, seen_at=0.0).body
    assert b'"result":' + result + b"," in body
    assert b'"errors":[ {"x":null} ],' in body
    assert b'"ref":' + ref + b"," in body


def test_what_some_readers_take_for_the_end_of_a_line_is_escaped() -> None:
    signs = "\u2028\u2029\x85"
    outcome = Finished(status="COMPLETE", num_errors=1, errors=f'["{signs}"]'.encode(), result=b"{}")
    body = render(
        make_task(ref=f'{{"{signs}":"{signs}"}}'.encode()), outcome, Kind.COMPLETE_WITH_ERRORS, seen_at=9.0
    ).body
    assert len(body.decode().splitlines()) == 1
    assert orjson.loads(body)["ref"] == {signs: signs}
    assert orjson.loads(body)["errors"] == [signs]


def existing(*, ahead_s: float, sent_s_before: float = 1.0, created_s: float, requested: bool = True) -> bool:
    """Return a record's `existing`: our clock is ahead by `ahead_s`, the row was first sent `sent_s_before` its latest
    start was accepted, and HubSpot created the file `created_s` after the first request."""
    first_at = 1_795_847_000.0  # by HubSpot's clock
    accepted_at = first_at + sent_s_before
    facts = StartFacts(row="r", starts=1, first_sent_at=first_at + ahead_s)
    final = Finished(
        status="COMPLETE",
        num_errors=0,
        result=orjson.dumps({"id": "1", "createdAt": iso(first_at + created_s)}),
        requested_at=iso(accepted_at) if requested else None,
    )
    task = make_task(fed_at=accepted_at + ahead_s, start=msgspec.json.encode(facts))
    found = orjson.loads(render(task, final, Kind.COMPLETE, seen_at=accepted_at + ahead_s + 99).body)["existing"]
    return bool(found)


@pytest.mark.parametrize("ahead_s", [0.0, 120.0, -120.0, 86_400.0])
def test_a_file_that_was_there_before_is_recognised_whatever_our_clock_shows(ahead_s: float) -> None:
    assert not existing(ahead_s=ahead_s, created_s=20)
    assert existing(ahead_s=ahead_s, created_s=-90)
    assert not existing(ahead_s=ahead_s, created_s=20, sent_s_before=1200.0)  # of its first start
    assert existing(ahead_s=ahead_s, created_s=-90, sent_s_before=1200.0)


def test_without_hubspots_instant_of_the_request_ours_decides() -> None:
    assert not existing(ahead_s=0.0, created_s=20, requested=False)
    assert existing(ahead_s=0.0, created_s=-90, requested=False)


def test_the_poll_that_finishes_a_task_is_counted() -> None:
    record = render(make_task(polls=4), Finished(status="CANCELED", num_errors=0), Kind.CANCELED, seen_at=0.0)
    assert orjson.loads(record.body)["polls"] == 5


def test_a_timed_out_record_has_the_last_known_status_and_a_note_that_it_may_still_finish() -> None:
    body = orjson.loads(render(make_task(status="PROCESSING"), Running(status=None), Kind.TIMED_OUT, seen_at=0.0).body)
    assert (body["status"], body["note"]) == ("PROCESSING", TIMED_OUT_NOTE)


def test_a_missing_task_has_its_http_status_as_reason() -> None:
    record = render(make_task(), Missing(code=404), Kind.NOT_FOUND, seen_at=0.0)
    assert record.reason == "HTTP 404: HubSpot does not know this id"
    assert (orjson.loads(record.body)["http_status"], decode(record.body).http_status) == (404, 404)


def test_instants_are_written_in_utc_with_milliseconds() -> None:
    assert iso(1767571200.1234) == "2026-01-05T00:00:00.123Z"


def test_the_fields_beside_a_record_s_bytes_are_those_in_them() -> None:
    outcome = Finished(
        status="COMPLETE",
        num_errors=1,
        errors=b'[{"a": 1.0}]',
        requested_at="2026-01-05T00:00:00Z",
        completed_at="2026-01-05T00:00:09Z",
        correlation_id="c-1",
    )
    for ref in (None, b'{"n": 1e400}'):
        record = render(make_task(ref=ref, polls=4), outcome, Kind.COMPLETE_WITH_ERRORS, seen_at=9.0)
        assert restore(record.body, kind=record.kind, reason=record.reason, seen_at=9.0) == record
        fields = decode(record.body)
        assert (fields.task_id, fields.account, fields.kind) == (record.task_id, record.account, "complete_with_errors")
        assert (fields.status, fields.num_errors, fields.polls, bytes(fields.errors)) == (
            "COMPLETE",
            1,
            5,
            outcome.errors,
        )
        assert fields.seen_at == iso(9.0)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"task_id":', b'{"task_id":1}', b'{"x":' + b"[" * 20_000])
def test_bytes_that_are_no_record_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode(body)


@pytest.mark.parametrize(
    ("result", "landed"),
    [
        (b'{"id": "1234", "url": null}', True),
        (b'{"id": 1234}', True),
        (b'{"url": "https://x.example/a.png"}', True),
        (b'{"name": "folder", "id": "7", "parentFolderId": 0}', True),
        (b'"https://x.example/export.csv"', True),
        (b'{"id": null, "url": ""}', False),
        (b'{"id": " "}', False),
        (b'{"id": {}}', False),
        (b"{}", False),
        (b"[]", False),
        (b'""', False),
        (b"true", False),
        (b'"done"', False),
        (b'{"id": ' + b"[" * 5000, False),
        (None, False),
    ],
)
def test_a_file_landed_where_the_result_names_one(result: bytes | None, landed: bool) -> None:
    assert names_file(result) is landed
    kind = Kind.COMPLETE_WITH_ERRORS if landed else Kind.COMPLETE_WITHOUT_RESULT
    record = render(make_task(), Finished(status="COMPLETE", num_errors=1, result=result), kind, seen_at=0.0)
    assert record.landed is landed_in(record.body) is landed


def test_whether_it_landed_is_derived_for_a_record_of_a_version_without_the_field() -> None:
    outcome = Finished(status="COMPLETE", num_errors=0, result=b'{"id":"1"}')
    body = render(make_task(), outcome, Kind.COMPLETE, seen_at=0.0).body.replace(b'"landed":true,', b"")
    assert landed_in(body)
    assert not landed_in(body.replace(b'{"id":"1"}', b"null"))
    assert restore(body, kind=Kind.COMPLETE, reason=None, seen_at=0.0).landed
