"""Finds rows to import that have no task yet, for every kind of store; `find` puts them behind the tasks.

The text of such rows is not indexed, for most of them get a task soon: a search reads all of them.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from poller.core.search import FoundTask, RowMatcher, TaskFilter, TaskPage
from poller.core.starts import NO_TASK
from poller.store.row_text import SQLITE, RowText, may_match

Row = Sequence[Any]
Query = tuple[str, Sequence[Any]]  # with `?` for each value
T = TypeVar("T")
Steps = Generator[Query, Sequence[Row], T]

ROWS_FROM = 10**17  # the key of a row as `FoundTask` has it is its own plus this: keys of tasks are smaller
STRETCH = 10_000  # rows that are read before the time is checked
AT_ONCE = 2000  # rows that match


def find_rows(
    wanted: TaskFilter, *, after: int, limit: int, is_late: Callable[[], bool], text: RowText
) -> Steps[TaskPage]:
    """Find up to `limit` rows with keys beyond `after`, which counts from `ROWS_FROM`. Stops early once `is_late`."""
    matcher = RowMatcher(wanted) if wanted.is_of_row else None
    by_index = "INDEXED BY import_row_without_task" if text is SQLITE else ""
    condition, values = _conditions(wanted, matcher, text)
    found: list[FoundTask] = []
    after -= ROWS_FROM
    while (upto := (yield from _end_of_stretch(after, by_index))) is not None:
        at_once = AT_ONCE if matcher is not None else limit - len(found)
        while after < upto:
            # No value is in the text of the query.
            rows = yield (
                f"SELECT i.key, a.name, i.row, i.ref, i.fed_at, i.due_at, i.lost FROM import_row i {by_index}"  # noqa: S608
                f" JOIN account a ON a.id = i.account WHERE i.task IS NULL AND i.key > ? AND i.key <= ?{condition}"
                " ORDER BY i.key LIMIT ?",
                (after, upto, *values, at_once),
            )
            for row in rows:
                task = _found(row)
                if matcher is None or matcher.matches(task.task_id, task.ref):
                    found.append(task)
                    if len(found) == limit:
                        return TaskPage(tasks=found, after=task.key)
            after = rows[-1][0] if len(rows) == at_once else upto
            if is_late():
                return TaskPage(tasks=found, after=after + ROWS_FROM)
    return TaskPage(tasks=found)


def _end_of_stretch(after: int, by_index: str) -> Steps[int | None]:
    """Return the last key of the next rows; None where there are none."""
    ((upto,),) = yield (
        f"SELECT max(key) FROM (SELECT key FROM import_row {by_index} WHERE task IS NULL AND key > ?"  # noqa: S608 - a constant
        " ORDER BY key LIMIT ?) part",
        (after, STRETCH),
    )
    return upto  # type: ignore[no-any-return]  # of a database


def _found(row: Row) -> FoundTask:
    key, account, name, ref, fed_at, due_at, lost = row
    return FoundTask(
        key=key + ROWS_FROM,
        account=account,
        task_id=NO_TASK + name,
        ref=ref,
        fed_at=fed_at,
        due_at=due_at,
        polls=0,
        status=None,
        start="unsure" if lost else "unstarted",
    )


def _conditions(wanted: TaskFilter, matcher: RowMatcher | None, text: RowText) -> tuple[str, list[Any]]:
    """Return what a row must meet, and what one that matches may have."""
    parts: list[tuple[str, Sequence[Any]]] = []
    if wanted.state in ("unstarted", "unsure"):
        parts.append((f"i.lost {'>' if wanted.state == 'unsure' else '='} 0", ()))
    if wanted.account is not None:
        parts.append(("a.name = ?", (wanted.account,)))
    if matcher is not None:
        sql, texts = may_match(matcher.needed, text, ref="i.ref", row_id=f"'{NO_TASK}' || i.row")
    else:
        sql, texts = "", []
    conditions = "".join(f" AND {part}" for part, _ in parts)
    return conditions + sql, [*(value for _, values in parts for value in values), *texts]
