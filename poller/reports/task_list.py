"""Tasks as a list: the one short JSON shape of a task, and its rows for tables and CSV. Pure."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct
from msgspec.json import encode

from poller.core.columns import source_file
from poller.core.csv_cells import for_people
from poller.core.model import Kind
from poller.core.search import FoundTask, row_of
from poller.core.text import kind_label, printable, redacted_url, without_controls
from poller.core.timestamps import iso
from poller.reports.task import Instant, JsonObjectBytes, instant

WIDEST_CELL = 60


class TaskSummary(Struct, frozen=True, kw_only=True):
    """One task in a list, or a row to import that has none yet; GET /v1/tasks/{task_id} has everything of it."""

    task_id: Annotated[str, Meta(description="of a row without a task: `start:` and its identity")]
    account: str
    state: Annotated[
        Literal["waiting", "finished", "unstarted", "unsure"],
        Meta(description="waiting: under way at HubSpot. unstarted, unsure: a row without a task"),
    ]
    kind: Kind | None
    landed: Annotated[bool | None, Meta(description="whether a file is there; null while it waits")]
    reason: Annotated[str | None, Meta(description="why it is not plainly complete")]
    status: Annotated[str | None, Meta(description="the status that HubSpot returned last")]
    polls: Annotated[int, Meta(description="status requests so far")]
    fed_at: Instant
    due_at: Annotated[Instant | None, Meta(description="when it is polled, or its import started, next")]
    seen_at: Annotated[Instant | None, Meta(description="when its outcome was seen")]
    url: Annotated[str | None, Meta(description="the URL in its row, whole: it may be signed")]
    host: Annotated[str | None, Meta(description="of that URL")]
    ref: Annotated[JsonObjectBytes, Meta(description="what was fed with the id")]


class TaskList(Struct, frozen=True, kw_only=True):
    """A page of tasks, in the order in which they were fed."""

    tasks: list[TaskSummary]
    next_cursor: Annotated[
        str | None,
        Meta(description="of the next page; null: there is none. A page may be short, or empty, while it is not null"),
    ]


COLUMNS = TaskSummary.__struct_fields__


def task_summary(task: FoundTask) -> TaskSummary:
    """Return one task of a list."""
    is_waiting = task.kind is None
    source = source_file(row_of(task.ref))
    return TaskSummary(
        task_id=task.task_id,
        account=task.account,
        state=task.start or ("waiting" if is_waiting else "finished"),
        kind=task.kind,
        landed=task.landed,
        reason=task.reason,
        status=task.status,
        polls=task.polls,
        fed_at=iso(task.fed_at),
        due_at=iso(task.due_at) if is_waiting else None,
        seen_at=instant(task.seen_at),
        url=source.url,
        host=source.host,
        ref=None if task.ref is None else Raw(task.ref),
    )


# --- as lines ---------------------------------------------------------------------------------------------------------

CSV_HEAD = "\ufeff" + ",".join(COLUMNS) + "\r\n"  # Excel takes a file without a byte order mark for Windows-1252


def head_of(written_as: str) -> str:
    """Return what comes before the first task."""
    return CSV_HEAD if written_as == "csv" else ""


def lines_of(tasks: Iterable[FoundTask], written_as: str) -> str:
    """Return the tasks as `csv`: rows, as `jsonl`: JSON lines, or as their `ids`, which rows without a task lack."""
    if written_as == "ids":
        return "".join(f"{task.task_id}\n" for task in tasks if task.start is None)
    if written_as == "jsonl":
        return "".join(encode(task_summary(task)).decode() + "\n" for task in tasks)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\r\n")
    rows.writerows([for_people(_cell(value)) for value in _values(task_summary(task))] for task in tasks)
    return text.getvalue()


def _values(task: TaskSummary) -> list[object]:
    return [getattr(task, name) for name in COLUMNS]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Raw):
        return bytes(value).decode("utf-8", "replace")
    return "" if value is None else str(value)


# --- for people ------------------------------------------------------------------------------------------------------

TABLE_HEAD = ("TASK", "ACCOUNT", "OUTCOME", "LANDED", "POLLS", "FILE", "REASON")


def table(tasks: Sequence[FoundTask]) -> str:
    """Return the tasks as a table whose columns are as wide as they must be."""
    rows = [TABLE_HEAD, *(_row(task) for task in tasks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TABLE_HEAD))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _row(task: FoundTask) -> tuple[str, ...]:
    source = source_file(row_of(task.ref))
    file = redacted_url(source.url) if source.url else ""
    waiting = task.start or (f"waiting ({printable(task.status)})" if task.status else "waiting")
    return (
        without_controls(task.task_id),
        without_controls(task.account),
        waiting if task.kind is None else kind_label(task.kind),
        "" if task.landed is None else "yes" if task.landed else "no",
        f"{task.polls:,}",
        _short(file),
        printable(task.reason or ""),
    )


def _short(text: str) -> str:
    """Return a text for a cell: its end is what differs between files."""
    shown = without_controls(text)
    return shown if len(shown) <= WIDEST_CELL else f"…{shown[1 - WIDEST_CELL :]}"
