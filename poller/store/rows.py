"""Rows to model and model to rows, for every kind of store. Each driver uses these columns in this order."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace as replaced

from poller.core.accounts import AccountState
from poller.core.deliveries import LARGEST_PAGE, DeadLetter, Delivery
from poller.core.details import TaskDetails
from poller.core.errors import ConfigError
from poller.core.model import Added, Chunk, Kind, Position, Rejection, Settled, Task
from poller.core.poll_log import polls as polls_of
from poller.core.record import restore
from poller.core.starts import NO_TASK, StartFacts
from poller.core.starts import Row as ImportRow
from poller.core.sums import ReasonSum, SinkSums, SourceSums, StartSums, Sums

Row = Sequence[Any]

TIES = 7919  # the later digits of a share order tasks that are due at one instant
LONGEST_TEXT = 300  # characters of a reason or a status word: they are for people, and reasons are indexed
TOP_REASONS = 10

TASK = (
    "key, task_id, ref, fed_at, due_at, polls, errors, missing_at, status, paused_base_s,"
    " requested_at, seen_at, started_at, start"
)
POLLS = 5  # of them
IMPORT_ROW = "key, row, body, ref, fed_at, due_at, starts, lost, refusals, first_sent_at, may_have_landed, earlier"
IMPORT_ROW_OF_I = ", ".join(f"i.{name.strip()}" for name in IMPORT_ROW.split(","))
MAY_HAVE_LANDED = (Kind.NOT_FOUND, Kind.COMPLETE_WITHOUT_RESULT, Kind.TIMED_OUT, Kind.START_UNKNOWN)
IS_OVER, IS_OVER_FOR_ROW = "t.kind IS NOT NULL", f"t.kind = '{Kind.COMPLETE}' OR t.landed"  # of the task `t`
_TASK_DETAILS = ("account", "task_id", "ref", "fed_at", "requested_at", "due_at", "polls", "errors", "status")
_ACCOUNT = ("paused_s", "day", "pause", "pause_detail", "resume_at")
_SOURCE_SUMS = ("name", "lines", "tasks", "duplicates", "rejected", "blank", "failed")


def _named(names: Sequence[str], row: Row) -> dict[str, Any]:
    return dict(zip(names, row, strict=True))


def storable(text: str) -> str:
    """Return `text` bounded, without what JSON can carry and databases cannot: lone surrogates and NUL."""
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode().replace("\0", "?")


_storable_status = lru_cache(maxsize=64)(storable)  # HubSpot has few


def storable_name(name: str) -> str:
    """Return `name` as every database can hold it, a different one for each: paths need not be UTF-8, and a query over
    HTTP may hold a NUL."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def refuse_unknown_sink(sink: str, known: Collection[str]) -> None:
    """Raise `ConfigError` where `sink` is not one of those that the state knows."""
    if sink not in known:
        raise ConfigError(
            f"the state knows no sink {sink!r} (known: {', '.join(known) or 'none yet'}). Name one of these, or start "
            f"a run with --sink {sink}."
        )


def first_polls(due: Iterable[Row]) -> int:
    """Return how many of these rows, in the columns of `TASK`, were never polled."""
    return sum(not row[POLLS] for row in due)


# --- rows to model ---------------------------------------------------------------------------------------------------


def source_of(row: Row) -> tuple[int, Position]:
    """From: id, offset, line, fingerprint, ended, digest."""
    number, offset, line, fingerprint, ended, digest = row
    return number, Position(offset=offset, line=line, fingerprint=fingerprint, ended=bool(ended), digest=digest)


def task_of(account: str, row: Row, lease: int) -> Task:
    """From: the columns of `TASK`."""
    key, task_id, ref, fed_at, due_at, polls, errors, missing_at, status, paused_base_s, *others = row
    requested_at, seen_at, started_at, start = others
    return Task(  # spelled out, once a poll, and in the fields' order: by name, sixteen cost three times as much
        key,
        account,
        task_id,
        ref,
        fed_at,
        due_at,
        polls,
        errors,
        missing_at,
        status,
        paused_base_s,
        requested_at,
        seen_at,
        started_at,
        lease,
        start,
    )


