"""One task, for people and for programs: when it was fed, each poll, its outcome, and which sinks have it. Pure.

`TaskView` is the one JSON shape of a task: `poller why --json` and GET /v1/tasks/{task_id} answer with it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from poller.core.accounts import AccountState, Pause
from poller.core.details import Poll, TaskDetails
from poller.core.model import Kind, Record
from poller.core.reason import message_in
from poller.core.record import decode
from poller.core.starts import NO_TASK, Row
from poller.core.text import duration, kind_label, printable
from poller.core.timestamps import iso
from poller.reports.row import RowView, row_view

INDENT = " " * 13

# --- for programs ----------------------------------------------------------------------------------------------------

Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # RFC 3339, UTC
JsonObjectBytes = Annotated[Raw | None, Meta(extra_json_schema={"type": ["object", "null"]})]


class PollView(Struct, frozen=True, kw_only=True):
    """One status request for the task."""

    at: Instant
    gate_s: Annotated[float, Meta(description="waited at the gate")]
    took_s: float
    outcome: str
    detail: Annotated[str | int | None, Meta(description="HubSpot's status word, its HTTP status, or a reason")]
    next_in_s: Annotated[float | None, Meta(description="until the next poll was due; null: it was the last")]


class TaskView(Struct, frozen=True, kw_only=True):
    """Everything that the state holds of one task. docs/answers.md describes it; keys are only added."""

    task_id: str
    account: str
    state: Literal["waiting", "finished", "unstarted", "unsure"]
    kind: Kind | None
    landed: Annotated[bool | None, Meta(description="whether a file is there; null while it waits")]
    reason: Annotated[str | None, Meta(description="why it is not plainly complete")]
    status: Annotated[str | None, Meta(description="the status that HubSpot returned last")]
    polls: Annotated[int, Meta(description="status requests so far")]
    errors: Annotated[int, Meta(description="consecutive failed polls")]
    fed_at: Instant
    requested_at: Annotated[Instant | None, Meta(description="when the import was started at HubSpot")]
    due_at: Annotated[Instant | None, Meta(description="when it is polled next")]
    seen_at: Annotated[Instant | None, Meta(description="when its outcome was seen")]
    account_pause: Annotated[Pause | None, Meta(description="why its account sends no requests now")]
    ref: Annotated[JsonObjectBytes, Meta(description="what was fed with the id")]
    record: Annotated[JsonObjectBytes, Meta(description="the finished task, as every sink gets it")]
    deliveries: Annotated[dict[str, str], Meta(description="by sink: delivered, undelivered or `dead: REASON`")]
    poll_log: Annotated[list[PollView], Meta(description="the latest polls, oldest first")]
    row: Annotated[RowView | None, Meta(description="the row to import that has no task yet")] = None


def task_view(task: TaskDetails, account: AccountState) -> TaskView:
    """Return one task for programs."""
    record = task.record
    return TaskView(
        task_id=task.task_id,
        account=task.account,
        state="waiting" if task.kind is None else "finished",
        kind=task.kind,
        landed=None if record is None else record.landed,
        reason=None if record is None else record.reason,
        status=task.status,
        polls=task.polls,
        errors=task.errors,
        fed_at=iso(task.fed_at),
        requested_at=instant(task.requested_at),
        due_at=iso(task.due_at) if task.kind is None else None,
        seen_at=None if record is None else iso(record.seen_at),
        account_pause=Pause(account.pause) if account.pause else None,
        ref=None if task.ref is None else Raw(task.ref),
        record=None if record is None else Raw(record.body),
        deliveries=dict(task.deliveries),
        poll_log=[_poll_view(poll) for poll in task.poll_log],
    )


def unstarted_view(row: Row, account: AccountState) -> TaskView:
    """Return a row without a task as a task for programs."""
    view = row_view(row)
    return TaskView(
        task_id=NO_TASK + row.row,
        account=row.account,
        state=view.state,
        kind=None,
        landed=None,
        reason=None,
        status=None,
        polls=0,
        errors=0,
        fed_at=view.fed_at,
        requested_at=None,
        due_at=view.due_at,
        seen_at=None,
        account_pause=Pause(account.pause) if account.pause else None,
        ref=view.ref,
        record=None,
        deliveries={},
        poll_log=[],
        row=view,
    )


def instant(at: float | None) -> str | None:
    """Return an instant as RFC 3339, None where there is none."""
    return None if at is None else iso(at)


def _poll_view(poll: Poll) -> PollView:
    return PollView(
        at=iso(poll.at),
        gate_s=poll.gate_s,
        took_s=poll.took_s,
        outcome=poll.outcome,
        detail=poll.detail,
        next_in_s=poll.again_in_s,
    )


# --- for people ------------------------------------------------------------------------------------------------------


def task_text(task: TaskDetails, account: AccountState, now: float, timing: str | None = None) -> str:
    """Return one task as lines for people; `timing` is what the account's polls follow from."""
    lines = [
        f"{task.task_id}  (account {task.account})",
        _line("fed", f"{_at(task.fed_at)}, {_ago(now - task.fed_at)}"),
    ]
    if task.ref is not None:
        lines.append(INDENT + printable(task.ref.decode("utf-8", "replace")))
    if task.requested_at is not None:
        lines.append(_line("requested", f"{_at(task.requested_at)}, by HubSpot's clock"))
    end = _waiting(task, account, now, timing) if task.kind is None else _finished(task, kind_label(task.kind))
    return "\n".join([*lines, *_polls(task), *end, *_sinks(task)])


