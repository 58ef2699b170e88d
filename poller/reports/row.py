"""A row to import that has no task yet, for people and for programs. Pure."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Raw, Struct

from poller.core.search import FoundTask
from poller.core.starts import Row
from poller.core.text import duration, printable, without_controls
from poller.core.timestamps import iso


class RowView(Struct, frozen=True, kw_only=True):
    """Everything that the state holds of a row without a task. docs/answers.md describes it; keys are only added."""

    row: str
    account: str
    state: Literal["unstarted", "unsure"]
    ref: Raw
    body: Raw
    fed_at: str
    due_at: str
    starts: int
    lost: int
    first_sent_at: str | None
    earlier: tuple[str, ...]


def row_view(row: Row) -> RowView:
    """Return a row for programs."""
    return RowView(
        row=row.row,
        account=row.account,
        state="unsure" if row.lost else "unstarted",
        ref=Raw(row.ref),
        body=Raw(row.body),
        fed_at=iso(row.fed_at),
        due_at=iso(row.due_at),
        starts=row.starts,
        lost=row.lost,
        first_sent_at=None if row.first_sent_at is None else iso(row.first_sent_at),
        earlier=row.earlier,
    )


def row_text(row: Row, now: float) -> str:
    """Return a row as lines for people."""
    lines = [f"row {row.row}  (account {row.account})"]
    lines.append(f"fed          {iso(row.fed_at)}, {duration(max(0.0, now - row.fed_at))} ago")
    lines.append(f"             {printable(row.ref.decode('utf-8', 'replace'))}")
    if row.lost and row.first_sent_at is not None:
        lost = f"{row.lost} of {row.starts} answers lost, first sent {iso(row.first_sent_at)}"
        lines.append(f"unsure       {lost}; sent again with HubSpot's duplicate check {iso(row.due_at)}")
    else:
        refused = f", {row.starts} starts were refused" if row.starts else ""
        lines.append(f"unstarted    HubSpot has not accepted it{refused}; due {iso(row.due_at)}")
    if row.earlier:
        lines.append(f"earlier      {', '.join(row.earlier)}")
    lines.append(f"start call   {without_controls(row.body.decode('utf-8', 'replace'))}")
    return "\n".join(lines)


def until_text(due_at: float | None, now: float) -> str:
    """Return, in parentheses, in how long the first unsure row is due; empty where that is not known or over."""
    return f" (the next is due in {duration(due_at - now)})" if due_at is not None and due_at > now else ""


def unsure_text(rows: Sequence[FoundTask], now: float, *, is_repeated: bool = True) -> str:
    """Return, for people, until when rows wait whose start got no answer; `rows` are at least one. `is_repeated`:
    whether they are sent again then, or end as `start_unknown`."""
    due_at = min(row.due_at for row in rows)
    when = f"at {iso(due_at)[:19]}Z, in {duration(due_at - now)}" if due_at > now else "due now"
    then = (
        "wait until HubSpot's duplicate check can find their file. The next repeat is"
        if is_repeated
        else 'are not sent again (unsure = "hold"). The next one ends as start_unknown'
    )
    return f"unsure rows {then} {when}: poller list --unsure, poller why URL"