def account_of(row: Row | None) -> AccountState:
    """From: active_at, clean, the columns of `_ACCOUNT`; None for an unknown account."""
    if row is None:
        return AccountState()
    active_at, clean, *columns = row
    return AccountState(active_at=active_at, clean=bool(clean), **_named(_ACCOUNT, columns))


def with_requests(state: AccountState, row: Row | None) -> AccountState:
    """From: requests, of the state's day; None where none are stored."""
    return state if row is None else replace(state, day_requests=max(state.day_requests, row[0]))


def task_details_of(row: Row, deliveries: Mapping[str, str]) -> TaskDetails:
    """From: the columns of `_TASK_DETAILS`, poll_log, kind; of its record: number, reason, seen_at, body.
    `deliveries` is by sink."""
    *columns, poll_log, word, _number, reason, seen_at, body = row
    kind = None if word is None else Kind(word)
    return TaskDetails(
        **_named(_TASK_DETAILS, columns),
        poll_log=polls_of(poll_log),
        kind=kind,
        record=None if kind is None else restore(body, kind=kind, reason=reason, seen_at=seen_at),
        deliveries=deliveries,
    )


def rejection_of(row: Row) -> tuple[str, Rejection]:
    """From: source's name, line, reason, excerpt."""
    name, line, reason, excerpt = row
    return name, Rejection(line=line, reason=reason, excerpt=excerpt)


def delivery_of(row: Row) -> Delivery:
    """From: number, account, task_id, body."""
    number, account, task_id, body = row
    return Delivery(number=number, account=account, task_id=task_id, body=body)


def deliveries_of(found: Iterable[Row]) -> list[Delivery]:
    """Return the deliveries of rows, up to the one with which they have `LARGEST_PAGE` bytes. Reads no further."""
    page, size = list[Delivery](), 0
    for row in found:
        page.append(delivery_of(row))
        size += len(page[-1].body)
        if size >= LARGEST_PAGE:
            break
    return page


def dead_letter_of(row: Row) -> DeadLetter:
    """From: sink, reason, at, and the columns of a delivery."""
    sink, reason, at, *delivery = row
    return DeadLetter(sink=sink, reason=reason, refused_at=at, delivery=delivery_of(delivery))


def source_sums_of(row: Row) -> SourceSums:
    """From: the columns of `_SOURCE_SUMS`, ended."""
    *columns, ended = row
    return SourceSums(ended=bool(ended), **_named(_SOURCE_SUMS, columns))


def sink_sums_of(row: Row) -> SinkSums:
    """From: name, delivered, missed, attached, undelivered, dead."""
    name, delivered, missed, attached, undelivered, dead = row
    return SinkSums(
        name=name, delivered=delivered, undelivered=undelivered, dead=dead, attached=bool(attached), missed=missed
    )


def blocked_of(accounts: Mapping[str, AccountState]) -> list[str]:
    """Return which accounts are paused until a person or HubSpot acts."""
    return [name for name, state in accounts.items() if state.is_blocked]


def sums_of(
    *,
    sources: Sequence[SourceSums],
    sinks: Sequence[SinkSums],
    accounts: Mapping[str, AccountState],
    waiting: int,
    finished: int,
    polls: int,
    kinds: Mapping[str, int],
    landed: Mapping[str, int],
    reasons: Sequence[Row],
    pruned: Sequence[Row],
    blocked: tuple[int, int] = (0, 0),
    starts: StartSums | None = None,
) -> Sums:
    """Add what was pruned (kind, tasks, polls, landed) to what is kept, and rows without a task to what waits.
    `finished` counts records, `kinds` tasks; `blocked` are tasks, and rows without one."""
    gone = sum(tasks for _, tasks, _, _ in pruned)
    return Sums(
        sources=tuple(sources),
        sinks=tuple(sinks),
        accounts=accounts,
        waiting=waiting + (starts.unstarted + starts.unsure if starts else 0),
        finished=finished + gone,
        polls=polls + sum(polls for _, _, polls, _ in pruned),
        kinds=Counter(kinds) + Counter({kind: tasks for kind, tasks, _, _ in pruned}),
        landed=Counter(landed) + Counter({kind: landed for kind, _, _, landed in pruned}),
        reasons=tuple(ReasonSum(*row) for row in reasons),
        pruned=gone,
        blocked=sum(blocked),
        blocked_rows=blocked[1],
        starts=starts,
    )


