"""Rows of the csv sink: the record's columns, one physical line each, safe in a spreadsheet."""

import csv
import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.cli.commands.verify import verify_files
from poller.core.deliveries import Delivery
from poller.core.errors import Exit, InputError
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.sinks import written_files
from poller.sinks.files.csv_lines import COLUMNS, CSV
from tests.support.simulation import Simulation, settings_for

RECORD: dict[str, Any] = {
    "task_id": "t1",
    "account": "main",
    "kind": "complete_with_errors",
    "status": "COMPLETE",
    "num_errors": 2,
    "errors": [{"message": "File not found", "category": "X"}, {"message": "other"}],
    "result": {"id": "77", "name": 'a "b", c', "path": "/l/a.png", "url": "https://x/a.png", "size": 12, "type": "IMG"},
    "requested_at": "2026-01-05T00:00:00Z",
    "started_at": None,
    "completed_at": "2026-01-05T00:01:00Z",
    "seen_at": "2026-01-05T00:02:00.000Z",
    "polls": 3,
    "ref": {"url": "https://example.com/a.png", "row": 7},
    "correlation_id": "ab-1",
}


def row(**changes: Any) -> dict[str, str]:
    return read(orjson.dumps(RECORD | changes))


def read(body: bytes) -> dict[str, str]:
    """Return a record's row as a CSV reader sees it."""
    line = CSV.line(Delivery(number=1, account="main", task_id="t1", body=body))
    assert line.endswith(b"\r\n")
    assert len(line.splitlines()) == 1
    text = (CSV.header + line).decode()
    (found,) = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    assert tuple(found) == COLUMNS
    return found


def test_a_row_has_the_record_s_columns() -> None:
    assert row() == dict.fromkeys(COLUMNS, "") | {
        "task_id": "t1",
        "account": "main",
        "kind": "complete_with_errors",
        "landed": "true",
        "status": "COMPLETE",
        "num_errors": "2",
        "error": "File not found",
        "result_id": "77",
        "result_name": 'a "b", c',
        "result_path": "/l/a.png",
        "result_url": "https://x/a.png",
        "result_size": "12",
        "result_type": "IMG",
        "requested_at": "2026-01-05T00:00:00Z",
        "completed_at": "2026-01-05T00:01:00Z",
        "seen_at": "2026-01-05T00:02:00.000Z",
        "polls": "3",
        "ref": '{"url":"https://example.com/a.png","row":7}',
        "correlation_id": "ab-1",
    }


@pytest.mark.parametrize(
    ("errors", "error"),
    [
        (None, ""),
        ([], ""),
        (["plain words"], "plain words"),
        ("plain words", "plain words"),
        ([{"message": " "}], ""),
        ([{"category": "X", "errors": [{"message": "nested"}]}], "nested"),
        ({"message": "no list"}, "no list"),
        ([{"message": {"en": "text"}}], ""),
        (7, ""),
    ],
)
def test_the_error_is_the_first_message_in_whatever_shape_it_came(errors: Any, error: str) -> None:
    assert row(errors=errors)["error"] == error


def test_an_id_that_hubspot_does_not_know_has_the_answer_as_error() -> None:
    assert row(errors=None, http_status=404)["error"] == "HTTP 404"
    assert row(errors=None, http_status=400, message="Invalid\nid")["error"] == "HTTP 400: Invalid id"


def test_a_row_that_hubspot_refused_to_start_has_its_words_as_error() -> None:
    assert row(errors=None, message="Folder not found")["error"] == "Folder not found"


def test_a_task_that_timed_out_has_its_note_as_error() -> None:
    assert row(errors=None, note="HubSpot may still finish this import")["error"].startswith("HubSpot may")


def test_an_export_s_result_is_its_url_and_other_shapes_are_left_out() -> None:
    assert row(result="https://x/export.csv")["result_url"] == "https://x/export.csv"
    for other in (None, [], [1], 7, True):
        assert {value for name, value in row(result=other).items() if name.startswith("result_")} == {""}


def test_numbers_are_written_as_they_were_received() -> None:
    body = orjson.dumps(RECORD).replace(b'"size":12', b'"size":123456789012345678901234567890')
    assert read(body)["result_size"] == "123456789012345678901234567890"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", " =1", "\uff1d1"])
def test_no_cell_is_a_formula(name: str) -> None:
    assert row(result={"name": name})["result_name"].startswith("'")


def test_a_line_break_in_a_cell_is_a_space() -> None:
    assert row(result={"name": "a\r\nb\u2028c\x0bd"})["result_name"] == "a b c d"


@pytest.mark.parametrize("body", [b"{}", b"[" * 20_000, b"\xff\xfe", b"", b'{"result":"\\ud800"}'])
def test_what_is_no_record_is_a_row_with_its_identity(body: bytes) -> None:
    assert (read(body)["task_id"], read(body)["account"]) == ("t1", "main")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(
    st.dictionaries(st.sampled_from([*RECORD, "note"]), JSON | st.dictionaries(st.sampled_from(["id", "name"]), JSON))
)
def test_any_record_is_one_row(record: dict[str, Any]) -> None:
    found = read(orjson.dumps(record))
    assert len(found) == len(COLUMNS)
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in found.values())


async def test_a_run_writes_a_row_a_task_and_verify_refuses_the_file(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    path = tmp_path / "finished-%Y.csv"
    flags = {"sinks": [f"csv:{path}", f"jsonl:{tmp_path}/finished.jsonl"]}
    assert await simulation.run(simulation.write_ids(20), flags) is Exit.ALL_COMPLETE
    (file,) = written_files(path)
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline=""), strict=True))
    records = simulation.records()
    assert [row["task_id"] for row in rows] == [record["task_id"] for record in records]
    assert [row["result_url"] for row in rows] == [record["result"]["url"] for record in records]
    with pytest.raises(InputError, match=r"finished-2026.csv is a csv sink's: .* name a jsonl file"):
        await verify_files(settings_for(tmp_path), [file])
