"""A person's own trace of imports, as the bench plays it."""

from pathlib import Path

import pytest

from bench.timing import policies
from bench.timing_trace import read_trace


def test_a_trace_is_read_by_feeding_time_from_zero_on(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"fed": 130, "requested": 129, "completed": null, "attr": "b"}\n\n'
        '{"fed": 100, "requested": 99, "started": 105, "completed": 110.5, "skew": -300}\n'
        '{"fed": 140, "requested": null, "completed": 150}\n'
    )
    first, second, third = read_trace(trace)
    assert (first.fed_at, first.requested_at, first.started_at, first.completed_at) == (0, -1, 5, 10.5)
    assert (first.skew_s, second.attr, third.names_request) == (-300, "b", False)
    assert second.completed_at == float("inf")


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n", '{"fed": "x", "requested": 1, "completed": 2}\n'])
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(text)
    with pytest.raises(SystemExit, match=r"trace\.jsonl"):
        read_trace(trace)


def test_every_policy_finds_every_import_finished(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [f'{{"fed": {number}, "requested": {number}, "completed": {number + 20}}}\n' for number in range(30)]
    trace.write_text("".join(lines))
    found = dict(policies(read_trace(trace), 10.0))
    assert len(found) >= 9
    assert all(result.polls >= 1 and 0 <= result.worst_s < 300 for result in found.values())
    assert found["clairvoyant"].polls == 1