# --- rows to import --------------------------------------------------------------------------------------------------


def import_row_of(account: str, row: Row) -> ImportRow:
    """From: the columns of `IMPORT_ROW`."""
    columns = _named([name.strip() for name in IMPORT_ROW.split(",")], row)
    columns["may_have_landed"] = bool(columns["may_have_landed"])
    columns["earlier"] = tuple(columns["earlier"].split())
    return ImportRow(account=account, **columns)


def intended(row: ImportRow, *, sent_at: float, due_at: float) -> ImportRow:
    """Return the row as it is stored once a start of it is about to leave."""
    first_sent_at = sent_at if row.first_sent_at is None else row.first_sent_at
    return replaced(row, starts=row.starts + 1, lost=row.lost + 1, first_sent_at=first_sent_at, due_at=due_at)


def start_facts(row: ImportRow, now: float) -> bytes:
    """Return what the task of a row keeps of its starts."""
    first_sent_at = row.first_sent_at or now
    facts = StartFacts(
        row=row.row, starts=row.starts, first_sent_at=first_sent_at, accepted_at=now, earlier=row.earlier
    )
    return msgspec.json.encode(facts)


def ids_of_attempts(earlier: str, task_id: str) -> str:
    """Return the column `earlier` of the attempt after the one with this task id."""
    return earlier if task_id.startswith(NO_TASK) else f"{earlier} {task_id}".strip()


# --- model to rows ---------------------------------------------------------------------------------------------------


def source_row(chunk: Chunk, added: Added) -> Row:
    """To: lines, tasks, duplicates, rejected, blank, failed, each to be added; offset, line, fingerprint, ended,
    digest."""
    return (
        chunk.lines,
        added.tasks,
        added.duplicates,
        len(chunk.rejected),
        chunk.blank,
        added.failed,
        chunk.position.offset,
        chunk.position.line,
        chunk.position.fingerprint,
        chunk.position.ended,
        chunk.position.digest,
    )


def rejection_rows(chunk: Chunk) -> list[Row]:
    """To: line, reason, excerpt."""
    return [(each.line, storable(each.reason), storable(each.excerpt)) for each in chunk.rejected]


def polled_rows(settled: Sequence[Settled]) -> list[Row]:
    """To: key, poll_log, due_at, errors, missing_at, status, requested_at, seen_at, started_at of the tasks that
    are polled again."""
    return [
        (
            each.task.key,
            each.poll_line,
            again.at,
            again.errors,
            again.missing_at,
            again.status and _storable_status(again.status),
            again.requested_at,
            again.seen_at,
            again.started_at,
        )
        for each in settled
        if (again := each.again) is not None
    ]


def finished_rows(settled: Sequence[Settled]) -> list[Row]:
    """To: key, poll_log, kind, landed; of the record: reason, seen_at, body."""
    return [
        (
            each.task.key,
            each.poll_line,
            str(record.kind),
            record.landed,
            record.reason and storable(record.reason),
            record.seen_at,
            record.body,
        )
        for each in settled
        if (record := each.record) is not None
    ]


def account_row(state: AccountState) -> Row:
    """To: active_at, clean, and the columns of `_ACCOUNT`."""
    detail = state.pause_detail and storable(state.pause_detail)
    return state.active_at, state.clean, state.paused_s, state.day, state.pause, detail, state.resume_at