def _line(name: str, text: str) -> str:
    return f"{name:<13}{text}"


def _at(at: float) -> str:
    return iso(at).replace("T", " ").replace("Z", " UTC")


def _ago(seconds: float) -> str:
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def _polls(task: TaskDetails) -> list[str]:
    if not task.polls:
        return [_line("polls", "none yet")]
    lines = [_line("polls", f"{task.polls:,}{f', the last {task.errors} failed' if task.errors else ''}")]
    dropped = task.polls - len(task.poll_log)
    if dropped > 0:
        lines.append(f"{INDENT}the first {f'{dropped:,} are' if dropped > 1 else 'is'} no longer in the log")
    return lines + [INDENT + _poll_text(number, poll) for number, poll in enumerate(task.poll_log, max(0, dropped) + 1)]


def _poll_text(number: int, poll: Poll) -> str:
    detail = "" if poll.detail is None else f" {printable(str(poll.detail))}"
    then = "the last one" if poll.again_in_s is None else f"next {duration(poll.again_in_s)} later"
    return (
        f"{number:>3}  {_at(poll.at)}  waited {duration(poll.gate_s)} at the gate, took {duration(poll.took_s)}: "
        f"{poll.outcome}{detail}; {then}"
    )


def _waiting(task: TaskDetails, account: AccountState, now: float, timing: str | None) -> list[str]:
    due = f"next poll due {_at(task.due_at)}, {_ago(now - task.due_at)}"
    lines = [_line("waiting", f"last status {printable(task.status)}; {due}" if task.status else due)]
    if account.pause:
        detail = f" ({printable(account.pause_detail)})" if account.pause_detail else ""
        until = f", until about {_at(account.resume_at)}" if account.resume_at is not None else ""
        lines.append(f"{INDENT}the account is paused: {account.pause}{detail}{until}")
    if timing is not None:
        lines.append(f"{INDENT}{timing}")
    return lines


def _finished(task: TaskDetails, kind: str) -> list[str]:
    record = task.record
    if record is None:
        return [_line("finished", kind)]
    after = duration(record.seen_at - task.fed_at)
    lines = [_line("finished", f"{kind}, {_at(record.seen_at)}, {after} after it was fed")]
    lines.append(_line("landed", "yes, a file is there" if record.landed else "no, HubSpot named no file"))
    if record.reason:
        lines.append(INDENT + printable(record.reason))
    if (words := _own_words(record)) is not None and words not in (record.reason or ""):
        lines.append(f"{INDENT}HubSpot's words: {printable(words)}")
    correlation = record.correlation_id
    return [*lines, f"{INDENT}correlation id {correlation}, for HubSpot's support"] if correlation else lines


def _own_words(record: Record) -> str | None:
    """Return what HubSpot wrote of this task, which the reason has without ids and names."""
    fields = decode(record.body)
    return fields.message or message_in(msgspec.json.decode(fields.errors))


def _sinks(task: TaskDetails) -> list[str]:
    if task.kind is None:
        return []
    texts = [f"{printable(sink)}: {printable(state)}" for sink, state in task.deliveries.items()]
    return [_line("" if number else "sink", text) for number, text in enumerate(texts)]
