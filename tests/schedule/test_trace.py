"""A person's own trace of imports, as the bench plays it."""

import math
from pathlib import Path

import pytest

from bench.timing import policies, simulate
from bench.timing_policies import Clairvoyant
from bench.timing_trace import read_trace
from bench.timing_workloads import Import


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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no import"),
        ("[]\n", "line 1: it is no JSON object"),
        ("3\n", "line 1"),
        ("fed,requested,completed\n2.0,1.5,31.0\n", r"line 1: it is no JSON\. Write"),
        ("{}\n", "'fed' is missing"),
        ('{"fed": "x", "requested": 1, "completed": 2}\n', "fed is 'x', not a number"),
        ('{"fed": 1, "requested": 3, "completed": 2}\n', "must follow one another"),
    ],
)
def test_what_is_no_trace_is_refused_with_an_example(tmp_path: Path, text: str, reason: str) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(text)
    with pytest.raises(SystemExit, match=rf'trace\.jsonl.*{reason}.*{{"fed": 2\.0'):
        read_trace(trace)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"none\.jsonl: No such file"):
        read_trace(tmp_path / "none.jsonl")


def test_clairvoyance_polls_what_never_finishes_once_at_its_deadline() -> None:
    imports = [Import(requested_at=0.0, fed_at=0.0, took_s=took_s) for took_s in (20.0, math.inf)]
    result = simulate(imports, Clairvoyant(), 10.0, 3600.0)
    assert (result.polls, result.drained_s) == (1, 3600.0)


def test_every_policy_finds_every_import_finished(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [f'{{"fed": {number}, "requested": {number}, "completed": {number + 20}}}\n' for number in range(30)]
    trace.write_text("".join(lines))
    found = dict(policies(read_trace(trace), 10.0))
    assert len(found) >= 9
    assert all(result.polls >= 1 and 0 <= result.worst_s < 300 for result in found.values())
    assert found["clairvoyant"].polls == 1
