"""How many files landed: one headline, two numbers for each reason, and advice that holds for its tasks only."""

import orjson
import pytest

from poller.core.columns import Columns
from poller.core.text import percent
from poller.reports.failures.groups import FailureReport
from poller.reports.failures.to_json import to_json
from poller.reports.failures.to_text import to_text
from poller.reports.finished_task import read_record
from poller.reports.ledger import landed_line
from poller.reports.retryable import retry_advice


def report_of(*results: object, message: str = "the file was too large") -> FailureReport:
    """Return the report on tasks that are complete with errors, each with one of these results."""
    report = FailureReport()
    for number, result in enumerate(results):
        fields = {"task_id": f"T{number}", "account": "a", "kind": "complete_with_errors", "result": result}
        task = read_record(orjson.dumps(fields | {"errors": [{"message": message}]}), Columns())
        report.add(task, retry_advice(task))
    return report


@pytest.mark.parametrize(
    ("landed", "finished", "waiting", "text"),
    [
        (
            {"complete": 5420, "complete_with_errors": 281},
            6999,
            1,
            "5,701 landed (281 with errors) · 1,298 did not · 1 waiting",
        ),
        ({"complete": 3}, 3, 0, "3 landed · 0 did not"),
        ({}, 0, 7, "0 landed · 0 did not · 7 waiting"),
    ],
)
def test_the_headline_counts_every_task_in_one_place(
    landed: dict[str, int], finished: int, waiting: int, text: str
) -> None:
    assert landed_line(landed, finished, waiting) == text


def test_advice_of_a_mixed_group_has_the_number_of_its_tasks() -> None:
    report = report_of({"id": "1"}, None, None)
    (group,) = report.groups()
    assert (group.count, group.landed) == (3, 1)
    text = to_text(report, waiting=2, pruned=0)
    assert "1 landed (1 with errors) · 2 did not · 2 waiting" in text
    assert "1 landed, 2 did not" in text
    assert "2 no, 'too large' does not pass by itself; 1 no, a file landed in spite of errors: read the errors" in text
    (reason,) = to_json(report, waiting=0, pruned=0)["reasons"]
    assert [(each["why"], each["count"]) for each in reason["advice"]] == [
        ("'too large' does not pass by itself", 2),
        ("a file landed in spite of errors: read the errors", 1),
    ]


def test_advice_that_holds_for_all_is_given_once() -> None:
    assert "retry: no, 'too large' does not pass by itself\n" in to_text(report_of(None, None), waiting=0, pruned=0)


def test_a_file_that_has_a_url_and_no_id_landed_too() -> None:
    report = report_of({"url": "https://x.example/a.png"})
    assert report.landed == {"complete_with_errors": 1}
    assert "a file landed in spite of errors" in to_text(report, waiting=0, pruned=0)


def test_a_report_on_a_state_in_which_nothing_has_finished_has_one_line() -> None:
    assert to_text(FailureReport(), waiting=3, pruned=0) == "nothing has finished yet; 3 tasks wait"
    assert to_text(FailureReport(), waiting=0, pruned=0) == "nothing has finished yet; no task waits"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (579, 10_000, "5.8 %"),
        (1, 3, "33 %"),
        (9999, 10_000, "99.9 %"),
        (1, 1, "100 %"),
        (0, 5, "0 %"),
        (3, 10_000, "0.030 %"),
        (0, 0, "0 %"),
    ],
)
def test_a_share_has_two_digits_and_never_rounds_to_all(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text
