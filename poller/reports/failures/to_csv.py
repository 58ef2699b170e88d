"""Writes failed tasks as CSV, a row each, that no spreadsheet program takes for formulas. Pure."""

import csv
from typing import TextIO

import orjson

from poller.core.csv_cells import harmless
from poller.core.timestamps import iso
from poller.reports.reasons import Facts, shown_url
from poller.reports.retryable import Verdict

HEADER = (
    "task_id", "account", "kind", "category", "reason", "try_again", "why", "host", "extension", "url", "file_id",
    "correlation_id", "seen_at", "ref",
)  # fmt: skip


class Sheet:
    """The rows of one file, header first."""

    def __init__(self, file: TextIO) -> None:
        self._rows = csv.writer(file, lineterminator="\r\n")
        self._rows.writerow(HEADER)

    def add(self, facts: Facts, judged: Verdict) -> None:
        """Write the row of one failed task."""
        reason = facts.reason
        row = (
            facts.task_id,
            facts.account,
            reason.kind if reason else facts.kind,
            reason.category if reason else None,
            reason.message if reason else None,
            "yes" if judged.again else "no",
            judged.why,
            facts.host,
            facts.extension,
            shown_url(facts.url) if facts.url else None,
            facts.file_id,
            facts.correlation_id,
            None if facts.seen_at is None else iso(facts.seen_at),
            orjson.dumps(_without_url(facts)).decode() if facts.ref else None,
        )
        self._rows.writerow([harmless(cell) for cell in row])


def _without_url(facts: Facts) -> dict[str, object]:
    """A row's own URL may be signed, and stands in a column of its own."""
    return {name: value for name, value in facts.ref.items() if value != facts.url}
