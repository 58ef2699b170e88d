"""Writes failed tasks as CSV, one row each. No cell is a formula for a spreadsheet program. Pure."""

import csv
from typing import TextIO

from poller.core.csv_cells import for_people
from poller.core.text import shortened_url
from poller.core.timestamps import iso
from poller.reports.finished_task import FinishedTask, row_json
from poller.reports.retryable import RetryAdvice

HEADER = (
    "task_id", "account", "kind", "landed", "category", "reason", "retryable", "why", "host", "extension", "url",
    "file_id", "correlation_id", "seen_at", "ref",
)  # fmt: skip


class CsvWriter:
    """Writes the header, then a row for each failed task."""

    def __init__(self, file: TextIO) -> None:
        file.write("\ufeff")  # Excel takes a file without a byte order mark for Windows-1252
        self._rows = csv.writer(file, lineterminator="\r\n")
        self._rows.writerow(HEADER)

    def add(self, task: FinishedTask, advice: RetryAdvice) -> None:
        """Write the row of one failed task."""
        reason = task.reason
        row = (
            task.task_id,
            task.account,
            reason.kind if reason else task.kind,
            "yes" if task.landed else "no",
            reason.category if reason else None,
            reason.message if reason else None,
            "yes" if advice.retryable else "no",
            advice.why,
            task.host,
            task.extension,
            shortened_url(task.url) if task.url else None,
            task.file_id,
            task.correlation_id,
            None if task.seen_at is None else iso(task.seen_at),
            row_json(_without_url(task)).decode() if task.ref else None,
        )
        self._rows.writerow([for_people(cell) for cell in row])


def _without_url(task: FinishedTask) -> dict[str, object]:
    """Return the row without its URL, which may be signed and has a column of its own."""
    return {name: value for name, value in task.ref.items() if value != task.url}
